# SPDX-License-Identifier: MIT
"""The chat's own limit: 64 KiB a message, or --max-message where that is less. It parses what it gets."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import (
    BINARY,
    CONTINUATION,
    TEXT,
    Native,
    Program,
    WebSocket,
    connect,
    deflate,
    frame,
    running,
    unharmed,
    upgraded,
)

LIMIT = 65536


def json_of(size: int) -> bytes:
    """A JSON object of just so many bytes; the chat's answer to it is an error."""
    empty = len('{"type":""}')
    return b'{"type":"' + b"x" * (size - empty) + b'"}'


plain_and_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])

WAYS: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda data: frame(TEXT, data),
    "binary": lambda data: frame(BINARY, data),
    "frames": lambda data: frame(TEXT, data[:40_000], fin=False) + frame(CONTINUATION, data[40_000:]),
    "deflated": lambda data: frame(TEXT, deflate(data), rsv=4),
}


@plain_and_tls
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", ["/chat", "/"])
def test_64_kib_pass_and_one_byte_more_is_1009(server: Program, path: str, way: str, tls: bool) -> None:
    """However the message is made: at the limit an answer comes, over it the close with 1009. It counts
    after inflating."""
    offer = {"Sec_WebSocket_Extensions": "permessage-deflate"} if way == "deflated" else {}
    for size in (LIMIT, LIMIT + 1):
        with WebSocket(server.address, path, tls=tls, **offer) as client:
            client.sock.sendall(WAYS[way](json_of(size)))
            if size > LIMIT:
                assert client.receive_close()[0] == 1009
                continue
            assert client.receive_frame()[2] == TEXT
            client.sock.sendall(frame(TEXT, b'{"type":"who"}'))
            assert client.receive_frame()[2] == TEXT, "and it goes on"


@plain_and_tls
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_native_line_of_64_kib_passes_and_one_byte_more_is_an_error_line(
    server: Program, end: str, tls: bool
) -> None:
    """Without its line end; over the limit the last line says why, and the connection ends."""
    for size in (LIMIT, LIMIT + 1):
        with Native(server.address, tls=tls) as native:
            native.send(json_of(size).decode() + end[:-1])
            answer = native.receive_json()
            assert answer["type"] == "error"
            if size > LIMIT:
                assert str(LIMIT) in answer["reason"], answer
                with pytest.raises(EOFError):
                    native.receive()
                continue
            assert "type is one of" in answer["reason"]
            native.send({"type": "who"})
            assert native.receive_json()["type"] == "error"


def test_a_native_line_without_an_end_is_refused_at_the_limit(server: Program) -> None:
    """Nobody has to wait for the end of a line that is too long already."""
    with Native(server.address) as native:
        native.sock.sendall(json_of(LIMIT + 1000))
        answer = native.receive_json()
        assert answer["type"] == "error" and str(LIMIT) in answer["reason"], answer


@plain_and_tls
def test_echo_keeps_the_limit_of_the_flag(server: Program, tls: bool) -> None:
    """/echo parses nothing: a message of 1 MiB comes back, one byte more is refused."""
    with WebSocket(server.address, "/echo", tls=tls) as client:
        for size in (LIMIT + 1, 2**20):
            assert client.ask(b"x" * size) == b"x" * size
        client.sock.sendall(frame(BINARY, bytes(2**20 + 1)))
        assert client.receive_close()[0] == 1009


def test_where_echo_is_at_the_root_the_root_has_the_limit_of_the_flag(tmp_path: Path) -> None:
    """--app echo: / and native clients get more than 64 KiB back, /chat takes no more than that."""
    with running(tmp_path, "--app", "echo") as program:
        for tls in (False, True):
            with WebSocket(program.address, "/", tls=tls) as ws, Native(program.address, tls=tls) as native:
                assert ws.ask("x" * (LIMIT + 1)) == "x" * (LIMIT + 1)
                native.send("{" + "x" * LIMIT)
                assert native.receive() == "{" + "x" * LIMIT
            with WebSocket(program.address, "/chat", tls=tls) as chat:
                chat.sock.sendall(frame(TEXT, json_of(LIMIT + 1)))
                assert chat.receive_close()[0] == 1009


def test_a_smaller_limit_of_the_flag_holds_for_the_chat_too(tmp_path: Path) -> None:
    """--max-message 1000: 1000 bytes pass and 1001 don't, on /chat, / and /echo and for native clients."""
    with running(tmp_path, "--max-message", "1000") as program:
        for path in ("/chat", "/", "/echo"):
            with WebSocket(program.address, path) as client:
                client.ask(json_of(1000).decode())
                client.sock.sendall(frame(TEXT, json_of(1001)))
                assert client.receive_close()[0] == 1009, path
        with Native(program.address) as native:
            native.send(json_of(1000).decode())
            assert "type is one of" in native.receive_json()["reason"]
            native.send(json_of(1001).decode())
            assert "1000" in native.receive_json()["reason"]


def test_a_larger_limit_of_the_flag_is_not_the_chats(tmp_path: Path) -> None:
    """--max-message 200000: /echo takes that, the chat 64 KiB as ever."""
    with running(tmp_path, "--max-message", "200000") as program:
        with WebSocket(program.address, "/echo") as client:
            assert client.ask("x" * 200_000) == "x" * 200_000
        with WebSocket(program.address, "/chat") as client:
            client.ask(json_of(LIMIT).decode())
            client.sock.sendall(frame(TEXT, json_of(LIMIT + 1)))
            assert client.receive_close()[0] == 1009


# ---- what it is good for


def many_lists(size: int) -> bytes:
    """A JSON text that takes as long to parse as can be, for its size."""
    return b"[" + b",".join([b"[]"] * ((size - 1) // 3)) + b"]"


def flood(program: Program, message: bytes, ending: threading.Event) -> None:
    """Send a big text a second, and read what comes; who is thrown out comes again."""
    while not ending.is_set():
        with contextlib.suppress(OSError):
            sock = upgraded(connect(program.address, source="127.0.0.7"), program.address, "/chat")
            with sock:
                while not ending.wait(1.0):
                    sock.sendall(message)
                    sock.recv(65536)


def test_big_json_texts_of_ten_clients_leave_the_others_answer_quick(start: Callable[..., Program]) -> None:
    """Ten clients send a text of 1 MiB a second each: somebody else's chat answers within 0.8 s."""
    program = start()
    ending, message = threading.Event(), frame(TEXT, many_lists(2**20))
    flooders = [threading.Thread(target=flood, args=(program, message, ending)) for _ in range(10)]
    waits = []
    with unharmed(program), WebSocket(program.address, "/chat") as other:
        other.ask(json.dumps({"type": "login", "name": "ann"}))
        for flooder in flooders:
            flooder.start()
        try:
            until = time.monotonic() + 4
            while time.monotonic() < until:
                since = time.monotonic()
                other.ask('{"type":"who"}')
                waits.append(time.monotonic() - since)
                time.sleep(0.01)
        finally:
            ending.set()
            for flooder in flooders:
                flooder.join()
    assert max(waits) < 0.8, sorted(waits)[-5:]
