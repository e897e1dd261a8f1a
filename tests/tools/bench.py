# SPDX-License-Identifier: MIT
"""How fast is wsdual beside what you would pick instead? One run, one table.

    python tests/bench.py                         the whole table, 10 to 15 minutes
    python tests/bench.py --rows many --pairs 3   one row of it, under a minute
    python tests/bench.py --goals --markdown      with the verdicts, to paste into a README
    python tests/bench.py methods                 the lesson's table: trial and peek side by side

The first run installs the peers into a virtual environment of the benchmark's own (see --venv). wsdual runs
on that environment's interpreter too, so everybody has the same Python, OpenSSL and certificate.

How a figure is made
--------------------

    load (this process)                       server (a child process)
    raw sockets, ready-made frames   ───▶     wsdual, or a peer with the same application
    one core in 'fair'                        the other core in 'fair'

Absolute figures drift: by the minute, with the machine's temper, by a third or more. So nothing is measured
alone. wsdual and one peer take turns in short slices (A B, B A, A B, ...), two neighbours give one ratio, and
the table shows the median of these ratios. Beside it stands the median of each server's own slices, for an
idea; wsdual's is over all its slices, so the two figures needn't divide to the ratio.

- A ratio says how many times as good wsdual is: 2.00x is twice the messages a second, or half the time, or
  half the memory. Below 1.00x the peer is better.
- 'fair': all processes of the server share one core, the load has another one. 'default': everything starts
  as a user would start it, and the system places it, the load too; wsdual then holds itself to one core.
- 'load' is the share of one core that the load used against wsdual. Near 100 % it is the load that was
  measured. Each slice's own share is in the JSON.
- Every answer is checked: small ones byte by byte, large ones whole at first and then by length and end.
- --goals tells between which ratios the middle half of the pairs lies: how sure the median is. What
  other programs did meanwhile stands in the head of the table: with more than a few percent, measure again,
  or look at --cpu, the time that the server itself computed for each message or connection, which others
  disturb less.

The rows
--------

round trip      one connection, one 64-byte message at a time
many            50 connections, each with one 64-byte message in flight
pipeline        one connection, 64 messages of 64 bytes in flight, topped up by halves, so that the server
                always finds some waiting
large           one connection, one message of 1,000,000 bytes at a time
connect         connect, TLS, upgrade, one echo, close handshake, end of stream; one client after the other
first           connected; from the first byte the client sends (on wss its ClientHello) to the first byte of
                the answer to its upgrade (on wss deciphered); the server is idle otherwise
chat            one line of chat to 1,000 logged-in users, until the last one has it
memory          growth of the resident set per idle connection, over 500 of them; what the system itself keeps
                for a socket isn't in it
idle            wsdual alone: 5,000 idle connections, then one echo on each

What was done to the peers: TCP_NODELAY is set for simple-websocket and websocket-server, which leave Nagle's
algorithm on (websockets and HAProxy turn it off themselves). websocket-server's backlog is 128 instead of 5.
simple-websocket sits on a plain threaded socket server, which does the TLS. HAProxy and the server behind it
share one core in 'fair'. Messages are text (websocket-server has no binary), nothing is compressed.

Two columns show what can be had at all. 'wsproto alone' is no server: wsproto in a loop on ready-made bytes,
without a socket and without TLS. 'bare threads' is wsdual's way of serving without its work: a thread for
each connection that looks at nothing and answers from ready-made bytes, held to one core as wsdual is.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import datetime
import functools
import gc
import hashlib
import html
import json
import math
import os
import platform
import random
import select
import shutil
import signal
import socket
import socketserver
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
OURS = "wsdual"
LIMIT = "wsproto-alone"
BARE = "bare-threads"
WIRES = ("ws", "wss")

SMALL_SIZE, LARGE_SIZE = 64, 1_000_000
CONNECTIONS, WINDOW, USERS, IDLE, CROWD = 50, 64, 1000, 500, 5000
CLASS_SIZE = 30

START_LIMIT = 15.0  # seconds until a server has to accept connections
STALL_LIMIT = 25.0  # seconds by which a slice may run over before it counts as hung
CROWD_LIMIT = 180.0  # the same for opening thousands of connections
TRIES = 3  # failures of one server in one row, after which it has no figure there


class Failed(Exception):
    """A server died, hung, or answered something else than it should; the text is the reason in the table."""


# ------------------------------------------------------------------------------------------------------------
# The peers
# ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """Something to measure wsdual against, and what has to be installed for it."""

    title: str
    package: str


PEERS = {
    "websockets-threading": Peer("websockets threading", "websockets"),
    "websockets-asyncio": Peer("websockets asyncio", "websockets"),
    "simple-websocket": Peer("simple-websocket", "simple-websocket"),
    "websocket-server": Peer("websocket-server", "websocket-server"),
    "haproxy": Peer("HAProxy + asyncio", "websockets"),
    LIMIT: Peer("wsproto alone", "wsproto"),
    BARE: Peer("bare threads", "wsproto"),
}
PACKAGES = ("wsproto", "h11", "cryptography", "websockets", "simple-websocket", "websocket-server")


def chat_turn(message: str | bytes, name: str) -> tuple[str, str, bool]:
    """One chat message of the user `name`: their name from now on, the answer, and whether everybody gets it.

    Only what the benchmark says: the work for one line (parse, build) is the same as wsdual's.
    """
    request = json.loads(message)
    if request["type"] == "login":
        name = request["name"]
        return name, json.dumps({"type": "welcome", "name": name, "kind": "ws", "users": []}), False
    return name, json.dumps({"type": "said", "from": name, "text": request["text"]}), True


def server_tls(cert: str | None) -> ssl.SSLContext | None:
    """The TLS settings of the peers: Python's own defaults."""
    if cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)
    return context


def serve_websockets_threading(port: int, app: str, cert: str | None) -> None:
    """websockets' threading server, as its documentation shows it."""
    from websockets.sync.server import ServerConnection, serve

    users: dict[ServerConnection, str] = {}

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    def chat(connection: ServerConnection) -> None:
        name = ""
        try:
            for message in connection:
                name, answer, to_all = chat_turn(message, name)
                users[connection] = name
                for user in list(users) if to_all else [connection]:
                    user.send(answer)
        finally:
            users.pop(connection, None)

    with serve(chat if app == "chat" else echo, HOST, port, ssl=server_tls(cert)) as server:
        server.serve_forever()


def serve_websockets_asyncio(port: int, app: str, cert: str | None) -> None:
    """websockets' asyncio server, with its own broadcast()."""
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    users: set[ServerConnection] = set()

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def chat(connection: ServerConnection) -> None:
        name = ""
        try:
            async for message in connection:
                name, answer, to_all = chat_turn(message, name)
                users.add(connection)
                broadcast(users if to_all else [connection], answer)
        finally:
            users.discard(connection)

    async def main() -> None:
        async with serve(chat if app == "chat" else echo, HOST, port, ssl=server_tls(cert)) as server:
            await server.serve_forever()

    asyncio.run(main())


