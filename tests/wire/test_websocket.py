# SPDX-License-Identifier: MIT
"""WebSockets: the upgrade, messages, compression, the close handshake, pings."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from support import *

from wsdual import Limits, Peer

TLS = pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
DEFLATE = {"Sec_WebSocket_Extensions": "permessage-deflate"}


@TLS
def test_messages_come_back_as_they_were_sent(server: Program, tls: bool) -> None:
    """Text and bytes, empty, short and long, at each of the frame header's three length forms."""
    with WebSocket(server.address, tls=tls) as client:
        for size in (0, 1, 125, 126, 127, 65535, 65536, 200_000):
            assert client.ask("x" * size) == "x" * size
            assert client.ask(b"\xff" * size) == b"\xff" * size
        assert client.ask("h\u00e9 \u4f60 \U0001f600") == "h\u00e9 \u4f60 \U0001f600"


def test_the_accept_header_is_the_rfcs(server: Program) -> None:
    """RFC 6455 section 1.3: the key and the GUID, hashed."""
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    with WebSocket(server.address, Sec_WebSocket_Key=key) as client:
        digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        assert client.headers["sec-websocket-accept"] == base64.b64encode(digest).decode()
        assert client.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert "sec-websocket-extensions" not in client.headers
        assert "sec-websocket-protocol" not in client.headers


def test_a_frame_in_one_packet_with_the_request_is_served(server: Program) -> None:
    """A client that doesn't wait for the 101 loses nothing."""
    with WebSocket(server.address, early=frame(TEXT, b"early") + frame(TEXT, b"bird")) as client:
        assert client.receive() == "early"
        assert client.receive() == "bird"


def test_an_unknown_path_is_404_and_a_query_does_not_count(server: Program) -> None:
    """Paths map to applications."""
    assert http(server.address, upgrade_request(server.address, "/nowhere"))[0] == 404
    with WebSocket(server.address, "/echo?room=1") as client:
        assert client.ask("x") == "x"


def test_connection_and_upgrade_headers_are_lists_in_any_case(server: Program) -> None:
    """Firefox sends "keep-alive, Upgrade"; others shout."""
    with WebSocket(server.address, Connection="keep-alive, uPgRaDe", Upgrade="WebSocket") as client:
        assert client.ask("x") == "x"


@TLS
def test_fragments_make_one_message_also_with_a_ping_between(server: Program, tls: bool) -> None:
    """RFC 6455 section 5.4: control frames may come in the midst of a message."""
    with WebSocket(server.address, tls=tls) as client:
        client.sock.sendall(frame(TEXT, "h\u00e9".encode()[:2], fin=False))
        client.sock.sendall(frame(PING, b"still there?"))
        client.sock.sendall(frame(CONTINUATION, b"", fin=False))
        client.sock.sendall(frame(CONTINUATION, "h\u00e9llo".encode()[2:]))
        assert client.receive_frame() == (True, 0, PONG, b"still there?")
        assert client.receive() == "h\u00e9llo"


# ---- permessage-deflate (RFC 7692)


@TLS
def test_compressed_messages_are_understood_and_answered_compressed(server: Program, tls: bool) -> None:
    """The extension is negotiated where it is offered, and used."""
    with WebSocket(server.address, tls=tls, **DEFLATE) as client:
        assert client.headers["sec-websocket-extensions"] == "permessage-deflate"
        client.sock.sendall(frame(TEXT, deflate(b"compress me " * 100), rsv=4))
        fin, rsv, opcode, payload = client.receive_frame()
        assert (fin, rsv, opcode) == (True, 4, TEXT)
        assert len(payload) < 100
        client.sock.sendall(frame(TEXT, b"a plain one in between"))
        assert client.receive_frame()[2] == TEXT


