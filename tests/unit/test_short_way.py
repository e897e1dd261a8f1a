# SPDX-License-Identifier: MIT
"""The short way that ordinary frames take is proved equal to the long one, through wsproto alone.

Both get the same bytes in the same pieces, and have to make the same events: types, values and order, up to
the goodbye with its code and its reason. The same for frames that go out.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Generator, Iterable
from typing import Any

import broken
import pytest
from fuzz import SEED, TIMES, cut, mutated
from hearing import PMD, bytewise, heard
from support import *
from wsproto.frame_protocol import FrameProtocol

from wsdual import Answer, Frames, Goodbye, Limits

AGREEMENTS = ("", PMD, f"{PMD}; client_no_context_takeover", f"{PMD}; client_max_window_bits=9")


class LongWay(Frames):
    """No frame is ordinary: wsproto reads them all."""

    def ordinary(self, data: bytes) -> Generator[str | bytes | Answer | Goodbye, None, bytes]:
        """Take nothing."""
        return data
        yield


def compare(pieces: Iterable[bytes], limit: int, agreed: str = "") -> list[object]:
    """Both ways make the same of these pieces; return it."""
    pieces, limits = tuple(pieces), Limits(message=limit)
    short, long = (heard(way(limits, agreed), *pieces) for way in (Frames, LongWay))
    assert list(map(type, short)) == list(map(type, long)) and short == long, (pieces, limit, agreed)
    return short


def compare_all_cuts(data: bytes, limit: int, agreed: str = "") -> None:
    """Whole, byte by byte, and in two pieces at every place."""
    compare([data], limit, agreed)
    compare(bytewise(data), limit, agreed)
    for place in range(1, len(data)):
        compare([data[:place], data[place:]], limit, agreed)


# ---------------------------------------------------------------- frames of every form


def raw(first: int, length: bytes, payload: bytes, mask: bytes) -> bytes:
    """A frame of any bytes. Args: first, FIN, RSV and opcode; length, with the bit for the mask."""
    return bytes([first]) + length + mask + (mask_bytes(payload, mask) if mask else payload)


def length_in(form: int, size: int, masked: bool = True) -> bytes:
    """A length in 1, 2 or 8 bytes, the shortest form or not; where it doesn't fit in, what is left of it."""
    bit = 0x80 if masked else 0
    if form == 1:
        return bytes([bit | size & 0x7F])
    return bytes([bit | (126 if form == 2 else 127)]) + (size % 256**form).to_bytes(form, "big")


