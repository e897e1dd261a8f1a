# SPDX-License-Identifier: MIT
"""Operations: a renewed certificate without a restart, and an end within five seconds whatever goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest
from support import *

# ---------------------------------------------------------------- a renewed certificate


def shown(program: Program, context: ssl.SSLContext | None = None) -> bytes:
    """The certificate that a fresh client is shown."""
    with connect(program.address, tls=context or any_tls()) as sock:
        return sock.getpeercert(True)  # type: ignore[attr-defined, no-any-return]


def write(path: Path, data: bytes) -> None:
    """Replace a file as a careful program does: at once."""
    beside = path.with_suffix(".new")
    beside.write_bytes(data)
    beside.replace(path)


class Files:
    """A certificate's files in one of the forms that --cert takes, and how to renew them."""

    def __init__(self, folder: Path, form: str) -> None:
        self.form, self.cert, self.key = form, folder / f"server.{form}", folder / "server.key"
        self.env = {"WSDUAL_PASSWORD": "password"} if form == "pfx" else {}

    def flags(self) -> list[str]:
        """What to start the program with."""
        return ["--cert", str(self.cert), *(["--key", str(self.key)] if self.form == "crt" else [])]

    def renew(self, identity: Identity) -> None:
        """Write new files; where there are two, the certificate first: for a moment they don't fit."""
        if self.form == "pfx":
            write(self.cert, identity.pfx("password"))
        elif self.form == "pem":
            write(self.cert, identity.pem() + identity.key_pem())
        else:
            write(self.cert, identity.pem())
            write(self.key, identity.key_pem())


