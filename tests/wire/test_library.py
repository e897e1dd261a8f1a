# SPDX-License-Identifier: MIT
"""DualServer in a program of one's own: what an application may do from any thread, and what it is spared."""

from __future__ import annotations

import logging
import queue
import ssl
import threading
import time
from typing import Any

import pytest
from support import *

from wsdual import Limits, Peer, echo


def test_a_peer_that_has_gone_is_never_taken_for_one_of_this_thread() -> None:
    """The system gives a dead thread's number to the next; an application may still hold the dead peer."""
    seen: list[Peer] = []

    def to_all_ever_seen(peer: Peer) -> None:
        seen.append(peer)
        for message in peer:
            for other in seen:
                other.send(message)

    with serving({"/": to_all_ever_seen}) as server:
        for number in range(8):
            with WebSocket(address_of(server), "/") as client:
                assert client.ask(f"hello {number}") == f"hello {number}"
                client.sock.sendall(frame(CLOSE, b"\x03\xe8"))
                assert client.receive_close()[0] == 1000
                assert closed(client.sock)
            wait_until(lambda: not server.everyone(), "its connection has ended")


def test_a_close_from_another_thread_waits_for_the_answer_no_longer_than_closing() -> None:
    """Not for the next ping, which is a minute away here."""
    peers: queue.Queue[Peer] = queue.Queue()

    def keep(peer: Peer) -> None:
        peers.put(peer)
        for _ in peer:
            pass

    limits = Limits(ping=60.0, closing=0.3)
    with serving({"/": keep}, limits=limits) as server, WebSocket(address_of(server), "/") as client:
        peers.get(timeout=PATIENCE).close(4000, "enough")
        assert client.receive_close() == (4000, "enough")
        assert closed(client.sock), "though the client never answers"
        wait_until(lambda: not server.everyone(), "the connection has left the register")


def test_an_observer_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It is the program's own fault, and told as one; the connection goes on."""

    def fault(event: dict[str, Any]) -> None:
        raise RuntimeError(f"no such step: {event['step']}")

    with serving({"/": echo}) as server:
        server.observers.append(fault)
        with caplog.at_level(logging.ERROR, "wsdual"), WebSocket(address_of(server), "/") as client:
            assert client.ask("still there?") == "still there?"
        wait_until(lambda: not server.everyone(), "the connection has left the register")
    assert "no such step: accepted" in caplog.text


def test_without_tls_unknown_bytes_are_refused_and_no_address_is_remembered() -> None:
    """There is no next time for TLS."""
    events: list[dict[str, Any]] = []
    with serving({"/": echo}) as server:
        server.observers.append(events.append)
        with connect(address_of(server)) as sock:
            sock.sendall(b"\x00\x01")
            assert closed(sock)
        wait_until(lambda: [e for e in events if e["step"] == "closed"], "it is over")
        assert not server.memory.entries()
    (why,) = [event["why"] for event in events if event["step"] == "refused"]
    assert why == "unknown first bytes"


def test_a_download_that_breaks_off_is_not_told_as_200(tmp_path: Any) -> None:
    """The client went away in the midst of it."""
    (tmp_path / "large.bin").write_bytes(bytes(64 * 2**20))
    events: list[dict[str, Any]] = []
    with serving({}, static=tmp_path) as server:
        server.observers.append(events.append)
        assert get(address_of(server), "/nothing")[0] == 404
        with connect(address_of(server)) as sock:
            sock.sendall(b"GET /large.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 200"
        why = wait_until(lambda: [e["why"] for e in events if e["step"] == "closed"][1:], "it is over")
    assert "200" not in why[0], why


def test_a_frame_for_a_gone_peer_is_not_sent() -> None:
    """send() from another thread says so with False, and raises nothing."""
    peers: queue.Queue[Peer] = queue.Queue()

    def keep(peer: Peer) -> None:
        peers.put(peer)
        for _ in peer:
            pass

    with serving({"/": keep}) as server:
        with WebSocket(address_of(server), "/") as client:
            client.sock.sendall(frame(TEXT, b"x"))
            peer = peers.get(timeout=PATIENCE)
            assert peer.send("hello")
            assert client.receive() == "hello"
        wait_until(lambda: not server.everyone(), "it has gone")
        begin = time.monotonic()
        assert peer.send("too late") is False
        assert time.monotonic() - begin < PATIENCE


def test_an_end_that_comes_while_a_socket_is_being_wrapped_is_not_lost(tmp_path: Any) -> None:
    """For that moment the raw socket is an empty shell, and to shut it down would do nothing."""
    wrapping, go_on = threading.Event(), threading.Event()

    class Slow(ssl.SSLContext):
        def wrap_socket(self, *arguments: Any, **options: Any) -> Any:
            sock = super().wrap_socket(*arguments, **options)
            wrapping.set()
            assert go_on.wait(PATIENCE)
            return sock

    identity = make_identity("localhost")
    (tmp_path / "both.pem").write_bytes(identity.key_pem() + identity.pem())
    tls = Slow(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "both.pem")
    with serving({"/": echo}, tls=tls, limits=Limits(handshake=60.0, closing=0.2)) as server:
        with connect(address_of(server)) as sock:
            sock.sendall(b"\x16")
            assert wrapping.wait(PATIENCE)
            ending = threading.Thread(target=server.server_close)
            ending.start()
            wait_until(lambda: server.socket.fileno() < 0, "it has stopped listening")
            time.sleep(0.3)  # by then the end has tried to cut this connection off
            go_on.set()
            assert closed(sock), "though the handshake may take a minute"
            ending.join(PATIENCE)
