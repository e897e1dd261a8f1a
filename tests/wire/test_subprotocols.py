# SPDX-License-Identifier: MIT
"""Subprotocols (RFC 6455 section 1.9): the application's first that the client offers too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import npm
import pytest
from support import *

from wsdual import App, DualServer, Peer, echo, server_context


def tell(peer: Peer) -> None:
    """An application that says what was agreed on."""
    peer.send(json.dumps(peer.subprotocol))
    for message in peer:
        peer.send(message)


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DualServer]:
    """A server whose /chat speaks two subprotocols, and /none none."""
    identity, file = make_identity("localhost"), tmp_path_factory.mktemp("telling") / "both.pem"
    file.write_bytes(identity.key_pem() + identity.pem())
    apps = {"/": tell, "/none": tell, "/chat": App(tell, subprotocols=("chat.v2", "chat.v1")),
            "/list": App(tell, subprotocols=["a"]), "/below/": App(tell, ("below",))}  # fmt: skip
    with serving(apps, tls=server_context(file)) as server:
        yield server


OFFERS: list[tuple[str | None, str | None]] = [
    (None, None),
    ("chat.v1", "chat.v1"),
    ("chat.v2", "chat.v2"),
    ("chat.v1, chat.v2", "chat.v2"),
    ("chat.v1,chat.v2", "chat.v2"),
    ("mqtt,\t chat.v1 ,soap", "chat.v1"),
    ("chat.v1, chat.v1", "chat.v1"),
    ("mqtt\r\nSec-WebSocket-Protocol: chat.v1", "chat.v1"),
    ("mqtt\r\nsec-websocket-protocol: chat.v1\r\nSec-WebSocket-Protocol: chat.v2", "chat.v2"),
    (",,chat.v1,,", "chat.v1"),
    (", ".join([*(f"p{n}" for n in range(1000)), "chat.v1"]), "chat.v1"),
    (", ".join(["chat.v1"] * 1000), "chat.v1"),
    # From here on: none fits, so none is told.
    ("mqtt", None),
    ("mqtt, soap", None),
    ("CHAT.V1", None),
    ("chat", None),
    ("chat.v1.1", None),
    ("chat v1", None),
    ('"chat.v1"', None),
    ("chat.v1;q=1", None),
    ("chat.v\xb9", None),
    ("", None),
    (" ", None),
    (",", None),
    (", ".join(f"p{n}" for n in range(1000)), None),
]


@pytest.mark.parametrize(("offer", "chosen"), OFFERS, ids=range(len(OFFERS)))
def test_the_applications_first_that_is_offered_is_told(
    telling: DualServer, offer: str | None, chosen: str | None
) -> None:
    """In the 101, once, and as peer.subprotocol; where none fits, none is told."""
    with WebSocket(address_of(telling), "/chat", Sec_WebSocket_Protocol=offer) as client:
        assert client.headers.get("sec-websocket-protocol") == chosen
        assert json.loads(client.receive()) == chosen


@pytest.mark.parametrize("path", ["/none", "/"])
def test_an_application_without_any_tells_none(telling: DualServer, path: str) -> None:
    """A bare function is App(function)."""
    with WebSocket(address_of(telling), path, Sec_WebSocket_Protocol="chat.v1") as client:
        assert "sec-websocket-protocol" not in client.headers
        assert json.loads(client.receive()) is None


def test_each_application_has_its_own(telling: DualServer) -> None:
    """By its path; for what is below a path too. A list does as well as a tuple."""
    offer = "below, a, chat.v1"
    for path, chosen in [("/list", "a"), ("/below/it", "below"), ("/chat", "chat.v1")]:
        with WebSocket(address_of(telling), path, Sec_WebSocket_Protocol=offer) as client:
            assert json.loads(client.receive()) == chosen


def test_over_tls_and_with_deflate_it_is_the_same(telling: DualServer) -> None:
    """The 101 tells both the extension and the subprotocol."""
    with WebSocket(address_of(telling), "/chat", tls=True, Sec_WebSocket_Protocol="chat.v1",
                   Sec_WebSocket_Extensions="permessage-deflate") as client:  # fmt: skip
        assert client.headers["sec-websocket-protocol"] == "chat.v1"
        assert client.headers["sec-websocket-extensions"].startswith("permessage-deflate")


@pytest.mark.parametrize("names", ["chat", ""])
def test_a_bare_string_is_a_type_error(names: str) -> None:
    """Its letters would be taken for names."""
    with pytest.raises(TypeError, match="subprotocols"):
        App(echo, subprotocols=names)
    with pytest.raises(TypeError, match="subprotocols"):
        App(echo, names)


BAD_NAMES: list[Any] = [("",), ("a b",), ("a,b",), ("é",), ("a\r\nX: y",), (b"chat",), (3,), b"chat"]


@pytest.mark.parametrize("names", BAD_NAMES, ids=map(repr, BAD_NAMES))
def test_a_name_that_no_header_carries_is_an_error_at_once(names: Any) -> None:
    """A name is a token (RFC 9110 section 5.6.2). Not when the first client comes that offers it."""
    with pytest.raises((TypeError, ValueError)):
        App(echo, subprotocols=names)


# ---- other people's clients: those that refuse the connection where their offer isn't answered


def url(server: DualServer, path: str = "/chat", scheme: str = "ws") -> str:
    """Where it listens."""
    return f"{scheme}://127.0.0.1:{address_of(server)[1]}{path}"


def test_websocket_client_has_its_subprotocol(telling: DualServer) -> None:
    """websocket-client raises where what it gets isn't what it asked for."""
    websocket = pytest.importorskip("websocket", reason="websocket-client isn't installed")
    client = websocket.create_connection(url(telling), subprotocols=["soap", "chat.v1"], timeout=PATIENCE)
    assert client.getsubprotocol() == "chat.v1" and client.recv() == '"chat.v1"'
    client.close()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_websockets_has_its_subprotocol(telling: DualServer, scheme: str) -> None:
    """websockets, in asyncio."""
    client = pytest.importorskip("websockets.asyncio.client", reason="websockets isn't installed")

    async def talk() -> None:
        options = {"ssl": any_tls()} if scheme == "wss" else {}
        offer: Any = ["chat.v1", "chat.v2"]
        place = url(telling, scheme=scheme)
        async with client.connect(place, subprotocols=offer, proxy=None, **options) as connection:
            assert connection.subprotocol == "chat.v2"
            assert await connection.recv() == '"chat.v2"'

    asyncio.run(asyncio.wait_for(talk(), PATIENCE))


