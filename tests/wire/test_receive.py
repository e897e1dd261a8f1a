# SPDX-License-Identifier: MIT
"""peer.receive: one message, with a deadline."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import *

from wsdual import DualServer, Limits, Peer, server_context

Outcomes = queue.Queue[Any]
LONG = 60.0  # seconds: what has to end a wait for so long is something else


@contextlib.contextmanager
def scripted(script: Callable[[Peer], Any], **options: Any) -> Iterator[tuple[DualServer, Outcomes]]:
    """A server whose application does this; its results, or what it raises, are put into a queue."""
    outcomes: Outcomes = queue.Queue()

    def application(peer: Peer) -> None:
        try:
            outcomes.put(script(peer))
        except BaseException as error:
            outcomes.put(error)
            raise

    with serving({"/": application}, **options) as server:
        yield server, outcomes
        wait_until(lambda: not server.everyone(), "nobody is left behind")


def seconds_of(action: Callable[[], object]) -> float:
    """How long it takes until a TimeoutError."""
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        action()
    return time.monotonic() - begin


# ---- what it gives


def test_text_bytes_and_none_at_the_end() -> None:
    """str, bytes, and then None, as often as it is asked."""
    with scripted(lambda peer: [peer.receive() for _ in range(5)]) as (server, outcomes):
        with WebSocket(address_of(server), "/") as client:
            client.send("grüße")
            client.send(b"\0\1")
            client.sock.sendall(frame(CLOSE, b"\x03\xe8"))
            assert outcomes.get(timeout=PATIENCE) == ["grüße", b"\0\1", None, None, None]
            assert client.receive_close()[0] == 1000


@pytest.mark.parametrize("ending", ["reset", "FIN", "close"])
@pytest.mark.parametrize("timeout", [None, LONG])
def test_none_at_whatever_end(ending: str, timeout: float | None) -> None:
    """A client that goes without a word has ended too; no TimeoutError is raised for it, then or later."""
    script: Any = lambda peer: [peer.receive(seconds) for seconds in (timeout, timeout, 0)]  # noqa: E731
    with scripted(script) as (server, outcomes):
        client = WebSocket(address_of(server), "/")
        client.send("hi")
        if ending == "reset":
            wait_until(lambda: server.everyone() and server.everyone()[0].peer)
            time.sleep(0.1)  # a reset may destroy what has not been read
            reset(client.sock)
        elif ending == "FIN":
            client.sock.shutdown(socket.SHUT_WR)
        else:
            client.sock.sendall(frame(CLOSE, b"\x03\xe8"))
        assert outcomes.get(timeout=PATIENCE) == ["hi", None, None]
        client.close()


def test_native_clients_too() -> None:
    """Lines are messages; after the client's end, None."""
    with scripted(lambda peer: [peer.receive(LONG) for _ in range(3)]) as (server, outcomes):
        with Native(address_of(server)) as client:
            client.send('{"a":1}')
            client.send("second")
        assert outcomes.get(timeout=PATIENCE) == ['{"a":1}', "second", None]


def test_none_once_this_side_has_closed() -> None:
    """What the client still says is for nobody."""

    def script(peer: Peer) -> Any:
        first = peer.receive()
        peer.close(4000, "enough")
        return [first, peer.receive(LONG), peer.receive(0)]

    with scripted(script) as (server, outcomes), WebSocket(address_of(server), "/") as client:
        client.send("one")
        assert client.receive_close() == (4000, "enough")
        client.send("two")
        client.sock.sendall(frame(CLOSE, b"\x0f\xa0"))
        assert outcomes.get(timeout=PATIENCE) == ["one", None, None]


# ---- the deadline


@pytest.mark.parametrize("seconds", [0, 0.05, 0.5, -1, float("nan")])
def test_a_timeout_is_kept(seconds: float) -> None:
    """TimeoutError, not before the time and not much later; 0 and less: don't wait at all."""
    with scripted(lambda peer: seconds_of(lambda: peer.receive(seconds))) as (server, outcomes):
        with WebSocket(address_of(server), "/"):
            took = outcomes.get(timeout=PATIENCE)
            assert (seconds if seconds > 0 else 0) - 0.01 <= took < PATIENCE / 2


