# SPDX-License-Identifier: MIT
"""What a file is called on the wire doesn't depend on the tables of the system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import Program, get

BROKEN = """
import mimetypes

mimetypes.knownfiles = [{table!r}]
"""
TABLES = {
    "wrong": b"text/plain js css html svg\n",
    "not_utf_8": b"text/plain js css html svg\ntext/\xff\xfe x\n",
}
TYPES = {
    "index.js": ("text/javascript; charset=utf-8", "application/javascript; charset=utf-8"),
    "index.html": ("text/html; charset=utf-8",),
    "style.css": ("text/css; charset=utf-8",),
    "icon.svg": ("image/svg+xml",),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_broken_table_of_the_system_changes_nothing(
    start: Callable[..., Program], tmp_path: Path, table: str
) -> None:
    """A table that calls scripts plain text, or that can't even be read: the program starts, and each file
    of the page has its type."""
    (tmp_path / "mime.types").write_bytes(TABLES[table])
    (tmp_path / "sitecustomize.py").write_text(BROKEN.format(table=str(tmp_path / "mime.types")))
    program = start(env={"PYTHONPATH": str(tmp_path)})
    for name, kinds in TYPES.items():
        status, headers, _ = get(program.address, "/" + name)
        assert status == 200 and headers["content-type"] in kinds, (name, headers)
