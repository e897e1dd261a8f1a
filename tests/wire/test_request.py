# SPDX-License-Identifier: MIT
"""peer.request: what an application sees of the HTTP request that its client came with."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from http.client import HTTPMessage
from typing import Any

import pytest
from support import *

from wsdual import DualServer, Limits, Peer, server_context

PEERS: queue.Queue[Peer] = queue.Queue()


def keep(peer: Peer) -> None:
    """An application that hands its peer to the test, and then waits for the client's end."""
    PEERS.put(peer)
    for message in peer:
        peer.send(message)


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DualServer]:
    """A server whose one application takes all paths below /in/, and native clients."""
    identity, file = make_identity("localhost"), tmp_path_factory.mktemp("keeping") / "both.pem"
    file.write_bytes(identity.key_pem() + identity.pem())
    limits = Limits(header=64 * 1024)
    with serving({"/": keep, "/in/": keep}, tls=server_context(file), limits=limits) as server:
        yield server


def peer_for(server: DualServer, target: str = "/in/", *, tls: bool = False, **headers: str) -> Peer:
    """What the application got for this upgrade."""
    with WebSocket(address_of(server), target, tls=tls, **headers):
        return PEERS.get(timeout=PATIENCE)


def request_for(server: DualServer, target: str = "/in/", **headers: str) -> Any:
    """The same peer's request."""
    return peer_for(server, target, **headers).request


# ---- the first line

TARGETS: list[tuple[str, str, str, dict[str, list[str]]]] = [
    # target                      path                query             parameters
    ("/in/", "/in/", "", {}),
    ("/in/?", "/in/", "", {}),
    ("/in/?room=12", "/in/", "room=12", {"room": ["12"]}),
    ("/in/a%20b/%C3%A9?q=%C3%A9+x", "/in/a b/é", "q=%C3%A9+x", {"q": ["é x"]}),
    ("/in/a+b", "/in/a+b", "", {}),
    ("/in/?a=1&b=2&a=3", "/in/", "a=1&b=2&a=3", {"a": ["1", "3"], "b": ["2"]}),
    ("/in/?a=&b&c=x", "/in/", "a=&b&c=x", {"a": [""], "b": [""], "c": ["x"]}),
    ("/in/?a=1;b=2", "/in/", "a=1;b=2", {"a": ["1;b=2"]}),
    ("/in/?a=b=c", "/in/", "a=b=c", {"a": ["b=c"]}),
    ("/in/?next=/x?y=z", "/in/", "next=/x?y=z", {"next": ["/x?y=z"]}),
    ("/in/x%3Fy=1?y=2", "/in/x?y=1", "y=2", {"y": ["2"]}),
    ("/in/%2e%2e/secret", "/in/../secret", "", {}),
    ("/in//evil", "/in//evil", "", {}),
    ("/in/%ff?x=%ff", "/in/\ufffd", "x=%ff", {"x": ["\ufffd"]}),
    ("/in/%zz?x=%zz", "/in/%zz", "x=%zz", {"x": ["%zz"]}),
    ("/in/?=1&&=", "/in/", "=1&&=", {"": ["1", ""]}),
]


@pytest.mark.parametrize(("target", "path", "query", "parameters"), TARGETS, ids=[row[0] for row in TARGETS])
def test_path_is_decoded_and_query_is_raw(
    keeping: DualServer, target: str, path: str, query: str, parameters: dict[str, list[str]]
) -> None:
    """path is decoded; query is as it was written; parameters are the query's, decoded, blank ones kept."""
    peer = peer_for(keeping, target)
    request: Any = peer.request
    assert (request.method, request.path, request.query) == ("GET", path, query)
    assert request.parameters == parameters
    assert peer.path == path


def test_the_absolute_form_of_a_target_says_the_same(keeping: DualServer) -> None:
    """GET http://host/path is what a proxy may be sent (RFC 9112 section 3.2.2)."""
    host, port = address_of(keeping)
    request = request_for(keeping, f"http://{host}:{port}/in/x%20y?q=1")
    assert (request.path, request.query, request.parameters) == ("/in/x y", "q=1", {"q": ["1"]})


# ---- headers and cookies


def test_headers_are_the_standard_librarys_own_class(keeping: DualServer) -> None:
    """They don't care for case; get has a default; get_all gives each line of one that is there twice."""
    headers = request_for(keeping, Authorization="Bearer abc", X_Two="a\r\nX-Two: b, c", X_Empty="").headers
    assert isinstance(headers, HTTPMessage)
    for name in ("Authorization", "authorization", "AUTHORIZATION"):
        assert headers[name] == headers.get(name) == "Bearer abc" and name in headers
    assert headers.get_all("x-two") == ["a", "b, c"]
    assert headers["X-Empty"] == ""
    assert headers["X-None"] is None and headers.get_all("X-None") is None
    assert headers.get("X-None", "-") == "-"


def test_bytes_of_a_header_beyond_ascii_are_latin_1(keeping: DualServer) -> None:
    """As WSGI and http.client have it: each byte is one character."""
    assert request_for(keeping, X_Name="Andr\xe9").headers["X-Name"] == "Andr\xe9"