def test_after_a_timeout_nothing_is_lost() -> None:
    """Neither a message that comes later, nor half a frame, nor half a message that was there."""
    here: queue.Queue[None] = queue.Queue()

    def script(peer: Peer) -> Any:
        seconds_of(lambda: peer.receive(0.05))
        here.put(None)
        heard: list[Any] = []
        while len(heard) < 3:
            with contextlib.suppress(TimeoutError):
                heard.append(peer.receive(0.05))
                continue
            here.put(None)
        return heard

    whole = frame(TEXT, b"in two pieces")
    pieces = [frame(TEXT, b"first"), whole[:1], whole[1:9], whole[9:], frame(TEXT, b"frag", fin=False),
              frame(PING, b"!"), frame(CONTINUATION, b"mented")]  # fmt: skip
    with scripted(script) as (server, outcomes), WebSocket(address_of(server), "/") as client:
        for piece in pieces:
            here.get(timeout=PATIENCE)  # a timeout before each piece
            client.sock.sendall(piece)
        assert outcomes.get(timeout=PATIENCE) == ["first", "in two pieces", "fragmented"]
        assert client.receive_frame()[2] == PONG


def test_zero_takes_what_is_there() -> None:
    """A look without waiting: all that has come, one by one, and then TimeoutError."""
    sent = threading.Event()

    def script(peer: Peer) -> Any:
        assert sent.wait(PATIENCE)
        time.sleep(0.2)  # it was sent over loopback: it is there by now
        heard = [peer.receive(0) for _ in range(100)]
        seconds_of(lambda: peer.receive(0))
        return heard

    with scripted(script) as (server, outcomes), WebSocket(address_of(server), "/") as client:
        client.sock.sendall(b"".join(frame(TEXT, b"%d" % n) for n in range(100)))
        sent.set()
        assert outcomes.get(timeout=PATIENCE) == [str(n) for n in range(100)]


def test_over_tls_zero_takes_what_openssl_has_decrypted(tmp_path: Path) -> None:
    """A record may hold more than one read gives: no poll sees what is left inside OpenSSL."""
    identity, file = make_identity("localhost"), tmp_path / "both.pem"
    file.write_bytes(identity.key_pem() + identity.pem())
    messages = [b"x" * 16_000, b"y" * 5, b"z" * 30_000, b""]

    def script(peer: Peer) -> Any:
        heard = [peer.receive(PATIENCE)]
        while len(heard) < len(messages):
            with contextlib.suppress(TimeoutError):
                heard.append(peer.receive(0))
        return heard

    with scripted(script, tls=server_context(file)) as (server, outcomes):
        with WebSocket(address_of(server), "/", tls=True) as client:
            client.sock.sendall(b"".join(frame(BINARY, message) for message in messages))
            assert outcomes.get(timeout=PATIENCE) == messages


def test_a_timeout_that_the_application_lets_through_is_1011(caplog: pytest.LogCaptureFixture) -> None:
    """Its own doing, and told as that, with a traceback."""
    with caplog.at_level(logging.ERROR, "wsdual"):
        with scripted(lambda peer: peer.receive(0.05)) as (server, _):
            with WebSocket(address_of(server), "/") as client:
                assert client.receive_close() == (1011, "the application failed")
                client.sock.sendall(frame(CLOSE, b"\x03\xf3"))
                assert closed(client.sock)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info and record.exc_info[0] is TimeoutError


def test_an_applications_own_timeout_is_1011_too(caplog: pytest.LogCaptureFixture) -> None:
    """A database that doesn't answer is no silent client."""

    def script(peer: Peer) -> Any:
        raise TimeoutError("the database")

    with caplog.at_level(logging.ERROR, "wsdual"):
        with scripted(script) as (server, _), WebSocket(address_of(server), "/") as client:
            assert client.receive_close()[0] == 1011
    assert "the database" in caplog.text


# ---- whose it is


