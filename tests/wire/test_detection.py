# SPDX-License-Identifier: MIT
"""How the server finds out what a client speaks: the peek, the memory, the trial method."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable

import pytest
from support import *

from wsdual import DualServer


def test_ws_and_wss_at_once_from_one_address(server: Program) -> None:
    """With the peek nobody waits for anybody, and each gets in at the first try."""
    with WebSocket(server.address) as plain, WebSocket(server.address, tls=True) as secure:
        assert plain.ask("one") == "one"
        assert secure.ask("two") == "two"


def test_all_six_kinds_right_after_another(server: Program) -> None:
    """One port: ws, wss, http, https, tcp and tcps, in any order."""
    for tls in (False, True, True, False):
        assert get(server.address, tls=tls)[0] == 200
        with Native(server.address, tls=tls) as native:
            native.send({"type": "who"})
            assert native.receive_json()["type"] == "error"
        with WebSocket(server.address, tls=tls) as client:
            assert client.ask("x") == "x"


def test_thirty_wss_logins_behind_one_address_need_thirty_connections(start: Callable[..., Program]) -> None:
    """A whole class behind one address logs in at once: no connection fails, none is tried again."""
    server = start()
    with Watcher(server.address) as watcher:
        clients = [WebSocket(server.address, tls=bool(number % 2)) for number in range(30)]
        wait_until(lambda: len(watcher.find("upgraded")) == 30, "30 upgrades")
        assert len(watcher.find("accepted")) == 30
        assert not watcher.find("refused") and not watcher.find("remembered")
        for client in clients:
            client.sock.close()


def test_a_silent_client_is_closed_at_the_deadline_and_not_remembered(start: Callable[..., Program]) -> None:
    """Silence is no sign of TLS: browsers open spare connections and say nothing on them."""
    server = start("--handshake-timeout", "0.3", "-v")
    with Watcher(server.address) as watcher:
        with connect(server.address) as silent:
            assert closed(silent)
        assert "silent" in watcher.wait_for("closed")["why"]
        assert not watcher.find("remembered")
        assert not watcher.find("peeked")
    assert "for 0.3 s" in wait_until(lambda: "silent" in server.log() and server.log())


@pytest.mark.parametrize("byte", [b"\x16", b"G", b"{"], ids=["tls", "http", "native"])
def test_one_byte_and_a_pause_is_no_harm(start: Callable[..., Program], byte: bytes) -> None:
    """The first byte decides; who then says no more is closed at the deadline, and nothing spins."""
    server = start("--handshake-timeout", "0.5")
    with Watcher(server.address) as watcher:
        before = server.cpu_seconds()
        with connect(server.address) as slow:
            slow.sendall(byte)
            peeked = watcher.wait_for("peeked")
            assert peeked["bytes"] == byte.hex()
            while slow.recv(1000):
                pass
        watcher.wait_for("closed", id=peeked["id"])
        assert server.cpu_seconds() - before < 0.25


def test_a_request_byte_by_byte_is_served(server: Program) -> None:
    """A slow writer within the deadline gets its answer."""
    with connect(server.address) as sock:
        for byte in b"GET / HTTP/1.0\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


def test_a_client_hello_byte_by_byte_is_served(server: Program) -> None:
    """The verdict falls at the first byte, and OpenSSL waits for the rest."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = any_tls().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with connect(server.address) as sock:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    sock.sendall(bytes([byte]))
                incoming.write(sock.recv(65536))
        assert tls.version() in ("TLSv1.2", "TLSv1.3")


def test_unknown_bytes_are_remembered_and_closed_then_tried_as_tls(start: Callable[..., Program]) -> None:
    """The fallback: whoever sends unknown bytes twice within the memory's time gets OpenSSL's judgement."""
    server = start()
    with Watcher(server.address) as watcher:
        for _ in range(2):
            with connect(server.address, source="127.0.0.2") as sock:
                sock.sendall(b"\x01" * 16)
                assert closed(sock)
        assert watcher.wait_for("remembered")["ip"] == "127.0.0.2"
        wait_until(lambda: len(watcher.find("refused")) == 2, watcher)
        first, second = watcher.find("refused")
        assert "remembered" in first["why"]
        assert "TLS handshake" in second["why"]
        assert len(watcher.find("remembered")) == 1


def test_what_the_peek_recognises_wins_over_the_memory(server: Program) -> None:
    """An address that is remembered still gets its plain and its TLS clients served."""
    with connect(server.address, source="127.0.0.3") as sock:
        sock.sendall(b"\x01")
        closed(sock)
    for tls in (False, True):
        with WebSocket(server.address, tls=tls, source="127.0.0.3") as client:
            assert client.ask("hello") == "hello"


