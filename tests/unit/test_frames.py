# SPDX-License-Identifier: MIT
"""WebSocket frames without a socket: bytes in, events out; messages in, bytes out."""

from __future__ import annotations

import broken
import pytest
from hearing import PMD, bytewise, heard, last_code
from support import *

from wsdual import EMPTY_FRAMES, Answer, Frames, Goodbye, Limits

LIMIT = 1000


def codec(limit: int = LIMIT, deflate: str = "") -> Frames:
    """Frames with a limit for messages."""
    return Frames(Limits(message=limit), deflate)


def pong(payload: bytes = b"") -> Answer:
    """The answer to a ping."""
    return Answer(bytes([0x8A, len(payload)]) + payload)


# ---------------------------------------------------------------- what becomes a message

E_ACUTE = "é".encode()
STREAMS: dict[str, tuple[bytes, list[object]]] = {
    "nothing": (b"", []),
    "text": (frame(TEXT, b"hello"), ["hello"]),
    "bytes": (frame(BINARY, b"\x00\xff"), [b"\x00\xff"]),
    "no text": (frame(TEXT), [""]),
    "no bytes": (frame(BINARY), [b""]),
    "a mask of zeros": (frame(TEXT, b"hello", mask=bytes(4)), ["hello"]),
    "a mask of ones": (frame(TEXT, b"hello", mask=b"\xff" * 4), ["hello"]),
    **{
        f"{size} bytes": (frame(BINARY, b"\xa5" * size), [b"\xa5" * size])
        for size in (1, 2, 3, 4, 5, 124, 125, 126, 127, 255, 256, 257, LIMIT - 1, LIMIT)
    },
    "many characters": (frame(TEXT, "aé€😀".encode()), ["aé€😀"]),
    "two messages": (frame(TEXT, b"a") + frame(BINARY, b"b"), ["a", b"b"]),
    "two fragments": (frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b"), ["ab"]),
    "three fragments": (
        frame(BINARY, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False) + frame(CONTINUATION, b"c"),
        [b"abc"],
    ),
    "fragments of a character": (
        frame(TEXT, E_ACUTE[:1], fin=False) + frame(CONTINUATION, E_ACUTE[1:]), ["é"],
    ),
    "fragments of nothing": (frame(TEXT, fin=False) + frame(CONTINUATION), [""]),
    "an empty end": (frame(BINARY, b"a", fin=False) + frame(CONTINUATION), [b"a"]),
    "a whole message behind fragments": (
        frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b") + frame(TEXT, b"c"), ["ab", "c"],
    ),
    "a ping": (frame(PING, b"you?"), [pong(b"you?")]),
    "an empty ping": (frame(PING), [pong()]),
    "the longest ping": (frame(PING, b"x" * 125), [pong(b"x" * 125)]),
    "a pong that nobody asked for": (frame(PONG, b"me"), []),
    "a ping between messages": (
        frame(TEXT, b"a") + frame(PING, b"1") + frame(TEXT, b"b"), ["a", pong(b"1"), "b"],
    ),
    "control frames between fragments": (
        frame(TEXT, b"a", fin=False) + frame(PING, b"1") + frame(PONG, b"2") + frame(CONTINUATION, b"b"),
        [pong(b"1"), "ab"],
    ),
    "a ping in the midst of a character": (
        frame(TEXT, E_ACUTE[:1], fin=False) + frame(PING) + frame(CONTINUATION, E_ACUTE[1:]), [pong(), "é"],
    ),
    "a close": (frame(CLOSE, b"\x03\xe8"), [Goodbye(1000, "")]),
    "a close without a code": (frame(CLOSE), [Goodbye(1005, "")]),
    "a close with a reason": (frame(CLOSE, b"\x03\xe9" + "grüß".encode()), [Goodbye(1001, "grüß")]),
    "a close with the longest reason": (
        frame(CLOSE, b"\x03\xe8" + b"r" * 123), [Goodbye(1000, "r" * 123)],
    ),
    "a close between fragments": (
        frame(TEXT, b"a", fin=False) + frame(CLOSE, b"\x03\xe8"), [Goodbye(1000, "")],
    ),
    "more behind a close": (
        frame(TEXT, b"a") + frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"b"), ["a", Goodbye(1000, "")],
    ),
    **{
        f"close code {code}": (frame(CLOSE, code.to_bytes(2, "big")), [Goodbye(code, "")])
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999)
    },
}  # fmt: skip


