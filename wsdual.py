#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.10"
# dependencies = ["wsproto>=1.2", "cryptography>=42"]
# ///
"""One port that speaks ws, wss, http, https and plain TCP lines.

TLS has to start before the first message, so a server can't ask a client whether it wants
wss or ws. But it can look: the first bytes of a connection tell, and a *peek* looks at
them without taking them, so that whoever reads next finds them untouched.

                             first byte
                          .- 16 ---------> TLS handshake ---> look again, inside TLS
    accept ---> peek -----+- G, P, H ... -> HTTP: upgrade to WebSocket, or send a file
                          +- { ----------> native: one line, one message
                          '- other ------> remember the address, close; next time try TLS

Six kinds of connection come out of it: ws wss http https tcp tcps. An application needn't
care. It gets a *peer* and talks to it:

    from wsdual import DualServer, server_context

    def echo(peer):
        for message in peer:                     # str or bytes, until the peer has closed
            peer.send(message)

    tls = server_context("server.pfx", "password")
    with DualServer(("127.0.0.1", 4530), {"/echo": echo}, tls=tls) as server:
        server.serve_forever()

The module tells a connection's life twice: first DualServer and Connection, from accept to
close; then what each step needs, in the same order: classify, remember, wrap, parse, talk.
Then come the demo applications and the command line: `python wsdual.py --help`.

Threads. The main thread accepts. Each connection has a thread of its own, which alone
reads from that client and closes its socket. Any thread may send to any peer, and doesn't
wait, unless it is the peer's own. What a client is too slow to take stays in its backlog,
and one more thread, the Drainer, hands it over as the client makes room. A lock for each
connection (Wire.lock) keeps them apart, and no thread ever waits for a client while it
holds that lock.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import errno
import getpass
import io
import ipaddress
import json
import logging
import math
import mimetypes
import os
import re
import secrets
import select
import selectors
import signal
import socket
import socketserver
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

try:
    import h11
    from wsproto.extensions import Extension, PerMessageDeflate
    from wsproto.frame_protocol import (
        CloseReason,
        Frame,
        FrameDecoder,
        FrameProtocol,
        Opcode,
        ParseFailed,
        RsvBits,
    )
    from wsproto.utilities import generate_accept_token
except ImportError as missing:
    if __name__ != "__main__":
        raise
    raise SystemExit(f"wsdual: {missing}: python -m pip install -r requirements.txt") from None

__all__ = ["DualServer", "IpMemory", "Kind", "Limits", "Peer", "PeerGone", "Verdict",
           "broadcast", "classify", "echo", "server_context"]  # fmt: skip

log = logging.getLogger("wsdual")


# ================================================================ what there is, how much


class Kind(str, Enum):  # noqa: UP042 (StrEnum came with 3.11)
    """The six kinds of connection; each is also the plain string of its name."""

    WS, WSS, HTTP, HTTPS, TCP, TCPS = "ws", "wss", "http", "https", "tcp", "tcps"


class Verdict(str, Enum):  # noqa: UP042
    """What the first bytes of a connection are."""

    TLS, HTTP, NATIVE, UNKNOWN = "tls", "http", "native", "unknown"


@dataclass(frozen=True)
class Limits:
    """Every bound of the server in one place. Sizes in bytes, times in seconds."""

    clients: int = 1000  # connections at once, whatever they do: each costs a thread
    message: int = 2**20  # one message, after inflating; websockets has the same default
    header: int = 16 * 1024  # a request's head; Apache allows 8 KiB a line, nginx 32 KiB in all
    handshake: float = 5.0  # from the first wait to the end of request or first line, TLS included
    ping: float = 20.0  # a client silent for so long is pinged; silent for as long again: dropped
    closing: float = 2.0  # for a close frame's answer and the last bytes, each

    @property
    def backlog(self) -> int:
        """What may wait for a client that doesn't read, before it is dropped: some messages."""
        return 2 * self.message + 64 * 1024


PEEKED_BYTES = 16  # a TLS record's header has 5, the longest method 7: more tells no more
RECEIVED_BYTES = 64 * 1024  # at once; a TLS record has at most 16 KiB
TLS_RECORD = 16 * 1024  # the largest piece that OpenSSL takes or leaves as a whole


class Deadline:
    """A point in time. (A socket's timeout starts anew with each byte; a deadline does not.)"""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._at - time.monotonic())


