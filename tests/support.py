# SPDX-License-Identifier: MIT
"""What the tests share: the real program in a process of its own, and clients made of bare sockets.

The clients are as simple as can be and know nothing of the server's code, so that they can also break
the rules: send half a frame, a wrong mask, nothing at all.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import datetime
import json
import os
import random
import re
import secrets
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from wsdual import DualServer

__all__ = [
    "BINARY", "CLOSE", "CONTINUATION", "PATIENCE", "PING", "PONG", "REPO", "TEXT", "Deflating", "HandTLS",
    "Identity", "Native", "Program", "Watcher", "WebSocket", "address_of", "all_at_once", "any_tls",
    "closed", "connect", "deflate", "encryption", "frame", "free_port", "get", "http", "make_identity",
    "mask_bytes", "narrow", "others_are_served", "parse_response", "read_to_end", "reset", "running",
    "serving", "unharmed", "upgrade_request", "upgraded", "wait_until",
]  # fmt: skip

REPO = Path(__file__).resolve().parent.parent
PATIENCE = 20.0  # seconds that a test waits for what must come; a test that passes never waits so long
TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0


def wait_until(condition: Callable[[], Any], what: object = "", seconds: float = PATIENCE) -> Any:
    """Return the condition's first true value; fail where there is none in time."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:g} s in vain: {what or condition}"
        time.sleep(0.02)
    return value


def free_port() -> int:
    """A port that nobody has now, for what can't be told port 0.

    It is below those that systems hand out by themselves, so that no client gets it in the meantime.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.contextmanager
def serving(apps: dict[str, Callable[..., object]], **options: Any) -> Iterator[DualServer]:
    """A DualServer in this process, as a program of one's own would run it. options: those of DualServer."""
    with DualServer(options.pop("address", ("127.0.0.1", 0)), apps, **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(PATIENCE)


def address_of(server: DualServer) -> tuple[str, int]:
    """Where it listens."""
    return str(server.server_address[0]), int(server.server_address[1])


class Program:
    """wsdual.py, started as a user would; flags as on the command line. Its log is checked at the end."""

    def __init__(self, *flags: str, log: Path, env: dict[str, str] | None = None, port: int = 0) -> None:
        self.log_path = log
        command = [sys.executable, str(REPO / "wsdual.py"), "--port", str(port), *flags]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output, text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            )  # fmt: skip
        self.banner: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.banner.append(line.rstrip("\n"))
            if line.startswith("Ctrl-C"):
                break
        else:
            raise AssertionError(f"the server didn't start: {self.log()}")
        host, port = re.search(r"(\[[^]]+\]|[\d.]+):(\d+)", self.banner[0]).groups()  # type: ignore[union-attr]
        self.address = (host.strip("[]"), int(port))
        self.port = int(port)

    def log(self) -> str:
        """What the program has written to stderr so far."""
        return self.log_path.read_text(errors="replace")

    def threads(self) -> int:
        """How many threads the process has now."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def descriptors(self) -> int:
        """How many files and sockets the process has open now."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self) -> int:
        """Bytes of memory that the process holds now (RSS)."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def cpu_seconds(self) -> float:
        """Seconds of CPU time that the process has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, how: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the server didn't end") from None
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()


@contextlib.contextmanager
def running(tmp_path: Path, *flags: str, traceback: bool = False, **options: Any) -> Iterator[Program]:
    """A program that runs for a while; afterwards its log must hold no traceback."""
    program = Program(*flags, log=tmp_path / f"server-{secrets.token_hex(4)}.log", **options)
    try:
        yield program
    finally:
        status = program.end()
    assert ("Traceback" in program.log()) == traceback, program.log()
    assert status == 0, program.log()


