# SPDX-License-Identifier: MIT
"""An application that leaves the loop over a client's messages with some unread isn't made to wait for it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import PATIENCE, TEXT, Native, WebSocket, frame, make_identity

from wsdual import DualServer, Peer, server_context

ROUNDS = 20


@contextlib.contextmanager
def serving(app: Callable[[Peer], object], **options: Any) -> Iterator[tuple[str, int]]:
    """A server in this process with one application; yields its address."""
    with DualServer(("127.0.0.1", 0), {"/": app}, **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield "127.0.0.1", server.server_address[1]
        finally:
            server.shutdown()
            thread.join(PATIENCE)


@contextlib.contextmanager
def websocket(address: tuple[str, int], tls: bool) -> Iterator[WebSocket]:
    """A WebSocket client whose four messages come in one packet, with its request."""
    four = b"".join(frame(TEXT, b"{%d}" % number) for number in range(4))
    with WebSocket(address, "/", tls=tls, early=four) as client:
        yield client


@contextlib.contextmanager
def native(address: tuple[str, int], tls: bool) -> Iterator[Native]:
    """A native client whose four lines come in one packet."""
    with Native(address, tls=tls) as client:
        client.send("{0}\n{1}\n{2}\n{3}")
        yield client


def leave_by_break(peer: Peer) -> object:
    """Take the first message as most programs would."""
    for message in peer:
        return message
    return None


def leave_by_next(peer: Peer) -> object:
    """Take the first message alone."""
    return next(iter(peer))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("client", [websocket, native])
@pytest.mark.parametrize("leave", [leave_by_break, leave_by_next])
def test_what_is_sent_after_a_break_leaves_at_once(leave: Any, client: Any, tls: bool, tmp_path: Any) -> None:
    """Nothing is kept back for answers to messages that nobody reads: when send() returns, all of it has been
    handed to the kernel. The messages that were left are still there for a second loop."""
    reactions: queue.Queue[str] = queue.Queue()
    told: queue.Queue[list[Any]] = queue.Queue()

    def app(peer: Peer) -> None:
        first, kept_back = leave(peer), []
        for number in range(ROUNDS):
            peer.send(f"news {number}")
            kept_back.append(peer.backlog)
            reactions.get(timeout=PATIENCE)
        rest = [message for _, message in zip(range(3), peer)]  # noqa: B905
        told.put([first, kept_back, rest])

    identity = make_identity("localhost")
    (tmp_path / "server.pem").write_bytes(identity.key_pem() + identity.pem())
    context = server_context(tmp_path / "server.pem")
    with serving(app, tls=context) as address, client(address, tls) as connected:
        for number in range(ROUNDS):
            assert connected.receive() == f"news {number}"
            reactions.put("seen")
        first, kept_back, rest = told.get(timeout=PATIENCE)
    assert first == "{0}" and rest == ["{1}", "{2}", "{3}"]
    assert kept_back == [0] * ROUNDS