class Refused(Exception):
    """The server won't go on with this client.

    Args: why, a sentence for the client and the log; status, for those who speak HTTP;
    headers to go with it.
    """

    def __init__(self, why: str, status: int = 400, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(why)
        self.status, self.headers = status, headers


class PeerGone(ConnectionError):
    """Raised by Peer.send in the peer's own thread: the client has closed, or was dropped. An application
    needn't catch it: the connection then ends as it should."""


# ================================================================ 1. accept

Application = Callable[["Peer"], object]
Serve = Callable[[Any, Any], None]  # one connection, given as its socket and address
Seats = threading.Semaphore
Bytes = bytes | bytearray


class DualServer(socketserver.ThreadingTCPServer):
    """A ThreadingTCPServer whose one port answers all six kinds of connection.

    Args:
        address: (host, port); a host with a colon is IPv6, "::" both families; port 0: any free one.
        apps: path -> application, for WebSockets; "/" also takes native clients.
        tls: any ssl.SSLContext, or None for plain only. It may be replaced while the server
            runs: new connections take the new one. One that requires client certificates
            makes the server refuse plain connections.
        detect: "peek", or "trial" for the article's method.
        memory: seconds that an address is remembered.
        limits: see Limits.
        origins: foreign origins whose pages may connect, as "https://example.com".
        static: a folder whose files are served to HTTP, or None.

    Raises OSError where it can't listen, ValueError for an unknown method of detection.
    """

    allow_reuse_address = os.name == "posix"  # on Windows it lets two servers share a port
    request_queue_size = 1024  # the class's 5 turns a classroom away

    def __init__(
        self,
        address: tuple[str, int],
        apps: Mapping[str, Application],
        *,
        tls: ssl.SSLContext | None = None,
        detect: str = "peek",
        memory: float = 6.0,
        limits: Limits | None = None,
        origins: Iterable[str] = (),
        static: str | os.PathLike[str] | None = None,
    ) -> None:
        if detect not in ("peek", "trial"):
            raise ValueError(f"detect is 'peek' or 'trial', not {detect!r}")
        self.apps, self.tls, self.detect = dict(apps), tls, detect
        self.limits = limits or Limits()
        self.memory = IpMemory(memory)
        self.origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self.hosts = frozenset(urlsplit(origin).netloc for origin in self.origins)
        self.static = None if static is None else Path(static).resolve()
        self.observers: list[Callable[[dict[str, Any]], None]] = []
        self._seats: list[tuple[Seats, Serve]] = [
            (threading.Semaphore(self.limits.clients), self.process_request_thread),
            (threading.Semaphore(50), self.turn_away),  # for who comes when those are taken
        ]
        self._left = threading.Condition()  # guards the register, which is the next three
        self._connections: dict[int, Connection] = {}
        self._last_id = 0
        self._ending = False
        families = {entry[0] for entry in socket.getaddrinfo(address[0] or None, None)}
        self.address_family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
        self.drainer = Drainer()
        super().__init__(address, Connection)

    def server_bind(self) -> None:
        """Bind; on "::" IPv4 clients are welcome too, whatever the system's default is."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept one connection. Out of descriptors or memory: wait a little, don't spin."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                log.warning("can't accept now: %s", error.strerror)
                time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the connection's thread; where there are too many already, a doorman's, or none."""
        for seats, serve in self._seats:
            if seats.acquire(blocking=False):
                return self._start_thread(seats, serve, request, client_address)
        self.shutdown_request(request)

    def _start_thread(self, seats: Seats, serve: Serve, request: Any, client_address: Any) -> None:
        # The thread gets the descriptor in a socket of its own. What stays here is an empty shell, which
        # the accept loop may close, as it does when Ctrl-C strikes at this very moment.
        own = socket.socket(request.family, request.type, request.proto, request.detach())
        arguments = (seats, serve, own, client_address)
        try:
            threading.Thread(target=self._serve, args=arguments, daemon=True).start()
        except (RuntimeError, MemoryError):
            log.warning("refused a connection: no thread to be had")
            self.shutdown_request(own)
            seats.release()

    def _serve(self, seats: Seats, serve: Serve, request: Any, client_address: Any) -> None:
        """The whole of a connection's thread."""
        try:
            serve(request, client_address)
        finally:
            seats.release()

    def turn_away(self, request: socket.socket, client_address: Any) -> None:
        """Tell one client too many that it is one, if it speaks plain HTTP. In a thread of its own."""
        wire = Wire(request, self)
        try:
            if classify(wire.peek(Deadline(1.0))) is Verdict.HTTP:
                answer = http_response(h11.Connection(h11.SERVER), 503, b"503: too many clients, try later\n")
                wire.send(answer)
        except OSError:
            pass  # it has gone by itself
        finally:
            wire.close(1.0)

    def enter(self, connection: Connection) -> int:
        """Enter a connection in the register and return its number."""
        with self._left:
            if self._ending:
                connection.cut_off()
            self._last_id += 1
            self._connections[self._last_id] = connection
            return self._last_id

    def leave(self, connection: Connection) -> None:
        """Strike a connection off the register."""
        with self._left:
            del self._connections[connection.id]
            self._left.notify_all()

    def everyone(self) -> tuple[Connection, ...]:
        """All connections in the register."""
        with self._left:
            return tuple(self._connections.values())

    def tell(self, connection: Connection, step: str, **facts: Any) -> None:
        """Tell the observers one step of a connection. Never call it while holding a lock."""
        if self.observers:
            event = {"type": "event", "id": connection.id, "time": time.time(), "step": step, **facts}
            for observe in tuple(self.observers):
                try:
                    observe(event)
                except Exception:
                    log.exception("an observer failed")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the traceback of a fault of this module's own. May be overridden."""
        log.exception("a fault in the server, with client %s", client_address)

    def server_close(self) -> None:
        """Stop listening and end every connection: close code 1001, then the axe."""
        super().server_close()
        with self._left:
            self._ending = True
        for end, seconds in ((Connection.go_away, self.limits.closing + 0.5), (Connection.cut_off, 1.0)):
            for connection in self.everyone():
                end(connection)
            with self._left:
                if self._left.wait_for(lambda: not self._connections, seconds):
                    break
        self.drainer.stop()


class Connection(socketserver.BaseRequestHandler):
    """One connection, from its first byte to its last; handle() is its life. Runs in its own thread."""

    server: DualServer

    def setup(self) -> None:
        """Enter the register; the clock starts."""
        self.address = plain_address(self.client_address)
        self.local = is_loopback(self.address[0])
        self.kind: Kind | None = None
        self.path: str | None = None
        self.peer: Peer | None = None
        self.must_use_tls = False
        self.ended: dict[str, Any] = {}  # why it ended, and the close code where there is one
        self.deadline = Deadline(self.server.limits.handshake)
        self.wire = Wire(self.request, self.server)
        self.id = self.server.enter(self)
        self.tell("accepted", address=host_port(*self.address))

    def handle(self) -> None:
        """Detect, wrap, parse, talk."""
        try:
            verdict = self.detect()
            if verdict is Verdict.TLS:
                self.wrap()
                verdict = classify(self.wire.look(self.deadline))
            elif self.server.tls is not None and self.server.tls.verify_mode is ssl.CERT_REQUIRED:
                self.must_use_tls = True
            if verdict is Verdict.HTTP:
                self.serve_http()
            elif verdict is Verdict.NATIVE:
                self.serve_native()
            else:
                raise Refused("neither HTTP nor a native client inside TLS")
        except Refused as refusal:
            self.tell("refused", why=str(refusal))
            self.ended = {"why": str(refusal)}
        except TimeoutError:
            self.ended = {"why": f"silent, or not ready, for {self.server.limits.handshake:g} s"}
        except OSError as error:
            self.ended = {"why": plain_words(error)}

    def finish(self) -> None:
        """Close so that the last bytes arrive, and leave the register."""
        self.wire.close(self.server.limits.closing)
        self.server.leave(self)
        self.tell("closed", **(self.ended or {"why": self.wire.gone or "done"}))

    def tell(self, step: str, **facts: Any) -> None:
        """Tell the observers of this connection's next step."""
        self.server.tell(self, step, **facts)

    def go_away(self) -> None:
        """End this connection, as the server ends. Any thread may call it."""
        with self.wire.lock:
            peer = self.peer
            if peer is None:
                self.wire.drop_locked("the server ended")
        if peer:
            peer._say_goodbye(1001, "the server is going away")

    def cut_off(self) -> None:
        """End this connection without a word. Any thread may call it."""
        self.wire.drop("the server ended")

    # ------------------------------------------------------------ 2, 3: peek, remember

    def detect(self) -> Verdict:
        """Say what the client speaks, by the server's method. May be overridden."""
        return self.detect_by_trial() if self.server.detect == "trial" else self.detect_by_peek()

    def detect_by_peek(self) -> Verdict:
        """Look at the first bytes without taking them; the memory serves for unknown ones only."""
        head = self.wire.peek(self.deadline)
        since = time.perf_counter()
        verdict = classify(head)
        self.tell_peeked(head, verdict, since)
        if verdict is not Verdict.UNKNOWN:
            return verdict
        if self.server.tls is None:
            raise Refused("unknown first bytes")
        if self.server.memory.knows(self.address[0]):
            return Verdict.TLS  # unknown bytes twice: let OpenSSL judge
        raise self.remember("unknown first bytes")

    def detect_by_trial(self) -> Verdict:
        """The article's method: read the first message; unreadable means that TLS is due next time."""
        if self.server.memory.knows(self.address[0]):
            return Verdict.TLS
        head = self.wire.look(self.deadline)
        since = time.perf_counter()
        verdict = classify(head)
        self.tell_peeked(head[:PEEKED_BYTES], verdict, since)
        if verdict in (Verdict.HTTP, Verdict.NATIVE):
            return verdict
        raise self.remember("unreadable first message")

    def tell_peeked(self, head: bytes, verdict: Verdict, since: float) -> None:
        """Tell what was seen, and how long the verdict took."""
        self.tell("peeked", bytes=head.hex(), verdict=verdict.value,
                  us=round((time.perf_counter() - since) * 1e6, 1))  # fmt: skip

    def remember(self, why: str) -> Refused:
        """Remember the client's address; return the refusal."""
        self.server.memory.remember(self.address[0])
        self.tell("remembered", ip=self.address[0], seconds=self.server.memory.seconds)
        return Refused(f"{why}: the address is remembered, next time TLS is tried")

    # ------------------------------------------------------------ 4: wrap

    def wrap(self) -> None:
        """Speak TLS from here on."""
        if self.server.tls is None:
            raise Refused("TLS, but this server has no certificate")
        since = time.perf_counter()
        try:
            self.wire.wrap(self.server.tls, self.deadline)
        except ssl.SSLError as error:
            raise Refused(f"no TLS handshake: {plain_words(error)}") from None
        version, cipher = self.wire.tls or ("", "")
        self.tell("wrapped", version=version, cipher=cipher,
                  us=round((time.perf_counter() - since) * 1e6))  # fmt: skip

    # ------------------------------------------------------------ 5: parse

    def serve_http(self) -> None:
        """Answer one request: an upgrade to WebSocket, a file, or an error. (RFC 9112)"""
        self.kind = Kind.HTTPS if self.wire.tls else Kind.HTTP
        http = h11.Connection(h11.SERVER, self.server.limits.header)
        head_only = False
        try:
            event = self.read_request(http)
            head_only = event.method == b"HEAD"
            request = Request(event)
            if self.must_use_tls:
                raise Refused("this server wants a client certificate: use https or wss", 403)
            if "websocket" in request.words("Upgrade"):
                self.serve_websocket(http, request)
            else:
                self.serve_file(http, request)
        except Refused as refusal:
            body = f"{refusal.status} {HTTPStatus(refusal.status).phrase}: {refusal}\n".encode()
            self.wire.send(http_response(http, refusal.status, body, refusal.headers, head_only))
            raise

    def read_request(self, http: h11.Connection) -> h11.Request:
        """Read one request's head, under the deadline and of bounded size. Raises Refused, OSError."""
        room = self.server.limits.header
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError as error:
                raise Refused(str(error), error.error_status_hint) from None
            if isinstance(event, h11.Request):
                return event
            if not room:
                raise Refused("the request's head is too large", 431)
            try:
                data = self.wire.receive(self.deadline.left())
            except TimeoutError:
                raise Refused("the request took too long", 408) from None
            if not data:
                raise ConnectionError("closed before the request was complete")
            http.receive_data(data[:room])
            self.wire.unread(data[room:])
            room -= min(room, len(data))

    def serve_websocket(self, http: h11.Connection, request: Request) -> None:
        """Upgrade (RFC 6455 section 4.2), then talk."""
        check_upgrade(request)
        app = self.server.apps.get(request.path)
        if app is None:
            raise Refused(f"no WebSocket at {request.path[:100]!r}", 404)
        self.check_host(request, app)
        self.check_origin(request)
        while http.next_event() not in (h11.PAUSED, h11.NEED_DATA):
            pass  # to the end of the request: what lies behind it are frames
        self.wire.unread(http.trailing_data[0])
        self.kind, self.path = Kind.WSS if self.wire.tls else Kind.WS, request.path
        deflate = agree_on_deflate(",".join(request.all("Sec-WebSocket-Extensions")))
        token = generate_accept_token(request.one("Sec-WebSocket-Key").encode()).decode()
        headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", token)]
        if deflate:
            headers.append(("Sec-WebSocket-Extensions", deflate))
        switching = h11.InformationalResponse(status_code=101, headers=headers, reason=b"Switching Protocols")
        peer = WebSocketPeer(self, deflate)
        with self.wire.lock:  # from this answer on go_away() says goodbye in a frame
            self.wire.put(http.send(switching) or b"")
            self.peer = peer
        self.tell("upgraded", kind=self.kind.value, path=self.path)
        self.talk(app, peer)

    def check_host(self, request: Request, app: Application) -> None:
        """Keep out pages whose server only pretends to be this machine, and strangers from what is local.

        DNS rebinding: evil.example resolves to 127.0.0.1, and its pages find that they are same-origin.
        """
        if self.local and not is_loopback(request.host) and request.authority not in self.server.hosts:
            raise Refused(f"a local client asked for {request.authority!r}: allow it with --origin", 403)
        if getattr(app, "loopback_only", False) and not (self.local and is_loopback(request.host)):
            raise Refused("only for clients on this machine", 403)

    def check_origin(self, request: Request) -> None:
        """Keep foreign pages out: a browser says where a page is from (RFC 6455 section 10.2)."""
        origin = request.origin
        if origin is None or origin in self.server.origins:
            return
        if origin in ("null", "file://") and self.local and is_loopback(request.host):
            return  # a page opened from the disk
        try:
            theirs = split_port(urlsplit(origin).netloc, origin.startswith("https:"))
        except ValueError:
            theirs = None
        if theirs != split_port(request.authority, self.wire.tls is not None):
            raise Refused(f"a page of the foreign origin {origin}: allow it with --origin {origin}", 403)

    def serve_file(self, http: h11.Connection, request: Request) -> None:
        """Send a file from the static folder."""
        if request.method not in ("GET", "HEAD"):
            raise Refused("only GET and HEAD", 405, [("Allow", "GET, HEAD")])
        path = find_file(self.server.static, request.path)
        try:
            file = path.open("rb")
        except OSError:
            raise Refused("this file can't be read", 404) from None
        with file:
            size = os.fstat(file.fileno()).st_size
            headers = [("Content-Type", content_type(path)), ("Content-Length", str(size)), *common_headers()]
            self.wire.send(http.send(h11.Response(status_code=200, headers=headers)) or b"")
            while request.method == "GET" and not self.wire.gone:
                data = file.read(min(size, RECEIVED_BYTES))
                if not data:
                    break
                size -= len(data)
                self.wire.send(http.send(h11.Data(data=data)) or b"")
                self.wire.drain(self.server.limits.ping, down_to=4 * RECEIVED_BYTES)
        self.ended = {} if self.wire.gone else {"why": "200 OK"}

    def serve_native(self) -> None:
        """Talk to a native client: the first line comes within the deadline."""
        self.kind = Kind.TCPS if self.wire.tls else Kind.TCP
        self.path = "/"
        peer = LinePeer(self)
        try:
            app = self.native_app()
        except Refused as refusal:
            peer.close(1008, str(refusal))
            raise
        self.peer = peer
        self.talk(app, peer)

    def native_app(self) -> Application:
        """The application that native clients get. Raises Refused."""
        if self.must_use_tls:
            raise Refused("this server wants a client certificate: use TLS")
        app = self.server.apps.get("/")
        if app is None or (getattr(app, "loopback_only", False) and not self.local):
            raise Refused("no application for native clients here")
        return app

    # ------------------------------------------------------------ 6: talk

    def talk(self, app: Application, peer: Peer) -> None:
        """Run the application to its end, then close."""
        try:
            app(peer)
            peer.close(1000)
        except PeerGone:
            pass
        except Exception:
            log.exception("the application at %s failed, with %s:%d", self.path, *self.address)
            peer.close(1011, "the application failed")
        peer.wait_closed()
        self.ended = peer.ended


def plain_address(address: Sequence[Any]) -> tuple[str, int]:
    """(ip, port) of a socket's address, an IPv4-mapped IPv6 one as the IPv4 one that it is."""
    if ":" not in address[0]:
        return address[0], address[1]
    ip = ipaddress.IPv6Address(address[0])
    return str(ip.ipv4_mapped or ip), address[1]


def host_port(host: str, port: int) -> str:
    """host:port, as URLs have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain_words(error: OSError) -> str:
    """An error as a short text for the log."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error) or type(error).__name__


# ================================================================ 2. classify

METHODS = tuple(
    # RFC 9110 section 9, RFC 5789; PRI opens HTTP/2, which deserves an answer too
    method + b" " for method in b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI".split()
)  # fmt: skip


def classify(head: bytes) -> Verdict:
    """Tell what a connection is from its first bytes: one is enough, more confirm it.

    Args: head, the bytes that have come so far; 8 tell as much as more. Raises nothing.

    TLS: a record of type 22, handshake, version 3.x (RFC 8446 section 5.1); what is inside
    is OpenSSL's to judge. HTTP: the beginning of a method (RFC 9110 section 9). Native: JSON's
    opening brace (RFC 8259).

    >>> classify(bytes.fromhex("160301"))
    <Verdict.TLS: 'tls'>
    """
    if head[:1] == b"\x16" and head[1:2] in (b"", b"\x03"):
        return Verdict.TLS
    if head and any(head.startswith(method) or method.startswith(head) for method in METHODS):
        return Verdict.HTTP
    if head[:1] == b"{":
        return Verdict.NATIVE
    return Verdict.UNKNOWN


# ================================================================ 3. remember


class IpMemory:
    """Addresses, each remembered for some seconds. Any thread may ask.

    Args: seconds that an entry lives; capacity, entries at most (the oldest goes first);
    clock, a monotonic one, in seconds.
    """

    def __init__(
        self, seconds: float = 6.0, capacity: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self._capacity, self._clock = capacity, clock
        self._lock = threading.Lock()
        self._expires: dict[str, float] = {}  # in the order of expiry, since all live equally long

    def remember(self, ip: str) -> None:
        """Remember an address. One that is remembered already keeps its time: nothing renews it."""
        with self._lock:
            self._forget_expired()
            if ip not in self._expires:
                if len(self._expires) >= self._capacity:
                    del self._expires[next(iter(self._expires))]
                self._expires[ip] = self._clock() + self.seconds

    def knows(self, ip: str) -> bool:
        """Say whether an address is remembered now."""
        with self._lock:
            self._forget_expired()
            return ip in self._expires

    def entries(self) -> list[tuple[str, float]]:
        """List (address, seconds left), the oldest first."""
        with self._lock:
            self._forget_expired()
            now = self._clock()
            return [(ip, expires - now) for ip, expires in self._expires.items()]

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._expires and next(iter(self._expires.values())) <= now:
            del self._expires[next(iter(self._expires))]


# ================================================================ 4. wrap


def server_context(
    cert: str | os.PathLike[str] | bytes,
    password: str | None = None,
    key: str | os.PathLike[str] | None = None,
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    client_ca: str | os.PathLike[str] | None = None,
) -> ssl.SSLContext:
    """Make the TLS settings of a server.

    Args:
        cert: a .pfx/.p12 or PEM file (leaf first, then intermediates); or a .pfx file's content.
        password: of the key, where it has one.
        key: the PEM file of the key, where it isn't in cert.
        minimum: the lowest TLS version to accept.
        client_ca: a PEM file; clients must then show a certificate signed by one in it.

    Raises OSError for a file that can't be read, ValueError for one that can't be used.
    With $SSLKEYLOGFILE set, the standard library writes the session keys there, for Wireshark.
    """
    for name in (client_ca, key):
        if name is not None:
            Path(name).read_bytes()  # a file that can't be read gets an error that names it
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    except ssl.SSLError:
        raise ValueError(f"{client_ca}: no PEM certificate in it") from None
    context.minimum_version = minimum
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION  # so that a write never has to wait for a read
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    data = cert if isinstance(cert, bytes) else Path(cert).read_bytes()
    if b"-----BEGIN " in data and not isinstance(cert, bytes):
        load_pem(context, cert, key, password)
    else:
        load_pfx(context, data, password, "this .pfx" if isinstance(cert, bytes) else str(cert))
    return context


def load_pem(
    context: ssl.SSLContext,
    cert: str | os.PathLike[str],
    key: str | os.PathLike[str] | None,
    password: str | None,
) -> None:
    """Load a certificate and its key from PEM files."""
    try:
        context.load_cert_chain(cert, key, password or "")  # no password at all: OpenSSL would ask
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", "") or str(error)
        if "KEY_VALUES_MISMATCH" in reason:
            raise ValueError(f"{key or cert}: this key doesn't belong to {cert}") from None
        if b"ENCRYPTED" in Path(key or cert).read_bytes():
            raise ValueError(f"{key or cert}: the password is wrong") from None
        raise ValueError(f"{key or cert}: no usable PEM key with its certificate: "
                         f"is the key in another file? ({reason})") from None  # fmt: skip


def load_pfx(context: ssl.SSLContext, data: bytes, password: str | None, name: str) -> None:
    """Load a PKCS#12 file's content. OpenSSL reads keys from files only: what is written for it is
    encrypted, and gone at once."""
    from cryptography.hazmat.primitives import serialization

    key, chain = read_pfx(data, password, name)
    secret = secrets.token_urlsafe()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(secret.encode()),
    )
    pem += b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)
    handle, path = tempfile.mkstemp(suffix=".pem")  # readable by its owner alone
    try:
        with open(handle, "wb") as file:
            file.write(pem)
        context.load_cert_chain(path, password=secret)
    finally:
        os.unlink(path)


