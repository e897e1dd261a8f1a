# SPDX-License-Identifier: MIT
"""peer.ended: empty while the peer lives; once it has ended, the code and why, and they never change."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import (
    BINARY,
    CLOSE,
    PATIENCE,
    TEXT,
    Native,
    WebSocket,
    connect,
    frame,
    narrow,
    reset,
    upgraded,
    wait_until,
)

from wsdual import DualServer, Limits, Peer, PeerGone

Address = tuple[str, int]
Ended = dict[str, Any]


@contextlib.contextmanager
def serving(app: Callable[[Peer], object], **limits: Any) -> Iterator[Address]:
    """A server in this process with one application; yields its address."""
    with DualServer(("127.0.0.1", 0), {"/": app}, limits=Limits(**{"closing": 0.5, **limits})) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield "127.0.0.1", server.server_address[1]
        finally:
            server.shutdown()
            thread.join(PATIENCE)


class Notes:
    """An application that answers, and notes what ended is: before each answer, and behind the loop."""

    def __init__(self) -> None:
        self.alive: list[Ended] = []
        self.after: queue.Queue[Ended] = queue.Queue()

    def __call__(self, peer: Peer) -> None:
        """Serve one peer."""
        self.alive.append(dict(peer.ended))
        for message in peer:
            self.alive.append(dict(peer.ended))
            peer.send(message)
        self.after.put(peer.ended)


def close_frame(code: int | None, reason: str = "") -> bytes:
    """A client's goodbye."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())


# What a WebSocket client does last -> the code that it ends with, and a word of why.
LAST: dict[str, tuple[Callable[[socket.socket], object], int, str]] = {
    "close_1000": (lambda sock: sock.sendall(close_frame(1000, "that's all")), 1000, "that's all"),
    "close_3001": (lambda sock: sock.sendall(close_frame(3001)), 3001, ""),
    "close_without_a_code": (lambda sock: sock.sendall(close_frame(None)), 1005, ""),
    "fin": (lambda sock: sock.shutdown(socket.SHUT_WR), 1006, ""),
    "reset": (reset, 1006, ""),
    "broken_protocol": (lambda sock: sock.sendall(frame(0x3, b"")), 1002, ""),
    "not_utf_8": (lambda sock: sock.sendall(frame(TEXT, b"\xff")), 1007, ""),
    "too_big": (lambda sock: sock.sendall(frame(TEXT, b"x", length=2**30)), 1009, "big"),
}


@pytest.mark.parametrize("last", LAST)
def test_a_websockets_end_is_told_behind_the_loop(last: str) -> None:
    """However the client ends it."""
    act, code, word = LAST[last]
    notes = Notes()
    with serving(notes) as address, WebSocket(address, "/") as client:
        assert client.ask("one") == "one" and client.ask("two") == "two"
        act(client.sock)
        ended = notes.after.get(timeout=PATIENCE)
    assert notes.alive == [{}] * 3
    assert isinstance(ended, dict) and ended["code"] == code
    assert isinstance(ended["why"], str) and ended["why"] and word in ended["why"]


NATIVE_LAST: dict[str, tuple[Callable[[socket.socket], object], str]] = {
    "fin": (lambda sock: sock.shutdown(socket.SHUT_WR), ""),
    "reset": (reset, ""),
    "not_utf_8": (lambda sock: sock.sendall(b"{\xff\n"), "UTF-8"),
    "too_long": (lambda sock: sock.sendall(b"x" * (2**20 + 2)), "bytes"),
}


@pytest.mark.parametrize("last", NATIVE_LAST)
def test_a_native_clients_end_is_told_behind_the_loop(last: str) -> None:
    """It knows no codes, but there is always a why."""
    act, word = NATIVE_LAST[last]
    notes = Notes()
    with serving(notes) as address, connect(address) as sock:
        sock.sendall(b"{}\n")
        assert sock.recv(100) == b"{}\n"
        act(sock)
        ended = notes.after.get(timeout=PATIENCE)
    assert notes.alive == [{}] * 2
    assert isinstance(ended, dict) and ended["why"] and word in ended["why"]


