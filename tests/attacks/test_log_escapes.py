# SPDX-License-Identifier: MIT
"""What a client writes never reaches the log or the monitor unescaped.

A log is read in a terminal, which takes some characters for commands, and line by line, where a newline makes
what looks like another record.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from support import *

TESTS = Path(__file__).resolve().parent.parent

NASTY = {
    "ESC": "\x1b[2J\x1b]0;owned\x07",
    "CSI": "\x9b31m\x80\x9f",  # U+009B does what ESC [ does
    "newline": "x\nFAKE 12:00:00 all is well",
    "return": "x\rFAKE 12:00:00 all is well",
    "lines of other kinds": "\x0b\x0c\x1c\x1d\x1e\x85\u2028FAKE\u2029FAKE",
    "bidi": "\u202e\u2066gpj.exe\u2069\u200f",
    "invisible": "\u200b\ufeff\u00ad\u2060\U000e0041",
    "NUL and DEL": "a\0b\x7f",
    "noncharacters": "\uffff\ufffe\U0010ffff",
    "percent": "%s %d %n %(asctime)s %1b {0} {self}",
}
each = pytest.mark.parametrize("name", NASTY)


def harmless(text: str) -> None:
    """Assert that some log would do nothing to a terminal, and that each of its lines is the server's own."""
    raw = {c for c in text if not c.isprintable()} - {"\n"}
    assert not raw, (sorted(map(ascii, raw)), text)
    assert not [line for line in text.split("\n") if line.startswith("FAKE")], text


# ---- a program of one's own

SCRIPT = f"""
import logging, sys, threading
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
how = sys.argv[1]
from wsdual import DualServer, Refused
if how == "basic":
    logging.basicConfig(level=logging.INFO)
elif how == "handler":
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("wsdual").addHandler(handler)

class RaisesItself(Exception):
    def __init__(self, words):
        super().__init__(words)
        self.add_note(words) if hasattr(self, "add_note") else None

def fails(peer):
    for message in peer:
        try:
            raise KeyError(peer.path, message)
        except KeyError as error:
            raise RaisesItself(f"no room {{peer.path}} for {{message}}: "
                               f"{{peer.request.headers['X']}} {{peer.request.parameters}}") from error

class Server(DualServer):
    def verify_upgrade(self, request):
        if "why" in request.parameters:
            raise Refused(f"not {{request.parameters['why'][0]}}", 401)
        if "header" in request.parameters:
            raise Refused("no", 401, [("X", request.parameters["header"][0])])
        if "fail" in request.parameters:
            raise OSError(f"no file {{request.path}} {{request.headers['X']}}")

def observe(event):
    if event["step"] == "upgraded":
        raise ValueError(f"no such path {{event['path']}}")

with Server(("127.0.0.1", 0), {{"/rooms/": fails}}) as server:
    server.observers.append(observe)
    print(server.server_address[1], flush=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    sys.stdin.read()
    server.shutdown()
"""


@contextlib.contextmanager
def own_program(how: str, log: Path) -> Iterator[tuple[str, int]]:
    """A program that has its logging set up in this way, for a while."""
    with log.open("wb") as errors:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, how], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=errors)  # fmt: skip
    assert process.stdout and process.stdin
    try:
        yield "127.0.0.1", int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(PATIENCE)
        process.stdout.close()


@pytest.mark.parametrize("how", ["nothing", "basic", "handler"])
def test_nothing_raw_in_the_log_of_a_program_of_ones_own(how: str, tmp_path: Path) -> None:
    """Paths below a slash, header values, and exceptions that quote them: whatever handlers print the log."""
    log = tmp_path / "log"
    with own_program(how, log) as address:
        for nasty in NASTY.values():
            path = "/rooms/" + quote(nasty)
            header = nasty.encode().decode("latin-1").translate(dict.fromkeys([0, 10, 11, 12, 13], "-"))
            header = "".join(c for c in header if c == "\t" or ord(c) >= 0x20)
            with WebSocket(address, path, X=header) as client:
                client.send(nasty)
                assert client.receive_close()[0] == 1011
            for query in ("why", "header", "fail"):
                answer = http(address, upgrade_request(address, f"{path}?{query}={quote(nasty)}", X=header))
                assert answer[0] in (401, 500)
            assert http(address, upgrade_request(address, "/nothing" + path))[0] == 404
    text = log.read_text()
    assert text.count("RaisesItself: ") >= len(NASTY) and text.count("no file /rooms/") >= len(NASTY)
    harmless(text)


