# SPDX-License-Identifier: MIT
"""Slow and silent clients: they are closed in time, cost next to nothing, and nobody waits for them."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support import *

DEADLINE = 1.0  # --handshake-timeout of the hasty server
PING = 0.4  # its --ping-interval
CHAT_LOGIN = b'{"type":"login","name":"slow"}\n'


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server that doesn't wait long."""
    flags = ("--handshake-timeout", str(DEADLINE), "--ping-interval", str(PING))
    with running(tmp_path_factory.mktemp("hasty"), *flags) as program:
        yield program


def end_of(sock: socket.socket) -> tuple[bytes, float]:
    """All that still comes, and how many seconds it took to the end; an end by reset fails."""
    since = time.monotonic()
    return read_to_end(sock), time.monotonic() - since


# ---------------------------------------------------------------- silence


def stalled(program: Program, what: str) -> socket.socket:
    """Open a connection, go as far as told, and be silent."""
    address = program.address
    head = {
        "silent": b"",
        "one byte of TLS": b"\x16",
        "one byte of HTTP": b"G",
        "one byte of a line": b"{",
        "half a ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01",
        "a record that never ends": b"\x16\x03\x01\xff\xff",
        "half a request": b"GET / HTTP/1.1\r\nHost: loc",
        "half an upgrade": upgrade_request(address)[:-2],
        "half a line": CHAT_LOGIN[:-1],
    }.get(what)
    if head is not None:
        sock = connect(address)
        sock.sendall(head)
        return sock
    client = HandTLS(address)
    if what == "half a handshake":
        client.sock.sendall(client.hello())
        return client.sock
    client.handshake()
    inside = {"silent in TLS": b"", "half a request in TLS": b"GET /", "half a line in TLS": b'{"type"'}
    if what == "half a record in TLS":
        client.sock.sendall(client.encrypt(upgrade_request(address))[:50])
    elif inside[what]:
        client.sock.sendall(client.encrypt(inside[what]))
    return client.sock


STALLS = {  # what the client did: what it is told in clear
    "silent": b"",
    "one byte of TLS": b"",
    "one byte of HTTP": b"408",
    "one byte of a line": b'"error"',
    "half a ClientHello": b"",
    "a record that never ends": b"",
    "half a request": b"408",
    "half an upgrade": b"408",
    "half a line": b'"error"',
    "half a handshake": b"",
    "silent in TLS": b"",
    "half a request in TLS": b"",
    "half a line in TLS": b"",
    "half a record in TLS": b"",
}


def test_a_hundred_stalled_clients_cost_no_cpu_hold_up_nobody_and_are_closed_in_time(hasty: Program) -> None:
    """Whoever stalls, at whatever point, is closed at the deadline, told why where it speaks plain, and
    costs nothing meanwhile."""
    with unharmed(hasty):
        used, since = hasty.cpu_seconds(), time.monotonic()
        waiting = []
        for what in STALLS:
            for _ in range(8):
                waiting.append((what, stalled(hasty, what), time.monotonic()))
        cpu_of_opening = hasty.cpu_seconds() - used
        others_are_served(hasty)
        used = hasty.cpu_seconds()
        for what, sock, opened in waiting:
            data, _ = end_of(sock)
            lasted = time.monotonic() - opened
            sock.close()
            assert STALLS[what] in data, (what, data)
            # Each has the deadline, then up to 2 s in which its own FIN is waited for.
            assert lasted < DEADLINE + 4 + (opened - since), (what, lasted)
        cpu = hasty.cpu_seconds() - used
        told = f"{cpu:.2f} s of CPU for {len(waiting)} stalled clients ({cpu_of_opening:.2f} to open)"
        assert cpu < 0.4, told


def test_a_hundred_stalled_sessions_cost_no_cpu(server: Program) -> None:
    """A session that stops in the middle of a frame or of a record costs nothing while it lasts."""

    def stall(number: int) -> socket.socket:
        if number % 2:
            client = WebSocket(server.address)
            client.sock.sendall(frame(TEXT, b"half of it", length=1000)[: 4 + number % 8])
            return client.sock
        secure = HandTLS(server.address)
        secure.handshake()
        secure.sock.sendall(secure.encrypt(upgrade_request(server.address)))
        secure.receive_until(b"\r\n\r\n")
        secure.sock.sendall(secure.encrypt(frame(TEXT, b"all of it"))[: 3 + number % 20])
        return secure.sock

    with unharmed(server):
        sessions = [stall(number) for number in range(100)]
        used = server.cpu_seconds()
        time.sleep(1.0)  # nothing is to happen in it: a second of stalling is what is measured
        assert server.cpu_seconds() - used < 0.1
        for sock in sessions:
            sock.close()


# ---------------------------------------------------------------- one byte at a time


def send_slowly(sock: socket.socket, data: bytes, pause: float = 0.001) -> None:
    """Send each byte in a segment of its own; the pause keeps them apart."""
    for byte in data:
        sock.sendall(bytes([byte]))
        time.sleep(pause)


