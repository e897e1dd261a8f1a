# SPDX-License-Identifier: MIT
"""What a server gets from a .pfx file: PEM for OpenSSL, and a sentence where that can't be."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

import cert_tool

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def pfx() -> bytes:
    return cert_tool.pfx_bytes(*cert_tool.make_certificate("chat.example"), PASSWORD)


def openssl(folder: Path, *arguments: str) -> None:
    """Run openssl in that folder; where it is missing or can't do this, the test is skipped."""
    try:
        subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs an openssl that can do this: {error}")


def test_openssl_loads_what_comes_of_a_pfx_with_its_secret_alone(pfx: bytes, tmp_path: Path) -> None:
    """The PEM holds key and certificate; the key opens with the fresh secret, not with another's."""
    pem, secret = cert_tool.pfx_to_pem(pfx, [PASSWORD], "server.pfx")
    other, another = cert_tool.pfx_to_pem(pfx, [PASSWORD], "server.pfx")
    (tmp_path / "server.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", password=secret)
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in pem and secret != another != PASSWORD
    with pytest.raises(ssl.SSLError):
        context.load_cert_chain(tmp_path / "server.pem", password=another)


def test_no_more_passwords_are_taken_than_needed(pfx: bytes) -> None:
    """A generator that would ask the user is not resumed once a password fits."""
    taken = []

    def passwords() -> Iterator[str | None]:
        for password in (None, "wrong", PASSWORD, "never"):
            taken.append(password)
            yield password

    cert_tool.pfx_to_pem(pfx, passwords(), "server.pfx")
    assert taken == [None, "wrong", PASSWORD]


def test_what_the_passwords_raise_comes_through(pfx: bytes) -> None:
    """A generator may raise to say that there is no password to be had."""

    def passwords() -> Iterator[str | None]:
        yield None
        raise ValueError("nobody to ask")

    with pytest.raises(ValueError, match="nobody to ask"):
        cert_tool.pfx_to_pem(pfx, passwords(), "server.pfx")


def test_the_intermediates_come_in_order_and_the_root_stays_out() -> None:
    """Leaf, its issuer, that one's issuer, whatever order the file has; what signed itself isn't sent."""
    keys = {name: cert_tool.new_private_key(False) for name in ("root", "one", "two", "leaf")}
    template = cert_tool.make_certificate("localhost")[1]

    def signed(subject: str, issuer: str) -> x509.Certificate:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        builder = x509.CertificateBuilder(name(issuer), name(subject), keys[subject].public_key(), 1)
        builder = builder.not_valid_before(template.not_valid_before_utc)
        return builder.not_valid_after(template.not_valid_after_utc).sign(
            keys[issuer], template.signature_hash_algorithm
        )

    root, one, two = signed("root", "root"), signed("one", "root"), signed("two", "one")
    leaf = signed("leaf", "two")
    locked = serialization.BestAvailableEncryption(PASSWORD.encode())
    data = pkcs12.serialize_key_and_certificates(None, keys["leaf"], leaf, [root, one, two], locked)
    pem, _ = cert_tool.pfx_to_pem(data, [PASSWORD], "chain.pfx")
    assert x509.load_pem_x509_certificates(pem) == [leaf, two, one]


@pytest.mark.parametrize("passwords", [[], [None], ["wrong"], [None, "wrong", ""]], ids=str)
def test_a_wrong_password_is_told(pfx: bytes, passwords: list[str | None]) -> None:
    """None, a wrong one, an empty one: the password is wrong."""
    with pytest.raises(ValueError, match=r"^server\.pfx: the password is wrong$"):
        cert_tool.pfx_to_pem(pfx, passwords, "server.pfx")


@pytest.mark.parametrize("kind", ["empty", "text", "half", "pem"])
def test_what_is_no_pfx_is_told(pfx: bytes, kind: str) -> None:
    """An empty file, a text, half a file, a PEM: neither a .pfx/.p12 nor a PEM file."""
    data = {"empty": b"", "text": b"0123456789", "half": pfx[: len(pfx) // 2], "pem": b"-----BEGIN X-----"}
    with pytest.raises(ValueError, match=r"^it: neither a \.pfx/\.p12 nor a PEM file$"):
        cert_tool.pfx_to_pem(data[kind], [PASSWORD], "it")


def test_a_pfx_without_a_key_is_told(tmp_path: Path) -> None:
    """Certificates alone make no server."""
    _, certificate = cert_tool.make_certificate("localhost")
    (tmp_path / "crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    openssl(tmp_path, "pkcs12", "-export", "-nokeys", "-in", "crt", "-out", "pfx", "-passout", "pass:x")
    with pytest.raises(ValueError, match="^it: no key with its certificate in it$"):
        cert_tool.pfx_to_pem((tmp_path / "pfx").read_bytes(), ["x"], "it")


def test_a_key_that_cryptography_cannot_read_is_a_valueerror(tmp_path: Path) -> None:
    """A key on China's curve SM2 is told as such, with the file's name."""
    openssl(tmp_path, "ecparam", "-name", "SM2", "-genkey", "-out", "key")
    openssl(tmp_path, "req", "-x509", "-new", "-key", "key", "-subj", "/CN=sm2", "-out", "crt")
    openssl(tmp_path, "pkcs12", "-export", "-in", "crt", "-inkey", "key", "-out", "pfx", "-passout", "pass:x")
    with pytest.raises(ValueError, match="^it: .*([Uu]nsupported|not supported)"):
        cert_tool.pfx_to_pem((tmp_path / "pfx").read_bytes(), ["x"], "it")


def test_the_summary_is_two_lines_that_steer_no_terminal() -> None:
    """Subject and end, then the SHA-256, of the first certificate; a control character is escaped."""
    key, certificate = cert_tool.make_certificate("chat.example")
    _, second = cert_tool.make_certificate("second.example")
    pem, _ = cert_tool.pem_bytes(key, [certificate, second])
    assert cert_tool.summary(pem) == [
        f"certificate  CN=chat.example, until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
        f"SHA-256      {cert_tool.fingerprint(certificate)}",
    ]
    evil = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "\x1b[2J\u009b")])
    builder = x509.CertificateBuilder(evil, evil, key.public_key(), 1).not_valid_before(
        certificate.not_valid_before_utc
    )
    builder = builder.not_valid_after(certificate.not_valid_after_utc)
    pem, _ = cert_tool.pem_bytes(key, [builder.sign(key, certificate.signature_hash_algorithm)])
    assert all(line.isprintable() for line in cert_tool.summary(pem))


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"])
def test_a_summary_of_no_certificate_is_a_valueerror(pem: bytes) -> None:
    """Nothing, or a damaged one."""
    with pytest.raises(ValueError):
        cert_tool.summary(pem)
