# SPDX-License-Identifier: MIT
"""What clients get wrong: one table for each kind of broken input, with what must come of it."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

from support import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

# ---------------------------------------------------------------- first bytes

_noise = random.Random(7)

HEADS: dict[str, bytes] = {  # they are neither TLS nor HTTP nor native
    "TLS of another major version": b"\x16\x04",
    "TLS of version 255": b"\x16\xff\x01",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x28",  # it opens no connection
    "an SSLv2 hello": b"\x80\x2e\x01\x03\x01",  # long dead, and too like other protocols
    "TLS after another byte": b"\xff\x16\x03",
    "a word that begins like a method": b"GETS",
    "HELO": b"HELO mail",
    "EHLO": b"EHLO x\r\n",
    "a blank before the method": b" GET /",
    "SSH": b"SSH-2.0-OpenSSH\r\n",
    "SOCKS": b"\x05\x01\x00",
    "a list": b"[1]\n",
    "quotes": b"'\"`;--\n",
    "a NUL": b"\0",
    "many NULs": b"\0" * 70_000,
    "many ones": b"\xff" * 100,
    **{
        f"noise of {size} bytes, {turn}": noise
        for size in (1, 2, 5, 16, 17, 1000, 20_000)
        for turn in range(4)
        if (noise := _noise.randbytes(size))[0] not in b"\x16{GHPDCOT"
    },
}

TLS_RECORDS: dict[str, bytes] = {  # what begins like TLS, and goes wrong
    name: bytes.fromhex(record)
    for name, record in {
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
    }.items()
}

# ---------------------------------------------------------------- requests

HOST = "Host: localhost\r\n"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
VERSION = "Sec-WebSocket-Version: 13\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
GOOD = HOST + UPGRADE + KEY + VERSION


def _get(headers: str, target: str = "/", body: str = "") -> str:
    return f"GET {target} HTTP/1.1\r\n{headers}\r\n{body}"


def _echo(headers: str, body: str = "") -> str:
    return _get(headers, "/echo", body)


def _with(key: str = KEY, version: str = VERSION, more: str = "") -> str:
    return _echo(HOST + UPGRADE + key + version + more)


def _key(value: str) -> str:
    return f"Sec-WebSocket-Key: {value}\r\n"


REQUESTS: list[tuple[str, str, set[int], str]] = [
    # what it is, the request, the statuses that fit, words that the answer's body holds
    ("two Hosts", _get("Host: a\r\nHost: b\r\n"), {400}, "Host"),
    ("the same Host twice", _get(HOST + HOST), {400}, "Host"),
    ("no Host", _get(""), {400}, "Host"),
    *[(f"the Host {host!r}", _get(f"Host: {host}\r\n"), {400}, "Host") for host in (
        "local host", "localhost/x", "a@localhost", "localhost:1:2", "localhost:http", "[::1",
        "l\xf6calhost")],
    ("an upgrade without Host", _echo(UPGRADE + KEY + VERSION), {400}, "Host"),
    ("an upgrade with a bad Host", _echo("Host: bad host\r\n" + UPGRADE + KEY + VERSION), {400}, "Host"),
    ("no version", "GET /\r\n\r\n", {400}, ""),
    ("HTTP/0.9 in full", "GET / HTTP/0.9\r\n\r\n", {400, 505}, ""),
    ("HTTP/2.0", f"GET / HTTP/2.0\r\n{HOST}\r\n", {400, 505}, ""),
    ("HTTP/3", f"GET / HTTP/3\r\n{HOST}\r\n", {400, 505}, ""),
    ("HTTP/11", f"GET / HTTP/11\r\n{HOST}\r\n", {400, 505}, ""),
    ("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {505}, ""),
    ("a blank in a name", _get("Host : localhost\r\n"), {400}, ""),
    ("a line without a colon", _get(HOST + "nonsense\r\n"), {400}, ""),
    ("a NUL in a value", _get(HOST + "X: a\0b\r\n"), {400}, ""),
    ("a NUL for a value", _get(HOST + "X: \0\r\n"), {400}, ""),
    ("a bare CR in a value", _get(HOST + "X: a\rb\r\n"), {400}, ""),
    ("a folded line", _get(HOST + "X: a\r\n b\r\n"), {200, 400}, ""),
    ("a control byte in the target", _get(HOST, "/\x01"), {400}, ""),
    ("a blank in the target", _get(HOST, "/a b"), {400}, ""),
    ("a byte over 127 in the target", _get(HOST, "/\xe9"), {400, 404}, ""),
    *[(f"the target {target}", _get(HOST, target), {400}, "") for target in (
        "*", "nonsense", "secret.txt", "../secret.txt", "file:///etc/passwd", "http://", "http:/", "http://[",
        "ftp://localhost/", "?x", "%2f")],
    ("OPTIONS *", f"OPTIONS * HTTP/1.1\r\n{HOST}\r\n", {200, 204, 400, 405}, ""),
    ("CONNECT", f"CONNECT a:443 HTTP/1.1\r\n{HOST}\r\n", {400, 405, 501}, ""),
    ("CONNECT to here", "CONNECT localhost:22 HTTP/1.1\r\nHost: localhost:22\r\n\r\n", {400, 405, 501}, ""),
    ("TRACE", f"TRACE / HTTP/1.1\r\n{HOST}\r\n", {405, 501}, ""),
    ("an unknown method", f"BREW / HTTP/1.1\r\n{HOST}\r\n", {501}, ""),
    ("an unknown method that begins like one", f"GETS / HTTP/1.1\r\n{HOST}\r\n", {501}, ""),
    ("POST", f"POST / HTTP/1.1\r\n{HOST}Content-Length: 3\r\n\r\nabc", {405}, ""),
    ("POST in chunks", f"POST / HTTP/1.1\r\n{HOST}{CHUNKED}\r\n0\r\n\r\n", {405}, ""),
    ("both framings", _get(HOST + "Content-Length: 3\r\n" + CHUNKED, body="0\r\n\r\n"), {200, 400}, ""),
    ("two lengths", _get(HOST + "Content-Length: 3\r\nContent-Length: 4\r\n", body="abcd"), {400}, ""),
    *[(f"the length {length}", _get(f"{HOST}Content-Length: {length}\r\n"), {400}, "")
      for length in ("x", "-1", "+1")],
    ("a length of 5000 digits", _get(HOST + "Content-Length: " + "9" * 5000 + "\r\n"), {200, 400}, ""),
    ("an unknown encoding", f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: xyz\r\n\r\n", {400, 405, 501}, ""),
    ("HEAD of nothing", f"HEAD /nothing HTTP/1.1\r\n{HOST}\r\n", {404}, ""),
    ("HEAD of nonsense", f"HEAD nonsense HTTP/1.1\r\n{HOST}\r\n", {400}, ""),
    ("HEAD with an upgrade", f"HEAD /echo HTTP/1.1\r\n{GOOD}\r\n", {405}, ""),
    ("POST with an upgrade", f"POST /echo HTTP/1.1\r\n{GOOD}\r\n", {405}, ""),
    ("CONNECT with an upgrade", f"CONNECT a:1 HTTP/1.1\r\n{GOOD}\r\n", {400, 405}, ""),
    ("an upgrade in HTTP/1.0", f"GET /echo HTTP/1.0\r\n{GOOD}\r\n", {400}, ""),
    ("an upgrade with a body", _echo("Content-Length: 3\r\n" + GOOD, "abc"), {400}, "body"),
    ("an upgrade in chunks", _echo(CHUNKED + GOOD, "0\r\n\r\n"), {400}, "body"),
    ("no Connection", _echo(GOOD.replace("Connection:", "X:")), {400}, "Connection"),
    ("another Connection", _echo(GOOD.replace("Upgrade\r\n", "keep-alive\r\n")), {400}, "Connection"),
    ("no key", _with(key=""), {400}, "Sec-WebSocket-Key"),
    ("two keys", _with(more=KEY), {400}, "more than one"),
    *[(f"the key {key!r}", _with(_key(key)), {400}, "") for key in (
        "", "x", "c2hvcnQ=", "A" * 22, "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZTE=",
        "dGhlIHNhbXBsZSBub25j!Q==", "\xe9" * 24, "dGhlIHNhbXBs ZSBub25jZQ==", "=" * 24,
        "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==", "not base64 at all!!!")],
    ("a key of five bytes", _with(_key("c2hvcnQ=")), {400}, "16 bytes"),
    ("no version header", _with(version=""), {400, 426}, "Sec-WebSocket-Version"),
    ("two versions", _with(more=VERSION), {400, 426}, ""),
    *[(f"version {version!r}", _with(version=f"Sec-WebSocket-Version: {version}\r\n"), {426}, "13")
      for version in (
        "12", "14", "0", "-13", "13.0", "013", "13, 13", "8", "", "thirteen", "\xb9\xb3")],
    ("an unknown path", _get(GOOD, "/nowhere"), {404}, ""),
    ("h2c", _get(HOST + "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
     "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"), {200}, ""),
    ("a page from elsewhere", _echo(GOOD + "Origin: https://evil.example\r\n"), {403},
     "--origin https://evil.example"),
    *[(f"the Origin {origin[:40]!r}", _echo(f"{GOOD}Origin: {origin}\r\n"), {400, 403}, "") for origin in (
        "http://[", "http://[::1", "http://]", "http://[::1]x", "//", "http://", "http:///", ":", "::::", "[",
        "http://a:b", "http://a:99999999", "http://a@127.0.0.1", "http://\xe9\xff", "http://127.0.0.1:0x1",
        "http://a b", "a" * 8000, "http://" + "[" * 100, "http://\xbd", "null null", "file:///etc", "data:,",
        "chrome-extension://x", "javascript:0", "http://\x85\x9b31m", "http://%00", "\x1b[2J")],
]  # fmt: skip

FOREIGN_HOSTS = [  # none of them names this machine as loopback does
    "evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example",
    "localhost-evil.example", "evil-localhost", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1",
    "0", "0.0.0.0", "[::]", "128.0.0.1", "126.255.255.255", "user@localhost", "localhost@evil.example",
    "evil.example#localhost", "localhost,evil.example", "localhost evil.example", "localhost/evil.example",
    "localhost:80:80", "localhost:", "localhost:x", "localhost:-1", "[::1", "::1", "[::1]x",
    "[::ffff:8.8.8.8]", "127.0.0.1\\@evil.example", "%31", "\xb9\xb2\xb7.0.0.1", "", ".", "..",
    "localhost\xad", "xn--localhost", "127.0.0.256", "127.0.0", "127.0.0.1.",
]  # fmt: skip

# ---------------------------------------------------------------- offers of compression

PMD = "permessage-deflate"
_PARAMETERS = [
    "unknown", "", "x=1", "server_no_context_takeover=1", "client_no_context_takeover=",
    "server_max_window_bits", "server_max_window_bits=", "server_max_window_bits=7",
    "server_max_window_bits=8",  # zlib can't make so small a window
    "server_max_window_bits=16", "server_max_window_bits=0", "server_max_window_bits=-1",
    "server_max_window_bits=+9", "server_max_window_bits=abc", "server_max_window_bits=08",
    "server_max_window_bits=010", "server_max_window_bits=1e1", "server_max_window_bits=10.0",
    "server_max_window_bits=\xb9\xb9", 'server_max_window_bits="', 'server_max_window_bits=""',
    'server_max_window_bits="10', 'server_max_window_bits=10"', 'server_max_window_bits="16"',
    "server_max_window_bits=10=10", "server_max_window_bits 10", "client_max_window_bits=",
    "client_max_window_bits=16", "client_max_window_bits=x", "client_max_window_bits=7",
    "client_max_window_bits=99999999999999999999", 'client_max_window_bits="10', 'client_max_window_bits=10"',
    "=", "=1", "a" * 4000, "server_no_context_takeover; server_no_context_takeover",
    "client_no_context_takeover; client_no_context_takeover",
    "server_max_window_bits=10; server_max_window_bits=10",
    "client_max_window_bits; client_max_window_bits=10",
    "client_max_window_bits=10; client_max_window_bits=11",
]  # fmt: skip
OFFERS = [
    *(f"{PMD}; {bad}" for bad in _PARAMETERS), f"x-{PMD}", "x-webkit-deflate-frame", f"{PMD}x", f"{PMD}=1",
    "", ",", ";", ",,,", "; server_max_window_bits=10", f'"{PMD}"', f"foo; {PMD}", "message-limit",
]  # fmt: skip

# ---------------------------------------------------------------- frames

PROTOCOL_ERROR, BAD_DATA, TOO_BIG = 1002, 1007, 1009
FRAMES: list[tuple[str, bytes, int]] = [
    # what it is, the frames, the code that the client is told
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

# ---------------------------------------------------------------- lines, and what the chat is told

LINES: dict[str, bytes] = {  # text that is no message: an error, and the connection stays
    "not JSON": b"{nonsense}",
    "half of it": b'{"type":"login"',
    "nested 10,000 deep": b'{"a":' * 10_000,
    "a list 30,000 deep": b'{"a":' + b"[" * 30_000,
    "deep and whole": b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "a number of 60,000 digits": b'{"a":' + b"9" * 60_000 + b"}",
    "a float of 60,000 digits": b'{"a":0.' + b"9" * 60_000 + b"}",
    "a huge exponent": b'{"type":1e999999999}',
    "no object": b"{}1",
    "NaN": b'{"type":NaN}',
    "a NUL": b'{"type":"\0"}',
    "an empty key": b'{"":""}',
    "5,000 keys": b"{" + b",".join(b'"%d":0' % number for number in range(5_000)) + b"}",
    "a BOM inside": b"{\xef\xbb\xbf}",
    "an escape that isn't one": b'{"type":"\\x"}',
    "half a surrogate": b'{"type":"\\ud800"}',
    "a key of half a surrogate": b'{"\\udfff":1}',
    "only a brace": b"{",
}

TEXTS = ["", "\0", "a\0b", "a\rb", "\x1b[31m", "\x1b[2J", "\x7f", "\x9b", "\x9b2J", "\ud800", "\udfff\ud800"]

NAMES = [  # what is no name: with control characters, invisible, with a blank at an end, too long
    *TEXTS, " ", " x", "x ", "\xa0", "x" * 33, "x" * 30_000, "a\nb", "a\tb", "\u202e", "\u202eevil",
    "\u2028", "\u200b", "a\u200bb", "\ufeff", "a\xadb", "\ue000", "\uffff",
]  # fmt: skip

VALUES = [None, True, 0, -1, 1.5, [], [1], ["ann"], {}, {"type": "login"}]  # what is no text

# ---------------------------------------------------------------- paths

PATHS = [  # none is a file in the folder; {secret}: the path of one beside it; {escaped}: the same, escaped
    "/../secret.txt", "/../../secret.txt", "/%2e%2e/secret.txt", "/%2E%2E%2Fsecret.txt", "/..%2fsecret.txt",
    "/.%2e/secret.txt", "/%2e%2e%5csecret.txt", "/..%5csecret.txt", "/..\\secret.txt", "/\\..\\secret.txt",
    "/%252e%252e/secret.txt", "/..%252fsecret.txt", "/..%c0%afsecret.txt", "/%c0%ae%c0%ae/secret.txt",
    "/..%ef%bc%8fsecret.txt", "/..%00/secret.txt", "/secret.txt%00", "/index.html%00.txt", "/%00",
    "/./../secret.txt", "/x/../../secret.txt", "/sub/../../secret.txt", "/sub/..%2f..%2fsecret.txt",
    "/sub/%2e%2e/%2e%2e/secret.txt", "//../secret.txt", "///../../secret.txt", "/;/../secret.txt",
    "/..;/secret.txt", "/....//secret.txt", "/..../secret.txt",
    "{secret}", "{escaped}", "/{escaped}", "/{secret}", "//{secret}", "/%2f{secret}",
    "/%2f%2f{secret}", "/file:{secret}", "http://localhost{secret}", "http://localhost/{secret}",
    "http://localhost/../secret.txt",
    "/~root/secret.txt", "/../www-private/secret.txt", "/..%2fwww-private%2fsecret.txt", "/back%5cslash.txt",
    "/link.txt", "/linked/secret.txt", "/linked/www-private/secret.txt", "/loop", "/pipe",
    "/..", "/%2e%2e", "/sub/../..", "/sub/../index.html/x", "/inner", "/inner/", "/inner/.", "/inner%2f",
    "/etc/passwd", "//etc/passwd", "/%2fetc%2fpasswd", "/file:///etc/passwd", "/proc/self/environ",
    "/dev/stdin", "/C:/Windows/win.ini", "/C:%5CWindows%5Cwin.ini", "//server/share/secret.txt",
    "/" + "a" * 5000, "/" + "a/" * 2000 + "x", "/%", "/%zz", "/%ff%fe", "/\x7f", "/nothing", "/ ",
]  # fmt: skip


SECRET = b"this lies outside of the folder"


def folder_with_traps(outside: Path) -> Path:
    """Make a folder to serve, with a secret beside it and whatever may lead there."""
    folder, neighbour = outside / "www", outside / "www-private"  # whose name begins like the folder's
    for made in (folder / "sub", folder / "inner", neighbour):
        made.mkdir(parents=True)
    for secret in (outside / "secret.txt", neighbour / "secret.txt"):
        secret.write_bytes(SECRET)
    (folder / "index.html").write_text("<!doctype html><p>the index</p>")
    (folder / "sub" / "index.html").write_text("<p>sub</p>")
    if os.name == "posix":
        (folder / "back\\slash.txt").write_bytes(SECRET)  # a name here, a path on Windows
        os.mkfifo(folder / "pipe")
    with contextlib.suppress(OSError):  # Windows wants a privilege for links
        (folder / "link.txt").symlink_to(outside / "secret.txt")
        (folder / "linked").symlink_to(outside)
        (folder / "loop").symlink_to("loop")
    return folder
