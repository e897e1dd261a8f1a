# SPDX-License-Identifier: MIT
"""Letting nobody in: foreign pages, rebound names, others at the monitor, files outside the folder."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from pathlib import Path

import broken
import pytest
from support import *


def upgrade_status(program: Program, path: str = "/echo", source: str | None = None, **headers: str) -> int:
    """The status that an upgrade gets; 101 where it succeeds."""
    with connect(program.address, source=source) as sock:
        sock.sendall(upgrade_request(program.address, path, **headers))
        head = b""
        while b"\r\n\r\n" not in head:
            more = sock.recv(65536)
            assert more, head
            head += more
        return parse_response(head)[0]


# ---------------------------------------------------------------- names and origins


def test_pages_of_another_origin_are_refused_and_told_how_to_be_allowed(server: Program) -> None:
    """Same host and port is the same origin, whatever the scheme; every other one is refused with 403."""
    host, port = server.address
    same = [f"http://{host}:{port}", f"https://{host}:{port}", f"HTTP://{host}:{port}", "null", "file://"]
    foreign = [
        "http://evil.example", f"http://evil.example:{port}", f"http://{host}", f"http://{host}:{port + 1}",
        f"http://{host}:{port}.evil.example", f"http://{host}.evil.example:{port}", f"http://localhost:{port}",
        f"https://evil.example/{host}:{port}", f"http://evil.example#{host}:{port}", f"http://evil{host}:{port}",
        f"http://evil.example\\@{host}:{port}", f"http://{host}:{port}@evil.example", f"http://[::1]:{port}",
        f"http://{host}:{port}, http://evil.example", f"http://{host}:0{port}0", f"http://{host}:+{port}",
    ]  # fmt: skip
    with unharmed(server):
        for origin in same:
            assert upgrade_status(server, Origin=origin) == 101, origin
        for origin in foreign:
            assert upgrade_status(server, Origin=origin) in (400, 403), origin
        status, _, body = http(server.address, upgrade_request(server.address, Origin="http://evil.example"))
        assert status == 403 and b"--origin http://evil.example" in body
        two = upgrade_request(server.address, Origin=f"http://{host}:{port}").replace(
            b"\r\n\r\n", b"\r\nOrigin: http://evil.example\r\n\r\n"
        )
        assert http(server.address, two)[0] in (400, 403)


def test_an_allowed_origin_gets_in_and_no_other(start: Callable[..., Program]) -> None:
    """--origin lets just that origin in, in any case, with or without a slash; its name may be the Host."""
    program = start("--origin", "https://Good.example", "--origin", "http://two.example:8080/")
    port = program.port
    with unharmed(program):
        for origin, host in [
            ("https://good.example", f"127.0.0.1:{port}"), ("https://GOOD.example", "good.example"),
            ("http://two.example:8080", f"localhost:{port}"), ("http://two.example:8080", "two.example:8080"),
            ("http://two.example", "two.example"),  # the same origin, under a name that is allowed
        ]:  # fmt: skip
            assert upgrade_status(program, Origin=origin, Host=host) == 101, (origin, host)
        for origin, host in [
            ("http://good.example", f"127.0.0.1:{port}"), ("https://good.example:444", f"127.0.0.1:{port}"),
            ("https://good.example.evil.example", f"127.0.0.1:{port}"),
            ("https://a.good.example", f"127.0.0.1:{port}"), ("http://evil.example", "evil.example"),
            ("http://evil.example", "good.example"),
        ]:  # fmt: skip
            assert upgrade_status(program, Origin=origin, Host=host) == 403, (origin, host)


LOOPBACK_HOSTS = [
    "localhost", "LOCALHOST", "LocalHost:80", "127.0.0.1", "127.9.9.9", "127.255.255.254:1", "[::1]",
    "[::1]:4530", "[0:0:0:0:0:0:0:1]",
]  # fmt: skip
def test_a_rebound_name_is_refused_even_if_the_origin_matches_it(server: Program) -> None:
    """DNS rebinding: a page of evil.example whose name points to this machine sends its own name as Host, and
    an Origin to match. An upgrade from this machine must name it as loopback does."""
    with unharmed(server):
        for host in LOOPBACK_HOSTS:
            assert upgrade_status(server, Host=host) == 101, host
            assert upgrade_status(server, Host=host, Origin=f"http://{host}") == 101, host
        for host in broken.FOREIGN_HOSTS:
            for path in ("/echo", "/chat", "/monitor", "/"):
                headers = {"Host": host, "Origin": f"http://{host}"} if path != "/" else {"Host": host}
                assert upgrade_status(server, path, **headers) in (400, 403), (host, path)
        request = upgrade_request(server.address, "http://evil.example/echo", Host=f"localhost:{server.port}")
        assert http(server.address, request)[0] == 403, "an absolute target's host is the one that counts"


def another_address() -> str:
    """An address of this machine's that isn't loopback; skips where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with contextlib.suppress(OSError):
            sock.connect(("192.0.2.1", 9))  # sends nothing: it asks which address would be used
            address = str(sock.getsockname()[0])
            if not address.startswith("127."):
                return address
    pytest.skip("this machine has no address but loopback")


