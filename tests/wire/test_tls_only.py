# SPDX-License-Identifier: MIT
"""The end of plain: DualServer(tls_only=True), --tls-only."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import *

from wsdual import DualServer, echo, server_context


@pytest.fixture(scope="module")
def only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server of TLS alone."""
    with running(tmp_path_factory.mktemp("only"), "--tls-only", "--app", "echo") as program:
        yield program


def raw(program: Program, target: str, host: str | None, method: str = "GET", version: str = "1.1") -> Any:
    """A plain request, as it is written."""
    lines = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host is not None else []), "", ""]
    return http(program.address, "\r\n".join(lines))


# ---- a plain GET or HEAD is sent on


TARGETS = [
    "/", "/index.html", "/index.js?a=b&c=%20", "/?next=http://evil.example/", "/%C3%A9%2F%00?%ff#x",
    "/missing", "/a+b", "/..//../x", "/?", "//evil.example/x", "/\\evil.example", "/%0d%0aX:%20y",
    "/@evil.example", "/:80/", "/chat", "/monitor", "/'\"<script>", "/" + "x" * 8000,
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=[target[:20] for target in TARGETS])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_get_and_head_are_sent_to_the_same_place_by_https(only: Program, method: str, target: str) -> None:
    """308, to the same host, port, path and query as they were written, never decoded; no HSTS."""
    status, headers, body = raw(only, target, f"127.0.0.1:{only.port}", method)
    assert (status, headers["location"]) == (308, f"https://127.0.0.1:{only.port}{target}")
    assert "strict-transport-security" not in headers and "x" not in headers
    assert bool(body) == (method == "GET") and b"<" not in body


HOSTS: list[tuple[str, int, str]] = [
    ("localhost:{port}", 308, "https://localhost:{port}/x?y"),
    ("LocalHost:{port}", 308, "https://localhost:{port}/x?y"),
    ("127.0.0.7:{port}", 308, "https://127.0.0.7:{port}/x?y"),
    ("[::1]:{port}", 308, "https://[::1]:{port}/x?y"),
    ("localhost", 308, "https://localhost:80/x?y"),
    ("[::1]", 308, "https://[::1]:80/x?y"),
    ("localhost:81", 308, "https://localhost:81/x?y"),
    # malformed
    ("", 400, ""),
    ("localhost:", 400, ""),
    ("localhost:port", 400, ""),
    ("localhost:-1", 400, ""),
    ("localhost:123456", 400, ""),
    ("localhost:99999", 400, ""),
    ("localhost:{port}/evil", 400, ""),
    ("localhost:{port}@evil.example", 400, ""),
    ("evil.example@localhost:{port}", 400, ""),
    ("localhost localhost", 400, ""),
    ("localhost, evil.example", 400, ""),
    ("localhost\\evil.example", 400, ""),
    ("localhost%2fevil", 400, ""),
    ("localhost?x", 400, ""),
    ("localhost#x", 400, ""),
    ("::1", 400, ""),
    ("[::1", 400, ""),
    ("l\xf6calhost", 400, ""),
    ("localhost\r\nHost: localhost", 400, ""),
    # not allowed
    ("evil.example", 403, ""),
    ("evil.example:{port}", 403, ""),
    ("localhost.evil.example", 403, ""),
    ("127.0.0.1.evil.example", 403, ""),
    ("[::2]", 403, ""),
]


@pytest.mark.parametrize(("host", "status", "location"), HOSTS, ids=[row[0] for row in HOSTS])
def test_the_host_is_the_one_that_was_asked_for(
    only: Program, host: str, status: int, location: str
) -> None:
    """Without a port it is port 80; a malformed one is 400, one that isn't allowed 403: no Location then."""
    got, headers, _ = raw(only, "/x?y", host.format(port=only.port))
    assert got == status
    assert headers.get("location", "") == location.format(port=only.port)


