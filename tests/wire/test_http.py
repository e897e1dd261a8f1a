# SPDX-License-Identifier: MIT
"""HTTP and HTTPS on the one port: files with their types, and an answer to everything that isn't right."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import broken
import pytest
from support import *

BIG = os.urandom(1024) * 5 * 1024  # 5 MiB


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to serve, and a secret beside it."""
    folder = broken.folder_with_traps(tmp_path_factory.mktemp("outside"))
    (folder / "empty").mkdir()
    for name in ("style.css", "index.js", "a.png", "b.svg", "data.json", "no_type", "ä ö.txt", "100%.txt"):
        (folder / name).write_bytes(name.encode())
    (folder / "big.bin").write_bytes(BIG)
    (folder / "nothing.txt").touch()
    with contextlib.suppress(OSError):  # Windows wants a privilege for links
        (folder / "inside.css").symlink_to("style.css")
    return folder


@pytest.fixture(scope="module")
def server(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server of that folder."""
    with running(tmp_path_factory.mktemp("log"), "--static", str(files), "--app", "echo") as program:
        yield program


plain_and_tls = pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])


# ---- files


@plain_and_tls
def test_index_is_at_the_root(server: Program, tls: bool) -> None:
    """http and https on one port give the same page."""
    status, headers, body = get(server.address, "/", tls=tls)
    assert (status, body) == (200, b"<!doctype html><p>the index</p>")
    assert headers["content-type"] == "text/html; charset=utf-8"


def test_default_page_is_beside_the_module(tmp_path: Path) -> None:
    """Without --static the demo's own page is served."""
    with running(tmp_path) as program:
        assert get(program.address)[2] == (REPO / "static" / "index.html").read_bytes()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("index.js", "text/javascript; charset=utf-8"),
        ("a.png", "image/png"),
        ("b.svg", "image/svg+xml"),
        ("data.json", "application/json"),
        ("no_type", "application/octet-stream"),
    ],
)
def test_each_file_has_its_type(server: Program, files: Path, name: str, kind: str) -> None:
    """Whatever the system's own table says: a script of type text/plain would not run."""
    status, headers, body = get(server.address, "/" + name)
    same = "application/javascript; charset=utf-8"  # what Python called it before 3.12
    assert status == 200 and body == (files / name).read_bytes()
    assert headers["content-type"] == kind or (name, headers["content-type"]) == ("index.js", same)


@pytest.mark.parametrize("path", ["/%C3%A4%20%C3%B6.txt", "/100%25.txt", "/nothing.txt", "/sub/index.html"])
def test_names_are_decoded_and_empty_files_are_files(server: Program, files: Path, path: str) -> None:
    """Percent-encoding stands for bytes of UTF-8, decoded once."""
    status, headers, body = get(server.address, path)
    assert status == 200 and int(headers["content-length"]) == len(body)


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need a privilege here")
def test_link_within_the_folder_is_followed(server: Program) -> None:
    """Only those that lead out of it are not."""
    assert get(server.address, "/inside.css")[2] == b"style.css"


@plain_and_tls
@pytest.mark.parametrize("path", ["/index.html", "/missing"])
def test_head_is_get_without_the_body(server: Program, path: str, tls: bool) -> None:
    """Status and headers are the same, Content-Length included (RFC 9110 section 9.3.2)."""
    got, head = (get(server.address, path, method, tls=tls) for method in ("GET", "HEAD"))
    for _, headers, _ in (got, head):
        del headers["date"]
    assert (head[:2], head[2]) == (got[:2], b"") and got[2]


@plain_and_tls
def test_query_is_ignored(server: Program, tls: bool) -> None:
    """Files have no use for it, not even for a path within it."""
    for path in ("/?x=1", "/index.html?../../secret.txt", "/?"):
        assert get(server.address, path, tls=tls)[0] == 200


def test_http_1_0_gets_its_answer(server: Program) -> None:
    """A client so old need not send a Host."""
    status, _, body = http(server.address, "GET /style.css HTTP/1.0\r\n\r\n")
    assert (status, body) == (200, b"style.css")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_absolute_target_is_taken(server: Program, scheme: str) -> None:
    """What a client sends to a proxy, a server must take too (RFC 9112 section 3.2.2)."""
    place = f"localhost:{server.port}"
    for path, body in (("/style.css?x", b"style.css"), ("", b"<!doctype html><p>the index</p>")):
        request = f"GET {scheme}://{place}{path} HTTP/1.1\r\nHost: {place}\r\n\r\n"
        assert http(server.address, request)[::2] == (200, body)


@plain_and_tls
def test_big_file_arrives_whole(server: Program, tls: bool) -> None:
    """5 MiB are many times what the kernel takes at once."""
    status, headers, body = get(server.address, "/big.bin", tls=tls)
    assert status == 200 and int(headers["content-length"]) == len(BIG) and body == BIG