def any_tls() -> ssl.SSLContext:
    """Client settings that trust whatever they get."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's authorities: 30 ms less
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(
    address: tuple[str, int], *, tls: bool | ssl.SSLContext = False, source: str | None = None
) -> socket.socket:
    """A connected socket, plain or TLS; source: the address to come from, as 127.0.0.2."""
    sock = socket.create_connection(address, timeout=PATIENCE, source_address=source and (source, 0) or None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls:
        context = tls if isinstance(tls, ssl.SSLContext) else any_tls()
        try:
            return context.wrap_socket(sock, server_hostname="localhost")
        except BaseException:
            sock.close()
            raise
    return sock


def read_to_end(sock: socket.socket) -> bytes:
    """All bytes until the other side closes; a reset fails, as it should."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def closed(sock: socket.socket) -> bool:
    """Wait until the other side has closed, by FIN or by reset; False where it sends something."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def http(address: tuple[str, int], request: str | bytes, **options: Any) -> tuple[int, dict[str, str], bytes]:
    """Send one raw request; return status, headers (names in lower case) and body."""
    with connect(address, **options) as sock:
        sock.sendall(request.encode("latin-1") if isinstance(request, str) else request)
        return parse_response(read_to_end(sock))


def parse_response(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Take a whole response apart."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body


def get(address: tuple[str, int], path: str = "/", method: str = "GET", **options: Any) -> Any:
    """A well-made request for a file."""
    return http(address, f"{method} {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n\r\n", **options)


def upgrade_request(address: tuple[str, int], path: str = "/echo", **changes: str | None) -> bytes:
    """A request to upgrade. changes: header name with _ for -, and its value; None leaves it out."""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    headers: dict[str, str | None] = {
        "Host": f"{host}:{address[1]}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(),
        "Sec-WebSocket-Version": "13",
    }
    names = {name.lower(): name for name in headers}
    for name, value in changes.items():
        plain = name.replace("_", "-")
        headers[names.get(plain.lower(), plain)] = value
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = None,
          length: int | None = None) -> bytes:  # fmt: skip
    """One frame of a client. length: what to claim; mask: four bytes, b"" for none (a fault)."""
    mask = secrets.token_bytes(4) if mask is None else mask
    size = len(payload) if length is None else length
    head = bytes([fin << 7 | rsv << 4 | opcode])
    bit = 0x80 if mask else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    if mask:
        payload = mask_bytes(payload, mask)
    return head + mask + payload


def mask_bytes(data: bytes, mask: bytes) -> bytes:
    """XOR with a repeated mask."""
    repeated = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big")


def deflate(data: bytes, level: int = 6) -> bytes:
    """A message as permessage-deflate carries it."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


class WebSocket:
    """A WebSocket client that does what it is told, rules or not."""

    def __init__(
        self,
        address: tuple[str, int],
        path: str = "/echo",
        *,
        tls: bool | ssl.SSLContext = False,
        source: str | None = None,
        sock: socket.socket | None = None,
        early: bytes = b"",
        **headers: str | None,
    ) -> None:
        self.sock = sock or connect(address, tls=tls, source=source)
        self._buffer = b""
        try:
            self.sock.sendall(upgrade_request(address, path, **headers) + early)
            while b"\r\n\r\n" not in self._buffer:
                self._more()
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            self.status, self.headers, _ = parse_response(head + b"\r\n\r\n")
            assert self.status == 101, (head, self._buffer)
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave, without a word."""
        self.sock.close()

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(self._buffer)
        self._buffer += data

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def send(self, message: str | bytes | dict[str, Any]) -> None:
        """Send one message; a dict as JSON."""
        if isinstance(message, dict):
            message = json.dumps(message)
        opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        self.sock.sendall(frame(opcode, payload))

    def receive_frame(self) -> tuple[bool, int, int, bytes]:
        """(FIN, RSV bits, opcode, payload). Raises EOFError at the end."""
        first, second = self._take(2)
        assert not second & 0x80, "a server's frames are not masked"
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
        return bool(first & 0x80), first >> 4 & 7, first & 15, self._take(size)

    def receive(self) -> str | bytes:
        """The next message, uncompressed and in one frame."""
        fin, rsv, opcode, payload = self.receive_frame()
        assert fin and not rsv and opcode in (TEXT, BINARY), (fin, rsv, opcode, payload)
        return payload.decode() if opcode == TEXT else payload

    def receive_json(self) -> dict[str, Any]:
        """The next message, as the JSON object that it is."""
        return json.loads(self.receive())  # type: ignore[no-any-return]

    def receive_close(self) -> tuple[int, str]:
        """(code, reason) of the close frame that comes next."""
        fin, rsv, opcode, payload = self.receive_frame()
        assert opcode == CLOSE, (opcode, payload[:100])
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    def rest(self) -> bytes:
        """All bytes behind what was received, to the end; a reset fails."""
        rest, self._buffer = self._buffer + read_to_end(self.sock), b""
        return rest

    def ask(self, message: str | bytes) -> str | bytes:
        """Send, and return the answer."""
        self.send(message)
        return self.receive()

    def next_but_pings(self) -> tuple[bool, int, int, bytes]:
        """The next frame that is no ping; pings are answered, as a browser does by itself."""
        while (received := self.receive_frame())[2] == PING:
            self.sock.sendall(frame(PONG, received[3]))
        return received


class Native:
    """A native client: one line, one message."""

    def __init__(self, address: tuple[str, int], *, tls: bool = False, source: str | None = None) -> None:
        self.sock = connect(address, tls=tls, source=source)
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Native:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave, without a word."""
        self._file.close()
        self.sock.close()

    def send(self, message: dict[str, Any] | str) -> None:
        """Send one line."""
        line = message if isinstance(message, str) else json.dumps(message)
        self.sock.sendall(line.encode() + b"\n")

    def receive(self) -> str:
        """The next line. Raises EOFError at the end."""
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError(line)
        return line[:-1].decode()

    def receive_json(self) -> dict[str, Any]:
        """The next line, as the JSON object that it is."""
        return json.loads(self.receive())  # type: ignore[no-any-return]


