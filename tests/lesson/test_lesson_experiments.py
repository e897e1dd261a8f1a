# SPDX-License-Identifier: MIT
"""The README's experiments: each block is run as it stands, and what the text says is what is seen."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from readme import README, Block, all_blocks, blocks
from support import *

from wsdual import echo

EXPERIMENTS = (
    "1. One byte decides",
    "2. Two clients behind one address",
    "3. Servers of one kind",
    "4. Break a frame",
    "5. Peek, then read",
    "6. Fifty clients on one core",
    "7. Read the ciphertext",
    "8. The client that doesn't read",
)
COVERS = ("Experiments", *EXPERIMENTS)

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="the commands are for bash"),
    pytest.mark.skipif(not shutil.which("bash"), reason="no bash"),
]
VARIES = [  # what differs from run to run in a log, and a word for it
    (r"\d\d:\d\d:\d\d", "TIME"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r"\bus=[\d.]+", "us=N"),
    (r"version=\S+ cipher=\S+", "version cipher"),
]


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip a test where a program isn't there."""
    missing = [tool for tool in tools if not shutil.which(tool)]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)}")


def speaks_openssl() -> bool:
    """Say whether it is OpenSSL that gives curl its words."""
    return "OpenSSL" in subprocess.run(["curl", "-V"], stdout=subprocess.PIPE, text=True).stdout


class Terminal:
    """A program that a block of commands starts, in a session of its own; what it prints, together."""

    def __init__(self, command: str, folder: Path) -> None:
        self.path = folder / f"terminal-{len(list(folder.glob('terminal-*')))}"
        with self.path.open("wb") as output:
            self.process = subprocess.Popen(
                ["bash", "-c", command], cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        """What it has printed so far."""
        return self.path.read_text(errors="replace")

    def wait_for(self, what: str) -> str:
        """Wait until it has printed something; return all that it printed."""
        wait_until(lambda: what in self.text() or self.process.poll() is not None, what)
        assert what in self.text(), self.text()
        return self.text()

    def end(self, how: int = signal.SIGINT) -> str:
        """Press Ctrl-C, wait, and return all that it printed."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"it didn't end: {self.text()}") from None
        return self.text()


class Classroom:
    """A folder with the program in it, and a free port in the place of 4530, its default there included."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        for name in ("wsdual.py", "cert_tool.py"):
            (folder / name).write_text(
                self.as_here((REPO / name).read_text(encoding="utf-8")), encoding="utf-8"
            )
        (folder / "static").symlink_to(REPO / "static")
        self.save(blocks("Experiments", "python")[0])

    def as_here(self, text: str) -> str:
        """A block's text with this machine's interpreter and port."""
        return text.replace(".venv/bin/python", sys.executable).replace("4530", str(self.port))

    def save(self, script: Block) -> None:
        """Save a script under the name in its first line."""
        name = re.match(r"# (\w+\.py)\n", script.text)
        assert name, script
        (self.folder / name[1]).write_text(self.as_here(script.text), encoding="utf-8")

    def type(self, commands: Block) -> str:
        """Run a block of commands to its end; return what they print."""
        terminal = Terminal(self.as_here(commands.text), self.folder)
        try:
            terminal.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            terminal.end(signal.SIGKILL)
            raise AssertionError(f"{commands} doesn't end: {terminal.text()}") from None
        return terminal.text()

    @contextlib.contextmanager
    def started(self, commands: Block, ready: str = "Ctrl-C ends it.") -> Iterator[Terminal]:
        """Start what goes on until Ctrl-C. ready: what it prints when it runs; "" where it prints nothing."""
        terminal = Terminal(self.as_here(commands.text), self.folder)
        try:
            terminal.wait_for(ready) if ready else self.wait_for_port(terminal)
            yield terminal
        finally:
            printed = terminal.end()
        assert "wsdual.py" not in commands.text or "Traceback" not in printed, printed

    def wait_for_port(self, terminal: Terminal) -> None:
        """Wait until the port is taken, without a connection to it: the server would see one."""

        def taken() -> bool:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):
                    sock.bind(("127.0.0.1", self.port))
                    return terminal.process.poll() is not None
            return True

        wait_until(taken)
        assert terminal.process.poll() is None, terminal.text()


