# SPDX-License-Identifier: MIT
"""A path that ends in a slash takes all that is below it; the longest wins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support import *

from wsdual import App, DualServer, Peer


def called(name: str) -> Any:
    """An application that says its name, and which path its client asked for."""

    def application(peer: Peer) -> None:
        assert peer.request is None or peer.request.path == peer.path
        peer.send(json.dumps([name, peer.path]))
        for message in peer:
            peer.send(message)

    return application


PATHS = ["/", "/chat", "/rooms/", "/rooms/12/", "/rooms/12", "/rooms/12/board", "/rooms/é/", "/a/b/c/"]


@pytest.fixture(scope="module")
def many() -> Iterator[DualServer]:
    """A server with an application at each of the paths."""
    with serving({path: called(path) for path in PATHS}) as server:
        yield server


ASKED: list[tuple[str, str | None, str]] = [
    # what is asked for       who answers         peer.path
    ("/", "/", "/"),
    ("/chat", "/chat", "/chat"),
    ("/chat?x=/rooms/", "/chat", "/chat"),
    ("/rooms/", "/rooms/", "/rooms/"),
    ("/rooms/7", "/rooms/", "/rooms/7"),
    ("/rooms/7/8/9", "/rooms/", "/rooms/7/8/9"),
    ("/rooms/7/", "/rooms/", "/rooms/7/"),
    ("/rooms/7?q=/rooms/12/", "/rooms/", "/rooms/7"),
    ("/rooms/a%20b", "/rooms/", "/rooms/a b"),
    ("/rooms//", "/rooms/", "/rooms//"),
    ("/rooms/../chat", "/rooms/", "/rooms/../chat"),
    ("/rooms/%2e%2e/chat", "/rooms/", "/rooms/../chat"),
    ("/rooms%2f7", "/rooms/", "/rooms/7"),
    ("/rooms/12", "/rooms/12", "/rooms/12"),
    ("/rooms/12/", "/rooms/12/", "/rooms/12/"),
    ("/rooms/12/x", "/rooms/12/", "/rooms/12/x"),
    ("/rooms/12/board", "/rooms/12/board", "/rooms/12/board"),
    ("/rooms/12/board/", "/rooms/12/", "/rooms/12/board/"),
    ("/rooms/123", "/rooms/", "/rooms/123"),
    ("/rooms/%C3%A9/x", "/rooms/é/", "/rooms/é/x"),
    ("/a/b/c/d", "/a/b/c/", "/a/b/c/d"),
    # Nobody: "/" alone is no path with all below it, and a path without a slash has nothing below it.
    ("/nothing", None, ""),
    ("/chat/", None, ""),
    ("/chat/x", None, ""),
    ("/rooms", None, ""),
    ("/Rooms/7", None, ""),
    ("/roomsx/", None, ""),
    ("//rooms/7", None, ""),
    ("/a/b/", None, ""),
    ("/a/b/c", None, ""),
    ("/a", None, ""),
]


@pytest.mark.parametrize(("target", "name", "path"), ASKED, ids=[row[0] for row in ASKED])
def test_the_longest_path_above_wins(many: DualServer, target: str, name: str | None, path: str) -> None:
    """One that is named exactly wins over all; peer.path is what was asked for, decoded."""
    if name is None:
        assert http(address_of(many), upgrade_request(address_of(many), target))[0] == 404
        return
    with WebSocket(address_of(many), target) as client:
        assert json.loads(client.receive()) == [name, path]


def test_native_clients_still_come_to_the_root(many: DualServer) -> None:
    """Their path is "/"."""
    with Native(address_of(many)) as client:
        client.send("{}")
        assert json.loads(client.receive()) == ["/", "/"]


def test_settings_hold_for_all_below() -> None:
    """They are the application's, whichever path its client asked for."""
    with serving({"/small/": App(called("small"), message=10, deflate=False)}) as server:
        offer = {"Sec_WebSocket_Extensions": "permessage-deflate"}
        with WebSocket(address_of(server), "/small/x", **offer) as client:
            assert "sec-websocket-extensions" not in client.headers
            client.receive()
            assert client.ask("x" * 10) == "x" * 10
            client.send("x" * 11)
            assert client.receive_close()[0] == 1009


def test_an_application_that_counts_as_false_is_one_all_the_same() -> None:
    """A room may have a length, and be empty."""

    class Room(list[Peer]):
        def __call__(self, peer: Peer) -> None:
            called("room")(peer)

    with serving({"/rooms/": called("below"), "/rooms/12": Room()}) as server:
        with WebSocket(address_of(server), "/rooms/12") as client:
            assert json.loads(client.receive()) == ["room", "/rooms/12"]


def test_a_path_as_long_as_a_head_may_be() -> None:
    """It costs no more than any other, and the answer doesn't repeat it all."""
    with serving({"/rooms/": called("below")}) as server:
        long = "/rooms/" + "x/" * 7000
        with WebSocket(address_of(server), long) as client:
            assert json.loads(client.receive()) == ["below", long]
        status, _, body = http(address_of(server), upgrade_request(address_of(server), "/no" + long))
        assert status == 404 and len(body) < 300