OPEN_AND_TELL = """
const [url, ...offer] = process.argv.slice(2);
const client = new WebSocket(url, offer);
client.onmessage = (event) => { console.log(JSON.stringify([client.protocol, event.data])); client.close(); };
client.onerror = () => console.log('"refused"');
client.onclose = () => process.exit(0);
"""
NODES = {
    "ws": ("const { WebSocket } = require('ws');", "ws"),
    "undici": ("const { WebSocket } = require('undici');", "undici"),
    "node": ("", ""),
}


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize(
    ("path", "offer", "told"),
    [("/chat", ["soap", "chat.v1"], ["chat.v1", '"chat.v1"']),
     ("/chat", ["chat.v1", "chat.v2"], ["chat.v2", '"chat.v2"']), ("/chat", [], ["", "null"])],
    ids=["one fits", "two fit", "none offered"],
)  # fmt: skip
def test_a_client_in_node_has_its_subprotocol(
    telling: DualServer, name: str, path: str, offer: list[str], told: list[str]
) -> None:
    """ws and undici from npm, and Node's own WebSocket: client.protocol is what was agreed on."""
    load, package = NODES[name]
    flags = () if package else npm.with_websocket()
    lines = npm.run(load + OPEN_AND_TELL, url(telling, path), *offer, package=package, flags=flags)
    assert json.loads(lines[0]) == told


def test_chromium_has_its_subprotocol(telling: DualServer, tmp_path: Path) -> None:
    """A page's WebSocket.protocol, over ws and wss."""
    from browser import chromium

    ask = """
        const [url, offer, done] = arguments;
        const client = new WebSocket(url, offer);
        client.onmessage = (event) => { done([client.protocol, event.data]); client.close(); };
        client.onerror = () => done("refused");
    """
    page = tmp_path / "index.html"
    page.write_text("<!doctype html><title>a page from the disk</title>")
    with chromium(tmp_path / "profile", "--ignore-certificate-errors") as driver:
        driver.get(page.as_uri())
        for scheme in ("ws", "wss"):
            place = url(telling, scheme=scheme)
            assert driver.execute_async_script(ask, place, ["soap", "chat.v1"]) == ["chat.v1", '"chat.v1"']
            assert driver.execute_async_script(ask, place, []) == ["", "null"]
            none = url(telling, "/none", scheme)
            assert driver.execute_async_script(ask, none, ["soap"]) == "refused", "so browsers do"