# ---- the program itself


def provoke(program: Program, nasty: str) -> None:
    """Write it wherever a client can write something."""
    quoted, latin = quote(nasty), nasty.encode().decode("latin-1")
    in_a_header = "".join(c if c >= " " else "-" for c in latin)
    for path in (f"/{quoted}", f"/chat/{quoted}", f"/{quoted}?{quoted}"):
        http(program.address, upgrade_request(program.address, path))
        get(program.address, path)
    for name in ("Host", "Origin", "X", "Cookie", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions",
                 "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Upgrade", "Connection"):  # fmt: skip
        for value in (in_a_header, latin):
            with connect(program.address) as sock, contextlib.suppress(OSError):
                sock.sendall(upgrade_request(program.address, **{name.replace("-", "_"): value}))
                sock.recv(1000)
    for line in (f"GET /{latin} HTTP/1.1", f"{latin} / HTTP/1.1", f"GET / HTTP/{latin}",
                 f"GET http://{latin}/ HTTP/1.1"):  # fmt: skip
        with connect(program.address) as sock, contextlib.suppress(OSError):
            sock.sendall(f"{line}\r\nHost: localhost\r\n\r\n".encode("latin-1"))
            sock.recv(1000)
    with WebSocket(program.address, "/chat") as client:
        client.send({"type": "login", "name": "a" + nasty[:20]})
        client.receive()
        client.send({"type": nasty, "name": nasty})
        client.receive()
        client.sock.sendall(frame(CLOSE, b"\x0f\xa0" + nasty.encode()[:100]))
    with Native(program.address) as native:
        native.send({"type": nasty})
        native.receive()


@each
def test_nothing_raw_in_the_log_nor_in_the_monitors_json(start: Callable[..., Program], name: str) -> None:
    """With -v the log tells every step; the monitor's messages are one line of printable characters each."""
    program = start("-v")
    raw: list[str] = []
    with WebSocket(program.address, "/monitor") as watcher:
        raw.append(str(watcher.receive()))
        provoke(program, NASTY[name])
        with WebSocket(program.address, "/"):  # the last
            pass
        while '"path":"/"' not in raw[-1]:
            raw.append(str(watcher.receive()))
    assert len(raw) > 50
    assert not [message for message in raw if not message.isprintable()]
    harmless(program.log())
    assert all(line[:2].isdigit() for line in program.log().splitlines()), "each line is a record"


def test_nothing_raw_of_a_client_certificates_subject(start: Callable[..., Program], tmp_path: Path) -> None:
    """An authority may sign what it doesn't read."""
    ours = make_identity("class", authority=True)
    server = make_identity("localhost", ours)
    (tmp_path / "server.pem").write_bytes(server.key_pem() + server.pem())
    (tmp_path / "ca.pem").write_bytes(ours.pem())
    program = start("-v", "--cert", str(tmp_path / "server.pem"), "--client-ca", str(tmp_path / "ca.pem"))

    def trusted(name: str) -> ssl.SSLContext:
        identity, context = make_identity(name, ours), any_tls()
        (tmp_path / "client.pem").write_bytes(identity.key_pem() + identity.pem())
        context.load_cert_chain(tmp_path / "client.pem")
        return context

    with contextlib.ExitStack() as stack:
        for nasty in NASTY.values():
            client = stack.enter_context(WebSocket(program.address, tls=trusted(nasty)))
            assert client.ask("here") == "here"
        watcher = stack.enter_context(WebSocket(program.address, "/monitor", tls=trusted("ann")))
        snapshot = str(watcher.receive())
    assert snapshot.isprintable()
    assert len(json.loads(snapshot)["clients"]) >= len(NASTY)
    harmless(program.log())