@plain_and_tls
def test_slow_reader_gets_the_whole_file_and_holds_nobody_up(server: Program, tls: bool) -> None:
    """It has begun to read, and stops; another one is served meanwhile; then it reads on in small bites."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(PATIENCE)
        sock.connect(server.address)
        with any_tls().wrap_socket(sock) if tls else sock as client:
            client.sendall(b"GET /big.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
            data = client.recv(100)
            assert get(server.address, "/big.bin", tls=tls)[2] == BIG
            pieces = [data]
            while piece := client.recv(3000):
                pieces.append(piece)
            assert parse_response(b"".join(pieces))[::2] == (200, BIG)


def test_reader_that_leaves_in_the_middle_harms_nobody(server: Program) -> None:
    """Its connection ends, and the monitor tells."""
    with Watcher(server.address) as watcher:
        with connect(server.address) as sock:
            mine = "{}:{}".format(*sock.getsockname())
            sock.sendall(b"GET /big.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
            sock.recv(100)
        number = watcher.wait_for("accepted", address=mine)["id"]
        watcher.wait_for("closed", id=number)
    assert get(server.address)[0] == 200


@plain_and_tls
@pytest.mark.parametrize("path", ["/", "/missing"])
def test_answer_carries_what_protects_the_page(server: Program, path: str, tls: bool) -> None:
    """No guessing of types, nothing loaded from elsewhere, no framing; one request a connection."""
    _, headers, _ = get(server.address, path, tls=tls)
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["connection"] == "close" and "date" in headers


# ---- what isn't there, and must not be reached


@plain_and_tls
@pytest.mark.parametrize("path", ["/missing", "/empty", "/empty/", "/loop", "/" + "x" * 5000, "/no_type/x"])
def test_what_is_not_there_is_404_with_a_short_body(server: Program, path: str, tls: bool) -> None:
    """A folder without an index is not listed either."""
    status, headers, body = get(server.address, path, tls=tls)
    assert status == 404 and body.startswith(b"404 ") and len(body) < 200
    assert headers["content-type"] == "text/plain; charset=utf-8"


# ---- requests that aren't right


@plain_and_tls
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_405_and_told_what_is_allowed(server: Program, method: str, tls: bool) -> None:
    """Allow names the two that there are (RFC 9110 section 15.5.6)."""
    status, headers, _ = get(server.address, "/index.html", method, tls=tls)
    assert status == 405
    assert {word.strip() for word in headers["allow"].split(",")} == {"GET", "HEAD"}


def test_body_of_a_refused_request_does_not_cost_the_answer(server: Program) -> None:
    """A client that sends 200 KB with its POST reads its 405: no reset destroys it."""
    request = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n{'x' * 200000}"
    assert http(server.address, request)[0] == 405


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "[::1]:80", "127.0.0.1"])
def test_a_host_of_this_machine_gets_the_page(server: Program, host: str) -> None:
    """In any case, with any port."""
    assert http(server.address, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")[0] == 200


@plain_and_tls
def test_head_that_never_ends_is_refused(server: Program, tls: bool) -> None:
    """It isn't collected until memory or time runs out."""
    request = f"GET / HTTP/1.1\r\nHost: localhost\r\nX: {'x' * 100_000}"
    assert http(server.address, request, tls=tls)[0] == 431


# ---- upgrades


def test_upgrade_to_an_unknown_path_is_404(server: Program) -> None:
    """So is one to a file's path."""
    for path in ("/missing", "/index.html", "/echo/", "/ECHO", "//echo"):
        with connect(server.address) as sock:
            sock.sendall(upgrade_request(server.address, path))
            status, _, body = parse_response(read_to_end(sock))
            assert status == 404 and body.startswith(b"404 ")


@pytest.mark.parametrize("path", ["/echo?room=5", "/?/missing", "/echo?", "/%65cho"])
def test_query_does_not_count_for_an_application(server: Program, path: str) -> None:
    """A WebSocket's path is compared as a file's is: decoded, and without its query."""
    with WebSocket(server.address, path) as client:
        assert client.ask("hi") == "hi"


def test_get_without_upgrade_at_an_application_is_404(server: Program) -> None:
    """/echo is no file."""
    assert get(server.address, "/echo")[0] == 404


# ---- clients that people have


def test_urllib_reads_http_and_https(server: Program) -> None:
    """The standard library's own client."""
    for scheme, context in (("http", None), ("https", any_tls())):
        with urllib.request.urlopen(f"{scheme}://127.0.0.1:{server.port}/big.bin", context=context) as answer:
            assert answer.read() == BIG


@pytest.fixture
def curl() -> str:
    """The path of curl."""
    path = shutil.which("curl")
    if not path:
        pytest.skip("curl isn't installed")
    return path


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_curl_reads_http_and_https(server: Program, curl: str, scheme: str) -> None:
    """Small and large, with HTTP/2 offered in the handshake as curl does."""
    for name, content in (("style.css", b"style.css"), ("big.bin", BIG)):
        command = [curl, "-sSfk", "--max-time", "20", f"{scheme}://127.0.0.1:{server.port}/{name}"]
        assert subprocess.run(command, capture_output=True, check=True).stdout == content


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_curl_upgrades(server: Program, curl: str, scheme: str) -> None:
    """The upgrade by hand that tutorials show: 101, with the accept token of RFC 6455's own example."""
    headers = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]  # fmt: skip
    command = [curl, "-svkN", "--http1.1", "--max-time", "20", f"{scheme}://127.0.0.1:{server.port}/echo"]
    for header in headers:
        command += ["-H", header]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        told = b"".join(iter(process.stderr.readline, b"< \r\n"))  # a blank line ends the answer
        process.terminate()
    assert b"< HTTP/1.1 101" in told and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in told


def test_files_come_over_tls_1_2_as_well(server: Program) -> None:
    """A client of 2010 has no TLS 1.3."""
    context = any_tls()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert get(server.address, "/big.bin", tls=context)[2] == BIG