def read_pfx(data: bytes, password: str | None, name: str) -> tuple[Any, list[Any]]:
    """Return the key of a PKCS#12 file, and its certificates: the leaf, then the intermediates in order."""
    from cryptography.hazmat.primitives.serialization import pkcs12

    try:
        bag = pkcs12.load_pkcs12(data, None if password is None else password.encode())
    except ValueError as error:
        if "password" in str(error).lower():
            raise ValueError(f"{name}: the password is wrong") from None
        raise ValueError(f"{name}: neither a .pfx/.p12 nor a PEM file") from None
    if bag.key is None or bag.cert is None:
        raise ValueError(f"{name}: no key with its certificate in it")
    chain = [bag.cert.certificate]
    others = [extra.certificate for extra in bag.additional_certs]
    while issuer := next((c for c in others if c.subject == chain[-1].issuer != c.issuer), None):
        chain.append(issuer)  # the root itself, issued by itself, need not be sent
        others.remove(issuer)
    return bag.key, chain


# ================================================================ 5. parse


class Request:
    """An HTTP request's head, as far as it matters here.

    method, version; path, decoded, without its query; fields, name -> values; authority, what the Host
    field says, in lower case; host, that without its port; origin, where a browser's page is from, or None.

    Raises Refused for a bad Host (RFC 9112 section 3.2) or target.
    """

    def __init__(self, event: h11.Request) -> None:
        self.method, self.version = event.method.decode(), event.http_version.decode()
        self.fields: dict[str, list[str]] = {}
        for name, value in event.headers:  # h11 has the names in lower case
            self.fields.setdefault(name.decode(), []).append(value.decode("latin-1"))
        self.path = origin_form(event.target.decode("ascii"))
        self.authority = "".join(self.all("Host")).lower()
        self.origin = self.one("Origin").lower() if self.all("Origin") else None
        try:
            self.host = split_port(self.authority)[0] if self.all("Host") else ""
        except ValueError:
            raise Refused("a bad Host header") from None

    def all(self, name: str) -> list[str]:
        """The values of a field."""
        return self.fields.get(name.lower(), [])

    def one(self, name: str) -> str:
        """The value of a field that has to stand there once. Raises Refused."""
        values = self.all(name)
        if len(values) != 1:
            raise Refused(f"more than one {name}" if values else f"{name} is missing")
        return values[0]

    def words(self, name: str) -> list[str]:
        """A field's comma-separated words, in lower case."""
        return [word.strip().lower() for value in self.all(name) for word in value.split(",")]


