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


UNUSABLE: dict[str, Callable[[Path], bytes | None]] = {
    "sm2": lambda folder: sm2_pfx(folder, PASSWORD),
    "garbage": lambda folder: b"\x30\x82garbage",
    "empty": lambda folder: b"",
    "missing": lambda folder: None,
    "cut": lambda folder: make_identity("localhost").pfx(PASSWORD)[:300],
    "other_password": lambda folder: make_identity("localhost").pfx("another"),
}


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="SIGHUP is POSIX")
@pytest.mark.parametrize("unusable", UNUSABLE)
def test_an_unusable_new_pfx_leaves_the_old_certificate_in_use(
    start: Callable[..., Program], tmp_path: Path, unusable: str
) -> None:
    """Whatever reading it raises, by SIGHUP or by the changed file: one line in the log, the old one stays,
    and the next good file is taken up."""
    content = UNUSABLE[unusable](tmp_path)

    def spoil(signalled: bool) -> None:
        path = tmp_path / f"server-{signalled}.pfx"
        first, second = make_identity("localhost"), make_identity("localhost")
        put(path, first.pfx(PASSWORD))
        program = start("--cert", str(path), env={"WSDUAL_PASSWORD": PASSWORD})

        def renew(data: bytes | None) -> None:
            put(path, data)
            if signalled:
                program.process.send_signal(signal.SIGHUP)

        with unharmed(program):
            renew(content)
            wait_until(lambda: program.log().endswith("\n"), "the log tells of the file", 6)
            assert shown(program) == first.der()
            assert str(path) in program.log() and program.log().count("\n") == 1, program.log()
            renew(second.pfx(PASSWORD))
            wait_until(lambda: shown(program) == second.der(), "the good certificate is shown", 6)

    all_at_once(partial(spoil, True), partial(spoil, False))


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
