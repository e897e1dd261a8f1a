# SPDX-License-Identifier: MIT
"""How fast is wsdual beside what you would pick instead? One run, one table.

    python tests/tools/bench.py                               everything, about half an hour
    python tests/tools/bench.py --rows echo50,chat --servers aiohttp,picows --quick
    python tests/tools/bench.py --against OLD/wsdual.py       this module beside another copy of it

It needs Linux, `openssl`, and what is to be measured; a server that isn't installed is left out:
pip install websockets aiohttp picows simple-websocket websocket-server; apt-get install haproxy

Absolute figures drift by a third and more. So wsdual and one peer take turns in short slices (A B, B A, ...),
two neighbours give one ratio, and the table shows the median of these; where the middle half of them is wide
it stands beside it. A ratio says how many times as good wsdual is: 2.00x is twice the messages a second, or
half the time or memory. The figures are medians too, and needn't divide to the ratio.

In 'fair' server and load (this process) have a core each; in 'default' all start as a user would start them.
Processor time is the server's, all threads and processes, for one message, connection or line of chat: other
programs disturb it less. 'load' is the share of a core, and the processor time of a message, that the load
itself took against wsdual; near 100 % it is the load that was measured. Every answer is checked, large ones
whole at first, then by length and end. 'wsproto alone' is no server: wsproto in a loop on ready-made bytes.
'bare threads' is a thread for each connection that answers from ready-made bytes. simple-websocket and
websocket-server get TCP_NODELAY.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import gc
import importlib.metadata
import itertools
import json
import math
import os
import platform
import random
import resource
import select
import signal
import socket
import socketserver
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, Ping, Pong, TextMessage

HOST, WIRES, MODES = "127.0.0.1", ("ws", "wss"), ("fair", "default")
OURS, OTHER, ALONE, BARE = "wsdual", "other-wsdual", "wsproto-alone", "bare-threads"
THREADS, ASYNCIO = "websockets-threading", "websockets-asyncio"
CORES, WINDOW, IDLE, CROWD = sorted(os.sched_getaffinity(0)), 64, 500, 5000
TRIES = 3  # failures of one server in one row, after which it has no figure there
Figures, Place = dict[str, float], tuple[str, str, str]  # a place: mode, wire, row
clock = time.perf_counter


class Failed(Exception):
    """A server died, hung, or answered something else than it should; the text says what."""


def fail(reason: str, *_: object) -> Any:
    """`raise Failed` as an expression."""
    raise Failed(reason)


def frame(event: Event, side: ConnectionType = ConnectionType.CLIENT) -> bytes:
    """One whole frame, as a client sends it or as a server does."""
    return Connection(side).send(event)


TEXT = ("sixty-four bytes " * 4)[:64]
SMALL, SMALL_ECHO = frame(TextMessage(data=TEXT)), frame(TextMessage(data=TEXT), ConnectionType.SERVER)
GOODBYE, ACCEPT = frame(CloseConnection(code=1000)), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
REQUEST = (  # with the key of RFC 6455, section 1.3, whose answer is ACCEPT
    "GET {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

# ---- The servers: each function serves for ever, in a process of its own

TLS = ssl.SSLContext | None


class Room(dict[Any, str]):
    """The chat of every peer: the users' names. A line is taken apart and built as wsdual does it."""

    def turn(self, client: Any, message: str | bytes) -> tuple[list[Any], str]:
        """Who gets an answer to one message, and which."""
        request = json.loads(message)
        if request["type"] == "login":
            self[client] = request["name"]
            return [client], json.dumps({"type": "welcome", "name": request["name"], "users": []})
        return list(self), json.dumps({"type": "said", "from": self[client], "text": request["text"]})


ROOM = Room()


def converse(app: str, client: Any, messages: Any = None) -> None:
    """What a server with threads does with a connection."""
    for message in messages or client:
        if app == "echo":
            client.send(message)
            continue
        users, answer = ROOM.turn(client, message)
        for user in users:
            user.send(answer)


def websockets_threading(port: int, app: str, tls: TLS, cert: str) -> None:
    """websockets' threading server, as its documentation shows it."""
    from websockets.sync.server import serve

    serve(partial(converse, app), HOST, port, ssl=tls).serve_forever()


async def websockets_asyncio(port: int, app: str, tls: TLS, cert: str) -> None:
    """websockets' asyncio server, with its own broadcast()."""
    from websockets.asyncio.server import broadcast, serve

    async def talk(connection: Any) -> None:
        async for message in connection:
            if app == "echo":
                await connection.send(message)
            else:
                broadcast(*ROOM.turn(connection, message))

    await (await serve(talk, HOST, port, ssl=tls)).serve_forever()