def test_another_thread_gets_a_runtime_error() -> None:
    """With and without a timeout, and a loop there as well; the own thread isn't disturbed."""

    def script(peer: Peer) -> Any:
        errors: list[BaseException] = []

        def elsewhere() -> None:
            for attempt in (peer.receive, lambda: peer.receive(0), lambda: next(iter(peer))):
                try:
                    attempt()
                except BaseException as error:
                    errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return [*map(type, errors), peer.receive(PATIENCE)]

    with scripted(script) as (server, outcomes), WebSocket(address_of(server), "/") as client:
        client.send("hi")
        assert outcomes.get(timeout=PATIENCE) == [RuntimeError] * 3 + ["hi"]


def test_the_loop_and_receive_may_be_mixed() -> None:
    """Each message comes once, in the order sent, whoever asks for it."""

    def script(peer: Peer) -> Any:
        heard: list[Any] = [("before", peer.receive())]
        for message in peer:
            heard.append(("loop", message))
            heard.append(("inside", peer.receive(PATIENCE)))
            if len(heard) >= 5:
                break
        heard.append(("between", peer.receive(PATIENCE)))
        heard += [("second loop", message) for message in peer]
        return [*heard, peer.receive()]

    with scripted(script) as (server, outcomes), WebSocket(address_of(server), "/") as client:
        client.sock.sendall(b"".join(frame(TEXT, b"%d" % n) for n in range(8)) + frame(CLOSE, b"\x03\xe8"))
        who = ["before", "loop", "inside", "loop", "inside", "between", "second loop", "second loop"]
        expected = [(name, str(n)) for n, name in enumerate(who)]
        assert outcomes.get(timeout=PATIENCE) == [*expected, None]


def test_answers_between_are_sent_at_once() -> None:
    """ask and reply, in turns, by receive alone, inside a loop too."""

    def script(peer: Peer) -> None:
        for message in peer:
            peer.send(f"loop {message}")
            while (message := peer.receive(PATIENCE)) not in (None, "end"):
                peer.send(f"receive {message}")

    with scripted(script) as (server, _), WebSocket(address_of(server), "/") as client:
        assert client.ask("a") == "loop a"
        assert client.ask("b") == "receive b" and client.ask("c") == "receive c"
        client.send("end")
        assert client.ask("d") == "loop d"
        client.sock.sendall(frame(CLOSE, b"\x03\xe8"))
        assert client.receive_close()[0] == 1000


# ---- dead clients, and those that won't let it end


def impatient(seconds: float) -> Callable[[Peer], Any]:
    """An application that looks again and again."""

    def script(peer: Peer) -> Any:
        timeouts = 0
        while True:
            try:
                if peer.receive(seconds) is None:
                    return timeouts, peer.ended
            except TimeoutError:
                timeouts += 1
                time.sleep(0.01 if not seconds else 0)

    return script


@pytest.mark.parametrize("seconds", [0, 0.05, 10.0])
def test_a_dead_client_is_found_by_ping_however_short_the_timeouts_are(seconds: float) -> None:
    """One ping, and no more; then it is dropped."""
    with scripted(impatient(seconds), limits=Limits(ping=0.5)) as (server, outcomes):
        with WebSocket(address_of(server), "/") as client:
            begin = time.monotonic()
            timeouts, ended = outcomes.get(timeout=PATIENCE)
            assert time.monotonic() - begin >= 0.9
            assert ended["why"] == "silent: no answer to a ping"
            assert client.receive_frame()[2] == PING
            assert client.rest() == b""
            assert timeouts > 5 or seconds == 10.0


def test_a_client_that_answers_pings_lives_however_short_the_timeouts_are() -> None:
    """Silent but for its pongs, for many intervals."""
    with scripted(impatient(0.02), limits=Limits(ping=0.3)) as (server, outcomes):
        with WebSocket(address_of(server), "/") as client:
            for _ in range(5):
                assert client.receive_frame()[2] == PING
                client.sock.sendall(frame(PONG))
            client.sock.sendall(frame(CLOSE, b"\x03\xe8"))
            assert client.receive_close()[0] == 1000
            assert outcomes.get(timeout=PATIENCE)[1]["code"] == 1000


