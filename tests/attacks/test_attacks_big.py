# SPDX-License-Identifier: MIT
"""Big things: messages over the limit in every form, bombs, floods, and clients that never read."""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import pytest
from support import *

LIMIT = 50_000  # --max-message of the small server
MIB = 2**20
COMPRESSED = 4  # the RSV bit of permessage-deflate
ZERO = b"\0\0\0\0"  # a mask that costs the client no time
DEFLATE = {"Sec_WebSocket_Extensions": "permessage-deflate"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server with a low limit, and little patience with those who don't read."""
    flags = ("--max-message", str(LIMIT), "--ping-interval", "1", "--handshake-timeout", "2")
    with running(tmp_path_factory.mktemp("small"), *flags) as program:
        yield program


def pieces(data: bytes, size: int, opcode: int = BINARY, rsv: int = 0) -> bytes:
    """A message in fragments."""
    cut = [data[start : start + size] for start in range(0, len(data), size)]
    if len(cut) == 1:
        return frame(opcode, data, rsv=rsv, mask=ZERO)
    first = frame(opcode, cut[0], fin=False, rsv=rsv, mask=ZERO)
    middle = b"".join(frame(CONTINUATION, piece, fin=False, mask=ZERO) for piece in cut[1:-1])
    return first + middle + frame(CONTINUATION, cut[-1], mask=ZERO)


# ---------------------------------------------------------------- the limit

FORMS: dict[str, Callable[[bytes], bytes]] = {
    "one frame": lambda data: frame(BINARY, data),
    "one text frame": lambda data: frame(TEXT, data),
    "two fragments": lambda data: pieces(data, len(data) - 1),
    "fragments of 1000 bytes": lambda data: pieces(data, 1000),
    "fragments of one byte": lambda data: pieces(data, 1),
    "an empty fragment last": lambda data: frame(BINARY, data, fin=False) + frame(CONTINUATION),
    "compressed": lambda data: frame(BINARY, deflate(data), rsv=COMPRESSED),
    "compressed, not smaller": lambda data: frame(BINARY, deflate(data, 0), rsv=COMPRESSED),
    "compressed, in fragments": lambda data: pieces(deflate(data), 50, rsv=COMPRESSED),
    "compressed, in fragments of one byte": lambda data: pieces(deflate(data), 1, rsv=COMPRESSED),
}


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_a_message_of_just_the_limit_passes_and_one_byte_more_is_1009(
    start: Callable[..., Program], secure: bool
) -> None:
    """--max-message counts bytes after inflating, in whatever form they come."""
    program = start("--max-message", str(LIMIT))

    def check(form: Callable[[bytes], bytes]) -> None:
        data = (b"0123456789abcde\n" * (LIMIT // 16 + 1))[:LIMIT]
        with Deflating(program.address, tls=secure) as client:
            client.sock.sendall(form(data))
            message = client.receive()
            assert (message.encode() if isinstance(message, str) else message) == data
            client.sock.sendall(form(data + b"x") + frame(TEXT, b"never served"))
            assert client.receive_close() == (1009, "message too big")
            assert client.rest() == b""

    with unharmed(program):
        for number, (name, form) in enumerate(FORMS.items()):
            if number % 2 == secure or "one byte" not in name:
                check(form)


def test_a_claimed_length_over_the_limit_is_refused_at_the_header(small: Program) -> None:
    """Nobody waits for the bytes of a message that is too long, and no memory is set aside for it."""
    with unharmed(small, peak=8 * MIB):
        for size in (LIMIT + 1, 2**31, 2**32, 2**62, 2**63 - 1):
            for before in (b"", frame(BINARY, b"x", fin=False)):
                opcode = CONTINUATION if before else BINARY
                with WebSocket(small.address) as client:
                    client.sock.sendall(before + frame(opcode, b"", length=size))
                    assert client.receive_close()[0] == 1009
                    client.sock.shutdown(socket.SHUT_WR)
                    assert read_to_end(client.sock) == b""


def test_fragments_are_counted_together(small: Program) -> None:
    """Fragments that each fit, but not together, are refused as soon as they are too many."""
    half = b"x" * (LIMIT // 2)
    with unharmed(small, peak=8 * MIB), WebSocket(small.address) as client:
        client.sock.sendall(frame(TEXT, half, fin=False) + frame(CONTINUATION, half, fin=False))
        client.sock.sendall(frame(PING, b"still there"))
        assert client.receive_frame() == (True, 0, PONG, b"still there")
        client.sock.sendall(frame(CONTINUATION, b"x", fin=False))
        assert client.receive_close()[0] == 1009


def test_empty_fragments_without_end_are_ended(small: Program) -> None:
    """A message of nothing never gets large, but each of its fragments costs: some hundred of them
    pass, forty thousand don't, and hold up nobody."""
    for kind, rsv in ((WebSocket, 0), (Deflating, COMPRESSED)):
        with unharmed(small, peak=8 * MIB), kind(small.address) as client:
            some = frame(CONTINUATION, fin=False, mask=ZERO) * 500
            end = deflate(b"the end") if rsv else b"the end"
            client.sock.sendall(frame(BINARY, fin=False, rsv=rsv) + some + frame(CONTINUATION, end))
            assert client.next_but_pings()[2] == BINARY
            client.sock.sendall(frame(BINARY, fin=False, rsv=rsv) + some * 80)
            others_are_served(small)
            assert client.next_but_pings()[2:] == (CLOSE, b"\x03\xf1message too big")


# ---------------------------------------------------------------- bombs


def bomb(size: int) -> bytes:
    """Zeros, deflated as far as deflate goes: 1000 to 1 and a bit more."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    one = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)  # stands for itself: can be repeated
    return one * (size // MIB)


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_a_decompression_bomb_is_1009_and_costs_a_few_messages(server: Program, secure: bool) -> None:
    """A megabyte that would inflate to a gigabyte is given up after the first one that it yields: in one
    frame, in fragments, from ten clients at once."""
    one = bomb(1000 * MIB)
    assert len(one) < 1.05 * MIB

    def explode(data: bytes) -> None:
        with Deflating(server.address, tls=secure) as client:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                client.sock.sendall(data)
            assert client.receive_close()[0] == 1009

    whole = frame(BINARY, one, rsv=COMPRESSED, mask=ZERO)
    with unharmed(server, peak=16 * MIB):
        explode(whole)
        explode(pieces(one, 1000, rsv=COMPRESSED))
        explode(frame(BINARY, one[:1500], rsv=COMPRESSED))
    with unharmed(server, peak=10 * 6 * MIB):
        all_at_once(*[lambda: explode(whole)] * 10, lambda: others_are_served(server))


FINAL_HELLO = bytes.fromhex("f348cdc9c9070000")  # RFC 7692 section 7.2.3.5


def test_a_message_that_ends_its_deflate_stream_is_read_and_so_is_the_next(server: Program) -> None:
    """A block with BFINAL set ends a stream, not the connection (RFC 7692 section 7.2.3.5): the next message
    begins a new one. What goes on behind its own end is no message."""
    with unharmed(server), Deflating(server.address) as client:
        for _ in range(3):
            client.sock.sendall(frame(TEXT, FINAL_HELLO, rsv=COMPRESSED))
            assert client.receive() == "Hello"
        client.sock.sendall(frame(TEXT, deflate(b"and on"), rsv=COMPRESSED))
        assert client.receive() == "and on"
        client.sock.sendall(frame(TEXT, FINAL_HELLO[:-1] + b"more" * 1000, rsv=COMPRESSED))
        assert client.receive_close()[0] == 1007


def test_bytes_behind_the_end_of_a_deflate_stream_are_not_hoarded(server: Program) -> None:
    """What follows a block with BFINAL set must not pile up unseen by every limit: a frame may be endless."""
    with unharmed(server, peak=12 * MIB), Deflating(server.address) as client:
        client.sock.sendall(frame(BINARY, b"\x03\x00", rsv=COMPRESSED, length=2**40, mask=ZERO))
        client.sock.settimeout(5)
        end, used = time.monotonic() + 3, server.cpu_seconds()
        with contextlib.suppress(OSError):  # refused: so much the better
            for _ in range(24):
                client.sock.sendall(b"\x03\x00" * 2**19)
                assert time.monotonic() < end, "the server is busy with bytes that mean nothing"
        assert server.cpu_seconds() - used < 2.5


def test_a_compressed_message_of_empty_blocks_costs_no_memory(server: Program) -> None:
    """Deflate has blocks that yield nothing; a message of them alone never gets large."""
    with unharmed(server, peak=12 * MIB), Deflating(server.address) as client:
        client.sock.sendall(frame(BINARY, b"", rsv=COMPRESSED, length=20 * MIB, mask=ZERO))
        blocks = b"\x00\x00\x00\xff\xff" * (MIB // 5 + 2)
        for number in range(20):
            client.sock.sendall(blocks[number % 5 :][:MIB])
        assert client.receive() == b""


def test_a_broken_deflate_stream_is_1007(server: Program) -> None:
    """Compressed bytes that can't be inflated are bad data, whatever is wrong with them."""
    with unharmed(server):
        for data in (b"\xff" * 10, b"\x07", b"\x05\xe0\x81\x91\x24\xcb", deflate(b"x" * 100) + b"\xff" * 3):
            with Deflating(server.address) as client:
                client.sock.sendall(frame(TEXT, data, rsv=COMPRESSED) + frame(TEXT, b"after"))
                assert client.receive_close()[0] in (1002, 1007), data


# ---------------------------------------------------------------- floods, and who never reads


def flood(sock: socket.socket, data: bytes, seconds: float = 8.0) -> int:
    """Send, never read, until the server has had enough; bytes sent."""
    sent, end = 0, time.monotonic() + seconds
    sock.settimeout(seconds)
    with contextlib.suppress(OSError):
        while True:
            sent += sock.send(data)
            assert time.monotonic() < end, "a client that never reads was read for ever"
    return sent


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_a_client_that_sends_and_never_reads_is_dropped(small: Program, secure: bool) -> None:
    """Whoever doesn't read isn't read either, and then is dropped: messages, pings and lines alike."""
    address = small.address

    def websocket(data: bytes, **headers: str) -> None:
        with narrow(address, tls=secure) as sock:
            flood(upgraded(sock, address, **headers), data)

    def native() -> None:
        with narrow(address, tls=secure) as sock:
            flood(sock, b'{"type":"who"}\n' * 4000)

    with unharmed(small, peak=48 * MIB):
        all_at_once(
            lambda: websocket(frame(BINARY, b"x" * LIMIT, mask=ZERO)),
            lambda: websocket(frame(PING, b"x" * 125, mask=ZERO) * 500),
            lambda: websocket(frame(BINARY, secrets.token_bytes(LIMIT), mask=ZERO), **DEFLATE),
            native,
            lambda: others_are_served(small),
        )


def test_a_ping_flood_is_answered_and_others_are_served(server: Program) -> None:
    """Twenty thousand pings get their pongs, in order, while fresh clients are served."""
    count = 20_000
    burst = b"".join(frame(PING, b"%06d" % number, mask=ZERO) for number in range(count))

    def ping() -> None:
        with WebSocket(server.address) as client:
            sender = threading.Thread(target=client.sock.sendall, args=(burst,))
            sender.start()
            received = bytearray()
            while len(received) < 8 * count:
                received += client.sock.recv(65536)
            sender.join()
            assert received == b"".join(b"\x8a\x06%06d" % number for number in range(count))

    with unharmed(server, peak=24 * MIB):
        all_at_once(ping, lambda: others_are_served(server))


def test_pongs_that_nobody_asked_for_are_ignored(server: Program) -> None:
    """An unsolicited pong is no fault (RFC 6455 section 5.5.3), nor are twenty thousand."""
    with unharmed(server, peak=24 * MIB), WebSocket(server.address) as client:
        client.sock.sendall(frame(PONG, b"x" * 125, mask=ZERO) * 20_000)
        assert client.ask("served") == "served"


def test_the_end_is_clean_although_the_client_was_in_the_midst_of_a_large_message(server: Program) -> None:
    """1009 arrives, then close_notify on wss and FIN, and no reset while the client goes on for a moment."""
    head = upgrade_request(server.address) + frame(BINARY, b"", length=50 * MIB) + b"x" * 300_000

    def plain() -> None:
        with connect(server.address) as sock:
            sock.sendall(head)
            data = b""
            while b"message too big" not in data:
                data += sock.recv(65536)
            for _ in range(10):
                sock.sendall(b"x" * 100_000)
            sock.shutdown(socket.SHUT_WR)
            assert read_to_end(sock) == b""

    def secure() -> None:
        with HandTLS(server.address) as client:
            client.handshake()
            client.sock.sendall(client.encrypt(head))
            client.receive_until(b"message too big")
            for _ in range(10):
                client.sock.sendall(client.encrypt(b"x" * 100_000))
            client.sock.shutdown(socket.SHUT_WR)
            assert client.receive() == b""  # close_notify
            assert read_to_end(client.sock) == b""

    with unharmed(server):
        all_at_once(plain, secure)


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_an_error_response_arrives_while_the_client_still_sends(server: Program, secure: bool) -> None:
    """A POST of megabytes gets its 405 whole, and a clean end."""
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n"
    with unharmed(server):
        if not secure:
            with connect(server.address) as sock:
                sock.sendall(request + b"x" * 1_000_000)
                first = sock.recv(65536)
                sock.sendall(b"x" * 2_000_000)
                sock.shutdown(socket.SHUT_WR)
                assert parse_response(first + read_to_end(sock))[0] == 405
            return
        with HandTLS(server.address) as client:
            client.handshake()
            client.sock.sendall(client.encrypt(request + b"x" * 1_000_000))
            data = client.receive_until(b"only GET and HEAD")
            client.sock.sendall(client.encrypt(b"x" * 2_000_000))
            client.sock.shutdown(socket.SHUT_WR)
            while more := client.receive():
                data += more
            assert parse_response(data)[0] == 405
            assert read_to_end(client.sock) == b""