@pytest.mark.parametrize(("data", "events"), STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("deflate", ["", PMD], ids=["no deflate", "deflate"])
def test_frames_become_the_same_events_however_they_were_cut(
    data: bytes, events: list[object], deflate: str
) -> None:
    """Whole, byte by byte, and in two pieces at every place near a header."""
    assert heard(codec(deflate=deflate), data) == events
    assert heard(codec(deflate=deflate), *bytewise(data)) == events
    for place in range(1, min(len(data), 40)):
        assert heard(codec(deflate=deflate), data[:place], data[place:]) == events, place


@pytest.mark.parametrize("size", [65535, 65536, 70_000])
def test_large_messages_arrive(size: int) -> None:
    """Lengths in two bytes and in eight."""
    message = (bytes(range(250)) * (size // 250 + 1))[:size]
    data = frame(BINARY, message)
    assert heard(codec(size), data) == [message]
    assert heard(codec(size), data[:3], data[3:9], data[9:14], data[14:60_000], data[60_000:]) == [message]


BROKEN = {
    f"{name}, {deflate or 'no deflate'}": (data, code, deflate)
    for name, data, code in broken.FRAMES
    for deflate in ("", PMD)
    if not (deflate and data[0] >> 4 == 0xC)  # this bit then says that the frame is compressed
}


@pytest.mark.parametrize(("data", "code", "deflate"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_rules_ends_with_its_code(data: bytes, code: int, deflate: str) -> None:
    """Behind a good message, which still counts; whole and byte by byte; and nothing behind it is taken."""
    good, more = frame(TEXT, b"good"), frame(TEXT, b"more")
    for pieces in ([good + data + more], [good, data, more], bytewise(good + data + more)):
        first, *others = heard(codec(2**20, deflate), *pieces)
        assert first == "good" and len(others) == 1
        assert last_code(others) == (code, True)


LENGTHS = {  # a header: whether its length is the shortest form
    "0 in 2 bytes": (b"\x82\xfe\x00\x00", False),
    "125 in 2 bytes": (b"\x82\xfe\x00\x7d", False),
    "126 in 2 bytes": (b"\x82\xfe\x00\x7e", True),
    "0 in 8 bytes": (b"\x82\xff" + bytes(8), False),
    "126 in 8 bytes": (b"\x82\xff" + (126).to_bytes(8, "big"), False),
    "65535 in 8 bytes": (b"\x82\xff" + (65535).to_bytes(8, "big"), False),
    "65536 in 8 bytes": (b"\x82\xff" + (65536).to_bytes(8, "big"), True),
}


@pytest.mark.parametrize(("header", "shortest"), LENGTHS.values(), ids=LENGTHS)
def test_a_length_stands_in_the_shortest_form(header: bytes, shortest: bool) -> None:
    """Any longer one is a protocol error. (RFC 6455 section 5.2)"""
    size = int.from_bytes(header[2:], "big")
    events = heard(codec(2**20), header + bytes(4 + size))
    assert events == [bytes(size)] if shortest else last_code(events) == (1002, True)


# ---------------------------------------------------------------- limits

SIZES = [1, 60, 125, 126, 300, 65_535, 65_536, 70_000]  # all three forms of a length


def header_of(data: bytes) -> int:
    """Bytes before the mask."""
    return {126: 4, 127: 10}.get(data[1] & 0x7F, 2)


def in_steps(*frames: bytes) -> list[bytes]:
    """Each frame's header, mask and payload on their own."""
    pieces = []
    for data in frames:
        size = header_of(data)
        pieces += [data[:size], data[size : size + 4], data[size + 4 :]]
    return pieces


def in_frames(message: bytes, count: int) -> list[bytes]:
    """A binary message in so many frames."""
    step = -(-len(message) // count)
    parts = [message[number * step : (number + 1) * step] for number in range(count)]
    return [frame(CONTINUATION if number else BINARY, part, fin=number == count - 1)
            for number, part in enumerate(parts)]  # fmt: skip


@pytest.mark.parametrize("deflate", ["", PMD], ids=["no deflate", "deflate"])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", SIZES)
def test_a_message_of_just_the_limit_passes_and_one_more_byte_does_not(
    size: int, count: int, deflate: str
) -> None:
    """In one frame and in several, whole and with each header, mask and payload on its own; and again."""
    exact = in_frames(b"x" * size, count)
    too_many = in_frames(b"x" * (size + 1), count)
    for cut in (lambda frames: [b"".join(frames)], lambda frames: frames, lambda frames: in_steps(*frames)):
        frames = codec(size, deflate)
        assert heard(frames, *cut(exact), *cut(exact)) == [b"x" * size] * 2
        assert heard(frames, *cut(too_many)) == [Goodbye(1009, "message too big", fault=True)]


CLAIMS = {  # of one too many, with a limit of 1000
    "in one frame": frame(BINARY, b"", length=1001),
    "the longest": frame(BINARY, b"", length=2**63 - 1),
    "in the second": frame(BINARY, b"x" * 600, fin=False) + frame(CONTINUATION, length=401),
    "behind an empty one": frame(TEXT, fin=False) + frame(CONTINUATION, length=1001),
    "behind a ping": frame(TEXT, b"x", fin=False) + frame(PING, b"?") + frame(CONTINUATION, length=1000),
}


@pytest.mark.parametrize("data", CLAIMS.values(), ids=CLAIMS)
def test_a_length_that_is_too_large_is_refused_when_it_is_claimed(data: bytes) -> None:
    """The header is enough, before the mask and the first byte have come."""
    without_mask = data[:-4]
    for pieces in ([without_mask], bytewise(without_mask)):
        assert last_code(heard(codec(), *pieces)) == (1009, True)


@pytest.mark.parametrize("before", [frame(BINARY, b"x" * 60), frame(BINARY, deflate(b"x" * 60), rsv=4)],
                         ids=["plain", "compressed"])  # fmt: skip
def test_nothing_of_a_message_is_held_against_the_next_frame(before: bytes) -> None:
    """A continuation of nothing is a protocol error, and not too big for what it doesn't continue."""
    fits, too_long = before + frame(CONTINUATION, b"x" * 60), before + frame(CONTINUATION, length=101)
    for pieces in ([fits], bytewise(fits)):
        assert last_code(heard(codec(100, PMD), *pieces)) == (1002, True)
    for pieces in ([too_long], bytewise(too_long)):
        assert last_code(heard(codec(100, PMD), *pieces)) == (1009, True)


def test_frames_that_add_nothing_are_bounded_in_number() -> None:
    """So many in one message, and not one more; those that add something don't count."""
    nothing, more = frame(CONTINUATION, fin=False), frame(CONTINUATION, b"x", fin=False)
    begin, end = frame(BINARY, b"a", fin=False), frame(CONTINUATION, b"z")
    half = EMPTY_FRAMES // 2
    as_many = begin + nothing * half + more * 500 + nothing * (EMPTY_FRAMES - half)
    message = b"a" + b"x" * 500 + b"z"
    assert heard(codec(), as_many + end, as_many + end) == [message, message]
    assert last_code(heard(codec(), as_many + nothing)) == (1009, True)
    with_pings = begin + (nothing + frame(PING)) * (EMPTY_FRAMES + 1)
    assert last_code(heard(codec(), with_pings)) == (1009, True)
    first_counts = frame(TEXT, fin=False) + nothing * EMPTY_FRAMES
    assert last_code(heard(codec(), first_counts)) == (1009, True)


# ---------------------------------------------------------------- the way out

WAYS_OUT: list[tuple[str | bytes, bytes]] = [
    ("", b"\x81\x00"),
    (b"", b"\x82\x00"),
    ("hi", b"\x81\x02hi"),
    ("é", b"\x81\x02\xc3\xa9"),
    (b"\xff", b"\x82\x01\xff"),
    (b"x" * 125, b"\x82\x7d" + b"x" * 125),
    (b"x" * 126, b"\x82\x7e\x00\x7e" + b"x" * 126),
    ("é" * 63, b"\x81\x7e\x00\x7e" + "é".encode() * 63),  # what counts is its bytes
    (b"x" * 65_535, b"\x82\x7e\xff\xff" + b"x" * 65_535),
    (b"x" * 65_536, b"\x82\x7f" + (65_536).to_bytes(8, "big") + b"x" * 65_536),
]


@pytest.mark.parametrize(("message", "data"), WAYS_OUT, ids=[f"{m[:2]!r} {len(m)}" for m, _ in WAYS_OUT])
def test_a_message_becomes_one_frame_that_is_not_masked(message: str | bytes, data: bytes) -> None:
    """With the shortest length. Where deflate was agreed too, what is plain stays plain."""
    assert codec().encode(message) == data
    assert codec().plain(message) == data
    assert codec(deflate=PMD).plain(message) == data


def test_text_that_utf8_cannot_carry_is_a_value_error_and_harms_nothing() -> None:
    """Half a surrogate; the next message goes out as ever."""
    for deflate in ("", PMD):
        frames = codec(deflate=deflate)
        with pytest.raises(ValueError):
            frames.encode("\ud800")
        assert frames.encode(b"next")[0] & 0x8F == 0x82


GOODBYES: list[tuple[int, str, bytes]] = [
    (1000, "", b"\x88\x02\x03\xe8"),
    (1001, "the end", b"\x88\x09\x03\xe9the end"),
    (4999, "", b"\x88\x02\x13\x87"),
    (1005, "", b"\x88\x00"),
    (1000, "r" * 123, b"\x88\x7d\x03\xe8" + b"r" * 123),
    (1000, "r" * 500, b"\x88\x7d\x03\xe8" + b"r" * 123),
    (1000, "€" * 42, b"\x88\x7d\x03\xe8" + "€".encode() * 41),
    (1000, "é" * 62, b"\x88\x7c\x03\xe8" + "é".encode() * 61),  # never half a character
]


@pytest.mark.parametrize(("code", "reason", "data"), GOODBYES, ids=[f"{g[0]} {g[1][:8]}" for g in GOODBYES])
def test_a_goodbye_is_a_close_frame(code: int, reason: str, data: bytes) -> None:
    """With its code and its reason, which is cut where it is too long; 1005 stands for no code."""
    assert codec().goodbye(code, reason) == data
    assert codec(deflate=PMD).goodbye(code, reason) == data


def test_a_ping_is_one_empty_frame() -> None:
    """Two bytes, in the midst of whatever else goes out."""
    assert codec().ping() == codec(deflate=PMD).ping() == b"\x89\x00"