def request_environ(sock: socket.socket) -> dict[str, Any]:
    """Read an HTTP request and give it as WSGI does; simple-websocket takes its socket from there."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n") and len(head) < 65536:
        data = sock.recv(4096)
        if not data:
            raise ConnectionError("closed before the request was complete")
        head += data
    headers = (line.split(":", 1) for line in head.decode("latin-1").split("\r\n")[1:] if ":" in line)
    environ = {"HTTP_" + name.upper().replace("-", "_"): value.strip() for name, value in headers}
    return environ | {"werkzeug.socket": sock}


def serve_simple_websocket(port: int, app: str, cert: str | None) -> None:
    """simple-websocket's Server on the standard library's threaded socket server."""
    import simple_websocket

    tls = server_tls(cert)
    users: dict[simple_websocket.Server, str] = {}

    def chat(connection: simple_websocket.Server) -> None:
        name = ""
        while True:
            name, answer, to_all = chat_turn(connection.receive(), name)
            users[connection] = name
            for user in list(users) if to_all else [connection]:
                user.send(answer)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            sock = self.request
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                sock = tls.wrap_socket(sock, server_side=True)
            connection = simple_websocket.Server.accept(request_environ(sock))
            with contextlib.suppress(simple_websocket.ConnectionClosed):
                if app == "chat":
                    chat(connection)
                while True:
                    connection.send(connection.receive())

    class Threaded(socketserver.ThreadingTCPServer):
        daemon_threads = allow_reuse_address = True
        request_queue_size = 128

    Threaded((HOST, port), Handler).serve_forever()


def serve_websocket_server(port: int, app: str, cert: str | None) -> None:
    """websocket-server; its TLS uses ssl.wrap_socket, which Python 3.12 removed."""
    from websocket_server import WebsocketServer
    from websocket_server.websocket_server import WebSocketHandler

    WebSocketHandler.disable_nagle_algorithm = True
    WebsocketServer.request_queue_size = 128
    names: dict[int, str] = {}

    def echo(client: dict[str, Any], server: WebsocketServer, message: str) -> None:
        server.send_message(client, message)

    def chat(client: dict[str, Any], server: WebsocketServer, message: str) -> None:
        names[client["id"]], answer, to_all = chat_turn(message, names.get(client["id"], ""))
        for user in list(server.clients) if to_all else [client]:
            server.send_message(user, answer)

    server = WebsocketServer(HOST, port, cert=cert, key=cert)
    server.set_fn_message_received(chat if app == "chat" else echo)
    server.run_forever()


def serve_wsproto_alone(port: int, app: str, cert: str | None) -> None:
    """No server: for each number of seconds on stdin, the messages per second that a loop echoes."""
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import AcceptConnection, TextMessage

    connection = WSConnection(ConnectionType.SERVER)
    connection.receive_data(upgrade_request(0, "/echo"))
    list(connection.events())
    connection.send(AcceptConnection())
    batch = SMALL * WINDOW

    def echo_batch() -> bytes:
        connection.receive_data(batch)
        messages = (event for event in connection.events() if isinstance(event, TextMessage))
        return b"".join(connection.send(TextMessage(data=message.data)) for message in messages)

    if echo_batch() != SMALL_ECHO * WINDOW:
        sys.exit("wsproto didn't echo")
    for line in sys.stdin:
        begin = now = time.perf_counter()
        until, batches = begin + float(line), 0
        while now < until:
            echo_batch()
            batches += 1
            now = time.perf_counter()
        print(batches * WINDOW / (now - begin), flush=True)


def serve_bare_threads(port: int, app: str, cert: str | None) -> None:
    """No server either: a thread for each connection, which knows all answers beforehand."""
    tls = server_tls(cert)
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    switching += b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
    farewell = frame((1000).to_bytes(2, "big"), CLOSE, masked=False)

    class Bare(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):
                sock = tls.wrap_socket(self.request, server_side=True) if tls else self.request
                request = b""
                while not request.endswith(b"\r\n\r\n") and (data := sock.recv(4096)):
                    request += data
                sock.sendall(switching)
                while (data := sock.recv(4096)) and data != GOODBYE:
                    sock.sendall(SMALL_ECHO * (len(data) // len(SMALL)))
                sock.sendall(farewell)
                socket.socket.shutdown(sock, socket.SHUT_WR)
                sock.recv(1)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads, request_queue_size = True, True, 128

    if len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})  # as wsdual does
    Server((HOST, port), Bare).serve_forever()


SERVE: dict[str, Callable[[int, str, str | None], None]] = {
    "websockets-threading": serve_websockets_threading,
    "websockets-asyncio": serve_websockets_asyncio,
    "simple-websocket": serve_simple_websocket,
    "websocket-server": serve_websocket_server,
    LIMIT: serve_wsproto_alone,
    BARE: serve_bare_threads,
}


def haproxy_config(port: int, backend: int, cert: Path, folder: Path) -> str:
    """The usual way to ws and wss on one port: look at the first bytes, pass on to one of two frontends."""
    tls, plain = folder / f"tls-{port}", folder / f"plain-{port}"
    return f"""
defaults
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
frontend both
    mode tcp
    bind {HOST}:{port}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    tcp-request content accept if HTTP
    use_backend to_tls if {{ req.ssl_hello_type 1 }}
    default_backend to_plain
backend to_tls
    mode tcp
    server tls unix@{tls} send-proxy-v2
backend to_plain
    mode tcp
    server plain unix@{plain} send-proxy-v2
frontend tls
    mode http
    bind unix@{tls} accept-proxy ssl crt {cert}
    default_backend websockets
frontend plain
    mode http
    bind unix@{plain} accept-proxy
    default_backend websockets
backend websockets
    mode http
    server websockets {HOST}:{backend}
"""


# ------------------------------------------------------------------------------------------------------------
# What has to be there: peers, certificate
# ------------------------------------------------------------------------------------------------------------


@dataclass
class Tools:
    """Where things are on this machine, and what isn't there and why."""

    python: str
    wsdual: Path
    folder: Path
    cert: Path
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # peer -> reason

    @property
    def peers(self) -> list[str]:
        """The peers that can run, in the order of the table."""
        return [name for name in PEERS if name not in self.missing]


def default_venv() -> Path:
    """The user's cache folder: kept between runs, and nobody else's to write to."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "wsdual-bench" / f"py{sys.version_info[0]}.{sys.version_info[1]}"


def installed_versions(python: str) -> dict[str, str]:
    """The versions of the packages that the benchmark's environment has."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "have = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: have[n] for n in sys.argv[1:] if n in have}))"
    )
    done = subprocess.run([python, "-c", code, *PACKAGES], capture_output=True, text=True, timeout=60)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def install_peers(venv: Path) -> tuple[str, dict[str, str], dict[str, str]]:
    """Make the environment where it isn't yet. Its python, the versions, and why a package is missing."""
    python = str(venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    if not Path(python).exists():
        tell(f"making {venv}")
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=120)
    have, reasons = installed_versions(python), {}
    for package in PACKAGES:
        if package not in have:
            tell(f"installing {package}")
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
            done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
            if done.returncode != 0:
                reasons[package] = "pip: " + (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return python, installed_versions(python), reasons


def gather_tools(venv: Path, wsdual: Path, folder: Path, wanted: Sequence[str]) -> Tools:
    """Install the peers, make the certificate, find HAProxy. Exits where wsdual itself can't run."""
    if not wsdual.exists():
        sys.exit(f"bench.py: {wsdual} isn't there (say where with --wsdual)")
    python, versions, reasons = install_peers(venv)
    for package in ("wsproto", "cryptography"):
        if package not in versions:
            sys.exit(f"bench.py: wsdual needs {package}: {reasons.get(package, 'not installed')}")
    tools = Tools(python, wsdual, folder, folder / "server.pem", versions)
    for name, peer in PEERS.items():
        if name not in wanted:
            tools.missing[name] = ""
        elif peer.package not in versions:
            tools.missing[name] = reasons.get(peer.package, "not installed")
    if "haproxy" not in tools.missing and not shutil.which("haproxy"):
        tools.missing["haproxy"] = "haproxy isn't installed"
    if "haproxy" not in tools.missing:
        words = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, timeout=10).stdout.split()
        versions["haproxy"] = words[2] if len(words) > 2 else "?"
    subprocess.run([python, __file__, "certificate", str(tools.cert)], check=True, timeout=60)
    return tools


def write_certificate(path: Path) -> None:
    """A self-signed certificate for localhost (ECDSA P-256) and its key in one PEM file, for all servers."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=2))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem += builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pem)


# ------------------------------------------------------------------------------------------------------------
# Servers as processes
# ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Address:
    """Where a client goes."""

    port: int
    tls: bool
    path: str = "/echo"
    pids: tuple[int, ...] = ()  # who serves there, to look at the time that it computes


@dataclass
class Server:
    """A running server: one process, or two with HAProxy."""

    name: str
    port: int
    tls: bool
    app: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> Address:
        """Where its clients go."""
        pids = tuple(process.pid for process in self.processes)
        return Address(self.port, self.tls, "/" + self.app, pids)

    def why_dead(self) -> str:
        """What ended it, or '' while all of its processes live."""
        for process in self.processes:
            status = process.poll()
            if status is not None:
                return f"died ({signal.Signals(-status).name})" if status < 0 else f"exited with {status}"
        return ""

    def resident(self) -> int:
        """Bytes of physical memory of all its processes together (Linux)."""
        total = 0
        for process in self.processes:
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Rss:"):
                    total += int(line.split()[1]) * 1024
        return total

    def stop(self) -> None:
        """End its processes, by their own ids."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(10)
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return sock.getsockname()[1]


def spawn(command: Sequence[str], core: int | None, pipes: bool = False) -> subprocess.Popen[bytes]:
    """Start a process with its output going nowhere, held to `core` where one is given."""
    quiet = subprocess.PIPE if pipes else subprocess.DEVNULL
    before = os.sched_getaffinity(0) if core is not None else None
    try:
        if core is not None:
            os.sched_setaffinity(0, {core})  # inherited
        return subprocess.Popen(
            command, stdin=quiet, stdout=quiet, stderr=subprocess.DEVNULL, start_new_session=True
        )
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