def test_a_native_client_that_ends_no_line_is_closed_however_short_the_timeouts_are() -> None:
    """The deadline for its first line holds."""
    with scripted(impatient(0.05), limits=Limits(handshake=0.5)) as (server, outcomes):
        with connect(address_of(server)) as sock:
            sock.sendall(b"{")
            assert b"no line came in time" in read_to_end(sock)
            assert outcomes.get(timeout=PATIENCE)[1]["code"] == 1008


def flood(client: WebSocket, data: bytes, over: threading.Event) -> None:
    """Send the same again and again until it is over, and read what comes back."""

    def read() -> None:
        with contextlib.suppress(OSError):
            while client.sock.recv(65536):
                pass

    threading.Thread(target=read, daemon=True).start()
    with contextlib.suppress(OSError):
        while not over.is_set():
            client.sock.sendall(data)


FLOODS = {
    "pings": frame(PING, b"x") * 2000,
    "pongs": frame(PONG, b"") * 2000,
    "pings in the midst of a message": frame(PING, b"x" * 125) * 500,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_what_is_no_message_does_not_put_the_deadline_off(name: str) -> None:
    """A client that always has something more to say, but no message, can't keep the application waiting."""
    with scripted(lambda peer: seconds_of(lambda: peer.receive(0.3))) as (server, outcomes):
        with WebSocket(address_of(server), "/") as client:
            over = threading.Event()
            if "midst" in name:
                client.sock.sendall(frame(TEXT, b"x", fin=False))
            thread = threading.Thread(target=flood, args=(client, FLOODS[name], over))
            thread.start()
            try:
                assert outcomes.get(timeout=PATIENCE) < PATIENCE / 2
            finally:
                over.set()
                thread.join(PATIENCE)


def test_a_client_that_does_not_read_does_not_put_the_deadline_off() -> None:
    """Who doesn't read isn't read either; but the application gets its TimeoutError."""

    def script(peer: Peer) -> Any:
        peer.receive()
        sender = threading.Thread(target=lambda: [peer.send(b"x" * 500_000) for _ in range(4)])
        sender.start()
        sender.join()
        assert peer.backlog > peer.limits.message
        return seconds_of(lambda: peer.receive(0.3))

    with scripted(script, limits=Limits(ping=5.0)) as (server, outcomes):
        sock = narrow(address_of(server))
        upgraded(sock, address_of(server), "/").sendall(frame(TEXT, b"go"))
        assert outcomes.get(timeout=2 * PATIENCE) < 3.0
        reset(sock)


def test_a_client_that_does_not_read_is_dropped_all_the_same() -> None:
    """However short the time-outs are: it is silent, and answers no ping."""

    def script(peer: Peer) -> Any:
        sender = threading.Thread(target=lambda: [peer.send(b"x" * 500_000) for _ in range(4)])
        sender.start()
        sender.join()
        return impatient(0.05)(peer)[1]

    with scripted(script, limits=Limits(ping=0.5)) as (server, outcomes):
        sock = narrow(address_of(server))
        upgraded(sock, address_of(server), "/")
        assert outcomes.get(timeout=PATIENCE)["why"]
        sock.close()


def test_a_timeout_longer_than_all_time() -> None:
    """Infinity is as good as None."""
    with scripted(lambda peer: [peer.receive(float("inf")), peer.receive(1e18)]) as (server, outcomes):
        with WebSocket(address_of(server), "/") as client:
            client.send("a")
            client.send("b")
            assert outcomes.get(timeout=PATIENCE) == ["a", "b"]


def test_the_servers_end_wakes_it() -> None:
    """None, within the time that the end takes, whatever the time-out is."""
    outcomes: Outcomes = queue.Queue()
    with serving({"/": lambda peer: outcomes.put(peer.receive(LONG))}, limits=Limits(closing=0.3)) as server:
        client = WebSocket(address_of(server), "/")
        wait_until(lambda: server.everyone() and server.everyone()[0].peer)
    assert outcomes.get(timeout=PATIENCE) is None
    assert client.receive_close()[0] == 1001
    client.close()