def check_upgrade(request: Request) -> None:
    """Check what RFC 6455 section 4.2.1 demands of the client. Raises Refused."""
    if request.method != "GET":
        raise Refused("a WebSocket upgrade is a GET", 405, [("Allow", "GET")])
    if request.version != "1.1":
        raise Refused("a WebSocket upgrade needs HTTP/1.1")
    if "upgrade" not in request.words("Connection"):
        raise Refused("an upgrade needs the header Connection: Upgrade")
    if set(request.all("Content-Length")) - {"0"} or request.all("Transfer-Encoding"):
        raise Refused("a WebSocket upgrade has no body")
    if request.one("Sec-WebSocket-Version") != "13":
        raise Refused("this server speaks version 13", 426,
                      [("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")])  # fmt: skip
    try:
        if len(base64.b64decode(request.one("Sec-WebSocket-Key"), validate=True)) != 16:
            raise ValueError
    except ValueError:
        raise Refused("Sec-WebSocket-Key isn't 16 bytes in base64") from None
    request.one("Host")
    if not (request.origin or "-").isprintable():
        raise Refused("a bad Origin")


def split_port(authority: str, tls: bool = False) -> tuple[str, int]:
    """Split "host:port"; without a port it is the scheme's. Raises ValueError. (RFC 9110 section 7.2)"""
    match = re.fullmatch(r"([a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", authority)
    if not match:
        raise ValueError(authority)
    return match[1], int(match[2] or (443 if tls else 80))


def is_loopback(host: str) -> bool:
    """Say whether a host name or address is this machine's own by its name: no look-up."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


def origin_form(target: str) -> str:
    """The path that a request's target names, decoded, without its query. Raises Refused."""
    if not target.startswith("/"):
        try:
            parts = urlsplit(target)
        except ValueError:
            raise Refused("a bad target") from None
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.netloc:
            raise Refused("a bad target")
        target = parts.path or "/"  # absolute form, which servers must accept (RFC 9112 section 3.2.2)
    return unquote(re.split("[?#]", target)[0], errors="replace")


def find_file(folder: Path | None, path: str) -> Path:
    """Find the file that a path names, and never one outside of the folder. Raises Refused."""
    if folder is None or "\0" in path or "\\" in path:
        raise Refused("not found", 404)
    try:
        file = (folder / (path.lstrip("/") or "index.html")).resolve()
        if file.is_relative_to(folder) and file.is_file():
            return file
    except (OSError, ValueError, RuntimeError):
        pass  # a name too long, a loop of links
    raise Refused("not found", 404)


TYPES = mimetypes.MimeTypes()  # the built-in table: some systems' own call .js plain text


def content_type(path: Path) -> str:
    """A file's media type, by its name."""
    kind = TYPES.guess_type(path.name)[0] or "application/octet-stream"
    return kind + ("; charset=utf-8" if kind.startswith("text/") or kind.endswith("javascript") else "")


def common_headers() -> list[tuple[str, str]]:
    """What every response carries: one request a connection, no guessing, nothing from elsewhere."""
    return [  # fmt: skip
        ("Date", formatdate(usegmt=True)),
        ("Connection", "close"),
        ("Cache-Control", "no-cache"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; "
                                    "form-action 'none'; frame-ancestors 'none'"),
    ]


def http_response(
    http: h11.Connection,
    status: int,
    body: bytes,
    headers: Sequence[tuple[str, str]] = (),
    head_only: bool = False,
) -> bytes:
    """A whole response with a short text; without the text where the request was a HEAD."""
    length = ("Content-Length", str(len(body)))
    kind = ("Content-Type", "text/plain; charset=utf-8")
    head = h11.Response(
        status_code=status, headers=[kind, length, *headers, *common_headers()],
        reason=HTTPStatus(status).phrase.encode(),
    )  # fmt: skip
    text = h11.Data(data=b"" if head_only else body)
    return b"".join(http.send(event) or b"" for event in (head, text, h11.EndOfMessage()))


BITS = r'(8|9|1[0-5]|"8"|"9"|"1[0-5]")'
PARAMETER = re.compile(
    f"(server|client)_no_context_takeover|server_max_window_bits={BITS}|client_max_window_bits(={BITS})?"
)


def agree_on_deflate(offers: str) -> str:
    """Answer the first offer of permessage-deflate that is well made; "" where there is none.

    Args: offers, the header Sec-WebSocket-Extensions. (RFC 7692 section 7.1)
    """
    for offer in offers.split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        names = {parameter.split("=")[0] for parameter in parameters}
        if (
            name == PerMessageDeflate.name
            and all(PARAMETER.fullmatch(parameter) for parameter in parameters)
            and len(names) == len(parameters)
        ):
            answer = PerMessageDeflate().accept("; ".join([name, *parameters]).replace('"', ""))
            if isinstance(answer, str):
                return "; ".join(filter(None, [name, answer]))
    return ""


NO_RSV_BITS = RsvBits(False, False, False)


class MessageLimit(Extension):
    """What wsproto's reading side lacks: an end to the size of a message.

    An extension only in name, since that alone sees the length that a frame claims before a byte of it.

    Args: limit, bytes in one message.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0

    def enabled(self) -> bool:
        """Always."""
        return True

    def offer(self) -> bool:
        """Never: it is no matter of the client's."""
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Add up the frames of a message."""
        if opcode < Opcode.CLOSE:  # control frames may come in the midst of it
            self._size = payload_length + (self._size if opcode is Opcode.CONTINUATION else 0)
            if self._size > self._limit:
                return CloseReason.MESSAGE_TOO_BIG
        return NO_RSV_BITS


class BoundedDeflate(PerMessageDeflate):
    """permessage-deflate with an end to the size of a message, which counts after inflating.

    It also keeps control frames from wsproto's permessage-deflate, which takes one in the midst of a
    message for the message's end.

    Args: limit, bytes in one message; agreed, the answer to the client's offer.
    """

    def __init__(self, limit: int, agreed: str) -> None:
        super().__init__()
        self._limit, self._size = limit, 0
        self._in_control_frame = self._compressed = False
        self.accept(agreed)

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Refuse a frame that isn't compressed by the length that it claims."""
        self._in_control_frame = opcode >= Opcode.CLOSE
        if self._in_control_frame:
            return NO_RSV_BITS
        if opcode is not Opcode.CONTINUATION:
            self._size, self._compressed = 0, rsv.rsv1
        if not self._compressed and self._size + payload_length > self._limit:
            return CloseReason.MESSAGE_TOO_BIG
        return super().frame_inbound_header(proto, opcode, rsv, payload_length)

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        """Inflate in steps so small that one makes no more than the limit: deflate makes 1032 of 1."""
        if self._in_control_frame:
            return data
        if self._compressed:
            inflated, step = bytearray(), max(1, self._limit // 1032)
            for start in range(0, len(data), step):
                piece = super().frame_inbound_payload_data(proto, data[start : start + step])
                if isinstance(piece, CloseReason):
                    return piece
                inflated += piece
                if self._size + len(inflated) > self._limit:
                    return CloseReason.MESSAGE_TOO_BIG
                if self._decompressor and len(self._decompressor.unused_data) > 1:
                    # It goes on behind its own end. One byte may: the 0 that a client appends where its
                    # stream has ended (section 7.2.3.4).
                    return CloseReason.INVALID_FRAME_PAYLOAD_DATA
            data = bytes(inflated)
        self._size += len(data)
        return data

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | CloseReason | None:
        """End a message, but not for a control frame in the midst of it."""
        if self._in_control_frame:
            return None
        stream = self._decompressor
        last = super().frame_inbound_complete(proto, fin)
        if fin and stream and stream.eof:
            self._decompressor = None  # the client ended its stream, the next begins anew (section 7.2.3.5)
        if isinstance(last, bytes) and self._size + len(last) > self._limit:
            return CloseReason.MESSAGE_TOO_BIG
        return last


# ================================================================ 6. talk: the wire

READABLE, WRITABLE = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)


def waiter(sock: socket.socket, event: int) -> Callable[[float], object]:
    """A function that waits until a socket is readable or writable; given the seconds to wait, it returns
    something false where they are over."""
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(sock, event)
        return lambda seconds: poller.poll(math.ceil(seconds * 1000))
    lists = ([sock], []) if event == READABLE else ([], [sock])  # Windows
    return lambda seconds: any(select.select(*lists, [], seconds))


