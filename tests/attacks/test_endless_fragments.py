# SPDX-License-Identifier: MIT
"""Messages in very many frames: a large one passes, one that never ends and never grows is ended."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

import pytest
from support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    Deflating,
    Program,
    WebSocket,
    deflate,
    frame,
    unharmed,
)

ENOUGH = 300_000  # frames of one message: an honest one of 16 MiB has 64 bytes in each, or more
MASK = b"\x12\x34\x56\x78"
EMPTY = frame(CONTINUATION, fin=False, mask=MASK)
ENDLESS = {  # how the message begins, and what then comes again and again; whether deflate is agreed on
    "text": (frame(TEXT, b"x", fin=False), EMPTY, False),
    "with pings in between": (frame(TEXT, fin=False), EMPTY * 100 + frame(PING, b"", mask=MASK), False),
    "compressed": (frame(TEXT, fin=False, rsv=4), EMPTY, True),
    "not compressed, though it may be": (frame(TEXT, fin=False), EMPTY, True),
}


def send_for_ever(client: WebSocket, piece: bytes) -> int | None:
    """Send a piece again and again until the server closes; its code, or None where it puts up with all."""
    frames = max(1, piece.count(EMPTY))
    many = piece * (3000 // frames)
    for _ in range(ENOUGH // 3000):
        client.sock.sendall(many)
        while select.select([client.sock], [], [], 0)[0]:
            code = code_of(client)
            if code is not None:
                return code
    client.sock.sendall(frame(PING, b"the last"))
    while (answer := client.receive_frame())[2:] != (PONG, b"the last"):
        if answer[2] == CLOSE:
            return int.from_bytes(answer[3][:2], "big")
    return None


def code_of(client: WebSocket) -> int | None:
    """The code of the next frame, where that is a close frame."""
    _, _, opcode, payload = client.receive_frame()
    return int.from_bytes(payload[:2], "big") if opcode == CLOSE else None


@pytest.mark.parametrize("how", ENDLESS)
def test_a_message_of_endless_empty_frames_is_ended(server: Program, how: str) -> None:
    """After so many it is too big (1009) or against the rules (1008), though it has hardly a byte."""
    begin, piece, agreed = ENDLESS[how]
    with unharmed(server), (Deflating if agreed else WebSocket)(server.address) as client:
        client.sock.sendall(begin)
        assert send_for_ever(client, piece) in (1008, 1009)


def fragments(message: bytes, size: int, rsv: int = 0) -> bytes:
    """A binary message in frames of so many bytes, the last one empty."""
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    first, *others = (frame(CONTINUATION, piece, fin=False, mask=MASK) for piece in pieces)
    first = bytes([BINARY | rsv << 4]) + first[1:]
    return first + b"".join(others) + frame(CONTINUATION, mask=MASK)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("size", [1, 100])
def test_a_message_in_a_thousand_frames_passes(server: Program, size: int, compressed: bool) -> None:
    """As clients send it that write as they read."""
    message = os.urandom(1000 * size)
    with (Deflating if compressed else WebSocket)(server.address) as client:
        if compressed:
            client.sock.sendall(fragments(deflate(message), size, rsv=4))
        else:
            client.sock.sendall(fragments(message, size))
        assert client.receive() == message


def test_a_message_in_65536_frames_passes_where_the_limit_allows_it(start: Callable[..., Program]) -> None:
    """64 bytes in each, 4 MiB in all."""
    program = start("--max-message", str(16 * 2**20))
    message = os.urandom(65536 * 64)
    with WebSocket(program.address) as client:
        client.sock.settimeout(3 * PATIENCE)
        client.sock.sendall(fragments(message, 64))
        assert client.receive() == message
        assert client.ask("and again") == "and again"


def test_many_messages_of_few_frames_are_not_taken_for_one_of_many(server: Program) -> None:
    """The count begins anew with each message."""
    piece = frame(TEXT, b"a", fin=False, mask=MASK) + EMPTY * 98 + frame(CONTINUATION, b"b", mask=MASK)
    with WebSocket(server.address) as client:
        for _ in range(10):
            client.sock.sendall(piece * 100)
            for _ in range(100):
                assert client.receive() == "ab"
