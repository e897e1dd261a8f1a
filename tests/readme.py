# SPDX-License-Identifier: MIT
"""The README as the tests see it: its fenced blocks, each with its language and its headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


@dataclass(frozen=True)
class Block:
    """One fenced block: the headings above it (the innermost last), language, text, first line."""

    headings: tuple[str, ...]
    language: str
    text: str
    line: int

    def __str__(self) -> str:
        return f"README.md line {self.line}, in {' / '.join(self.headings)!r}"


def all_blocks(path: Path = README) -> list[Block]:
    """Every fenced block, in the order of the page."""
    found: list[Block] = []
    headings: list[str] = []
    fence: tuple[str, int] | None = None
    body: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if fence:
            if line.rstrip() == "```":
                found.append(Block(tuple(headings), fence[0], "\n".join(body) + "\n", fence[1]))
                fence, body = None, []
            else:
                body.append(line)
        elif opened := re.fullmatch(r"```(\w*)\s*", line):
            fence = (opened[1], number + 1)
        elif heading := re.fullmatch(r"(#+) (.+)", line):
            headings[len(heading[1]) - 1 :] = [heading[2]]
    assert fence is None, f"a block without an end, from line {fence[1] if fence else 0}"
    return found


def blocks(heading: str, language: str | None = None) -> list[Block]:
    """The blocks under a heading of any level, of one language or of all; at least one."""
    found = [b for b in all_blocks() if heading in b.headings and language in (None, b.language)]
    assert found, f"no {language or ''} block under the heading {heading!r}"
    return found