def start_server(
    tools: Tools, name: str, tls: bool, app: str, core: int | None = None, extra: Sequence[str] = ()
) -> Server:
    """Start wsdual or a peer, and return when it accepts connections. Raises Failed where it doesn't."""
    if name == "websocket-server" and tls and not hasattr(ssl, "wrap_socket"):
        raise Failed("no TLS on Python 3.12 and newer")
    port = free_port()
    server = Server(name, port, tls, app)
    run = functools.partial(spawn, core=core)
    options = ["--app", app, *(["--cert", str(tools.cert)] if tls and name != "haproxy" else [])]
    me = [tools.python, str(Path(__file__).resolve()), "serve"]
    try:
        if name == OURS:
            start = [tools.python, str(tools.wsdual), "--port", str(port), "--app", app]
            limits = ["--cert", str(tools.cert), "--max-clients", str(CROWD + 100)]
            server.processes.append(run([*start, *limits, *extra]))
        elif name == LIMIT:
            server.processes.append(run([*me, LIMIT], pipes=True))
            return server
        elif name == "haproxy":
            backend = free_port()
            server.processes.append(run([*me, "websockets-asyncio", "--port", str(backend), *options]))
            wait_until_accepting(server, backend)
            config = tools.folder / f"haproxy-{port}.cfg"
            config.write_text(haproxy_config(port, backend, tools.cert, tools.folder))
            server.processes.append(run(["haproxy", "-db", "-q", "-f", str(config)]))
        else:
            server.processes.append(run([*me, name, "--port", str(port), *options]))
        wait_until_accepting(server, port)
    except BaseException:
        server.stop()
        raise
    return server


def wait_until_accepting(server: Server, port: int) -> None:
    """Connect until it works; Failed where the server dies or START_LIMIT is over."""
    until = time.monotonic() + START_LIMIT
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        if server.why_dead():
            raise Failed(f"it {server.why_dead()} at its start")
        time.sleep(0.02)
    raise Failed("it doesn't accept connections")


class Fleet:
    """The servers of one section, each started when it is first asked for; all ended at its end."""

    def __init__(self, tools: Tools, tls: bool, app: str, core: int | None) -> None:
        self._start = functools.partial(start_server, tools, tls=tls, app=app, core=core)
        self._servers: dict[str, Server] = {}

    def get(self, name: str) -> Server:
        """The running server of that name; a dead one is started anew."""
        if self.why_dead(name):
            self.drop(name)
        if name not in self._servers:
            self._servers[name] = self._start(name)
        return self._servers[name]

    def why_dead(self, name: str) -> str:
        """What ended that server, or ''."""
        return self._servers[name].why_dead() if name in self._servers else ""

    def drop(self, name: str) -> None:
        """End that server; the next get() starts another one."""
        if name in self._servers:
            self._servers.pop(name).stop()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._servers):
            self.drop(name)


# ------------------------------------------------------------------------------------------------------------
# The client: raw sockets, ready-made frames
# ------------------------------------------------------------------------------------------------------------

