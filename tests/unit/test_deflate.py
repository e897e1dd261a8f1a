# SPDX-License-Identifier: MIT
"""permessage-deflate without a socket: what is agreed on, what comes in and what goes out. (RFC 7692)"""

from __future__ import annotations

import random
import tracemalloc
import zlib

import broken
import pytest
from hearing import PMD, bytewise, heard, last_code
from support import *

from wsdual import Answer, Frames, Goodbye, Limits, agree_on_deflate

TOO_BIG = Goodbye(1009, "message too big", fault=True)


def codec(limit: int = 1000, agreed: str = PMD) -> Frames:
    """Frames on a connection that agreed on deflate."""
    return Frames(Limits(message=limit), agreed)


def compressed(payload: bytes, opcode: int = TEXT, *, fin: bool = True) -> bytes:
    """A frame whose bit says that its message is compressed; the payload is that already."""
    return frame(opcode, payload, fin=fin, rsv=4)


class Packer:
    """A client's compressor, which remembers what it has sent."""

    def __init__(self, bits: int = 15) -> None:
        self._packer = zlib.compressobj(9, zlib.DEFLATED, -bits)

    def __call__(self, message: bytes) -> bytes:
        return (self._packer.compress(message) + self._packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


# ---------------------------------------------------------------- what is agreed on

AGREEMENTS: dict[str, str] = {  # an offer, and the answer to it
    PMD: PMD,
    f" {PMD} ": PMD,
    f"{PMD};": "",
    f"{PMD}; client_max_window_bits": f"{PMD}; client_max_window_bits=15",
    f"{PMD}; client_max_window_bits=10": f"{PMD}; client_max_window_bits=10",
    f'{PMD}; client_max_window_bits="10"': f"{PMD}; client_max_window_bits=10",
    f"{PMD};client_max_window_bits=15;server_max_window_bits=9":
        f"{PMD}; client_max_window_bits=15; server_max_window_bits=9",
    f"{PMD}; server_no_context_takeover": f"{PMD}; server_no_context_takeover",
    f"{PMD}; client_no_context_takeover": f"{PMD}; client_no_context_takeover",
    f"{PMD}; server_no_context_takeover; client_no_context_takeover":
        f"{PMD}; client_no_context_takeover; server_no_context_takeover",
    f"foo, {PMD}": PMD,
    f"foo; x=y, {PMD}; server_max_window_bits=10": f"{PMD}; server_max_window_bits=10",
    f"{PMD}; server_max_window_bits=8, {PMD}": PMD,  # what can't be met is passed over
    f"{PMD}; unknown, {PMD}; client_no_context_takeover": f"{PMD}; client_no_context_takeover",
    f"{PMD}, {PMD}; server_max_window_bits=10": PMD,  # the first that is good
}  # fmt: skip


@pytest.mark.parametrize(("offers", "answer"), AGREEMENTS.items(), ids=AGREEMENTS)
def test_the_first_good_offer_is_taken(offers: str, answer: str) -> None:
    """With its own parameters, and never others."""
    assert agree_on_deflate(offers) == answer


@pytest.mark.parametrize("offers", broken.OFFERS, ids=lambda offers: offers[:60])
def test_a_bad_offer_is_passed_over(offers: str) -> None:
    """Nothing is raised, and nothing is agreed on; a good one behind it still counts."""
    assert agree_on_deflate(offers) == ""
    assert agree_on_deflate(f"{offers}, {PMD}") == PMD


# ---------------------------------------------------------------- what comes in

HELLO = deflate(b"hello")
HALF = len(HELLO) // 2
RECEIVED: dict[str, tuple[bytes, list[object]]] = {
    "one": (compressed(HELLO), ["hello"]),
    "bytes": (compressed(deflate(b"\xff\x00"), BINARY), [b"\xff\x00"]),
    "of nothing": (compressed(deflate(b"")), [""]),
    "of no bytes at all": (compressed(b""), [""]),
    "not compressed": (frame(TEXT, b"hello"), ["hello"]),
    "plain ones between": (
        frame(TEXT, b"a") + compressed(HELLO) + frame(TEXT, b"b") * 2 + compressed(HELLO) + frame(TEXT, b"c"),
        ["a", "hello", "b", "b", "hello", "c"],
    ),
    "not compressed, in fragments": (frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b"), ["ab"]),
    "in fragments": (compressed(HELLO[:HALF], fin=False) + frame(CONTINUATION, HELLO[HALF:]), ["hello"]),
    "in fragments, some of them empty": (
        compressed(b"", fin=False) + frame(CONTINUATION, HELLO, fin=False) + frame(CONTINUATION), ["hello"],
    ),
    "control frames between fragments": (
        compressed(HELLO[:HALF], fin=False) + frame(PING, b"?") + frame(PONG)
        + frame(CONTINUATION, HELLO[HALF:]) + compressed(HELLO),
        [Answer(b"\x8a\x01?"), "hello", "hello"],
    ),
    "stored, not deflated": (compressed(deflate(b"hello", level=0)), ["hello"]),
    "in two blocks": (compressed(deflate(b"hel") + b"\x00\x00\xff\xff" + deflate(b"lo")), ["hello"]),
    "a stream that ends, and a new one": (  # RFC 7692 section 7.2.3.4
        compressed(zlib.compress(b"hello")[2:-4] + b"\x00") + compressed(HELLO), ["hello", "hello"],
    ),
    "the RFC's own: hello": (compressed(bytes.fromhex("f248cdc9c90700")), ["Hello"]),
    "the RFC's own: twice": (
        compressed(bytes.fromhex("f248cdc9c90700")) + compressed(bytes.fromhex("f200110000")), ["Hello"] * 2,
    ),
    "the RFC's own: a final block": (compressed(bytes.fromhex("f348cdc9c9070000")), ["Hello"]),
    "the RFC's own: two blocks": (compressed(bytes.fromhex("f24805000000ffffcac9c90700")), ["Hello"]),
}  # fmt: skip


@pytest.mark.parametrize(("data", "events"), RECEIVED.values(), ids=RECEIVED)
def test_compressed_messages_are_inflated_however_they_were_cut(data: bytes, events: list[object]) -> None:
    """Whole, byte by byte, and in two pieces at every place."""
    assert heard(codec(), data) == events
    assert heard(codec(), *bytewise(data)) == events
    for place in range(1, len(data)):
        assert heard(codec(), data[:place], data[place:]) == events, place


FAULTS: dict[str, tuple[bytes, str, int]] = {
    "compressed, where nothing was agreed on": (compressed(HELLO), "", 1002),
    "the bit on a continuation": (
        compressed(HELLO[:HALF], fin=False) + frame(CONTINUATION, HELLO[HALF:], rsv=4), PMD, 1002,
    ),
    "the bit on a ping": (frame(PING, b"", rsv=4), PMD, 1002),
    "the bit on a close": (frame(CLOSE, b"\x03\xe8", rsv=4), PMD, 1002),
    **{f"RSV {bits}": (frame(TEXT, HELLO, rsv=bits), PMD, 1002) for bits in (1, 2, 3, 5, 6, 7)},
    "no deflate stream": (compressed(b"\xff\xff\xff\xff"), PMD, 1007),
    "stored with a wrong length": (compressed(b"\x00\x05\x00\x00\x00hello"), PMD, 1007),
    "a stream that goes on behind its end": (
        compressed(zlib.compress(b"hello")[2:-4] + b"\x00" + b"more"), PMD, 1007,
    ),
    "no text": (compressed(deflate(b"\xff")), PMD, 1007),
    "half a character": (compressed(deflate("é".encode()[:1])), PMD, 1007),
    "no text, in the second": (
        compressed(b"", fin=False) + frame(CONTINUATION, deflate(b"\xc3\x28")), PMD, 1007,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "agreed", "code"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_with_compression_ends_with_its_code(data: bytes, agreed: str, code: int) -> None:
    """Behind a good message, which still counts; whole and byte by byte."""
    good = frame(TEXT, b"good")
    for pieces in ([good + data], bytewise(good + data)):
        first, *others = heard(codec(agreed=agreed), *pieces)
        assert first == "good" and len(others) == 1
        assert last_code(others) == (code, True)


def test_a_client_may_refer_to_its_former_messages() -> None:
    """Unless it has promised not to: then each message stands for itself."""
    message = random.Random(5).randbytes(300)
    packer = Packer()
    first, second = (compressed(packer(message), BINARY) for _ in range(2))
    assert len(second) < 50 < len(first)
    assert heard(codec(), first, frame(BINARY, b"plain"), second) == [message, b"plain", message]
    events = heard(codec(agreed=f"{PMD}; client_no_context_takeover"), first, second)
    assert events[0] == message and last_code(events) == (1007, True)
    alone = compressed(deflate(message), BINARY)
    assert heard(codec(agreed=f"{PMD}; client_no_context_takeover"), alone, alone) == [message] * 2


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_a_client_may_have_a_window_of_its_own(bits: int) -> None:
    """As it was agreed on; with messages that refer as far back as it allows."""
    far_back, packer = random.Random(5).randbytes(2**bits - 300) * 3, Packer(bits)
    frames = codec(2**17, f"{PMD}; client_max_window_bits={bits}")
    for _ in range(2):
        assert heard(frames, compressed(packer(far_back), BINARY)) == [far_back]


# ---------------------------------------------------------------- limits

MESSAGES = {"zeros": bytes, "noise": random.Random(3).randbytes}


@pytest.mark.parametrize("of", MESSAGES)
@pytest.mark.parametrize("size", [1, 125, 126, 1032, 5000, 70_000])
def test_a_message_that_inflates_to_just_the_limit_passes_and_one_more_does_not(size: int, of: str) -> None:
    """What counts is the size that it has then, whatever its frames have; in one piece and in many."""
    exact, too_many = (deflate(MESSAGES[of](wanted)) for wanted in (size, size + 1))
    (expected,) = heard(codec(size), compressed(exact, BINARY))
    assert isinstance(expected, bytes) and len(expected) == size
    for packed, event in ((exact, expected), (too_many, TOO_BIG)):
        whole, middle = compressed(packed, BINARY), len(packed) // 2
        begin, end = compressed(packed[:middle], BINARY, fin=False), frame(CONTINUATION, packed[middle:])
        step = max(1, len(whole) // 40)
        pieces = [whole[start : start + step] for start in range(0, len(whole), step)]
        for way in ([whole], [begin + end], pieces, [begin[:1], begin[1:], end[:1], end[1:]]):
            assert heard(codec(size), *way) == [event]


def test_the_limit_of_plain_messages_holds_beside_deflate_too() -> None:
    """By the length that is claimed."""
    assert heard(codec(100), frame(BINARY, b"x" * 100), frame(BINARY, length=101)) == [b"x" * 100, TOO_BIG]


LIMIT = 64 * 1024
BOMB = deflate(bytes(64 * 2**20))
BOMBS = {  # 64 MiB, in ways that hide it
    "in one frame": compressed(BOMB, BINARY),
    "in fragments": b"".join(
        frame(CONTINUATION if start else BINARY, BOMB[start : start + 999], rsv=0 if start else 4, fin=False)
        for start in range(0, len(BOMB), 999)
    ),
    "behind an empty frame": compressed(b"", BINARY, fin=False) + frame(CONTINUATION, BOMB),
    "behind a good message": compressed(deflate(b"good")) + compressed(BOMB, BINARY),
}


def peak_of(frames: Frames, data: bytes) -> tuple[int, object]:
    """Take data as a socket gives it, one event at a time: how much memory that took, and the last event."""
    last: object = None
    tracemalloc.start()
    try:
        for start in range(0, len(data), 65_536):
            for last in frames.receive(data[start : start + 65_536]):
                if isinstance(last, Goodbye):
                    return tracemalloc.get_traced_memory()[1], last
        return tracemalloc.get_traced_memory()[1], last
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_before_it_is_inflated(data: bytes) -> None:
    """1009, and never much more memory than one message may have."""
    peak, last = peak_of(codec(LIMIT), data)
    assert last == TOO_BIG
    assert peak < 12 * LIMIT


def test_many_small_bombs_are_inflated_one_by_one() -> None:
    """Each of them is a message that may come: 65 kB hold 800 of 64 KiB. Only one is in memory at a time."""
    packed = compressed(deflate(bytes(LIMIT)), BINARY)
    data = packed * (65_536 // len(packed))
    assert len(data) // len(packed) > 500
    peak, last = peak_of(codec(LIMIT), data)
    assert last == bytes(LIMIT)
    assert peak < 12 * LIMIT


# ---------------------------------------------------------------- what goes out


def inflated(unpacker: zlib._Decompress, data: bytes) -> bytes:  # type: ignore[name-defined]
    """A short compressed frame's message."""
    assert data[0] & 0x70 == 0x40
    body = data[{126: 4, 127: 10}.get(data[1], 2) :]
    return unpacker.decompress(body + b"\x00\x00\xff\xff")


@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize("takeover", [True, False], ids=["takeover", "no takeover"])
def test_messages_go_out_compressed_as_it_was_agreed(bits: int, takeover: bool) -> None:
    """In the window that the client has, and each for itself where it asked for that."""
    agreed = f"{PMD}; server_max_window_bits={bits}" + ("" if takeover else "; server_no_context_takeover")
    frames, unpacker = codec(agreed=agreed), zlib.decompressobj(-bits)
    message = random.Random(5).randbytes(200)
    sizes = []
    for sent in (message, message, b"", message * 30, message):
        unpacker = unpacker if takeover else zlib.decompressobj(-bits)
        data = bytes(frames.encode(sent))
        assert data[0] == 0xC2 and inflated(unpacker, data) == sent
        sizes.append(len(data))
    assert (sizes[1] < sizes[0] / 2) == takeover
    text = bytes(frames.encode("é"))
    assert text[0] == 0xC1
    assert inflated(unpacker if takeover else zlib.decompressobj(-bits), text).decode() == "é"


def test_one_direction_knows_nothing_of_the_other() -> None:
    """What comes in compressed leaves no trace in what goes out, and the other way round."""
    frames, alone = codec(), codec()
    heard(frames, compressed(deflate(b"abcdefgh" * 20)))
    assert frames.encode("abcdefgh" * 20) == alone.encode("abcdefgh" * 20)
    assert heard(frames, compressed(HELLO)) == ["hello"]
