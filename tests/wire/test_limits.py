# SPDX-License-Identifier: MIT
"""Resets at every step, and running out: of places, of file descriptors, of threads."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support import *

# ---------------------------------------------------------------- resets


def secured(program: Program) -> HandTLS:
    """A TLS client after its handshake."""
    client = HandTLS(program.address)
    client.handshake()
    return client


def after_bytes(data: bytes) -> Callable[[Program], socket.socket]:
    """A client that sent this and no more."""

    def go(program: Program) -> socket.socket:
        sock = connect(program.address)
        sock.sendall(data)
        return sock

    return go


def after_hello(program: Program) -> socket.socket:
    """In the TLS handshake, the server's flight unread."""
    client = HandTLS(program.address)
    client.sock.sendall(client.hello())
    return client.sock


def after_flight(program: Program) -> socket.socket:
    """In the TLS handshake, as soon as the server's flight has come."""
    client = HandTLS(program.address)
    client.sock.sendall(client.hello())
    client.sock.recv(1)
    return client.sock


def in_the_request_in_tls(program: Program) -> socket.socket:
    """In the midst of the request, and of its record."""
    client = secured(program)
    client.sock.sendall(client.encrypt(b"GET / HT") + client.encrypt(b"TP/1.1")[:9])
    return client.sock


def in_a_frame(program: Program) -> socket.socket:
    """Between the two halves of a frame."""
    sock = upgraded(connect(program.address), program.address)
    sock.sendall(frame(TEXT, b"whole") + frame(BINARY, b"x" * 500)[:100])
    return sock


def in_a_record(program: Program) -> socket.socket:
    """In the midst of a frame and of the record that carries it."""
    client = secured(program)
    client.sock.sendall(client.encrypt(upgrade_request(program.address) + frame(TEXT, b"whole")))
    client.receive_until(b"whole")
    client.sock.sendall(client.encrypt(frame(BINARY, b"x" * 500))[:100])
    return client.sock


def while_being_sent_to(secure: bool) -> Callable[[Program], socket.socket]:
    """With megabytes on their way to the client."""

    def go(program: Program) -> socket.socket:
        sock = upgraded(connect(program.address, tls=secure), program.address)
        sock.sendall(frame(BINARY, bytes(2**20)) * 4)
        sock.recv(10)
        return sock

    return go


def in_the_room(secure: bool) -> Callable[[Program], socket.socket]:
    """Logged in, and talked to by all the others who do the same."""

    def go(program: Program) -> socket.socket:
        native = connect(program.address, tls=secure)
        name = native.getsockname()[1]
        native.sendall(b'{"type":"login","name":"%d"}\n' % name + b'{"type":"say","text":"x"}\n' * 20)
        native.recv(10)
        return native

    return go


def in_the_close(program: Program) -> socket.socket:
    """With a close frame sent, and its answer unread."""
    sock = upgraded(connect(program.address), program.address)
    sock.sendall(frame(CLOSE, b"\x03\xe8"))
    return sock


STEPS = [
    after_bytes(b""), after_bytes(b"\x16"), after_bytes(b"G"), after_bytes(b"{"),
    after_bytes(b"\x16\x03\x01\x02"),
    after_bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n"),
    after_bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    after_bytes(b"GET /echo HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"), after_bytes(b'{"type":"who"}\n' * 100),
    after_hello, after_flight, lambda program: secured(program).sock, in_the_request_in_tls, in_a_frame,
    in_a_record, while_being_sent_to(False), while_being_sent_to(True), in_the_room(False), in_the_room(True),
    in_the_close,
]  # fmt: skip


def test_a_reset_at_any_step_harms_nobody(server: Program) -> None:
    """Before a byte, after the peek, in the handshake, in the request, in a frame, while being sent to: a
    reset ends that connection and nothing else."""

    def attack(step: Callable[[Program], socket.socket]) -> None:
        reset(step(server))

    with unharmed(server):
        for _ in range(3):
            all_at_once(*(partial(attack, step) for step in STEPS), lambda: others_are_served(server))


