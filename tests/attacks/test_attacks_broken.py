# SPDX-License-Identifier: MIT
"""Broken clients: garbage, bad requests, bad frames, bad lines. Each gets a clear answer or a close."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from functools import partial

import broken
import pytest
from support import *

# ---------------------------------------------------------------- garbage


def shutdown_and_read(address: tuple[str, int], data: bytes, source: str) -> bytes:
    """Send bytes, say that these were all, and return whatever comes back; an end by reset fails."""
    with connect(address, source=source) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return read_to_end(sock)


def send_all(program: Program, samples: Iterable[bytes], source: str) -> list[bytes]:
    """Send each sample on a connection of its own, all at once; return the answers."""
    return all_at_once(*(partial(shutdown_and_read, program.address, sample, source) for sample in samples))


def test_garbage_is_closed_without_an_answer(server: Program) -> None:
    """Bytes that mean nothing end in a close, also those that are tried as TLS the second time."""
    with unharmed(server):
        for source in ("127.0.0.3", "127.0.0.3", "127.0.0.4"):
            answers = send_all(server, broken.HEADS.values(), source)
            for name, answer in zip(broken.HEADS, answers, strict=True):
                # Nothing, or the alert of an OpenSSL that was asked to judge
                assert not answer or answer[0] == 0x15, (name, answer)


def test_tls_garbage_ends_in_an_alert_or_a_close(server: Program) -> None:
    """What begins like TLS and isn't gets an alert or a plain close, never an answer in clear."""
    with unharmed(server):
        answers = send_all(server, broken.TLS_RECORDS.values(), "127.0.0.5")
        for name, answer in zip(broken.TLS_RECORDS, answers, strict=True):
            assert not answer or answer[0] == 0x15, (name, answer)


def test_a_tls_1_0_hello_gets_the_alert_that_names_the_version(server: Program) -> None:
    """A client that is too old is told so (RFC 8446 section 6.2: protocol_version), not left guessing."""
    ciphers = bytes.fromhex("c013c014002f0035")
    body = b"\x03\x01" + bytes(32) + b"\0" + len(ciphers).to_bytes(2, "big") + ciphers + b"\x01\x00"
    hello = b"\x01" + len(body).to_bytes(3, "big") + body
    record = b"\x16\x03\x01" + len(hello).to_bytes(2, "big") + hello
    with unharmed(server):
        answer = shutdown_and_read(server.address, record, "127.0.0.5")
        assert answer[:1] == b"\x15" and answer[-1] == 70, answer.hex()


def test_the_alert_reaches_a_client_that_was_still_sending(server: Program) -> None:
    """A TLS handshake that failed ends like everything else: alert, FIN, and only then the close, so that
    no reset overtakes the alert."""
    with unharmed(server), connect(server.address) as sock:
        sock.sendall(bytes.fromhex("16030100050100000100") + b"x" * 500)
        alert = sock.recv(7)
        assert alert[:1] == b"\x15" and len(alert) == 7, alert
        for _ in range(3):
            sock.sendall(b"and so on" * 100)
            others_are_served(server)  # gives a reset the time to arrive
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock) == b""


# ---------------------------------------------------------------- requests

@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_bad_request_gets_a_status_and_a_short_body(server: Program, secure: bool) -> None:
    """Whatever is wrong with a request, it is answered with a status that fits and a sentence."""
    failures = []

    def attack(name: str, request: str, fitting: set[int], words: str) -> None:
        with connect(server.address, tls=secure) as sock:
            sock.sendall(request.encode("latin-1"))
            answer = read_to_end(sock)
        status, headers, body = parse_response(answer) if answer else (0, {}, b"")
        fits = status in fitting and words.encode() in body
        if status >= 400:
            empty = request.startswith("HEAD")
            fits &= bool(body) != empty and len(body) < 500 + 2 * len(request)
            fits &= headers["connection"] == "close"
            fits &= status != 426 or headers["sec-websocket-version"] == "13"
        if not fits:
            failures.append((name, answer[:500]))

    with unharmed(server):
        for row in broken.REQUESTS:
            attack(*row)
    assert not failures


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_huge_head_gets_431(server: Program, secure: bool) -> None:
    """200 kB of headers, many small or one large, and a target of 200 kB: 431, however they come."""
    begin = "GET / HTTP/1.1\r\n" + broken.HOST
    many = "".join(f"X-{number}: {'y' * 90}\r\n" for number in range(2000))
    heads = [begin + many, begin + "X: " + "y" * 200_000, begin + "X: y\r\n" * 4000,
             "GET /" + "y" * 200_000 + " HTTP/1.1\r\n" + broken.HOST]  # fmt: skip
    with unharmed(server):
        for head in heads:
            status, _, body = http(server.address, head + "\r\n\r\n", tls=secure)
            assert status in (400, 431) and len(body) < 500, (status, head[:30])
        assert http(server.address, heads[0] + "\r\n", tls=secure)[0] == 431


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_head_over_the_limit_is_refused_even_in_one_piece(server: Program, secure: bool) -> None:
    """The limit of a request's head is 16 KiB, and doesn't depend on how the bytes were cut on their way."""
    request = "GET / HTTP/1.1\r\n" + broken.HOST + "X: " + "y" * 40_000 + "\r\n\r\n"
    with unharmed(server):
        assert http(server.address, request, tls=secure)[0] == 431


