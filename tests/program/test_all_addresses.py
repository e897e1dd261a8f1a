# SPDX-License-Identifier: MIT
"""An empty host means all addresses, as it does for the classes of socketserver.

A server on all addresses is reachable from outside. So the tests run in a network namespace of their own,
where there is no outside.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE

TESTS = Path(__file__).resolve().parent.parent
OWN = "10.77.0.1"  # an address of the namespace's that isn't a loopback one

PREPARE = f"""
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
from pathlib import Path
from support import Native, Program, WebSocket, get

def all_answer(port):
    for host in ("127.0.0.1", "127.0.0.2", "{OWN}"):
        with WebSocket((host, port)) as client:
            assert client.ask("hi") == "hi"
        with Native((host, port)) as client:
            client.send("{{}}")
            client.receive()
        assert get((host, port), "/wsdual.py")[0] == 200
    print("all answered")
"""
LIBRARY = f"""
import threading
from wsdual import DualServer, echo

with DualServer(("", 0), {{"/": echo, "/echo": echo}}, static={str(TESTS.parent)!r}) as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        all_answer(server.server_address[1])
    finally:
        server.shutdown()
"""
PROGRAM = f"""
program = Program("--host", "", "--static", {str(TESTS.parent)!r}, log=Path(sys.argv[1]))
try:
    all_answer(program.port)
finally:
    status = program.end()
assert status == 0 and not program.log(), program.log()
"""


@functools.cache
def namespace() -> tuple[str, ...]:
    """The command that runs another one where there is no network but its own; skips where there is none."""
    up = f'ip link set lo up && ip addr add {OWN}/32 dev lo && exec "$@"'
    for flags in (["--net"], ["--net", "--map-root-user"]):
        command = ("unshare", *flags, "sh", "-c", up, "sh")
        if shutil.which("unshare") and shutil.which("ip"):
            if subprocess.run([*command, "true"], capture_output=True, timeout=PATIENCE).returncode == 0:
                return command
    pytest.skip("no network namespace to be had here")


@pytest.mark.parametrize("script", [LIBRARY, PROGRAM], ids=["library", "program"])
def test_an_empty_host_is_all_addresses(tmp_path: Path, script: str) -> None:
    """DualServer(("", 0), …) and --host '' answer on each address of the machine."""
    command = [*namespace(), sys.executable, "-c", PREPARE + script, str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all answered\n", "")
