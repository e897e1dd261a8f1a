# SPDX-License-Identifier: MIT
"""A .pfx that can't be used, whatever is wrong with it: at the start one line, later no harm."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import pkcs12
from support import REPO, Program, all_at_once, any_tls, connect, make_identity, unharmed, wait_until

PASSWORD = "password"


def sm2_pfx(folder: Path, password: str) -> bytes:
    """A .pfx with a key that OpenSSL makes and that this cryptography doesn't know; skips where it does."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("openssl isn't installed")
    key, cert, pfx = (str(folder / f"sm2.{end}") for end in ("key", "crt", "pfx"))
    for command in (
        ["ecparam", "-name", "SM2", "-genkey", "-noout", "-out", key],
        ["req", "-x509", "-new", "-sm3", "-key", key, "-subj", "/CN=localhost", "-out", cert],
        ["pkcs12", "-export", "-inkey", key, "-in", cert, "-passout", f"pass:{password}", "-out", pfx],
    ):
        done = subprocess.run([openssl, *command], capture_output=True, text=True, timeout=20, check=False)
        if done.returncode:
            pytest.skip(f"this openssl makes no SM2 key: {done.stderr[:200]}")
    data = Path(pfx).read_bytes()
    try:
        pkcs12.load_pkcs12(data, password.encode())
    except UnsupportedAlgorithm:
        return data
    except ValueError as error:
        pytest.skip(f"this cryptography says more of an SM2 key than that it isn't supported: {error}")
    pytest.skip("this cryptography reads SM2 keys")


def shown(program: Program) -> bytes:
    """The certificate that a fresh client is shown."""
    with connect(program.address, tls=any_tls()) as sock:
        return sock.getpeercert(True)  # type: ignore[attr-defined, no-any-return]


def put(path: Path, data: bytes | None) -> None:
    """Replace a file at once; None: it goes."""
    if data is None:
        path.unlink()
        return
    beside = path.with_suffix(".new")
    beside.write_bytes(data)
    beside.replace(path)


UNUSABLE: dict[str, bytes | None] = {
    "garbage": b"\x30\x82garbage",
    "empty": b"",
    "missing": None,
    "cut": make_identity("localhost").pfx(PASSWORD)[:300],
    "other_password": make_identity("localhost").pfx("another"),
}
posix = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="SIGHUP is POSIX")


def renewal_is_survived(
    start: Callable[..., Program], folder: Path, name: str, content: bytes | None, signalled: bool
) -> None:
    """Put something unusable in a .pfx file's place, then a good one: what is served and told meanwhile."""
    path = folder / f"{name}-{signalled}.pfx"
    first, second = make_identity("localhost"), make_identity("localhost")
    put(path, first.pfx(PASSWORD))
    program = start("--cert", str(path), env={"WSDUAL_PASSWORD": PASSWORD})

    def renew(data: bytes | None) -> None:
        put(path, data)
        if signalled:
            program.process.send_signal(signal.SIGHUP)

    with unharmed(program):
        renew(content)
        wait_until(lambda: program.log().endswith("\n"), f"the log tells of the file: {name}")
        assert shown(program) == first.der(), name
        assert str(path) in program.log() and program.log().count("\n") == 1, program.log()
        renew(second.pfx(PASSWORD))
        wait_until(lambda: shown(program) == second.der(), f"the good certificate is shown after: {name}")


@posix
def test_a_new_pfx_with_an_unknown_kind_of_key_leaves_the_old_certificate_in_use(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """cryptography raises UnsupportedAlgorithm for it, which is no ValueError: by SIGHUP or by the changed
    file, it is one line in the log, the old one stays, and the next good file is taken up."""
    content = sm2_pfx(tmp_path, PASSWORD)
    survived = partial(renewal_is_survived, start, tmp_path, "sm2", content)
    all_at_once(partial(survived, True), partial(survived, False))


@posix
def test_an_unusable_new_pfx_leaves_the_old_certificate_in_use(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """Whatever is wrong with it."""
    ways = [("garbage", True), ("empty", True), ("missing", True), ("missing", False), ("cut", False),
            ("other_password", False)]  # fmt: skip
    all_at_once(*(partial(renewal_is_survived, start, tmp_path, name, UNUSABLE[name], signalled)
                  for name, signalled in ways))  # fmt: skip


@pytest.mark.parametrize("password", [PASSWORD, ""], ids=["password", "no_password"])
def test_a_pfx_with_an_unknown_kind_of_key_is_one_clear_line_at_the_start(
    tmp_path: Path, password: str
) -> None:
    """It names the file, the status isn't 0, and there is no traceback."""
    path = tmp_path / "server.pfx"
    path.write_bytes(sm2_pfx(tmp_path, password))
    (tmp_path / "password").write_text(password + "\n")
    command = [sys.executable, str(REPO / "wsdual.py"), "--port", "0", "--cert", str(path),
               "--password-file", str(tmp_path / "password")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode not in (0, None) and done.stdout == ""
    assert done.stderr.count("\n") == 1 and str(path) in done.stderr, done.stderr