def test_a_second_request_on_one_connection_is_not_answered(server: Program) -> None:
    """One request a connection: what follows is ignored, and the end is clean although it was never read."""
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with unharmed(server):
        for secure in (False, True):
            with connect(server.address, tls=secure) as sock:
                sock.sendall(request * 50)
                answer = read_to_end(sock)
            assert answer.count(b"HTTP/1.1 ") == 1 and b"\r\nConnection: close\r\n" in answer


# ---------------------------------------------------------------- frames

@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_a_broken_frame_gets_its_close_code_after_the_answers_owed(server: Program, secure: bool) -> None:
    """Each fault has its code; what was asked before it is answered first, what comes after it never."""
    failures = []

    def attack(name: str, data: bytes, code: int) -> None:
        with WebSocket(server.address, tls=secure) as client:
            client.sock.sendall(frame(TEXT, b"one") + frame(TEXT, b"two") + data + frame(TEXT, b"after"))
            try:
                answers = [client.receive(), client.receive(), client.receive_close()[0]]
                rest = client.rest()
            except (AssertionError, EOFError, OSError) as error:
                failures.append((name, error))
                return
            if answers != ["one", "two", code] or rest:
                failures.append((name, answers, rest))

    with unharmed(server):
        for name, data, code in broken.FRAMES:
            attack(name, data, code)
    assert not failures


def test_good_close_codes_come_back_and_nothing_after_them_counts(server: Program) -> None:
    """A close is answered with its own code, once; messages behind it are not served."""
    with unharmed(server):
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4999):
            with WebSocket(server.address) as client:
                close = frame(CLOSE, code.to_bytes(2, "big") + b"x" * 123)
                client.sock.sendall(close + frame(TEXT, b"after") + close + frame(PING) + b"garbage")
                assert client.receive_close() == (code, "x" * 123)
                assert client.rest() == b""


# ---------------------------------------------------------------- lines and the chat

@pytest.mark.parametrize("kind", ["tcp", "tcps", "ws"])
def test_a_line_that_is_no_message_gets_an_error_and_the_connection_stays(server: Program, kind: str) -> None:
    """Whatever JSON can hide, deep nesting and endless numbers too, costs an error message and no more."""
    with unharmed(server):
        if kind == "ws":
            with WebSocket(server.address, "/chat") as client:
                for name, line in broken.LINES.items():
                    client.send(line.decode())
                    assert client.receive_json()["type"] == "error", name
        else:
            with Native(server.address, tls=kind == "tcps") as native:
                for name, line in broken.LINES.items():
                    native.sock.sendall(line + b"\r\n")
                    assert native.receive_json()["type"] == "error", name
                native.send("")
                assert native.receive_json()["type"] == "error"
                native.send({"type": "login", "name": f"still-{kind}"})
                assert native.receive_json()["type"] == "welcome"


def test_chat_fields_of_the_wrong_type_length_or_with_control_characters_are_errors(server: Program) -> None:
    """No field of no message can be such that the application fails: an error, and the connection stays."""
    strange_ones = [*broken.VALUES, *broken.NAMES]
    with unharmed(server), WebSocket(server.address, "/chat") as client, Native(server.address) as listener:
        listener.send({"type": "login", "name": "listener"})
        listener.receive()
        for strange in strange_ones:  # json.dumps writes half a surrogate as an escape, as an attacker would
            for request in ({"type": strange}, {"type": "login", "name": strange}):
                client.send(request)
                assert client.receive_json()["type"] == "error", (request, client)
        client.send({"type": "login", "name": "x" * 32})
        assert client.receive_json()["type"] == "welcome"
        for strange in strange_ones:
            client.send({"type": "say", "text": "x", "to": strange})
            assert client.receive_json()["type"] == "error", ascii(strange)
        for strange in [*broken.VALUES, *broken.TEXTS]:
            for to in ({}, {"to": "listener"}):
                client.send({"type": "say", "text": strange, **to})
                assert client.receive_json()["type"] == "error", ascii(strange)
        client.send({"type": "say", "text": "the first that is good"})
        assert json.loads(listener.receive())["type"] == "joined"
        assert json.loads(listener.receive())["text"] == "the first that is good"


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tcps"])
def test_a_line_that_is_not_utf8_gets_an_error_line_and_the_end(server: Program, secure: bool) -> None:
    """What can't be read as text ends the connection, in words, after what was asked before it."""
    with unharmed(server), Native(server.address, tls=secure) as client:
        client.sock.sendall(b'{"type":"who"}\n{"type":"\xff"}\n{"type":"who"}\n')
        assert client.receive_json()["type"] == "error"  # log in first
        assert "UTF-8" in client.receive_json()["reason"]
        with pytest.raises(EOFError):
            client.receive()


