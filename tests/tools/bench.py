# SPDX-License-Identifier: MIT
"""How fast is wsdual beside what you would pick instead? One run, one table.

    python tests/tools/bench.py                               everything
    python tests/tools/bench.py --rows echo50 --servers websockets-asyncio --quick
    python tests/tools/bench.py --against OLD/wsdual.py       this module beside another copy of it
    python tests/tools/bench.py methods                       trial and peek side by side

It needs Linux, `openssl`, and what is to be measured (a server that isn't installed is left out):

    pip install websockets aiohttp picows simple-websocket websocket-server; apt-get install haproxy

    load (this process)                       server (a process of its own)
    raw sockets, ready-made frames   ───▶     wsdual, or a peer with the same application
    one core in 'fair'                        the other core in 'fair'

Absolute figures drift by a third and more. So nothing is measured alone: wsdual and one peer take turns in
short slices (A B, B A, A B, ...), two neighbours give one ratio, and the table shows the median of these
ratios, and between which two the middle half of them lies where that is wide. Beside it stands the median of
the server's own slices, for an idea; the figures needn't divide to the ratio.

- A ratio says how many times as good wsdual is: 2.00x is twice the messages a second, or half the time, or
  half the memory. Below 1.00x the peer is better.
- 'fair': the server has one core, the load another one. 'default': all start as a user would start them.
- Processor time is the server's, user and system, all its threads and processes, for one message (or
  connection, or line of chat). Other programs disturb it less than rates.
- 'load' is the share of a core, and the processor time of a message, that the load itself took against
  wsdual. Near 100 % it is the load that was measured.
- Every answer is checked: small ones byte by byte, large ones whole at first and then by length and end.

The rows stand in LOADS. 'round-trip': one connection, one message of 64 bytes at a time. 'echo50': 50
connections, one message in flight on each. 'pipeline': one connection, 64 in flight, topped up by halves.
'large': 1,000,000 bytes at a time. 'connect': connect, TLS, upgrade, one echo, close handshake, end of
stream. 'first': from the client's first byte to the first byte of the answer to its upgrade. 'chat': one line
to 1,000 users, until the last one has it. Three aren't pairs: 'memory', of a connection, by the resident set,
over 500; 'idle', wsdual with 5,000 connections, then an echo on each; and 'growth', wsdual with 10 to 5,000.

TCP_NODELAY is set for simple-websocket and websocket-server, which leave Nagle's algorithm on. 'wsproto
alone' is no server: wsproto in a loop on ready-made bytes. 'bare threads' is wsdual's way of serving without
its work: a thread for each connection that answers from ready-made bytes.
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
import importlib.metadata
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
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOST, WIRES, MODES = "127.0.0.1", ("ws", "wss"), ("fair", "default")
OURS, OTHER = "wsdual", "other-wsdual"
START_LIMIT, STALL_LIMIT, CROWD_LIMIT = 15.0, 25.0, 240.0  # seconds to start, to overrun, to open a crowd
TRIES = 3  # failures of one server in one row, after which it has no figure there
WINDOW, CROWD = 64, 5000

Figures = dict[str, float]
Place = tuple[str, str, str]  # mode, wire, row


class Failed(Exception):
    """A server died, hung, or answered something else than it should; the text is the reason in the table."""


# ---- Frames, ready-made

MASK = bytes((0x37, 0xFA, 0x21, 0x3D))
KEY = base64.b64encode(b"benchmark of 16.")
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def frame(payload: bytes, opcode: int = TEXT, masked: bool = True) -> bytes:
    """One whole frame (RFC 6455, 5.2), as a client sends it (masked) or as a server does."""
    size = len(payload)
    code, length = (size, b"") if size < 126 else (126, size.to_bytes(2, "big")) if size < 65536 else (127, size.to_bytes(8, "big"))
    head = bytes((0x80 | opcode, code | masked << 7)) + length
    if not masked:
        return head + payload
    ciphered = int.from_bytes(payload, "big") ^ int.from_bytes((MASK * (size // 4 + 1))[:size], "big")
    return head + MASK + ciphered.to_bytes(size, "big")


def upgrade_request(port: int, path: str) -> bytes:
    """The request of a client without extensions."""
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    key = f"Sec-WebSocket-Key: {KEY.decode()}\r\n\r\n"
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\n{upgrade}{key}".encode()


SMALL_TEXT = (b"sixty-four bytes " * 4)[:64]
SMALL, SMALL_ECHO = frame(SMALL_TEXT), frame(SMALL_TEXT, masked=False)
GOODBYE = frame((1000).to_bytes(2, "big"), CLOSE)


# ---- The servers: each function serves for ever, in a process of its own


class Room:
    """The chat of every peer. A line is taken apart and built as wsdual does it; nobody leaves."""

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}

    def turn(self, client: Any, message: str | bytes) -> tuple[str, list[Any]]:
        """The answer to one message, and who gets it."""
        request = json.loads(message)
        if request["type"] == "login":
            self.names[client] = request["name"]
            return json.dumps({"type": "welcome", "name": request["name"], "users": []}), [client]
        said = {"type": "said", "from": self.names[client], "text": request["text"]}
        return json.dumps(said), list(self.names)


def server_tls(cert: str) -> ssl.SSLContext | None:
    """The TLS settings of the peers: Python's own defaults."""
    if not cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)
    return context


