# SPDX-License-Identifier: MIT
"""Started without its standard streams, as some supervisors do it, the program serves and ends in order."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PATIENCE, REPO, Native, WebSocket, get, make_identity, wait_until

pytestmark = pytest.mark.skipif(os.name != "posix" or not shutil.which("sh"), reason="wants a POSIX shell")


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Say whether the program serves by now. Fails where it has ended."""
    assert process.poll() is None, f"it has ended, with status {process.returncode}"
    with contextlib.suppress(ConnectionError):
        return bool(get(("127.0.0.1", port), "/index.html")[0] == 200)
    return False


@contextlib.contextmanager
def program(folder: Path, redirections: str, *flags: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Start the program by a shell, with some redirections; yield its port when it serves. What it writes to
    streams that are open goes to files."""
    port = free_port()
    words = [sys.executable, str(REPO / "wsdual.py"), "--port", str(port), *flags]
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {shlex.join(words)} {redirections}"],
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
        )  # fmt: skip
    try:
        wait_until(lambda: answers(port, process), "the program serves")
        yield port, process
    finally:
        process.kill()
        process.wait()


def all_kinds_work(port: int) -> None:
    """ws, wss, tcp and tcps; files were asked for before."""
    address = ("127.0.0.1", port)
    for tls in (False, True):
        with WebSocket(address, tls=tls) as client, Native(address, tls=tls) as native:
            assert client.ask("hi") == "hi"
            native.send("{}")
            assert native.receive_json()["type"] == "error"


CLOSED = {
    "stdout": ">&-",
    "stderr": "2>&-",
    "stdin": "<&-",
    "stdout_and_stderr": ">&- 2>&-",
    "all": "<&- >&- 2>&-",
}


@pytest.mark.parametrize("flags", [(), ("-v",)], ids=["quiet", "verbose"])
@pytest.mark.parametrize("closed", CLOSED)
def test_with_streams_closed_it_serves_and_ends_with_0(
    tmp_path: Path, closed: str, flags: tuple[str, ...]
) -> None:
    """Whichever of them are closed: all kinds are served, SIGTERM ends it with 0, no traceback is seen."""
    with program(tmp_path, CLOSED[closed], *flags) as (port, process):
        all_kinds_work(port)
        with WebSocket(("127.0.0.1", port)) as client:
            assert client.ask("hi") == "hi"
            process.send_signal(signal.SIGTERM)
            assert client.receive_close()[0] == 1001
        status = process.wait(PATIENCE)
    told = (tmp_path / "stderr").read_text()
    assert status == 0 and "Traceback" not in told and "Exception ignored" not in told, (status, told)


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_with_a_closed_pipe_for_stdout_it_serves_and_ends_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffered: str
) -> None:
    """Who was to read the first lines has gone: nothing else depends on that."""
    monkeypatch.setenv("PYTHONUNBUFFERED", buffered)
    read, write = os.pipe()
    os.close(read)
    port = free_port()
    words = [sys.executable, str(REPO / "wsdual.py"), "--port", str(port)]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=write, stderr=stderr)
    os.close(write)
    try:
        wait_until(lambda: answers(port, process), (tmp_path / "stderr").read_text)
        all_kinds_work(port)
        process.send_signal(signal.SIGTERM)
        status = process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
    told = (tmp_path / "stderr").read_text()
    assert status == 0 and "Traceback" not in told and "Exception ignored" not in told, (status, told)


def test_without_stdin_a_password_that_is_needed_is_asked_for_in_one_line(tmp_path: Path) -> None:
    """There is nobody to type it: the line names the flag and the variable."""
    pfx = tmp_path / "server.pfx"
    pfx.write_bytes(make_identity("localhost").pfx("password"))
    words = [sys.executable, str(REPO / "wsdual.py"), "--port", "0", "--cert", str(pfx)]
    environment = {name: value for name, value in os.environ.items() if name != "WSDUAL_PASSWORD"}
    done = subprocess.run(["sh", "-c", f"exec {shlex.join(words)} <&-"], env=environment,
                          capture_output=True, text=True, timeout=20, check=False)  # fmt: skip
    assert done.returncode not in (0, None) and done.stderr.count("\n") == 1, done.stderr
    assert "--password-file" in done.stderr and "WSDUAL_PASSWORD" in done.stderr
