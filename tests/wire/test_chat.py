# SPDX-License-Identifier: MIT
"""The chat, with clients of all four kinds, and what native clients are told."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import broken
import pytest
from support import *


@pytest.fixture(autouse=True)
def empty_room(server: Program) -> Iterator[None]:
    """Each test finds an empty room: whoever the last one brought has left, and nobody is told late."""

    def alone() -> bool:
        with Watcher(server.address) as watcher:
            return all(client["path"] == "/monitor" for client in watcher.snapshot["clients"])

    yield
    wait_until(alone, "the room to be empty")


class Guest:
    """Somebody in the room, by any kind of wire."""

    def __init__(self, server: Program, kind: str, name: str | None = None) -> None:
        secure = kind.endswith("s") and kind != "ws"
        self.kind, self.name = kind, name
        self.client: Any = (
            WebSocket(server.address, "/chat", tls=secure)
            if kind.startswith("ws")
            else Native(server.address, tls=secure)
        )
        self.welcome = self.ask(type="login", name=name) if name else None

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.__exit__()

    def ask(self, **message: Any) -> dict[str, Any]:
        self.client.send(message)
        return self.hear()

    def hear(self) -> dict[str, Any]:
        return self.client.receive_json()  # type: ignore[no-any-return]


KINDS = ["ws", "wss", "tcp", "tcps"]


def test_four_kinds_talk_in_one_room(server: Program) -> None:
    """Who joins, speaks and leaves is told to all the others, whatever their wire."""
    with contextlib.ExitStack() as stack:
        guests: list[Guest] = []
        for kind in KINDS:
            guest = stack.enter_context(Guest(server, kind, f"the {kind}"))
            assert guest.welcome is not None
            assert {"name": guest.name, "kind": kind} in guest.welcome.pop("users")
            assert guest.welcome == {"type": "welcome", "name": guest.name, "kind": kind}
            for other in guests:
                assert other.hear() == {"type": "joined", "name": guest.name, "kind": kind}
            guests.append(guest)
        for speaker in guests:
            text = f'h\u00e9 \u4f60 "{speaker.kind}"\nsecond line'
            speaker.client.send({"type": "say", "text": text})
            for guest in guests:
                assert guest.hear() == {"type": "said", "from": speaker.name, "text": text}
        users = guests[0].ask(type="who")
        assert users == {"type": "users", "users": [{"name": g.name, "kind": g.kind} for g in guests]}
        leaver = guests.pop()
        leaver.client.close()
        for guest in guests:
            assert guest.hear() == {"type": "left", "name": leaver.name}


def test_a_private_message_reaches_both_of_them_alone(server: Program) -> None:
    """The third in the room hears nothing of it."""
    with Guest(server, "tcp", "ann") as ann, Guest(server, "wss", "bob") as bob:
        assert ann.hear()["type"] == "joined"
        with Guest(server, "ws", "eve") as eve:
            ann.hear()
            bob.hear()
            expected = {"type": "said", "from": "ann", "to": "bob", "text": "psst"}
            assert ann.ask(type="say", text="psst", to="bob") == expected
            assert bob.hear() == expected
            assert eve.ask(type="who")["type"] == "users"  # and not the secret
            assert ann.ask(type="say", text="note", to="ann")["text"] == "note"
            assert ann.ask(type="who")["type"] == "users"  # the note came once


def test_who_has_not_logged_in_hears_nothing_of_the_room(server: Program) -> None:
    """Joining, speaking and leaving are for those who are in."""
    with Guest(server, "ws") as outsider, Guest(server, "ws", "ann") as ann:
        assert ann.ask(type="say", text="secret")["text"] == "secret"
        assert outsider.ask(type="who")["type"] == "error"
        assert outsider.ask(type="say", text="let me in")["type"] == "error"


BAD = [{"type": "login"}, {"type": "login", "name": " ann"}, {"type": "login", "name": 7}, {"type": "logout"},
       {"type": ["login"]}, {}, [], "text", None, 12]  # fmt: skip


@pytest.mark.parametrize("message", BAD, ids=lambda m: json.dumps(m)[:40])
def test_a_bad_login_is_an_error_and_the_connection_stays(server: Program, message: object) -> None:
    """The reason is in the answer, and the next try may be better."""
    with Guest(server, "ws") as guest:
        guest.client.send(json.dumps(message))
        answer = guest.hear()
        assert answer["type"] == "error" and answer["reason"]
        assert guest.ask(type="login", name="x" * 32)["type"] == "welcome"


def test_a_bad_say_is_an_error_and_reaches_nobody(server: Program) -> None:
    """Wrong types, control characters that a terminal obeys, users who aren't there."""
    with Guest(server, "tcp", "ann") as ann:
        for text in (*broken.VALUES, *broken.TEXTS):
            assert ann.ask(type="say", text=text)["type"] == "error"
        for to in ("nobody", *broken.VALUES):
            assert ann.ask(type="say", text="hi", to=to)["type"] == "error"
        assert ann.ask(type="say", text="tab\tand\nnewline")["type"] == "said"


