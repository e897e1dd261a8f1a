# SPDX-License-Identifier: MIT
"""Held to one core: that is true of every thread, whenever it was started."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Native, Program, WebSocket

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux holds processes to cores"),
    pytest.mark.skipif(
        hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < 2, reason="there is one core only"
    ),
]


def cores(program: Program) -> dict[str, str]:
    """Each thread of the program, and the cores that it may run on."""
    found = {}
    for task in Path(f"/proc/{program.process.pid}/task").iterdir():
        about = (task / "status").read_text()
        found[task.name] = re.search(r"Cpus_allowed_list:\s*(\S+)", about)[1]  # type: ignore[index]
    return found


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="without a GIL nothing is held to a core"
)
def test_every_thread_is_held_to_the_same_one_core(start: Callable[..., Program]) -> None:
    """Those that came up before anybody was there, and those of the clients."""
    program = start()
    with WebSocket(program.address) as ws, WebSocket(program.address, tls=True) as wss:
        assert ws.ask("hello") == wss.ask("hello") == "hello"
        with Native(program.address) as native:
            native.send({"type": "who"})
            native.receive()
            found = cores(program)
    assert len(found) > 3, "three clients have a thread each"
    assert len(set(found.values())) == 1 and next(iter(found.values())).isdigit(), found


def test_with_no_pin_every_thread_may_run_on_all_cores(start: Callable[..., Program]) -> None:
    """As many as the program was given."""
    program = start("--no-pin")
    with WebSocket(program.address) as ws:
        assert ws.ask("hello") == "hello"
        found = cores(program)
    assert len(set(found.values())) == 1 and not next(iter(found.values())).isdigit(), found
