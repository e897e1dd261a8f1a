# SPDX-License-Identifier: MIT
"""A server's own certificate, trusted as the tool says, in front of all kinds of programs that verify it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from verifiers import VERIFIERS, Visit, serving

import cert_tool

PAIRS = [(name, False) for name in VERIFIERS] + [(name, True) for name in ("openssl", "java", "mono")]


@pytest.mark.parametrize("verifier, rsa", PAIRS, ids=[name + "-rsa" * rsa for name, rsa in PAIRS])
def test_whoever_trusts_the_crt_takes_the_server(tmp_path: Path, verifier: str, rsa: bool) -> None:
    """The program takes the certificate where it has been told to trust it."""
    key, certificate = cert_tool.make_certificate("localhost", rsa=rsa)
    crt = tmp_path / "server.crt"
    crt.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with serving(cert_tool.pfx_bytes(key, certificate, None), tmp_path) as server:
        assert VERIFIERS[verifier](Visit(tmp_path, crt, "localhost", server))