MASK = bytes((0x37, 0xFA, 0x21, 0x3D))
KEY = base64.b64encode(b"benchmark of 16.")
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def frame(payload: bytes, opcode: int = TEXT, masked: bool = True) -> bytes:
    """One whole frame (RFC 6455, 5.2), as a client sends it (masked) or as a server does."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, size | masked << 7))
    elif size < 65536:
        head = bytes((0x80 | opcode, 126 | masked << 7)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 127 | masked << 7)) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    whole = MASK * (size // 4 + 1)
    ciphered = int.from_bytes(payload, "big") ^ int.from_bytes(whole[:size], "big")
    return head + MASK + ciphered.to_bytes(size, "big")


def upgrade_request(port: int, path: str) -> bytes:
    """The request that a client without extensions sends."""
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {HOST}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY.decode()}",
        "Sec-WebSocket-Version: 13",
    )
    return "\r\n".join((*lines, "", "")).encode()


SMALL_TEXT = (b"sixty-four bytes " * 4)[:SMALL_SIZE]
SMALL, SMALL_ECHO = frame(SMALL_TEXT), frame(SMALL_TEXT, masked=False)
GOODBYE = frame((1000).to_bytes(2, "big"), CLOSE)

CLIENT_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CLIENT_TLS.check_hostname = False
CLIENT_TLS.verify_mode = ssl.CERT_NONE  # the certificate isn't what is measured

# Any other way to bound a blocking call costs one more system call each time: a timeout on the socket makes
# Python poll() first. Where there is no alarm (Windows), that price is paid.
HAS_ALARM = hasattr(signal, "setitimer")
SOCKET_TIMEOUT = None if HAS_ALARM else STALL_LIMIT


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Failed is raised out of any call in here that still runs after that time (main thread only)."""

    def ring(*_: object) -> None:
        raise Failed(f"hung for {seconds:.0f} s")

    if not HAS_ALARM:
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def dial(port: int) -> socket.socket:
    """A TCP connection; nothing is sent yet."""
    sock = socket.socket()
    sock.settimeout(SOCKET_TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.connect((HOST, port))
    return sock


def upgrade(sock: socket.socket, request: bytes) -> None:
    """Send the request and read the answer, which has to accept it and has to be all there is."""
    sock.sendall(request)
    finish_upgrade(sock, b"")


def finish_upgrade(sock: socket.socket, answer: bytes) -> None:
    """Read what is left of the answer to an upgrade request and check it."""
    while b"\r\n\r\n" not in answer:
        data = sock.recv(4096)
        if not data or len(answer) > 65536:
            raise Failed("no answer to the upgrade request")
        answer += data
    if not (answer.startswith(b"HTTP/1.1 101") and ACCEPT in answer and answer.endswith(b"\r\n\r\n")):
        raise Failed(f"upgrade refused: {answer[:60]!r}")


def open_websocket(address: Address) -> socket.socket:
    """A connection that is through TCP, TLS and upgrade. Close it with close()."""
    sock = dial(address.port)
    try:
        if address.tls:
            sock = CLIENT_TLS.wrap_socket(sock)
        upgrade(sock, upgrade_request(address.port, address.path))
    except BaseException:
        sock.close()
        raise
    return sock


def read_rest(sock: socket.socket, data: bytes, expected: bytes) -> None:
    """Read on until `data` is as long as what is expected; Failed where it isn't the same."""
    while len(data) < len(expected):
        more = sock.recv(4096)
        if not more:
            raise Failed("closed in the middle of an answer")
        data += more
    if data != expected:
        raise Failed(f"wrong answer: {data[:20]!r}...")


def echo_once(sock: socket.socket) -> None:
    """One small message and back, checked."""
    sock.sendall(SMALL)
    read_rest(sock, b"", SMALL_ECHO)


# ------------------------------------------------------------------------------------------------------------
# The rows
# ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slice:
    """What one turn of one server gave: figures by the row's metrics, and the load's share of a core.

    One figure that all rows have is "cpu": the seconds that the server computed for one message, connection
    or line of chat.
    """

    figures: dict[str, float]
    share: float


class Watch:
    """Times a block: `seconds`, `share`, the part of them that this process was computing, and `served`, the
    seconds that the server was. No garbage collection of the load's own in there."""

    seconds = share = served = 0.0

    def __init__(self, address: Address) -> None:
        self._pids = address.pids

    def __enter__(self) -> Watch:
        gc.disable()
        self._served, self._cpu = cpu_seconds(self._pids), time.process_time()
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begin
        self.share = (time.process_time() - self._cpu) / self.seconds
        gc.enable()
        self.served = cpu_seconds(self._pids) - self._served

    def rate(self, count: int) -> Slice:
        """The figures of a row of so many a second."""
        return Slice({"rate": count / self.seconds, "cpu": self.served / max(1, count)}, self.share)

    def times(self, times: Sequence[float]) -> Slice:
        """The figures of a row of times."""
        p50, p99 = percentile(times, 50), percentile(times, 99)
        return Slice({"p50": p50, "p99": p99, "cpu": self.served / len(times)}, self.share)


def cpu_seconds(pids: Sequence[int]) -> float:
    """The seconds that processes have computed so far, with all their threads (Linux; elsewhere 0)."""
    if sys.platform != "linux":
        return 0.0
    # clock_getcpuclockid(3), which Python doesn't have: the number of a process's own clock.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values don't exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def measure_round_trip(address: Address, seconds: float) -> Slice:
    """Seconds per echo of 64 bytes, one after the other on one connection."""
    times: list[float] = []
    with contextlib.closing(open_websocket(address)) as sock:
        echo_once(sock)
        send, receive, clock = sock.sendall, sock.recv, time.perf_counter
        with Watch(address) as watch:
            begin = clock()
            until = begin + seconds
            while begin < until:
                send(SMALL)
                answer = receive(4096)
                if answer != SMALL_ECHO:
                    read_rest(sock, answer, SMALL_ECHO)
                end = clock()
                times.append(end - begin)
                begin = end
    return watch.times(times)


def measure_many(address: Address, seconds: float) -> Slice:
    """Messages per second over 50 connections, each with one message in flight."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(contextlib.closing(open_websocket(address))) for _ in range(CONNECTIONS)]
        poller, by_fd, echoes = new_poller(), {}, 0
        for sock in socks:
            echo_once(sock)
            poller.register(sock.fileno(), select.POLLIN)
            by_fd[sock.fileno()] = sock
        with Watch(address) as watch:
            until = time.perf_counter() + seconds
            for sock in socks:
                sock.send(SMALL)
            while time.perf_counter() < until:
                for fd, _ in poller.poll():
                    sock = by_fd[fd]
                    answer = sock.recv(4096)
                    if answer != SMALL_ECHO:
                        read_rest(sock, answer, SMALL_ECHO)
                    sock.send(SMALL)
                    echoes += 1
        return watch.rate(echoes)


def new_poller() -> Any:
    """epoll, or poll where there is none. Both give (descriptor, what) pairs; with no timeout they wait."""
    if hasattr(select, "epoll"):
        return select.epoll()
    if hasattr(select, "poll"):
        return select.poll()
    raise Failed("this system has no poll()")


def measure_pipeline(address: Address, seconds: float) -> Slice:
    """Messages per second on one connection with 64 in flight, topped up by 32 as soon as 32 are back."""
    half, half_echo = SMALL * (WINDOW // 2), SMALL_ECHO * (WINDOW // 2)
    size, halves = len(half_echo), 0
    # TLS reads a record at a time; a plain socket can wait for all of it in one call.
    flags = 0 if address.tls else socket.MSG_WAITALL
    with contextlib.closing(open_websocket(address)) as sock:
        echo_once(sock)
        send, receive, clock = sock.sendall, sock.recv, time.perf_counter
        send(half)
        with Watch(address) as watch:
            until = clock() + seconds
            while clock() < until:
                send(half)
                answer = receive(size, flags)
                while len(answer) < size:
                    answer += receive(size - len(answer), flags) or fail("closed in the middle of an answer")
                if answer != half_echo:
                    raise Failed(f"wrong answer: {answer[:20]!r}...")
                halves += 1
    return watch.rate(halves * (WINDOW // 2))


def fail(reason: str) -> Any:
    """`raise Failed` as an expression."""
    raise Failed(reason)


@functools.cache
def large_frames() -> tuple[bytes, bytes]:
    """The large message as a client sends it and as a server sends it."""
    text = b" ".join(b"%d" % number for number in range(200_000))[:LARGE_SIZE]
    return frame(text), frame(text, masked=False)


def measure_large(address: Address, seconds: float) -> Slice:
    """Messages of 1,000,000 bytes echoed per second, one at a time."""
    message, expected = large_frames()
    size, count = len(expected), 0
    buffer = bytearray(size)
    view = memoryview(buffer)
    with contextlib.closing(open_websocket(address)) as sock:
        with Watch(address) as watch:
            until = time.perf_counter() + seconds
            while count == 0 or time.perf_counter() < until:
                sock.sendall(message)
                got = 0
                while got < size:
                    got += sock.recv_into(view[got:]) or fail("closed in the middle of an answer")
                if (count == 0 and buffer != expected) or buffer[-64:] != expected[-64:]:
                    raise Failed("wrong answer to a large message")
                buffer[-64:] = bytes(64)
                count += 1
    return watch.rate(count)


def say_goodbye(sock: socket.socket) -> None:
    """The closing handshake from the client's side, until the server has closed the connection."""
    sock.sendall(GOODBYE)
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(4096):
            pass


def measure_connect(address: Address, seconds: float) -> Slice:
    """Connections per second: connect, TLS, upgrade, one echo, closing handshake, end of stream."""
    count = 0
    with Watch(address) as watch:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            with contextlib.closing(open_websocket(address)) as sock:
                echo_once(sock)
                say_goodbye(sock)
            count += 1
    return watch.rate(count)


def measure_first(address: Address, seconds: float) -> Slice:
    """Seconds from the client's first byte to the first byte of the answer to its upgrade request."""
    times: list[float] = []
    request = upgrade_request(address.port, address.path)
    with Watch(address) as watch:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            sock = dial(address.port)
            begin = time.perf_counter()
            if address.tls:
                sock = CLIENT_TLS.wrap_socket(sock)
            with contextlib.closing(sock):
                sock.sendall(request)
                answer = sock.recv(4096)
                times.append(time.perf_counter() - begin)
                finish_upgrade(sock, answer)
                say_goodbye(sock)
            time.sleep(0.001)  # the server's own tidying up isn't part of the next one's time
    return watch.times(times)


class Crowd:
    """Many connections that mostly wait. They answer pings, or servers would drop them."""

    alive: set[Crowd] = set()

    def __init__(self, address: Address) -> None:
        self.address = address
        self.members: list[Member] = []
        self.poller = new_poller()
        self.by_fd: dict[int, Member] = {}
        self.alive.add(self)

    def add(self) -> Member:
        """One more connection, through its upgrade."""
        member = Member(open_websocket(self.address))
        self.members.append(member)
        self.by_fd[member.sock.fileno()] = member
        self.poller.register(member.sock.fileno(), select.POLLIN)
        return member

    def drain(self) -> int:
        """Take what has arrived on any connection, answer the pings in it; on how many it was."""
        ready = self.poller.poll(0)
        for fd, _ in ready:
            self.by_fd[fd].texts()
        return len(ready)

    def drain_all(self) -> None:
        """Drain the other crowds too: filling this one may take longer than their servers wait for a pong."""
        for crowd in self.alive:
            crowd.drain()

    def settle(self, quiet: float = 0.3, limit: float = 30.0) -> None:
        """Drain until nothing has come for `quiet` seconds."""
        begin = last = time.monotonic()
        while time.monotonic() - last < quiet and time.monotonic() - begin < limit:
            if self.drain():
                last = time.monotonic()
            else:
                time.sleep(0.01)

    def close(self) -> None:
        """Close all of them, without a word."""
        self.alive.discard(self)
        for member in self.members:
            member.sock.close()


class Member:
    """One connection of a crowd."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def texts(self, data: bytes | None = None) -> list[bytes]:
        """The text messages in `data`, or else in what recv() gives now. Pings are answered."""
        if data is None:
            data = self.sock.recv(65536)
        if not data:
            raise Failed("the server closed a waiting connection")
        self._buffer += data
        found = []
        while (parsed := self._next_frame()) is not None:
            opcode, payload = parsed
            if opcode == PING:
                self.sock.sendall(frame(payload, PONG))
            elif opcode == TEXT:
                found.append(payload)
            elif opcode != PONG:
                raise Failed(f"the server closed a connection: {payload[2:].decode() or payload.hex()}")
        return found

    def _next_frame(self) -> tuple[int, bytes] | None:
        """Take one whole frame off the buffer."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        short = buffer[1] & 0x7F
        start = 2 + {126: 2, 127: 8}.get(short, 0)
        if len(buffer) < start:
            return None
        end = start + (short if start == 2 else int.from_bytes(buffer[2:start], "big"))
        if len(buffer) < end:
            return None
        opcode, payload = buffer[0] & 0x0F, bytes(buffer[start:end])
        del buffer[:end]
        return opcode, payload

    def wait_for(self, part: bytes) -> bytes:
        """Read until a text message with `part` in it has come; give it."""
        while True:
            for text in self.texts():
                if part in text:
                    return text


class ChatRoom(Crowd):
    """1,000 users who are logged in to the chat."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._lines = 0
        self._length = -1  # of the frame that brings a line; learned from the first one
        try:
            with bounded(CROWD_LIMIT):
                for number in range(USERS):
                    self._log_in(f"user{number}")
                    if number % 10 == 0:
                        self.drain_all()
                self.settle()
                self._say()
        except BaseException:
            self.close()
            raise

    def _log_in(self, name: str) -> None:
        member = self.add()
        member.sock.sendall(frame(json.dumps({"type": "login", "name": name}).encode()))
        member.wait_for(b'"welcome"')

    def _say(self) -> float:
        """The first user says a line; the seconds until everybody has it."""
        self._lines += 1
        token = b"line %08d" % self._lines
        line = frame(json.dumps({"type": "say", "text": f"{token.decode()} to all of you"}).encode())
        waiting, by_fd, poll, length = len(self.members), self.by_fd, self.poller.poll, self._length
        begin = time.perf_counter()
        self.members[0].sock.sendall(line)
        while waiting:
            for fd, _ in poll():
                member = by_fd[fd]
                data = member.sock.recv(4096)
                if len(data) == length and token in data:
                    waiting -= 1
                    continue
                for text in member.texts(data):
                    if token in text:
                        waiting -= 1
                        self._length = len(text) + 2
        return time.perf_counter() - begin

    def measure(self, seconds: float) -> Slice:
        """Seconds from the speaker's message to the moment when the last user has it."""
        self.settle(0.02)
        times: list[float] = []
        with Watch(self.address) as watch:
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                times.append(self._say())
                time.sleep(0.002)
        return watch.times(times)


Measure = Callable[[float], Slice]


@dataclass(frozen=True)
class Metric:
    """One figure of a row, as the table shows it."""

    title: str
    unit: str  # "/s", "s" or "KB"
    more_is_better: bool

    def ratio(self, ours: float, theirs: float) -> float:
        """How many times as good ours is."""
        return ours / theirs if self.more_is_better else theirs / ours


@dataclass(frozen=True)
class Row:
    """One thing to measure: how, with which application, and what comes out."""

    open: Callable[[Address], contextlib.AbstractContextManager[Measure]]
    metrics: dict[str, Metric]
    app: str = "echo"


@contextlib.contextmanager
def each_slice(measure: Callable[[Address, float], Slice], address: Address) -> Iterator[Measure]:
    """For rows that open their connections anew in every slice."""
    yield functools.partial(measure, address)


@contextlib.contextmanager
def chat_room(address: Address) -> Iterator[Measure]:
    """For the row that keeps its users from slice to slice."""
    with contextlib.closing(ChatRoom(address)) as room:
        yield room.measure


def rate_row(measure: Callable[[Address, float], Slice], title: str) -> Row:
    """A row of so many a second."""
    metrics = {"rate": Metric(title, "/s", True), "cpu": Metric(f"{title}, CPU of each", "s", False)}
    return Row(functools.partial(each_slice, measure), metrics)


def times(title: str) -> dict[str, Metric]:
    """The metrics of a row of times."""
    return {key: Metric(f"{title}, {key}", "s", False) for key in ("p50", "p99")} | {
        "cpu": Metric(f"{title}, CPU of each", "s", False)
    }


ROWS = {
    "round-trip": Row(functools.partial(each_slice, measure_round_trip), times("round trip of 64 bytes")),
    "many": rate_row(measure_many, f"{CONNECTIONS} connections, messages"),
    "pipeline": rate_row(measure_pipeline, f"pipeline of {WINDOW}, messages"),
    "large": rate_row(measure_large, "1 MB messages"),
    "connect": rate_row(measure_connect, "connect to close"),
    "first": Row(functools.partial(each_slice, measure_first), times("first answer")),
    "chat": Row(chat_room, times(f"chat to {USERS:,} users"), app="chat"),
}
ONCE = ("memory", "idle")  # measured once, not in pairs: they don't drift
MEMORY = {
    "idle": Metric("memory of an idle connection", "KB", False),
    "used": Metric("the same after one echo", "KB", False),
}

# ------------------------------------------------------------------------------------------------------------
# Turns
# ------------------------------------------------------------------------------------------------------------

Place = tuple[str, str, str]  # mode, wire, row


@dataclass
class Results:
    """All that was measured. Pairs are (ours, theirs)."""

    alone: dict[Place, list[Slice]] = field(default_factory=dict)
    pairs: dict[Place, dict[str, list[tuple[Slice, Slice]]]] = field(default_factory=dict)
    failures: dict[tuple[Place, str], str] = field(default_factory=dict)
    memory: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # wire, server, metric
    idle: dict[str, dict[str, float]] = field(default_factory=dict)  # wire, metric
    others: float | None = None  # the share of the whole machine that other programs used meanwhile

    def ours(self, place: Place, metric: str) -> float | None:
        """wsdual's own figure: the median of all its slices in that place."""
        pairs = [pair[0] for found in self.pairs.get(place, {}).values() for pair in found]
        found = [one.figures[metric] for one in (*self.alone.get(place, []), *pairs)]
        return statistics.median(found) if found else None

    def theirs(self, place: Place, metric: str, peer: str) -> float | None:
        """A peer's own figure."""
        found = [pair[1].figures[metric] for pair in self.pairs.get(place, {}).get(peer, [])]
        return statistics.median(found) if found else None

    def ratio(self, place: Place, metric: str, peer: str) -> float | None:
        """The median of the ratios of the pairs, each between two neighbouring slices."""
        found = self.ratios(place, metric, peer)
        return statistics.median(found) if found else None

    def ratios(self, place: Place, metric: str, peer: str) -> list[float]:
        """One ratio for each pair."""
        rule = ROWS[place[2]].metrics[metric]
        pairs = self.pairs.get(place, {}).get(peer, [])
        return [rule.ratio(ours.figures[metric], theirs.figures[metric]) for ours, theirs in pairs]

    def share(self, place: Place, server: str = OURS) -> float | None:
        """The load's share of a core against that server."""
        if server == OURS:
            found = [a.share for pairs in self.pairs.get(place, {}).values() for a, _ in pairs]
            found += [one.share for one in self.alone.get(place, [])]
        else:
            found = [b.share for _, b in self.pairs.get(place, {}).get(server, [])]
        return statistics.median(found) if found else None


class Contestant:
    """One server in one row: opened when its first turn comes, and anew after a failure."""

    def __init__(self, fleet: Fleet, name: str, row: Row) -> None:
        self.name, self._fleet, self._row = name, fleet, row
        self._stack = contextlib.ExitStack()
        self._measure: Measure | None = None

    def turn(self, seconds: float) -> Slice:
        """One slice. Raises Failed with the reason where the server doesn't do it."""
        try:
            if self._measure is None:
                self._measure = self._open()
            with bounded(seconds + STALL_LIMIT):
                return self._measure(seconds)
        except (Failed, OSError) as error:
            time.sleep(0.05)  # a process that is dying needs a moment to be dead
            reason = self._fleet.why_dead(self.name) or str(error) or type(error).__name__
            self.close()
            self._fleet.drop(self.name)
            raise Failed(f"{self.name}: {reason}") from None

    def _open(self) -> Measure:
        server = self._fleet.get(self.name)
        if self.name == LIMIT:
            return functools.partial(measure_limit, server)
        measure = self._stack.enter_context(self._row.open(server.address))
        with bounded(STALL_LIMIT):
            measure(0.1)  # warm: imports, caches, threads
        return measure

    def close(self) -> None:
        """Give up what the row holds open; the server stays."""
        self._measure = None
        self._stack.close()


def measure_limit(server: Server, seconds: float) -> Slice:
    """Ask the loop that has no socket. The load does nothing meanwhile."""
    process = server.processes[0]
    assert process.stdin and process.stdout
    begin = cpu_seconds([process.pid])
    process.stdin.write(b"%f\n" % seconds)
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise Failed("the loop ended")
    rate = float(line)
    return Slice({"rate": rate, "cpu": (cpu_seconds([process.pid]) - begin) / (rate * seconds)}, 0.0)


def take_turns(ours: Contestant, peer: Contestant, pairs: int, seconds: float) -> list[tuple[Slice, Slice]]:
    """A B, B A, A B, ...: so that neither is always the first. Raises Failed after TRIES failures."""
    done: list[tuple[Slice, Slice]] = []
    failures = 0
    while len(done) < pairs:
        try:
            if len(done) % 2 == 0:
                first = ours.turn(seconds)
                done.append((first, peer.turn(seconds)))
            else:
                first = peer.turn(seconds)
                done.append((ours.turn(seconds), first))
        except Failed:
            failures += 1
            if failures == TRIES:
                raise
    return done


def run_row(
    results: Results, fleet: Fleet, place: Place, peers: Sequence[str], pairs: int, seconds: float
) -> None:
    """Measure wsdual against each of the peers in one row."""
    row = ROWS[place[2]]
    with contextlib.closing(Contestant(fleet, OURS, row)) as ours:
        if not peers:
            with noting_failure(results, place, OURS):
                results.alone[place] = [ours.turn(seconds) for _ in range(pairs)]
        for name in peers:
            with contextlib.closing(Contestant(fleet, name, row)) as peer:
                with noting_failure(results, place, name):
                    found = take_turns(ours, peer, pairs, seconds)
                    results.pairs.setdefault(place, {})[name] = found
            if row.app == "chat":
                fleet.drop(name)  # a thousand of its connections go with it
    if row.app == "chat":
        fleet.drop(OURS)


@contextlib.contextmanager
def noting_failure(results: Results, place: Place, name: str) -> Iterator[None]:
    """A server that fails leaves its reason in the table instead of a figure."""
    try:
        yield
    except Failed as error:
        results.failures[place, name] = str(error)
        tell(f"  no figure with {name}: {error}")


def row_peers(row: str, peers: Sequence[str]) -> list[str]:
    """The peers that take part in a row: the two limits only where they limit."""
    limits = {LIMIT: ("pipeline",), BARE: ("round-trip", "many", "connect")}
    return [name for name in peers if row in limits.get(name, (row,))]


def run_mode(
    results: Results, tools: Tools, mode: str, rows: Sequence[str], pairs: int, seconds: float
) -> None:
    """All rows of one mode, on ws and on wss."""
    server_core, load_core = cores(mode)
    with held_to(load_core):
        for wire in WIRES:
            for app in ("echo", "chat"):
                with Fleet(tools, wire == "wss", app, server_core) as fleet:
                    for name in [name for name in rows if name in ROWS and ROWS[name].app == app]:
                        tell(f"{mode}, {wire}: {name}")
                        peers = row_peers(name, tools.peers)
                        run_row(results, fleet, (mode, wire, name), peers, pairs, seconds)


def cores(mode: str) -> tuple[int | None, int | None]:
    """The server's core and the load's; None where nothing is held."""
    if mode != "fair":
        return None, None
    first, second, *_ = sorted(os.sched_getaffinity(0))
    return first, second


def can_be_fair() -> bool:
    """Whether processes can be held to cores here, and there are two of them."""
    return hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) >= 2


