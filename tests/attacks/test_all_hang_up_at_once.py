# SPDX-License-Identifier: MIT
"""A room full of clients hangs up in one moment, as when a network breaks: those who stay hardly notice."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support import Program, WebSocket, all_at_once, running, wait_until

MANY, ROUNDS = 1000, 2
STAY = 30  # in the room, beside the one who asks: each hears of everyone who leaves

# A process of their own, whose end closes all their sockets at once.
CROWD = """
import sys
sys.path.insert(0, sys.argv[1])
from support import WebSocket

crowd = []
for number in range(int(sys.argv[3])):
    client = WebSocket(("127.0.0.1", int(sys.argv[2])), "/chat")
    client.send({"type": "login", "name": f"guest {number}"})
    client.receive()
    crowd.append(client)
print("all are there", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server with seats for all, and descriptors for them in each process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    flags = ("--max-clients", str(MANY + STAY + 10), "--ping-interval", "600")  # no pings meanwhile
    try:
        with running(tmp_path_factory.mktemp("crowd"), *flags) as program:
            yield program
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def worst_wait(action: Callable[[], object], stop: threading.Event) -> float:
    """Do something again and again; return the most seconds that it took."""
    worst = 0.0
    while not stop.is_set():
        since = time.monotonic()
        action()
        worst = max(worst, time.monotonic() - since)
        time.sleep(0.005)
    return worst


def ask_who(client: WebSocket) -> None:
    """Ask who is there, and hear who has left meanwhile."""
    client.send({"type": "who"})
    while client.receive_json()["type"] != "users":
        pass


@contextlib.contextmanager
def a_crowd(program: Program) -> Iterator[subprocess.Popen[str]]:
    """Many clients in the room; the process that has them."""
    command = [sys.executable, "-c", CROWD, str(Path(__file__).parent.parent), str(program.port), str(MANY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crowd:
        assert crowd.stdout is not None
        try:
            assert crowd.stdout.readline() == "all are there\n"
            yield crowd
        finally:
            crowd.kill()


def test_a_thousand_that_hang_up_at_once_make_nobody_wait(program: Program) -> None:
    """Neither one outside of the room nor one of those who stay in it. The better of two rounds counts."""
    waits = []
    with contextlib.ExitStack() as stack:
        stranger = stack.enter_context(WebSocket(program.address))
        guests = [stack.enter_context(WebSocket(program.address, "/chat")) for _ in range(STAY + 1)]
        for number, guest in enumerate(guests):
            guest.send({"type": "login", "name": f"one who stays {number}"})
            guest.receive()
        idle = program.threads()
        for _ in range(ROUNDS):
            over = threading.Event()
            with a_crowd(program) as crowd:
                ask_who(guest)  # hears all who have come

                def end(crowd: subprocess.Popen[str] = crowd, over: threading.Event = over) -> None:
                    crowd.kill()
                    try:
                        wait_until(lambda: program.threads() <= idle, "all have left")
                    finally:
                        over.set()

                *worst, _ = all_at_once(
                    partial(worst_wait, lambda: stranger.ask("hello"), over),
                    partial(worst_wait, lambda: ask_who(guest), over),
                    end,
                )
            waits.append(max(worst))
    assert min(waits) < 0.3, waits
