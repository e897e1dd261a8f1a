# SPDX-License-Identifier: MIT
"""DualServer.verify_upgrade: who may come in, said before the upgrade."""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import pytest
from support import *

from wsdual import App, DualServer, Limits, Peer, PeerGone, Refused, echo

PEERS: queue.Queue[Peer] = queue.Queue()


def keep(peer: Peer) -> None:
    """An application that hands its peer to the test."""
    PEERS.put(peer)
    for message in peer:
        peer.send(message)


class Guarded(DualServer):
    """A server that asks the test who may come in."""

    guard: Callable[[Any], object] = staticmethod(lambda request: None)

    def verify_upgrade(self, request: Any) -> None:
        """Ask."""
        self.guard(request)


@contextlib.contextmanager
def guarded(guard: Callable[[Any], object], **options: Any) -> Iterator[Guarded]:
    """Such a server, for a while; nobody is left in it afterwards."""
    apps: dict[str, Any] = {"/": echo, "/echo": echo, "/keep": keep,
                            "/here": App(echo, loopback_only=True)}  # fmt: skip
    with Guarded(("127.0.0.1", 0), apps, **options) as server:
        server.guard = guard  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
            wait_until(lambda: not server.everyone(), "nobody is left behind")
        finally:
            server.shutdown()
            thread.join(PATIENCE)


def refuse(*arguments: Any) -> Callable[[Any], object]:
    """A guard that refuses everybody so."""

    def guard(request: Any) -> None:
        raise Refused(*arguments)

    return guard


def answer(server: DualServer, path: str = "/echo", **options: Any) -> tuple[int, dict[str, str], bytes]:
    """What an upgrade gets that isn't taken."""
    return http(address_of(server), upgrade_request(address_of(server), path, **options))


# ---- the way to say no


def test_a_refusal_has_its_status_its_headers_and_its_reason() -> None:
    """Refused("log in first", 401, [("WWW-Authenticate", "Bearer")]) is what the client gets; the log too."""
    events: list[dict[str, Any]] = []
    with guarded(refuse("log in first", 401, [("WWW-Authenticate", "Bearer"), ("X-A", "b")])) as server:
        server.observers.append(events.append)
        status, headers, body = answer(server)
        wait_until(lambda: [e for e in events if e["step"] == "closed"], "it is over")
    assert (status, headers["www-authenticate"], headers["x-a"]) == (401, "Bearer", "b")
    assert body == b"401 Unauthorized: log in first\n" and headers["content-length"] == str(len(body))
    assert [e["why"] for e in events if e["step"] == "refused"] == ["log in first"]
    assert not [e for e in events if e["step"] == "upgraded"]


def test_who_is_not_refused_comes_in_and_the_application_gets_the_same_object() -> None:
    """What the guard has found out may be set on the request."""

    def guard(request: Any) -> None:
        if request.headers.get("Authorization") != "Bearer abc":
            raise Refused("log in first", 401)
        request.user = "ann"

    with guarded(guard) as server:
        assert answer(server, "/keep")[0] == 401
        with WebSocket(address_of(server), "/keep", Authorization="Bearer abc") as client:
            assert client.ask("hi") == "hi"
            request: Any = PEERS.get(timeout=PATIENCE).request
    assert request.user == "ann"


def test_a_session_in_a_cookie_and_a_token_in_the_query() -> None:
    """The two ways that a browser has, which can't set headers."""

    def guard(request: Any) -> None:
        if request.cookies.get("session") != "abc" and request.parameters.get("token") != ["abc"]:
            raise Refused("log in first", 401)

    with guarded(guard) as server:
        for path, cookie, status in [
            ("/echo", "a=b; session=abc", 101), ("/echo?token=abc", "", 101),
            ("/echo", "session=x", 401), ("/echo?token=abc&token=x", "", 401),
        ]:  # fmt: skip
            with connect(address_of(server)) as sock:
                sock.sendall(upgrade_request(address_of(server), path, Cookie=cookie))
                assert int(sock.recv(12).split()[1]) == status, (path, cookie)


# ---- when it is asked


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/nothing", {}, 404),
        ("/echo", {"Host": "evil.example"}, 403),
        ("/echo", {"Origin": "http://evil.example"}, 403),
        ("/here", {"Host": "evil.example"}, 403),
        ("/echo", {"Sec_WebSocket_Version": "8"}, 426),
        ("/echo", {"Sec_WebSocket_Key": "short"}, 400),
        ("/echo", {"Connection": "close"}, 400),
    ],
    ids=["no such path", "foreign host", "foreign origin", "loopback only", "version", "key", "connection"],
)
def test_it_is_asked_after_all_other_checks(path: str, headers: dict[str, str], status: int) -> None:
    """404, Host, Origin and what the RFC demands come first: who fails there gets what it gets elsewhere."""
    asked: list[Any] = []
    with guarded(asked.append) as server:
        assert answer(server, path, **headers)[0] == status
    assert not asked


