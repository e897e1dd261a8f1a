# SPDX-License-Identifier: MIT
"""The server's window: --no-monitor, and what it tells of each client for a migration."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from support import *


def test_without_the_flag_there_is_a_monitor(start: Callable[..., Program]) -> None:
    """It is named where the program says what works."""
    program = start()
    with WebSocket(program.address, "/monitor") as watcher:
        assert watcher.receive_json()["type"] == "snapshot"
    assert "/monitor" in "\n".join(program.banner)


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_no_monitor_is_404(start: Callable[..., Program], tls: bool) -> None:
    """As any path that nobody has; all else goes on."""
    program = start("--no-monitor")
    status, _, body = http(program.address, upgrade_request(program.address, "/monitor"), tls=tls)
    assert status == 404 and b"/monitor" in body
    for path in ("/", "/chat", "/echo"):
        with WebSocket(program.address, path, tls=tls) as client:
            client.send("{}")
            client.receive()
    assert get(program.address, tls=tls)[0] == 200


def test_the_banner_does_not_name_what_is_not_there(start: Callable[..., Program]) -> None:
    """It prints what works now."""
    text = "\n".join(start("--no-monitor").banner)
    assert "/monitor" not in text and "/chat" in text and "/echo" in text


def test_the_log_still_tells_every_step(start: Callable[..., Program]) -> None:
    """-v is for who has the terminal."""
    program = start("--no-monitor", "-v")
    with WebSocket(program.address) as client:
        client.ask("hi")
    wait_until(lambda: "closed" in program.log(), "its end is told")
    assert " upgraded kind=ws path=/echo" in program.log()


# ---- what a migration needs to know


def clients_of(program: Program, **options: Any) -> list[dict[str, Any]]:
    """The clients that a snapshot lists, without the one that asks for it."""
    with WebSocket(program.address, "/monitor", **options) as watcher:
        clients: list[dict[str, Any]] = watcher.receive_json()["clients"]
        return [client for client in clients if client["path"] != "/monitor"]


def test_since_when_each_client_is_there(start: Callable[..., Program]) -> None:
    """Seconds since 1970, of its first byte or before; it stays what it was."""
    program = start("--app", "echo")
    before = time.time()
    with WebSocket(program.address) as ws, WebSocket(program.address, tls=True) as wss:
        assert ws.ask("hi") == wss.ask("hi") == "hi"
        with Native(program.address) as native:
            native.send("{}")
            native.receive()
            after = time.time()
            first = {client["kind"]: client for client in clients_of(program)}
            assert set(first) == {"ws", "wss", "tcp"}
            assert all(before - 0.1 <= client["since"] <= after + 0.1 for client in first.values())
            assert {client["kind"]: client for client in clients_of(program)} == first
        assert first["ws"]["since"] <= first["wss"]["since"] <= first["tcp"]["since"]
        assert all(client["certificate"] is None for client in first.values())
        assert (first["ws"]["tls"], first["tcp"]["tls"]) == (None, None) and first["wss"]["tls"]


OIDS = x509.NameOID
SUBJECTS: list[tuple[list[tuple[Any, str]], str]] = [
    # from the certificate's first attribute to its last        RFC 4514: the last comes first
    ([(OIDS.COMMON_NAME, "ann")], "CN=ann"),
    ([(OIDS.COUNTRY_NAME, "DE"), (OIDS.ORGANIZATION_NAME, "School"), (OIDS.COMMON_NAME, "ann")],
     "CN=ann,O=School,C=DE"),
    ([(OIDS.STATE_OR_PROVINCE_NAME, "s"), (OIDS.LOCALITY_NAME, "l"), (OIDS.STREET_ADDRESS, "st"),
      (OIDS.ORGANIZATIONAL_UNIT_NAME, "u"), (OIDS.DOMAIN_COMPONENT, "d"), (OIDS.USER_ID, "id")],
     "UID=id,DC=d,OU=u,STREET=st,L=l,ST=s"),
    ([(OIDS.COMMON_NAME, "Smith, Ann")], r"CN=Smith\, Ann"),
    ([(OIDS.COMMON_NAME, 'a+b"c\\d<e>f;g')], r'CN=a\+b\"c\\d\<e\>f\;g'),
    ([(OIDS.COMMON_NAME, " ann ")], r"CN=\ ann\ "),
    ([(OIDS.COMMON_NAME, "#1")], r"CN=\#1"),
    ([(OIDS.COMMON_NAME, "a#b=c d")], "CN=a#b=c d"),
    ([(OIDS.COMMON_NAME, "Zoë Å 🎈")], "CN=Zoë Å 🎈"),
    ([(OIDS.COMMON_NAME, "ann,O=Boss")], r"CN=ann\,O=Boss"),
]  # fmt: skip


@pytest.mark.parametrize(("subject", "told"), SUBJECTS, ids=[row[1] for row in SUBJECTS])
def test_the_subject_of_a_client_certificate(
    start: Callable[..., Program], tmp_path: Path, subject: list[tuple[Any, str]], told: str
) -> None:
    """In one line, as RFC 4514 writes it: nobody gets another attribute by a comma in its name."""
    authority = make_identity("class", authority=True)
    key = make_identity("key").key
    name = x509.Name([x509.NameAttribute(kind, value) for kind, value in subject])
    client = signed_by(authority, key, name)
    (tmp_path / "ca.pem").write_bytes(authority.pem())
    (tmp_path / "client.pem").write_bytes(client.key_pem() + client.pem())
    program = start("--client-ca", str(tmp_path / "ca.pem"))
    context = any_tls()
    context.load_cert_chain(tmp_path / "client.pem")
    with WebSocket(program.address, tls=context) as ann:
        ann.ask("here")
        (client_told,) = clients_of(program, tls=context)
        assert client_told["certificate"] == told


def signed_by(issuer: Identity, key: Any, name: x509.Name) -> Identity:
    """A certificate with this subject."""
    from cryptography.hazmat.primitives import hashes

    model = issuer.certificate
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(model.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(model.not_valid_before_utc)
        .not_valid_after(model.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), False)
        .sign(issuer.key, hashes.SHA256())
    )
    return Identity(key, certificate)