@pytest.fixture
def room(tmp_path: Path) -> Classroom:
    """A classroom of a test's own."""
    return Classroom(tmp_path)


def plainly(text: str, varies: list[tuple[str, str]] = VARIES) -> list[str]:
    """A text's lines, with words in the place of what varies."""
    for pattern, word in varies:
        text = re.sub(pattern, word, text)
    return [line.rstrip() for line in text.splitlines()]


def assert_shown(block: Block, seen: str) -> None:
    """Assert that the lines of a ```text block were seen, in their order."""
    rest = iter(plainly(seen))
    for line in plainly(block.text):
        assert line in rest, f"{block}: {line!r} isn't in its place in\n{seen}"


def by_language(heading: str) -> tuple[list[Block], list[Block], list[Block]]:
    """An experiment's scripts, commands and outputs."""
    all_three: dict[str, list[Block]] = {"python": [], "sh": [], "text": []}
    for block in blocks(heading):
        all_three[block.language].append(block)  # another language is a fault of this test
    return all_three["python"], all_three["sh"], all_three["text"]


def test_the_eight_experiments_are_those_tried_here() -> None:
    """Nothing under the heading escapes: a new experiment needs its test."""
    inner = [block.headings[-1] for block in all_blocks() if "Experiments" in block.headings]
    assert tuple(dict.fromkeys(inner)) == COVERS


@needs("nc")
def test_one_byte_is_taken_for_tls_and_its_silence_has_an_end(room: Classroom) -> None:
    """Experiment 1."""
    _, (server, clients), (shown,) = by_language(EXPERIMENTS[0])
    with room.started(server) as terminal:
        assert room.type(clients) == "", "the server says nothing to them"
        log = terminal.wait_for("#3 closed")
    assert_shown(shown, log)
    others = [line for line in plainly(log) if " #" in line and line not in plainly(shown.text)]
    assert [line.split()[2] for line in others[:-1]] == ["accepted"] * 3, "and nothing else is shown"
    assert "#3 closed" in others[-1]


@needs("curl")
def test_trial_refuses_one_client_for_another_and_peek_serves_all(room: Classroom) -> None:
    """Experiment 2."""
    _, (trial, requests, peek), (answers, log) = by_language(EXPERIMENTS[1])
    with room.started(trial) as terminal:
        seen = room.type(requests)
        assert_shown(log, terminal.wait_for("#3 closed"))
    first, second, third = plainly(seen)
    shown = plainly(room.as_here(answers.text))
    assert [second, third] == shown[1:]
    assert re.match(r"curl: \((35|56)\) ", first) and shown[0].startswith("curl: (35) "), first
    assert first.startswith("curl: (35)") or not speaks_openssl(), (
        "the words behind it change with the version"
    )
    with room.started(peek):
        assert plainly(room.type(requests)) == ["HTTP/1.1 200 OK"] * 3


@needs("curl")
def test_a_server_of_one_kind_fails_the_other_and_wsdual_serves_both(room: Classroom) -> None:
    """Experiment 3."""
    (script,), (plain, tls_request, tls, requests, both), () = by_language(EXPERIMENTS[2])
    room.save(script)
    with room.started(plain, "Serving HTTP on") as terminal:
        assert "wrong version number" in room.type(tls_request) or not speaks_openssl()
        assert re.search(r'"\\x16\\x03\\x01.*" 400', terminal.wait_for("code 400"))
        with HandTLS(("127.0.0.1", room.port)) as client:
            client.sock.sendall(client.hello())
            assert read_to_end(client.sock).lstrip().startswith(b"<!DOC"), "an error page in clear text"
    with room.started(tls, "") as terminal:
        refused, served = room.type(requests).splitlines()
        assert re.match(r"curl: \((52|56)\) ", refused), refused
        assert re.match(r"HTTP/1\.\d 200", served), served
        log = terminal.wait_for('" 200')
        assert log.count("HTTP/1.1") == 1, "the plain request left no line"
    with room.started(both):
        assert plainly(room.type(requests)) == ["HTTP/1.1 200 OK"] * 2


def test_without_a_certificate_dualserver_closes_on_tls_without_an_answer(room: Classroom) -> None:
    """Experiment 3, in brackets."""
    said: list[object] = []
    with serving({"/": echo}, tls=None) as server:
        server.observers.append(lambda event: said.append(event.get("why")))
        with HandTLS(address_of(server)) as client:
            client.sock.sendall(client.hello())
            assert closed(client.sock)
    assert "TLS, but this server has no certificate" in said


