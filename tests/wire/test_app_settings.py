# SPDX-License-Identifier: MIT
"""App: an application with settings of its own."""

from __future__ import annotations

import dataclasses
import inspect
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import *

from wsdual import App, DualServer, Limits, Peer, echo

MESSAGE = 10_000  # bytes in one message, for the whole server
PEERS: queue.Queue[Peer] = queue.Queue()


def keep(peer: Peer) -> None:
    """An application that hands its peer to the test."""
    PEERS.put(peer)
    for message in peer:
        peer.send(message)


@pytest.fixture(scope="module")
def mixed() -> Iterator[DualServer]:
    """A server with applications of different settings."""
    apps: dict[str, Any] = {
        "/": App(echo, message=100), "/bare": echo, "/plain": App(echo), "/small": App(echo, message=100),
        "/large": App(keep, message=3_000_000), "/flat": App(echo, deflate=False),
        "/here": App(echo, loopback_only=True),
    }  # fmt: skip
    with serving(apps, limits=Limits(message=MESSAGE)) as server:
        yield server


def test_the_names_and_what_they_are_by_themselves() -> None:
    """App(serve, subprotocols=(), message=None, deflate=True, loopback_only=False); it can't be changed."""
    parameters = inspect.signature(App).parameters.values()
    assert [(p.name, p.default) for p in parameters] == [
        ("serve", inspect.Parameter.empty), ("subprotocols", ()), ("message", None), ("deflate", True),
        ("loopback_only", False)]  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        App(echo).deflate = False  # type: ignore[misc]


# ---- message

MOST = {"/bare": MESSAGE, "/plain": MESSAGE, "/small": 100, "/large": 3_000_000, "/flat": MESSAGE}


@pytest.mark.parametrize("path", MOST)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "deflate"])
def test_a_message_of_just_that_size_passes_and_one_byte_more_is_1009(
    mixed: DualServer, path: str, compressed: bool
) -> None:
    """message is the application's own; None is the whole server's. It counts what is inflated."""
    offer = {"Sec_WebSocket_Extensions": "permessage-deflate"} if compressed and path != "/flat" else {}

    def one(size: int) -> bytes:
        data = b"x" * size
        return frame(BINARY, deflate(data), rsv=4) if offer else frame(BINARY, data)

    with WebSocket(address_of(mixed), path, **offer) as client:
        client.sock.sendall(one(MOST[path]))
        assert client.receive_frame()[2] == BINARY
        client.sock.sendall(one(MOST[path] + 1))
        assert client.receive_close()[0] == 1009
    while not PEERS.empty():
        PEERS.get()


def test_a_native_client_has_the_roots(mixed: DualServer) -> None:
    """A line has as many bytes as a message of the application at "/"."""
    with Native(address_of(mixed)) as client:
        line = '{"x":"' + "y" * 92 + '"}'
        assert len(line) == 100
        client.send(line)
        assert client.receive() == line
        client.send(line + "z")
        assert client.receive_json()["type"] == "error"


def test_a_larger_message_means_a_larger_backlog(mixed: DualServer) -> None:
    """What the server would drop an ordinary client for may wait for one of /large: two of its messages."""
    sock = narrow(address_of(mixed))
    upgraded(sock, address_of(mixed), "/large")
    peer = PEERS.get(timeout=PATIENCE)
    ordinary = Limits(message=MESSAGE).backlog
    for _ in range(2):
        assert peer.send(b"x" * 3_000_000)
    assert peer.backlog > 10 * ordinary
    for _ in range(20):
        if not peer.send(b"x" * 3_000_000):
            break
    assert "backlog" in wait_until(lambda: peer.ended)["why"], "though there is an end to it"
    reset(sock)


def test_a_smaller_message_leaves_the_backlog_as_large_as_the_servers() -> None:
    """What a client may send says nothing of what it is sent."""
    with serving({"/": App(keep, message=10)}, limits=Limits(message=1_000_000)) as server:
        sock = narrow(address_of(server))
        upgraded(sock, address_of(server), "/")
        peer = PEERS.get(timeout=PATIENCE)
        for _ in range(2):
            assert peer.send(b"x" * 900_000)
        assert peer.backlog > 1_000_000
        reset(sock)


# ---- deflate


@pytest.mark.parametrize(("path", "agreed"), [("/bare", True), ("/plain", True), ("/flat", False)])
def test_compression_is_agreed_on_unless_the_application_has_none(
    mixed: DualServer, path: str, agreed: bool
) -> None:
    """deflate=False: the offer isn't answered, and a compressed frame is a fault."""
    with WebSocket(address_of(mixed), path, Sec_WebSocket_Extensions="permessage-deflate") as client:
        assert ("sec-websocket-extensions" in client.headers) == agreed
        client.sock.sendall(frame(TEXT, b"hi"))
        assert client.receive_frame()[2] == TEXT
        client.sock.sendall(frame(TEXT, deflate(b"hi"), rsv=4))
        fin, rsv, opcode, payload = client.receive_frame()
        assert opcode == (TEXT if agreed else CLOSE)
        assert agreed or payload[:2] == b"\x03\xea", "1002"


# ---- loopback_only


def test_loopback_only_is_for_this_machine_alone(mixed: DualServer) -> None:
    """Whoever asks for another Host is refused, as /monitor does it."""
    with WebSocket(address_of(mixed), "/here") as client:
        assert client.ask("hi") == "hi"
    status, _, body = http(
        address_of(mixed), upgrade_request(address_of(mixed), "/here", Host="evil.example")
    )
    assert status == 403


def test_loopback_only_keeps_other_machines_out() -> None:
    """Websockets and, where it is the root's, native clients; the other applications are for all."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it tells which address would be used
        except OSError:
            pytest.skip("this machine has no address but loopback ones")
        away = probe.getsockname()[0]
    apps: dict[str, Any] = {"/": App(echo, loopback_only=True), "/all": echo}
    with serving(apps) as server:
        address = address_of(server)
        try:
            with WebSocket(address, "/all", source=away) as client:
                assert client.ask("hi") == "hi"
        except OSError:
            pytest.skip("this machine lets no client come to loopback from another address")
        status, _, body = http(address, upgrade_request(address, "/"), source=away)
        assert status == 403 and b"this machine" in body
        with Native(address, source=away) as native:
            native.send("{}")
            assert native.receive_json()["type"] == "error"


# ---- a bare function


def test_a_bare_function_is_an_app_and_any_callable_does() -> None:
    """Methods, objects with __call__, a lambda."""

    class Room:
        def __call__(self, peer: Peer) -> None:
            echo(peer)

        def serve(self, peer: Peer) -> None:
            echo(peer)

    apps: dict[str, Any] = {"/function": echo, "/app": App(echo), "/object": Room(), "/method": Room().serve,
                            "/lambda": lambda peer: echo(peer), "/app-object": App(Room())}  # fmt: skip
    with serving(apps) as server:
        for path in apps:
            with WebSocket(address_of(server), path) as client:
                assert client.ask(path) == path


def test_applications_may_be_mapped_while_the_server_runs(mixed: DualServer) -> None:
    """server.apps is a dict."""
    done = threading.Event()

    def new(peer: Peer) -> None:
        done.set()

    mixed.apps["/new"] = App(new)
    with WebSocket(address_of(mixed), "/new") as client:
        assert client.receive_close()[0] == 1000
    assert done.is_set()
    del mixed.apps["/new"]
    assert http(address_of(mixed), upgrade_request(address_of(mixed), "/new"))[0] == 404