def test_five_hundred_connections_that_vanish_at_once_harm_nobody(server: Program) -> None:
    """A burst of connections that are reset at once leaves nothing behind."""
    with unharmed(server):
        for _ in range(5):
            burst = [connect(server.address) for _ in range(100)]
            for number, sock in enumerate(burst):
                sock.sendall((b"\x16", b"GET /", b"{", b"")[number % 4])
                reset(sock)


# ---------------------------------------------------------------- no place left


def has_places(program: Program) -> bool:
    """Say whether clients who come now are served: the places of those who left may not be free yet."""
    with contextlib.suppress(OSError, EOFError, AssertionError):  # turned away, or not even that
        others_are_served(program)
        return True
    return False


def turned_away(address: tuple[str, int]) -> list[Callable[[], object]]:
    """What clients of each kind do who come when all places are taken, and what they must be told."""

    def plain_http() -> None:
        status, _, body = get(address)
        assert status == 503 and len(body) < 200

    def upgrade() -> None:
        assert http(address, upgrade_request(address))[0] == 503

    def secure() -> None:
        with pytest.raises((OSError, EOFError)):
            WebSocket(address, tls=True)

    def native_or_silent(data: bytes) -> None:
        with connect(address) as sock:
            sock.sendall(data)
            assert closed(sock) or not sock.recv(1000).startswith(b"HTTP")

    return [plain_http, upgrade, secure, lambda: native_or_silent(b"{}\n"), lambda: native_or_silent(b"")]


def timed(action: Callable[[], object]) -> float:
    """The seconds that something takes."""
    since = time.monotonic()
    action()
    return time.monotonic() - since


def test_clients_over_the_limit_are_turned_away_at_once(start: Callable[..., Program]) -> None:
    """Whoever comes when all places are taken is told so within a second or two, with 503 where it speaks
    plain HTTP, and the next one is served as soon as a place is free."""
    program = start("--max-clients", "12")
    with contextlib.ExitStack() as stack:
        inside = [stack.enter_context(WebSocket(program.address, tls=secure)) for secure in [False, True] * 5]
        stack.enter_context(connect(program.address))  # every connection counts, whatever it does
        native = stack.enter_context(Native(program.address))
        native.send({"type": "who"})
        native.receive()
        lasted = all_at_once(*(partial(timed, action) for action in turned_away(program.address)))
        assert max(lasted) < 2.5, lasted
        for client in inside:
            assert client.ask("still here") == "still here"
        for client in inside[:6]:
            client.close()
        wait_until(lambda: has_places(program), "places are free again")
        native.send({"type": "who"})
        native.receive()


def test_a_crowd_at_the_door_never_gets_more_than_the_places_there_are(start: Callable[..., Program]) -> None:
    """Two hundred connections at once for twelve places: at most twelve are served, all the others are let
    go, and no more threads are made than a small crowd of doormen needs."""
    program = start("--max-clients", "12", "--handshake-timeout", "2")
    others_are_served(program)
    with unharmed(program):
        for _ in range(2):
            crowd = [connect(program.address) for _ in range(200)]
            request = upgrade_request(program.address)
            for sock in crowd:
                with contextlib.suppress(ConnectionError):
                    sock.sendall(request)
            assert program.threads() < 12 + 50 + 10
            heads = []
            for sock in crowd:
                with contextlib.suppress(ConnectionError):
                    heads.append(sock.recv(12))
            assert heads.count(b"HTTP/1.1 101") <= 12
            assert set(heads) <= {b"HTTP/1.1 101", b"HTTP/1.1 503", b""}, set(heads)
            for sock in crowd:
                sock.close()
            wait_until(lambda: has_places(program), "places are free again")


# ---------------------------------------------------------------- no descriptors, no threads


def threads_at_rest(program: Program) -> int:
    """How many threads it has when those who were served have gone, and nothing changes any more."""
    others_are_served(program)
    looks: list[tuple[int, int]] = []

    def settled() -> bool:
        looks.append((program.threads(), program.descriptors()))
        return looks[-70:] == looks[-1:] * 70  # 1.4 s: a thread without work ends after one

    wait_until(settled, "the server is at rest")
    return looks[-1][0]


