# SPDX-License-Identifier: MIT
"""One half of a connection ends: the other one still carries every answer, and then a clean end.

Inside TLS it has to be as it is in clear: there close_notify comes before FIN.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from support import (
    CLOSE,
    TEXT,
    HandTLS,
    Program,
    all_at_once,
    any_tls,
    frame,
    narrow,
    running,
    upgraded,
)

GOOD, AFTER = 60, 20  # messages before the bad one, and behind it
# (bytes of a message, seconds before the client reads): from what a kernel keeps to a backlog of the server's
PACES = [(10, 0.0), (10, 0.3), (10, 0.6), (1000, 0.0), (1000, 0.3), (1000, 0.6), (4000, 0.3)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Native clients get the echo."""
    with running(tmp_path_factory.mktemp("half-close"), "--app", "echo") as program:
        yield program


def strict(sock: socket.socket) -> ssl.SSLSocket:
    """TLS that tells an end without close_notify from one with it: the first raises SSLEOFError."""
    return any_tls().wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False)


def a_client(program: Program, tls: bool) -> socket.socket:
    """One that has room for little."""
    sock = narrow(program.address)
    return strict(sock) if tls else sock


def everything(sock: socket.socket) -> bytes:
    """All up to a clean end; a reset fails, and so does an end of TLS without close_notify."""
    data = bytearray()
    while piece := sock.recv(65536):
        data += piece
    if isinstance(sock, ssl.SSLSocket):
        with contextlib.suppress(OSError):  # the server need not wait for ours
            sock.unwrap()
    return bytes(data)


def lines(size: int) -> list[bytes]:
    """Good lines, a bad one, and some that come too late."""
    good = [b'{"n":%d}' % number for number in range(GOOD)]
    return [*(line.ljust(size, b" ") for line in good), b"\xff\xfe not UTF-8", *[b"{}".ljust(size)] * AFTER]


def at_each_pace(attempt: Callable[[int, float], object]) -> None:
    """Do it at all paces at the same time, since most of it is waiting. A failure tells its pace."""

    def at(size: int, delay: float) -> str:
        try:
            attempt(size, delay)
        except Exception as error:
            return f"{size} bytes, read {delay} s late: {type(error).__name__}: {error}"
        return ""

    failures = list(filter(None, all_at_once(*(partial(at, *pace) for pace in PACES))))
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
@pytest.mark.parametrize("kind", ["tcp", "tcps"])
def test_a_bad_line_among_good_ones_costs_no_answer(program: Program, kind: str, together: bool) -> None:
    """The good ones before it are answered, then a line says what was wrong, then comes a clean end."""

    def attempt(size: int, delay: float) -> None:
        sent = [line + b"\n" for line in lines(size)]
        with a_client(program, kind == "tcps") as sock:
            for piece in [b"".join(sent)] if together else sent:
                sock.sendall(piece)
            time.sleep(delay)
            *answers, error, rest = everything(sock).split(b"\n")
        assert len(answers) == GOOD and answers == lines(size)[:GOOD], f"{len(answers)} answers"
        assert json.loads(error)["type"] == "error" and rest == b""

    at_each_pace(attempt)


def frames_in(data: bytes) -> list[tuple[int, bytes]]:
    """(opcode, payload) of a server's frames, all whole and none longer than 64 KiB."""
    found = []
    while data:
        start, size = (2, data[1]) if data[1] < 126 else (4, int.from_bytes(data[2:4], "big"))
        found.append((data[0] & 15, data[start : start + size]))
        data = data[start + size :]
    return found


@pytest.mark.parametrize("kind", ["ws", "wss"])
def test_a_bad_frame_among_good_ones_costs_no_answer(program: Program, kind: str) -> None:
    """The good ones before it are answered, then a close frame says 1002, then comes a clean end."""

    def attempt(size: int, delay: float) -> None:
        good = [(b"%d" % number).ljust(size, b".") for number in range(GOOD)]
        with upgraded(a_client(program, kind == "wss"), program.address) as sock:
            for payload in good:
                sock.sendall(frame(TEXT, payload))
            sock.sendall(frame(TEXT, b"unmasked", mask=b""))
            for payload in good[:AFTER]:
                sock.sendall(frame(TEXT, payload))
            time.sleep(delay)
            *answers, (opcode, reason) = frames_in(everything(sock))
        assert answers == [(TEXT, payload) for payload in good], f"{len(answers)} answers"
        assert (opcode, reason[:2]) == (CLOSE, b"\x03\xea")

    at_each_pace(attempt)


@pytest.mark.parametrize("fin", [True, False], ids=["and FIN", "no FIN"])
def test_a_tls_client_that_has_said_close_notify_gets_all_its_answers(program: Program, fin: bool) -> None:
    """It has ended its own half alone (RFC 8446 section 6.1): the server's ends after the last answer."""

    def attempt(size: int, delay: float) -> None:
        sent = [line + b"\n" for line in lines(size)[:GOOD]]
        with HandTLS(program.address, sock=narrow(program.address)) as client:
            client.handshake()
            for line in sent:
                client.sock.sendall(client.encrypt(line))
            client.sock.sendall(client.goodbye())
            if fin:
                client.sock.shutdown(socket.SHUT_WR)
            time.sleep(delay)
            heard = bytearray()
            while piece := client.receive():  # b"" at close_notify alone
                heard += piece
        assert heard == b"".join(sent), f"{len(heard)} bytes"

    at_each_pace(attempt)
