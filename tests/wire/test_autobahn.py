# SPDX-License-Identifier: MIT
"""The quick part of the Autobahn suite: what RFC 6455 demands of frames, over ws and over wss.

Left out are sections 9 (speed), 12 and 13 (compression), which take minutes:
`python wsdual.py --app echo` and `kosoku -p 4 127.0.0.1:4530` run all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import *

SECTIONS = (1, 2, 3, 4, 5, 6, 7, 10)
CASES = 247  # of these sections
GOOD = {"OK", "INFORMATIONAL"}


@pytest.fixture(scope="module")
def kosoku() -> str:
    """The program that runs Autobahn's cases."""
    beside = Path(sys.executable).with_name("kosoku")
    path = shutil.which(beside) or shutil.which("kosoku")
    if not path:
        pytest.skip("kosoku isn't installed: python -m pip install kosoku")
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Kosoku asks for /, so the echo is there."""
    with running(tmp_path_factory.mktemp("server"), "--app", "echo") as program:
        yield program


@pytest.fixture
def relay(server: Program) -> Iterator[int]:
    """The port of a relay that takes plain connections and passes them on over TLS, as kosoku has none."""
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(listen(server.port))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield listening.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(end(listening))
    loop.close()


async def listen(target: int) -> asyncio.Server:
    """Start the relay."""
    tls = any_tls()  # one for all: to make it takes longer than a handshake

    async def relay_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", target, ssl=tls)
        await asyncio.gather(copy(reader, ours), copy(theirs, writer))

    return await asyncio.start_server(relay_one, "127.0.0.1", 0, backlog=100)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, to the end."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def end(listening: asyncio.Server) -> None:
    """Take no more connections, and end those that are left."""
    listening.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run(kosoku: str, port: int, folder: Path) -> dict[str, dict[str, str]]:
    """Run the sections against a port; return case -> its result."""
    command = [kosoku, "-p", "8", "-o", str(folder)]
    for section in SECTIONS:
        command += ["-i", f"{section}.*"]
    subprocess.run([*command, f"127.0.0.1:{port}"], check=True, capture_output=True, timeout=100)
    (results,) = json.loads((folder / "index.json").read_text()).values()
    return results  # type: ignore[no-any-return]


def failures(results: dict[str, dict[str, str]]) -> dict[str, tuple[str, str]]:
    """The cases that are worse than informational."""
    both = {case: (result["behavior"], result["behaviorClose"]) for case, result in results.items()}
    return {case: behavior for case, behavior in both.items() if not set(behavior) <= GOOD}


def test_autobahn_on_ws(kosoku: str, server: Program, tmp_path: Path) -> None:
    """Every case over ws is OK or informational, and all of them have run."""
    results = run(kosoku, server.port, tmp_path / "report")
    assert failures(results) == {} and len(results) == CASES


def test_autobahn_on_wss(kosoku: str, relay: int, tmp_path: Path) -> None:
    """Every case over wss is OK or informational, and all of them have run."""
    results = run(kosoku, relay, tmp_path / "report")
    assert failures(results) == {} and len(results) == CASES
