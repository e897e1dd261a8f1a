# SPDX-License-Identifier: MIT
"""Fuzzing of the parts that take bytes: random and mutated input, the same each time unless $FUZZ_SEED says.

With hypothesis installed the pure functions get its inputs, and its shrinking; without it a generator's.
The seed is printed where a test fails. $FUZZ_TIMES multiplies how much is tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import ssl
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import *

from wsdual import IpMemory, LineBuffer, Verdict, classify, server_context

SEED = int(os.environ.get("FUZZ_SEED", "20240229"))
TIMES = float(os.environ.get("FUZZ_TIMES", "1"))

def fuzzed(count: int) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Run a test function on many random sources of bytes; it takes a random.Random."""

    examples = max(1, int(count * TIMES))

    def decorate(check: Callable[[random.Random], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                import hypothesis  # here, since it takes a second that most runs of a test don't need
            except ImportError:
                try_each_seed(check, examples)
            else:
                randoms = hypothesis.strategies.randoms(use_true_random=False)
                settings = hypothesis.settings(
                    max_examples=examples, deadline=None, database=None,
                    suppress_health_check=list(hypothesis.HealthCheck),
                )  # fmt: skip
                hypothesis.seed(SEED)(settings(hypothesis.given(randoms)(check)))()

        run.__name__, run.__doc__ = check.__name__, check.__doc__
        return run

    return decorate


def try_each_seed(check: Callable[[random.Random], None], examples: int) -> None:
    """Call it with a generator for each seed; print the one that it fails with."""
    for seed in range(SEED, SEED + examples):
        try:
            check(random.Random(seed))
        except BaseException:
            print(f"FUZZ_SEED={seed}")
            raise


def some_bytes(chance: random.Random, longest: int) -> bytes:
    """Bytes that are sometimes like what the server knows."""
    known = [b"\x16\x03\x01", b"\x16\x03", b"GET / HTTP/1.1\r\n", b"PO", b"{", b"\n", b"\r\n", b"\xc3\xa9"]
    size = chance.randint(0, longest)
    if chance.random() < 0.5:
        return bytes(chance.randint(0, 255) for _ in range(size))
    return b"".join(chance.choice(known) for _ in range(chance.randint(1, 4)))[:longest]


def cut(chance: random.Random, data: bytes, pieces: int) -> list[bytes]:
    """Cut bytes at random places."""
    places = sorted(chance.randint(0, len(data)) for _ in range(pieces - 1))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Flip, insert, remove, repeat or replace some of the bytes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed) + 1)
        what = chance.randrange(6)
        if what == 0 and place < len(changed):
            changed[place] ^= 1 << chance.randrange(8)
        elif what == 1:
            changed[place:place] = bytes([chance.randrange(256)])
        elif what == 2:
            del changed[place : place + chance.randint(1, 9)]
        elif what == 3:
            changed[place:place] = changed[place : place + chance.randint(1, 40)]
        elif what == 4 and place < len(changed):
            changed[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x0D, 0x20, 0x2C, 0x3B, 0x22, 0x5B))
        else:
            del changed[place:]
    return bytes(changed)


# ---------------------------------------------------------------- bytes in, verdicts and lines out


@fuzzed(150)
def test_classify_never_raises_and_never_changes_its_mind(chance: random.Random) -> None:
    """Any bytes get a verdict; more of them confirm it or make it unknown, and never turn it into another."""
    data = some_bytes(chance, 40)
    verdicts = [classify(data[:size]) for size in range(len(data) + 1)]
    assert verdicts[0] is Verdict.UNKNOWN
    for shorter, longer in zip(verdicts[1:], verdicts[2:], strict=False):
        assert isinstance(longer, Verdict)
        assert longer in (shorter, Verdict.UNKNOWN), data
    assert classify(bytearray(data)) is classify(data)


@fuzzed(100)
def test_lines_are_the_same_however_their_bytes_were_cut(chance: random.Random) -> None:
    """Any split of any bytes gives the same lines, and the same end where a line is too long or no text."""

    def lines_of(pieces: list[bytes]) -> tuple[list[str], bool]:
        buffer, found = LineBuffer(limit), []
        try:
            for piece in pieces:
                for line in buffer.feed(piece):
                    found.append(line)  # what came before the fault counts
        except ValueError:
            return found, True
        return found, False

    limit = chance.randint(1, 12)
    data = b"".join(some_bytes(chance, 14) + chance.choice((b"\n", b"\r\n", b"")) for _ in range(6))
    at_once, failed = lines_of([data])
    apart, failed_apart = lines_of(cut(chance, data, chance.randint(1, 12)))
    each = lines_of([data[i : i + 1] for i in range(len(data))])
    assert (at_once, failed) == (apart, failed_apart) == each, data
    model: list[str] = []
    *ended, rest = data.split(b"\n")
    with contextlib.suppress(ValueError):
        for line in ended:
            line = line.removesuffix(b"\r")
            if len(line) > limit:
                raise ValueError
            model.append(line.decode())
        assert failed == (len(rest) > limit + 1)
    assert at_once == model