def aiohttp(port: int, app: str, tls: TLS, cert: str) -> None:
    """aiohttp's WebSocketResponse under its own web server."""
    from aiohttp import web

    async def talk(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse()
        await connection.prepare(request)
        async for message in connection:
            if app == "echo":
                await connection.send_str(message.data)
                continue
            users, answer = ROOM.turn(connection, message.data)
            for user in users:
                await user.send_str(answer)
        return connection

    site = web.Application()
    site.router.add_get("/{path}", talk)
    web.run_app(site, host=HOST, port=port, ssl_context=tls, print=None, access_log=None)


async def picows(port: int, app: str, tls: TLS, cert: str) -> None:
    """picows, as its documentation shows it."""
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

    class Listener(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()
            elif app == "echo":
                transport.send(frame.msg_type, frame.get_payload_as_bytes())
            else:
                users, answer = ROOM.turn(transport, frame.get_payload_as_utf8_text())
                for user in users:
                    user.send(WSMsgType.TEXT, answer.encode())

    await (await ws_create_server(lambda request: Listener(), HOST, port, ssl=tls)).serve_forever()


def serve_threads(port: int, tls: TLS, talk: Callable[[socket.socket, bytes], None]) -> None:
    """The standard library's threaded server, up to the upgrade request, for what brings none."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            sock, head = self.request, b""
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):
                sock = tls.wrap_socket(sock, server_side=True) if tls else sock
                while not head.endswith(b"\r\n\r\n") and len(head) < 65536 and (data := sock.recv(4096)):
                    head += data
                talk(sock, head)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads, request_queue_size = True, True, 128

    Server((HOST, port), Handler).serve_forever()


def simple_websocket(port: int, app: str, tls: TLS, cert: str) -> None:
    """simple-websocket takes its socket and the request's headers as WSGI gives them."""
    from simple_websocket import ConnectionClosed, Server

    def talk(sock: socket.socket, head: bytes) -> None:
        headers = (line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:-2])
        environ = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers}
        connection = Server.accept(environ | {"werkzeug.socket": sock})
        with contextlib.suppress(ConnectionClosed):
            converse(app, connection, iter(connection.receive, None))

    serve_threads(port, tls, talk)


def websocket_server(port: int, app: str, tls: TLS, cert: str) -> None:
    """websocket-server; its TLS uses ssl.wrap_socket, which Python 3.12 removed."""
    from websocket_server import WebsocketServer
    from websocket_server.websocket_server import WebSocketHandler

    def talk(client: dict[str, Any], server: Any, message: str) -> None:
        if app == "echo":
            server.send_message(client, message)
            return
        users, answer = ROOM.turn(client["handler"], message)
        for user in users:
            user.send_message(answer)

    WebSocketHandler.disable_nagle_algorithm, WebsocketServer.request_queue_size = True, 128
    server = WebsocketServer(HOST, port, cert=cert or None, key=cert or None)
    server.set_fn_message_received(talk)
    server.run_forever()


