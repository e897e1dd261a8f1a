# SPDX-License-Identifier: MIT
"""ClientHellos that are dear to answer, and many honest ones: neither takes the server from its clients."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which

import pytest
from support import (
    PATIENCE,
    REPO,
    Program,
    WebSocket,
    all_at_once,
    any_tls,
    closed,
    connect,
    make_identity,
    running,
    wait_until,
)

FFDHE = {"ffdhe2048": 0x100, "ffdhe3072": 0x101, "ffdhe4096": 0x102, "ffdhe6144": 0x103, "ffdhe8192": 0x104}
X25519, P256 = 0x1D, 0x17
ALERT, HANDSHAKE = 21, 22  # types of records


def sized(data: bytes, width: int) -> bytes:
    """Bytes behind their length, as TLS writes them."""
    return len(data).to_bytes(width, "big") + data


def client_hello(groups: list[int], shares: dict[int, bytes]) -> bytes:
    """A ClientHello of TLS 1.3 in its record, with these groups and key shares (RFC 8446 section 4.1.2)."""
    extensions = {
        43: sized(struct.pack("!H", 0x0304), 1),  # supported_versions: 1.3
        10: sized(b"".join(struct.pack("!H", group) for group in groups), 2),  # supported_groups
        13: sized(struct.pack("!4H", 0x0403, 0x0804, 0x0805, 0x0401), 2),  # signature_algorithms
        51: sized(b"".join(struct.pack("!H", group) + sized(key, 2) for group, key in shares.items()), 2),
    }
    body = (
        b"\x03\x03"
        + secrets.token_bytes(32)
        + sized(secrets.token_bytes(32), 1)
        + sized(struct.pack("!3H", 0x1301, 0x1302, 0x1303), 2)
        + b"\x01\x00"
        + sized(b"".join(struct.pack("!H", kind) + sized(data, 2) for kind, data in extensions.items()), 2)
    )
    return b"\x16\x03\x01" + sized(b"\x01" + sized(body, 3), 2)


def share_of(name: str) -> dict[int, bytes]:
    """A finite field's key share. Any power of two below the prime, which begins with ones, is a good key."""
    return {FFDHE[name]: b"\x40" + bytes(int(name.removeprefix("ffdhe")) // 8 - 1)}


def finite_field_hello(name: str) -> bytes:
    """One that offers this group alone."""
    return client_hello([FFDHE[name]], share_of(name))


def answer_to(program: Program, hello: bytes) -> int:
    """The type of the first record that answers a hello."""
    with connect(program.address) as sock:
        sock.sendall(hello)
        return sock.recv(1)[0]


@pytest.mark.parametrize("name", FFDHE)
def test_a_hello_that_offers_finite_fields_alone_is_refused_with_an_alert(server: Program, name: str) -> None:
    """The server doesn't compute in them: the largest costs a sixth of a second each time."""
    with connect(server.address) as sock:
        sock.sendall(finite_field_hello(name))
        assert sock.recv(1)[0] == ALERT
        assert len(sock.recv(6)) == 6
        assert closed(sock)


def test_twenty_hellos_with_the_largest_finite_field_cost_next_to_nothing(server: Program) -> None:
    """They may be replayed for ever. Twenty had cost more than 3 s of processor time."""
    hello = finite_field_hello("ffdhe8192")
    before = server.cpu_seconds()
    answers = all_at_once(*[lambda: answer_to(server, hello)] * 20)
    with WebSocket(server.address, tls=True) as client:
        assert client.ask("hello") == "hello"
    assert server.cpu_seconds() - before < 1.0
    assert answers == [ALERT] * 20


def test_a_client_that_guesses_a_finite_field_but_knows_p256_is_asked_for_that(server: Program) -> None:
    """By a HelloRetryRequest, which costs no computing (RFC 8446 section 4.1.4)."""
    with connect(server.address) as sock:
        sock.sendall(client_hello([FFDHE["ffdhe8192"], X25519, P256], share_of("ffdhe8192")))
        head = sock.recv(76)
        assert head[0] == HANDSHAKE
        # the random that stands for HelloRetryRequest
        assert head[11:43].hex() == "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"


# ---------------------------------------------------------------- TLS 1.2


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Program]]:
    """One server with an ECDSA certificate and one with an RSA certificate."""
    folder = tmp_path_factory.mktemp("suites")
    flags = ("--cn", "localhost", "--rsa", "--no-password", "--out", "rsa.pfx")
    maker = [sys.executable, str(REPO / "cert_tool.py"), *flags]
    subprocess.run(maker, cwd=folder, check=True, capture_output=True)
    with running(folder) as ecdsa, running(folder, "--cert", str(folder / "rsa.pfx")) as rsa:
        yield {"ECDSA": ecdsa, "RSA": rsa}


AEAD = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
]
OTHERS = [
    "ECDHE-ECDSA-AES128-SHA",  # CBC
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-ECDSA-AES256-SHA384",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-RSA-AES256-SHA384",
    "AES128-GCM-SHA256",  # no forward secrecy
    "AES256-SHA256",
    "DHE-RSA-AES128-GCM-SHA256",  # finite fields
    "DHE-RSA-AES256-SHA256",
    "DHE-RSA-CHACHA20-POLY1305",
]