def test_a_ping_in_the_midst_of_a_compressed_message_leaves_it_whole(server: Program) -> None:
    """Only the first frame of a message says that it is compressed; a ping doesn't end it."""
    with WebSocket(server.address, **DEFLATE) as client:
        packed = deflate(b"one message, in two frames" * 10)
        client.sock.sendall(frame(BINARY, packed[:10], rsv=4, fin=False))
        client.sock.sendall(frame(PING, b"!"))
        client.sock.sendall(frame(CONTINUATION, packed[10:]))
        assert client.receive_frame()[2] == PONG
        fin, rsv, opcode, payload = client.receive_frame()
        assert (fin, opcode) == (True, BINARY), payload


def test_without_an_offer_a_compressed_frame_is_a_protocol_error(server: Program) -> None:
    """RSV1 means something only where it was agreed on."""
    with WebSocket(server.address) as client:
        client.sock.sendall(frame(TEXT, deflate(b"x"), rsv=4))
        assert client.receive_close()[0] == 1002


# ---- closing


@TLS
def test_the_client_closes_and_gets_its_code_back(server: Program, tls: bool) -> None:
    """RFC 6455 section 5.5.1; then the server closes the connection first."""
    with WebSocket(server.address, tls=tls) as client:
        client.sock.sendall(frame(CLOSE, (4321).to_bytes(2, "big") + b"bye"))
        assert client.receive_close() == (4321, "bye")
        assert closed(client.sock)


def test_a_close_without_a_code_gets_one_without(server: Program) -> None:
    """An empty close frame is answered."""
    with WebSocket(server.address) as client:
        client.sock.sendall(frame(CLOSE))
        assert client.receive_close()[1] == ""
        assert closed(client.sock)


# ---- the application's side, with a server in this process


@contextlib.contextmanager
def client_of(app: Callable[[Peer], object], **limits: float) -> Iterator[WebSocket]:
    """A client of a server that has this application."""
    with serving({"/": app}, limits=Limits(**limits)) as server:  # type: ignore[arg-type]
        with WebSocket(address_of(server), "/") as client:
            yield client


def test_an_application_that_returns_closes_with_1000() -> None:
    """The end of the application is the end of the connection."""
    with client_of(lambda peer: peer.send("bye")) as client:
        assert client.receive() == "bye"
        assert client.receive_close()[0] == 1000
        client.sock.sendall(frame(CLOSE, (1000).to_bytes(2, "big")))
        assert closed(client.sock)


def test_an_application_that_raises_closes_with_1011_and_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Its own fault, not the client's: the traceback is in the log."""

    def broken(peer: Peer) -> None:
        raise ZeroDivisionError("on purpose")

    with client_of(broken) as client:
        assert client.receive_close()[0] == 1011
    assert "on purpose" in caplog.text and "Traceback" in caplog.text


def test_a_broken_off_loop_goes_on_in_a_second_one() -> None:
    """next() and a for loop after it lose no message, though all came in one packet."""
    got: list[str | bytes] = []

    def app(peer: Peer) -> None:
        got.append(next(iter(peer)))
        for message in peer:
            got.append(message)
            if len(got) == 3:
                break
        got.extend(peer)

    with client_of(app) as client:
        client.sock.sendall(b"".join(frame(TEXT, bytes([97 + i])) for i in range(6)) + frame(CLOSE))
        assert client.receive_frame()[2] == CLOSE
    assert got == list("abcdef")


def test_close_by_the_application_carries_its_code_and_ends_the_loop() -> None:
    """After close() no more messages come, and the client's answer is awaited."""
    got: list[str | bytes] = []

    def app(peer: Peer) -> None:
        for message in peer:
            got.append(message)
            peer.close(4000, "enough")

    with client_of(app) as client:
        client.sock.sendall(frame(TEXT, b"one") + frame(TEXT, b"two"))
        assert client.receive_close() == (4000, "enough")
        client.send("three")
        client.sock.sendall(frame(CLOSE, (4000).to_bytes(2, "big")))
        assert closed(client.sock)
    assert got == ["one"]