class Wire:
    """A client's socket, plain or TLS, that one thread reads and any thread may write to.

    An SSLSocket must never be in two threads at once, and wsproto neither. So:

    - lock guards the socket's recv and send, the backlog and the peer's framing. The socket
      is non-blocking: under the lock nobody ever waits.
    - The connection's own thread waits, outside the lock. It alone receives and closes.
    - put() sends what the kernel takes at once. The rest is the backlog, which the Drainer
      (or the own thread, in drain) hands over later. So nobody waits for a slow client.
    - What the own thread puts while it has more to say joins the backlog too, and goes out
      with the rest: one system call, one packet. The Drainer sees to it that it goes soon.
    """

    def __init__(self, sock: socket.socket, server: DualServer) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # a client that is gone already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.lock = threading.Lock()
        self.backlog = bytearray()  # what the client has still to take
        self.tls: tuple[str, str] | None = None  # version, cipher
        self.gone: str | None = None  # why nothing more can be sent or received
        self.tap: Callable[[str, bytes], None] | None = None  # sees every byte, where somebody watches
        self._server = server
        self._until_readable = waiter(sock, READABLE)  # made once: that saves a tenth of a small echo
        self._ahead = b""  # received, but not yet asked for
        self._known = 0  # bytes that are there, no need to wait: just peeked at, or decrypted inside OpenSSL
        self._at_end = False

    # ---- for the connection's own thread

    def peek(self, deadline: Deadline) -> bytes:
        """Look at the first bytes, without taking them. Raises TimeoutError, OSError.

        One look: MSG_PEEK returns at once as long as a byte is there, so that a loop which
        waits for more of them would spin.
        """
        if not self._until_readable(deadline.left()):
            raise TimeoutError
        head = self.sock.recv(PEEKED_BYTES, socket.MSG_PEEK)
        if not head:
            self._at_end = True
            raise ConnectionError("closed without a byte")
        self._known = len(head)
        return head

    def look(self, deadline: Deadline) -> bytes:
        """Look where there is no peeking: receive, and keep what came for the next receive()."""
        head = self.receive(deadline.left())
        if not head:
            raise ConnectionError("closed without a byte")
        self.unread(head)
        return head

    def unread(self, data: bytes) -> None:
        """Put bytes back, for the next receive()."""
        self._ahead = bytes(data) + self._ahead

    def wrap(self, context: ssl.SSLContext, deadline: Deadline) -> None:
        """Do the TLS handshake. Raises TimeoutError, OSError."""
        with self.lock:  # the raw socket is an empty shell afterwards: nobody may drop it meanwhile
            try:
                self.sock = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
            except OSError:
                self.gone = "gone before TLS"  # wrapping has closed the descriptor then
                raise
        self._known = 0
        until_ready = self._until_readable
        while until_ready(deadline.left()):
            with self.lock:
                if self.gone:
                    raise ConnectionError(self.gone)
                try:
                    self.sock.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    until_ready = self._until_readable
                except ssl.SSLWantWriteError:
                    until_ready = waiter(self.sock, WRITABLE)
        else:
            raise TimeoutError
        self.tls = (self.sock.version() or "", (self.sock.cipher() or ("",))[0])

    def receive(self, seconds: float) -> bytes:
        """Return what has come, or wait for it; b"" at the end. Raises TimeoutError, OSError."""
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        until_ready, end = self._until_readable, time.monotonic() + seconds
        while not self.gone:
            if not (self._known or until_ready(seconds)):
                raise TimeoutError
            with self.lock:
                try:
                    data = self.sock.recv(RECEIVED_BYTES)
                    # Where no poll() sees them: decrypted bytes that found no room in data.
                    self._known = self.sock.pending() if self.tls else 0  # type: ignore[attr-defined]
                    break
                except (BlockingIOError, ssl.SSLWantReadError):
                    until_ready = self._until_readable  # half a TLS record, say
                except ssl.SSLWantWriteError:
                    until_ready = waiter(self.sock, WRITABLE)
            self._known, seconds = 0, max(0.0, end - time.monotonic())
        else:
            return b""
        self._at_end = not data
        if tap := self.tap:
            tap("client", data)
        return data

    def drain(self, patience: float, down_to: int = 0) -> None:
        """Wait until no more than down_to bytes are left to send. A client that takes none of them
        for as long as patience, in seconds, is dropped."""
        while len(self.backlog) > down_to:
            if not waiter(self.sock, WRITABLE)(patience):
                self.drop("it doesn't read what it is sent")
            self.flush()

    def close(self, seconds: float) -> None:
        """End so that the last bytes arrive: close_notify, FIN, and then wait for the client's FIN.

        Closing a socket with unread bytes resets the connection, which can destroy what was just sent.
        """
        deadline = Deadline(seconds)
        with contextlib.suppress(OSError):
            while self.backlog and deadline.left() and waiter(self.sock, WRITABLE)(deadline.left()):
                self.flush()
            self.end_sending()
            while not (self._at_end or self.gone) and deadline.left():
                if self._until_readable(deadline.left()):
                    self._at_end = not socket.socket.recv(self.sock, RECEIVED_BYTES)
        with self.lock:
            self.gone = self.gone or "closed"
            self.backlog.clear()  # nobody looks after a backlog of one who is gone
            self.sock.close()

    # ---- for any thread

    def send(self, data: Bytes) -> None:
        """Send, and never wait."""
        with self.lock:
            self.put(data)

    def put(self, data: Bytes, more: bool = False) -> None:
        """Send, with the lock held; never waits. What can't be sent now joins the backlog, and so does
        what may wait a moment, as there is more to come."""
        if self.gone:
            return
        if tap := self.tap:
            tap("server", bytes(data))
        waiting = len(self.backlog)
        if not (waiting or more):
            sent = self._send(data)
            if sent == len(data) or self.gone:
                return
            data = data[sent:]
        self.backlog += data
        if not waiting:
            self._server.drainer.add(self)
        elif not more or waiting > RECEIVED_BYTES:
            self._send_backlog()

    def flush(self) -> bool:
        """Send what the client takes now; True where nothing is left to wait for."""
        with self.lock:
            return self._send_backlog()

    def _send_backlog(self) -> bool:
        """With the lock held."""
        if self.backlog and not self.gone:
            sent = self._send(self.backlog)
            del self.backlog[:sent]
        return bool(self.gone) or not self.backlog

    def _send(self, data: Bytes) -> int:
        """With the lock held: hand the kernel what it takes, and return how many bytes that were."""
        sent = 0
        try:
            if self.tls is None or len(data) <= TLS_RECORD:
                return self.sock.send(data)
            with memoryview(data) as view:
                while sent < len(data):
                    # OpenSSL wants a record that it couldn't send again, with at least the same
                    # bytes: they stand first in the backlog, which only grows at its end.
                    with view[sent : sent + TLS_RECORD] as piece:
                        sent += self.sock.send(piece)
        except (BlockingIOError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self.drop_locked(plain_words(error))
        return sent

    def drop(self, why: str) -> None:
        """Give the client up; its own thread wakes and closes."""
        with self.lock:
            self.drop_locked(why)

    def drop_locked(self, why: str) -> None:
        """With the lock held."""
        if not self.gone:
            self.gone = why
            self.backlog.clear()
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown: that forgets TLS, and what is sent after it goes in clear.
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def end_sending(self) -> None:
        """Say that nothing more will come: close_notify where there is TLS, then FIN. Never waits, and
        leaves a backlog to close(), which does the same once more."""
        with self.lock, contextlib.suppress(OSError):
            if self.gone or self.backlog:
                return
            if isinstance(self.sock, ssl.SSLSocket):
                with contextlib.suppress(OSError, ValueError):  # it would like to wait for the answer
                    self.sock.unwrap()
            socket.socket.shutdown(self.sock, socket.SHUT_WR)


class Drainer:
    """One thread that sends what is left in backlogs, as the clients make room.

    Its lock guards the set of wires; whoever holds a wire's lock may take it, never the reverse.
    """

    MOMENT = 0.01  # seconds that an answer waits at most for the answers to what came with it

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wires: set[Wire] = set()
        self._stopped = False
        self._waker, self._wakee = socket.socketpair()
        self._waker.setblocking(False)
        self._wakee.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="drainer", daemon=True)
        self._thread.start()

    def add(self, wire: Wire) -> None:
        """Look after a wire's backlog, from a moment later on."""
        with self._lock:
            if wire in self._wires:
                return
            self._wires.add(wire)
        self._wake()

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._wake()
        self._thread.join(1.0)
        self._waker.close()
        self._wakee.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # a full pipe wakes as well
            self._waker.send(b"!")

    def _run(self) -> None:
        while not self._stopped:
            with self._lock:
                wires = tuple(self._wires)
            ready = self._ready(wires)
            time.sleep(self.MOMENT)  # mostly the own thread has said all that it had to say by then
            done = {wire for wire in ready if wire.flush()}
            with self._lock:
                self._wires -= done
                # A wire may have been filled again right after its flush: put() then called
                # add(), which found it still in the set. Its backlog tells.
                self._wires |= {wire for wire in done if wire.backlog}

    def _ready(self, wires: Iterable[Wire]) -> list[Wire]:
        """Wait for room on one of the wires, or for a call to wake up."""
        # No epoll here: it needs a descriptor of its own, just when there may be none left.
        with getattr(selectors, "PollSelector", selectors.SelectSelector)() as selector:
            selector.register(self._wakee, selectors.EVENT_READ)
            closed = []
            for wire in wires:
                try:
                    selector.register(wire.sock, selectors.EVENT_WRITE, wire)
                except (ValueError, KeyError):
                    closed.append(wire)  # its own thread was faster
            try:
                ready = [key.data for key, _ in selector.select(0 if closed else None)]
            except (OSError, ValueError):  # Windows: one was closed just now, or there are more than 512
                return list(wires)
            with contextlib.suppress(OSError):
                self._wakee.recv(4096)
        return closed + [wire for wire in ready if wire is not None]


# ================================================================ 6. talk: the peers


