# SPDX-License-Identifier: MIT
"""Fuzzing of the functions that take bytes."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

from fuzz import SEED, TIMES, fuzzed, mutated, some_bytes
from support import *

from wsdual import IpMemory, Verdict, classify, server_context


@fuzzed(150)
def test_classify_never_raises_and_never_changes_its_mind(chance: random.Random) -> None:
    """Any bytes get a verdict; more of them confirm it or make it unknown. Unknown ones can still turn out to
    be a request, by a method that nobody knows; no others turn into anything."""
    data = some_bytes(chance, 40)
    verdicts = [classify(data[:size]) for size in range(len(data) + 1)]
    assert verdicts[0] is Verdict.UNKNOWN
    for shorter, longer in zip(verdicts[1:], verdicts[2:], strict=False):
        assert isinstance(longer, Verdict)
        late = shorter is Verdict.UNKNOWN and longer is Verdict.HTTP
        assert late or longer in (shorter, Verdict.UNKNOWN), data
    assert classify(bytearray(data)) is classify(data)


@fuzzed(60)
def test_the_memory_does_what_a_simple_model_does(chance: random.Random) -> None:
    """Remember, ask and wait in any order: the same answers as a list of every entry with its time."""
    now = 0.0
    seconds, capacity = chance.choice((0.0, 1.0, 6.0)), chance.randint(1, 4)
    memory = IpMemory(seconds, capacity, clock=lambda: now)
    model: list[tuple[str, float]] = []
    for _ in range(40):
        now += chance.choice((0.0, 0.5, 1.0, 3.0, 7.0)) * (chance.random() < 0.4)
        model = [(ip, end) for ip, end in model if end > now]
        ip = f"10.0.0.{chance.randint(1, 6)}"
        if chance.random() < 0.5:
            memory.remember(ip)
            if ip not in [known for known, _ in model]:
                model = [*model, (ip, now + seconds)][-capacity:]
            model = [(known, end) for known, end in model if end > now]
        assert memory.knows(ip) == (ip in [known for known, _ in model])
        assert memory.entries() == [(known, end - now) for known, end in model]
        assert len(memory.entries()) <= capacity


def test_a_damaged_certificate_file_is_a_value_error_or_works(tmp_path: Path) -> None:
    """Whatever is wrong with a file, server_context says so in a way that the program can tell: it must not
    bring down a server that reads a renewed one."""
    chance = random.Random(SEED)
    identity = make_identity("localhost")
    originals = [identity.pem() + identity.key_pem(), identity.pfx(), identity.pfx("password")]
    path = tmp_path / "damaged.pfx"
    for number in range(int(150 * TIMES)):
        path.write_bytes(mutated(chance, originals[number % 3]))
        with contextlib.suppress(ValueError, OSError):
            server_context(path, "password" if number % 3 == 2 else None)
