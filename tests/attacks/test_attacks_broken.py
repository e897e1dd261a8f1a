# SPDX-License-Identifier: MIT
"""Broken clients: garbage, bad requests, bad frames, bad lines. Each gets a clear answer or a close."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterable
from functools import partial

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
    noise = random.Random(7)
    samples = [noise.randbytes(size) for size in (1, 2, 5, 16, 17, 1000, 20_000) for _ in range(4)]
    samples = [sample for sample in samples if sample[0] not in b"\x16{GHPDCOT"]
    samples += [b"\0", b"\0" * 70_000, b"\xff" * 100, b"\r\n\r\n", b"SSH-2.0-x\r\n", b"\x80\x2e\x01\x03\x01"]
    samples += [b"EHLO x\r\n", b"\x05\x01\x00", b"\x15\x03\x01\x00\x02\x02\x28", b"[1]\n", b"'\"`;--\n"]
    with unharmed(server):
        for source in ("127.0.0.3", "127.0.0.3", "127.0.0.4"):
            answers = send_all(server, samples, source)
            for sample, answer in zip(samples, answers, strict=True):
                # Nothing, or the alert of an OpenSSL that was asked to judge
                assert not answer or answer[0] == 0x15, (sample[:20], answer)


TLS_GARBAGE = {
    "an empty record": "1603010000",
    "a record of one byte": "160301000101",
    "a length of zero": "16030100040100000000",
    "no ClientHello": "160301000502000001ff",
    "noise in a record": "1603010040" + "ab" * 64,
    "a record too long": "160301ffff" + "01" * 100,
    "a hello too long": "160301400001ffffff" + "00" * 0x3FFC,
    "a bad version inside": "16030100060100000201ff",
    "version 3.255": "1603ff0005010000010001",
    "application data first": "1603010005" + "0100000100" + "1703030005" + "0000000000",
    "a heartbeat": "1603010005010000010018030300030140ff",
    "an alert after a byte": "160301000101" + "15030100020200",
}


def test_tls_garbage_ends_in_an_alert_or_a_close(server: Program) -> None:
    """What begins like TLS and isn't gets an alert or a plain close, never an answer in clear."""
    with unharmed(server):
        answers = send_all(server, map(bytes.fromhex, TLS_GARBAGE.values()), "127.0.0.5")
        for name, answer in zip(TLS_GARBAGE, answers, strict=True):
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

KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
VERSION = "Sec-WebSocket-Version: 13\r\n"
HOST = "Host: localhost\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
GOOD = HOST + UPGRADE + KEY + VERSION