class Peer:
    """The client as an application sees it, whatever the wire.

    Attributes: kind ('ws', 'wss', 'tcp', 'tcps'), address (ip, port), tls (version, cipher) or
    None, path, name (for the application to set: the monitor shows it).
    """

    def __init__(self, connection: Connection) -> None:
        self.connection, self.wire, self.server = connection, connection.wire, connection.server
        assert connection.kind is not None
        self.kind = connection.kind.value
        self.address, self.tls, self.path = connection.address, connection.wire.tls, connection.path
        self.name: str | None = None
        self.ended: dict[str, Any] = {}
        self._limits, self._full = self.server.limits, self.server.limits.backlog
        self._thread = threading.current_thread()  # not its number, which a later thread gets again
        self._closing: Deadline | None = None  # set once we have said goodbye
        self._more = False  # own thread: more has come than what is being answered
        self._stream = self._all_messages()

    def __iter__(self) -> Iterator[str | bytes]:
        """The client's messages, until it has closed. For the peer's own thread. A second loop
        goes on where the first one was left."""
        return self._stream

    def _all_messages(self) -> Iterator[str | bytes]:
        """Read, take apart, and answer or hand out; always one item ahead, to know whether more follow."""
        while data := self._receive():
            arrived = self._decode(data)
            item = next(arrived, None)
            while item is not None:
                following = next(arrived, None)
                self._more = following is not None
                message = self._take(item)
                if message is not None and self._closing is None:
                    yield message
                item = following

    def send(self, message: str | bytes) -> bool:
        """Send one message. Any thread may; it never interleaves with another.

        In the peer's own thread it waits while the client has much left to read. In any other
        thread it never waits: a client whose backlog is full is dropped.

        Returns whether the message was taken: False where the client is gone. In the peer's own
        thread that raises PeerGone, so that an application which only sends ends too. Raises
        ValueError for what this wire can't carry (a native client's line holds no newline).
        """
        if threading.current_thread() is not self._thread:
            return self._post(self._encode, message)
        self._make_room()
        if not self._post(self._encode, message, self._more):
            raise PeerGone(self.wire.gone or "closed")
        return True

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye; the loop over the peer's messages then ends. Any thread may.

        Args: code, a close code that may be sent (RFC 6455 section 7.4); reason, at most 123
        bytes of UTF-8, the rest is cut off. Raises ValueError for another code.
        """
        if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
            raise ValueError(f"{code} is no close code that can be sent")
        if self._say_goodbye(code, reason) and threading.current_thread() is not self._thread:
            # The own thread waits for the client, and no longer than for the next ping. That may be long.
            patience = threading.Timer(self._limits.closing, self.wire.drop, ["no answer to the close frame"])
            patience.daemon = True
            with contextlib.suppress(RuntimeError):  # no thread to be had: then the ping finds out
                patience.start()

    def _say_goodbye(self, code: int, reason: str) -> bool:
        """Send the last frame or line; False where that was done before. Any thread may, and never waits."""
        with self.wire.lock:
            if self._closing is not None:
                return False
            self._closing = Deadline(self._limits.closing)
            self.ended = self.ended or {"code": code, "why": reason or "closed by the server"}
            self.wire.put(self._encode_close(code, reason))
        self._said_goodbye()
        return True

    def tell(self, step: str, **facts: Any) -> None:
        """Tell the observers a step of the application's, as 'login'."""
        self.connection.tell(step, **facts)

    @property
    def backlog(self) -> int:
        """Bytes that the client has still to take."""
        return len(self.wire.backlog)

    def _post(self, encode: Callable[[Any], Bytes], message: Any, more: bool = False) -> bool:
        """Send what encode makes of a message, and never wait. more: as for Wire.put."""
        wire = self.wire
        with wire.lock:
            if self._closing or wire.gone:
                return False
            if len(wire.backlog) > self._full:
                wire.drop_locked("its backlog is full: it doesn't read what it is sent")
                return False
            wire.put(encode(message), more)
            return True

    def _make_room(self) -> None:
        """Own thread: who doesn't read isn't read either."""
        if len(self.wire.backlog) > self._limits.message:
            self.wire.drain(self._limits.ping, down_to=self._limits.message)

    def _receive(self) -> bytes:
        """Own thread: the next bytes, b"" where there will be none. Looks after dead clients."""
        self._more = pinged = False
        if self.wire.backlog:
            self.wire.flush()
            self._make_room()
        while self._closing is None or self._closing.left():
            try:
                data = self.wire.receive(self._closing.left() if self._closing else self._patience())
            except TimeoutError:
                if self._closing is None:
                    self._ask_for_life(pinged)
                pinged = True
            except OSError as error:
                self.wire.drop(plain_words(error))
            else:
                if not data and not self.ended:
                    self.ended = self._ended_without_goodbye()
                return data
        return b""

    def _ended_without_goodbye(self) -> dict[str, Any]:
        return {"why": self.wire.gone or "closed by the client"}

    def wait_closed(self) -> None:
        """Own thread: after close(), read on until the client has closed too, but not for long."""
        for _ in self:
            pass

    # What depends on the wire:

    def _decode(self, data: bytes) -> Iterator[Any]:
        """Own thread: take received bytes apart, into items for _take."""
        raise NotImplementedError

    def _take(self, item: Any) -> str | bytes | None:
        """Own thread: the message that an item is or completes; or else do what it asks for."""
        raise NotImplementedError

    def _encode(self, message: str | bytes) -> Bytes:
        """With the wire's lock held."""
        raise NotImplementedError

    def _encode_close(self, code: int, reason: str) -> Bytes:
        """With the wire's lock held."""
        raise NotImplementedError

    def _said_goodbye(self) -> None:
        """After the last bytes were posted."""

    def _patience(self) -> float:
        """Seconds to wait for the next bytes."""
        return self._limits.ping

    def _ask_for_life(self, again: bool) -> None:
        """The client has been silent for so long; again: since it was asked, too."""
        raise NotImplementedError


class WebSocketPeer(Peer):
    """A peer behind WebSocket frames (RFC 6455), which wsproto reads and writes.

    There are two FrameProtocols, one for each direction, since they have nothing in common but the
    name: the own thread alone reads with the first, and who holds the wire's lock writes with the
    other. deflate: the answer to the client's offer of permessage-deflate, or "".
    """

    def __init__(self, connection: Connection, deflate: str) -> None:
        super().__init__(connection)
        limit, outbound = self._limits.message, PerMessageDeflate()
        bounds = BoundedDeflate(limit, deflate) if deflate else MessageLimit(limit)
        if deflate:
            outbound.accept(deflate)
        self._inbound = FrameProtocol(client=False, extensions=[bounds])
        self._outbound = FrameProtocol(client=False, extensions=[outbound])
        self._pieces: Any = None  # of a message that isn't complete: a StringIO or BytesIO

    def _decode(self, data: bytes) -> Iterator[Frame | ParseFailed]:
        self._inbound.receive_bytes(data)
        try:
            yield from self._inbound.received_frames()
        except ParseFailed as fault:
            yield fault  # in its turn, after the answers to what came before it

    def _take(self, item: Frame | ParseFailed) -> str | bytes | None:
        if isinstance(item, ParseFailed):
            too_big = item.code is CloseReason.MESSAGE_TOO_BIG
            self._answer_close(item.code, "message too big" if too_big else str(item))
        elif item.opcode < Opcode.CLOSE:
            message: str | bytes | None = self._complete(item)
            return message
        elif item.opcode is Opcode.PING:
            self._make_room()
            self._post(self._outbound.pong, item.payload, self._more)
        elif item.opcode is Opcode.CLOSE:
            self._answer_close(*item.payload)
        return None

    def _complete(self, frame: Frame) -> Any:
        """Put a message's pieces together; None until the last has come."""
        if self._pieces is None:
            if frame.message_finished:
                return frame.payload
            self._pieces = io.StringIO() if isinstance(frame.payload, str) else io.BytesIO()
        self._pieces.write(frame.payload)
        if not frame.message_finished:
            return None
        message, self._pieces = self._pieces.getvalue(), None
        return message

    def _answer_close(self, code: CloseReason, reason: str) -> None:
        """The client closes, or has broken the protocol: say the same, and read no more."""
        with self.wire.lock:
            if self._closing is None:
                self.ended = {"code": int(code), "why": reason or "closed by the client"}
                self.wire.put(self._outbound.close(code, reason))
            self._closing = Deadline(0)

    def _encode(self, message: str | bytes) -> Bytes:
        return self._outbound.send_data(message)

    def _encode_close(self, code: int, reason: str) -> Bytes:
        return self._outbound.close(code, reason)

    def _ended_without_goodbye(self) -> dict[str, Any]:
        return {"code": 1006, "why": self.wire.gone or "closed without a close frame"}

    def _ask_for_life(self, again: bool) -> None:
        if again:
            self.wire.drop("silent: no answer to a ping")
        self._post(self._outbound.ping, b"")


class LinePeer(Peer):
    """A native peer: each line is a message, in UTF-8."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._lines = LineBuffer(self._limits.message)
        self._first = True
        keep_alive(self.wire.sock, self._limits.ping)

    def _decode(self, data: bytes) -> Iterator[str | ValueError]:
        if self._closing is not None:
            return  # what comes after goodbye is not even kept
        try:
            yield from self._lines.feed(data)
        except ValueError as fault:
            yield fault

    def _take(self, item: str | ValueError) -> str | None:
        self._first = False
        if isinstance(item, str):
            return item
        self.tell("refused", why=str(item))
        self.close(1007, str(item))
        return None

    def _encode(self, message: str | bytes) -> bytes:
        return as_line(message)

    def _encode_close(self, code: int, reason: str) -> bytes:
        """There is no close frame here: where it matters, a last line says why."""
        return b"" if code == 1000 else as_line(say("error", reason=reason))

    def _said_goodbye(self) -> None:
        self.wire.end_sending()

    def _patience(self) -> float:
        """The first line has a deadline; after that TCP keep-alive watches."""
        return self.connection.deadline.left() if self._first else self._limits.ping

    def _ask_for_life(self, again: bool) -> None:
        if self._first:
            self.close(1008, "no line came in time")


class LineBuffer:
    """Bytes in, lines out: no socket, no thread.

    Args: limit, bytes in one line.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._buffer = limit, bytearray()

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the lines that are complete. Raises ValueError for one too long, or not UTF-8."""
        searched = len(self._buffer)
        self._buffer += data
        start = 0
        while (end := self._buffer.find(b"\n", max(start, searched))) >= 0:
            line = bytes(self._buffer[start:end]).removesuffix(b"\r")
            start = end + 1
            if len(line) > self._limit:
                raise ValueError(f"a line has at most {self._limit} bytes")
            try:
                text = line.decode()
            except UnicodeDecodeError:
                raise ValueError("a line is text in UTF-8") from None
            yield text
        del self._buffer[:start]
        if len(self._buffer) > self._limit + 1:
            raise ValueError(f"a line has at most {self._limit} bytes")


def keep_alive(sock: socket.socket, seconds: float) -> None:
    """Let TCP find out whether a silent client still lives."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", seconds), ("TCP_KEEPINTVL", seconds / 4), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, int(value)))


def broadcast(peers: Iterable[Peer], message: str | bytes) -> None:
    """Send one message to many. It is framed once for each kind of wire, and waits for none of them: who is
    gone is passed over, who doesn't read is dropped.

    Args: peers, each once; message, text or bytes. Raises ValueError where a native client is among them and
    the message has a newline in it. (RFC 6455 section 5.6)
    """
    framed: dict[type[Peer], bytes] = {}
    for peer in peers:
        kind = type(peer)
        if kind not in framed:
            framed[kind] = frame_for(kind, message)
        peer._post(lambda ready: ready, framed[kind])


def frame_for(kind: type[Peer], message: str | bytes) -> bytes:
    """A message as any peer of a kind takes it: for WebSockets an uncompressed frame, which whoever
    agreed on deflate takes as well (RFC 7692 section 6)."""
    if issubclass(kind, WebSocketPeer):
        blank = FrameProtocol(client=False, extensions=[])
        return bytes(blank.send_data(message))
    return as_line(message)


