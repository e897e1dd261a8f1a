# SPDX-License-Identifier: MIT
"""A native client's lines without a socket: bytes in, events out; messages in, bytes out."""

from __future__ import annotations

import json
import random
import tracemalloc

import pytest
from fuzz import SEED, TIMES, cut
from hearing import bytewise, heard, last_code
from support import *

from wsdual import Goodbye, Limits, Lines

LIMIT = 12
TOO_LONG = Goodbye(1007, "a line has at most 12 bytes", fault=True)
NO_TEXT = Goodbye(1007, "a line is text in UTF-8", fault=True)

STREAMS: dict[str, tuple[bytes, list[object]]] = {
    "nothing": (b"", []),
    "a line": (b"hello\n", ["hello"]),
    "half a line": (b"hello", []),
    "an empty line": (b"\n", [""]),
    "CRLF": (b"hello\r\n", ["hello"]),
    "an empty line with CRLF": (b"\r\n", [""]),
    "two CRs": (b"a\r\r\n", ["a\r"]),
    "a CR inside": (b"a\rb\n", ["a\rb"]),
    "LF, then CR": (b"a\n\rb\n", ["a", "\rb"]),
    "several": (b"a\nb\r\n\nc\nd", ["a", "b", "", "c"]),
    "characters": ("é€😀\n".encode(), ["é€😀"]),
    "a NUL": (b"a\0b\n", ["a\0b"]),
    "other ends of a line are none": ("a\x0bb\x0c\x85\u2028\n".encode(), ["a\x0bb\x0c\x85\u2028"]),
    "of just the limit": (b"x" * 12 + b"\n", ["x" * 12]),
    "of just the limit, with CRLF": (b"x" * 12 + b"\r\n", ["x" * 12]),
    "of just the limit, not ended yet": (b"x" * 12 + b"\r", []),
    "too long": (b"x" * 13 + b"\n", [TOO_LONG]),
    "too long, with CRLF": (b"x" * 13 + b"\r\n", [TOO_LONG]),
    "too long by a CR": (b"x" * 12 + b"\r\r\n", [TOO_LONG]),
    "too long, and never ended": (b"x" * 14, [TOO_LONG]),
    "too long in bytes": ("é".encode() * 7 + b"\n", [TOO_LONG]),
    "too long behind a good one": (b"good\n" + b"x" * 13 + b"\nmore\n", ["good", TOO_LONG]),
    "no text": (b"\xff\n", [NO_TEXT]),
    "no text, not ended yet": (b"\xff", []),
    "half a character": (b"\xc3\n\xa9\n", [NO_TEXT]),
    "a surrogate": (b"\xed\xa0\x80\n", [NO_TEXT]),
    "no text behind a good one": (b"good\n\xff\nmore\n", ["good", NO_TEXT]),
}


@pytest.mark.parametrize(("data", "events"), STREAMS.values(), ids=STREAMS)
def test_lines_become_the_same_messages_however_they_were_cut(data: bytes, events: list[object]) -> None:
    """Whole, byte by byte, and in two pieces at every place. The first that is wrong is the last."""
    assert heard(Lines(Limits(message=LIMIT)), data) == events
    assert heard(Lines(Limits(message=LIMIT)), *bytewise(data)) == events
    for place in range(1, len(data)):
        assert heard(Lines(Limits(message=LIMIT)), data[:place], data[place:]) == events, place


def test_any_bytes_are_the_same_lines_however_they_were_cut() -> None:
    """As a simple model splits them, with limits around their lengths."""
    chance = random.Random(SEED)
    for _ in range(int(200 * TIMES)):
        limit, rare = chance.randint(1, 9), chance.choice((b"\xff", "é".encode(), b"\xc3", b"\r\n", b""))
        data = b"".join(chance.choice((b"a", b"b", b"\n", b"\r", rare)) for _ in range(40))
        expected = modelled(data, limit)
        for pieces in ([data], bytewise(data), cut(chance, data, chance.randint(2, 9))):
            events = heard(Lines(Limits(message=limit)), *pieces)
            assert [event.reason if isinstance(event, Goodbye) else event for event in events] == expected


def modelled(data: bytes, limit: int) -> list[str]:
    """The lines of some bytes, and the reason for a goodbye."""
    events: list[str] = []
    too_long = f"a line has at most {limit} bytes"
    *lines, rest = data.split(b"\n")
    for line in lines:
        line = line.removesuffix(b"\r")
        if len(line) > limit:
            return [*events, too_long]
        try:
            events.append(line.decode())
        except ValueError:
            return [*events, "a line is text in UTF-8"]
    return [*events, too_long] if len(rest) > limit + 1 else events


def test_a_line_without_an_end_takes_no_more_memory_than_the_limit() -> None:
    """It is refused as soon as it is too long, in pieces too."""
    lines = Lines(Limits(message=100_000))
    tracemalloc.start()
    try:
        for _ in range(100):
            assert list(lines.receive(b"x" * 1000)) == []
        assert last_code(lines.receive(b"x" * 1000)) == (1007, True)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


WAYS_OUT: list[tuple[str | bytes, bytes]] = [
    ("", b"\n"),
    ("hello", b"hello\n"),
    ("é", b"\xc3\xa9\n"),
    (b"\xff", b"\xff\n"),
    ("a\rb", b"a\rb\n"),
    ("x" * 100_000, b"x" * 100_000 + b"\n"),  # the limit is for what comes in
]


@pytest.mark.parametrize(("message", "data"), WAYS_OUT, ids=[repr(entry[0][:9]) for entry in WAYS_OUT])
def test_a_message_becomes_one_line(message: str | bytes, data: bytes) -> None:
    """Whoever encodes it."""
    lines = Lines(Limits(message=LIMIT))
    assert lines.encode(message) == lines.plain(message) == data


@pytest.mark.parametrize("message", ["\n", "a\nb", "a\n", b"a\nb", "a\r\nb", "\ud800"], ids=ascii)
def test_what_is_no_line_is_a_value_error(message: str | bytes) -> None:
    """A newline in a message would make two of it; half a surrogate is no UTF-8."""
    with pytest.raises(ValueError):
        Lines(Limits()).encode(message)


def test_a_goodbye_is_a_last_line_where_it_matters() -> None:
    """Nothing for an ordinary end; else the reason, which may hold anything."""
    lines = Lines(Limits())
    assert lines.goodbye(1000, "whatever") == b""
    for reason in ("the end", "two\nlines", 'a "quote"', "é"):
        line = bytes(lines.goodbye(1001, reason))
        assert line.endswith(b"\n") and line.count(b"\n") == 1
        assert json.loads(line) == {"type": "error", "reason": reason}


def test_a_line_asks_nothing() -> None:
    """There is no ping: TCP's keep-alive finds the dead ones."""
    assert Lines(Limits()).ping() == b""