@pytest.mark.parametrize(
    ("target", "status"),
    [("http://localhost/x?y", 308), ("http://localhost?y", 308), ("http://evil.example/", 403),
     ("http://evil@localhost/", 400), ("http:///x", 400), ("*", 400), ("x", 400)],
)  # fmt: skip
def test_the_absolute_form_names_the_host_itself(only: Program, target: str, status: int) -> None:
    """RFC 9112 section 3.2.2: whatever the header Host says."""
    got, headers, _ = raw(only, target, f"127.0.0.1:{only.port}")
    assert got == status
    if status == 308:
        path = "/x?y" if "/x" in target else "/?y"
        assert headers["location"] == f"https://localhost:80{path}"


def test_a_request_without_a_host_has_no_place_to_be_sent_to(only: Program) -> None:
    """HTTP/1.0 allows it: it is refused, and told where TLS is."""
    status, headers, body = raw(only, "/", None, version="1.0")
    assert status == 403 and "location" not in headers
    assert f"127.0.0.1:{only.port}".encode() in body


# ---- all else that is plain is refused


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_another_method_is_403_and_names_the_address(only: Program, method: str) -> None:
    """It can't be sent on as it is: a body may have gone out in clear already."""
    status, headers, body = raw(only, "/chat", f"localhost:{only.port}", method)
    assert status == 403 and "location" not in headers
    assert f"wss://localhost:{only.port}/".encode() in body


@pytest.mark.parametrize("path", ["/echo", "/chat?a=b%20c", "/monitor", "/nothing"])
def test_a_plain_upgrade_is_403_and_names_the_address(only: Program, path: str) -> None:
    """wss:// with the same host, port, path and query: what a developer has to change."""
    status, headers, body = http(only.address, upgrade_request(only.address, path))
    assert status == 403 and "location" not in headers
    assert f"wss://127.0.0.1:{only.port}{path}".encode() in body


def test_a_native_client_gets_an_error_line(only: Program) -> None:
    """It names TLS, and the address; then it is closed."""
    with Native(only.address) as client:
        client.send("{}")
        error = client.receive_json()
        assert error["type"] == "error" and "TLS" in error["reason"]
        assert f"127.0.0.1:{only.port}" in error["reason"]
        with pytest.raises(EOFError):
            client.receive()


def test_all_that_comes_by_tls_is_served_as_ever(only: Program) -> None:
    """wss, https and native lines; nothing is redirected there."""
    assert get(only.address, tls=True)[0] == 200
    with WebSocket(only.address, tls=True) as client:
        assert client.ask("hi") == "hi"
    with Native(only.address, tls=True) as native:
        native.send('{"x":1}')
        assert native.receive() == '{"x":1}'
    headers = get(only.address, tls=True)[1]
    assert "strict-transport-security" not in headers, "it would hold for all ports of this host"


def test_what_a_refusal_tells_of_a_long_target_is_short(only: Program) -> None:
    """The log and the monitor aren't there to be filled by a client."""
    with WebSocket(only.address, "/monitor", tls=True) as watcher:
        watcher.receive_json()
        http(only.address, upgrade_request(only.address, "/" + "x" * 10_000))
        while (event := watcher.receive_json()).get("step") != "refused":
            pass
        assert len(event["why"]) < 1000


# ---- other people's clients