@fuzzed(60)
def test_the_memory_does_what_a_simple_model_does(chance: random.Random) -> None:
    """Remember, ask and wait in any order: the same answers as a list of every entry with its time."""
    now = 0.0
    seconds, capacity = chance.choice((0.0, 1.0, 6.0)), chance.randint(1, 4)
    memory = IpMemory(seconds, capacity, clock=lambda: now)
    model: list[tuple[str, float]] = []
    for _ in range(40):
        now += chance.choice((0.0, 0.5, 1.0, 3.0, 7.0)) * (chance.random() < 0.4)
        model = [(ip, end) for ip, end in model if end > now]
        ip = f"10.0.0.{chance.randint(1, 6)}"
        if chance.random() < 0.5:
            memory.remember(ip)
            if ip not in [known for known, _ in model]:
                model = [*model, (ip, now + seconds)][-capacity:]
            model = [(known, end) for known, end in model if end > now]
        assert memory.knows(ip) == (ip in [known for known, _ in model])
        assert memory.entries() == [(known, end - now) for known, end in model]
        assert len(memory.entries()) <= capacity


def test_a_damaged_certificate_file_is_a_value_error_or_works(tmp_path: Path) -> None:
    """Whatever is wrong with a file, server_context says so in a way that the program can tell: it must not
    bring down a server that reads a renewed one."""
    chance = random.Random(SEED)
    identity = make_identity("localhost")
    originals = [identity.pem() + identity.key_pem(), identity.pfx(), identity.pfx("password")]
    path = tmp_path / "damaged.pfx"
    for number in range(int(150 * TIMES)):
        path.write_bytes(mutated(chance, originals[number % 3]))
        with contextlib.suppress(ValueError, OSError):
            server_context(path, "password" if number % 3 == 2 else None)


# ---------------------------------------------------------------- whole connections


class Session:
    """What one client sends in a whole connection, and what it must get back."""

    def __init__(self, sent: bytes, answer: bytes, secure: bool) -> None:
        self.sent, self.answer, self.secure = sent, answer, secure

    def play(self, address: tuple[str, int], chance: random.Random) -> None:
        """Send it in random pieces, from time to time of one byte, and compare."""
        pieces = cut(chance, self.sent, chance.choice((1, 2, 5, 20, 60)))
        with HandTLS(address) if self.secure else connect(address) as client:
            if isinstance(client, HandTLS):
                client.handshake()
                for piece in pieces:
                    if piece:
                        for part in cut(chance, client.encrypt(piece), chance.choice((1, 1, 2, 4))):
                            client.sock.sendall(part)
                data = b""
                while more := client.receive():
                    data += more
            else:
                for piece in pieces:
                    client.sendall(piece)
                data = read_to_end(client)
        if b"\r\n\r\n" in data:
            data = data.partition(b"\r\n\r\n")[2]
        assert data == self.answer, (pieces, data[:200])