COOKIES: list[tuple[str, dict[str, str]]] = [
    ("session=abc", {"session": "abc"}),
    ("a=1; b=2", {"a": "1", "b": "2"}),
    ("a=1;b=2", {"a": "1", "b": "2"}),
    ('a="1"; b=2', {"a": "1", "b": "2"}),
    ("a=x=y==", {"a": "x=y=="}),
    ("a=; b=2", {"a": "", "b": "2"}),
    ("a=1; a=2", {"a": "1"}),
    ("bad; a=1", {"a": "1"}),
    ("b[ad]=1; a=1; =x; ;;", {"a": "1"}),
    ("a=1; b ad=1; \xe9=1; c=3", {"a": "1", "c": "3"}),
    ('a="b c, d"; e=f', {"a": "b c, d", "e": "f"}),
    ("a=1; {json: {}}; c={}", {"a": "1", "c": "{}"}),
    ("__Host-id=1; $Version=1", {"__Host-id": "1", "$Version": "1"}),
    ("a=%20%0a", {"a": "%20%0a"}),
    ("a=1\r\nCookie: b=2", {"a": "1", "b": "2"}),
    ("", {}),
]


@pytest.mark.parametrize(("header", "cookies"), COOKIES, ids=range(len(COOKIES)))
def test_a_bad_cookie_takes_no_good_one_along(
    keeping: DualServer, header: str, cookies: dict[str, str]
) -> None:
    """cookies holds all that are well made, whatever stands between them."""
    assert request_for(keeping, Cookie=header).cookies == cookies


def test_without_cookies_there_are_none(keeping: DualServer) -> None:
    """An empty dict, not None."""
    assert request_for(keeping).cookies == {}


def test_thousands_of_parameters_cookies_and_headers(keeping: DualServer) -> None:
    """As many as the head's size allows: each is there, and it costs no time that could be felt."""
    target = "/in/?" + "&".join(f"p{n}={n}" for n in range(2000))
    cookies = "; ".join(f"c{n}={n}" for n in range(1500))
    headers = "\r\n".join(["x", *[f"H{n}: {n}" for n in range(1000)]])
    request = request_for(keeping, target, Cookie=cookies, X_More=headers)
    assert len(request.parameters) == 2000 and request.parameters["p1999"] == ["1999"]
    assert len(request.cookies) == 1500 and request.cookies["c1499"] == "1499"
    assert request.headers["h999"] == "999"


# ---- whose it is


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_address_and_tls_are_the_peers(keeping: DualServer, tls: bool) -> None:
    """request.address is (ip, port) of the client, request.tls (version, cipher) or None."""
    with WebSocket(address_of(keeping), "/in/", tls=tls) as client:
        peer = PEERS.get(timeout=PATIENCE)
        request: Any = peer.request
        assert request.address == peer.address == client.sock.getsockname()
        assert request.tls == peer.tls
        assert (request.tls or (None,))[0] == (client.sock.version() if tls else None)  # type: ignore[attr-defined]
        assert request.certificate is None and peer.certificate is None


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tcps"])
def test_a_native_client_has_none(keeping: DualServer, tls: bool) -> None:
    """It sends none: request and subprotocol are None."""
    with Native(address_of(keeping), tls=tls) as client:
        client.send("{}")
        peer = PEERS.get(timeout=PATIENCE)
        assert client.receive() == "{}"
        assert peer.request is None and peer.subprotocol is None and peer.certificate is None


def test_a_request_lives_on_when_its_client_has_gone(keeping: DualServer) -> None:
    """An application may keep it."""
    request = request_for(keeping, "/in/?a=1", Cookie="b=2")
    wait_until(lambda: not keeping.everyone(), "the client has gone")
    assert (request.parameters, request.cookies) == ({"a": ["1"]}, {"b": "2"})
    assert request.headers["Upgrade"] == "websocket"


# ---- other people's clients


def url(server: DualServer, rest: str) -> str:
    """Where it listens."""
    return f"ws://127.0.0.1:{address_of(server)[1]}{rest}"


def test_what_websocket_client_sends(keeping: DualServer) -> None:
    """Its cookie, header and query arrive."""
    websocket = pytest.importorskip("websocket", reason="websocket-client isn't installed")
    client = websocket.create_connection(
        url(keeping, "/in/room%2012?token=s%26x"), timeout=PATIENCE, cookie="session=abc; theme=dark",
        header={"Authorization": "Bearer abc"},
    )  # fmt: skip
    request: Any = PEERS.get(timeout=PATIENCE).request
    client.close()
    assert request.path == "/in/room 12" and request.parameters == {"token": ["s&x"]}
    assert request.cookies == {"session": "abc", "theme": "dark"}
    assert request.headers["authorization"] == "Bearer abc"


def test_what_websockets_sends(keeping: DualServer) -> None:
    """The password in its URL comes as the header Authorization."""
    connecting = pytest.importorskip("websockets.sync.client", reason="websockets isn't installed")
    place = url(keeping, "/in/?a=1").replace("://", "://ann:secret@")
    with connecting.connect(place, additional_headers={"Cookie": "session=abc"}, proxy=None):
        request: Any = PEERS.get(timeout=PATIENCE).request
    assert request.headers["Authorization"] == "Basic YW5uOnNlY3JldA=="
    assert request.cookies == {"session": "abc"} and request.parameters == {"a": ["1"]}


def test_a_request_with_a_head_too_large_never_comes_to_the_application(start: Any) -> None:
    """It is 431, and others are served."""
    program = start()
    with unharmed(program):
        request = upgrade_request(program.address, "/echo?" + "&".join(["a=1"] * 10_000))
        assert http(program.address, request)[0] == 431
        request = upgrade_request(program.address, Cookie="; ".join(["a=1"] * 10_000))
        assert http(program.address, request)[0] == 431
