# SPDX-License-Identifier: MIT
"""Fixtures: servers that run for one test, or one file of tests."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[:2]]

from support import Program, running  # noqa: E402

SLOWEST_FIRST = ("page", "program", "lesson", "attacks", "wire", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the folders whose files take the longest, so that no worker ends long after the others."""

    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return SLOWEST_FIRST.index(folder) if folder in SLOWEST_FIRST else -1

    items.sort(key=place)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start the program with some flags; it ends with the test, and its log must hold no traceback."""
    with contextlib.ExitStack() as stack:

        def start_program(*flags: str, **options: Any) -> Program:
            return stack.enter_context(running(tmp_path, *flags, **options))

        yield start_program


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server with the default settings, shared by the tests of one file."""
    with running(tmp_path_factory.mktemp("server")) as program:
        yield program