def bare_threads(port: int, app: str, tls: TLS, cert: str) -> None:
    """A thread for each connection, which knows all answers beforehand; on one core, as wsdual is."""
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    farewell = frame(CloseConnection(code=1000), ConnectionType.SERVER)

    def talk(sock: socket.socket, head: bytes) -> None:
        sock.sendall(switching + b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n")
        while (data := sock.recv(4096)) and data[0] != GOODBYE[0]:
            sock.sendall(SMALL_ECHO * (len(data) // len(SMALL)))
        sock.sendall(farewell)
        socket.socket.shutdown(sock, socket.SHUT_WR)
        sock.recv(1)

    os.sched_setaffinity(0, {random.choice(CORES)})
    serve_threads(port, tls, talk)


def wsdual_room(port: int, app: str, tls: TLS, cert: str) -> None:
    """wsdual as a library, with a chat that doesn't tell who comes: 5,000 times 5,000 would be too many."""
    from wsdual import DualServer, Limits, Peer, broadcast, server_context

    def talk(peer: Peer) -> None:
        for message in peer:
            broadcast(*ROOM.turn(peer, message))

    limits, context = Limits(clients=CROWD + 100), server_context(cert) if cert else None
    DualServer((HOST, port), {"/room": talk}, tls=context, limits=limits).serve_forever()


HAPROXY = """
defaults; mode http
frontend both; mode tcp; bind 127.0.0.1:{port}; tcp-request inspect-delay 5s
tcp-request content accept if {{ req.ssl_hello_type 1 }} || HTTP
use_backend to_tls if {{ req.ssl_hello_type 1 }}; default_backend to_plain
backend to_tls; mode tcp; server tls unix@{folder}/tls-{port} send-proxy-v2
backend to_plain; mode tcp; server plain unix@{folder}/plain-{port} send-proxy-v2
frontend websockets; default_backend websockets
bind unix@{folder}/tls-{port} accept-proxy ssl crt {folder}/server.pem
bind unix@{folder}/plain-{port} accept-proxy
backend websockets; server websockets 127.0.0.1:{backend}
"""

# What the table calls it, its package, what serves, and the only rows it has, if not all.
SERVERS: dict[str, tuple[str, str, Callable[[int, str, TLS, str], Any], tuple[str, ...]]] = {
    OURS: ("wsdual", "wsproto", wsdual_room, ()),
    OTHER: ("the other wsdual", "wsproto", wsdual_room, ()),
    THREADS: ("websockets threading", "websockets", websockets_threading, ()),
    ASYNCIO: ("websockets asyncio", "websockets", websockets_asyncio, ()),
    "aiohttp": ("aiohttp", "aiohttp", aiohttp, ()),
    "picows": ("picows", "picows", picows, ()),
    "simple-websocket": ("simple-websocket", "simple-websocket", simple_websocket, ()),
    "websocket-server": ("websocket-server", "websocket-server", websocket_server, ()),
    "haproxy": ("HAProxy + asyncio", "websockets", websockets_asyncio, ()),
    ALONE: ("wsproto alone", "wsproto", print, ("pipeline",)),
    BARE: ("bare threads", "wsproto", bare_threads, ("round-trip", "echo50", "connect")),
}


def serve(name: str, port: str, app: str, cert: str) -> None:
    """Be that server; the TLS settings of the peers are Python's own defaults."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if cert else None
    if tls:
        tls.load_cert_chain(cert)
    serving = SERVERS[name][2](int(port), app, tls, cert)
    if serving is not None:
        asyncio.run(serving)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server((HOST, 0)) as sock:
        return sock.getsockname()[1]


def commands(options: Any, name: str, port: int, app: str, tls: bool) -> Iterator[tuple[int, list[str]]]:
    """What to start, one after the other, each with the port to wait for."""
    cert, me = options.folder / "server.pem", [sys.executable, __file__, "serve", name]
    app, *flags = app.split()
    if name in options.modules and app != "room":
        flags += ["--app", app, "--port", str(port), "--cert", str(cert), "--max-clients", str(CROWD + 100)]
        yield port, [sys.executable, options.modules[name], *flags]
    elif name == "haproxy":
        backend, config = free_port(), options.folder / f"haproxy-{port}.cfg"
        text = HAPROXY.format(port=port, backend=backend, folder=options.folder)
        config.write_text(text.replace("; ", "\n"))
        yield backend, [*me, str(backend), app, ""]
        yield port, ["haproxy", "-db", "-q", "-f", str(config)]
    elif name != ALONE:
        yield port, [*me, str(port), app, str(cert) if tls else ""]


class Running:
    """A server that accepts connections: one process, two with HAProxy, none for wsproto alone."""

    def __init__(self, options: Any, name: str, wire: str, app: str, core: int | None = None) -> None:
        self.port, self.tls, self.path = free_port(), wire == "wss", f"/{app.split()[0]}"
        self.processes: list[subprocess.Popen[bytes]] = []
        held = [] if core is None else ["taskset", "-c", str(core)]
        environ = os.environ | {"PYTHONPATH": os.path.dirname(options.modules.get(name, ""))}
        none = subprocess.DEVNULL
        atexit.register(self.close)  # whatever ends this program
        start: Any = partial(subprocess.Popen, stdin=none, stdout=none, stderr=none, env=environ)
        for port, command in commands(options, name, self.port, app, self.tls):
            self.processes.append(start(held + command, start_new_session=True))
            self._wait(port)

    def _wait(self, port: int) -> None:
        for _ in range(750):
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
                return
            time.sleep(0.02)
            if self.why_dead():
                break
        reason = self.why_dead()
        self.close()
        raise Failed(reason or "it accepts no connections")

    def why_dead(self) -> str:
        """What ended it, or '' while all of its processes live."""
        return ", ".join(f"it ended with {p.returncode}" for p in self.processes if p.poll() is not None)

    def pids(self) -> list[int]:
        """Its processes, and theirs."""
        own = [process.pid for process in self.processes]
        texts = [Path(f"/proc/{pid}/task/{pid}/children").read_text() for pid in own]
        return own + [int(pid) for text in texts for pid in text.split()]

    def cpu(self) -> float:
        """The seconds of user and system that it has computed, by the processes' own clocks."""
        clocks = [(~pid << 3) | 2 for pid in self.pids()]  # as clock_getcpuclockid(3) makes them
        return sum(map(time.clock_gettime, clocks)) if clocks else time.process_time()

    def resident(self) -> int:
        """Bytes of physical memory, once it has come to rest."""
        time.sleep(0.5)
        texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids()]
        return sum(int(text.split("Rss:")[1].split()[0]) * 1024 for text in texts)

    def close(self) -> None:
        """End its processes: each is the first of a session of its own."""
        for process in self.processes:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


# ---- The load's connections: raw sockets. An alarm bounds them; a timeout would cost a poll() each time.

CLIENT_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CLIENT_TLS.check_hostname = False
CLIENT_TLS.verify_mode = ssl.CERT_NONE  # the certificate isn't what is measured


class Client:
    """One WebSocket connection, and `took`, the seconds until the answer to its upgrade began."""

    def __init__(self, target: Running, source: str = "", timeout: float | None = None) -> None:
        sock = socket.create_connection((HOST, target.port), timeout, (source, 0) if source else None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = clock()
        self.sock = CLIENT_TLS.wrap_socket(sock) if target.tls else sock
        self.sock.sendall(REQUEST.format(target.path, target.port).encode())
        answer, self.took = self.sock.recv(4096), clock() - begin
        while b"\r\n\r\n" not in answer and len(answer) < 65536:
            answer += self.sock.recv(4096) or fail("no answer to the upgrade request")
        if not (answer.startswith(b"HTTP/1.1 101") and ACCEPT in answer and answer.endswith(b"\r\n\r\n")):
            raise Failed(f"upgrade refused: {answer[:60]!r}")
        self.protocol, self.half = Connection(ConnectionType.CLIENT), ""

    def texts(self, data: bytes = b"") -> list[str]:
        """The text messages in `data`, or in what comes next. Pings are answered."""
        self.protocol.receive_data(data or self.sock.recv(65536) or fail("closed by the server"))
        found = []
        for event in self.protocol.events():
            if isinstance(event, Ping):
                self.sock.sendall(self.protocol.send(event.response()))
            elif isinstance(event, TextMessage):
                self.half += event.data
                if event.message_finished:
                    found.append(self.half)
                    self.half = ""
            elif not isinstance(event, Pong):
                raise Failed(f"closed by the server: {event}")
        return found

    def wait_for(self, part: str, data: bytes = b"") -> str:
        """The first text message with `part` in it, in `data` or in what comes."""
        while not (found := [text for text in self.texts(data) if part in text]):
            data = b""
        return found[0]

    def log_in(self, number: int) -> None:
        """Log in to the chat."""
        self.sock.sendall(frame(TextMessage(data=json.dumps({"type": "login", "name": f"user{number}"}))))
        self.wait_for('"welcome"')


def receive(sock: socket.socket, expected: bytes, flags: int = 0) -> None:
    """Read an answer; Failed where it isn't what is expected."""
    answer = sock.recv(len(expected), flags)
    while len(answer) < len(expected):
        answer += sock.recv(len(expected) - len(answer)) or fail("closed in the middle of an answer")
    if answer != expected:
        raise Failed(f"wrong answer: {answer[:20]!r}...")


class Crowd(contextlib.ExitStack):
    """Many connections that mostly wait. They answer pings, or servers would drop them."""

    def __init__(self, target: Running) -> None:
        super().__init__()
        self.target, self.poller = target, select.epoll()
        self.clients: dict[int, Client] = {}

    def grow(self, count: int, greet: Callable[[Client, int], object] = lambda client, number: None) -> None:
        """So many connections more."""
        for number in range(count):
            client = Client(self.target)
            self.clients[self.enter_context(client.sock).fileno()] = client
            self.poller.register(client.sock, select.EPOLLIN)
            greet(client, number)
            if number % 10 == 0:
                self.drain()

    def drain(self, quiet: float = 0) -> None:
        """Take what has come, until nothing has for some seconds."""
        while ready := self.poller.poll(quiet):
            for fd, _ in ready:
                self.clients[fd].texts()

    def echo_each(self) -> list[float]:
        """One echo on each of them, one after the other; the seconds that each took."""
        times = [clock()]
        for client in self.clients.values():
            client.sock.sendall(SMALL)
            client.wait_for(TEXT)
            times.append(clock())
        return [after - before for before, after in itertools.pairwise(times)]


# ---- The loads: each opens what it needs, yields 0, and then with every step how many messages it brought;
# where 'time' is measured, the seconds that one took; where all is measured 'once', the figures

Steps = Iterator[Any]


def round_trip(target: Running) -> Steps:
    """One connection, one message of 64 bytes after the other."""
    with Client(target).sock as sock:
        yield 0
        while True:
            begin = clock()
            sock.sendall(SMALL)
            receive(sock, SMALL_ECHO)
            yield clock() - begin


def echo(target: Running, count: int) -> Steps:
    """Many connections, one message in flight on each."""
    with Crowd(target) as crowd:
        crowd.grow(count)
        yield 0
        talk = {fd: (client, client.sock.recv, client.sock.send) for fd, client in crowd.clients.items()}
        for _, _, send in talk.values():
            send(SMALL)
        while True:
            ready = crowd.poller.poll()
            for fd, _ in ready:
                client, recv, send = talk[fd]
                answer = recv(4096)
                if answer != SMALL_ECHO and client.wait_for("", answer) != TEXT:
                    raise Failed(f"wrong answer: {answer[:20]!r}...")
                send(SMALL)
            yield len(ready)


def pipeline(target: Running) -> Steps:
    """One connection, 64 messages in flight, topped up by 32 as soon as 32 are back."""
    half, half_echo = SMALL * (WINDOW // 2), SMALL_ECHO * (WINDOW // 2)
    flags = 0 if target.tls else socket.MSG_WAITALL  # TLS gives a record at a time
    with Client(target).sock as sock:
        yield 0
        sock.sendall(half)
        while True:
            sock.sendall(half)
            receive(sock, half_echo, flags)
            yield WINDOW // 2


def large(target: Running) -> Steps:
    """One message of 1,000,000 bytes at a time."""
    text = TextMessage(data=" ".join(map(str, range(200_000)))[:1_000_000])
    message, expected = frame(text), frame(text, ConnectionType.SERVER)
    buffer, whole = bytearray(len(expected)), False
    with Client(target).sock as sock, memoryview(buffer) as view:
        yield 0
        while True:
            sock.sendall(message)
            got = 0
            while got < len(expected):
                got += sock.recv_into(view[got:]) or fail("closed in the middle of an answer")
            if not (whole or buffer == expected) or buffer[-64:] != expected[-64:]:
                raise Failed("wrong answer to a large message")
            view[-64:], whole = bytes(64), True
            yield 1


def connect(target: Running, first: bool) -> Steps:
    """Connect, TLS, upgrade, one echo, closing handshake, end of stream; one client after the other."""
    yield 0
    while True:
        client = Client(target)
        with client.sock as sock:
            if not first:
                sock.sendall(SMALL)
                receive(sock, SMALL_ECHO)
            sock.sendall(GOODBYE)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass
        yield client.took if first else 1
        time.sleep(0.001 * first)  # the server's own tidying up isn't part of the next one's time


def wsproto_alone(target: Running) -> Steps:
    """Not a load: a loop in this process."""
    connection, batch = Connection(ConnectionType.SERVER), SMALL * WINDOW
    yield 0
    while True:
        connection.receive_data(batch)
        answers = [connection.send(TextMessage(data=event.data)) for event in connection.events()]
        if b"".join(answers) != SMALL_ECHO * WINDOW:
            raise Failed("wsproto didn't echo")
        yield WINDOW


def chat(target: Running, users: int) -> Steps:
    """One line to all users, until the last one has it."""
    with Crowd(target) as crowd:
        crowd.grow(users, Client.log_in)
        crowd.drain(0.3)
        yield 0
        talk = {fd: (client, client.sock.recv) for fd, client in crowd.clients.items()}
        speaker, length = next(iter(crowd.clients.values())), 0
        for number in itertools.count():
            token, waiting = f"line {number:08}", users
            line = frame(TextMessage(data=json.dumps({"type": "say", "text": f"{token} to all of you"})))
            begin, found = clock(), token.encode()
            speaker.sock.sendall(line)
            while waiting:
                for fd, _ in crowd.poller.poll():
                    client, recv = talk[fd]
                    data = recv(4096)
                    if len(data) == length and found in data:
                        waiting -= 1
                    elif texts := client.texts(data):  # the first one, and what comes with pings
                        waiting -= sum(token in text for text in texts)
                        length = len(texts[0]) + 2
            yield clock() - begin
            time.sleep(0.002)


def hold(target: Running, *sizes: int) -> Steps:
    """What a connection adds to the resident set, in crowds of these sizes; then an echo on each."""
    with Crowd(target) as crowd:
        crowd.grow(20)  # what is needed once, whatever the number of connections
        crowd.echo_each()
        yield 0
        empty, each = target.resident(), []
        for size in sizes:
            crowd.grow(size + 20 - len(crowd.clients))
            each.append((target.resident() - empty) / size)
        times = spread(crowd.echo_each())
        if sizes[1:]:
            yield times | {"idle": each[-1], "growth": each[-1] / each[0]}
        yield {"idle": each[-1], "used": (target.resident() - empty) / sizes[-1]}


@dataclass(frozen=True)
class Load:
    """One row: what the table calls it, its steps, what they measure, the application that they talk to."""

    title: str
    steps: Callable[..., Steps]
    measures: str = "rate"  # or "time", or "once"
    app: str = "echo"  # and, after blanks, flags for wsdual.py
    kept: bool = False  # its connections stay from slice to slice
    warm: int = 1  # messages at the beginning of a slice that don't count; as many at least do
    each: int = 1  # receivers of a message, among whom its processor time is divided
    servers: tuple[str, ...] = tuple(SERVERS)


LOADS = {
    "round-trip": Load("round trip of 64 bytes", round_trip, "time"),
    "echo50": Load("50 connections, messages", partial(echo, count=50), warm=100),
    "pipeline": Load(f"pipeline of {WINDOW}, messages", pipeline),
    "large": Load("1 MB messages", large),
    "connect": Load("connect to close", partial(connect, first=False)),
    "first": Load("first answer", partial(connect, first=True), "time"),
    "chat": Load("chat to 1,000 users", partial(chat, users=1000), "time", "chat", kept=True),
    "memory": Load("memory of an idle connection", lambda target: hold(target, IDLE), "once"),
    "idle": Load(
        "an echo on each of 5,000", lambda target: hold(target, IDLE, CROWD), "once", servers=(OURS, OTHER)
    ),
}
SIZES = (10, 100, 1000, CROWD)
GROWTH = {  # a load for each number of connections; the first one is what the others are compared with
    "a message, one in flight on each": [
        Load(f"{size:,}", partial(echo, count=size), kept=True, warm=2 * size) for size in SIZES
    ],
    "a broadcast, for each receiver": [
        Load(f"{size:,}", partial(chat, users=size), "time", "room", kept=True, each=size) for size in SIZES
    ],
}

# ---- Taking turns


def spread(times: list[float]) -> Figures:
    """The median, and what one in a hundred exceeds."""
    return {f"p{n}": sorted(times)[math.ceil(len(times) * n / 100) - 1] for n in (50, 99)}


class Contestant:
    """One server under one load: started when its turn comes, and anew after a failure."""

    def __init__(self, load: Load, name: str, start: Callable[[], Running]) -> None:
        self.load, self.start, self.steps, self.target, self.stale = load, start, None, None, math.inf
        self.once, self.rated = load.measures == "once", load.measures == "rate"
        self.make: Callable[..., Steps] = wsproto_alone if name == ALONE else load.steps

    def turn(self, seconds: float) -> Figures:
        """One slice. Raises Failed with the reason where the server doesn't do it."""
        signal.alarm(300 if self.once or self.load.kept else 30)
        if clock() > self.stale:
            self.close()
        try:
            if self.target is None:
                self.target = self.start()
                self.once or self.measure(0.1)  # imports, caches, threads
            return self.measure(seconds)
        except (Failed, OSError) as error:
            time.sleep(0.05)  # a process that is dying needs a moment to be dead
            reason = (self.target and self.target.why_dead()) or str(error) or type(error).__name__
            self.close()
            raise Failed(reason) from None
        finally:
            signal.alarm(0)
            gc.enable()
            self.stale = clock() + 30  # servers drop who hasn't answered a ping for so long
            if self.once:
                self.close()  # what it has freed would be taken again

    def measure(self, seconds: float) -> Figures:
        """What comes out of so many seconds, and the processor time of server and load for one message."""
        load, target, warm, done, found = self.load, self.target, 0, 0, []
        if self.steps is None:
            self.steps = self.make(target)
            next(self.steps)
        if self.once:
            return next(self.steps)
        while warm < load.warm:
            warm += next(self.steps) if self.rated else load.warm
        gc.disable()
        served, own, begin = target.cpu(), time.process_time(), clock()
        while done < load.warm or clock() < begin + seconds:
            found.append(next(self.steps))
            done += found[-1] if self.rated else 1
        took, own, served = clock() - begin, time.process_time() - own, target.cpu() - served
        if not load.kept:
            self.steps = self.steps.close()
        count = done * load.each
        figures = {"cpu": served / count, "load": own / count, "share": own / took}
        return figures | ({"rate": count / took} if self.rated else spread(found))

    def close(self) -> None:
        """End connections and server."""
        self.steps = self.steps and self.steps.close()
        self.target = self.target and self.target.close()


class Results(dict[Place, dict[str, list[tuple[Figures, Figures]]]]):
    """All that was measured: place -> peer -> for each pair wsdual's figures and the peer's."""

    failures: dict[str, str] = {}

    def compare(self, place: Place, ours: Contestant, peers: Any, rounds: int, seconds: float) -> None:
        """A B, B A, A B, ...: so that neither is always the first."""
        print(*place, file=sys.stderr, flush=True)
        for name, peer in peers.items():
            done, failures = [], 0
            while len(done) < rounds and failures < TRIES:
                try:
                    order = (ours, peer) if len(done) % 2 == 0 else (peer, ours)
                    found = {one: one.turn(seconds) for one in order}
                    done.append((found[ours], found[peer]))
                except Failed as error:
                    failures, reason = failures + 1, str(error)
            if failures < TRIES:
                self.setdefault(place, {})[name] = done
            else:
                self.failures[f"{' '.join(place)}, {name}"] = reason
            if peer is not ours:
                peer.close()
        ours.close()

    def look(self, place: Place, key: str, peer: str = OURS) -> tuple[float, float, float, float] | None:
        """A server's figure (wsdual's is over all its slices); and of the pairs' ratios the end of the lowest
        quarter, the median, the beginning of the highest."""
        pairs = self.get(place, {}).get(peer, [])
        if peer == OURS:
            pairs = [(ours, ours) for found in self.get(place, {}).values() for ours, _ in found]
        both = [(ours[key], theirs[key]) for ours, theirs in pairs if key in ours]
        ratios = [a / b if key == "rate" else b / a for a, b in both]
        if not both:
            return None
        middle = statistics.quantiles(ratios, n=4, method="inclusive") if ratios[1:] else ratios * 3
        return statistics.median(theirs for _, theirs in both), middle[0], middle[1], middle[2]


def run(results: Results, options: argparse.Namespace, mode: str) -> None:
    """All rows of one mode, on ws and on wss."""
    core = CORES[0] if mode == "fair" else None
    os.sched_setaffinity(0, CORES if core is None else CORES[1:2])
    for wire in WIRES:

        def contestant(name: str, load: Load, wire: str = wire) -> Contestant:
            return Contestant(load, name, partial(Running, options, name, wire, load.app, core))

        for row, load in LOADS.items():
            once = load.measures == "once"
            if row in options.rows and (not once or mode == options.modes[-1]):
                peers = {
                    name: contestant(name, load)
                    for name in options.servers
                    if name != OURS and name in load.servers and row in (SERVERS[name][3] or LOADS)
                }
                ours, rounds = contestant(OURS, load), 1 if once else options.pairs
                results.compare((mode, wire, row), ours, peers or {OURS: ours}, rounds, options.slice)
        for row, name in itertools.product(GROWTH, (OURS, OTHER)):
            if "growth" in options.rows and mode == options.modes[0] and name in (OURS, *options.servers):
                ours, *sizes = (contestant(name, load) for load in GROWTH[row])
                place = (mode, wire, f"{SERVERS[name][0]}: {row}")
                peers = {one.load.title: one for one in sizes}
                results.compare(place, ours, peers, options.pairs, 4 * options.slice)


# ---- The report

UNITS = {"rate": [(1, "/s")], "idle": [(1024, " KB")], "used": [(1024, " KB")], "growth": [(1, "x")]}
SUFFIXES = {"p50": ", p50", "p99": ", p99", "used": ", after one echo", "growth": ", memory to 500"}


def figure(value: float, key: str) -> str:
    """A figure with its unit, three digits or so."""
    scales = UNITS.get(key, [(1e-6, " µs"), (1e-3, " ms"), (1, " s")])
    scale, unit = next((pair for pair in scales if value < 1000 * pair[0]), scales[-1])
    return f"{value / scale:,.{2 if unit == 'x' else 1 if value < 100 * scale else 0}f}{unit}"


def cell(results: Results, place: Place, key: str, peer: str) -> str:
    """A server's figure; of a peer the ratio too, and the middle half of the ratios where it is wide."""
    if (found := results.look(place, key, peer)) is None:
        return "failed" if f"{' '.join(place)}, {peer}" in results.failures else ""
    value, low, ratio, high = found
    noise = f" ({low:.2f}-{high:.2f})" if high - low > 0.2 * ratio else ""
    return figure(value, key) + (f" {ratio:.{2 if ratio < 10 else 0}f}x{noise}" if peer != OURS else "")


def table(results: Results, places: list[Place], *keys: str) -> list[list[str]]:
    """Rows and their servers, or the growth and its sizes, under a heading."""
    shown = [(place, key) for place in places for key in keys if results.look(place, key)]
    took_part = {name for place, _ in shown for name in results[place]}
    known = [*SERVERS, *(f"{size:,}" for size in SIZES)]
    columns = [OURS, *(name for name in known if name in took_part - {OURS})]
    lines = [["", *(SERVERS.get(name, (name,))[0] for name in columns), "load"]]
    for place, key in shown:
        title = LOADS[place[2]].title if place[2] in LOADS else place[2]
        load, share = results.look(place, "load"), results.look(place, "share")
        lines.append([f"{title}{SUFFIXES.get(key, '')}, {place[1]}"])
        lines[-1] += [cell(results, place, key, name) for name in columns]
        lines[-1].append(f"{share[0]:.0%} {figure(load[0], 'load')}" if load and share else "")
    return lines


def draw(lines: list[list[str]], markdown: bool) -> str:
    """The table with its columns in line; the first one to the left, the others to the right."""
    first, *widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * first, *("-" * (width - markdown) + ":" * markdown for width in widths)]
    text = [[w[0].ljust(first), *map(str.rjust, w[1:], widths)] for w in (lines[0], rule, *lines[1:])]
    return "\n".join(f"| {' | '.join(w)} |" if markdown else "  ".join(w).rstrip() for w in text)


def report(results: Results, options: argparse.Namespace, others: float) -> str:
    """Everything that was measured, to read."""
    parts, sections = ["\n".join("- " + note for note in notes(results, options, others))], {}
    for mode in options.modes:
        places = [(mode, wire, row) for row in LOADS for wire in WIRES]
        sections[mode] = table(results, places, "rate", "p50", "p99", "idle", "used", "growth")
        sections[f"{mode}, the server's processor time for one message"] = table(results, places, "cpu")
    grown = [place for place in results if place[2] not in LOADS]
    sections["growth: the same with more connections"] = lines = table(results, grown, "cpu")
    lines[0][1] = f"{SIZES[0]}"
    sections["goals"] = goals(results) if options.goals else []
    for title, lines in sections.items():
        if lines[1:]:
            parts += [f"### {title}" if options.markdown else f"{title}:", draw(lines, options.markdown)]
    return "\n\n".join(parts)


def notes(results: Results, options: argparse.Namespace, others: float) -> list[str]:
    """The machine, the versions, how it was measured, and what is missing."""
    shares = [(found[0], place) for place in results if (found := results.look(place, "share"))]
    share, place = max(shares, default=(0.0, ("", "", "")))
    cpu = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].partition("\n")[0]
    versions = ", ".join(sorted(options.versions))
    return [
        f"{time.strftime('%Y-%m-%d %H:%M')}, {cpu}, {len(CORES)} cores, Linux {platform.release()}",
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}, {versions}",
        f"{options.pairs} pairs of {options.slice:g} s slices. Ratios say how many times as good wsdual is.",
        f"The load took at most {share:.0%} of its core ({' '.join(place)}); for each message, see 'load'.",
        f"Other programs used {others:.0%} of the machine meanwhile.",
        *(f"Left out: {what} ({why})." for what, why in options.missing.items()),
        *(f"Failed: {what} ({why})." for what, why in results.failures.items()),
    ]


# (mode, row, figure): peer -> how many times as good as that peer wsdual has to be, on ws and on wss
EVEN, BEFORE = (1.0, 1.0), {OTHER: (0.9, 0.9)}  # no worse than before: a tenth may be noise
GOALS: dict[Place, dict[str, tuple[float, float]]] = {
    ("fair", "round-trip", "p50"): {THREADS: EVEN, ASYNCIO: EVEN, BARE: (0.62, 0.62), **BEFORE},
    ("fair", "echo50", "rate"): {THREADS: (2.0, 1.8), ASYNCIO: (1.1, 1.3), "aiohttp": (0.75, 0.75),
                                 **BEFORE},
    ("default", "echo50", "rate"): {THREADS: (3.0, 3.0), ASYNCIO: (1.0, 1.2), **BEFORE},
    ("fair", "pipeline", "rate"): {THREADS: (2.5, 2.5), ASYNCIO: (2.5, 2.5), "aiohttp": (1.3, 1.3),
                                   "picows": (0.9, 0.9), ALONE: (2.0, 2.0), **BEFORE},
    ("fair", "large", "rate"): BEFORE,
    ("fair", "connect", "rate"): {THREADS: (1.3, 1.15), ASYNCIO: (1.1, 1.05), **BEFORE},
    ("fair", "first", "p50"): BEFORE,
    ("fair", "chat", "p50"): {ASYNCIO: EVEN, **BEFORE},
    # what wsdual's own figure may be at most; how much dearer a message may be than with 10 connections
    ("default", "memory", "idle"): {OURS: (30.5 * 1024, 63.5 * 1024)},
    ("default", "idle", "growth"): {OURS: (1.1, 1.1)},
    ("fair", "wsdual: a message, one in flight on each", "cpu"): {"5,000": (2.0, 2.0)},
    ("fair", "wsdual: a broadcast, for each receiver", "cpu"): {"5,000": (1.5, 1.5)},
}  # fmt: skip


def goals(results: Results) -> list[list[str]]:
    """Each goal that was measured, and whether it is met. Ratios count as shown, to two places."""
    lines = [["goal", "wanted", "measured", "middle half", ""]]
    for ((mode, row, key), peers), (side, wire) in itertools.product(GOALS.items(), enumerate(WIRES)):
        for peer, limits in peers.items():
            if found := results.look((mode, wire, row), key, peer):
                value, low, ratio, high = found
                words = [f"{limits[side]:.2f}x", f"{ratio:.2f}x", f"{low:.2f}x to {high:.2f}x"]
                met = round(ratio, 2) >= limits[side] if row in LOADS else round(ratio, 2) <= limits[side]
                if peer == OURS:
                    words, met = [figure(limits[side], key), figure(value, key), ""], value <= limits[side]
                title = LOADS[row].title if row in LOADS else row
                lines.append([f"{title}, {peer}, {mode} {wire}", *words, "met" if met else "NOT met"])
    return lines


STYLE = """text { font: 11px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 13px }
.better { fill: #1a936f } .worse { fill: #d9730d } line { stroke: #8b949e; stroke-dasharray: 2 2 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .better { fill: #3fb68b } .worse { fill: #f0883e } }"""
TEXT_AT = '<text x="{}" y="{}" class="{}">{}</text>'
BAR_AT = '<rect x="{}" y="{}" width="{}" height="11" class="{}"/>'


def draw_svg(results: Results, mode: str) -> str:
    """A bar for each row and peer: the ratio; ws on the left, wss on the right; for light and dark pages."""
    title = f"How many times as good is wsdual? ({mode}; beyond the dashed line: better)"
    body, bottom = [TEXT_AT.format(10, 18, "title", title)], 0
    for left, wire in ((10, "ws"), (480, "wss")):
        y = 12
        for row, key in itertools.product(LOADS, ("rate", "p50", "idle")):
            bars = [(name, results.look((mode, wire, row), key, name)) for name in SERVERS if name != OURS]
            if any(found for _, found in bars):
                y += 30
                body.append(TEXT_AT.format(left, y, "title", f"{LOADS[row].title}, {wire}"))
            for name, ratio in ((name, found[2]) for name, found in bars if found):
                y, width, kind = y + 15, round(80 * min(ratio, 3)), "better" if ratio >= 1 else "worse"
                words = f"{ratio:.2f}x" + " …" * (ratio > 3)
                body += [
                    TEXT_AT.format(left, y, "name", SERVERS[name][0]),
                    BAR_AT.format(left + 140, y - 9, width, kind),
                    TEXT_AT.format(left + 145 + max(width, 80), y, "value", words),
                ]
        body.append(f'<line x1="{left + 220}" x2="{left + 220}" y1="30" y2="{y + 5}"/>')
        bottom = max(bottom, y + 12)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 {bottom}" role="img">'
    return "\n".join([head, f"<title>{title}</title><style>{STYLE}</style>", *body, "</svg>", ""])


# ---- The command line


def some_of(allowed: list[str], text: str) -> list[str]:
    """An argument: some of these names, with commas."""
    if unknown := set(text.split(",")) - set(allowed):
        raise argparse.ArgumentTypeError(f"no {unknown.pop()!r}; there are {', '.join(allowed)}")
    return [name for name in allowed if name in text.split(",")]


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """The command line of the benchmark itself."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__, formatter_class=raw)
    lists = {"rows": [*LOADS, "growth"], "servers": [*SERVERS], "modes": [*MODES]}
    add = parser.add_argument
    for flag, allowed in lists.items():
        add(f"--{flag}", type=partial(some_of, allowed), metavar="NAME,…", help=", ".join(allowed))
    add("--pairs", type=int, choices=range(1, 1000), default=7, metavar="N", help="pairs for each ratio (7)")
    add("--slice", type=float, default=0.25, metavar="SECONDS", help="length of a slice (0.25)")
    add("--quick", action="store_true", help="3 pairs of 0.15 s, 'fair' alone, no chat, idle and growth")
    add("--against", metavar="FILE", help="another wsdual.py as a peer; the only one, but for --servers")
    add("--goals", action="store_true", help="say which goals are met")
    add("--markdown", action="store_true", help="tables to paste into a README")
    add("--svg", type=Path, metavar="FILE", help="draw the ratios of the first mode")
    options = parser.parse_args(arguments)
    if options.quick:
        options.pairs, options.slice, options.modes = 3, 0.15, ["fair"]
    slow = ("chat", "idle", "growth") if options.quick else ()
    options.rows = options.rows or [row for row in lists["rows"] if row not in slow]
    options.modes = options.modes or [*MODES]
    options.modules = {OURS: str(Path(__file__).resolve().parents[2] / "wsdual.py")}
    if options.against:
        options.modules[OTHER] = os.path.abspath(options.against)
        options.servers = [OTHER, *(options.servers or [])]
    options.servers = options.servers or [name for name in SERVERS if name != OTHER]
    options.versions, options.missing = set(), {}
    return options


def prepare(options: argparse.Namespace) -> None:
    """Leave out what isn't installed, make a certificate for all, allow thousands of sockets."""
    for name in options.servers:
        title, package, *_ = SERVERS[name]
        try:
            options.versions.add(f"{package} {importlib.metadata.version(package)}")
            if name == "haproxy":
                said = subprocess.check_output(["haproxy", "-v"], text=True, timeout=10)
                options.versions.add(f"HAProxy {said.split()[2]}")
        except (importlib.metadata.PackageNotFoundError, OSError):
            options.missing[title] = "not installed"
    options.servers = [name for name in options.servers if SERVERS[name][0] not in options.missing]
    pem = options.folder / "server.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += f" -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {pem} -out {pem}"
    subprocess.run(command.split(), check=True, capture_output=True, timeout=60)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000) if hard > 0 else 20_000, hard))


def busy() -> float:
    """Seconds that the machine has computed for others than this process and its ended children."""
    fields = [int(value) for value in Path("/proc/stat").read_text().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    options, results = parse_options(arguments), Results()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGALRM, partial(fail, "hung"))
    with tempfile.TemporaryDirectory(prefix="wsdual-bench-") as folder:
        options.folder = Path(folder)
        prepare(options)
        before, begin = busy(), clock()
        try:
            for mode in options.modes:
                run(results, options, mode)
        except KeyboardInterrupt:
            print("interrupted: this is what there is", file=sys.stderr)
    print(report(results, options, (busy() - before) / (clock() - begin) / (os.cpu_count() or 1)))
    if options.svg:
        options.svg.write_text(draw_svg(results, options.modes[0]), encoding="utf-8")


if __name__ == "__main__":
    serve(*sys.argv[2:]) if sys.argv[1:2] == ["serve"] else main()