REQUESTS = [
    # what it is, the request, the statuses that fit
    ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", {400}),
    ("no Host", "GET / HTTP/1.1\r\n\r\n", {400}),
    ("an upgrade without Host", "GET /echo HTTP/1.1\r\n" + UPGRADE + KEY + VERSION + "\r\n", {400}),
    ("no version", "GET /\r\n\r\n", {400}),
    ("HTTP/0.9 in full", "GET / HTTP/0.9\r\n\r\n", {200, 400, 505}),
    ("HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", {200, 400, 505}),
    ("HTTP/11", "GET / HTTP/11\r\nHost: a\r\n\r\n", {400, 505}),
    ("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 405, 505}),
    ("a blank in a name", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", {400}),
    ("a line without a colon", "GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", {400}),
    ("a NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", {400}),
    ("a bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", {400}),
    ("a folded line", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", {200, 400}),
    ("a control byte in the target", "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    ("a byte over 127 in the target", "GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", {400, 404}),
    ("a target without a slash", "GET nonsense HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    ("a target with a bad IPv6 host", "GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    ("a target of another scheme", "GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    ("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", {200, 204, 400, 405}),
    ("CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", {400, 405, 501}),
    ("TRACE", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", {405, 501}),
    ("an unknown method that begins like one", "GETS / HTTP/1.1\r\nHost: a\r\n\r\n", {0, 400, 405, 501}),
    ("POST", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", {405}),
    ("POST in chunks", "POST / HTTP/1.1\r\nHost: a\r\n" + CHUNKED + "\r\n0\r\n\r\n", {405}),
    ("both framings", "GET / HTTP/1.1\r\n" + HOST + "Content-Length: 3\r\n" + CHUNKED + "\r\n0\r\n\r\n",
     {200, 400}),
    ("two lengths", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", {400}),
    ("a negative length", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", {400}),
    ("a length with a sign", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", {400}),
    ("a length of 5000 digits", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + "9" * 5000 + "\r\n\r\n",
     {200, 400}),
    ("an unknown encoding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xyz\r\n\r\n", {400, 405, 501}),
    ("HEAD of nothing", "HEAD /nothing HTTP/1.1\r\nHost: a\r\n\r\n", {404}),
    ("HEAD of nonsense", "HEAD nonsense HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    ("HEAD with an upgrade", "HEAD /echo HTTP/1.1\r\n" + GOOD + "\r\n", {405}),
    ("POST with an upgrade", "POST /echo HTTP/1.1\r\n" + GOOD + "\r\n", {405}),
    ("CONNECT with an upgrade", "CONNECT a:1 HTTP/1.1\r\n" + GOOD + "\r\n", {400, 405}),
    ("an upgrade in HTTP/1.0", "GET /echo HTTP/1.0\r\n" + GOOD + "\r\n", {400}),
    ("an upgrade with a body", "GET /echo HTTP/1.1\r\nContent-Length: 3\r\n" + GOOD + "\r\nabc", {400}),
    ("an upgrade in chunks", "GET /echo HTTP/1.1\r\n" + CHUNKED + GOOD + "\r\n0\r\n\r\n", {400}),
    ("no Connection", "GET /echo HTTP/1.1\r\n" + GOOD.replace("Connection:", "X:") + "\r\n", {400}),
    ("no key", "GET /echo HTTP/1.1\r\n" + HOST + UPGRADE + VERSION + "\r\n", {400}),
    ("two keys", "GET /echo HTTP/1.1\r\n" + GOOD + KEY + "\r\n", {400}),
    ("two keys in one", "GET /echo HTTP/1.1\r\n" + GOOD.replace("==", "==, " + KEY[19:-2]) + "\r\n", {400}),
    ("no version header", "GET /echo HTTP/1.1\r\n" + HOST + UPGRADE + KEY + "\r\n", {400, 426}),
    ("two versions", "GET /echo HTTP/1.1\r\n" + GOOD + VERSION + "\r\n", {400, 426}),
    ("an unknown path", "GET /nowhere HTTP/1.1\r\n" + GOOD + "\r\n", {404}),
    ("h2c", "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
     "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", {200}),
]  # fmt: skip


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_bad_request_gets_a_status_and_a_short_body(server: Program, secure: bool) -> None:
    """Whatever is wrong with a request, it is answered with a status that fits and a sentence."""
    failures = []
    with unharmed(server):
        for name, request, fitting in REQUESTS[:: 3 if secure else 1]:
            with connect(server.address, tls=secure) as sock:
                sock.sendall(request.encode("latin-1"))
                try:
                    answer = read_to_end(sock)
                except OSError as error:
                    failures.append((name, error))
                    continue
            status, headers, body = parse_response(answer) if answer else (0, {}, b"")
            if status not in fitting:
                failures.append((name, status, answer[-100:]))
            if status >= 400:
                empty = request.startswith("HEAD")
                if not (bool(body) != empty and len(body) < 500 and headers.get("connection") == "close"):
                    failures.append((name, headers, body))
    assert not failures


BAD_KEYS = [
    "", "x", "A" * 22, "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZTE=", "dGhlIHNhbXBsZSBub25j!Q==",
    "\xe9" * 24, "dGhlIHNhbXBs ZSBub25jZQ==", "=" * 24,
]  # fmt: skip


def test_a_bad_header_of_an_upgrade_is_refused(server: Program) -> None:
    """A key that isn't 16 bytes in base64 gets 400, a version that isn't 13 gets 426 and the right one."""
    address = server.address
    with unharmed(server):
        for key in BAD_KEYS:
            assert http(address, upgrade_request(address, Sec_WebSocket_Key=key))[0] == 400, key
        for version in ("12", "14", "0", "-13", "13.0", "013", "13, 13", "8", "", "thirteen", "\xb9\xb3"):
            status, headers, _ = http(address, upgrade_request(address, Sec_WebSocket_Version=version))
            assert (status, headers.get("sec-websocket-version")) == (426, "13"), version


BAD_ORIGINS = [
    "http://[", "http://[::1", "http://]", "http://[::1]x", "//", "http://", "http:///", ":", "::::", "[",
    "http://a:b", "http://a:99999999", "http://a@127.0.0.1", "http://\xe9\xff", "http://127.0.0.1:0x1",
    "http://a b", "a" * 8000, "http://" + "[" * 100, "http://\u00bd", "null null", "file:///etc", "data:,",
    "chrome-extension://x", "javascript:0", "http://\x85\x9b31m", "http://%00",
]  # fmt: skip


def test_a_bad_origin_is_refused_whatever_its_shape(server: Program) -> None:
    """An Origin header that can't be read gets an answer of four hundred and something, and no traceback."""
    failures = []
    with unharmed(server):
        for origin in BAD_ORIGINS:
            with connect(server.address) as sock:
                sock.sendall(upgrade_request(server.address, Origin=origin))
                answer = read_to_end(sock)
            if not answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403")):
                failures.append((origin[:50], answer[:100]))
    assert not failures


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_huge_head_gets_431(server: Program, secure: bool) -> None:
    """200 kB of headers, many small or one large, and a target of 200 kB: 431, however they come."""
    many = "".join(f"X-{number}: {'y' * 90}\r\n" for number in range(2000))
    heads = ["GET / HTTP/1.1\r\n" + HOST + many, "GET / HTTP/1.1\r\n" + HOST + "X: " + "y" * 200_000,
             "GET /" + "y" * 200_000 + " HTTP/1.1\r\n" + HOST]  # fmt: skip
    with unharmed(server):
        for head in heads:
            status, _, body = http(server.address, head + "\r\n\r\n", tls=secure)
            assert status in (400, 431) and len(body) < 500, (status, head[:30])
        assert http(server.address, heads[0] + "\r\n", tls=secure)[0] == 431


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_head_over_the_limit_is_refused_even_in_one_piece(server: Program, secure: bool) -> None:
    """The limit of a request's head is 16 KiB, and doesn't depend on how the bytes were cut on their way."""
    request = "GET / HTTP/1.1\r\n" + HOST + "X: " + "y" * 40_000 + "\r\n\r\n"
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

PROTOCOL_ERROR, BAD_DATA, TOO_BIG = 1002, 1007, 1009
FRAMES = [
    ("unmasked", frame(TEXT, b"x", mask=b""), PROTOCOL_ERROR),
    ("unmasked ping", frame(PING, b"x", mask=b""), PROTOCOL_ERROR),
    ("bad UTF-8", frame(TEXT, b"\xff"), BAD_DATA),
    ("UTF-8 cut at the end", frame(TEXT, b"\xf0\x9f\x98"), BAD_DATA),
    ("a surrogate in UTF-8", frame(TEXT, b"\xed\xa0\x80"), BAD_DATA),
    ("overlong UTF-8", frame(TEXT, b"\xc0\x80"), BAD_DATA),
    ("bad UTF-8 in the end", frame(TEXT, b"\xf0\x9f", fin=False) + frame(CONTINUATION, b"x"), BAD_DATA),
    ("bad UTF-8 in a frame that isn't whole", frame(TEXT, b"abc\xff", length=1000), BAD_DATA),
    *[(f"opcode {code}", frame(code, b"x"), PROTOCOL_ERROR) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
    *[(f"RSV {bits}", frame(TEXT, b"x", rsv=bits), PROTOCOL_ERROR) for bits in range(1, 8)],
    ("RSV on a ping", frame(PING, b"x", rsv=4), PROTOCOL_ERROR),
    ("a fragmented ping", frame(PING, b"x", fin=False), PROTOCOL_ERROR),
    ("a fragmented close", frame(CLOSE, b"\x03\xe8", fin=False), PROTOCOL_ERROR),
    ("a ping too long", frame(PING, b"x" * 126), PROTOCOL_ERROR),
    ("a ping that claims 2^62", frame(PING, b"", length=2**62), PROTOCOL_ERROR),
    ("a pong too long", frame(PONG, b"x" * 126), PROTOCOL_ERROR),
    ("a close too long", frame(CLOSE, b"\x03\xe8" + b"x" * 124), PROTOCOL_ERROR),
    ("a continuation of nothing", frame(CONTINUATION, b"x"), PROTOCOL_ERROR),
    ("a new message before the end of one", frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), PROTOCOL_ERROR),
    ("bytes in the midst of a text", frame(TEXT, b"x", fin=False) + frame(BINARY, b"y"), PROTOCOL_ERROR),
    ("a length in 2 bytes that fits in 1", b"\x81\xfe\x00\x01" + bytes(5), PROTOCOL_ERROR),
    ("a length in 8 bytes that fits in 2", b"\x81\xff" + (70).to_bytes(8, "big") + bytes(74), PROTOCOL_ERROR),
    ("a length with the highest bit", b"\x82\xff" + b"\xff" * 8 + bytes(4), PROTOCOL_ERROR),
    ("a length of 2^62", frame(BINARY, b"", length=2**62), TOO_BIG),
    ("a length of one too many", frame(BINARY, b"", length=2**20 + 1), TOO_BIG),
    ("a close of 1 byte", frame(CLOSE, b"\x03"), PROTOCOL_ERROR),
    ("a close with a reason that is no UTF-8", frame(CLOSE, b"\x03\xe8\xff"), BAD_DATA),
    *[(f"close code {code}", frame(CLOSE, code.to_bytes(2, "big")), PROTOCOL_ERROR)
      for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)],
]  # fmt: skip


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_a_broken_frame_gets_its_close_code_after_the_answers_owed(server: Program, secure: bool) -> None:
    """Each fault has its code; what was asked before it is answered first, what comes after it never."""
    failures = []

    def attack(name: str, data: bytes, code: int) -> None:
        with WebSocket(server.address, tls=secure) as client:
            client.sock.sendall(frame(TEXT, b"before") + data + frame(TEXT, b"after"))
            try:
                answers = [client.receive(), client.receive_close()[0]]
                rest = read_to_end(client.sock)
            except (AssertionError, EOFError, OSError) as error:
                failures.append((name, error))
                return
            if answers != ["before", code] or client._buffer or rest:
                failures.append((name, answers, rest))

    with unharmed(server):
        for name, data, code in FRAMES[:: 3 if secure else 1]:
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
                assert read_to_end(client.sock) == b"" == client._buffer


# ---------------------------------------------------------------- lines and the chat

BAD_LINES = {  # a line that can be read as text, but not as JSON: an error, and the connection stays
    "not JSON": b"{nonsense}",
    "half of it": b'{"type":"login"',
    "nested 100,000 deep": b'{"a":' * 100_000,
    "a list 100,000 deep": b'{"a":' + b"[" * 100_000,
    "deep and whole": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of a million digits": b'{"a":' + b"9" * 1_000_000 + b"}",
    "a float of a million digits": b'{"a":0.' + b"9" * 1_000_000 + b"}",
    "a huge exponent": b'{"type":1e999999999}',
    "no object": b"{}1",
    "NaN": b'{"type":NaN}',
    "a NUL": b'{"type":"\0"}',
    "an empty key": b'{"":""}',
    "100,000 keys": b"{" + b",".join(b'"%d":0' % number for number in range(100_000)) + b"}",
    "a BOM inside": b"{\xef\xbb\xbf}",
    "an escape that isn't one": b'{"type":"\\x"}',
    "half a surrogate": b'{"type":"\\ud800"}',
    "a key of half a surrogate": b'{"\\udfff":1}',
    "only a brace": b"{",
}


@pytest.mark.parametrize("kind", ["tcp", "tcps", "ws"])
def test_a_line_that_is_no_message_gets_an_error_and_the_connection_stays(server: Program, kind: str) -> None:
    """Whatever JSON can hide, deep nesting and endless numbers too, costs an error message and no more."""
    with unharmed(server):
        if kind == "ws":
            with WebSocket(server.address, "/chat") as client:
                for name, line in BAD_LINES.items():
                    client.send(line.decode())
                    assert client.receive_json()["type"] == "error", name
        else:
            with Native(server.address, tls=kind == "tcps") as native:
                for name, line in BAD_LINES.items():
                    native.sock.sendall(line + b"\r\n")
                    assert native.receive_json()["type"] == "error", name
                native.send("")
                assert native.receive_json()["type"] == "error"
                native.send({"type": "login", "name": f"still-{kind}"})
                assert native.receive_json()["type"] == "welcome"


STRANGE = [
    None, True, 0, -1, 1.5, [], [1], {}, {"type": "login"}, "", " ", " x", "x ", "x" * 33, "a\nb", "a\tb",
    "a\0b", "\x1b[31m", "\x7f", "\x9b", "\u202e", "\u2028", "\ud800", "\udfff\ud800", "\u200b", "\ufeff",
    "\ue000", "x" * 100_000, "\uffff",
]  # fmt: skip


def test_chat_fields_of_the_wrong_type_length_or_with_control_characters_are_errors(server: Program) -> None:
    """No field of no message can be such that the application fails: an error, and the connection stays."""
    with unharmed(server), WebSocket(server.address, "/chat") as client, Native(server.address) as listener:
        listener.send({"type": "login", "name": "listener"})
        listener.receive()
        for strange in STRANGE:  # json.dumps writes half a surrogate as an escape, as an attacker would
            for request in ({"type": strange}, {"type": "login", "name": strange}):
                client.send(request)
                assert client.receive_json()["type"] == "error", (request, client)
        client.send({"type": "login", "name": "x" * 32})
        assert client.receive_json()["type"] == "welcome"
        for strange in STRANGE:
            client.send({"type": "say", "text": "x", "to": strange})
            assert client.receive_json()["type"] == "error", ascii(strange)
        for strange in [None, True, 0, [], {}, "", "\0", "\x1b[31m", "\x7f", "\x9b", "\ud800", "a\rb"]:
            for to in ({}, {"to": "listener"}):
                client.send({"type": "say", "text": strange, **to})
                assert client.receive_json()["type"] == "error", ascii(strange)
        client.send({"type": "say", "text": "the first that is good"})
        assert json.loads(listener.receive())["type"] == "joined"
        assert json.loads(listener.receive())["text"] == "the first that is good"


def test_names_that_look_like_something_else_are_refused(server: Program) -> None:
    """A name is printable: no control characters, nothing invisible, no blank at its ends."""
    bad = ["", " x", "x ", "\u00a0", "\u2028", "x" * 33, "a\nb", "\0", "\x1b[2J", "\x7f", "\x9b2J",
           "\u202eevil", "a\u200bb", "\ufeff", "a\u00adb", "\ud800"]  # fmt: skip
    with unharmed(server), WebSocket(server.address, "/chat") as client:
        for name in bad:
            client.send({"type": "login", "name": name})
            assert client.receive_json()["type"] == "error", ascii(name)


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
