# SPDX-License-Identifier: MIT
"""A native client can't be pinged: TCP itself watches it, on systems that call the option otherwise too."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Native, Program, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc/net/tcp")

# macOS knows no TCP_KEEPIDLE: there the same option is TCP_KEEPALIVE. This Python is made to look like that.
LIKE_MACOS = """
import socket

socket.TCP_KEEPALIVE = socket.TCP_KEEPIDLE
del socket.TCP_KEEPIDLE
"""
NO_TIMER, KEEP_ALIVE = "00", "02"  # as proc(5) numbers them; another one runs until the client has all


def timer(server: int, client: int) -> tuple[str, float]:
    """Which timer runs on the server's side of a connection, and the seconds that it has left."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        here, there = (int(field.rpartition(":")[2], 16) for field in fields[1:3])
        if (here, there) == (server, client):
            kind, when = fields[5].split(":")
            return kind, int(when, 16) / os.sysconf("SC_CLK_TCK")
    raise AssertionError("no such connection")


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tcps"])
@pytest.mark.parametrize("name", ["TCP_KEEPIDLE", "TCP_KEEPALIVE"])
def test_a_silent_native_client_is_asked_within_the_interval(
    start: Callable[..., Program], tmp_path: Path, name: str, tls: bool
) -> None:
    """The first question comes after --ping-interval, and not after the system's two hours."""
    if name == "TCP_KEEPALIVE":
        (tmp_path / "sitecustomize.py").write_text(LIKE_MACOS)
    program = start("--ping-interval", "30", env={"PYTHONPATH": str(tmp_path)})
    with Native(program.address, tls=tls) as native:
        native.send("{}")
        native.receive()
        ports = program.port, native.sock.getsockname()[1]
        wait_until(lambda: timer(*ports)[0] in (NO_TIMER, KEEP_ALIVE), "the client has all")
        kind, seconds = timer(*ports)
        assert kind == KEEP_ALIVE and seconds <= 31, (kind, seconds)
