# SPDX-License-Identifier: MIT
"""SIGHUP: the end, a call to renew, or nothing at all, as the program was started."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import Program, WebSocket, connect, make_identity, wait_until

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="SIGHUP is POSIX")


@contextlib.contextmanager
def hangups_ignored() -> Iterator[None]:
    """What is started meanwhile ignores SIGHUP, as what nohup starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_was_started_to_ignore_hangups_ignores_them(start: Callable[..., Program]) -> None:
    """Under nohup, with the throw-away certificate, SIGHUP does nothing; SIGTERM ends it as ever."""
    with hangups_ignored():
        program = start()
    with WebSocket(program.address) as ws, WebSocket(program.address, tls=True) as wss:
        for _ in range(3):
            program.process.send_signal(signal.SIGHUP)
            time.sleep(0.6)  # the program looks after its flags twice a second
            assert ws.ask("still here") == wss.ask("still here") == "still here"
        assert program.log() == ""
        program.process.send_signal(signal.SIGTERM)
        assert ws.receive_close()[0] == wss.receive_close()[0] == 1001
    assert program.process.wait(10) == 0


def test_a_hangup_ends_what_has_nothing_to_renew(start: Callable[..., Program]) -> None:
    """Without --cert it means that the terminal has gone: 1001 for the clients, status 0."""
    program = start()
    with WebSocket(program.address) as ws, WebSocket(program.address, tls=True) as wss:
        assert ws.ask("here") == wss.ask("here") == "here"
        program.process.send_signal(signal.SIGHUP)
        assert ws.receive_close()[0] == wss.receive_close()[0] == 1001
    assert program.process.wait(10) == 0


def test_a_hangup_renews_a_certificate_that_came_from_a_file(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """With --cert it is a call to read the file again, and nobody is sent away."""
    identities = [make_identity("localhost") for _ in range(2)]
    path = tmp_path / "server.pem"
    path.write_bytes(identities[0].key_pem() + identities[0].pem())
    program = start("--cert", str(path))

    def shown() -> bytes:
        with connect(program.address, tls=True) as sock:
            return sock.getpeercert(True)  # type: ignore[attr-defined, no-any-return]

    with WebSocket(program.address, tls=True) as client:
        assert shown() == identities[0].der()
        path.write_bytes(identities[1].key_pem() + identities[1].pem())
        program.process.send_signal(signal.SIGHUP)
        wait_until(lambda: shown() == identities[1].der(), "the new certificate is shown", 6)
        assert client.ask("still here") == "still here"
