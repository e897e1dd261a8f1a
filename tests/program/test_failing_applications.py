# SPDX-License-Identifier: MIT
"""Faults that aren't the client's: an application that exits, a TLS socket whose end raises.

Each ends its own connection alone, is told as what it is, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import logging
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import CLOSE, PATIENCE, Native, WebSocket, closed, frame, make_identity, wait_until

from wsdual import DualServer, Limits, Peer, echo

Application = Callable[[Peer], object]
Events = list[dict[str, Any]]


@contextlib.contextmanager
def serving(apps: dict[str, Application], events: Events, **options: Any) -> Iterator[DualServer]:
    """A server in this process, as a program of one's own would run it; what it tells is collected."""
    with DualServer(("127.0.0.1", 0), apps, **options) as server:
        server.observers.append(events.append)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(PATIENCE)


def place(server: DualServer) -> tuple[str, int]:
    """Where it listens."""
    return str(server.server_address[0]), int(server.server_address[1])


def ends(events: Events) -> Events:
    """The connections that have ended."""
    return [event for event in tuple(events) if event["step"] == "closed"]


EXITS: dict[str, Callable[[], object]] = {
    "no status": sys.exit,
    "a status": lambda: sys.exit(1),
    "a text": lambda: sys.exit("that was all"),
}


@pytest.mark.parametrize("how", EXITS)
def test_an_application_that_exits_has_failed(caplog: pytest.LogCaptureFixture, how: str) -> None:
    """Its client sees 1011, the log has the traceback, and the server, which isn't its to end, goes on."""
    events: Events = []

    def leave(peer: Peer) -> None:
        for _ in peer:
            EXITS[how]()

    with serving({"/leave": leave, "/echo": echo}, events) as server, WebSocket(place(server)) as other:
        assert other.ask("before") == "before"
        with caplog.at_level(logging.ERROR, "wsdual"), WebSocket(place(server), "/leave") as client:
            client.send("go")
            assert client.receive_close()[0] == 1011
            client.sock.sendall(frame(CLOSE, b"\x03\xf3"))
            assert closed(client.sock)
        wait_until(lambda: ends(events), "it has ended")
        assert [event.get("code") for event in ends(events)] == [1011]
        assert other.ask("after") == "after"
        with WebSocket(place(server)) as fresh:
            assert fresh.ask("fresh") == "fresh"
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == 1 and "SystemExit" in caplog.text and "/leave" in caplog.text


def test_a_native_client_of_an_application_that_exits_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """By an error line, since it has no close frame."""

    def leave(peer: Peer) -> None:
        for _ in peer:
            sys.exit()

    with caplog.at_level(logging.ERROR, "wsdual"), serving({"/": leave}, []) as server:
        with Native(place(server)) as client:
            client.send("{}")
            answer = json.loads(client.receive())
            assert answer["type"] == "error"
            assert closed(client.sock)
    assert "SystemExit" in caplog.text


class FaultyEnd(ssl.SSLSocket):
    """A TLS socket that raises in its end what nobody expects there."""

    fault = ""  # the name of the method that raises

    def unwrap(self) -> Any:
        """Say close_notify, or not."""
        if self.fault == "unwrap":
            raise RuntimeError("a fault in unwrap")
        return super().unwrap()

    def close(self) -> None:
        """Close, or not."""
        if self.fault == "close":
            raise RuntimeError("a fault in close")
        super().close()


@pytest.fixture
def faulty_tls(tmp_path: Path) -> ssl.SSLContext:
    """TLS settings that make such sockets."""
    identity = make_identity("localhost")
    (tmp_path / "both.pem").write_bytes(identity.key_pem() + identity.pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    context.sslsocket_class = FaultyEnd
    return context


@pytest.mark.parametrize("fault", ["unwrap", "close"])
def test_a_fault_in_the_end_of_a_connection_leaves_nothing_of_it_behind(
    faulty_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """It leaves the register and frees its seat, whatever is raised; the server's own end waits for none."""
    monkeypatch.setattr(FaultyEnd, "fault", fault)
    events: Events = []
    limits = Limits(clients=2, closing=PATIENCE)
    with serving({"/echo": echo}, events, tls=faulty_tls, limits=limits) as server:
        for number in range(1, 4):
            with WebSocket(place(server), tls=True) as client:
                assert client.ask("hello") == "hello"
                client.sock.sendall(frame(CLOSE, b"\x03\xe8"))
                assert client.receive_close()[0] == 1000
            wait_until(lambda n=number: len(ends(events)) == n, "its end has been told", 3.0)
        since = time.monotonic()
    assert time.monotonic() - since < PATIENCE / 2, "the end of the server waited for one that had gone"
