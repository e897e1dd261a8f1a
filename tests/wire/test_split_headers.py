# SPDX-License-Identifier: MIT
"""Frames whose headers come in pieces, as TCP splits them: nothing is counted twice, and nothing is lost."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest
from support import (
    BINARY,
    CONTINUATION,
    Deflating,
    Program,
    Watcher,
    WebSocket,
    deflate,
    frame,
    running,
    wait_until,
)

SIZES = {  # --max-message, and the sizes of a message's frames: together just that
    "short frames": (100, (60, 40)),
    "three short frames": (100, (40, 30, 30)),
    "two bytes of length": (1000, (500, 500)),
    "all in the second": (1000, (0, 1000)),
    "eight bytes of length": (140_000, (70_000, 70_000)),
}
LIMITS = sorted({limit for limit, _ in SIZES.values()})


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Program]]:
    """One server for each limit."""
    folder = tmp_path_factory.mktemp("split-headers")
    with running(folder, "--max-message", "100") as first, running(folder, "--max-message", "1000") as second:
        with running(folder, "--max-message", "140000") as third:
            yield dict(zip(LIMITS, (first, second, third), strict=True))


class Seen:
    """A client whose bytes a watcher sees, so that we know what the server has read."""

    def __init__(self, watcher: Watcher, client: WebSocket) -> None:
        self.watcher, self.client, self.sent = watcher, client, 0
        port = client.sock.getsockname()[1]
        self.number = watcher.wait_for("accepted", address=f"127.0.0.1:{port}")["id"]
        watcher.wait_for("upgraded", id=self.number)
        watcher.client.send({"type": "watch", "id": self.number})
        wait_until(self._is_watched, "it is watched")
        self.sent = self._read()

    def _is_watched(self) -> bool:
        self.client.sock.sendall(frame(0x9, b"?"))
        self.client.receive_frame()  # the pong
        return self._read() > 0

    def _read(self) -> int:
        bytes_of = [event for event in tuple(self.watcher.events) if event.get("type") == "bytes"]
        mine = [event for event in bytes_of if event["id"] == self.number and event["from"] == "client"]
        return sum(len(event["bytes"]) // 2 + event["more"] for event in mine)

    def send(self, data: bytes) -> None:
        """Send, and return when the server has read it, or has answered already."""
        self.client.sock.sendall(data)
        self.sent += len(data)
        wait_until(lambda: self._read() >= self.sent or self._answered(), f"{self.sent} bytes have been read")

    def _answered(self) -> bool:
        return bool(select.select([self.client.sock], [], [], 0)[0])


def in_frames(message: bytes, sizes: tuple[int, ...], rsv: int = 0) -> list[bytes]:
    """A binary message in frames of these sizes."""
    frames, start = [], 0
    for number, size in enumerate(sizes):
        payload = message[start : start + size]
        opcode = CONTINUATION if number else BINARY
        last = number == len(sizes) - 1
        frames.append(frame(opcode, payload, fin=last, rsv=0 if number else rsv))
        start += size
    return frames


def cuts(size: int) -> list[int]:
    """Places in a frame with so many bytes to cut it at: in its header, before and in its mask, behind it."""
    length = 2 if size < 126 else 4 if size < 65536 else 10
    return [1, *([length - 1] if length > 2 else []), length, length + 2, length + 4]


@pytest.mark.parametrize("how", SIZES)
@pytest.mark.parametrize("agreed", [False, True], ids=["no deflate", "deflate"])
def test_a_message_of_just_the_limit_passes_wherever_its_frames_are_cut(
    programs: dict[int, Program], agreed: bool, how: str
) -> None:
    """A header that came without its mask is looked at again once that has come, and must not count again."""
    limit, sizes = SIZES[how]
    program = programs[limit]
    message = (bytes(range(256)) * (limit // 256 + 1))[:limit]
    with Watcher(program.address) as watcher:
        for cut in cuts(sizes[-1]):
            with (Deflating if agreed else WebSocket)(program.address) as client:
                seen = Seen(watcher, client)
                for piece in in_frames(message, sizes):
                    seen.send(piece[:cut])
                    seen.send(piece[cut:])
                assert client.receive() == message, f"cut at {cut}"


@pytest.mark.parametrize("limit", LIMITS)
def test_a_compressed_message_of_just_the_limit_passes_wherever_its_frames_are_cut(
    programs: dict[int, Program], limit: int
) -> None:
    """What counts is the size that it has inflated."""
    program = programs[limit]
    message = os.urandom(limit)  # such bytes hardly shrink: their frames are as long as the others
    packed = deflate(message, level=0)
    sizes = (len(packed) // 2, len(packed) - len(packed) // 2)
    with Watcher(program.address) as watcher:
        for cut in cuts(sizes[-1]):
            with Deflating(program.address) as client:
                seen = Seen(watcher, client)
                for piece in in_frames(packed, sizes, rsv=4):
                    seen.send(piece[:cut])
                    seen.send(piece[cut:])
                assert client.receive() == message, f"cut at {cut}"


@pytest.mark.parametrize("agreed", [False, True], ids=["no deflate", "deflate"])
def test_a_message_of_one_byte_more_is_refused_wherever_its_frames_are_cut(
    programs: dict[int, Program], agreed: bool
) -> None:
    """By the header of the frame that makes it too big."""
    program = programs[100]
    with Watcher(program.address) as watcher:
        for cut in cuts(41):
            with (Deflating if agreed else WebSocket)(program.address) as client:
                seen = Seen(watcher, client)
                first, second = in_frames(bytes(101), (60, 41))
                seen.send(first)
                client.sock.sendall(second[:cut])
                client.sock.sendall(second[cut:])
                assert client.receive_close()[0] == 1009, f"cut at {cut}"