OPCODES = (CONTINUATION, TEXT, BINARY, 3, CLOSE, PING, PONG, 15)
FIRSTS = [fin | rsv | opcode for opcode in OPCODES for rsv in (0, 0x40, 0x30) for fin in (0x80, 0)]
BODIES = [b"", "é".encode(), b"\x03\xe8", b"x" * 125, b"y" * 126]
BEFORE = {
    "behind a message": frame(TEXT, b"one"),
    "behind a compressed message": frame(TEXT, deflate(b"one"), rsv=4) + frame(TEXT, b"two"),
    "behind a fragment": frame(TEXT, b"one", fin=False),
    "behind half a character": frame(TEXT, b"\xc3", fin=False),
    "behind half a header": b"\x81",
    "behind half a message": frame(BINARY, b"", length=3),
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("agreed", AGREEMENTS[:2], ids=["no deflate", "deflate"])
def test_a_frame_of_any_form_is_the_same_on_both_ways(before: bytes, agreed: str) -> None:
    """Each first byte, each form of a length, masked or not, limits around it, and an ordinary one behind."""
    behind = frame(TEXT, b"two", mask=b"mask")
    for first in FIRSTS:
        for body in BODIES:
            for form in (1, 2, 8):
                for mask in (b"\x01\x02\x03\x04", b""):
                    data = raw(first, length_in(form, len(body), bool(mask)), body, mask)
                    for limit in (len(body) or 1, len(body) + 3):
                        compare([before + data + behind], limit, agreed)


@pytest.mark.parametrize("size", [0, 1, 5, 124, 125, 126, 127, 1000, 65_526, 65_535, 65_536, 66_000])
def test_a_length_around_the_limit_is_the_same_on_both_ways(size: int) -> None:
    """In each form; the limit a byte shorter, the same, and a byte longer; whole, and a byte short."""
    for form in (1, 2, 8):
        data = raw(0x82, length_in(form, size), b"x" * size, b"mask") + frame(TEXT, b"two")
        for limit in (size - 1, size, size + 1):
            if limit > 0:
                compare([data], limit)
                compare([data[: size + 5], data[size + 5 :]], limit, PMD)


TEXTS = [
    b"\x7f", b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc2", b"\xc2\x80", b"\xdf\xbf", b"\xe0\x80\x80",
    b"\xe0\xa0\x80", b"\xed\x9f\xbf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xee\x80\x80", b"\xef\xbb\xbf",
    b"\xef\xbf\xbe", b"\xf0\x80\x80\x80", b"\xf0\x90\x80\x80", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfe", b"\xff", b"\0", b"\r\n", b"a\xc3", b"\xa9a",
]  # fmt: skip


@pytest.mark.parametrize("agreed", AGREEMENTS[:2], ids=["no deflate", "deflate"])
def test_text_is_the_same_on_both_ways(agreed: str) -> None:
    """What is UTF-8 and what is not, with ordinary frames around it, and as bytes."""
    for text in TEXTS:
        for opcode in (TEXT, BINARY):
            compare_all_cuts(frame(TEXT, b"a") + frame(opcode, text) + frame(TEXT, b"b"), 100, agreed)


@pytest.mark.parametrize(("data", "limit"), [(data, 2**20) for _, data, _ in broken.FRAMES],
                         ids=[name for name, _, _ in broken.FRAMES])  # fmt: skip
@pytest.mark.parametrize("agreed", AGREEMENTS[:2], ids=["no deflate", "deflate"])
def test_broken_frames_are_the_same_on_both_ways_wherever_they_are_cut(
    data: bytes, limit: int, agreed: str
) -> None:
    """With a good one before and behind: what breaks the rules is for wsproto alone to judge."""
    compare_all_cuts(frame(TEXT, b"good") + data + frame(BINARY, b"more"), limit, agreed)


# ---------------------------------------------------------------- streams of many frames


class Client:
    """A client that says anything, mostly in a good order."""

    def __init__(self, chance: random.Random, agreed: str, limit: int) -> None:
        self._chance, self._agreed, self._limit = chance, agreed, limit
        bits = 9 if agreed.endswith("=9") else 15
        self._packer = zlib.compressobj(6, zlib.DEFLATED, -bits)

    def stream(self) -> bytes:
        """Some messages, with control frames between them; sometimes a few bytes are then changed."""
        chance = self._chance
        says = (self._whole, self._whole, self._whole, self._fragments, self._control, self._strange)
        data = b"".join(chance.choice(says)() for _ in range(chance.randint(1, 8)))
        if chance.random() < 0.3:
            data = mutated(chance, data)
        return data[: chance.randint(0, len(data))] if chance.random() < 0.2 else data

    def _payload(self) -> bytes:
        chance, limit = self._chance, self._limit
        sizes = (0, 1, 2, 7, 125, 126, 127, 300, limit - 1, limit, limit, limit + (chance.random() < 0.1))
        if chance.random() < 0.1:
            return frame(TEXT, b"inner", mask=bytes(4))  # cut there, it looks like a frame of its own
        text = chance.choice(("a", "a", "é", "😀")).encode()
        size = max(0, chance.choice(sizes))
        whole = text * (size // len(text))
        return whole + text[: size - len(whole)] if chance.random() < 0.2 else whole  # half a character

    def _packed(self, payload: bytes) -> bytes:
        if "no_context" in self._agreed:
            return deflate(payload)
        return (self._packer.compress(payload) + self._packer.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def _whole(self) -> bytes:
        payload, opcode = self._payload(), self._chance.choice((TEXT, BINARY))
        if self._agreed and self._chance.random() < 0.4:
            return self._frame(opcode, self._packed(payload), rsv=4)
        return self._frame(opcode, payload)

    def _fragments(self) -> bytes:
        chance, payload, rsv = self._chance, self._payload(), 0
        if self._agreed and chance.random() < 0.5:
            payload, rsv = self._packed(payload), 4
        parts = cut(chance, payload, chance.randint(2, 4))
        data = self._frame(chance.choice((TEXT, BINARY)), parts[0], fin=False, rsv=rsv)
        for number, part in enumerate(parts[1:], 2):
            data += self._control() if chance.random() < 0.4 else b""
            data += self._whole() if chance.random() < 0.05 else b""  # which is wrong there
            data += self._frame(CONTINUATION, part, fin=number == len(parts))
        return data

    def _control(self) -> bytes:
        opcode = self._chance.choice((PING, PING, PONG, PONG, CLOSE))
        return self._frame(opcode, self._chance.choice((b"", b"\x03\xe8", b"\x03\xe8why", b"x" * 125)))

    def _strange(self) -> bytes:
        """Sometimes a frame that is like no other, else nothing."""
        chance, body = self._chance, self._payload()
        if chance.random() < 0.7:
            return b""
        mask = chance.choice((b"", b"mask"))
        length = length_in(chance.choice((1, 2, 8)), len(body), bool(mask))
        return raw(chance.choice(FIRSTS), length, body, mask)

    def _frame(self, opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
        mask = bytes(4) if self._chance.random() < 0.4 else self._chance.randbytes(4)
        return frame(opcode, payload, fin=fin, rsv=rsv, mask=mask)


def any_pieces(chance: random.Random, data: bytes) -> list[list[bytes]]:
    """The same bytes whole, one by one where they are few, and cut at random places, few and many."""
    few = [bytewise(data)] if len(data) < 500 else []
    return [[data], *few, cut(chance, data, 2), cut(chance, data, chance.randint(3, 40))]


@pytest.mark.parametrize("agreed", AGREEMENTS, ids=lambda agreed: agreed or "no deflate")
def test_seeded_streams_are_the_same_on_both_ways(agreed: str) -> None:
    """Valid, broken and mixed, cut anywhere, with limits around the lengths: the same events."""
    chance = random.Random(f"{SEED} {agreed}")
    kinds = set()
    for _ in range(int(100 * TIMES)):
        limit = chance.choice((1, 7, 125, 126, 127, 300, 300, 1000, 65_535, 65_536))
        data = Client(chance, agreed, limit).stream()
        for pieces in any_pieces(chance, data):
            kinds |= {(type(event), getattr(event, "code", 0)) for event in compare(pieces, limit, agreed)}
    assert {(str, 0), (bytes, 0), (Answer, 0)} <= kinds  # so there was something to compare
    assert {(Goodbye, code) for code in (1000, 1002, 1007, 1009)} <= kinds


def made_by(some: Any) -> Any:
    """Streams as hypothesis makes them. Args: some, its strategies."""
    bodies = some.one_of(
        some.binary(max_size=40), some.text(max_size=20).map(str.encode), some.sampled_from(BODIES),
        some.binary(max_size=20).map(deflate), some.integers(120, 300).map(bytes),
    )  # fmt: skip
    firsts = some.one_of(some.sampled_from([0x81, 0x82, 0x01, 0x80, 0xC1, 0x89, 0x88]), some.integers(0, 255))
    masks = some.one_of(some.binary(min_size=4, max_size=4), some.just(b""))
    lies = some.sampled_from([0, 0, 0, 1, -1, 300])  # of the length

    def strange(first: int, form: int, body: bytes, mask: bytes, lie: int) -> bytes:
        return raw(first, length_in(form, len(body) + lie, bool(mask)), body, mask)

    frames = some.builds(strange, firsts, some.sampled_from([1, 1, 2, 8]), bodies, masks, lies)
    good = some.builds(frame, some.sampled_from([TEXT, TEXT, BINARY]), bodies, mask=masks.filter(bool))
    one_strange = some.one_of(frames, some.binary(max_size=9), some.just(b""))
    several = some.lists(good, max_size=4).map(b"".join)
    return some.tuples(several, one_strange, several).map(b"".join)


def test_streams_that_hypothesis_makes_are_the_same_on_both_ways() -> None:
    """It looks for those that are hard, and makes one that fails as short as it can."""
    hypothesis = pytest.importorskip("hypothesis", reason="hypothesis isn't installed")
    some = hypothesis.strategies

    def check(data: bytes, places: list[int], limit: int, agreed: str) -> None:
        edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
        compare([data[a:b] for a, b in zip(edges, edges[1:], strict=False)], limit, agreed)
        compare([data], limit, agreed)

    settings = hypothesis.settings(
        max_examples=max(1, int(300 * TIMES)), deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    limits = some.sampled_from([40, 125, 126, 127, *[2**20] * 6])
    places = some.lists(some.integers(0, 2000), max_size=3)
    given = hypothesis.given(made_by(some), places, limits, some.sampled_from(AGREEMENTS))
    hypothesis.seed(SEED)(settings(given(check)))()


# ---------------------------------------------------------------- the way out

EDGES = (1, 125, 126, 127, 65_535, 65_536, 100_000)
SIZES = sorted({edge + step for edge in EDGES for step in (-1, 0, 1)})


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, str])
def test_a_message_goes_out_as_wsproto_would_send_it(kind: type) -> None:
    """Around each length at which the form of a frame changes, and of characters of several bytes too."""
    protocol = FrameProtocol(client=False, extensions=[])
    frames = Frames(Limits())
    for size in SIZES:
        messages = ["x" * size, "é" * (size // 2), "😀" * (size // 4)]
        if kind is not str:
            messages = [kind(message.encode()) for message in messages]
        for message in messages:
            expected = bytes(protocol.send_data(message))
            assert frames.plain(message) == expected
            assert frames.encode(message) == expected
