# SPDX-License-Identifier: MIT
"""Hundreds of well-made handshakes at once: they take their time, and nobody else has to wait for it."""

from __future__ import annotations

import contextlib
import datetime
import ssl
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from support import PATIENCE, Program, WebSocket, all_at_once, any_tls, connect, running

HELLOS, ROUNDS = 200, 3  # one costs 5 ms of processor time: together a second
HANDSHAKE = 22  # the type of a record


def large_rsa_pem() -> bytes:
    """A key that is dear to sign with, and its certificate."""
    key = rsa.generate_private_key(65537, 4096)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    hour = datetime.timedelta(hours=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - hour).not_valid_after(now + hour)
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return key.private_bytes(serialization.Encoding.PEM, form, plain) + certificate


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server whose handshakes are dear, and may take their time."""
    folder = tmp_path_factory.mktemp("flood")
    (folder / "rsa.pem").write_bytes(large_rsa_pem())
    with running(folder, "--cert", str(folder / "rsa.pem"), "--handshake-timeout", "60") as program:
        yield program


def a_hello() -> bytes:
    """A client's first message, with a key share for the one group that every client has."""
    context, outgoing = any_tls(), ssl.MemoryBIO()
    context.set_ecdh_curve("prime256v1")
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def repeated(action: Callable[[], object], pause: float, stop: threading.Event) -> list[float]:
    """Do something again and again; return how many seconds it took each time."""
    took = []
    while not stop.is_set():
        since = time.monotonic()
        action()
        took.append(time.monotonic() - since)
        time.sleep(pause)
    return took


@contextlib.contextmanager
def flood(program: Program) -> Iterator[threading.Event]:
    """Many connections that all begin a handshake now. Set once all have been answered."""
    answered = threading.Event()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(program.address)) for _ in range(HELLOS)]
        hello = a_hello()
        kinds: list[int] = []

        def read() -> None:
            with contextlib.suppress(OSError, IndexError):
                for client in clients:
                    client.settimeout(6 * PATIENCE)
                    kinds.append(client.recv(1)[0])
            answered.set()

        reader = threading.Thread(target=read)
        for client in clients:
            client.sendall(hello)
        reader.start()
        try:
            yield answered
        finally:
            reader.join()
        assert kinds == [HANDSHAKE] * HELLOS


def test_beside_a_flood_of_handshakes_plain_clients_are_served_at_once(program: Program) -> None:
    """They need no handshake and don't wait for those of others, neither fresh ones nor connected ones."""
    fresh, connected = [], []  # of each round the worst, and what nine of ten stayed under

    def visit() -> None:
        with WebSocket(program.address) as client:
            assert client.ask("hello") == "hello"

    with WebSocket(program.address) as client:
        for _ in range(ROUNDS):
            with flood(program) as answered:
                visits, answers = all_at_once(
                    partial(repeated, visit, 0.02, answered),
                    partial(repeated, lambda: client.ask("hello"), 0.002, answered),
                )
            fresh.append(max(visits))
            connected.append(sorted(answers)[len(answers) * 9 // 10])
    assert statistics.median(fresh) < 0.5, fresh
    assert statistics.median(connected) < 0.3, connected