def test_files_and_native_clients_are_not_asked(tmp_path: Any) -> None:
    """It is for WebSockets: a file is sent, a line is taken."""
    (tmp_path / "index.html").write_text("hello")
    with guarded(refuse("nobody", 403), static=tmp_path) as server:
        assert get(address_of(server))[0] == 200
        with Native(address_of(server)) as client:
            client.send("{}")
            assert client.receive() == "{}"
        assert answer(server)[0] == 403


def test_its_text_says_that_native_clients_are_not_asked() -> None:
    """Who overrides it reads this."""
    assert re.search(r"native clients aren't asked", DualServer.verify_upgrade.__doc__ or "", re.IGNORECASE)


# ---- what else it raises


FAULTS: dict[str, Callable[[], object]] = {
    "OSError": lambda: open("/nothing/there"),
    "TimeoutError": lambda: (_ for _ in ()).throw(TimeoutError("the database")),
    "ConnectionResetError": lambda: (_ for _ in ()).throw(ConnectionResetError("the database")),
    "PeerGone": lambda: (_ for _ in ()).throw(PeerGone("somebody")),
    "SystemExit": sys.exit,
    "KeyboardInterrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt()),
    "KeyError": lambda: {}["user"],
    "StopIteration": lambda: next(iter(())),
    "RecursionError": lambda: (_ for _ in ()).throw(RecursionError()),
    "GeneratorExit": lambda: (_ for _ in ()).throw(GeneratorExit()),
}


@pytest.mark.parametrize("name", FAULTS)
def test_whatever_else_it_raises_is_500_and_a_traceback(caplog: pytest.LogCaptureFixture, name: str) -> None:
    """The client is refused, and learns nothing of the reason; the log has it; the server goes on."""

    def guard(request: Any) -> None:
        if request.path == "/echo":
            FAULTS[name]()

    with caplog.at_level(logging.ERROR, "wsdual"), guarded(guard) as server:
        status, _, body = answer(server)
        assert status == 500 and name.encode() not in body and b"Traceback" not in body
        with WebSocket(address_of(server), "/keep") as client:
            assert client.ask("still there?") == "still there?"
            PEERS.get(timeout=PATIENCE)
    (record,) = [record for record in caplog.records if record.exc_info]
    what = record.exc_info and record.exc_info[0]
    assert what and what.__name__ in (name, "FileNotFoundError")


# ---- a refusal that can't be sent as it is


ODD: list[tuple[tuple[Any, ...], int]] = [
    (("why", 499), 499),
    (("why", 599), 599),
    (("why", HTTPStatus.UNAUTHORIZED), 401),
    (("why", 303, [("Location", "https://login.example/")]), 303),
    (("", 403), 403),
    (("grüße 🎈", 403), 403),
    (("x" * 2_000_000, 403), 403),
    (("why", 401, (("A", "b"), ("A", "c"))), 401),
    (("why", 401, [("A", "")]), 401),
    # From here on: no such answer can be sent.
    (("why", 101), 500),
    (("why", 200), 500),
    (("why", 304), 500),
    (("why", 0), 500),
    (("why", 1000), 500),
    (("why", "401"), 500),
    (("why", None), 500),
    (("why", [401]), 500),
    (("why", 401, None), 500),
    (("why", 401, 5), 500),
    (("why", 401, {"WWW-Authenticate": "Bearer"}), 500),
    (("why", 401, [("A", "b\r\nSet-Cookie: evil=1")]), 500),
    (("why", 401, [("A", "b\nc")]), 500),
    (("why", 401, [("A", "b\0c")]), 500),
    (("why", 401, [("A b", "c")]), 500),
    (("why", 401, [("A:", "c")]), 500),
    (("why", 401, [("", "c")]), 500),
    (("why", 401, [("A", "ü")]), 500),
    (("why", 401, [("A", 3)]), 500),
    (("why", 401, [("A",)]), 500),
    (("why", 401, [("Content-Length", "1000000")]), 500),
    (("why", 401, [("Transfer-Encoding", "gzip")]), 500),
]