def as_line(message: str | bytes) -> bytes:
    """A message as a native client takes it. Raises ValueError for one with a newline in it."""
    line = message.encode() if isinstance(message, str) else message
    if b"\n" in line:
        raise ValueError("a native client's message is a line: no newline in it")
    return line + b"\n"


# ================================================================ the demo applications


def say(type: str, **fields: Any) -> str:
    """A JSON object as the chat and the monitor speak it."""
    return json.dumps({"type": type, **fields}, ensure_ascii=False, separators=(",", ":"))


def echo(peer: Peer) -> None:
    """Send every message back: an application, as small as can be. Args: peer, the client."""
    for message in peer:
        peer.send(message)


class Chat:
    """A room: who logs in hears what is said. One object serves all peers, each in its thread.

    The lock guards the users. It is held while a message goes out, so that all hear the same
    order; that is short, since a broadcast waits for nobody.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[str, Peer] = {}

    def __call__(self, peer: Peer) -> None:
        """Serve one peer."""
        try:
            for message in peer:
                try:
                    self._answer(peer, read_json(message))
                except ValueError as error:
                    peer.send(say("error", reason=str(error)))
        finally:
            self._leave(peer)

    def _answer(self, peer: Peer, request: dict[str, Any]) -> None:
        actions = {"login": self._login, "say": self._say, "who": self._who}
        action = actions.get(request["type"]) if isinstance(request.get("type"), str) else None
        if action is None:
            raise ValueError("type is one of: login, say, who")
        if peer.name is None and action != self._login:
            raise ValueError('log in first: {"type":"login","name":"..."}')
        action(peer, request)

    def _login(self, peer: Peer, request: dict[str, Any]) -> None:
        name = request.get("name")
        if peer.name is not None:
            raise ValueError(f"you are logged in already, as {peer.name}")
        if not (isinstance(name, str) and re.fullmatch(r"\S(.{0,30}\S)?", name) and name.isprintable()):
            raise ValueError("a name has 1 to 32 printable characters, and no blank at its ends")
        with self._lock:
            if name in self._users:
                raise ValueError(f"the name {name} is in use")
            broadcast(self._users.values(), say("joined", name=name, kind=peer.kind))
            self._users[name] = peer
            peer.name = name
            broadcast([peer], say("welcome", name=name, kind=peer.kind, users=self._list()))
        peer.tell("login", name=name)

    def _say(self, peer: Peer, request: dict[str, Any]) -> None:
        text, to = request.get("text"), request.get("to")
        if not isinstance(text, str) or not text or CONTROLS.search(text):
            raise ValueError("text is a string, not empty, with no control characters but newline and tab")
        with self._lock:
            if "to" not in request:
                broadcast(self._users.values(), say("said", **{"from": peer.name}, text=text))
            elif not isinstance(to, str) or to not in self._users:
                raise ValueError(f"no such user: {to!r}" if isinstance(to, str) else "to is a user's name")
            else:
                both = {peer: None, self._users[to]: None}  # once, for who talks to oneself
                broadcast(both, say("said", **{"from": peer.name}, to=to, text=text))

    def _who(self, peer: Peer, request: dict[str, Any]) -> None:
        with self._lock:
            users = self._list()
        peer.send(say("users", users=users))

    def _list(self) -> list[dict[str, str]]:
        return [{"name": name, "kind": user.kind} for name, user in self._users.items()]

    def _leave(self, peer: Peer) -> None:
        with self._lock:
            if peer.name is not None and self._users.pop(peer.name, None) is not None:
                broadcast(self._users.values(), say("left", name=peer.name))


# What a terminal could take for a command, or UTF-8 can't carry.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def read_json(message: str | bytes) -> dict[str, Any]:
    """One JSON object. Raises ValueError, in words for the client."""
    if not isinstance(message, str):
        raise ValueError("text messages only")
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        raise ValueError("this isn't JSON") from None
    if not isinstance(value, dict):
        raise ValueError("this isn't a JSON object")
    return value


class Monitor:
    """The server's window: tells its watchers each step of each connection, and hands over the raw
    bytes of those connections that one of them asks for.

    The lock guards the watchers. It may be taken while a wire's lock is held, since a wire that is
    watched passes its bytes on from put(). Who holds it takes the register's, the memory's, and a
    watcher's own wire's, which is never watched, and with that the Drainer's. None of these waits
    for this one: so nobody waits in a circle.
    """

    loopback_only = True  # it shows what users write
    PATIENCE = 256 * 1024  # bytes that a slow watcher may have waiting; then events pass it by
    SHOWN = 4096  # bytes of one chunk

    def __init__(self, server: DualServer) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._missed: dict[Peer, int] = {}  # each watcher, and how many events it has missed
        self._watched: dict[int, set[Peer]] = {}  # connection's number -> who watches its bytes

    def __call__(self, peer: Peer) -> None:
        """Serve one watcher."""
        with self._lock:
            # First observe, then look: a step between the two is told twice rather than not at all.
            if not self._missed:
                self._server.observers.append(self.observe)
            self._missed[peer] = 0
            broadcast([peer], self.snapshot())
        try:
            for message in peer:
                try:
                    self._watch(peer, read_json(message))
                except ValueError as error:
                    peer.send(say("error", reason=str(error)))
        finally:
            with self._lock:
                del self._missed[peer]
                if not self._missed:
                    self._server.observers.remove(self.observe)
                for number in tuple(self._watched):
                    self._unwatch(peer, number)

    def snapshot(self) -> str:
        """How things stand now."""
        clients = [
            {"id": connection.id, "kind": peer.kind, "address": host_port(*peer.address), "path": peer.path,
             "name": peer.name, "tls": " ".join(peer.tls) if peer.tls else None}
            for connection in self._server.everyone() if (peer := connection.peer)
        ]  # fmt: skip
        memory = [{"ip": ip, "seconds_left": round(left, 1)} for ip, left in self._server.memory.entries()]
        return say("snapshot", detect=self._server.detect, clients=clients, memory=memory)

    def observe(self, event: dict[str, Any]) -> None:
        """Pass one step on to all watchers. Any thread calls it."""
        with self._lock:
            if event["step"] == "closed":
                self._watched.pop(event["id"], None)
            self._pass_on(self._missed, event)

    def _pass_on(self, watchers: Iterable[Peer], event: dict[str, Any]) -> None:
        message = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        for peer in watchers:
            if peer.backlog > self.PATIENCE:
                self._missed[peer] += 1
                continue
            if self._missed[peer]:
                broadcast([peer], say("missed", events=self._missed[peer]))
                broadcast([peer], self.snapshot())
                self._missed[peer] = 0
            broadcast([peer], message)

    def _watch(self, peer: Peer, request: dict[str, Any]) -> None:
        """Begin or end to show a connection's bytes."""
        number = request.get("id")
        if request.get("type") not in ("watch", "unwatch") or not isinstance(number, int):
            raise ValueError('{"type":"watch","id":7} or {"type":"unwatch","id":7}')
        with self._lock:
            if request["type"] == "unwatch":
                self._unwatch(peer, number)
                return
            wire = next((c.wire for c in self._server.everyone() if c.id == number and c.peer
                         and self._server.apps.get(c.peer.path or "") is not self), None)  # fmt: skip
            if wire is None:
                raise ValueError(f"no connection {number} that can be watched")
            self._watched.setdefault(number, set()).add(peer)
            wire.tap = lambda sender, data: self._show(number, sender, data)

    def _unwatch(self, peer: Peer, number: int) -> None:
        watchers = self._watched.get(number, set())
        watchers.discard(peer)
        if not watchers:
            self._watched.pop(number, None)
            for connection in self._server.everyone():
                if connection.id == number:
                    connection.wire.tap = None

    def _show(self, number: int, sender: str, data: bytes) -> None:
        """Pass a watched connection's bytes on. Called by its wire."""
        with self._lock:
            shown = {"bytes": bytes(data[: self.SHOWN]).hex(), "more": max(0, len(data) - self.SHOWN)}
            event = {"type": "bytes", "id": number, "time": time.time(), "from": sender, **shown}
            self._pass_on(self._watched.get(number, ()), event)


# ================================================================ the command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ENDING_SIGNALS:
        signal.signal(name, end_the_program)
    keep_freed_memory()
    status = 130  # for Ctrl-C before it runs, at the question for a password, say
    with contextlib.suppress(KeyboardInterrupt):
        try:
            tls, about = prepare_tls(options)
            server = make_server(options, tls)
        except (OSError, ValueError, OverflowError, ImportError) as error:
            print(f"wsdual: {explain(error, options)}", file=sys.stderr)
            return 1
        status = 0
        with server:
            if not options.no_pin and (pinned := hold_to_one_core()):
                about.append(pinned)
            introduce(server, about)
            server.serve_forever()
    return status


# SIGHUP: the terminal was closed. It doesn't exist on Windows.
ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def end_the_program(number: int, frame: FrameType | None) -> None:
    """End as on Ctrl-C. Once: what comes later must not disturb the end."""
    for name in ENDING_SIGNALS:
        signal.signal(name, lambda number, frame: None)  # not SIG_IGN: Python complains of one under way
    raise KeyboardInterrupt