@contextlib.contextmanager
def held_to(core: int | None) -> Iterator[None]:
    """Hold the load to a core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# ------------------------------------------------------------------------------------------------------------
# Memory
# ------------------------------------------------------------------------------------------------------------


def run_memory(results: Results, tools: Tools) -> None:
    """Memory per idle connection, of every server, started as a user would start it."""
    for wire in WIRES:
        for name in [OURS, *(peer for peer in tools.peers if peer not in (LIMIT, BARE))]:
            tell(f"memory, {wire}: {name}")
            with noting_failure(results, ("default", wire, "memory"), name):
                results.memory.setdefault(wire, {})[name] = measure_memory(tools, name, wire == "wss")


def measure_memory(tools: Tools, name: str, tls: bool) -> dict[str, float]:
    """Bytes that a connection adds to a fresh server: after its upgrade, and after one echo besides."""
    with Fleet(tools, tls, "echo", None) as fleet, contextlib.ExitStack() as stack:
        server = fleet.get(name)
        try:
            crowd = stack.enter_context(contextlib.closing(Crowd(server.address)))
            with bounded(CROWD_LIMIT):
                for _ in range(20):  # what is needed once, whatever the number of connections
                    echo_once(crowd.add().sock)
                before = settled_memory(server)
                fresh = [crowd.add().sock for _ in range(IDLE)]
                opened = settled_memory(server)
                for sock in fresh:
                    echo_once(sock)
                used = settled_memory(server)
        except OSError as error:
            raise Failed(server.why_dead() or str(error)) from None
    return {"idle": (opened - before) / IDLE, "used": (used - before) / IDLE}


def settled_memory(server: Server) -> int:
    """The resident set once the server has come to rest."""
    time.sleep(0.5)
    return server.resident()


def run_idle(results: Results, tools: Tools) -> None:
    """Thousands of idle connections on wsdual alone."""
    for wire in WIRES:
        tell(f"{CROWD:,} idle connections, {wire}")
        with noting_failure(results, ("default", wire, "idle"), OURS):
            results.idle[wire] = measure_idle(tools, wire == "wss")


def measure_idle(tools: Tools, tls: bool) -> dict[str, float]:
    """Hold them, then echo once on each, one after the other: seconds, and memory per connection."""
    size = allowed_crowd()
    with Fleet(tools, tls, "echo", None) as fleet, contextlib.ExitStack() as stack:
        server = fleet.get(OURS)
        try:
            crowd = stack.enter_context(contextlib.closing(Crowd(server.address)))
            with bounded(CROWD_LIMIT):
                before = server.resident()
                for number in range(size):
                    crowd.add()
                    if number % 50 == 0:
                        crowd.drain()
                crowd.settle(1.0)
                memory = (server.resident() - before) / size
                times = [timed_echo(member) for member in crowd.members]
        except OSError as error:
            raise Failed(server.why_dead() or str(error)) from None
    p50, p99 = percentile(times, 50), percentile(times, 99)
    return {"held": size, "p50": p50, "p99": p99, "max": max(times), "memory": memory}


def timed_echo(member: Member) -> float:
    """One echo on a connection where pings may come in between."""
    begin = time.perf_counter()
    member.sock.sendall(SMALL)
    member.wait_for(SMALL_TEXT)
    return time.perf_counter() - begin


def allowed_crowd() -> int:
    """CROWD, or fewer where the system allows fewer open files; raises this process's own limit, which
    the servers inherit."""
    try:
        import resource
    except ImportError:
        return 400
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CROWD + 200 if hard == resource.RLIM_INFINITY else min(hard, 4 * CROWD)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return min(CROWD, soft - 200)


# ------------------------------------------------------------------------------------------------------------
# The report
# ------------------------------------------------------------------------------------------------------------


def figure(value: float | None, unit: str) -> str:
    """A figure with its unit, three digits or so."""
    if value is None:
        return "-"
    if unit == "/s":
        return f"{value:,.0f}/s" if value >= 100 else f"{value:.1f}/s"
    if unit == "KB":
        return f"{value / 1024:.1f} KB"
    for scale, name in ((1e-6, "µs"), (1e-3, "ms")):
        if value < 1000 * scale:
            scaled = value / scale
            return f"{scaled:.0f} {name}" if scaled >= 100 else f"{scaled:.1f} {name}"
    return f"{value:.2f} s"


def times_as_good(ratio: float) -> str:
    """A ratio as the table writes it."""
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def head(tools: Tools, results: Results, pairs: int, seconds: float) -> list[str]:
    """The machine, the versions, how it was measured, and what is missing."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(tools.versions.items()))
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    lines = [
        f"{now}, {cpu_model()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}; {versions}",
        f"{pairs} pairs of {seconds:g} s slices. A ratio says how many times as good wsdual is.",
        "TCP_NODELAY was set for simple-websocket and websocket-server, which leave Nagle's algorithm on.",
    ]
    shares = [
        (results.share(place, server) or 0.0, server, place)
        for place, found in results.pairs.items()
        for server in (OURS, *found)
    ]
    if shares:
        share, server, place = max(shares)
        lines.append(
            f"Load: one process; its largest share of a core was {share:.0%}"
            f" ({' '.join(place)}, against {server})."
        )
    if results.others is not None:
        lines.append(f"Other programs used {results.others:.0%} of the machine meanwhile.")
    for name, reason in tools.missing.items():
        if reason:
            lines.append(f"Left out: {PEERS[name].title} ({reason}).")
    for (place, name), reason in results.failures.items():
        lines.append(f"No figure for {name} in {' '.join(place)} ({reason}).")
    return lines


