# SPDX-License-Identifier: MIT
"""File descriptors: the program takes what its seats need; where there are too few, it says so."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import (
    Program,
    WebSocket,
    connect,
    get,
    http,
    upgrade_request,
    wait_until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the descriptors in /proc")


def with_limits(folder: Path, soft: int, hard: int) -> dict[str, str]:
    """The environment of a program that starts with these limits of open files (RLIMIT_NOFILE)."""
    # Python runs a module of this name before all else.
    (folder / "sitecustomize.py").write_text(
        f"import resource\n\nresource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
    )
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


@pytest.fixture(autouse=True)
def room_for_ourselves() -> Iterator[None]:
    """The clients of a test need descriptors too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2048 if hard == resource.RLIM_INFINITY else min(2048, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_soft_limit_is_raised_to_what_max_clients_needs(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """400 clients are served where 256 descriptors were given, and the next one still hears 503."""
    program = start("--max-clients", "400", env=with_limits(tmp_path, 256, 4096))
    with contextlib.ExitStack() as stack:
        for number in range(400):
            client = stack.enter_context(WebSocket(program.address))
            assert client.ask("hello") == "hello", number
        assert get(program.address)[0] == 503
        silent = [stack.enter_context(connect(program.address)) for _ in range(40)]
        assert get(program.address)[0] == 503, "silent ones at the door are no reason to say less"
        assert http(program.address, upgrade_request(program.address))[0] == 503
        assert client.ask("still here?") == "still here?" and silent
    assert "accept" not in program.log()


LIMIT = 64  # descriptors, where the hard limit can't be raised


def fill(program: Program, stack: contextlib.ExitStack, free: int) -> None:
    """Connect clients until so few descriptors are free, or the server says that there are too many."""
    while program.descriptors() < LIMIT - free:
        sock = stack.enter_context(connect(program.address))
        sock.sendall(upgrade_request(program.address))
        head = sock.recv(12)
        if head != b"HTTP/1.1 101":
            assert head == b"HTTP/1.1 503", head
            break


@pytest.mark.parametrize("path", ["/", "/index.js", "/nothing"])
def test_with_the_last_descriptor_a_file_is_503_and_not_404(
    start: Callable[..., Program], tmp_path: Path, path: str
) -> None:
    """It is there, but there is nothing to open it with. What isn't there may be told as that."""
    program = start(env=with_limits(tmp_path, LIMIT, LIMIT))
    with contextlib.ExitStack() as stack:
        fill(program, stack, 1)
        status, _, _ = get(program.address, path)
    assert status in ((404, 503) if path == "/nothing" else (503,))
    wait_until(lambda: get(program.address)[0] == 200, "it is served once there is room")


def test_without_descriptors_the_log_says_so_seldom_and_who_waits_is_served_later(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """Not each time that the server tries again, which is often."""
    program = start("--handshake-timeout", "60", env=with_limits(tmp_path, LIMIT, LIMIT))
    with contextlib.ExitStack() as stack:
        fill(program, stack, 1)
        for _ in range(10):
            stack.enter_context(connect(program.address))  # silent: they hold what they get
        time.sleep(2.0)
        said = [line for line in program.log().splitlines() if "accept" in line]
        assert len(said) <= 3, said
        used = program.cpu_seconds()
        time.sleep(0.5)
        assert program.cpu_seconds() - used < 0.2, "it spins"
    with WebSocket(program.address, tls=True) as client:
        assert client.ask("room again?") == "room again?"