def test_without_file_descriptors_the_server_waits_and_serves_again(start: Callable[..., Program]) -> None:
    """When no more files can be opened new clients wait, nothing spins, those inside are served; and when
    some come back, so does the service."""
    program = start()
    threads_at_rest(program)
    with unharmed(program):
        limit = program.descriptors() + 10
        _, hard = resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE, (limit, hard))
        inside = [WebSocket(program.address, tls=number % 2 == 1) for number in range(10)]
        waiting = [connect(program.address) for _ in range(20)]
        for sock in waiting:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: "can't accept" in program.log(), "the log says that no connection can be accepted")
        used = program.cpu_seconds()
        time.sleep(1.0)  # nothing but waiting is to happen in it
        assert program.cpu_seconds() - used < 0.15
        assert program.log().count("\n") < 100, "the log is flooded"
        for client in inside:
            assert client.ask("still here") == "still here"
        for client in inside[:5]:
            client.sock.close()
        for sock in waiting:
            answer = read_to_end(sock)
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 404", b"HTTP/1.1 503")), answer[:100]
            sock.close()
        for client in inside[5:]:
            assert client.ask("still here") == "still here"
            client.sock.close()


WITHOUT_THREADS = """
import os, threading

start = threading.Thread.start

def start_if_possible(thread):
    if os.path.exists(os.environ["NO_THREADS"]):
        raise RuntimeError("can't start new thread")
    start(thread)

threading.Thread.start = start_if_possible
"""


def test_without_threads_a_connection_is_refused_and_the_others_go_on(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """A connection that no thread can be had for is closed at once; others are served when there are some.

    (The fault is put in at the border: threading.Thread.start raises what CPython raises then.)
    """
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_THREADS)
    flag = tmp_path / "no-threads"
    program = start(env={"PYTHONPATH": str(tmp_path), "NO_THREADS": str(flag)})
    with unharmed(program), WebSocket(program.address) as ws, WebSocket(program.address, tls=True) as wss:
        for _ in range(2):
            threads_at_rest(program)  # none is left that waits for work
            flag.touch()
            for _ in range(30):
                with connect(program.address) as sock:
                    assert closed(sock)
            assert ws.ask("still here") == wss.ask("still here") == "still here"
            flag.unlink()
            others_are_served(program)
        assert program.log().count("no thread") >= 60


def test_without_memory_for_threads_the_server_lives_on(start: Callable[..., Program]) -> None:
    """With the address space used up for real, connections are refused, and served again when it grows."""
    program = start()
    threads = threads_at_rest(program)
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    size = int(status.split("VmSize:")[1].split()[0]) * 1024
    short = (size + 40 * 2**20, resource.RLIM_INFINITY)
    limits = resource.prlimit(program.process.pid, resource.RLIMIT_AS, short)
    silent = []
    refused = 0
    for _ in range(60):
        with contextlib.suppress(ConnectionError):
            sock = connect(program.address)
            sock.sendall(b"G")
            silent.append(sock)
    for sock in silent:
        sock.settimeout(0.02)
        with contextlib.suppress(TimeoutError):
            refused += closed(sock)
    assert refused, "it wasn't the address space that was short"
    resource.prlimit(program.process.pid, resource.RLIMIT_AS, limits)
    for sock in silent:
        sock.close()
    others_are_served(program)
    wait_until(lambda: program.threads() <= threads, "the threads are back")


def test_a_tls_client_that_is_turned_away_does_not_wait(start: Callable[..., Program]) -> None:
    """A server that is full answers a ClientHello by closing, not by silence."""
    program = start("--max-clients", "1")
    with WebSocket(program.address) as only:
        since = time.monotonic()
        with HandTLS(program.address) as client:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                client.handshake()
        assert time.monotonic() - since < 2
        assert only.ask("mine") == "mine"
