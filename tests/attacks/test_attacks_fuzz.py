# SPDX-License-Identifier: MIT
"""Fuzzing of a running server: lines, whole connections, and handshakes with a few bytes changed."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from fuzz import SEED, TIMES, cut, mutated, some_bytes
from support import *

# ---------------------------------------------------------------- lines


SHORT = 12


@pytest.fixture(scope="module")
def short_lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """An echo that takes lines of up to twelve bytes."""
    with running(tmp_path_factory.mktemp("lines"), "--app", "echo", "--max-message", str(SHORT)) as program:
        yield program


def echoes(program: Program, pieces: list[bytes]) -> list[bytes]:
    """The lines that come back for these bytes, sent piece by piece."""
    with connect(program.address) as sock:
        with contextlib.suppress(ConnectionError):  # it may have had enough before the last piece
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
        return read_to_end(sock).splitlines(keepends=True)


def expected_echoes(data: bytes) -> list[bytes]:
    """What a simple model answers: each line, up to one that is too long or no text."""
    answers: list[bytes] = []
    too_long = b'{"type":"error","reason":"a line has at most 12 bytes"}\n'
    *ended, rest = data.split(b"\n")
    for line in ended:
        line = line.removesuffix(b"\r")
        if len(line) > SHORT:
            return [*answers, too_long]
        try:
            line.decode()
        except ValueError:
            return [*answers, b'{"type":"error","reason":"a line is text in UTF-8"}\n']
        answers.append(line + b"\n")
    return [*answers, too_long] if len(rest) > SHORT + 1 else answers


def test_lines_are_the_same_however_their_bytes_were_cut(short_lines: Program) -> None:
    """Any split of any bytes gives the same answers, and the same end where a line is too long or no text."""
    chance = random.Random(SEED)
    with unharmed(short_lines):
        for _ in range(int(100 * TIMES)):
            some = (some_bytes(chance, SHORT + 2) + chance.choice((b"\n", b"\r\n", b"")) for _ in range(6))
            data = b"{}\n" + b"".join(some)
            expected, bytewise = expected_echoes(data), [bytes([byte]) for byte in data]
            for pieces in ([data], bytewise, cut(chance, data, chance.randint(1, 12))):
                assert echoes(short_lines, pieces) == expected, pieces


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