def with_tls12(program: Program, suites: str) -> str | None:
    """The cipher that was agreed on in TLS 1.2; None where the server refuses."""
    context = any_tls()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suites + ":@SECLEVEL=0")
    try:
        with connect(program.address, tls=context) as sock:
            return sock.cipher()[0]  # type: ignore[attr-defined, no-any-return]
    except ssl.SSLError as error:
        assert "ALERT" in (error.reason or ""), error
        return None


@pytest.mark.parametrize("suite", AEAD)
def test_tls12_with_an_aead_suite_gets_in(servers: dict[str, Program], suite: str) -> None:
    """Those with an ephemeral key on a curve, for the certificate that there is."""
    assert with_tls12(servers["ECDSA" if "ECDSA" in suite else "RSA"], suite) == suite


@pytest.mark.parametrize("suite", OTHERS)
def test_tls12_with_any_other_suite_is_refused(servers: dict[str, Program], suite: str) -> None:
    """CBC, no forward secrecy, finite fields: no client of the last ten years needs them."""
    assert with_tls12(servers["ECDSA" if "ECDSA" in suite else "RSA"], suite) is None


# ---------------------------------------------------------------- who gets in


def test_python_gets_in_with_each_version(server: Program) -> None:
    """With the settings that it comes with."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = any_tls()
        context.minimum_version = context.maximum_version = version
        with WebSocket(server.address, tls=context) as client:
            assert client.ask("hello") == "hello"


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("groups", ["", "X25519:P-256", "P-256", "P-384:P-256", "ffdhe2048:P-256"])
def test_openssl_gets_in_with_each_usual_list_of_groups(server: Program, groups: str, version: str) -> None:
    """The first is its guess; where the server takes another, that costs a round trip more."""
    if not which("openssl"):
        pytest.skip("openssl isn't there")
    command = ["openssl", "s_client", "-quiet", version, "-connect", f"127.0.0.1:{server.port}"]
    command += ["-groups", groups] if groups else []
    request = b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    done = subprocess.run(command, input=request, capture_output=True, timeout=PATIENCE, check=False)
    assert done.stdout.startswith(b"HTTP/1.1 404 "), done.stderr


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("curves", ["", "X25519:P-256"])
def test_curl_gets_in(server: Program, curves: str, version: str) -> None:
    """With the curves that it comes with, and with those of browsers."""
    if not which("curl"):
        pytest.skip("curl isn't there")
    command = [
        "curl",
        "-sSk",
        "-o",
        os.devnull,
        "-w",
        "%{http_code}",
        f"--tlsv{version}",
        "--tls-max",
        version,
    ]
    command += ["--curves", curves] if curves else []
    command.append(f"https://127.0.0.1:{server.port}/")
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == "200", done.stderr


# ---------------------------------------------------------------- the end, while handshakes are computed

OWN_PROGRAM = """
import signal, ssl, sys, threading
sys.path.insert(0, sys.argv[1])
from wsdual import DualServer, Limits, echo

tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # with all that OpenSSL knows
tls.load_cert_chain(sys.argv[2])
with DualServer(("127.0.0.1", 0), {"/": echo}, tls=tls, limits=Limits(handshake=60.0)) as server:
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""


@contextlib.contextmanager
def own_program(folder: Path) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """A program of one's own, whose TLS settings let finite fields in; and where it listens."""
    identity = make_identity("localhost")
    (folder / "both.pem").write_bytes(identity.key_pem() + identity.pem())
    command = [sys.executable, "-c", OWN_PROGRAM, str(REPO), str(folder / "both.pem")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, ("127.0.0.1", int(process.stdout.readline()))
        finally:
            process.kill()


def attack(address: tuple[str, int], clients: contextlib.ExitStack, many: int) -> list[socket.socket]:
    """Many hellos, each of which costs a sixth of a second of processor time where it is answered."""
    hello = finite_field_hello("ffdhe8192")
    sockets = [clients.enter_context(connect(address)) for _ in range(many)]
    for sock in sockets:
        sock.sendall(hello)
    return sockets


def busy(pid: int) -> bool:
    """Whether a process has used some processor time since it came up."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) > os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the processor time in /proc")
def test_a_program_of_ones_own_ends_in_time_while_handshakes_are_computed(tmp_path: Path) -> None:
    """Nobody can interrupt OpenSSL, but nobody has to wait for it either."""
    with contextlib.ExitStack() as clients, own_program(tmp_path) as (process, address):
        attack(address, clients, 120)
        wait_until(lambda: busy(process.pid), "it computes")
        since = time.monotonic()
        process.terminate()
        assert process.wait(6 * PATIENCE) == 0
        assert time.monotonic() - since < 6.0, "5 s, and one for a busy machine"


def test_sigterm_ends_the_program_in_time_whatever_hellos_come(start: Callable[..., Program]) -> None:
    """Exit status 0 within 5 s."""
    program = start("--handshake-timeout", "60")
    with contextlib.ExitStack() as clients:
        *_, last = attack(program.address, clients, 80)
        # all are being answered, or have been
        wait_until(lambda: program.threads() > 80 or select.select([last], [], [], 0)[0], "it is busy", 60.0)
        since = time.monotonic()
        program.process.terminate()
        assert program.process.wait(6 * PATIENCE) == 0
        assert time.monotonic() - since < 6.0, "5 s, and one for a busy machine"