def test_a_client_that_never_answers_the_close_is_left_at_the_deadline() -> None:
    """The close handshake is waited for, but not for ever."""
    with client_of(lambda peer: None, closing=0.3) as client:
        assert client.receive_close()[0] == 1000
        assert closed(client.sock)


def test_only_codes_that_may_be_sent_are_sent() -> None:
    """RFC 6455 section 7.4.1 reserves 1005, 1006 and 1015."""
    refused = []

    def app(peer: Peer) -> None:
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000):
            try:
                peer.close(code)
            except ValueError:
                refused.append(code)

    with client_of(app) as client:
        assert client.receive_close()[0] == 1000
    assert refused == [0, 999, 1004, 1005, 1006, 1015, 2999, 5000]


def test_many_threads_send_to_one_peer_and_no_message_is_torn() -> None:
    """send() from any thread: messages never interleave, and each thread's come in its order."""

    def push(peer: Peer, name: str) -> None:
        for number in range(200):
            peer.send(f"{name}{number} " + name * number)

    def app(peer: Peer) -> None:
        threads = [threading.Thread(target=push, args=(peer, name)) for name in "abcdefgh"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with client_of(app) as client:
        seen = dict.fromkeys("abcdefgh", 0)
        for _ in range(8 * 200):
            message = str(client.receive())
            name, number = message[0], int(message[1:].split()[0])
            assert number == seen[name]
            assert message.endswith(" " + name * number)
            seen[name] += 1


def test_send_to_one_who_is_gone_is_false_elsewhere_and_ends_its_own_thread() -> None:
    """An application that only sends ends with its client; another thread just hears no."""
    peers: list[Peer] = []
    ended = threading.Event()

    def app(peer: Peer) -> None:
        peers.append(peer)
        try:
            while True:
                peer.send("tick" * 1000)
        finally:
            ended.set()

    with serving({"/": app}) as server:
        with WebSocket(address_of(server), "/") as client:
            client.receive()
        assert ended.wait(10)
        assert peers[0].send("hello?") is False


# ---- pings


def test_pings_are_answered_with_their_payload(server: Program) -> None:
    """RFC 6455 section 5.5.2."""
    with WebSocket(server.address) as client:
        for payload in (b"", b"x" * 125):
            client.sock.sendall(frame(PING, payload))
            assert client.receive_frame() == (True, 0, PONG, payload)
        client.sock.sendall(frame(PONG, b"unasked"))
        assert client.ask("still here") == "still here"


def test_a_silent_client_is_pinged_and_stays_if_it_answers(start: Callable[..., Program]) -> None:
    """Who answers pings is alive, however silent otherwise."""
    server = start("--ping-interval", "0.6")
    with WebSocket(server.address) as client:
        for _ in range(3):
            fin, _, opcode, payload = client.receive_frame()
            assert opcode == PING
            client.sock.sendall(frame(PONG, payload))
        assert client.ask("alive") == "alive"


def test_a_client_that_answers_no_ping_is_dropped(start: Callable[..., Program]) -> None:
    """No byte within one interval after the ping: the client is dead."""
    server = start("--ping-interval", "0.3")
    with Watcher(server.address) as watcher, WebSocket(server.address) as client:
        # The watcher doesn't answer pings either: what it has seen by then tells.
        assert client.receive_frame()[2] == PING
        assert closed(client.sock)
        del watcher


def test_a_client_that_resets_while_it_is_sent_to_leaves_nothing(start: Callable[..., Program]) -> None:
    """No thread waits for it, and none spins over what it never took."""
    server = start()
    threads, used = server.threads(), server.cpu_seconds()
    clients = [WebSocket(server.address) for _ in range(20)]
    for client in clients:
        client.sock.sendall(frame(BINARY, b"x" * 500_000) * 2 + frame(TEXT, b"y") * 50)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sock.close()
    wait_until(lambda: server.threads() <= threads, "the threads to end")
    assert server.cpu_seconds() - used < 1.5
