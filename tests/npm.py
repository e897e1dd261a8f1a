# SPDX-License-Identifier: MIT
"""Node, and packages for it from npm, in a folder of their own; what can't be had skips the test."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from support import PATIENCE

FLAGS: tuple[tuple[str, ...], ...] = ((), ("--experimental-websocket",))


@functools.cache
def folder() -> tempfile.TemporaryDirectory[str]:
    """Where the packages are; it goes with the process."""
    return tempfile.TemporaryDirectory(prefix="wsdual-npm-")


@functools.cache
def installed(package: str) -> str:
    """Install a package; say why not where that fails."""
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        return "node and npm aren't installed"
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts")
    command = [npm, "install", *quiet, "--prefix", folder().name, package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return f"npm didn't get {package} in a minute"
    return f"npm can't get {package}" if done.returncode else ""


def run(script: str, *arguments: str, package: str = "", flags: tuple[str, ...] = ()) -> list[str]:
    """Run a script in Node, with a package that it may require; return the lines that it printed."""
    if package and (reason := installed(package)):
        pytest.skip(reason)
    if not (node := shutil.which("node")):
        pytest.skip("node isn't installed")
    path = Path(folder().name) / "script.cjs"
    path.write_text(script)
    command = [node, "--no-warnings", *flags, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@functools.cache
def flags_for_websocket() -> tuple[str, ...] | None:
    """The flags that give this Node a WebSocket of its own; None where it has none."""
    node = shutil.which("node")
    for flags in FLAGS if node else ():
        command = [str(node), *flags, "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
        if subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode == 0:
            return flags
    return None


def with_websocket() -> tuple[str, ...]:
    """The same; skips where there is none."""
    if (flags := flags_for_websocket()) is None:
        pytest.skip("no Node with a WebSocket of its own")
    return flags
