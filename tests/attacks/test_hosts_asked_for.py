# SPDX-License-Identifier: MIT
"""Which Host may be asked for: on this machine its loopback names, elsewhere those that --origin names."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from support import Program, connect, parse_response, read_to_end, running, unharmed, upgrade_request


def status_of_file(
    program: Program, host: str | None, path: str = "/", *, method: str = "GET", version: str = "1.1",
    tls: bool = False, source: str | None = None,
) -> int:  # fmt: skip
    """The status that a request for a file gets; host None: no such field."""
    field = "" if host is None else f"Host: {host}\r\n"
    with connect(program.address, tls=tls, source=source) as sock:
        sock.sendall(f"{method} {path} HTTP/{version}\r\n{field}\r\n".encode("latin-1"))
        return parse_response(read_to_end(sock))[0]


def status_of_upgrade(
    program: Program, host: str, path: str = "/echo", *, tls: bool = False, source: str | None = None,
    origin: str | None = None,
) -> int:  # fmt: skip
    """The status that an upgrade gets; 101 where it succeeds."""
    with connect(program.address, tls=tls, source=source) as sock:
        sock.sendall(upgrade_request(program.address, path, Host=host, Origin=origin))
        head = b""
        while b"\r\n\r\n" not in head:
            assert (more := sock.recv(65536)), head
            head += more
        return parse_response(head)[0]


def another_address() -> str:
    """An address of this machine's that isn't loopback; skips where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect(("192.0.2.1", 9))  # sends nothing: it asks which address would be used
        address = str(sock.getsockname()[0])
        if not address.startswith("127."):
            return address
    pytest.skip("this machine has no address but loopback")


plain_and_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
LOOPBACK = ["localhost", "LOCALHOST:80", "127.0.0.1", "127.9.9.9:1", "127.255.255.254", "[::1]",
            "[::1]:65535", "[0:0:0:0:0:0:0:1]"]  # fmt: skip
FOREIGN = ["evil.example", "EVIL.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "127.1",
           "2130706433", "0x7f.1", "0.0.0.0", "[::]", "192.0.2.7", "localhost."]  # fmt: skip
PATHS = ["/", "/index.html", "/index.js", "/style.css?x=1", "/missing", "/echo", "/chat", "/monitor"]


# ---- from this machine


@plain_and_tls
def test_from_loopback_no_foreign_host_gets_anything(server: Program, tls: bool) -> None:
    """A page whose name was pointed to this machine (DNS rebinding) can't read the files either: 403 for
    every path, whether there is such a file or not, over http and https."""
    with unharmed(server):
        for path in PATHS:
            assert status_of_file(server, f"evil.example:{server.port}", path, tls=tls) == 403, path
        for host in FOREIGN:
            assert status_of_file(server, host, tls=tls) == 403, host
            assert status_of_file(server, host, method="HEAD", tls=tls) == 403, host
            assert status_of_upgrade(server, host, tls=tls) == 403, host


@plain_and_tls
def test_from_loopback_every_loopback_name_gets_everything(server: Program, tls: bool) -> None:
    """localhost, 127.0.0.0/8 and [::1], with any port and none, in any case."""
    for host in [*LOOPBACK, f"localhost:{server.port}"]:
        assert status_of_file(server, host, tls=tls) == 200, host
        assert status_of_file(server, host, "/missing", tls=tls) == 404, host
        assert status_of_upgrade(server, host, tls=tls) == 101, host


def test_every_machine_of_loopback_is_this_one(server: Program) -> None:
    """127.0.0.2 is no other machine."""
    assert status_of_file(server, "evil.example", source="127.0.0.2") == 403
    assert status_of_file(server, "localhost", source="127.0.0.2") == 200


@plain_and_tls
def test_an_old_client_need_not_say_a_host(server: Program, tls: bool) -> None:
    """HTTP/1.0 without a Host gets the files; no browser of today asks like this. With one, it counts."""
    assert status_of_file(server, None, version="1.0", tls=tls) == 200
    assert status_of_file(server, None, "/missing", version="1.0", tls=tls) == 404
    assert status_of_file(server, "localhost", version="1.0", tls=tls) == 200
    assert status_of_file(server, "evil.example", version="1.0", tls=tls) == 403


NAMED = ["good.example", "GOOD.example", "good.example:4530", "good.example:80", "two.example",
         "two.example:1", "two.example:8080"]  # fmt: skip
NOT_NAMED = ["evil.example", "a.good.example", "good.example.evil.example", "good.example.", "xgood.example",
             "example", "one.example:8080"]  # fmt: skip


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server that was started with --origin, twice."""
    flags = ["--origin", "https://Good.example", "--origin", "http://two.example:8080/"]
    with running(tmp_path_factory.mktemp("named"), *flags) as program:
        yield program


@plain_and_tls
def test_from_loopback_the_hosts_of_the_origins_are_fine_whatever_the_port(named: Program, tls: bool) -> None:
    """--origin https://good.example: who asks for that name, at any port, gets files and upgrades; the
    loopback names go on working, others don't."""
    with unharmed(named):
        for host in [*NAMED, *LOOPBACK]:
            assert status_of_file(named, host, tls=tls) == 200, host
            assert status_of_upgrade(named, host, tls=tls) == 101, host
        for host in NOT_NAMED:
            assert status_of_file(named, host, tls=tls) == 403, host
            assert status_of_upgrade(named, host, tls=tls) == 403, host


def test_a_named_host_makes_no_foreign_origin_welcome(named: Program) -> None:
    """The name is compared without its port for the Host; an Origin still has to be one that was named."""
    for origin, status in [("https://good.example", 101), ("http://two.example:8080", 101),
                           ("http://good.example", 403), ("http://two.example", 403)]:  # fmt: skip
        assert status_of_upgrade(named, f"127.0.0.1:{named.port}", origin=origin) == status, origin


# ---- from another machine


@plain_and_tls
def test_from_elsewhere_only_the_hosts_of_the_origins_may_be_asked_for(named: Program, tls: bool) -> None:
    """Where --origin is given, a client of another machine is refused under any other name or address."""
    away = another_address()
    with unharmed(named):
        for host in NAMED:
            assert status_of_file(named, host, tls=tls, source=away) == 200, host
            assert status_of_upgrade(named, host, tls=tls, source=away) == 101, host
        for host in [*NOT_NAMED, away, f"{away}:{named.port}"]:
            assert status_of_file(named, host, tls=tls, source=away) == 403, host
            assert status_of_file(named, host, "/missing", tls=tls, source=away) == 403, host
            assert status_of_upgrade(named, host, tls=tls, source=away) == 403, host


@plain_and_tls
def test_from_elsewhere_any_host_is_fine_where_no_origin_is_given(server: Program, tls: bool) -> None:
    """The server can't know all names by which other machines call this one."""
    away = another_address()
    for host in ["any.example", f"any.example:{server.port}", away, "localhost"]:
        assert status_of_file(server, host, tls=tls, source=away) == 200, host
        assert status_of_upgrade(server, host, tls=tls, source=away) == 101, host