@pytest.mark.parametrize(("arguments", "status"), ODD, ids=range(len(ODD)))
def test_every_refusal_gets_an_answer(
    caplog: pytest.LogCaptureFixture, arguments: tuple[Any, ...], status: int
) -> None:
    """As it is, or 500 and a traceback where that can't be sent; never a header that it didn't mean."""
    with caplog.at_level(logging.ERROR, "wsdual"), guarded(refuse(*arguments)) as server:
        got, headers, body = answer(server)
    assert got == status and "set-cookie" not in headers
    assert headers["content-length"] == str(len(body)) and body.startswith(str(status).encode())
    assert bool(caplog.records) == (status == 500)


def test_a_reason_that_is_no_text_gets_an_answer_too() -> None:
    """JSON may hold half a character."""
    logging.disable(logging.CRITICAL)  # no report of a test can carry it
    try:
        with guarded(refuse("\ud800", 401)) as server:
            assert answer(server)[0] == 500
    finally:
        logging.disable(logging.NOTSET)


# ---- it takes its time


def test_one_that_takes_its_time_holds_up_nobody_else() -> None:
    """It runs in the connection's own thread; not even the deadline for the handshake ends it."""
    decided = threading.Event()

    def guard(request: Any) -> None:
        if request.path == "/keep":
            assert decided.wait(PATIENCE)

    with guarded(guard, limits=Limits(handshake=0.2)) as server:
        address = address_of(server)
        with connect(address) as slow:
            slow.sendall(upgrade_request(address, "/keep"))
            for _ in range(3):
                with WebSocket(address) as client:
                    assert client.ask("hi") == "hi"
            time.sleep(0.3)  # past the deadline
            decided.set()
            assert slow.recv(12) == b"HTTP/1.1 101"
            PEERS.get(timeout=PATIENCE)


def test_the_servers_end_does_not_wait_for_it_for_long() -> None:
    """A client that it is still undecided about is cut off; nothing is called for it afterwards."""
    asked, decided = threading.Event(), threading.Event()

    def guard(request: Any) -> None:
        asked.set()
        decided.wait(PATIENCE)

    with contextlib.ExitStack() as stack:
        stack.callback(decided.set)
        server = Guarded(("127.0.0.1", 0), {"/keep": keep}, limits=Limits(closing=0.2))
        server.guard = guard  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        client = stack.enter_context(connect(address_of(server)))
        client.sendall(upgrade_request(address_of(server), "/keep"))
        assert asked.wait(PATIENCE)
        server.shutdown()
        thread.join(PATIENCE)
        begin = time.monotonic()
        server.server_close()
        assert time.monotonic() - begin < PATIENCE / 2
        assert closed(client)


def test_a_client_that_leaves_meanwhile_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    """The application finds it gone."""
    asked, decided = threading.Event(), threading.Event()

    def guard(request: Any) -> None:
        asked.set()
        assert decided.wait(PATIENCE)

    with caplog.at_level(logging.ERROR, "wsdual"), guarded(guard) as server:
        sock = connect(address_of(server))
        sock.sendall(upgrade_request(address_of(server)))
        assert asked.wait(PATIENCE)
        reset(sock)
        decided.set()
        wait_until(lambda: not server.everyone(), "it has left the register")
    assert not caplog.records


# ---- other people's clients


def test_websocket_client_sees_the_status_and_the_headers() -> None:
    """WebSocketBadStatusException has both."""
    websocket = pytest.importorskip("websocket", reason="websocket-client isn't installed")
    with guarded(refuse("log in first", 401, [("WWW-Authenticate", "Bearer")])) as server:
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            websocket.create_connection(f"ws://127.0.0.1:{address_of(server)[1]}/echo", timeout=PATIENCE)
    assert caught.value.status_code == 401
    assert caught.value.resp_headers["www-authenticate"] == "Bearer"
    assert caught.value.resp_body == b"401 Unauthorized: log in first\n"


def test_websockets_sees_the_status_and_the_headers() -> None:
    """InvalidStatus has the whole response."""
    websockets = pytest.importorskip("websockets", reason="websockets isn't installed")
    connecting = pytest.importorskip("websockets.sync.client", reason="websockets isn't installed")
    with guarded(refuse("log in first", 401, [("WWW-Authenticate", "Bearer")])) as server:
        with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
            connecting.connect(f"ws://127.0.0.1:{address_of(server)[1]}/echo", proxy=None)
    response = caught.value.response
    assert response.status_code == 401 and response.headers["WWW-Authenticate"] == "Bearer"
    assert response.body == b"401 Unauthorized: log in first\n"
