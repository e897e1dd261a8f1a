# SPDX-License-Identifier: MIT
"""Requests at the edge of HTTP: a blank line first, odd versions and methods, whole URLs, words of errors."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import (
    TEXT,
    Program,
    Watcher,
    connect,
    frame,
    parse_response,
    read_to_end,
    running,
    upgrade_request,
)

plain_and_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
Answer = tuple[int, dict[str, str], bytes]
PAUSE = 0.2  # seconds, for what was sent to be looked at before more comes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page and two files to serve."""
    folder = tmp_path_factory.mktemp("www")
    (folder / "sub").mkdir()
    for name in ("index.html", "style.css", "sub/index.html"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server of that folder."""
    with running(tmp_path_factory.mktemp("log"), "--static", str(folder)) as program:
        yield program


@pytest.fixture(scope="module")
def trial(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The same by the trial method."""
    flags = ["--static", str(folder), "--detect", "trial", "--memory", "0"]
    with running(tmp_path_factory.mktemp("log"), *flags) as program:
        yield program


def ask(program: Program, *pieces: str | bytes, tls: bool = False, source: str | None = None) -> Answer:
    """Send a request in pieces, each in a packet of its own; return the answer."""
    with connect(program.address, tls=tls, source=source) as sock:
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(PAUSE)
            sock.sendall(piece.encode("latin-1") if isinstance(piece, str) else piece)
        data = read_to_end(sock)
    assert data.startswith(b"HTTP/1.1 "), data[:200]
    return parse_response(data)


# ---- a blank line first (RFC 9112 section 2.2)

REQUEST = "GET /style.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
WITH_A_BLANK_LINE: dict[str, tuple[str, ...]] = {
    "at_once": ("\r\n" + REQUEST,),
    "alone": ("\r\n", REQUEST),
    "its_first_byte_alone": ("\r", "\n" + REQUEST),
    "byte_by_byte": ("\r", "\n", "G", REQUEST[1:]),
    "with_half_a_method": ("\r\nGE", REQUEST[2:]),
}


@plain_and_tls
@pytest.mark.parametrize("pieces", WITH_A_BLANK_LINE)
def test_a_blank_line_before_the_request_is_skipped(server: Program, pieces: str, tls: bool) -> None:
    """Some old clients send one behind a POST's body; however its bytes come, the request is served."""
    assert ask(server, *WITH_A_BLANK_LINE[pieces], tls=tls)[::2] == (200, b"style.css")


@pytest.mark.parametrize("pieces", WITH_A_BLANK_LINE)
def test_a_blank_line_is_skipped_by_the_trial_method_too(trial: Program, pieces: str) -> None:
    """There the first bytes are read, not peeked at."""
    assert ask(trial, *WITH_A_BLANK_LINE[pieces])[::2] == (200, b"style.css")


@plain_and_tls
def test_a_blank_line_before_an_upgrade_is_skipped(server: Program, tls: bool) -> None:
    """A WebSocket's request is a request like any other."""
    with connect(server.address, tls=tls) as sock:
        sock.sendall(b"\r\n" + upgrade_request(server.address) + frame(TEXT, b"hi"))
        data = b""
        while not data.endswith(b"\x81\x02hi"):
            assert (more := sock.recv(65536)), data
            data += more
        assert data.startswith(b"HTTP/1.1 101 ")


def test_a_blank_line_before_another_method_is_skipped(server: Program) -> None:
    """Its answer is the one that the method gets: HEAD, one that isn't served, one that nobody knows."""
    for method, status in (("HEAD", 200), ("POST", 405), ("BREW", 501)):
        assert ask(server, "\r\n" + REQUEST.replace("GET", method), source="127.0.0.21")[0] == status, method


@pytest.mark.parametrize("data", [b"\r", b"\r\n"], ids=["cr", "crlf"])
def test_a_blank_line_and_no_more_is_waited_for_without_spinning(tmp_path: Path, data: bytes) -> None:
    """The client hears so at the deadline and is closed; the wait costs no processor time."""
    with running(tmp_path, "--handshake-timeout", "1") as program, connect(program.address) as sock:
        used = program.cpu_seconds()
        sock.sendall(data)
        assert parse_response(read_to_end(sock))[0] == 408
        assert program.cpu_seconds() - used < 0.3


# ---- versions

VERSIONS = {"1.1": 200, "1.0": 200, "9.9": 505, "2.0": 505, "0.9": 505, "3.0": 505}


@plain_and_tls
@pytest.mark.parametrize("version", VERSIONS)
def test_only_http_1_is_served(server: Program, version: str, tls: bool) -> None:
    """Another major version gets 505 (RFC 9110 section 15.6.6), for a file and for an upgrade."""
    status, _, body = ask(server, REQUEST.replace("1.1", version), tls=tls)
    assert status == VERSIONS[version]
    if status == 505:
        assert body.startswith(b"505") and len(body) < 200
        upgrade = upgrade_request(server.address).replace(b"HTTP/1.1", b"HTTP/" + version.encode())
        assert ask(server, upgrade, tls=tls)[0] == 505


# ---- paths

NO_FILES = [
    "/index.html/", "/style.css/", "/sub/index.html/", "/index.html//", "/index.html%2F", "/index.html/.",
    "/index.html/%2e", "/style.css/?x",
]  # fmt: skip


@plain_and_tls
def test_a_file_is_no_folder(server: Program, tls: bool) -> None:
    """What stands behind a file's name names something else, which isn't there."""
    for path in NO_FILES:
        assert ask(server, REQUEST.replace("/style.css", path), tls=tls)[0] == 404, path
    for path in ("/", "/index.html", "/sub/index.html"):
        assert ask(server, REQUEST.replace("/style.css", path), tls=tls)[0] == 200, path


# ---- whole URLs (RFC 9112 section 3.2.2)


@plain_and_tls
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_host_of_a_whole_url_is_the_one_that_counts(server: Program, scheme: str, tls: bool) -> None:
    """Where the target is a URL the Host field is passed over, be it the better or the worse of the two."""
    mine = f"localhost:{server.port}"
    for in_target, in_field, status in [
        ("evil.example", "localhost", 403), (f"evil.example:{server.port}", mine, 403), (mine, mine, 200),
        (mine, "evil.example", 200), ("127.0.0.1", "evil.example", 200), ("[::1]:80", "evil.example", 200),
    ]:  # fmt: skip
        request = f"GET {scheme}://{in_target}/style.css HTTP/1.1\r\nHost: {in_field}\r\n\r\n"
        assert ask(server, request, tls=tls)[0] == status, (in_target, in_field)


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_an_upgrade_to_a_foreign_url_is_refused(server: Program, scheme: str) -> None:
    """A loopback Host is no way round it."""
    request = upgrade_request(server.address, f"{scheme}://evil.example/echo", Host="localhost")
    with connect(server.address) as sock:
        sock.sendall(request)
        assert sock.recv(65536).startswith(b"HTTP/1.1 403 ")


# ---- the words of errors

FAULTY = {
    "no_host": "GET / HTTP/1.1\r\n\r\n",
    "two_hosts": "GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "bad_host": "GET / HTTP/1.1\r\nHost: local host\r\n\r\n",
    "no_version": "GET /\r\n\r\n",
    "odd_version": "GET / HTTP/x\r\nHost: localhost\r\n\r\n",
    "blank_in_target": "GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "control_in_target": "GET /\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no_target": "GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "method_alone": "GET \r\n\r\n",
    "no_colon": "GET / HTTP/1.1\r\nHost: localhost\r\nnonsense\r\n\r\n",
    "blank_before_colon": "GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "blank_in_name": "GET / HTTP/1.1\r\nHost: localhost\r\nA b: c\r\n\r\n",
    "empty_name": "GET / HTTP/1.1\r\nHost: localhost\r\n: c\r\n\r\n",
    "control_in_value": "GET / HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n",
    "folded_first": "GET / HTTP/1.1\r\n folded\r\nHost: localhost\r\n\r\n",
    "two_lengths": "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "bad_length": "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    "bad_coding": "GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: 'b\r\n\r\n",
    "two_codings": "GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
    "long": f"GET / HTTP/1.1\r\nHost: localhost\r\nX: {'x' * 40_000}\r\n\r\n",
    "high_byte_in_target": "GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("name", FAULTY)
def test_words_of_an_error_are_words(server: Program, name: str) -> None:
    """Neither the answer nor the log shows how Python writes bytes."""
    with Watcher(server.address) as watcher:
        with connect(server.address) as sock:
            mine = "{}:{}".format(*sock.getsockname())
            sock.sendall(FAULTY[name].encode("latin-1"))
            status, _, body = parse_response(read_to_end(sock))
        number = watcher.wait_for("accepted", address=mine)["id"]
        told = watcher.wait_for("refused", id=number)["why"] + str(watcher.wait_for("closed", id=number))
    assert 400 <= status < 600 and body.startswith(str(status).encode()) and len(body) < 300
    for text in (body.decode(), told):
        assert "bytearray(" not in text and "b'" not in text and 'b"' not in text, text


# ---- methods

UNKNOWN = ["BREW /pot", "PROPFIND /", "M-SEARCH *", "MKCOL /x", "QUERY /", "get /", "X /", "SUBSCRIBE /a"]


@plain_and_tls
@pytest.mark.parametrize("line", UNKNOWN)
def test_a_method_that_nobody_knows_is_501(server: Program, line: str, tls: bool) -> None:
    """Where the bytes look like HTTP they get an answer in it (RFC 9110 section 15.6.2), and the address
    isn't remembered for TLS."""
    with Watcher(server.address) as watcher:
        request = f"{line} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        status, headers, body = ask(server, request, tls=tls, source="127.0.0.22")
        assert status == 501 and headers["connection"] == "close" and body.startswith(b"501 ")
        watcher.wait_for("closed")
        assert not watcher.find("remembered")


@plain_and_tls
@pytest.mark.parametrize("target", ["/", "/missing", "/echo"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_a_method_that_is_not_served_is_405(server: Program, method: str, target: str, tls: bool) -> None:
    """Allow names those that are (RFC 9110 section 15.5.6)."""
    assert_405(ask(server, f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n", tls=tls))


@plain_and_tls
@pytest.mark.parametrize("line", ["CONNECT localhost:22", "OPTIONS *"])
def test_a_target_of_another_form_goes_with_its_method(server: Program, line: str, tls: bool) -> None:
    """CONNECT names a host and a port, OPTIONS may name nothing: it's the method that isn't served."""
    assert_405(ask(server, f"{line} HTTP/1.1\r\nHost: localhost:22\r\n\r\n", tls=tls))


def assert_405(answer: Answer) -> None:
    """The status, and what is allowed instead."""
    status, headers, _ = answer
    assert status == 405
    assert {word.strip() for word in headers["allow"].split(",")} == {"GET", "HEAD"}


NOT_HTTP = [b"SSH-2.0-OpenSSH_9.2\r\n", b"EHLO example\r\n", b"QUIT\r\n", b"HELP me HTTP\r\n",
            b"\x00\x01\x02\x03", b"USER anonymous\r\n", b"(a) /b HTTP/1.1\r\n\r\n"]  # fmt: skip


@pytest.mark.parametrize("data", NOT_HTTP, ids=range(len(NOT_HTTP)))
def test_what_only_begins_with_a_word_is_not_http(server: Program, data: bytes) -> None:
    """Other protocols' lines get no HTTP in answer: they are unknown bytes, and the connection ends."""
    with connect(server.address, source="127.0.0.23") as sock:
        sock.sendall(data)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        got = b""
        with contextlib.suppress(ConnectionError):
            got = read_to_end(sock)
    assert b"HTTP/" not in got