def test_curl_follows_to_https(only: Program, tmp_path: Path) -> None:
    """curl -L -k http://… ends with the file, by https, with the query as it was."""
    if not (curl := shutil.which("curl")):
        pytest.skip("curl isn't installed")
    url = f"http://127.0.0.1:{only.port}/index.js?a=b%20c"
    about = "%{http_code} %{num_redirects} %{url_effective}"
    command = [curl, "-sSkL", "--noproxy", "*", "-o", str(tmp_path / "got"), "-w", about, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == f"200 1 {url.replace('http:', 'https:')}"
    assert (tmp_path / "got").read_bytes() == (REPO / "static/index.js").read_bytes()
    posted = subprocess.run([*command, "-d", "secret"], capture_output=True, text=True, timeout=PATIENCE)
    assert posted.stdout.startswith("403 0 ")


def test_the_standard_library_follows_to_https(only: Program) -> None:
    """urllib.request, of Python 3.11 and newer, knows 308."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=any_tls()))  # fmt: skip
    try:
        with opener.open(f"http://127.0.0.1:{only.port}/index.html", timeout=PATIENCE) as answer:
            assert answer.status == 200 and answer.url == f"https://127.0.0.1:{only.port}/index.html"
    except urllib.error.HTTPError as error:
        if error.code == 308:
            pytest.skip("this Python doesn't follow 308")
        raise


def test_websocket_client_hears_where_to_go(only: Program) -> None:
    """It has the status and the text."""
    websocket = pytest.importorskip("websocket", reason="websocket-client isn't installed")
    url = f"ws://127.0.0.1:{only.port}/echo"
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        websocket.create_connection(url, timeout=PATIENCE)
    assert caught.value.status_code == 403
    assert url.replace("ws:", "wss:").encode() in caught.value.resp_body


# ---- at start


def test_without_a_certificate_it_is_an_error() -> None:
    """There would be nothing left to speak."""
    with pytest.raises(ValueError, match="tls"):
        DualServer(("127.0.0.1", 0), {"/": echo}, tls_only=True)


@pytest.fixture
def context(tmp_path: Path) -> Any:
    """A server's TLS settings."""
    identity = make_identity("localhost")
    (tmp_path / "both.pem").write_bytes(identity.key_pem() + identity.pem())
    return server_context(tmp_path / "both.pem")


def test_without_the_flag_plain_is_served(context: Any) -> None:
    """As ever: it is the end of a migration, not its beginning."""
    with serving({"/echo": echo}, tls=context) as server, WebSocket(address_of(server)) as client:
        assert client.ask("hi") == "hi"


def test_a_library_redirects_too_and_may_end_plain_while_it_runs(context: Any) -> None:
    """tls_only is an attribute; those who are connected stay."""
    with serving({"/echo": echo}, tls=context) as server, WebSocket(address_of(server)) as early:
        server.tls_only = True
        assert get(address_of(server), "/x")[0] == 308
        assert early.ask("still here") == "still here"


def test_the_trial_method_ends_plain_as_well(start: Callable[..., Program]) -> None:
    """Plain HTTP, a plain upgrade, a native client; TLS from an address that is remembered is served."""
    program = start("--tls-only", "--detect", "trial", "--app", "echo", "--memory", "600")
    assert raw(program, "/x", f"127.0.0.1:{program.port}")[0] == 308
    assert http(program.address, upgrade_request(program.address))[0] == 403
    with Native(program.address) as native:
        native.send("{}")
        assert "TLS" in native.receive_json()["reason"]
    with connect(program.address, source="127.0.0.2") as sock:
        sock.sendall(b"\x16\x03\x01\x00\x05hello")
        assert closed(sock)
    with WebSocket(program.address, tls=True, source="127.0.0.2") as client:
        assert client.ask("hi") == "hi"


def test_the_banner_offers_nothing_that_is_refused(start: Callable[..., Program]) -> None:
    """It prints the URLs that now work."""
    program = start("--tls-only")
    text = "\n".join(program.banner)
    assert "wss://" in text and "openssl s_client" in text and "https://" in text
    assert "ws://" not in text.replace("wss://", "") and "\nplain lines" not in text


def test_with_client_certificates_a_browser_is_sent_to_https_all_the_same(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """--client-ca and --tls-only: https is where it is asked for its certificate."""
    (tmp_path / "ca.pem").write_bytes(make_identity("class", authority=True).pem())
    program = start("--tls-only", "--client-ca", str(tmp_path / "ca.pem"))
    assert get(program.address)[0] == 308