class Watcher:
    """A watcher of /monitor: collects its messages in a thread of its own."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.client = WebSocket(address, "/monitor")
        self.snapshot = self.client.receive_json()
        self.events: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self.client.sock.settimeout(None)
        self._thread.start()

    def _collect(self) -> None:
        with contextlib.suppress(EOFError, OSError, AssertionError):
            while True:
                self.events.append(self.client.receive_json())

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self.client.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self.client.sock.close()

    def __str__(self) -> str:
        return "the watcher saw " + "\n".join(map(str, self.events))

    def find(self, step: str, **facts: Any) -> list[dict[str, Any]]:
        """The events of a step so far, that have these facts."""
        return [e for e in tuple(self.events)
                if e.get("step") == step and all(e.get(k) == v for k, v in facts.items())]  # fmt: skip

    def wait_for(self, step: str, **facts: Any) -> dict[str, Any]:
        """The first event of a step that has these facts, waited for."""
        found = wait_until(lambda: self.find(step, **facts) or not self._thread.is_alive(), self)
        assert found is not True, f"the watcher ended before {step} {facts}; {self}"
        return found[0]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Identity:
    """A private key and its certificate, made for a test."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def der(self) -> bytes:
        """The certificate, as a socket's getpeercert(True) has it."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def key_pem(self, password: str | None = None) -> bytes:
        """The key, encrypted where there is a password."""
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, form, encryption(password))

    def pfx(self, password: str | None = None, others: Sequence[Identity] = ()) -> bytes:
        """A PKCS#12 file of both, and the certificates of others in the given order."""
        extra = [other.certificate for other in others] or None
        return pkcs12.serialize_key_and_certificates(
            b"test", self.key, self.certificate, extra, encryption(password)
        )


def encryption(password: str | None) -> serialization.KeySerializationEncryption:
    """How to encrypt a key."""
    if password is None:
        return serialization.NoEncryption()
    return serialization.BestAvailableEncryption(password.encode())