def mode_table(results: Results, mode: str, peers: Sequence[str], with_cpu: bool) -> list[list[str]]:
    """One mode's table, its heading first."""
    table = [["", OURS, *(PEERS[name].title for name in peers), "load"]]
    for row, rules in ROWS.items():
        for key, metric in rules.metrics.items():
            for wire in WIRES if key != "cpu" or with_cpu else ():
                place = (mode, wire, row)
                if place in results.pairs or place in results.alone:
                    share = results.share(place) or 0.0
                    cells = [paired_cell(results, place, key, name) for name in peers]
                    ours = figure(results.ours(place, key), metric.unit)
                    table.append([f"{metric.title}, {wire}", ours, *cells, f"{share:.0%}"])
    return table


def with_figures(results: Results, mode: str, peers: Sequence[str]) -> list[str]:
    """The peers that have a column: those that took part in some row."""
    took_part = {name for place, found in results.pairs.items() if place[0] == mode for name in found}
    took_part |= {name for place, name in results.failures if place[0] == mode}
    return [name for name in peers if name in took_part]


def paired_cell(results: Results, place: Place, key: str, peer: str) -> str:
    """A peer's figure and the ratio."""
    ratio = results.ratio(place, key, peer)
    if ratio is None:
        return "failed" if (place, peer) in results.failures else ""
    value = results.theirs(place, key, peer)
    return f"{figure(value, ROWS[place[2]].metrics[key].unit)} {times_as_good(ratio)}"


def memory_table(results: Results, peers: Sequence[str]) -> list[list[str]]:
    """The memory of a connection, all servers."""
    peers = [name for name in peers if name not in (LIMIT, BARE)]
    table = [["", OURS, *(PEERS[name].title for name in peers)]]
    for key, metric in MEMORY.items():
        for wire, found in results.memory.items():
            cells = [memory_cell(found, key, name) for name in (OURS, *peers)]
            table.append([f"{metric.title}, {wire}", *cells])
    return table


def memory_cell(found: dict[str, dict[str, float]], key: str, name: str) -> str:
    """One server's memory and, for a peer, the ratio."""
    if name not in found:
        return "failed"
    text = figure(found[name][key], "KB")
    if name == OURS or OURS not in found or found[OURS][key] <= 0:
        return text
    return f"{text} {times_as_good(MEMORY[key].ratio(found[OURS][key], found[name][key]))}"


def idle_lines(results: Results) -> list[str]:
    """What the thousands of idle connections said."""
    lines = []
    for wire, found in results.idle.items():
        echo = ", ".join(f"{key} {figure(found[key], 's')}" for key in ("p50", "p99", "max"))
        lines.append(
            f"{found['held']:,.0f} idle {wire} connections held, {figure(found['memory'], 'KB')} each;"
            f" then one echo on each of them: {echo}."
        )
    return lines