def test_the_log_of_steps_is_what_the_design_says(start: Callable[..., Program]) -> None:
    """accepted, peeked, wrapped, upgraded, login, closed: each with its facts."""
    server = start()
    with Watcher(server.address) as watcher:
        with WebSocket(server.address, "/chat", tls=True) as client:
            client.send({"type": "login", "name": "ann"})
            client.receive()
            port = client.sock.getsockname()[1]
            watcher.wait_for("login", name="ann")
        number = watcher.wait_for("accepted", address=f"127.0.0.1:{port}")["id"]
        peeked = watcher.wait_for("peeked", id=number, verdict="tls")
        assert peeked["bytes"].startswith("1603") and peeked["us"] >= 0
        wrapped = watcher.wait_for("wrapped", id=number)
        assert wrapped["version"] == "TLSv1.3" and wrapped["cipher"].startswith("TLS_") and wrapped["us"] > 0
        assert watcher.wait_for("upgraded", id=number, kind="wss", path="/chat")
        closing = watcher.wait_for("closed", id=number)
        assert closing["code"] == 1006
        steps = [event["step"] for event in watcher.events if event.get("id") == number]
        assert steps == ["accepted", "peeked", "wrapped", "upgraded", "login", "closed"]


# ---- the trial method


def test_trial_first_wss_attempt_is_closed_and_the_second_succeeds(start: Callable[..., Program]) -> None:
    """The article's method: a failed connection for each wss login, then TLS starts at once."""
    server = start("--detect", "trial")
    with pytest.raises(OSError):
        WebSocket(server.address, tls=True, source="127.0.0.2").sock.close()
    with WebSocket(server.address, tls=True, source="127.0.0.2") as client:
        assert client.ask("in") == "in"


def test_trial_a_plain_client_of_a_remembered_address_is_refused_another_is_not(
    start: Callable[..., Program],
) -> None:
    """The method's price: for the memory's time no plain client can log in from that address."""
    server = start("--detect", "trial", "--memory", "60")
    with pytest.raises(OSError):
        connect(server.address, tls=True, source="127.0.0.2").close()
    with pytest.raises((EOFError, ConnectionError)):
        WebSocket(server.address, source="127.0.0.2")
    with WebSocket(server.address, source="127.0.0.3") as neighbour:
        assert neighbour.ask("x") == "x"


def test_trial_the_memory_ends_and_a_failed_wrap_does_not_renew_it(start: Callable[..., Program]) -> None:
    """A plain client gets in again as soon as the first entry has lived its time."""
    server = start("--detect", "trial", "--memory", "1.5")
    with Watcher(server.address) as watcher:
        with pytest.raises(OSError):
            connect(server.address, tls=True, source="127.0.0.2").close()
        began = watcher.wait_for("remembered")["time"]

        def served() -> bool:
            try:
                with WebSocket(server.address, source="127.0.0.2") as client:
                    return client.ask("x") == "x"
            except (EOFError, OSError):
                return False

        assert not served()
        wait_until(served)
        entered = watcher.wait_for("upgraded")["time"]
        assert len(watcher.find("remembered")) == 1
        assert entered - began >= 1.4


def test_trial_plain_clients_are_served_at_once(start: Callable[..., Program]) -> None:
    """A first message that is HTTP or native is understood, and stays unread by nobody."""
    server = start("--detect", "trial")
    assert get(server.address)[0] == 200
    with WebSocket(server.address) as client, Native(server.address) as native:
        assert client.ask("x") == "x"
        native.send({"type": "login", "name": "ann"})
        assert native.receive_json()["type"] == "welcome"


def test_trial_a_silent_client_is_not_remembered(start: Callable[..., Program]) -> None:
    """No message is no unreadable message."""
    server = start("--detect", "trial", "--handshake-timeout", "0.3")
    with Watcher(server.address) as watcher:
        with connect(server.address, source="127.0.0.2") as silent:
            assert closed(silent)
        watcher.wait_for("closed")
        assert not watcher.find("remembered")


def test_detect_takes_peek_and_trial_only() -> None:
    """A wrong name is an error at once, not a surprise later."""
    with pytest.raises(ValueError, match="peek.*trial"):
        DualServer(("127.0.0.1", 0), {}, detect="guess")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_several_machines_are_told_apart(server: Program) -> None:
    """The tests' machines: clients bound to different loopback addresses."""
    with Watcher(server.address) as watcher:
        for last in (2, 3, 4):
            with connect(server.address, source=f"127.0.0.{last}") as sock:
                sock.shutdown(socket.SHUT_WR)
                watcher.wait_for("accepted", address=f"127.0.0.{last}:{sock.getsockname()[1]}")