def test_each_broken_frame_gets_1002_and_the_right_one_its_echo(room: Classroom) -> None:
    """Experiment 4."""
    (script,), (server, clients), (shown,) = by_language(EXPERIMENTS[3])
    room.save(script)
    with room.started(server):
        assert room.type(clients) == shown.text


@needs("nc")
def test_a_peek_leaves_what_the_read_finds_and_a_loop_of_peeks_spins(room: Classroom) -> None:
    """Experiment 5."""
    (script,), (server, client), (shown,) = by_language(EXPERIMENTS[4])
    room.save(script)
    terminal = Terminal(room.as_here(server.text), room.folder)
    try:
        room.wait_for_port(terminal)
        room.type(client)
        terminal.process.wait(PATIENCE)
    finally:
        seen = terminal.end()
    number = [(r"\d{3,}", "MANY")]
    assert plainly(seen, number) == plainly(shown.text, number)


def test_the_load_script_prints_its_figure_with_either_server(room: Classroom) -> None:
    """Experiment 6. How large the figures are is no matter of a test."""
    (script,), (pinned, load, free), () = by_language(EXPERIMENTS[5])
    room.save(script)
    assert load.text.count(" load.py 2") == 1
    moment = replace(load, text=load.text.replace(" load.py 2", " load.py 0.2"))
    for server in (pinned, free):
        with room.started(server) as terminal:
            assert re.fullmatch(r"[1-9]\d* echoes per second\n", room.type(moment))
            assert "held to core" not in terminal.text() or server is pinned
    assert "--no-pin" in free.text and "--no-pin" not in pinned.text


@needs("dumpcap", "tshark")
def test_with_the_keys_a_capture_shows_the_words_and_without_them_none(room: Classroom) -> None:
    """Experiment 7."""
    (script,), (server, capture, login, reading), (shown,) = by_language(EXPERIMENTS[6])
    room.save(script)
    with room.started(server):
        dumpcap = Terminal(room.as_here(capture.text), room.folder)
        try:
            wait_until(lambda: "File: " in dumpcap.text() or dumpcap.process.poll() is not None)
            if dumpcap.process.poll() is not None:
                pytest.skip(f"may not capture here: {dumpcap.text()}")
            assert room.type(login).startswith('{"type":"welcome"')
            file = room.folder / "chat.pcapng"
            wait_until(lambda: b"\x17\x03\x03" in file.read_bytes(), "records in the capture")
        finally:
            dumpcap.end()
    seen = room.type(reading)
    assert_shown(shown, seen)
    closed_book = [line.partition("TLSv1")[2][2:] for line in seen.splitlines() if "TLSv1" in line]
    kinds = {re.sub(r"^\d* *\d* ", "", kind) for line in closed_book for kind in line.split(", ")}
    hellos = {"Client Hello", "Hello Retry Request", "Server Hello"}
    assert kinds == {*hellos, "Change Cipher Spec", "Application Data"}, seen
    filtered = "tls.handshake.type == 1"
    assert f"`{filtered}` shows the ClientHellos" in " ".join(README.read_text(encoding="utf-8").split())
    found = Terminal(f"tshark -r chat.pcapng -Y '{filtered}'", room.folder)
    found.process.wait(PATIENCE)
    assert found.text().count("TLSv1") == found.text().count("Client Hello") == 2, "it was asked again"


def test_who_does_not_read_is_dropped_and_the_others_do_not_notice(room: Classroom) -> None:
    """Experiment 8."""
    (script,), (server, client), (words, shown) = by_language(EXPERIMENTS[7])
    room.save(script)
    why = "its backlog is full: it doesn't read what it is sent"
    with room.started(server) as terminal, Watcher(("127.0.0.1", room.port)) as window:
        seen = room.type(client)
        window.wait_for("closed", why=why)
        log = terminal.wait_for(why)
    assert_shown(shown, log.replace("#2 ", "#1 "))  # the window was the first here
    number = [(r"[\d.]+ (messages|s;)", r"N \1")]
    assert plainly(seen, number) == plainly(words.text, number)