def make_identity(name: str, issuer: Identity | None = None, *, authority: bool = False) -> Identity:
    """Make a key with a certificate, signed by the issuer or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    signer = issuer.key if issuer else key
    usage = x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(authority, None), True)
        .add_extension(usage, True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    )
    return Identity(key, builder.sign(signer, hashes.SHA256()))


# ---- for the attacks: what must hold whatever a client does


class HandTLS:
    """A TLS client that hands its records out, so that a test can hold some back, cut or spoil them."""

    def __init__(self, address: tuple[str, int], *, sock: socket.socket | None = None) -> None:
        self.sock = sock or connect(address)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = any_tls().wrap_bio(self._in, self._out, server_hostname="localhost")

    def __enter__(self) -> HandTLS:
        return self

    def __exit__(self, *exception: object) -> None:
        self.sock.close()

    def hello(self) -> bytes:
        """The ClientHello, not yet sent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._out.read()

    def handshake(self, send: Callable[[bytes], object] | None = None) -> None:
        """Do the handshake to its end; send: what puts bytes on the wire."""
        send = send or self.sock.sendall
        while True:
            try:
                self.tls.do_handshake()
                return send(self._out.read()) and None
            except ssl.SSLWantReadError:
                send(self._out.read())
                self._feed()

    def _feed(self) -> None:
        data = self.sock.recv(65536)
        self._in.write(data) if data else self._in.write_eof()

    def encrypt(self, data: bytes) -> bytes:
        """The records that carry some bytes."""
        self.tls.write(data)
        return self._out.read()

    def goodbye(self) -> bytes:
        """The record that says close_notify."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        return self._out.read()

    def receive(self) -> bytes:
        """The next bytes, decrypted; b"" at close_notify. Raises SSLEOFError at an end without it."""
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                self._feed()

    def receive_until(self, what: bytes) -> bytes:
        """All bytes up to some that hold this."""
        data = b""
        while what not in data:
            more = self.receive()
            assert more, data
            data += more
        return data


def reset(sock: socket.socket) -> None:
    """Close with a reset, as a crashed program or a cut cable's other end does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.socket.close(sock)


def others_are_served(program: Program, seconds: float = 3.0, **options: Any) -> None:
    """Assert that a fresh ws and a fresh wss client, of another machine, are served, and soon."""
    for tls in (False, True):
        since = time.monotonic()
        with WebSocket(program.address, tls=tls, source="127.0.0.99", **options) as client:
            assert client.ask("still here?") == "still here?"
        assert time.monotonic() - since < seconds, f"a fresh client (TLS: {tls}) had to wait"


@contextlib.contextmanager
def unharmed(program: Program, *, growth: int = 32 * 2**20, peak: int | None = None) -> Iterator[None]:
    """Assert that after an attack others are served, and that threads, descriptors and memory come back.

    Args: growth, bytes of memory that may stay; peak, bytes of memory that may be in use meanwhile.
    """
    threads, descriptors, memory = program.threads(), program.descriptors(), program.memory()
    Path(f"/proc/{program.process.pid}/clear_refs").write_text("5")  # the peak counts from here
    yield
    others_are_served(program)
    wait_until(lambda: program.threads() <= threads, f"{threads} threads again")
    wait_until(lambda: program.descriptors() <= descriptors, f"{descriptors} descriptors again")
    wait_until(lambda: program.memory() - memory < growth, f"memory within {growth} of {memory} again")
    if peak is not None:
        status = Path(f"/proc/{program.process.pid}/status").read_text()
        highest = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]
        assert highest - memory < peak, f"{(highest - memory) / 2**20:.1f} MiB more at the peak"


def all_at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Do things in threads, all at the same time; return their results, or raise the first failure."""
    with concurrent.futures.ThreadPoolExecutor(max(1, len(actions))) as pool:
        return [future.result() for future in [pool.submit(action) for action in actions]]


def narrow(address: tuple[str, int], *, tls: bool = False) -> socket.socket:
    """A connected socket whose kernels keep little: a client that doesn't read it is felt soon."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # the server's kernel sizes its buffer by it
    sock.connect(address)
    return any_tls().wrap_socket(sock, server_hostname="localhost") if tls else sock


def upgraded(
    sock: socket.socket, address: tuple[str, int], path: str = "/echo", **headers: str
) -> socket.socket:
    """A socket of one's own, upgraded to WebSocket."""
    sock.sendall(upgrade_request(address, path, **headers))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 "), head
    return sock


class Deflating(WebSocket):
    """A WebSocket client that offers compression; what it sends is compressed where the caller does it."""

    def __init__(
        self, address: tuple[str, int], offer: str = "permessage-deflate", *, tls: bool = False
    ) -> None:
        super().__init__(address, tls=tls, Sec_WebSocket_Extensions=offer)
        self.agreed = self.headers.get("sec-websocket-extensions")
        self._inflater = zlib.decompressobj(-15)

    def receive(self) -> str | bytes:
        """The next message, inflated where need be."""
        fin, rsv, opcode, payload = self.receive_frame()
        assert fin and rsv in (0, 4) and opcode in (TEXT, BINARY), (fin, rsv, opcode, payload[:100])
        if rsv:
            payload = self._inflater.decompress(payload + b"\0\0\xff\xff")
        return payload.decode() if opcode == TEXT else payload