def test_another_machine_gets_no_monitor_and_no_page_from_a_disk(server: Program) -> None:
    """/monitor is for this machine alone; so are the origins null and file://, which any page can have."""
    away = another_address()
    with unharmed(server):
        assert upgrade_status(server, source=away) == 101
        assert upgrade_status(server, "/monitor") == 101
        for host in ("localhost", f"{away}:{server.port}", "evil.example", "127.0.0.1"):
            assert upgrade_status(server, "/monitor", source=away, Host=host) == 403
        for origin in ("null", "file://"):
            assert upgrade_status(server, source=away, Origin=origin) == 403, origin
        assert upgrade_status(server, source=away, Host="any.example", Origin="http://any.example") == 101
        assert upgrade_status(server, source=away, Host="any.example", Origin="http://evil.example") == 403


def test_the_monitor_refuses_pages_of_other_origins(server: Program) -> None:
    """What users write isn't shown to a page from elsewhere, nor to one that rebinds its name."""
    with unharmed(server):
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"},
                        {"Host": "evil.example", "Origin": "http://evil.example"}):  # fmt: skip
            assert upgrade_status(server, "/monitor", **headers) == 403


# ---------------------------------------------------------------- files

def test_no_spelling_leads_out_of_the_static_folder(start: Callable[..., Program], tmp_path: Path) -> None:
    """Dots, slashes, escapes, links: what isn't a file in the folder is 404 or 400, on http and on https."""
    folder, secret = broken.folder_with_traps(tmp_path), str(tmp_path / "secret.txt")
    (folder / "inner" / "inside.txt").write_text("inside")
    program = start("--static", str(folder))
    with unharmed(program):
        for method, tls in (("GET", False), ("HEAD", False), ("GET", True)):
            for spelling in broken.PATHS:
                path = spelling.format(secret=secret, escaped=secret.replace("/", "%2f"))
                with connect(program.address, tls=tls) as sock:
                    sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1"))
                    answer = read_to_end(sock)
                assert broken.SECRET not in answer and b"root:" not in answer, path
                assert answer[9:12] in (b"400", b"404") and len(answer) < 1000, (method, path, answer[:200])
        inside = "/inner/inside.txt"
        for path in (inside, "/inner/%69nside.txt", f"/.{inside}", f"{inside}?x#y"):
            assert get(program.address, path, tls=True)[::2] == (200, b"inside"), path
        for path in ("/", "/?x=/../"):
            assert b"the index" in get(program.address, path)[2], path


def test_a_client_that_does_not_read_its_file_is_dropped(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """A large file that nobody reads isn't read into memory, and doesn't stay open for ever."""
    (tmp_path / "large.bin").write_bytes(bytes(30 * 2**20))
    program = start("--static", str(tmp_path), "--ping-interval", "0.5")
    others_are_served(program)
    with unharmed(program, peak=16 * 2**20):
        threads = program.threads()
        with narrow(program.address) as plain, narrow(program.address, tls=True) as secure:
            for sock in (plain, secure):
                sock.sendall(b"GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert sock.recv(12) == b"HTTP/1.1 200"
            wait_until(lambda: program.threads() <= threads, "both are dropped")


# ---------------------------------------------------------------- nothing secret is told


def test_nothing_private_is_logged_or_in_the_monitor(start: Callable[..., Program], tmp_path: Path) -> None:
    """The log and the monitor's steps tell what the server does, not what users write: no message, no header,
    no query, no password, no key."""
    env = {"WSDUAL_PASSWORD": "PRIVATE-password"}
    cert = tmp_path / "server.pfx"
    cert.write_bytes(make_identity("localhost").pfx("PRIVATE-password"))
    program = start("-v", "--cert", str(cert), env=env)
    with unharmed(program), Watcher(program.address) as watcher:
        secret = {"Cookie": "PRIVATE-cookie", "Authorization": "Bearer PRIVATE-token"}
        with WebSocket(program.address, "/chat?token=PRIVATE-query", tls=True, **secret) as ann:
            with Native(program.address) as bob:
                bob.send({"type": "login", "name": "bob"})
                bob.receive()
                ann.send({"type": "login", "name": "ann"})
                ann.send({"type": "say", "text": "PRIVATE-text", "to": "bob"})
                ann.send("PRIVATE-nonsense")
                assert json.loads(bob.receive())["type"] == "joined"
                assert "PRIVATE-text" in bob.receive()
        head = "GET /nothing?PRIVATE-query HTTP/1.1\r\nHost: localhost\r\nCookie: PRIVATE-cookie\r\n\r\n"
        assert http(program.address, head)[0] == 404
        watcher.wait_for("closed", why="not found")
        told = json.dumps(watcher.events) + program.log() + "\n".join(program.banner)
        assert "PRIVATE" not in told
        assert b"PRIVATE".hex() not in told
        command = Path(f"/proc/{program.process.pid}/cmdline").read_bytes()
        assert b"PRIVATE" not in command