def test_a_name_in_use_and_a_second_login_are_errors(server: Program) -> None:
    """One name, one user; one connection, one login. A name is free again when its user has left."""
    with Guest(server, "ws", "ann") as ann:
        with Guest(server, "tcp") as other:
            assert "in use" in other.ask(type="login", name="ann")["reason"]
            assert other.ask(type="login", name="bob")["type"] == "welcome"
            assert ann.hear()["name"] == "bob"
        assert ann.hear() == {"type": "left", "name": "bob"}
        assert "already" in ann.ask(type="login", name="ann2")["reason"]
        with Guest(server, "wss", "bob"):
            assert ann.hear()["kind"] == "wss"


def test_bytes_and_bad_json_are_errors_and_the_connection_stays(server: Program) -> None:
    """Text, JSON, an object: each miss has its words."""
    with Guest(server, "ws") as guest:
        for message in (b"{}", "{", "nul", '{"type":"who"', "[]"):
            guest.client.send(message)
            assert guest.hear()["type"] == "error"


def test_messages_of_one_speaker_come_in_the_order_sent(server: Program) -> None:
    """A thousand messages, one after another, to a listener of another kind."""
    with Guest(server, "tcp", "ann") as ann, Guest(server, "wss", "bob") as bob:
        ann.hear()
        for number in range(1000):
            ann.client.send({"type": "say", "text": str(number)})
        for guest in (ann, bob):
            assert [guest.hear()["text"] for _ in range(1000)] == [str(number) for number in range(1000)]


# ---- native clients


def test_a_line_may_end_with_crlf(server: Program) -> None:
    """telnet does that."""
    with Guest(server, "tcp") as guest:
        guest.client.sock.sendall(b'{"type":"login","name":"ann"}\r\n')
        assert guest.hear()["type"] == "welcome"


def test_lines_before_the_end_are_all_answered(server: Program) -> None:
    """A client that sends its lines and closes its side gets every answer."""
    with Native(server.address) as client:
        client.sock.sendall(b'{"type":"who"}\n' * 50)
        client.sock.shutdown(1)
        for _ in range(50):
            assert client.receive_json()["type"] == "error"
        assert closed(client.sock)


@pytest.mark.parametrize(("line", "words"), [(b"{\xff\xfe\n", "UTF-8"), (b"{" + b"x" * 1_100_000, "at most")])
def test_a_line_that_cannot_be_read_gets_an_error_line_and_the_end(
    server: Program, line: bytes, words: str
) -> None:
    """Not UTF-8, or longer than the limit: there is no way to go on."""
    with Native(server.address) as client:
        client.sock.sendall(line)
        answer = client.receive_json()
        assert answer["type"] == "error" and words in answer["reason"]
        assert closed(client.sock)


def test_a_native_client_without_a_line_in_time_gets_an_error_line(start: Any) -> None:
    """The first line has to be complete within the handshake deadline."""
    server = start("--handshake-timeout", "0.4")
    with Native(server.address) as client:
        client.sock.sendall(b'{"type":')
        assert "in time" in client.receive_json()["reason"]
        assert closed(client.sock)


def test_nc_and_a_wss_client_chat(server: Program) -> None:
    """The article's picture: a native client and a wss client in one room."""
    try:
        nc = subprocess.Popen(
            ["nc", "127.0.0.1", str(server.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    except FileNotFoundError:
        pytest.skip("nc isn't installed")
    with nc, Guest(server, "wss", "web") as web:
        assert nc.stdin and nc.stdout
        nc.stdin.write(b'{"type":"login","name":"old hand"}\n')
        nc.stdin.flush()
        assert web.hear() == {"type": "joined", "name": "old hand", "kind": "tcp"}
        assert json.loads(nc.stdout.readline())["type"] == "welcome"
        web.client.send({"type": "say", "text": "hello, nc"})
        assert json.loads(nc.stdout.readline())["text"] == "hello, nc"
        nc.terminate()
    wait_until(lambda: nc.poll() is not None)