def draw_table(table: Sequence[Sequence[str]], markdown: bool) -> str:
    """The table with its columns in line; the first one to the left, the others to the right."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = []
    for number, line in enumerate(table):
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        lines.append("| " + " | ".join(cells) + " |" if markdown else "  ".join(cells).rstrip())
        if number == 0:
            rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
            lines.append("| " + " | ".join(rules) + " |" if markdown else "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def report(tools: Tools, results: Results, options: argparse.Namespace) -> str:
    """Everything that was measured, to read."""
    peers = tools.peers
    bullet = "- " if options.markdown else ""
    parts = ["\n".join(bullet + line for line in head(tools, results, options.pairs, options.slice))]
    for mode in options.modes:
        table = mode_table(results, mode, with_figures(results, mode, peers), options.cpu)
        if len(table) > 1:
            title = f"### {mode}" if options.markdown else f"{mode}:"
            parts += [title, draw_table(table, options.markdown)]
    if results.memory:
        parts.append(draw_table(memory_table(results, peers), options.markdown))
    if results.idle:
        parts.append("\n".join(bullet + line for line in idle_lines(results)))
    if options.goals:
        parts.append(draw_table(goals_table(results, options.modes), options.markdown))
    return "\n\n".join(parts)


# ------------------------------------------------------------------------------------------------------------
# The goals
# ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """How many times as good as a peer wsdual has to be: everywhere, or in one mode, or on one wire."""

    row: str
    metric: str
    peer: str
    at_least: float
    mode: str | None = None
    wire: str | None = None


THREADING, ASYNCIO = "websockets-threading", "websockets-asyncio"
GOALS = (
    Goal("many", "rate", THREADING, 2.0, mode="default"),
    Goal("many", "rate", ASYNCIO, 0.8, mode="default"),
    Goal("many", "rate", THREADING, 1.1, mode="fair"),
    Goal("many", "rate", ASYNCIO, 0.85, mode="fair"),
    Goal("pipeline", "rate", LIMIT, 0.95),
    Goal("pipeline", "rate", THREADING, 1.1),
    Goal("pipeline", "rate", ASYNCIO, 1.1),
    Goal("large", "rate", "simple-websocket", 1.5),
    Goal("large", "rate", THREADING, 0.6),
    Goal("connect", "rate", THREADING, 1.5, wire="ws"),
    Goal("connect", "rate", ASYNCIO, 1.1, wire="ws"),
    Goal("connect", "rate", THREADING, 1.15, wire="wss"),
    Goal("connect", "rate", ASYNCIO, 1.05, wire="wss"),
    Goal("first", "p50", "haproxy", 1.3, wire="ws"),
    Goal("first", "p50", "haproxy", 1.0, wire="wss"),
    Goal("round-trip", "p50", THREADING, 1.0),
    Goal("chat", "p50", ASYNCIO, 1.0),
)
IDLE_KB = {"ws": 36.0, "wss": 66.0}  # KB of an idle connection, at most
ECHO_LIMIT = 0.05  # seconds for an echo among the idle ones, p99


def goals_table(results: Results, modes: Sequence[str]) -> list[list[str]]:
    """Each goal that was measured, and whether it is met. Ratios count as shown, to two places."""
    table = [["goal", "in", "wanted", "measured", "middle half", "verdict"]]
    for goal in GOALS:
        title = ROWS[goal.row].metrics[goal.metric].title
        for mode in modes if goal.mode is None else [goal.mode]:
            for wire in WIRES if goal.wire is None else [goal.wire]:
                ratio = results.ratio((mode, wire, goal.row), goal.metric, goal.peer)
                if ratio is not None:
                    name = f"{title}, to {PEERS[goal.peer].title}"
                    met = round(ratio, 2) >= goal.at_least
                    wanted = f"{goal.at_least:.2f}x"
                    half = middle_half(results.ratios((mode, wire, goal.row), goal.metric, goal.peer))
                    table.append([name, f"{mode} {wire}", wanted, times_as_good(ratio), half, verdict(met)])
    for wire, limit in IDLE_KB.items():
        memory = results.memory.get(wire, {}).get(OURS, {}).get("idle")
        if memory is not None:
            met = memory <= limit * 1024
            table.append(["idle connection", wire, f"{limit:.0f} KB", figure(memory, "KB"), "", verdict(met)])
        if wire in results.idle:
            found = results.idle[wire]
            met = found["held"] >= CROWD and found["p99"] <= ECHO_LIMIT
            text = f"{found['held']:,.0f}, {figure(found['p99'], 's')}"
            table.append([f"{CROWD:,} held, echo p99", wire, figure(ECHO_LIMIT, "s"), text, "", verdict(met)])
    return table


def middle_half(ratios: Sequence[float]) -> str:
    """Between which ratios the middle half of the pairs lies: how sure the median is."""
    if len(ratios) < 3:
        return ""
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{times_as_good(low)} to {times_as_good(high)}"


def verdict(met: bool) -> str:
    """One word, or two."""
    return "met" if met else "NOT met"


# ------------------------------------------------------------------------------------------------------------
# The picture
# ------------------------------------------------------------------------------------------------------------

SVG_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px }
  .row { font-weight: 600 }
  .name, .value { font-size: 11px }
  .better { fill: #1a936f }
  .worse { fill: #d9730d }
  .even { stroke: #8b949e; stroke-dasharray: 2 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .better { fill: #3fb68b }
    .worse { fill: #f0883e }
  }
"""
PANEL, LABEL, CLIP, BAR_STEP = 480, 130, 4.0, 15  # widths, the ratio where bars are cut, the height of a line


def panel(results: Results, mode: str, wire: str, x: int, y: int) -> tuple[list[str], int]:
    """One mode on one wire: for each row a bar per peer. Gives the SVG lines and the y below them."""
    unit = (PANEL - LABEL - 60) / CLIP
    lines = [svg_text(x, y, "title", f"{mode}, {wire}")]
    y += 22
    for row, rules in ROWS.items():
        key, metric = next(iter(rules.metrics.items()))
        found = [(name, results.ratio((mode, wire, row), key, name)) for name in PEERS]
        bars = [(name, ratio) for name, ratio in found if ratio is not None]
        if not bars:
            continue
        lines.append(svg_text(x, y, "row", metric.title))
        top = y + 6
        for name, ratio in bars:
            y += BAR_STEP
            kind, width = ("better" if ratio >= 1 else "worse"), min(ratio, CLIP) * unit
            lines.append(svg_text(x, y + 4, "name", PEERS[name].title))
            lines.append(
                f'<rect class="{kind}" x="{x + LABEL}" y="{y - 5}" width="{width:.1f}" height="11" rx="1.5"/>'
            )
            more = " →" if ratio > CLIP else ""
            end = x + LABEL + max(width, unit) + 4  # right of the dashed line in any case
            lines.append(svg_text(end, y + 4, "value", times_as_good(ratio) + more))
        even = x + LABEL + unit
        lines.append(f'<line class="even" x1="{even:.1f}" x2="{even:.1f}" y1="{top}" y2="{y + 8}"/>')
        y += BAR_STEP + 11
    return lines, y