def host_port(sock: socket.socket) -> str:
    """This end of a connection, as the server's monitor calls it."""
    host, port = sock.getsockname()
    return f"{host}:{port}"


def test_a_line_too_long_gets_its_error_line_although_the_client_is_still_sending(server: Program) -> None:
    """The error line of a line over the limit arrives, once, and no reset overtakes it."""
    with unharmed(server, peak=24 * 2**20):
        for _ in range(3):
            with Watcher(server.address) as watcher, connect(server.address) as sock:
                name = host_port(sock)
                sock.sendall(b"{" + b"x" * 2**20)
                for _ in range(40):  # the kernel's buffers take some of it: then the answer must be there
                    sock.sendall(b"x" * 65536)
                answer = sock.recv(1000)
                for _ in range(10):
                    sock.sendall(b"x" * 65536)
                sock.shutdown(socket.SHUT_WR)
                answer += read_to_end(sock)
                assert answer.count(b"\n") == 1 and b"at most" in answer, answer
                number = watcher.wait_for("accepted", address=name)["id"]
                watcher.wait_for("closed", id=number)
                assert len(watcher.find("refused", id=number)) == 1, "told more than once"


def test_a_line_of_just_the_limit_passes(start: Callable[..., Program]) -> None:
    """The limit counts the line without its end, LF or CRLF; one byte more is refused."""
    program = start("--app", "echo", "--max-message", "5000")
    for end in (b"\n", b"\r\n"):
        with unharmed(program):
            with Native(program.address) as client:
                line = b"{" + b"x" * 4999
                client.sock.sendall(line + end)
                assert client.receive().encode() == line
                client.sock.sendall(line[:-1] + b"y" + end)
                assert client.receive().endswith("xy")
            with Native(program.address) as client:
                client.sock.sendall(b"{" + b"x" * 5000 + end)
                assert "at most 5000" in client.receive_json()["reason"]
                with pytest.raises(EOFError):
                    client.receive()


# ---------------------------------------------------------------- what is written about them


def test_nothing_that_a_client_writes_can_forge_a_line_of_the_log(start: Callable[..., Program]) -> None:
    """With -v every event is one line, and no control character of a client's reaches the terminal."""
    program = start("-v")
    evil = "x\n00:00:00 #1 accepted address=forged\r\n\x1b[2J\x1b]0;title\x07\x9b31m\x85\u2028forged"
    raw = "\x9b31m\x85\xe2\x80\xa8forged"  # what a header may hold: no byte below 0x20
    with unharmed(program):
        with WebSocket(program.address) as client:
            client.sock.sendall(frame(CLOSE, b"\x03\xe8" + evil.encode()))
            client.receive_close()
        with WebSocket(program.address) as client:
            client.sock.sendall(frame(TEXT, evil.encode()) + frame(TEXT, b"\xff\x1b[2J"))
            client.receive()
        for change in ({"Host": f"localhost{raw}"}, {"Origin": f"http://a/{raw}"}, {"Origin": raw},
                       {"Origin": "http://a/\x9b31m\x85"}, {"Sec_WebSocket_Key": raw}):  # fmt: skip
            assert http(program.address, upgrade_request(program.address, **change))[0] in (400, 403)
        for path in ("/%1b%5b2J%0aforged", "/\x9b", "/echo%0aforged"):
            assert http(program.address, upgrade_request(program.address, path))[0] in (400, 404)
            assert get(program.address, path)[0] in (400, 404)
        with Native(program.address) as native:
            for request in ({"type": evil}, {"type": "login", "name": evil}):
                native.send(request)
                assert native.receive_json()["type"] == "error"
        log = program.log_path.read_bytes()
    for line in log.decode().split("\n"):
        assert line.isprintable(), ascii(line)
        assert not line or line[:2].isdigit(), line
        assert not ("accepted" in line and "forged" in line) or "why=" in line, line
