# SPDX-License-Identifier: MIT
"""What the first bytes mean, and which addresses are remembered: classify and IpMemory, without a socket."""

from __future__ import annotations

import broken
import pytest

from wsdual import IpMemory, Verdict, classify

HEADS = {
    "nothing": (b"", Verdict.UNKNOWN),
    "one byte of TLS": (b"\x16", Verdict.TLS),
    "two bytes of TLS": (b"\x16\x03", Verdict.TLS),
    "SSL 3": (b"\x16\x03\x00", Verdict.TLS),  # and TLS 1.0: OpenSSL refuses them with an alert
    "TLS": (b"\x16\x03\x01", Verdict.TLS),
    "a ClientHello": (bytes.fromhex("1603010200010001fc0303"), Verdict.TLS),
    **{
        head.decode().strip(): (head, Verdict.HTTP)
        for head in (
            b"G", b"GE", b"GET / HTTP/1.1\r\n", b"HEAD /", b"POST /x", b"PUT /x", b"DELETE /x", b"OPTIONS *",
            b"PATCH /x", b"TRACE /", b"CONNECT a:1",
            b"\r", b"\r\n", b"\r\nGET /",  # an empty line may stand before a request
            b"BREW /pot HTTP/1", b"M-SEARCH * HTTP/", b"get / HTTP/1.1",  # no method that is known: 501
            b"PRI * HTTP/2.0\r\n",  # HTTP/2 without TLS: it gets an answer that says no
        )
    },
    "a brace": (b"{", Verdict.NATIVE),
    "JSON": (b'{"type"', Verdict.NATIVE),
    "a brace, then TLS": (b"{\x16\x03", Verdict.NATIVE),
    **{name: (head, Verdict.UNKNOWN) for name, head in broken.HEADS.items()},
}  # fmt: skip


@pytest.mark.parametrize(("head", "verdict"), HEADS.values(), ids=HEADS)
def test_first_bytes_tell_what_a_connection_is(head: bytes, verdict: Verdict) -> None:
    """One byte is enough for a verdict, and those that follow confirm it."""
    assert classify(head) is verdict


class Clock:
    """A clock that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_address_is_remembered_for_six_seconds_used_or_not() -> None:
    """Asking doesn't use an entry up, and nothing renews it."""
    clock = Clock()
    memory = IpMemory(clock=clock)
    assert not memory.knows("10.0.0.1")
    memory.remember("10.0.0.1")
    clock.now += 3
    assert memory.knows("10.0.0.1") and memory.knows("10.0.0.1")
    memory.remember("10.0.0.1")
    assert memory.entries() == [("10.0.0.1", 3.0)]
    clock.now += 2.999
    assert memory.knows("10.0.0.1")
    clock.now += 0.001
    assert not memory.knows("10.0.0.1")
    assert memory.entries() == []


def test_one_address_is_not_another() -> None:
    """What one client did is not held against its neighbour."""
    memory = IpMemory()
    memory.remember("10.0.0.1")
    assert not memory.knows("10.0.0.2")


def test_the_memory_is_bounded_and_forgets_the_oldest_first() -> None:
    """A flood of addresses costs no more than the capacity."""
    memory = IpMemory(capacity=3, clock=Clock())
    for number in range(10):
        memory.remember(f"10.0.0.{number}")
    assert [ip for ip, _ in memory.entries()] == ["10.0.0.7", "10.0.0.8", "10.0.0.9"]


def test_ten_thousand_addresses_are_remembered_where_nothing_else_is_said() -> None:
    """One more costs the oldest."""
    memory = IpMemory(clock=Clock())
    for number in range(10_001):
        memory.remember(str(number))
    assert not memory.knows("0") and memory.knows("1") and len(memory.entries()) == 10_000
