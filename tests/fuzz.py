# SPDX-License-Identifier: MIT
"""Random and mutated input for tests, the same each time unless $FUZZ_SEED says otherwise.

With hypothesis installed a test function gets its inputs, and its shrinking; without it a generator's.
The seed is printed where a test fails. $FUZZ_TIMES multiplies how much is tried.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

SEED = int(os.environ.get("FUZZ_SEED", "20240229"))
TIMES = float(os.environ.get("FUZZ_TIMES", "1"))


def fuzzed(count: int) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Run a test function on many random sources of bytes; it takes a random.Random."""
    examples = max(1, int(count * TIMES))

    def decorate(check: Callable[[random.Random], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                import hypothesis  # here, since it takes a second that most runs of a test don't need
            except ImportError:
                try_each_seed(check, examples)
            else:
                randoms = hypothesis.strategies.randoms(use_true_random=False)
                settings = hypothesis.settings(
                    max_examples=examples, deadline=None, database=None,
                    suppress_health_check=list(hypothesis.HealthCheck),
                )  # fmt: skip
                hypothesis.seed(SEED)(settings(hypothesis.given(randoms)(check)))()

        run.__name__, run.__doc__ = check.__name__, check.__doc__
        return run

    return decorate


def try_each_seed(check: Callable[[random.Random], None], examples: int) -> None:
    """Call it with a generator for each seed; print the one that it fails with."""
    for seed in range(SEED, SEED + examples):
        try:
            check(random.Random(seed))
        except BaseException:
            print(f"FUZZ_SEED={seed}")
            raise


def some_bytes(chance: random.Random, longest: int) -> bytes:
    """Bytes that are sometimes like what the server knows."""
    known = [b"\x16\x03\x01", b"\x16\x03", b"GET / HTTP/1.1\r\n", b"PO", b"{", b"\n", b"\r\n", b"\xc3\xa9"]
    size = chance.randint(0, longest)
    if chance.random() < 0.5:
        return bytes(chance.randint(0, 255) for _ in range(size))
    return b"".join(chance.choice(known) for _ in range(chance.randint(1, 4)))[:longest]


def cut(chance: random.Random, data: bytes, pieces: int) -> list[bytes]:
    """Cut bytes at random places."""
    places = sorted(chance.randint(0, len(data)) for _ in range(pieces - 1))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Flip, insert, remove, repeat or replace some of the bytes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed) + 1)
        what = chance.randrange(6)
        if what == 0 and place < len(changed):
            changed[place] ^= 1 << chance.randrange(8)
        elif what == 1:
            changed[place:place] = bytes([chance.randrange(256)])
        elif what == 2:
            del changed[place : place + chance.randint(1, 9)]
        elif what == 3:
            changed[place:place] = changed[place : place + chance.randint(1, 40)]
        elif what == 4 and place < len(changed):
            changed[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x0D, 0x20, 0x2C, 0x3B, 0x22, 0x5B))
        else:
            del changed[place:]
    return bytes(changed)
