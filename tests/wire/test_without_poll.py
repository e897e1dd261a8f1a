# SPDX-License-Identifier: MIT
"""A Python without select.poll and select.epoll, as on Windows: select.select() has to do the waiting."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from support import (
    CLOSE,
    Native,
    Program,
    WebSocket,
    frame,
    get,
    narrow,
    running,
    upgraded,
)

# Python runs a module of this name before all else: before selectors looks what there is, too.
SITECUSTOMIZE = """
import select

for name in ("poll", "epoll", "devpoll", "kqueue"):
    if hasattr(select, name):
        delattr(select, name)
import selectors

assert selectors.DefaultSelector is selectors.SelectSelector
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program in such a Python."""
    folder = tmp_path_factory.mktemp("without-poll")
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    with running(folder, env={"PYTHONPATH": path}) as program:
        yield program


def by_websocket(tls: bool) -> Callable[[Program], None]:
    """Small and large messages, one after the other and many at once, and a goodbye."""

    def talk(program: Program) -> None:
        with WebSocket(program.address, tls=tls) as client:
            assert client.ask("hello") == "hello"
            assert client.ask(large := os.urandom(500_000)) == large
            client.sock.sendall(b"".join(frame(2, b"%d" % number) for number in range(100)))
            assert [client.receive() for _ in range(100)] == [b"%d" % number for number in range(100)]
            client.sock.sendall(frame(CLOSE, b"\x03\xe8"))
            assert client.receive_close()[0] == 1000

    return talk


def by_http(tls: bool) -> Callable[[Program], None]:
    """A file, and one that isn't there."""

    def ask(program: Program) -> None:
        status, headers, body = get(program.address, tls=tls)
        assert (status, len(body)) == (200, int(headers["content-length"]))
        assert get(program.address, "/nothing", tls=tls)[0] == 404

    return ask


def by_lines(tls: bool) -> Callable[[Program], None]:
    """A login, and the answers to many lines that came at once."""

    def talk(program: Program) -> None:
        with Native(program.address, tls=tls) as client:
            client.send({"type": "login", "name": f"ann-{tls}"})
            assert client.receive_json()["type"] == "welcome"
            client.sock.sendall(b'{"type":"who"}\n' * 50)
            assert [client.receive_json()["type"] for _ in range(50)] == ["users"] * 50

    return talk


KINDS = {
    "ws": by_websocket(False),
    "wss": by_websocket(True),
    "http": by_http(False),
    "https": by_http(True),
    "tcp": by_lines(False),
    "tcps": by_lines(True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_without_poll_each_kind_is_served(program: Program, kind: str) -> None:
    """As everywhere else."""
    KINDS[kind](program)


LINES, TEXT_SIZE = 150, 4000  # more than a kernel keeps for a narrow client, less than a backlog


def logged_in(program: Program, kind: str, name: str) -> socket.socket:
    """A client of the room that will be slow to read."""
    sock = narrow(program.address, tls=kind in ("wss", "tcps"))
    login = b'{"type":"login","name":"%s"}' % name.encode()
    if kind in ("ws", "wss"):
        upgraded(sock, program.address, "/chat").sendall(frame(1, login))
    else:
        sock.sendall(login + b"\n")
    return sock


@pytest.mark.parametrize("kind", ["ws", "wss", "tcp", "tcps"])
def test_without_poll_a_slow_reader_gets_all_that_was_said_and_holds_up_nobody(
    program: Program, kind: str
) -> None:
    """What it was too slow to take is sent as it makes room, in order."""
    with logged_in(program, kind, f"slow-{kind}") as slow, Native(program.address) as speaker:
        speaker.send({"type": "login", "name": f"speaker-{kind}"})
        users = speaker.receive_json()["users"]
        if len(users) < 2:  # the slow one's login was the later one
            assert speaker.receive_json()["type"] == "joined"
        for number in range(LINES):
            speaker.send({"type": "say", "text": f"<{number}>".ljust(TEXT_SIZE, ".")})
        for number in range(LINES):
            assert speaker.receive_json()["text"].startswith(f"<{number}>"), "the speaker need not wait"
        heard = b""
        while f"<{LINES - 1}>".encode() not in heard:
            heard += (piece := slow.recv(65536))
            assert piece, f"ended after {len(heard)} bytes"
    places = [heard.find(f"<{number}>".encode()) for number in range(LINES)]
    assert -1 not in places and places == sorted(places)


def test_without_poll_an_idle_server_does_not_spin(program: Program) -> None:
    """Connected clients of each kind that say nothing cost nothing."""
    with WebSocket(program.address), Native(program.address, tls=True), WebSocket(program.address, tls=True):
        before = program.cpu_seconds()
        time.sleep(1.0)
        assert program.cpu_seconds() - before < 0.3