def serve_websockets_threading(port: int, app: str, cert: str) -> None:
    """websockets' threading server, as its documentation shows it."""
    from websockets.sync.server import ServerConnection, serve

    room = Room()

    def talk(connection: ServerConnection) -> None:
        for message in connection:
            if app == "echo":
                connection.send(message)
            else:
                answer, users = room.turn(connection, message)
                for user in users:
                    user.send(answer)

    with serve(talk, HOST, port, ssl=server_tls(cert)) as server:
        server.serve_forever()


def serve_websockets_asyncio(port: int, app: str, cert: str) -> None:
    """websockets' asyncio server, with its own broadcast()."""
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    room = Room()

    async def talk(connection: ServerConnection) -> None:
        async for message in connection:
            if app == "echo":
                await connection.send(message)
            else:
                answer, users = room.turn(connection, message)
                broadcast(users, answer)

    async def main() -> None:
        async with serve(talk, HOST, port, ssl=server_tls(cert)) as server:
            await server.serve_forever()

    asyncio.run(main())


def serve_aiohttp(port: int, app: str, cert: str) -> None:
    """aiohttp's WebSocketResponse under its own web server."""
    from aiohttp import web

    room = Room()

    async def handle(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse()
        await connection.prepare(request)
        async for message in connection:
            if app == "echo":
                await connection.send_str(message.data)
            else:
                answer, users = room.turn(connection, message.data)
                for user in users:
                    await user.send_str(answer)
        return connection

    site = web.Application()
    site.router.add_get("/{path}", handle)
    web.run_app(site, host=HOST, port=port, ssl_context=server_tls(cert), print=None, access_log=None)


def serve_picows(port: int, app: str, cert: str) -> None:
    """picows, as its documentation shows it."""
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

    room = Room()

    class Listener(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()
            elif app == "echo":
                transport.send(frame.msg_type, frame.get_payload_as_bytes())
            else:
                answer, users = room.turn(transport, frame.get_payload_as_utf8_text())
                for user in users:
                    user.send(WSMsgType.TEXT, answer.encode())

    async def main() -> None:
        server = await ws_create_server(lambda _: Listener(), HOST, port, ssl=server_tls(cert))
        await server.serve_forever()

    asyncio.run(main())


class Threads(socketserver.ThreadingTCPServer):
    """The standard library's threaded server, for what brings none."""

    allow_reuse_address, daemon_threads, request_queue_size = True, True, 128
    tls: ssl.SSLContext | None = None


class OneClient(socketserver.BaseRequestHandler):
    """A connection there, up to its upgrade request."""

    def handle(self) -> None:
        """Wrap it, read the request, talk."""
        sock, head = self.request, b""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            if self.server.tls is not None:
                sock = self.server.tls.wrap_socket(sock, server_side=True)
            while not head.endswith(b"\r\n\r\n") and len(head) < 65536 and (data := sock.recv(4096)):
                head += data
            self.talk(sock, head)


def serve_simple_websocket(port: int, app: str, cert: str) -> None:
    """simple-websocket takes its socket and the request's headers as WSGI gives them."""
    import simple_websocket

    room = Room()

    class Handler(OneClient):
        def talk(self, sock: socket.socket, head: bytes) -> None:
            headers = (line.split(":", 1) for line in head.decode("latin-1").split("\r\n")[1:] if ":" in line)
            environ = {"HTTP_" + name.upper().replace("-", "_"): value.strip() for name, value in headers}
            connection = simple_websocket.Server.accept(environ | {"werkzeug.socket": sock})
            with contextlib.suppress(simple_websocket.ConnectionClosed):
                while app == "echo":
                    connection.send(connection.receive())
                while True:
                    answer, users = room.turn(connection, connection.receive())
                    for user in users:
                        user.send(answer)

    Threads.tls = server_tls(cert)
    Threads((HOST, port), Handler).serve_forever()


def serve_websocket_server(port: int, app: str, cert: str) -> None:
    """websocket-server; its TLS uses ssl.wrap_socket, which Python 3.12 removed."""
    from websocket_server import WebsocketServer
    from websocket_server.websocket_server import WebSocketHandler

    WebSocketHandler.disable_nagle_algorithm, WebsocketServer.request_queue_size = True, 128
    room = Room()

    def talk(client: dict[str, Any], server: WebsocketServer, message: str) -> None:
        if app == "echo":
            server.send_message(client, message)
        else:
            answer, users = room.turn(client["handler"], message)
            for user in users:
                user.send_message(answer)

    server = WebsocketServer(HOST, port, cert=cert or None, key=cert or None)
    server.set_fn_message_received(talk)
    server.run_forever()


def serve_wsproto_alone(port: int, app: str, cert: str) -> None:
    """No server: for each number of seconds on stdin, how many messages a loop has echoed."""
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import AcceptConnection, TextMessage

    connection, batch = WSConnection(ConnectionType.SERVER), SMALL * WINDOW
    connection.receive_data(upgrade_request(0, "/echo"))
    list(connection.events())
    connection.send(AcceptConnection())

    def echo_batch() -> bytes:
        connection.receive_data(batch)
        messages = (event for event in connection.events() if isinstance(event, TextMessage))
        return b"".join(connection.send(TextMessage(data=message.data)) for message in messages)

    if echo_batch() != SMALL_ECHO * WINDOW:
        sys.exit("wsproto didn't echo")
    for line in sys.stdin:
        until, batches = time.perf_counter() + float(line), 0
        while time.perf_counter() < until:
            echo_batch()
            batches += 1
        print(batches * WINDOW, flush=True)


def serve_bare_threads(port: int, app: str, cert: str) -> None:
    """A thread for each connection, which knows all answers beforehand; on one core, as wsdual is."""
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    switching += b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
    farewell = frame((1000).to_bytes(2, "big"), CLOSE, masked=False)

    class Handler(OneClient):
        def talk(self, sock: socket.socket, head: bytes) -> None:
            sock.sendall(switching)
            while (data := sock.recv(4096)) and data != GOODBYE:
                sock.sendall(SMALL_ECHO * (len(data) // len(SMALL)))
            sock.sendall(farewell)
            socket.socket.shutdown(sock, socket.SHUT_WR)
            sock.recv(1)

    os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})
    Threads.tls = server_tls(cert)
    Threads((HOST, port), Handler).serve_forever()


def serve_room(port: int, app: str, cert: str) -> None:
    """wsdual as a library, with a chat that doesn't tell who comes: 5,000 times 5,000 would be too many."""
    from wsdual import DualServer, Limits, Peer, broadcast, server_context

    room = Room()

    def chat(peer: Peer) -> None:
        for message in peer:
            answer, users = room.turn(peer, message)
            broadcast(users, answer)

    limits, tls = Limits(clients=CROWD + 100), server_context(cert) if cert else None
    with DualServer((HOST, port), {"/room": chat}, tls=tls, limits=limits) as server:
        server.serve_forever()


Command = tuple[int, list[str]]  # the port to wait for, and what to start


def own_command(tools: Tools, name: str, port: int, app: str, cert: str) -> list[Command]:
    """This file again, as that server."""
    return [(port, [sys.executable, str(Path(__file__).resolve()), "serve", name, str(port), app, cert])]


def wsdual_command(tools: Tools, name: str, port: int, app: str, cert: str) -> list[Command]:
    """wsdual.py as a program, with both kinds on its port."""
    if app == "room":
        return own_command(tools, name, port, app, cert)
    start = [sys.executable, str(tools.modules[name]), "--port", str(port), "--app", app]
    return [(port, [*start, "--cert", str(tools.cert), "--max-clients", str(CROWD + 100), *tools.flags])]


def haproxy_command(tools: Tools, name: str, port: int, app: str, cert: str) -> list[Command]:
    """The usual way to both kinds on one port: HAProxy looks at the first bytes, two frontends take over."""
    backend, folder = free_port(), tools.cert.parent
    tls, plain, config = folder / f"tls-{port}", folder / f"plain-{port}", folder / f"haproxy-{port}.cfg"
    config.write_text(f"""
defaults
    mode http
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
frontend websockets
    bind unix@{tls} accept-proxy ssl crt {tools.cert}
    bind unix@{plain} accept-proxy
    default_backend websockets
backend websockets
    server websockets {HOST}:{backend}
""")
    behind = own_command(tools, "websockets-asyncio", backend, app, "")
    return [*behind, (port, ["haproxy", "-db", "-q", "-f", str(config)])]


@dataclass(frozen=True)
class Server:
    """One server of the table: its title, its package, how it serves, and the only rows it has, if not all."""

    title: str
    package: str
    serve: Callable[[int, str, str], None]
    rows: tuple[str, ...] = ()
    commands: Callable[[Tools, str, int, str, str], list[Command]] = own_command


SERVERS = {
    OURS: Server("wsdual", "wsproto", serve_room, commands=wsdual_command),
    OTHER: Server("the other wsdual", "wsproto", serve_room, commands=wsdual_command),
    "websockets-threading": Server("websockets threading", "websockets", serve_websockets_threading),
    "websockets-asyncio": Server("websockets asyncio", "websockets", serve_websockets_asyncio),
    "aiohttp": Server("aiohttp", "aiohttp", serve_aiohttp),
    "picows": Server("picows", "picows", serve_picows),
    "simple-websocket": Server("simple-websocket", "simple-websocket", serve_simple_websocket),
    "websocket-server": Server("websocket-server", "websocket-server", serve_websocket_server),
    "haproxy": Server("HAProxy + asyncio", "websockets", serve_websockets_asyncio, commands=haproxy_command),
    "wsproto-alone": Server("wsproto alone", "wsproto", serve_wsproto_alone, ("pipeline",)),
    "bare-threads": Server("bare threads", "wsproto", serve_bare_threads, ("round-trip", "echo50", "connect")),
}


# ---- Servers as processes


@dataclass
class Tools:
    """What there is on this machine."""

    cert: Path  # certificate and key, PEM
    modules: dict[str, Path]  # wsdual.py, and the other one
    flags: list[str] = field(default_factory=list)  # more of them for wsdual.py
    missing: dict[str, str] = field(default_factory=dict)  # server -> why it is left out


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return sock.getsockname()[1]


class Running:
    """A server that accepts connections: one process, or two with HAProxy. Raises Failed where it doesn't."""

    def __init__(self, tools: Tools, name: str, wire: str, app: str, core: int | None) -> None:
        self.port, self.tls, self.path = free_port(), wire == "wss", f"/{app}"
        self.processes: list[subprocess.Popen[bytes]] = []
        if name == "websocket-server" and self.tls and not hasattr(ssl, "wrap_socket"):
            raise Failed("no TLS on Python 3.12 and newer")
        environment = dict(os.environ)
        if name in tools.modules:
            environment["PYTHONPATH"] = str(tools.modules[name].parent)
        pipe = subprocess.PIPE if name == "wsproto-alone" else subprocess.DEVNULL
        held = [] if core is None else ["taskset", "-c", str(core)]
        cert = str(tools.cert) if self.tls else ""
        try:
            for port, command in SERVERS[name].commands(tools, name, self.port, app, cert):
                self.processes.append(
                    subprocess.Popen(
                        held + command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL,
                        env=environment, start_new_session=True,
                    )
                )  # fmt: skip
                if pipe != subprocess.PIPE:
                    self._wait(port)
        except BaseException:
            self.stop()
            raise

    def _wait(self, port: int) -> None:
        until = time.monotonic() + START_LIMIT
        while time.monotonic() < until and not self.why_dead():
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
                return
            time.sleep(0.02)
        raise Failed(f"at its start: {self.why_dead() or 'it accepts no connections'}")

    def why_dead(self) -> str:
        """What ended it, or '' while all of its processes live."""
        return ", ".join(f"ended with {p.returncode}" for p in self.processes if p.poll() is not None)

    def pids(self) -> list[int]:
        """Its processes, and theirs."""
        own = [process.pid for process in self.processes]
        lists = [Path(f"/proc/{pid}/task/{pid}/children") for pid in own]
        return own + [int(pid) for path in lists if path.exists() for pid in path.read_text().split()]

    def cpu(self) -> float:
        """The seconds of user and system that it has computed, by the processes' own clocks."""
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self.pids())  # clock_getcpuclockid(3)

    def resident(self) -> int:
        """Bytes of physical memory, once it has come to rest."""
        time.sleep(0.5)
        texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids()]
        return sum(int(text.split("Rss:")[1].split()[0]) * 1024 for text in texts)

    def stop(self) -> None:
        """End its processes: each is the first of its own session."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.communicate(timeout=10)


# ---- The load's connections: raw sockets

CLIENT_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CLIENT_TLS.check_hostname = False
CLIENT_TLS.verify_mode = ssl.CERT_NONE  # the certificate isn't what is measured


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Failed is raised out of whatever runs longer. A timeout of the socket would cost a poll() each time."""

    def ring(*_: object) -> None:
        raise Failed(f"hung for {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fail(reason: str) -> Any:
    """`raise Failed` as an expression."""
    raise Failed(reason)


class Client:
    """One WebSocket connection of the load, through TCP, TLS and upgrade."""

    def __init__(self, target: Running) -> None:
        self.buffer, self.sock = bytearray(), dial(target)
        try:
            self.sock = CLIENT_TLS.wrap_socket(self.sock) if target.tls else self.sock
            self.sock.sendall(upgrade_request(target.port, target.path))
            check_upgrade(self.sock, b"")
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> socket.socket:
        return self.sock

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def texts(self, data: bytes | None = None) -> list[bytes]:
        """The text messages in `data`, or in what comes next. Pings are answered."""
        self.buffer += (self.sock.recv(65536) if data is None else data) or fail("closed by the server")
        found = []
        while (parsed := self._next_frame()) is not None:
            opcode, payload = parsed
            if opcode == PING:
                self.sock.sendall(frame(payload, PONG))
            elif opcode == TEXT:
                found.append(payload)
            elif opcode != PONG:
                raise Failed(f"closed by the server: {payload[2:].decode() or payload.hex()}")
        return found

    def _next_frame(self) -> tuple[int, bytes] | None:
        buffer, size = self.buffer, len(self.buffer)
        start = 2 + {126: 2, 127: 8}.get(buffer[1] & 0x7F, 0) if size >= 2 else 2
        if size < start:
            return None
        end = start + (buffer[1] & 0x7F if start == 2 else int.from_bytes(buffer[2:start], "big"))
        if size < end:
            return None
        opcode, payload = buffer[0] & 0x0F, bytes(buffer[start:end])
        del buffer[:end]
        return opcode, payload

    def wait_for(self, part: bytes, data: bytes | None = None) -> bytes:
        """The first text message with `part` in it, in `data` or in what comes."""
        while not (found := [text for text in self.texts(data) if part in text]):
            data = None
        return found[0]


def dial(target: Running, source: tuple[str, int] | None = None) -> socket.socket:
    """A TCP connection; nothing is sent yet."""
    sock = socket.create_connection((HOST, target.port), None, source)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def check_upgrade(sock: socket.socket, answer: bytes) -> None:
    """Read what is left of the answer: it has to accept the upgrade, and to be all there is."""
    while b"\r\n\r\n" not in answer and len(answer) < 65536:
        answer += sock.recv(4096) or fail("no answer to the upgrade request")
    if not (answer.startswith(b"HTTP/1.1 101") and ACCEPT in answer and answer.endswith(b"\r\n\r\n")):
        raise Failed(f"upgrade refused: {answer[:60]!r}")


def check_echo(sock: socket.socket, answer: bytes, expected: bytes = SMALL_ECHO) -> None:
    """Read on until the answer is as long as what is expected; Failed where it isn't the same."""
    while len(answer) < len(expected):
        answer += sock.recv(len(expected) - len(answer)) or fail("closed in the middle of an answer")
    if answer != expected:
        raise Failed(f"wrong answer: {answer[:20]!r}...")


def goodbye(sock: socket.socket) -> None:
    """The closing handshake from the client's side, until the server has closed the connection."""
    sock.sendall(GOODBYE)
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(4096):
            pass


# ---- The loads: each opens what it needs, yields 0, and then with every step how many messages it brought
# (or, where times are measured, the seconds that one took)

Steps = Iterator[float]
clock = time.perf_counter


def round_trip(target: Running) -> Steps:
    """One message after the other on one connection."""
    with Client(target) as sock:
        yield 0
        while True:
            begin = clock()
            sock.sendall(SMALL)
            answer = sock.recv(4096)
            if answer != SMALL_ECHO:
                check_echo(sock, answer)
            yield clock() - begin


def echo(target: Running, count: int) -> Steps:
    """Many connections, one message in flight on each."""
    with Crowd(target, count) as crowd:
        yield 0
        talk = {fd: (c, c.sock.recv, c.sock.send) for fd, c in crowd.clients.items()}
        for _, _, send in talk.values():
            send(SMALL)
        while True:
            ready = crowd.poller.poll()
            for fd, _ in ready:
                client, receive, send = talk[fd]
                answer = receive(4096)
                if answer != SMALL_ECHO and client.wait_for(b"", answer) != SMALL_TEXT:
                    raise Failed(f"wrong answer: {answer[:20]!r}...")
                send(SMALL)
            yield len(ready)


def pipeline(target: Running) -> Steps:
    """64 messages in flight on one connection, topped up by 32 as soon as 32 are back."""
    half, half_echo = SMALL * (WINDOW // 2), SMALL_ECHO * (WINDOW // 2)
    flags = 0 if target.tls else socket.MSG_WAITALL  # TLS gives a record at a time
    with Client(target) as sock:
        yield 0
        sock.sendall(half)
        while True:
            sock.sendall(half)
            answer = sock.recv(len(half_echo), flags)
            if answer != half_echo:
                check_echo(sock, answer, half_echo)
            yield WINDOW // 2


def large(target: Running) -> Steps:
    """One message of 1,000,000 bytes at a time."""
    text = b" ".join(b"%d" % number for number in range(200_000))[:1_000_000]
    message, expected = frame(text), frame(text, masked=False)
    buffer, first = bytearray(len(expected)), True
    view = memoryview(buffer)
    with Client(target) as sock:
        yield 0
        while True:
            sock.sendall(message)
            got = 0
            while got < len(expected):
                got += sock.recv_into(view[got:]) or fail("closed in the middle of an answer")
            if (first and buffer != expected) or buffer[-64:] != expected[-64:]:
                raise Failed("wrong answer to a large message")
            buffer[-64:], first = bytes(64), False
            yield 1


def connect(target: Running) -> Steps:
    """Connect, TLS, upgrade, one echo, closing handshake, end of stream; one client after the other."""
    yield 0
    while True:
        with Client(target) as sock:
            sock.sendall(SMALL)
            check_echo(sock, b"")
            goodbye(sock)
        yield 1


def first(target: Running) -> Steps:
    """From the client's first byte to the first byte of the answer to its upgrade request."""
    yield 0
    while True:
        with dial(target) as plain:
            begin = clock()
            with CLIENT_TLS.wrap_socket(plain) if target.tls else contextlib.nullcontext(plain) as sock:
                sock.sendall(upgrade_request(target.port, target.path))
                answer = sock.recv(4096)
                took = clock() - begin
                check_upgrade(sock, answer)
                goodbye(sock)
        yield took
        time.sleep(0.001)  # the server's own tidying up isn't part of the next one's time


def wsproto_alone(target: Running) -> Steps:
    """Not a load: the loop is told to go on for a while."""
    asked, told = target.processes[0].stdin, target.processes[0].stdout
    assert asked and told
    yield 0
    while True:
        asked.write(b"0.02\n")
        asked.flush()
        yield int(told.readline() or fail("the loop ended"))


class Crowd:
    """Many connections that mostly wait. They answer pings, or servers would drop them."""

    alive: list[Crowd] = []

    def __init__(self, target: Running, count: int, greet: Callable[[Client, int], object] | None = None) -> None:
        self.target, self.clients, self.poller = target, {}, select.epoll()
        self.alive.append(self)
        try:
            self.grow(count, greet)
        except BaseException:
            self.__exit__()
            raise

    def grow(self, count: int, greet: Callable[[Client, int], object] | None = None) -> None:
        """So many connections more."""
        for number in range(count):
            client = Client(self.target)
            self.clients[client.sock.fileno()] = client
            self.poller.register(client.sock, select.EPOLLIN)
            if greet:
                greet(client, number)
            if number % 10 == 0:
                for crowd in self.alive:
                    crowd.drain()

    def drain(self) -> int:
        """Take what has come on any connection; on how many it was."""
        ready = self.poller.poll(0)
        for fd, _ in ready:
            self.clients[fd].texts()
        return len(ready)

    def settle(self) -> None:
        """Drain until nothing has come for a while."""
        last, until = clock(), clock() + 30
        while clock() - last < 0.3 and clock() < until:
            last = clock() if self.drain() else last
            time.sleep(0.01)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.alive.remove(self)
        self.poller.close()
        for client in self.clients.values():
            client.sock.close()


def chat(target: Running, users: int) -> Steps:
    """One line to everybody, until the last one has it."""

    def log_in(client: Client, number: int) -> None:
        client.sock.sendall(frame(json.dumps({"type": "login", "name": f"user{number}"}).encode()))
        client.wait_for(b'"welcome"')

    with Crowd(target, users, log_in) as crowd:
        crowd.settle()
        yield 0
        talk = {fd: (c, c.sock.recv) for fd, c in crowd.clients.items()}
        speaker, poll, length = next(iter(crowd.clients.values())), crowd.poller.poll, -1
        for number in range(10_000_000):
            token, waiting = b"line %08d" % number, users
            line = frame(json.dumps({"type": "say", "text": f"{token.decode()} to all of you"}).encode())
            begin = clock()
            speaker.sock.sendall(line)
            while waiting:
                for fd, _ in poll():
                    client, receive = talk[fd]
                    data = receive(4096)
                    if len(data) != length or token not in data:  # the first ones, and what pings are in
                        texts = client.texts(data)
                        waiting -= sum(token in text for text in texts)
                        length = len(texts[0]) + 2 if len(texts) == 1 else length
                    else:
                        waiting -= 1
            yield clock() - begin
            time.sleep(0.002)


@dataclass(frozen=True)
class Load:
    """One row: what it is called, its steps, and how it is measured."""

    title: str
    steps: Callable[[Running], Steps]
    timed: bool = False  # a step gives the seconds of one message, not a number of messages
    app: str = "echo"
    kept: bool = False  # its connections stay from slice to slice
    warm: int = 1  # messages at the beginning of a slice that don't count


LOADS = {
    "round-trip": Load("round trip of 64 bytes", round_trip, timed=True),
    "echo50": Load("50 connections, messages", functools.partial(echo, count=50), warm=100),
    "pipeline": Load(f"pipeline of {WINDOW}, messages", pipeline),
    "large": Load("1 MB messages", large),
    "connect": Load("connect to close", connect),
    "first": Load("first answer", first, timed=True),
    "chat": Load("chat to 1,000", functools.partial(chat, users=1000), timed=True, app="chat", kept=True),
}


# ---- Taking turns


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values don't exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def measure(target: Running, load: Load, steps: Steps, seconds: float) -> Figures:
    """One slice: what came out of it, and the processor time that server and load took for one message."""
    warm = 0.0
    while warm < load.warm:
        warm += 1 if load.timed else next(steps)
    gc.disable()
    served, own, begin, found = target.cpu(), time.process_time(), clock(), [next(steps)]
    while clock() < begin + seconds:
        found.append(next(steps))
    took, own = clock() - begin, time.process_time() - own
    served = target.cpu() - served
    gc.enable()
    count = len(found) if load.timed else sum(found)
    figures = {"cpu": served / count, "load": own / count, "share": own / took}
    if load.timed:
        return figures | {"p50": percentile(found, 50), "p99": percentile(found, 99)}
    return figures | {"rate": count / took}


class Contestant:
    """One server under one load: started and opened when its turn comes, and anew after a failure."""

    def __init__(self, start: Callable[[], Running], name: str, load: Load) -> None:
        self.start, self.name, self.load = start, name, load
        self.make = wsproto_alone if name == "wsproto-alone" else load.steps
        self.target: Running | None = None
        self.steps: Any = None

    def open(self) -> None:
        """Start the server and open the connections, where they aren't."""
        fresh = self.target is None
        if self.target is None:
            self.target = self.start()
        if self.steps is None:
            self.steps = self.make(self.target)
            next(self.steps)
        if fresh:
            measure(self.target, self.load, self.steps, 0.1)  # imports, caches, threads

    def turn(self, seconds: float) -> Figures:
        """One slice. Raises Failed with the reason where the server doesn't do it."""
        try:
            with bounded(seconds + (CROWD_LIMIT if self.load.kept else STALL_LIMIT)):
                self.open()
                found = measure(self.target, self.load, self.steps, seconds)
            if not self.load.kept:
                self.steps = self.steps.close()
            return found
        except (Failed, OSError) as error:
            time.sleep(0.05)  # a process that is dying needs a moment to be dead
            reason = (self.target and self.target.why_dead()) or str(error) or type(error).__name__
            self.close()
            raise Failed(f"{self.name}: {reason}") from None

    def close(self) -> None:
        """End connections and server."""
        if self.steps is not None:
            self.steps = self.steps.close()
        if self.target is not None:
            self.target = self.target.stop()


def take_turns(contestants: Sequence[Contestant], rounds: int, seconds: float) -> list[list[Figures]]:
    """A B, B A, A B, ...: so that none is always the first. Raises Failed after TRIES failures."""
    done: list[list[Figures]] = []
    failures = 0
    while len(done) < rounds:
        backwards = -1 if len(done) % 2 else 1
        try:
            done.append([one.turn(seconds) for one in contestants[::backwards]][::backwards])
        except Failed:
            failures += 1
            if failures == TRIES:
                raise
    return done


@dataclass
class Results:
    """All that was measured, in pairs: a place, a peer, and for each pair wsdual's figures and the peer's."""

    pairs: dict[Place, dict[str, list[tuple[Figures, Figures]]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    others: float = 0.0  # the share of the machine that other programs used meanwhile

    @contextlib.contextmanager
    def noting(self, place: Place, name: str) -> Iterator[None]:
        """A server that fails leaves its reason instead of a figure."""
        try:
            yield
        except (Failed, OSError) as error:
            self.failures[f"{' '.join(place)}, {name}"] = str(error)
            tell(f"  no figure with {name}: {error}")

    def median(self, place: Place, key: str, peer: str = OURS) -> float | None:
        """A server's own figure; wsdual's is over all its slices."""
        pairs = self.pairs.get(place, {})
        if peer == OURS:
            found = [ours[key] for some in pairs.values() for ours, _ in some if key in ours]
        else:
            found = [theirs[key] for _, theirs in pairs.get(peer, []) if key in theirs]
        return statistics.median(found) if found else None

    def ratios(self, place: Place, key: str, peer: str) -> list[float]:
        """How many times as good wsdual is: for each pair."""
        pairs = self.pairs.get(place, {}).get(peer, [])
        found = [(ours[key], theirs[key]) for ours, theirs in pairs if key in ours]
        return [a / b if key == "rate" else b / a for a, b in found]


def tell(text: str) -> None:
    """Progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def run_rows(results: Results, tools: Tools, mode: str, options: argparse.Namespace) -> None:
    """The rows that are measured in pairs, on ws and on wss."""
    core = sorted(os.sched_getaffinity(0))[0] if mode == "fair" else None
    for wire in WIRES:
        for row in [row for row in options.rows if row in LOADS]:
            place, load = (mode, wire, row), LOADS[row]
            tell(" ".join(place))

            def contestant(name: str, load: Load = load, wire: str = wire) -> Any:
                start = functools.partial(Running, tools, name, wire, load.app, core)
                return contextlib.closing(Contestant(start, name, load))

            with contestant(OURS) as ours:
                for name in options.servers:
                    if name == OURS or (SERVERS[name].rows and row not in SERVERS[name].rows):
                        continue
                    with results.noting(place, name), contestant(name) as peer:
                        found = take_turns((ours, peer), options.pairs, options.slice)
                        results.pairs.setdefault(place, {})[name] = [(a, b) for a, b in found]


# ---- The report

SUFFIX = {"rate": "", "p50": ", p50", "p99": ", p99", "cpu": ""}
ROW_KEYS = ("rate", "p50", "p99")


def figure(value: float | None, key: str) -> str:
    """A figure with its unit, three digits or so."""
    if value is None:
        return ""
    if key == "rate":
        return f"{value:,.0f}/s" if value >= 100 else f"{value:.1f}/s"
    if key in ("idle", "used"):
        return f"{value / 1024:.1f} KB"
    scaled, unit = next((value / s, u) for s, u in ((1e-6, "µs"), (1e-3, "ms"), (1, "s")) if value < 1000 * s)
    return f"{scaled:.0f} {unit}" if scaled >= 100 else f"{scaled:.1f} {unit}"


def times(ratio: float) -> str:
    """A ratio as the table writes it."""
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def middle_half(ratios: Sequence[float]) -> tuple[float, float]:
    """Between which two the middle half lies: how sure the median is."""
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return low, high


def cell(results: Results, place: Place, key: str, peer: str) -> str:
    """A peer's figure and the ratio; the middle half of the ratios where it is wide."""
    ratios = results.ratios(place, key, peer)
    if not ratios:
        return "failed" if f"{' '.join(place)}, {peer}" in results.failures else ""
    low, high = middle_half(ratios)
    noise = f" ({low:.2f}-{high:.2f})" if high - low > 0.2 * statistics.median(ratios) else ""
    return f"{figure(results.median(place, key, peer), key)} {times(statistics.median(ratios))}{noise}"


def mode_table(results: Results, mode: str, servers: Sequence[str], keys: Sequence[str]) -> list[list[str]]:
    """One mode's rows, under a heading."""
    peers = [name for name in servers if any(name in found for found in results.pairs.values())]
    table = [["", OURS, *(SERVERS[name].title for name in peers), "load"]]
    for row, load in LOADS.items():
        for key in keys:
            for place in [(mode, wire, row) for wire in WIRES]:
                ours = results.median(place, key)
                if ours is not None:
                    cells = [cell(results, place, key, name) for name in peers]
                    share, own = (results.median(place, name) or 0.0 for name in ("share", "load"))
                    title = f"{load.title}{SUFFIX[key]}, {place[1]}"
                    table.append([title, figure(ours, key), *cells, f"{share:.0%} {figure(own, 'cpu')}"])
    return table


def draw_table(table: Sequence[Sequence[str]], markdown: bool) -> str:
    """The table with its columns in line; the first one to the left, the others to the right."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" * markdown for width in widths[1:])]
    lines = []
    for line in (table[0], rule, *table[1:]):
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        lines.append("| " + " | ".join(cells) + " |" if markdown else "  ".join(cells).rstrip())
    return "\n".join(lines)


def report(results: Results, tools: Tools, options: argparse.Namespace) -> str:
    """Everything that was measured, to read."""
    parts = []
    for mode in options.modes:
        for title, keys in ((mode, ROW_KEYS), (f"{mode}: the server's processor time for one message", ("cpu",))):
            table = mode_table(results, mode, options.servers, keys)
            if len(table) > 1:
                parts += [f"### {title}" if options.markdown else f"{title}:", draw_table(table, options.markdown)]
    return "\n\n".join(parts)


# ---- The command line


def names(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """An argparse type: some of these names, with commas."""

    def parse(text: str) -> list[str]:
        for name in text.split(","):
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"no {name!r}; there are {', '.join(allowed)}")
        return [name for name in allowed if name in text.split(",")]

    return parse


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line of the benchmark itself."""
    module = Path(__file__).resolve().parents[2] / "wsdual.py"
    parser = argparse.ArgumentParser(
        prog="bench.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, rows, servers = parser.add_argument, tuple(LOADS), tuple(SERVERS)
    add("command", nargs="?", choices=("table", "methods"), default="table")
    add("--rows", type=names(rows), default=list(rows), metavar="NAME,…", help=", ".join(rows))
    add("--servers", type=names(servers), default=None, metavar="NAME,…", help=", ".join(servers))
    add("--modes", type=names(MODES), default=list(MODES), metavar="NAME,…", help="fair, default")
    add("--pairs", type=int, default=7, metavar="N", help="pairs of slices for each ratio (7)")
    add("--slice", type=float, default=0.25, metavar="SECONDS", help="length of a slice (0.25)")
    add("--against", type=Path, metavar="FILE", help="a second wsdual.py, as a peer")
    add("--wsdual", type=Path, default=module, metavar="FILE", help="the first one (%(default)s)")
    add("--markdown", action="store_true", help="tables to paste into a README")
    options = parser.parse_args(arguments)
    if not (0 < options.pairs <= 1000 and 0 < options.slice <= 60):
        parser.error("--pairs or --slice is out of range")
    if options.servers is None:
        options.servers = [OTHER] if options.against else [name for name in servers if name != OTHER]
    elif options.against:
        options.servers = [OTHER, *options.servers]
    return options


def make_certificate(path: Path) -> Path:
    """A self-signed certificate for localhost (ECDSA P-256) and its key in one file, for all servers."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    subprocess.run([*command, "-keyout", path, "-out", path], check=True, capture_output=True, timeout=60)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse_options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results = Results()
    with tempfile.TemporaryDirectory(prefix="wsdual-bench-") as folder:
        modules = {OURS: options.wsdual.resolve()}
        if options.against:
            modules[OTHER] = options.against.resolve()
        tools = Tools(make_certificate(Path(folder) / "server.pem"), modules)
        cores = os.sched_getaffinity(0)
        try:
            for mode in options.modes:
                os.sched_setaffinity(0, sorted(cores)[1:2] if mode == "fair" else cores)
                run_rows(results, tools, mode, options)
        except KeyboardInterrupt:
            tell("interrupted: this is what there is")
        print(report(results, tools, options))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        SERVERS[sys.argv[2]].serve(int(sys.argv[3]), *sys.argv[4:])
    else:
        main()