def test_everything_one_byte_at_a_time_is_served_within_the_deadline(server: Program) -> None:
    """A request, a ClientHello, a whole wss session and a line are understood however small the pieces."""
    address = server.address

    def http_request() -> None:
        with connect(address) as sock:
            send_slowly(sock, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert parse_response(read_to_end(sock))[0] == 200

    def websocket() -> None:
        with connect(address) as sock:
            send_slowly(sock, upgrade_request(address) + frame(TEXT, b"drop by drop") + frame(CLOSE))
            assert b"drop by drop" in read_to_end(sock)

    def secure_websocket() -> None:
        with HandTLS(address) as client:
            client.handshake(lambda data: send_slowly(client.sock, data))
            send_slowly(client.sock, client.encrypt(upgrade_request(address)))
            client.receive_until(b"\r\n\r\n")
            send_slowly(client.sock, client.encrypt(frame(TEXT, b"drop by drop")))
            assert b"drop by drop" in client.receive_until(b"drop")

    def line() -> None:
        with Native(address) as client:
            send_slowly(client.sock, b'{"type":"login","name":"drop"}\n')
            assert client.receive_json()["type"] == "welcome"

    with unharmed(server):
        all_at_once(http_request, websocket, secure_websocket, line)


# ---------------------------------------------------------------- what drips for ever


def drip(sock: socket.socket, begin: bytes, drop: bytes, encrypt: Callable[[bytes], bytes]) -> float:
    """Send a beginning, then a drop from time to time, until the server has had enough; seconds it took.

    The end may be seen as a reset: a client that goes on sending after the server has closed gets one.
    """
    since = time.monotonic()
    with contextlib.suppress(ConnectionError):
        sock.sendall(encrypt(begin))
        sock.settimeout(0.05)
        while time.monotonic() - since < PATIENCE:
            with contextlib.suppress(TimeoutError):
                if not sock.recv(65536):
                    break
            sock.sendall(encrypt(drop))
    return time.monotonic() - since


def test_a_drip_that_never_ends_is_cut_off_at_the_deadline(hasty: Program) -> None:
    """Neither a header, nor a line, nor a TLS record lives longer because another byte came."""
    request = upgrade_request(hasty.address)[:-2]

    def plain(begin: bytes, drop: bytes) -> float:
        with connect(hasty.address) as sock:
            return drip(sock, begin, drop, lambda data: data)

    def secure(begin: bytes, drop: bytes) -> float:
        with HandTLS(hasty.address) as client:
            client.handshake()
            return drip(client.sock, begin, drop, client.encrypt)

    with unharmed(hasty):
        lasted = all_at_once(
            lambda: plain(request, b"X: y\r\n"),
            lambda: plain(b"G", b"E"),
            lambda: plain(b"{", b" "),
            lambda: plain(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03", b"\0"),
            lambda: secure(request, b"X: y\r\n"),
            lambda: secure(b"{", b" "),
            lambda: others_are_served(hasty) or 0.0,
        )
        assert max(lasted) < DEADLINE + 4, lasted


def test_a_client_that_stalls_in_mid_record_and_answers_no_ping_is_dropped(hasty: Program) -> None:
    """Half a frame or half a TLS record is no sign of life for longer than two intervals."""

    def half_a_frame() -> None:
        with WebSocket(hasty.address) as client:
            client.sock.sendall(frame(TEXT, b"never whole")[:7])
            with contextlib.suppress(ConnectionError):
                read_to_end(client.sock)

    def half_a_record() -> None:
        with HandTLS(hasty.address) as client:
            client.handshake()
            client.sock.sendall(client.encrypt(upgrade_request(hasty.address)))
            client.receive_until(b"\r\n\r\n")
            client.sock.sendall(client.encrypt(frame(TEXT, b"never whole"))[:11])
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while client.receive():
                    pass

    with unharmed(hasty):
        since = time.monotonic()
        all_at_once(half_a_frame, half_a_record)
        assert time.monotonic() - since < 2 * PING + 3


# ---------------------------------------------------------------- in the middle of a session


def test_a_client_stalled_in_mid_record_still_hears_the_others_and_can_go_on(server: Program) -> None:
    """Half a TLS record from a client stops neither what is sent to it, nor those who send it, and the other
    half still counts."""
    address = server.address
    with unharmed(server), HandTLS(address) as stalled_client, WebSocket(address, "/chat") as speaker:
        stalled_client.handshake()
        stalled_client.sock.sendall(stalled_client.encrypt(upgrade_request(address, "/chat")))
        stalled_client.receive_until(b"\r\n\r\n")
        login = json.dumps({"type": "login", "name": "stalled"}).encode()
        stalled_client.sock.sendall(stalled_client.encrypt(frame(TEXT, login)))
        stalled_client.receive_until(b"welcome")
        speaker.send({"type": "login", "name": "speaker"})
        speaker.receive_json()

        record = stalled_client.encrypt(frame(TEXT, b'{"type":"say","text":"at last"}'))
        stalled_client.sock.sendall(record[:17])
        since = time.monotonic()
        for number in range(200):
            speaker.send({"type": "say", "text": f"number {number:03}"})
            assert speaker.receive_json()["text"] == f"number {number:03}"
        assert time.monotonic() - since < 3, "the speaker had to wait for the stalled client"
        heard = stalled_client.receive_until(b"number 199")
        assert all(b"number %03d" % number in heard for number in range(199))
        others_are_served(server)

        stalled_client.sock.sendall(record[17:])
        assert speaker.receive_json() == {"type": "said", "from": "stalled", "text": "at last"}


def test_the_pause_between_two_frames_may_be_as_long_as_one_likes(hasty: Program) -> None:
    """The deadline of the beginning doesn't count once a session runs: who answers pings may be silent."""
    with unharmed(hasty), WebSocket(hasty.address) as client, Native(hasty.address, tls=True) as native:
        native.send({"type": "login", "name": "patient"})
        native.receive()
        end = time.monotonic() + DEADLINE + PING
        answering = threading.Event()
        while time.monotonic() < end:  # the passing of the deadline is the point here
            fin, rsv, opcode, payload = client.receive_frame()
            assert (fin, rsv, opcode) == (True, 0, 0x9)
            client.sock.sendall(frame(0xA, payload))
            answering.set()
        assert answering.is_set()
        assert client.ask("awake") == "awake"
        native.send({"type": "who"})
        assert native.receive_json()["type"] == "users"
