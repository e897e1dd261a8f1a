# SPDX-License-Identifier: MIT
"""IPv6: --host ::1 for one family, --host :: for both."""

from __future__ import annotations

import re
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from support import *

from wsdual import echo


def has_ipv6() -> bool:
    """Say whether this machine has IPv6 at all."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server on ::1."""
    with running(tmp_path_factory.mktemp("six"), "--host", "::1", "--app", "echo") as program:
        yield program


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server on ::."""
    with running(tmp_path_factory.mktemp("both"), "--host", "::", "--app", "echo") as program:
        yield program


def all_kinds_work(address: tuple[str, int]) -> None:
    """Talk to a server in all six ways."""
    place = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    for tls in (False, True):
        assert http(address, f"GET / HTTP/1.1\r\nHost: {place}\r\n\r\n", tls=tls)[0] == 200
        with WebSocket(address, tls=tls) as client:
            assert client.ask("hi") == "hi"
        with Native(address, tls=tls) as native:
            native.send("{}")
            assert native.receive() == "{}"


def test_all_six_kinds_over_ipv6(six: Program) -> None:
    """--host ::1 answers as 127.0.0.1 does."""
    assert six.address[0] == "::1"
    all_kinds_work(six.address)


def test_host_of_one_family_is_that_family_alone(six: Program) -> None:
    """On ::1 nobody listens at 127.0.0.1."""
    with pytest.raises(ConnectionRefusedError):
        connect(("127.0.0.1", six.port))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_all_six_kinds_over_both_families(both: Program, host: str) -> None:
    """--host :: takes IPv4 and IPv6 clients on one port."""
    all_kinds_work((host, both.port))


@pytest.mark.parametrize("fixture", ["six", "both"])
def test_printed_urls_have_brackets_and_work(fixture: str, request: pytest.FixtureRequest) -> None:
    """What is printed can be pasted into a browser, for --host :: too."""
    program: Program = request.getfixturevalue(fixture)
    text = "\n".join(program.banner)
    urls = re.findall(r"https?://[^\s]+", text)
    assert urls == [f"{scheme}://[::1]:{program.port}/" for scheme in ("http", "https")]
    for url in urls:
        with urllib.request.urlopen(url, context=any_tls() if url.startswith("https") else None) as answer:
            assert answer.status == 200
    assert f"ws://[::1]:{program.port}/" in text and f"wss://[::1]:{program.port}/" in text
    assert f"nc ::1 {program.port}" in text and f"-connect [::1]:{program.port}" in text


def test_throw_away_certificate_names_the_address(six: Program) -> None:
    """A client that trusts it can check the address that it connected to."""
    with connect(six.address, tls=True) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        trusted = ssl.create_default_context(cadata=sock.getpeercert(True))
    with socket.create_connection(six.address) as raw:
        with trusted.wrap_socket(raw, server_hostname="::1") as sock:
            assert sock.version()


def test_ipv4_client_is_shown_by_its_ipv4_address(both: Program) -> None:
    """Not as ::ffff:127.0.0.1, which nobody would recognise."""
    with WebSocket(("127.0.0.1", both.port)) as four, WebSocket(("::1", both.port)) as six:
        for client in (four, six):
            client.ask("in the application by now")
        with Watcher(("::1", both.port)) as watcher:
            shown = {client["address"] for client in watcher.snapshot["clients"]}
        assert f"127.0.0.1:{four.sock.getsockname()[1]}" in shown
        assert f"[::1]:{six.sock.getsockname()[1]}" in shown


def test_ipv4_client_is_remembered_by_its_ipv4_address(start: Callable[..., Program]) -> None:
    """The trial method on :: remembers 127.0.0.1 itself, tries TLS with it next, and not with ::1."""
    program = start("--host", "::", "--detect", "trial", "--app", "echo")
    four, six = ("127.0.0.1", program.port), ("::1", program.port)
    with Watcher(six) as watcher:
        with connect(four) as sock:
            sock.sendall(b"\x16\x03\x01\x00\x05hello")
            assert closed(sock)
        assert watcher.wait_for("remembered")["ip"] == "127.0.0.1"
        with WebSocket(four, tls=True) as client:
            assert client.ask("hi") == "hi"
        with WebSocket(six) as client:
            assert client.ask("hi") == "hi"
        with Watcher(six) as another:
            assert [entry["ip"] for entry in another.snapshot["memory"]] == ["127.0.0.1"]


def test_ipv6_client_is_remembered_by_its_own_address(start: Callable[..., Program]) -> None:
    """And an IPv4 client isn't touched by it."""
    program = start("--host", "::", "--detect", "trial", "--app", "echo")
    four, six = ("127.0.0.1", program.port), ("::1", program.port)
    with Watcher(four) as watcher:
        with connect(six) as sock:
            sock.sendall(b"\x16\x03\x01\x00\x05hello")
            assert closed(sock)
        assert watcher.wait_for("remembered")["ip"] == "::1"
        with WebSocket(four) as client:
            assert client.ask("hi") == "hi"


def test_library_listens_on_ipv6() -> None:
    """DualServer chooses the family by the address, and closes with its threads."""
    with serving({"/echo": echo}, address=("::1", 0)) as server, WebSocket(address_of(server)) as client:
        assert client.ask("hi") == "hi"
    wait_until(lambda: not server.everyone(), "no connection left")
