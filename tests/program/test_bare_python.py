# SPDX-License-Identifier: MIT
"""On a Python that lacks something: without ctypes all works, without cryptography all but a .pfx."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, REPO, Native, Program, WebSocket, connect, get, make_identity, wait_until

WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def python_without(folder: Path, *names: str) -> dict[str, str]:
    """What to add to the environment, so that a Python finds no module of these names."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(WITHOUT.format(names=names))
    return {"PYTHONPATH": str(folder)}


def run(*words: str, cwd: Path, env: dict[str, str]) -> Any:
    """Run a Python to its end."""
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env={**os.environ, **env},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip


def all_kinds_work(address: tuple[str, int]) -> None:
    """ws, wss, tcp and tcps, with the chat at /."""
    for tls in (False, True):
        with WebSocket(address, tls=tls) as client, Native(address, tls=tls) as native:
            assert client.ask("hi") == "hi"
            native.send("{}")
            assert native.receive_json()["type"] == "error"


# ---- ctypes


@pytest.fixture
def no_ctypes(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that was built without libffi."""
    environment = python_without(tmp_path / "no_ctypes", "_ctypes", "ctypes")
    done = run("-c", "import ctypes", cwd=tmp_path, env=environment)
    assert "No module named 'ctypes'" in done.stderr
    return environment


def test_without_ctypes_the_module_can_be_imported(tmp_path: Path, no_ctypes: dict[str, str]) -> None:
    """A Python that was built without libffi has no _ctypes."""
    done = run("-c", "import wsdual; print('imported')", cwd=REPO, env=no_ctypes)
    assert (done.returncode, done.stdout, done.stderr) == (0, "imported\n", "")


def test_without_ctypes_the_program_serves(
    start: Callable[..., Program], no_ctypes: dict[str, str], tmp_path: Path
) -> None:
    """With a certificate of its own making, and with one from a file."""
    identity = make_identity("localhost")
    (tmp_path / "server.pem").write_bytes(identity.key_pem() + identity.pem())
    for flags in ([], ["--cert", str(tmp_path / "server.pem")]):
        program = start(*flags, env=no_ctypes)
        all_kinds_work(program.address)
        assert get(program.address)[0] == 200


# ---- cryptography, and cert_tool.py


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A folder with wsdual.py, and a certificate in both forms."""
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(REPO / "wsdual.py", folder)
    identity = make_identity("localhost")
    (folder / "server.pem").write_bytes(identity.key_pem() + identity.pem())
    (folder / "locked.pem").write_bytes(identity.key_pem("password") + identity.pem())
    (folder / "cert.pem").write_bytes(identity.pem())
    (folder / "key.pem").write_bytes(identity.key_pem())
    (folder / "server.pfx").write_bytes(identity.pfx())
    (folder / "locked.pfx").write_bytes(identity.pfx("password"))
    return folder


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python without cryptography."""
    return python_without(tmp_path / "bare", "cryptography")


USE = """
import threading, wsdual

tls = wsdual.server_context(*{arguments})
with wsdual.DualServer(("127.0.0.1", 0), {{"/": wsdual.echo, "/echo": wsdual.echo}}, tls=tls) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""
PEM_FILES = {
    "one_file": ("server.pem",),
    "two_files": ("cert.pem", None, "key.pem"),
    "locked": ("locked.pem", "password"),
}


@contextlib.contextmanager
def started(*words: str, cwd: Path, env: dict[str, str]) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Start a Python; yield the port that its first line ends with, or has after a colon."""
    with (cwd / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=cwd, env={**os.environ, **env},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        assert (found := re.search(r"(\d+)(?:,|$)", first)), (first, (cwd / "stderr").read_text())
        yield int(found[1]), process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("files", PEM_FILES)
def test_without_cryptography_the_library_takes_pem_files(
    alone: Path, bare: dict[str, str], files: str
) -> None:
    """wsdual.py copied alone: server_context() and all four kinds that talk."""
    script = USE.format(arguments=PEM_FILES[files])
    with started("-c", script, cwd=alone, env=bare) as (port, _):
        for tls in (False, True):
            with WebSocket(("127.0.0.1", port), tls=tls) as client:
                assert client.ask("hi") == "hi"


def test_without_cryptography_the_program_takes_a_pem_file(alone: Path, bare: dict[str, str]) -> None:
    """python wsdual.py --cert serves all kinds, takes up a renewed file, and ends with 0."""
    command = ["wsdual.py", "--port", "0", "--cert", "server.pem"]
    with started(*command, cwd=alone, env=bare) as (port, process):
        all_kinds_work(("127.0.0.1", port))
        renewed = make_identity("localhost")
        (alone / "new.pem").write_bytes(renewed.key_pem() + renewed.pem())
        (alone / "new.pem").replace(alone / "server.pem")

        def shown() -> bytes:
            with connect(("127.0.0.1", port), tls=True) as sock:
                return sock.getpeercert(True)  # type: ignore[attr-defined, no-any-return]

        wait_until(lambda: shown() == renewed.der(), "the renewed certificate is shown")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert "Traceback" not in (alone / "stderr").read_text()


# What is there besides wsdual.py -> the words that the one line has to have.
WANTED = {
    "neither": (False, False, ["cert_tool", "cryptography"]),
    "cryptography_alone": (False, True, ["cert_tool"]),
    "cert_tool_alone": (True, False, ["cryptography"]),
}


@pytest.mark.parametrize("pfx", ["server.pfx", "locked.pfx"])
@pytest.mark.parametrize("there", WANTED)
def test_a_pfx_says_in_one_line_what_it_wants(
    alone: Path, bare: dict[str, str], there: str, pfx: str
) -> None:
    """The program names what is missing, and its status isn't 0; the library's exception does, too."""
    has_cert_tool, has_cryptography, words = WANTED[there]
    environment = {"WSDUAL_PASSWORD": "password", **({} if has_cryptography else bare)}
    if has_cert_tool:
        shutil.copy(REPO / "cert_tool.py", alone)
    done = run("wsdual.py", "--port", "0", "--cert", pfx, cwd=alone, env=environment)
    assert done.returncode != 0 and done.stdout == "" and done.stderr.count("\n") == 1, done
    assert all(word in done.stderr for word in words), done.stderr
    script = f"import wsdual; wsdual.server_context({pfx!r}, 'password')"
    said = run("-c", script, cwd=alone, env=environment).stderr.splitlines()[-1]
    assert re.match(r"(ImportError|ModuleNotFoundError|ValueError): ", said), said
    assert all(word in said for word in words), said


def test_without_a_certificate_the_program_says_what_it_wants(alone: Path, bare: dict[str, str]) -> None:
    """The throw-away one is made by cert_tool.py; --cert is the other way out."""
    done = run("wsdual.py", "--port", "0", cwd=alone, env=bare)
    assert done.returncode != 0 and done.stderr.count("\n") == 1, done
    assert "--cert" in done.stderr and "cert_tool" in done.stderr