def websocket_session(address: tuple[str, int], chance: random.Random, secure: bool) -> Session:
    """Messages, fragments and pings, and a close; echoes, pongs and a close come back."""
    sent, answer = upgrade_request(address), b""
    for _ in range(chance.randint(1, 8)):
        size = chance.choice((0, 1, 125, 126, 300, 5000))
        text = chance.random() < 0.5
        payload = ("é" * (size // 2) if text else "").encode() or chance.randbytes(size)
        text = text and payload.isascii() or text and size >= 2
        opcode = TEXT if text else BINARY
        parts = cut(chance, payload, chance.choice((1, 1, 2, 5)))
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            sent += frame(CONTINUATION if number else opcode, part, fin=last)
            if not last and chance.random() < 0.5:
                sent += frame(PING, b"%d" % number) + frame(PONG, b"")
                answer += b"\x8a" + bytes([len(b"%d" % number)]) + b"%d" % number
        head = bytes([size_]) if (size_ := len(payload)) < 126 else b"\x7e" + size_.to_bytes(2, "big")
        answer += bytes([0x80 | opcode]) + head + payload
    return Session(sent + frame(CLOSE, b"\x03\xe8"), answer + b"\x88\x02\x03\xe8", secure)


def native_session(chance: random.Random, secure: bool) -> Session:
    """Lines that are all errors, each with its own, and one that ends it."""
    sent = answer = b""
    for _ in range(chance.randint(1, 20)):
        line = json.dumps({"type": chance.choice(("say", "who"))})
        sent += line.encode() + chance.choice((b"\n", b"\r\n"))
        reason = json.dumps('log in first: {"type":"login","name":"..."}')
        answer += b'{"type":"error","reason":%s}\n' % reason.encode()
    last = b'{"type":"error","reason":"a line is text in UTF-8"}\n'
    return Session(sent + b"\xff\n", answer + last, secure)


def test_a_whole_connection_gets_the_same_answers_however_its_bytes_were_cut(server: Program) -> None:
    """ws, wss and native, plain and in TLS, cut at random places into records and segments."""
    chance = random.Random(SEED)
    sessions = []
    for number in range(int(24 * TIMES)):
        if number % 3:
            sessions.append(websocket_session(server.address, chance, number % 2 == 1))
        else:
            sessions.append(native_session(chance, number % 2 == 1))
    with unharmed(server):
        for start in range(0, len(sessions), 8):
            batch = sessions[start : start + 8]
            all_at_once(*(partial(s.play, server.address, random.Random(chance.random())) for s in batch))


# ---------------------------------------------------------------- mutated handshakes


def throw(address: tuple[str, int], data: bytes) -> bytes:
    """Send bytes, end, and return what comes back, whatever the end."""
    received = b""
    with contextlib.suppress(OSError), connect(address) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while more := sock.recv(65536):
            received += more
    return received


def throw_in_tls(address: tuple[str, int], data: bytes) -> bytes:
    """The same behind a good handshake."""
    with contextlib.suppress(OSError), HandTLS(address) as client:
        client.handshake()
        client.sock.sendall(client.encrypt(data))
        client.sock.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ssl.SSLError):
            while more := client.receive():
                received += more
        return received
    return b""


def throw_mutated_records(address: tuple[str, int], seed: float) -> None:
    """A TLS handshake that goes wrong at a random flight."""
    chance = random.Random(seed)
    with contextlib.suppress(OSError, ssl.SSLError), HandTLS(address) as client:
        healthy = chance.randint(0, 1)
        flights = 0

        def send(data: bytes) -> None:
            nonlocal flights
            if data:
                client.sock.sendall(data if flights < healthy else mutated(chance, data))
                flights += 1

        client.sock.settimeout(0.3)  # a mutated length makes the server wait: this client doesn't
        client.handshake(send)


ANSWERS = (b"HTTP/1.1 ", b"\x15\x03", b"{", b"\x88", b"\x81", b"")


@pytest.mark.parametrize("kind", ["http", "https", "hello", "handshake", "frames"])
def test_mutated_handshakes_never_bring_it_down(server: Program, kind: str) -> None:
    """Real bytes with a few of them changed: an answer or a close, no traceback, and others are served."""
    chance = random.Random(f"{SEED}{kind}")
    address = server.address
    offers = 'permessage-deflate; server_max_window_bits="10"; client_max_window_bits, x; y="z"'
    origin = f"http://{address[0]}:{address[1]}"
    request = upgrade_request(address, Origin=origin, Sec_WebSocket_Extensions=offers)
    frames = b"".join([
        frame(TEXT, b"whole"), frame(TEXT, deflate(b"packed" * 50), rsv=4), frame(PING, b"ping"),
        frame(BINARY, b"one", fin=False), frame(PING), frame(CONTINUATION, b"two"), frame(BINARY, b"x" * 200),
        frame(BINARY, zlib.compress(b"x" * 900)[2:-4], rsv=4, fin=False), frame(CONTINUATION),
        frame(CLOSE, b"\x03\xe8"),
    ])  # fmt: skip
    with HandTLS(address) as client:
        hello = client.hello()
    actions: list[Callable[[], Any]] = []
    for _ in range(int(24 * TIMES)):
        if kind == "http":
            actions.append(partial(throw, address, mutated(chance, request) + frames))
        elif kind == "https":
            actions.append(partial(throw_in_tls, address, mutated(chance, request)))
        elif kind == "hello":
            actions.append(partial(throw, address, mutated(chance, hello)))
        elif kind == "handshake":
            actions.append(partial(throw_mutated_records, address, chance.random()))
        else:
            actions.append(partial(throw, address, request + mutated(chance, frames)))
    with unharmed(server):
        for start in range(0, len(actions), 12):
            for answer in all_at_once(*actions[start : start + 12]):
                assert answer is None or answer.startswith(ANSWERS), answer[:100]
            others_are_served(server, seconds=PATIENCE)