class Program(DualServer):
    """A DualServer that takes up a renewed certificate: on SIGHUP, or when a file of it has changed.

    New connections get a new context; the one in use is never changed. service_actions runs in the
    main thread, between two calls of accept.
    """

    options: argparse.Namespace
    hung_up = False  # set by the signal, in the main thread as well

    def watch(self, options: argparse.Namespace) -> None:
        """Begin to look after the files that the flags name."""
        self.options, self._seen, self._next_look = options, self._stamps(options), time.monotonic() + 1
        self._has_terminal = os.isatty(0)
        options.may_ask = False  # from here on an answer to wait for would hold up the accept loop
        if options.cert and hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, lambda *_: setattr(self, "hung_up", True))

    def service_actions(self) -> None:
        """Called by serve_forever about twice a second."""
        if self.options.cert is None or not (self.hung_up or time.monotonic() > self._next_look):
            return
        if self.hung_up and self._has_terminal and not os.isatty(0):
            raise KeyboardInterrupt  # that was no call to renew: the terminal has been closed
        stamps = self._stamps(self.options)
        if self.hung_up or stamps != self._seen:
            try:
                self.tls, about = prepare_tls(self.options)
                log.info("certificate renewed: %s", "; ".join(about))
            except (OSError, ValueError) as error:
                log.error("the old certificate stays in use: %s", explain(error, self.options))
        self._seen, self.hung_up, self._next_look = stamps, False, time.monotonic() + 1

    @staticmethod
    def _stamps(options: argparse.Namespace) -> list[object]:
        stamps: list[object] = []
        for name in (options.cert, options.key, options.client_ca, options.password_file):
            with contextlib.suppress(OSError):
                about = os.stat(name or "")
                stamps.append((name, about.st_mtime_ns, about.st_size, about.st_ino))
        return stamps


class OneLineParser(argparse.ArgumentParser):
    """argparse, without the page of usage before an error."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, in one line, and exit."""
        self.exit(2, f"{self.prog}: {message} (--help tells the flags)\n")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    what = "One port that speaks ws, wss, http, https and plain TCP lines."
    parser = OneLineParser(prog="wsdual", allow_abbrev=False, description=what)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="where to listen (127.0.0.1); '::' for IPv6 and IPv4")
    add("--port", type=number(int, 0, 65535), default=4530, help="(4530); 0: any free one")
    add("--cert", help=".pfx/.p12 or PEM file (a throw-away self-signed one)")
    add("--key", help="the PEM file of the key, where it isn't in --cert")
    add("--password-file", help="file with the key's password (else $WSDUAL_PASSWORD, else asked)")
    add("--detect", choices=("peek", "trial"), default="peek", help="how TLS is told from plain (peek)")
    add("--memory", type=number(float, 0, 86400), default=6.0, help="seconds to remember an address (6)")
    add("--app", choices=("chat", "echo"), default="chat", help="what / and native clients get (chat)")
    add("--tls-min", choices=("1.2", "1.3"), default="1.2", help="the lowest TLS version (1.2)")
    add("--client-ca", help="PEM file: require client certificates signed by it; no plain connections")
    add("--origin", type=web_origin, action="append", default=[], help="allow its pages too (repeatable)")
    add("--max-clients", type=number(int, 1, 10**6), default=Limits.clients, help="at once (1000)")
    add("--max-message", type=number(int, 1, 2**31), default=Limits.message, help="bytes (1048576)")
    add("--handshake-timeout", type=number(float, 0.1, 3600), default=Limits.handshake, help="seconds (5)")
    add("--ping-interval", type=number(float, 0.1, 86400), default=Limits.ping, help="seconds (20)")
    add("--static", default=str(Path(__file__).parent / "static"), help="the page (beside the module)")
    add("--no-pin", action="store_true", help="don't hold the process to one core")
    add("-v", "--verbose", action="store_true", help="tell every step of every connection")
    parser.set_defaults(typed=None, may_ask=True)
    return parser.parse_args(arguments)


def web_origin(text: str) -> str:
    """A flag's type: an origin, as browsers send it (RFC 6454)."""
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+/?", text, re.IGNORECASE):
        raise argparse.ArgumentTypeError(f"{text!r} isn't an origin, as https://example.com or http://127.0.0.1:8000")
    return text


def number(kind: Callable[[str], float], low: float, high: float) -> Callable[[str], float]:
    """A flag's type: a number in a range."""

    def parse(text: str) -> float:
        """The number that a text is. Raises ArgumentTypeError for none, or one out of the range."""
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} isn't a number from {low} to {high}")
        return value

    return parse


def hold_to_one_core() -> str | None:
    """Keep this process on one of its cores, where that pays; return a line that says so.

    Threads that share a GIL run one at a time anyway. Spread over cores they also hand the lock
    from core to core, which costs more than the work: 50 busy connections got twice as far on one.
    """
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    if not has_gil or not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        return None
    core = secrets.choice(sorted(os.sched_getaffinity(0)))
    os.sched_setaffinity(0, {core})
    return f"held to core {core}, where its threads don't contend (--no-pin against it)"


def keep_freed_memory() -> None:
    """Let glibc keep some memory that was freed, where it would give it back to the system.

    A large message passes through several buffers of its size. Where each is fresh from the kernel, which
    has to clear it first, an echo of 1 MB costs 1.8 times as much over ws, 1.5 times over wss. One arena for
    all threads, which the GIL keeps apart anyway, makes it 8 MiB in all.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            for option, value in ((M_ARENA_MAX, 1), (M_TRIM_THRESHOLD, 8 << 20), (M_MMAP_THRESHOLD, 8 << 20)):
                mallopt(option, value)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # as <malloc.h> numbers them


def prepare_tls(options: argparse.Namespace) -> tuple[ssl.SSLContext, list[str]]:
    """The TLS settings, and lines that tell the certificate."""
    cert: str | bytes
    password: str | None = None
    if options.cert is None:
        if options.key:
            raise ValueError("--key goes with --cert")
        import cert_tool

        names = [] if options.host in ("", "::", "0.0.0.0") else [options.host.partition("%")[0]]
        cert = cert_tool.pfx_bytes(*cert_tool.make_certificate("localhost", names), None)
    else:
        cert = options.cert
        password = find_password(options)
    minimum = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[options.tls_min]
    context = server_context(cert, password, options.key, minimum, options.client_ca)
    return context, describe_certificate(cert, password)


def find_password(options: argparse.Namespace) -> str | None:
    """The key's password: from the file, the environment, or the terminal; None where it has none."""
    if not needs_password(Path(options.cert), options.key and Path(options.key)):
        return None
    if options.password_file:
        return Path(options.password_file).read_text(encoding="utf-8-sig").partition("\n")[0].rstrip("\r")
    if os.environ.get("WSDUAL_PASSWORD"):
        return os.environ["WSDUAL_PASSWORD"]
    locked = options.key or options.cert
    if options.typed is None:  # asked once; a renewed file has the same password
        if not (options.may_ask and sys.stdin.isatty()):
            raise ValueError(f"{locked} has a password: give it by --password-file or $WSDUAL_PASSWORD")
        options.typed = getpass.getpass(f"Password of {locked}: ")
    return str(options.typed)


def needs_password(cert: Path, key: Path | None) -> bool:
    """Say whether the key in a file is encrypted."""
    data = (key or cert).read_bytes()
    if b"-----BEGIN " in data:
        return b"ENCRYPTED" in data
    try:
        read_pfx(data, None, "")
    except ValueError as error:
        return "password" in str(error)
    return False


def describe_certificate(cert: str | bytes, password: str | None) -> list[str]:
    """A certificate's subject, expiry and SHA-256, as lines to print."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    data = cert if isinstance(cert, bytes) else Path(cert).read_bytes()
    pem = b"-----BEGIN " in data
    leaf = x509.load_pem_x509_certificate(data) if pem else read_pfx(data, password, "")[1][0]
    return [
        f"certificate  {leaf.subject.rfc4514_string()}, until {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        + (", self-signed, thrown away at the end" if isinstance(cert, bytes) else ""),
        f"SHA-256      {leaf.fingerprint(hashes.SHA256()).hex(':').upper()}",
    ]


def make_server(options: argparse.Namespace, tls: ssl.SSLContext) -> DualServer:
    """The server that the flags describe."""
    if not os.path.isdir(options.static):
        log.warning("no folder %s: HTTP clients get 404 (--static names another)", options.static)
    limits = Limits(
        clients=options.max_clients,
        message=options.max_message,
        handshake=options.handshake_timeout,
        ping=options.ping_interval,
    )
    chat = Chat()
    apps: dict[str, Application] = {"/chat": chat, "/echo": echo}
    apps["/"] = apps["/" + options.app]
    server = Program(
        (options.host, options.port), apps, tls=tls, detect=options.detect, memory=options.memory,
        limits=limits, origins=options.origin, static=options.static,
    )  # fmt: skip
    server.apps["/monitor"] = Monitor(server)
    server.watch(options)
    if options.verbose:
        server.observers.append(log_event)
    return server


def log_event(event: dict[str, Any]) -> None:
    """Print one event as a line."""
    facts = {key: value for key, value in event.items() if key not in ("type", "id", "time", "step")}
    # A client chooses some of these words: none of its control characters may reach the terminal.
    safe = ((key, value if str(value).isprintable() else ascii(value)) for key, value in facts.items())
    words = " ".join(f"{key}={value}" for key, value in safe)
    log.info("#%d %s %s", event["id"], event["step"], words)


def introduce(server: DualServer, about: Iterable[str]) -> None:
    """Print what works now."""
    host, port = server.server_address[:2]
    host = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(str(host), str(host))
    place = host_port(host, port)
    lines = [
        f"wsdual: one port, {place}, for all of these (--detect {server.detect})",
        f"browser      http://{place}/   https://{place}/",
        f"WebSocket    ws://{place}/   wss://{place}/   (/chat, /echo, /monitor)",
        f"plain lines  nc {host} {port}",
        f"TLS lines    openssl s_client -quiet -connect {place}",
        '             then type: {"type":"login","name":"ann"}',
        *about,
        "Ctrl-C ends it.",
    ]
    print("\n".join(lines), flush=True)


def explain(error: Exception, options: argparse.Namespace) -> str:
    """What is wrong, and what to do, in one line."""
    if isinstance(error, ImportError):
        return f"no {error.name}: install the requirements, or give --cert where cert_tool.py isn't there"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {options.port} is in use: end the program that has it, or give another --port"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError):
        return f"can't listen on {options.host} port {options.port}: {error.strerror or error}"
    return str(error)


if __name__ == "__main__":
    result = main()
    sys.stdout.flush()
    os._exit(result)  # at once: an exit in order would give one more signal the time to kill it