@pytest.mark.parametrize("kind", [WebSocket, Native])
@pytest.mark.parametrize("by_another_thread", [False, True], ids=["own_thread", "other_thread"])
def test_what_close_said_is_what_ended_tells(kind: Any, by_another_thread: bool) -> None:
    """As soon as close() returns, and still when the client has answered with something else."""
    told: queue.Queue[Ended] = queue.Queue()

    def app(peer: Peer) -> None:
        next(iter(peer))
        assert peer.ended == {}
        if by_another_thread:
            closer = threading.Thread(target=peer.close, args=(4001, "enough"))
            closer.start()
            closer.join()
        else:
            peer.close(4001, "enough")
        told.put(dict(peer.ended))
        for _ in peer:
            pass
        told.put(dict(peer.ended))

    with serving(app) as address, kind(address, **({"path": "/"} if kind is WebSocket else {})) as client:
        client.send("{}")
        if kind is WebSocket:
            assert client.receive_close() == (4001, "enough")
            client.sock.sendall(close_frame(1000, "something else"))
        else:
            assert "enough" in client.receive()
            client.sock.shutdown(socket.SHUT_WR)
        for _ in range(2):
            assert told.get(timeout=PATIENCE) == {"code": 4001, "why": "enough"}


def test_ended_is_told_as_soon_as_send_raises_peer_gone() -> None:
    """The application that is told by PeerGone need not read on to learn why."""
    told: queue.Queue[Ended] = queue.Queue()

    def app(peer: Peer) -> None:
        try:
            while True:
                peer.send(bytes(100_000))
        except PeerGone:
            told.put(dict(peer.ended))
            raise

    for end in (reset, lambda sock: None):
        with serving(app, ping=0.5) as address, narrow(address) as sock:
            upgraded(sock, address, "/")
            end(sock)  # one goes, the other just doesn't read
            ended = told.get(timeout=PATIENCE)
            assert ended.get("code") == 1006 and ended.get("why"), ended


def test_ended_is_told_as_soon_as_another_threads_send_is_not_taken() -> None:
    """The one who broadcasts may ask why, while the peer's own thread still does something else."""
    peers: queue.Queue[Peer] = queue.Queue()
    go_on = threading.Event()

    def app(peer: Peer) -> None:
        peers.put(peer)
        go_on.wait(PATIENCE)

    with serving(app, message=10_000) as address, narrow(address) as sock:
        upgraded(sock, address, "/")
        peer = peers.get(timeout=PATIENCE)
        assert peer.ended == {}
        while peer.send(bytes(10_000)):  # bounded: its backlog is
            assert peer.ended == {}
        assert peer.ended.get("code") == 1006 and peer.ended.get("why"), peer.ended
        go_on.set()


def test_ended_has_one_value_for_good() -> None:
    """The client goes while another thread says goodbye: ended is what was told first, whoever asks."""
    seen: queue.Queue[tuple[list[Ended], Ended]] = queue.Queue()
    peers: queue.Queue[Peer] = queue.Queue()

    def app(peer: Peer) -> None:
        peers.put(peer)
        for _ in peer:
            pass
        seen.put(([dict(peer.ended)], peer.ended))

    with serving(app) as address:
        for number in range(60):
            with upgraded(connect(address), address, "/") as sock:
                peer = peers.get(timeout=PATIENCE)
                closer = threading.Thread(target=peer.close, args=(4001, "enough"))
                acts = [closer.start, lambda sock=sock: sock.shutdown(socket.SHUT_RDWR)]
                for act in acts if number % 2 else reversed(acts):
                    act()
                closer.join()
                first = dict(peer.ended) or None
                (at_the_end,), last = seen.get(timeout=PATIENCE)
            assert first in (None, at_the_end) and at_the_end == last, (first, at_the_end, last)
            assert at_the_end["code"] in (4001, 1006) and at_the_end["why"]


def test_ended_of_an_application_that_fails_is_1011() -> None:
    """Who keeps the peer can read it afterwards."""
    peers: queue.Queue[Peer] = queue.Queue()

    def app(peer: Peer) -> None:
        peers.put(peer)
        raise RuntimeError("this is what the test is about")

    with serving(app) as address, WebSocket(address, "/") as client:
        assert client.receive_close()[0] == 1011
        ended = wait_until(lambda: peers.queue[0].ended, "it has ended")
        assert ended["code"] == 1011 and ended["why"]


def test_ended_of_an_application_that_returns_is_1000() -> None:
    """The server closed, in order."""
    peers: queue.Queue[Peer] = queue.Queue()
    with serving(peers.put) as address, WebSocket(address, "/") as client:
        assert client.receive_close()[0] == 1000
        ended = wait_until(lambda: peers.queue[0].ended, "it has ended")
        assert ended["code"] == 1000 and ended["why"]


def test_ended_of_one_who_is_silent_tells_so() -> None:
    """No answer to a ping: 1006, and why."""
    notes = Notes()
    with serving(notes, ping=0.2) as address, WebSocket(address, "/") as client:
        client.sock.sendall(frame(BINARY, b"the last"))
        ended = notes.after.get(timeout=PATIENCE)
    assert ended["code"] == 1006 and "ping" in ended["why"]
