# SPDX-License-Identifier: MIT
"""Clients that ask for much and read nothing: they are dropped, and the kernel keeps nothing of them open.

A socket that is closed while another thread polls it lives on in the kernel. Whoever never reads could
then hold as many connections as it likes, however few seats there are.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import (
    CLOSE,
    TEXT,
    Program,
    frame,
    narrow,
    others_are_served,
    running,
    upgrade_request,
    wait_until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who owns a connection")
MANY = 12  # for each attack
PING = 0.5  # --ping-interval
SIZE = 300_000  # bytes that each asks for: more than its kernels keep


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server with a large file, that soon gives up who doesn't read."""
    folder = tmp_path_factory.mktemp("never-read")
    (folder / "large.bin").write_bytes(os.urandom(SIZE))
    flags = ("--app", "echo", "--static", str(folder), "--ping-interval", str(PING))
    with running(folder, *flags) as program:
        yield program


@pytest.fixture(scope="module")
def idle(program: Program) -> int:
    """How many threads it has when nobody is there."""
    return program.threads()


def asks_for_a_file(sock: socket.socket, program: Program) -> None:
    """One that is larger than all buffers."""
    sock.sendall(b"GET /large.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")


def sends_lines(sock: socket.socket, program: Program) -> None:
    """Each is answered; the last is bad, and ends the connection."""
    sock.sendall((b"{".ljust(1000) + b"\n") * (SIZE // 1000) + b"\xff\n")


def sends_frames(sock: socket.socket, program: Program) -> None:
    """Each is answered; the last says goodbye."""
    frames = frame(TEXT, b"x" * 1000) * (SIZE // 1000)
    sock.sendall(upgrade_request(program.address) + frames + frame(CLOSE, b"\x03\xe8"))


ATTACKS = [asks_for_a_file, sends_lines, sends_frames]


def connections_of(port: int, clients: set[int]) -> list[str]:
    """The server's ends of these clients' connections that a process still holds, as the kernel lists them.

    One that nobody holds any more, which the kernel is about to end by itself, has the inode 0.
    """
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(fields[place].rpartition(":")[2], 16) for place in (1, 2))
        if local == port and remote in clients and fields[9] != "0":
            found.append(line)
    return found


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_of_clients_that_never_read_the_kernel_keeps_no_connection(
    program: Program, idle: int, tls: bool
) -> None:
    """They are given up after the ping interval, and their connections end with their threads."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(narrow(program.address, tls=tls)) for _ in range(MANY * len(ATTACKS))]
        wait_until(lambda: program.threads() >= idle + len(clients), "each has its thread")
        ports = {client.getsockname()[1] for client in clients}
        for number, client in enumerate(clients):
            ATTACKS[number % len(ATTACKS)](client, program)
        wait_until(lambda: program.threads() <= idle, "all have been dropped")
        wait_until(lambda: not connections_of(program.port, ports), "the kernel has let go of them", 3.0)
        others_are_served(program)