def svg_text(x: float, y: float, kind: str, text: str) -> str:
    """A line of text."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y}">{html.escape(text)}</text>'


def draw_svg(results: Results, modes: Sequence[str]) -> str:
    """Bar charts of the ratios, ws beside wss, the modes below each other. For light and for dark pages."""
    body = [svg_text(10, 24, "title", "How many times as good is wsdual? (beyond the dashed line: better)")]
    bottom = 56
    for mode in modes:
        start = bottom
        for column, wire in enumerate(WIRES):
            lines, below = panel(results, mode, wire, 10 + column * (PANEL + 10), start)
            body += lines
            bottom = max(bottom, below + 10)
    width = 2 * PANEL + 30
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom}" role="img">'
    title = "<title>wsdual beside other WebSocket servers</title>"
    return "\n".join([opening, title, f"<style>{SVG_STYLE}</style>", *body, "</svg>", ""])


# ------------------------------------------------------------------------------------------------------------
# Trial and peek
# ------------------------------------------------------------------------------------------------------------


@dataclass
class Login:
    """A client of the chat that tries until it is in, as the trial method makes it."""

    address: Address
    name: str
    source: str = HOST
    attempts: int = 0
    seconds: float = math.inf

    def run(self, start: threading.Barrier | None = None, limit: float = 60.0) -> None:
        """Log in. A wss client that was closed connects again at once, as the method wants it. Who is refused
        again, or is a ws client, waits, and longer each time."""
        if start:
            start.wait(30)
        begin, pause = time.monotonic(), 0.05
        while self.attempts < 200 and time.monotonic() - begin < limit:
            self.attempts += 1
            with contextlib.suppress(OSError, Failed), self._connected() as sock:
                upgrade(sock, upgrade_request(self.address.port, "/chat"))
                sock.sendall(frame(json.dumps({"type": "login", "name": self.name}).encode()))
                Member(sock).wait_for(b'"welcome"')
                self.seconds = time.monotonic() - begin
                return
            if not (self.address.tls and self.attempts == 1):
                time.sleep(pause)
                pause = min(pause * 1.5, 1.0)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.create_connection((HOST, self.address.port), 10, (self.source, 0)) as sock:
            if self.address.tls:
                with CLIENT_TLS.wrap_socket(sock) as wrapped:
                    yield wrapped
            else:
                yield sock


def other_addresses(count: int) -> list[str]:
    """So many loopback addresses, for that many clients (Linux has them all); else the one many times."""
    with contextlib.suppress(OSError), socket.socket() as sock:
        sock.bind(("127.0.0.2", 0))
        return [f"127.0.0.{number}" for number in range(2, 2 + count)]
    return [HOST] * count


@dataclass
class Method:
    """What one method cost."""

    connections: float
    first_message: float
    class_seconds: float
    class_connections: float
    left_outside: int


def measure_method(tools: Tools, detect: str, repeats: int) -> Method:
    """One wss client alone, and then a class behind one address, with the server started with --detect."""
    singles, classes = [], []
    server = start_server(tools, OURS, True, "chat", extra=["--detect", detect])
    try:
        port = server.port
        for number, source in enumerate(other_addresses(2 * repeats)):
            if source == HOST and number:
                time.sleep(6.5)  # until the address is forgotten
            if number % 2:
                single = Login(Address(port, True), f"single{number}", source)
                single.run()
                singles.append(single)
            else:
                tell(f"{detect}: class {number // 2 + 1} of {repeats}")
                classes.append(run_class(port, source, number))
    finally:
        server.stop()
    everybody = [client for clients in classes for client in clients]
    return Method(
        statistics.median(single.attempts for single in singles),
        statistics.median(single.seconds for single in singles),
        statistics.median(max(client.seconds for client in clients) for clients in classes),
        statistics.median(sum(client.attempts for client in clients) for clients in classes),
        sum(math.isinf(client.seconds) for client in [*everybody, *singles]),
    )


def run_class(port: int, source: str, number: int) -> list[Login]:
    """30 clients behind one address, every second one on wss, in a drawn order, all at the same moment."""
    seats = range(CLASS_SIZE)
    clients = [Login(Address(port, seat % 2 == 0), f"seat{number}-{seat}", source) for seat in seats]
    random.Random(number).shuffle(clients)
    start = threading.Barrier(len(clients))
    threads = [threading.Thread(target=client.run, args=(start,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return clients


def methods_table(found: dict[str, Method]) -> list[list[str]]:
    """The lesson's table."""

    def line(title: str, cell: Callable[[Method], str]) -> list[str]:
        return [title, *(cell(method) for method in found.values())]

    return [
        ["", *found],
        line("TCP connections for one wss login", lambda m: f"{m.connections:g}"),
        line("its time to the first message", lambda m: figure(m.first_message, "s")),
        line(f"{CLASS_SIZE} clients behind one address are in after", lambda m: figure(m.class_seconds, "s")),
        line("TCP connections that they made", lambda m: f"{m.class_connections:g}"),
        line("clients that never got in", lambda m: f"{m.left_outside}"),
    ]


# ------------------------------------------------------------------------------------------------------------
# The command line
# ------------------------------------------------------------------------------------------------------------


def tell(text: str) -> None:
    """Progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def names(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """An argparse type: some of these names, with commas; 'none' for an empty list."""

    def parse(text: str) -> list[str]:
        chosen = [] if text == "none" else text.split(",")
        unknown = [name for name in chosen if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {unknown[0]!r}; there are {', '.join(allowed)}")
        return [name for name in allowed if name in chosen]

    return parse


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line of the benchmark itself."""
    here = Path(__file__).resolve().parent
    rows = (*ROWS, *ONCE)
    parser = argparse.ArgumentParser(
        prog="bench.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("command", nargs="?", choices=("table", "methods"), default="table")
    add("--rows", type=names(rows), default=list(rows), metavar="NAME,…", help=", ".join(rows))
    add("--peers", type=names(tuple(PEERS)), default=list(PEERS), metavar="NAME,…", help=", ".join(PEERS))
    add("--modes", type=names(("fair", "default")), default=["fair", "default"], metavar="NAME,…")
    add("--pairs", type=int, default=7, metavar="N", help="pairs of slices for each ratio (7)")
    add("--slice", type=float, default=0.25, metavar="SECONDS", help="length of a slice (0.25)")
    add("--repeats", type=int, default=3, metavar="N", help="methods: how often (3)")
    add(
        "--cpu", action="store_true", help="also the server's CPU time for each message or connection (Linux)"
    )
    add("--goals", action="store_true", help="say which goals are met")
    add("--markdown", action="store_true", help="tables to paste into a README")
    add("--svg", type=Path, metavar="FILE", help="draw the ratios")
    add("--json", type=Path, metavar="FILE", help="write every slice")
    add("--venv", type=Path, default=default_venv(), metavar="DIR", help="the peers' place (%(default)s)")
    add("--wsdual", type=Path, default=here.parent.parent / "wsdual.py", metavar="FILE", help="another wsdual.py")
    options = parser.parse_args(arguments)
    if not (0 < options.pairs <= 1000 and 0 < options.slice <= 60 and 0 < options.repeats <= 50):
        parser.error("--pairs, --slice or --repeats is out of range")
    return options


def serve(arguments: Sequence[str]) -> None:
    """`bench.py serve NAME`: be a peer. The benchmark starts it so."""
    parser = argparse.ArgumentParser(prog="bench.py serve")
    parser.add_argument("name", choices=tuple(SERVE))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--app", choices=("echo", "chat"), default="echo")
    parser.add_argument("--cert", help="a PEM file with certificate and key: serve wss alone")
    options = parser.parse_args(arguments)
    with contextlib.suppress(KeyboardInterrupt):
        SERVE[options.name](options.port, options.app, options.cert)


def as_json(results: Results, tools: Tools) -> str:
    """Everything that was measured, slice by slice."""
    places = {
        " ".join(place): {
            peer: [{"wsdual": [a.figures, a.share], "peer": [b.figures, b.share]} for a, b in pairs]
            for peer, pairs in found.items()
        }
        for place, found in results.pairs.items()
    }
    failures = {f"{' '.join(place)}: {name}": reason for (place, name), reason in results.failures.items()}
    whole = {"versions": tools.versions, "pairs": places, "failures": failures, "others": results.others}
    whole["alone"] = {
        " ".join(place): [[one.figures, one.share] for one in found] for place, found in results.alone.items()
    }
    return json.dumps(whole | {"memory": results.memory, "idle": results.idle}, indent=1)


def busy_elsewhere() -> float | None:
    """Seconds that this machine has computed for others than this process and its ended children (Linux)."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(value) for value in fields[:8])
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - sum(os.times()[:4])


def run_table(tools: Tools, options: argparse.Namespace) -> None:
    """Measure what is asked for; after Ctrl-C, show what there is."""
    if "fair" in options.modes and not can_be_fair():
        options.modes.remove("fair")
        tell("no 'fair' mode: this system doesn't hold processes to cores, or has one core only")
    results, interrupted = Results(), False
    begin, busy = time.monotonic(), busy_elsewhere()
    try:
        for mode in options.modes:
            run_mode(results, tools, mode, options.rows, options.pairs, options.slice)
        if "memory" in options.rows and Path("/proc/self/smaps_rollup").exists():
            run_memory(results, tools)
        if "idle" in options.rows and Path("/proc/self/smaps_rollup").exists():
            run_idle(results, tools)
    except KeyboardInterrupt:
        interrupted = True
    if busy is not None:
        whole = (time.monotonic() - begin) * (os.cpu_count() or 1)
        results.others = max(0.0, ((busy_elsewhere() or busy) - busy) / whole)
    print(report(tools, results, options))
    if options.svg:
        options.svg.write_text(draw_svg(results, options.modes), encoding="utf-8")
    if options.json:
        options.json.write_text(as_json(results, tools), encoding="utf-8")
    if interrupted:
        sys.exit(130)


def run_methods(tools: Tools, options: argparse.Namespace) -> None:
    """The lesson's table."""
    found = {detect: measure_method(tools, detect, options.repeats) for detect in ("trial", "peek")}
    print(draw_table(methods_table(found), options.markdown))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    allowed_crowd()
    wanted = options.peers if options.command == "table" else []
    try:
        with tempfile.TemporaryDirectory(prefix="wsdual-bench-") as folder:
            tools = gather_tools(options.venv, options.wsdual, Path(folder), wanted)
            (run_methods if options.command == "methods" else run_table)(tools, options)
    except Failed as error:
        sys.exit(f"bench.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.SubprocessError as error:
        sys.exit(f"bench.py: {error}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2:])
    elif sys.argv[1:2] == ["certificate"]:
        write_certificate(Path(sys.argv[2]))
    else:
        main()