def test_a_renewed_certificate_is_taken_up_and_sessions_live_on(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """SIGHUP, or within seconds the server's own eye on the file: new connections get the new certificate,
    and those that exist notice nothing."""

    def renew(form: str, signalled: bool) -> None:
        folder = tmp_path / f"{form}{signalled}"
        folder.mkdir()
        first, second = make_identity("localhost"), make_identity("localhost")
        files = Files(folder, form)
        files.renew(first)
        program = start(*files.flags(), env=files.env)
        address = program.address
        assert shown(program) == first.der()
        with unharmed(program), WebSocket(address, tls=True) as wss, Native(address, tls=True) as native:
            with WebSocket(address) as ws, HandTLS(address) as halfway:
                halfway.sock.sendall(halfway.hello())
                files.renew(second)
                if signalled:
                    program.process.send_signal(signal.SIGHUP)
                wait_until(lambda: shown(program) == second.der(), f"the new {form} file is shown", 6)
                assert wss.ask("still here") == ws.ask("still here") == "still here"
                native.send({"type": "who"})
                assert native.receive_json()["type"] == "error"
                halfway.handshake()  # begun with the old one, ended with it
                halfway.sock.sendall(halfway.encrypt(b'{"type":"who"}\n'))
                halfway.receive_until(b"log in first")

    ways = [("pfx", True), ("pem", True), ("crt", False), ("pfx", False)]
    all_at_once(*(partial(renew, *way) for way in ways))


BAD_FILES: dict[str, bytes | None] = {
    "empty": b"",
    "garbage": b"\x30\x82garbage",
    "half a PEM": make_identity("localhost").pem()[:200],
    "no key": make_identity("localhost").pem(),
    "missing": None,
    "a foreign key": make_identity("localhost").pem() + make_identity("localhost").key_pem(),
}


def test_a_bad_new_certificate_is_told_in_one_line_and_the_old_one_stays(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """A file that is empty, cut, or without its key is reported and not used; the next good one is."""

    def spoil(name: str, signalled: bool) -> None:
        folder = tmp_path / f"{name}{signalled}"
        folder.mkdir()
        first, second = make_identity("localhost"), make_identity("localhost")
        files = Files(folder, "pem")
        files.renew(first)
        program = start(*files.flags())

        def tell() -> None:
            if signalled:
                program.process.send_signal(signal.SIGHUP)

        with unharmed(program):
            if (content := BAD_FILES[name]) is None:
                files.cert.unlink()
            else:
                write(files.cert, content)
            tell()
            wait_until(lambda: program.log(), f"told that the file is {name}", 6)
            assert shown(program) == first.der(), name
            assert str(files.cert) in program.log() and program.log().count("\n") == 1, program.log()
            files.renew(second)
            tell()
            wait_until(lambda: shown(program) == second.der(), "the good certificate is shown", 6)

    all_at_once(
        *(partial(spoil, name, True) for name in ("empty", "garbage", "no key", "missing")),
        *(partial(spoil, name, False) for name in ("half a PEM", "a foreign key")),
    )


def test_client_certificates_stay_required_after_a_renewal(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """A renewed certificate opens no door: --client-ca and --tls-min hold in the new context, too."""
    first, second = make_identity("localhost"), make_identity("localhost")
    authority = make_identity("ca", authority=True)
    client = make_identity("client", authority)
    files = Files(tmp_path, "pem")
    files.renew(first)
    (tmp_path / "ca.pem").write_bytes(authority.pem())
    (tmp_path / "client.pem").write_bytes(client.pem() + client.key_pem())
    program = start(*files.flags(), "--client-ca", str(tmp_path / "ca.pem"), "--tls-min", "1.3")
    context = any_tls()
    context.load_cert_chain(tmp_path / "client.pem")
    old = any_tls()
    old.load_cert_chain(tmp_path / "client.pem")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    files.renew(second)
    program.process.send_signal(signal.SIGHUP)
    wait_until(lambda: shown(program, context) == second.der(), "the new certificate is shown", 5)
    with WebSocket(program.address, tls=context) as wss:
        assert wss.ask("let in") == "let in"
    with pytest.raises((OSError, EOFError)):
        WebSocket(program.address, tls=True)
    with pytest.raises((OSError, EOFError)):
        WebSocket(program.address, tls=old)
    assert get(program.address)[0] == 403


def test_sighup_without_a_certificate_file_ends_the_program_in_order(start: Callable[..., Program]) -> None:
    """With the throw-away certificate there is nothing to read again: SIGHUP says that the terminal was
    closed, and ends the program as Ctrl-C does."""
    program = start()
    with WebSocket(program.address, tls=True) as client:
        assert client.ask("here") == "here"
        program.process.send_signal(signal.SIGHUP)
        assert client.receive_close()[0] == 1001
    assert program.process.wait(10) == 0


def test_many_sighups_at_once_leave_nothing_behind(start: Callable[..., Program], tmp_path: Path) -> None:
    """A storm of signals under load: every handshake gets one certificate or the other, whole."""
    identities = [make_identity("localhost"), make_identity("localhost")]
    files = Files(tmp_path, "pem")
    files.renew(identities[0])
    program = start(*files.flags())
    with unharmed(program):
        for number in range(20):
            files.renew(identities[number % 2])
            program.process.send_signal(signal.SIGHUP)
            assert shown(program) in (identities[0].der(), identities[1].der())
        wait_until(lambda: shown(program) == identities[1].der(), "the last certificate is shown", 5)


# ---------------------------------------------------------------- the end


@contextlib.contextmanager
def talkers(address: tuple[str, int], count: int) -> Iterator[None]:
    """Clients that talk for as long as they are let."""
    ending = threading.Event()

    def keep_talking(secure: bool) -> None:
        with contextlib.suppress(OSError, EOFError, AssertionError):
            with WebSocket(address, tls=secure) as client:
                while not ending.is_set():
                    client.ask("x" * 1000)

    threads = [threading.Thread(target=keep_talking, args=(number % 2 == 1,)) for number in range(count)]
    for thread in threads:
        thread.start()
    yield
    ending.set()
    for thread in threads:
        thread.join()


def crowd_in(address: tuple[str, int], stack: contextlib.ExitStack) -> None:
    """Let clients come who stay in every step, and one who doesn't read what it is sent."""
    deaf = upgraded(stack.enter_context(narrow(address)), address)
    deaf.settimeout(0.1)
    with contextlib.suppress(OSError):
        for _ in range(50):
            deaf.sendall(frame(BINARY, bytes(200_000)))
    for data in (b"", b"\x16", b"G", b"{", b"GET / HTTP/1.1\r\n"):
        stack.enter_context(connect(address)).sendall(data)
    client = stack.enter_context(HandTLS(address))
    client.sock.sendall(client.hello())
    client = stack.enter_context(HandTLS(address))
    client.handshake()
    client.sock.sendall(client.encrypt(upgrade_request(address)))
    client.sock.sendall(client.encrypt(frame(TEXT, b"x"))[:9])


def test_sigterm_under_load_ends_within_five_seconds_and_is_told(start: Callable[..., Program]) -> None:
    """With clients that talk, stall, don't read and are in every step, SIGTERM ends the program with status
    0, and who listens is told 1001."""
    program = start("--max-message", "200000")
    address = program.address
    with talkers(address, 10), contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(WebSocket(address, "/chat", tls=tls)) for tls in [False, True] * 5]
        for listener in listeners:
            listener.ask('{"type":"who"}')
        natives = [stack.enter_context(Native(address, tls=secure)) for secure in (False, True)]
        for native in natives:
            native.send({"type": "who"})
            native.receive()
        all_at_once(*[lambda: crowd_in(address, stack)] * 5)
        since = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        for listener in listeners:
            assert listener.receive_close()[0] == 1001
        for native in natives:
            assert "going away" in native.receive_json()["reason"]
            with pytest.raises(EOFError):
                native.receive()
        assert program.process.wait(10) == 0
        assert time.monotonic() - since < 5
    with pytest.raises(OSError):
        socket.create_connection(address, timeout=1).close()


PAUSES = [0.0, 0.0001, 0.0003, 0.001, 0.004, 0.02]


def test_signals_at_any_moment_end_the_program_as_well_as_one(start: Callable[..., Program]) -> None:
    """As soon as the program has said that it runs a signal ends it with status 0 and without a traceback,
    and so do several: Ctrl-C pressed again and again, SIGTERM after Ctrl-C."""

    def signal_often(pause: float, *numbers: int) -> None:
        program = start()
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(program.process.pid, number)
            time.sleep(pause)  # the pause is the point
        assert program.process.wait(10) == 0, (pause, numbers, program.log()[-1000:])

    all_at_once(
        *(partial(signal_often, pause, SIGTERM, SIGTERM) for pause in PAUSES[::2]),
        *(partial(signal_often, pause, SIGINT, SIGINT, SIGTERM) for pause in PAUSES[1::2]),
    )


def test_a_port_in_use_is_one_clear_line(server: Program) -> None:
    """The second program on a port says so, and ends with a status that isn't 0."""
    command = [sys.executable, str(REPO / "wsdual.py"), "--port", str(server.port)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode != 0
    assert f"port {server.port}" in second.stderr and second.stderr.count("\n") == 1, second.stderr
