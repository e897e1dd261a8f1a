# SPDX-License-Identifier: MIT
"""A file arrives whole at a slow reader; one that takes nothing of it is dropped; the log tells which."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, any_tls, make_identity, narrow, parse_response, wait_until

from wsdual import DualServer, Limits, server_context

CLOSING, PING = 0.3, 0.8  # seconds: short, so that the tests are
SMALL, LARGE = 300_000, 1_500_000  # bytes in the files
KEPT = 32 * 1024  # bytes at most that the server's kernel keeps for a connection
PACE = 200_000  # bytes read in a second
Events = list[dict[str, Any]]


@contextlib.contextmanager
def serving(static: Path, tls: ssl.SSLContext, events: Events) -> Iterator[DualServer]:
    """A server of files whose events are collected."""
    limits = Limits(closing=CLOSING, ping=PING)
    with DualServer(("127.0.0.1", 0), {}, tls=tls, limits=limits, static=static) as server:
        server.observers.append(events.append)
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KEPT // 2)  # its connections inherit it
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(PATIENCE)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with two files, and beside it a certificate."""
    identity = make_identity("localhost")
    (tmp_path / "both.pem").write_bytes(identity.key_pem() + identity.pem())
    (folder := tmp_path / "static").mkdir()
    (folder / "small.bin").write_bytes(os.urandom(SMALL))
    (folder / "large.bin").write_bytes(os.urandom(LARGE))
    return folder


@pytest.fixture
def events() -> Events:
    """What the server has told."""
    return []


@pytest.fixture
def ask(files: Path, events: Events) -> Iterator[Callable[[str, str], socket.socket]]:
    """Ask for a file by http or https, through buffers that keep little; nothing is read yet."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(files, server_context(files.parent / "both.pem"), events))

        def send(kind: str, name: str) -> socket.socket:
            sock = narrow(server.server_address[:2])
            if kind == "https":
                sock = any_tls().wrap_socket(
                    sock, server_hostname="localhost", suppress_ragged_eofs=False
                )  # an end without close_notify then raises SSLEOFError
            sock.sendall(f"GET /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            return stack.enter_context(sock)

        yield send


def ends(events: Events) -> list[str]:
    """Why the connections ended that have."""
    return [event["why"] for event in tuple(events) if event["step"] == "closed"]


def read_slowly(sock: socket.socket, size: int, pace: float = PACE) -> bytes:
    """Up to so many bytes at so many in a second; less where an end comes before."""
    data, since = b"", time.monotonic()
    while len(data) < size and (piece := sock.recv(min(4096, size - len(data)))):
        data += piece
        time.sleep(max(0.0, since + len(data) / pace - time.monotonic()))
    return data


@pytest.mark.parametrize("kind", ["http", "https"])
def test_a_file_arrives_whole_at_a_slow_reader_and_only_then_is_told_as_200(
    ask: Callable[[str, str], socket.socket], files: Path, events: Events, kind: str
) -> None:
    """It takes many times as long as a closing connection has, and longer than from ping to ping."""
    sock = ask(kind, "small.bin")
    data = read_slowly(sock, SMALL // 4)
    early = ends(events)  # most hasn't been read yet, and no kernel here keeps so much
    data += read_slowly(sock, SMALL * 2)
    _, _, body = parse_response(data)
    assert len(body) == SMALL and body == (files / "small.bin").read_bytes()
    assert not early
    sock.close()
    wait_until(lambda: ends(events), "it is over")
    assert ends(events) == ["200 OK"]


@pytest.mark.parametrize("kind", ["http", "https"])
def test_a_file_arrives_whole_at_a_reader_that_pauses_for_less_than_a_ping_interval(
    ask: Callable[[str, str], socket.socket], files: Path, events: Events, kind: str
) -> None:
    """Each pause is longer than a closing connection has."""
    sock = ask(kind, "small.bin")
    data = b""
    for _ in range(3):
        data += read_slowly(sock, KEPT)
        time.sleep(PING / 2)
    data += read_slowly(sock, SMALL * 2, pace=1e9)
    assert parse_response(data)[2] == (files / "small.bin").read_bytes()
    sock.close()
    wait_until(lambda: ends(events), "it is over")
    assert ends(events) == ["200 OK"]


@pytest.mark.parametrize("name", ["small.bin", "large.bin"])
@pytest.mark.parametrize("kind", ["http", "https"])
def test_a_reader_that_stops_is_dropped_after_the_ping_interval_and_not_told_as_200(
    ask: Callable[[str, str], socket.socket], events: Events, kind: str, name: str
) -> None:
    """Whether much or little is left to send; and not before."""
    sock = ask(kind, name)
    read_slowly(sock, 20_000)
    since = time.monotonic()
    wait_until(lambda: ends(events), "it was dropped")
    assert time.monotonic() - since > PING / 2, "it had not been silent for long"
    assert len(ends(events)) == 1 and "200" not in ends(events)[0], ends(events)
    received = b""
    with contextlib.suppress(OSError):  # cut off, by reset or without close_notify
        while piece := sock.recv(65536):
            received += piece
    assert len(received) < SMALL
