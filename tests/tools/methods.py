# SPDX-License-Identifier: MIT
"""The lesson's table: what the trial method and peeking cost, measured side by side.

    python tests/tools/methods.py [--markdown]

With either method three times: one wss client alone, and a class of 30 behind one address, every second one
on wss, all at the same moment. It takes half a minute, and what the benchmark beside it needs.
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
import socket
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench import OURS, Client, Failed, Running, clock, draw, figure, parse_options, prepare, time

CLASS, REPEATS = 30, 3


def log_in(target: Running, source: str, number: int) -> tuple[int, float]:
    """Log in as the trial method makes it, even numbers on wss: a wss client that was closed connects again
    at once, others wait, and longer each time. How many connections it took, and the seconds."""
    begin, pause, target = clock(), 0.05, copy.copy(target)
    target.tls = number % 2 == 0
    for attempt in range(1, 60):
        with contextlib.suppress(OSError, Failed):
            client = Client(target, source, 10)
            with client.sock:
                client.log_in(number)
                return attempt, clock() - begin
        if not (target.tls and attempt == 1):
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)
    return attempt, math.inf


def measure(target: Running) -> list[str]:
    """One column of the table."""
    singles, classes = [], []
    for turn in range(REPEATS):
        print(f"{turn + 1} of {REPEATS}", file=sys.stderr)
        singles.append(log_in(target, f"127.0.1.{turn + 1}", 100 + 2 * turn))
        seats = random.Random(turn).sample(range(CLASS), CLASS)
        with ThreadPoolExecutor(CLASS) as pool:
            classes.append(list(pool.map(partial(log_in, target, f"127.0.2.{turn + 1}"), seats)))
    attempts, seconds = (statistics.median(values) for values in zip(*singles, strict=True))
    longest = statistics.median(max(took for _, took in one) for one in classes)
    made = statistics.median(sum(count for count, _ in one) for one in classes)
    outside = sum(took == math.inf for one in (singles, *classes) for _, took in one)
    return [f"{attempts:g}", figure(seconds, "p50"), figure(longest, "p50"), f"{made:g}", str(outside)]


def main() -> None:
    """Measure both."""
    socket.setdefaulttimeout(10)
    options, columns = parse_options([*sys.argv[1:], "--servers", OURS]), {}
    with tempfile.TemporaryDirectory(prefix="wsdual-methods-") as folder:
        options.folder = Path(folder)
        prepare(options)
        for detect in ("trial", "peek"):
            with contextlib.closing(Running(options, OURS, "wss", f"chat --detect {detect}")) as target:
                columns[detect] = measure(target)
    titles = ["TCP connections for one wss login", "its time to the first message"]
    titles += [f"{CLASS} clients behind one address are in after", "TCP connections that they made"]
    lines = zip([*titles, "clients that never got in"], *columns.values(), strict=True)
    print(draw([["", *columns], *map(list, lines)], options.markdown))


if __name__ == "__main__":
    main()
