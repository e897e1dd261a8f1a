#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.10"
# dependencies = ["wsproto>=1.2,<1.4", "cryptography>=42"]
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
close; then what each step needs, in the same order: detect, wrap, parse, talk. Then come the
demo applications and the command line: `python wsdual.py --help`.

Threads. The main thread accepts. Each connection has a thread of its own, which alone
reads from that client and closes its socket. Any thread may send to any peer, and doesn't
wait, unless it is the peer's own. What a client is too slow to take stays in its backlog,
and one more thread, the Drainer, hands it over as the client makes room. A lock for each
connection (Wire.lock) keeps them apart; no thread ever waits for a client while it holds it.

The words for an ending:

    refuse    tell a client why it isn't served (Refused), then close
    close     say goodbye, in a close frame or a last line; the client may still answer
    drop      give a client up at once, without a word
    gone      what a client is that has closed or was dropped (PeerGone)
    its end   close_notify where there is TLS, then FIN: nothing more will come
    leaving   a wire that takes nothing new: its backlog goes out, then its end is said
    ended     of a wire: the socket is of no use any more; of a peer: why, as the log tells it
    the end   of the server: every client gets the close code 1001, and is dropped soon after
"""

from __future__ import annotations

import argparse, contextlib, errno, getpass, ipaddress, json, logging, math, os, queue, re, secrets, select
import selectors, signal, socket, socketserver, ssl, struct, sys, tempfile, threading, time, zlib
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from enum import Enum, IntEnum
from http.client import HTTPMessage, responses
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

try:
    import h11
    from wsproto.extensions import PerMessageDeflate
    from wsproto.frame_protocol import Buffer, CloseReason, FrameProtocol, Opcode, ParseFailed, RsvBits
    from wsproto.utilities import generate_accept_token
except ImportError as missing:
    if __name__ != "__main__":
        raise
    raise SystemExit(f"wsdual: {missing}: python -m pip install -r requirements.txt") from None

__all__ = ["App", "DualServer", "IpMemory", "Kind", "Limits", "Peer", "PeerGone", "Refused", "Request",
           "Verdict", "broadcast", "classify", "echo", "server_context"]  # fmt: skip

log = logging.getLogger("wsdual")


def escape_record(record: logging.LogRecord) -> bool:
    """A filter for the log, whoever's handlers print it: what a client wrote (a path, what an exception
    quotes) sends no commands to a terminal, and makes no line that looks like another record."""

    def escaped(text: str) -> str:
        return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)

    record.msg, record.args = escaped(record.getMessage()).replace("\n", r"\n"), None
    if record.exc_info:
        trace = logging.Formatter().formatException(record.exc_info)
        record.exc_text = escaped(trace).replace("\n", "\n    ")
    return True


log.addFilter(escape_record)


# ================================================================ what there is, how much


class Kind(str, Enum):  # noqa: UP042 (StrEnum came with 3.11)
    """The six kinds of connection; each is also the plain string of its name."""

    WS, WSS, HTTP, HTTPS, TCP, TCPS = "ws", "wss", "http", "https", "tcp", "tcps"


class Verdict(str, Enum):  # noqa: UP042
    """What the first bytes of a connection are."""

    TLS, HTTP, NATIVE, UNKNOWN = "tls", "http", "native", "unknown"


@dataclass(frozen=True)
class Limits:
    """Every bound of the server that may be set. Sizes in bytes, times in seconds."""

    clients: int = 1000  # connections at once, whatever they do: each costs a thread
    per_address: int | None = None  # of them, from one IPv4 address or one IPv6 network of 64 bits
    message: int = 2**20  # one message, after inflating; websockets has the same default
    header: int = 16 * 1024  # a request's head; Apache allows 8 KiB a line, nginx 32 KiB in all
    handshake: float = 5.0  # from the first wait to the end of request or first line, TLS included
    ping: float = 20.0  # a client silent for so long is pinged; silent for as long again: dropped
    closing: float = 2.0  # for a close frame's answer, and for the client's own end

    @property
    def backlog(self) -> int:
        """What may wait for a client that doesn't read, before it is dropped: some messages."""
        return 2 * self.message + 64 * 1024


PEEKED_BYTES = 16  # a TLS record's header has 5, the longest known method 7: more tells no more
RECEIVED_BYTES = 64 * 1024  # at once; a TLS record has at most 16 KiB
TLS_RECORD = 16 * 1024  # the largest piece that OpenSSL takes or leaves as a whole
EMPTY_FRAMES = 1024  # in one message: they add nothing to its size, yet each costs as much as any
DOORMEN = 50  # threads beyond the clients', which tell one client too many that it is one
HANDSHAKES = 2  # that compute at one time: those who are served get their turn between them
OUT_OF_THEM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # descriptors, memory

TOKEN = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)  # RFC 9110 section 5.6.2

Bytes = bytes | bytearray
File = str | os.PathLike[str]
Result = TypeVar("Result")


class Deadline:
    """A point in time. (A socket's timeout starts anew with each byte; a deadline does not.)"""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._at - time.monotonic())


class Refused(Exception):
    """This client isn't served. Args: why, for it and the log; status and headers, where it speaks HTTP."""

    def __init__(self, why: str, status: int = 400, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(why)
        self.status, self.headers = status, headers


class PeerGone(ConnectionError):
    """Raised by Peer.send in the peer's own thread: the client is gone. An application needn't catch it."""


@dataclass(frozen=True)
class App:
    """An application with settings of its own; a bare function is App(function). Args: serve, called with
    each Peer, in its thread; subprotocols that it speaks, the best first (RFC 6455 section 1.9); message,
    bytes in one message at most (None: as for the whole server); deflate, whether to compress where the
    client offers it; loopback_only, whether it is for clients on this machine alone. Raises TypeError for a
    bare string as subprotocols, ValueError for a name that no header can carry."""

    serve: Callable[[Peer], object]
    subprotocols: Sequence[str] = ()
    message: int | None = None
    deflate: bool = True
    loopback_only: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.subprotocols, (str, bytes)):
            raise TypeError("subprotocols is a sequence of names, not one name")
        if not all(map(TOKEN.fullmatch, self.subprotocols)):
            raise ValueError("a subprotocol's name is a token (RFC 9110 section 5.6.2)")


# ================================================================ 1. accept


class DualServer(socketserver.ThreadingTCPServer):
    """A ThreadingTCPServer whose one port answers all six kinds of connection. Args:

        address: (host, port); "" is all of IPv4, "::" all of both; port 0: any free one.
        apps: path -> application, for WebSockets; "/" also takes native clients. Any other path that ends
            in a slash takes all that is below it; the longest wins.
        tls: an SSLContext, or None; may be replaced at any time. CERT_REQUIRED shuts plain clients out.
        detect: "peek", or "trial" for the article's method; memory: seconds that an address is remembered.
        origins: foreign ones whose pages may connect, as "https://example.com". Where there are any, their
            hosts are the only ones that may be asked for (loopback aside).
        static: a folder whose files are served to HTTP, or None; limits: see Limits.
        tls_only: send plain HTTP to https, and refuse plain WebSockets and lines.
    Raises OSError where it can't listen, ValueError for another detect, and for tls_only without tls.
    """

    allow_reuse_address = os.name == "posix"  # on Windows it lets two servers share a port
    request_queue_size = 1024  # the class's 5 turns a classroom away

    def __init__(
        self, address: tuple[str, int], apps: Mapping[str, App | Callable[[Peer], object]], *,
        tls: ssl.SSLContext | None = None, detect: str = "peek", memory: float = 6.0, tls_only: bool = False,
        limits: Limits | None = None, origins: Iterable[str] = (), static: File | None = None,
    ) -> None:  # fmt: skip
        if detect not in ("peek", "trial"):
            raise ValueError(f"detect is 'peek' or 'trial', not {detect!r}")
        if tls_only and tls is None:
            raise ValueError("tls_only needs a certificate: tls is None")
        self.apps, self.tls, self.tls_only, self.detect = dict(apps), tls, tls_only, detect
        self.limits, self.memory = limits or Limits(), IpMemory(memory)
        self.origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self.static = None if static is None else Path(static).resolve()
        self.observers: list[Callable[[dict[str, Any]], None]] = []
        self.drainer, self.handshakes = Drainer(), threading.Semaphore(HANDSHAKES)
        self._doormen = threading.Semaphore(DOORMEN)
        self._crowd = threading.local()  # why: the thread's connection has no seat
        self._left = threading.Condition()  # guards the register, which is the next two lines
        self._connections, self._last_id, self._ending = dict[int, Connection](), 0, False
        self._seats = self.limits.clients
        self._seated = Counter[str]()  # network -> its connections that have a seat
        self._warned = Deadline(0)
        if all(entry[0] == socket.AF_INET6 for entry in socket.getaddrinfo(address[0] or "0.0.0.0", None)):
            self.address_family = socket.AF_INET6
        super().__init__(address, Connection)

    def server_bind(self) -> None:
        """Bind; on "::" IPv4 clients are welcome too, whatever the system says."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept one connection. Out of descriptors or memory: wait a little, don't spin."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in OUT_OF_THEM:
                if not self._warned.left():  # it comes again at once: tell it now and then
                    log.warning("can't accept now: %s", error.strerror)
                    self._warned = Deadline(10)
                time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the connection's thread; where there are too many already, turn it away at once."""
        # An empty shell stays in request: the accept loop closes that if Ctrl-C strikes at this very moment.
        own = socket.socket(request.family, request.type, request.proto, request.detach())
        network = network_of(plain_address(client_address)[0])
        if (crowd := self._take_seat(network)) and not self._doormen.acquire(blocking=False):
            return self.shutdown_request(own)  # there are enough already who wait to hear why
        try:
            self.drainer.start()
            arguments = (own, client_address, network, crowd)
            threading.Thread(target=self._serve, args=arguments, daemon=True).start()
        except (RuntimeError, MemoryError):
            log.warning("refused a connection: no thread to be had")
            self.shutdown_request(own)
            self._give_back(network, crowd)

    def _serve(self, request: socket.socket, client_address: Any, network: str, crowd: str) -> None:
        """A connection's thread."""
        try:
            self._crowd.why = crowd
            self.process_request_thread(request, client_address)
        finally:
            self._give_back(network, crowd)

    def _take_seat(self, network: str) -> str:
        """Take a seat for a client; return "", or why there is none. This is before it has a thread: who gets
        no seat shall not take the threads of those who have one."""
        with self._left:
            if not self._seats:
                return "too many clients, try later"
            if self._seated[network] >= (self.limits.per_address or self.limits.clients):
                return "too many connections from your address, try later"
            self._seats -= 1
            self._seated[network] += 1
            return ""

    def _give_back(self, network: str, crowd: str) -> None:
        """The seat, or the doorman."""
        if crowd:
            return self._doormen.release()
        with self._left:
            self._seats += 1
            self._seated[network] -= 1
            if not self._seated[network]:
                del self._seated[network]

    def enter(self, connection: Connection) -> None:
        """Enter a connection in the register, with a number."""
        connection.crowd = self._crowd.why
        with self._left:
            if self._ending:
                connection.end(goodbye=False)
            connection.id = self._last_id = self._last_id + 1
            self._connections[connection.id] = connection

    def leave(self, connection: Connection) -> None:
        """Strike a connection off the register."""
        with self._left:
            del self._connections[connection.id]
            self._left.notify_all()

    def everyone(self) -> tuple[Connection, ...]:
        """All connections in the register."""
        with self._left:
            return tuple(self._connections.values())

    def app(self, path: str) -> App | None:
        """The application at a path, or at the longest path above it that ends in a slash."""
        names = (n for n in self.apps if n == path or (n != "/" and n.endswith("/") and path.startswith(n)))
        app = self.apps.get(max(names, key=len, default=path))
        return app if app is None or isinstance(app, App) else App(app)

    def verify_upgrade(self, request: Request) -> None:
        """Raise Refused for a WebSocket that may not come in. May be overridden. Called in the connection's
        thread, after all other checks; request becomes peer.request. Native clients aren't asked."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the traceback of a fault of this module's own. May be overridden."""
        log.exception("a fault in the server, with client %s", client_address)

    def server_close(self) -> None:
        """Stop listening and end every connection: close code 1001, then the axe."""
        super().server_close()
        with self._left:
            self._ending = True
        for goodbye, seconds in ((True, self.limits.closing + 0.5), (False, 1.0)):
            for connection in self.everyone():
                connection.end(goodbye)
            with self._left:
                self._left.wait_for(lambda: not self._connections, seconds)
        self.drainer.stop()


# ================================================================ 2. a connection's life


class Connection(socketserver.BaseRequestHandler):
    """One connection, from its first byte to its last, in its own thread; handle() is its life."""

    server: DualServer
    id: int
    crowd = ""  # what one client too many has a second to hear
    kind: Kind | None = None
    path: str | None = None
    peer: Peer | None = None
    ended: dict[str, Any]  # why it ended, and the close code where there is one

    def setup(self) -> None:
        """Enter the register; the clock starts."""
        self.address, self.ended = plain_address(self.client_address), {}
        self.wire = Wire(self.request, self.server.drainer)
        self.server.enter(self)
        self.since, self.deadline = time.time(), Deadline(1.0 if self.crowd else self.server.limits.handshake)
        self.tell("accepted", address=host_port(*self.address))

    def handle(self) -> None:
        """Detect, wrap, parse, talk."""
        try:
            verdict = self.detect()
            if verdict is Verdict.TLS:
                self.wrap()
                verdict = classify(self.wire.look(self.deadline))
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
            self.ended = {"why": self.wire.why or plain_words(error)}

    def finish(self) -> None:
        """Close so that the last bytes arrive, and leave the register."""
        try:
            self.wire.close(self.server.limits.ping, self.server.limits.closing)
        finally:
            self.server.leave(self)
            self.tell("closed", **(self.ended or {"why": self.wire.why}))

    def tell(self, step: str, **facts: Any) -> None:
        """Tell the observers of this connection's next step. Never call it while holding a lock."""
        for observe in tuple(self.server.observers):
            try:
                observe({"type": "event", "id": self.id, "time": time.time(), "step": step, **facts})
            except Exception:
                log.exception("an observer failed")

    def end(self, goodbye: bool) -> None:
        """End this connection, since the server ends. Any thread may. Args: goodbye, or without a word."""
        with self.wire.lock:
            peer = self.peer
        if peer and goodbye:
            peer.say_goodbye(1001, "the server is going away")
        else:
            self.wire.drop("the server ended")

    def admit(self, request: Request | None = None) -> None:
        """Raise Refused for whom the server won't serve, however well they ask."""
        if self.crowd:
            raise Refused(self.crowd, 503)
        if request:
            check_host(request, self.server.origins)
        if self.wire.tls or self.server.tls is None:
            return
        if self.server.tls_only:
            raise use_tls(request, plain_address(self.wire.sock.getsockname()))
        if self.server.tls.verify_mode is ssl.CERT_REQUIRED:
            raise Refused("this server wants a client certificate: use TLS (https or wss)", 403)

    def detect(self) -> Verdict:
        """Say what the client speaks, by the server's method. May be overridden."""
        return self.detect_by_trial() if self.server.detect == "trial" else self.detect_by_peek()

    def detect_by_peek(self) -> Verdict:
        """Look at the first bytes without taking them; the memory serves for unknown ones only."""
        verdict = self.judge(self.wire.peek(self.deadline))
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
        verdict = self.judge(self.wire.look(self.deadline))
        if verdict in (Verdict.HTTP, Verdict.NATIVE):
            return verdict
        raise self.remember("unreadable first message")

    def judge(self, head: bytes) -> Verdict:
        """Classify the first bytes; tell what was seen, and how long the verdict took."""
        since = time.perf_counter()
        verdict = classify(head)
        us = round((time.perf_counter() - since) * 1e6, 1)
        self.tell("peeked", bytes=head[:PEEKED_BYTES].hex(), verdict=verdict.value, us=us)
        return verdict

    def remember(self, why: str) -> Refused:
        """Remember the client's address; return the refusal."""
        self.server.memory.remember(self.address[0])
        self.tell("remembered", ip=self.address[0], seconds=self.server.memory.seconds)
        return Refused(f"{why}: the address is remembered, next time TLS is tried")

    def wrap(self) -> None:
        """Speak TLS from here on."""
        if self.server.tls is None:
            raise Refused("TLS, but this server has no certificate")
        if self.crowd:
            self.admit()  # which refuses: a handshake costs more than one client too many is worth
        since = time.perf_counter()
        try:
            self.wire.wrap(self.server.tls, self.server.handshakes, self.deadline)
        except ssl.SSLError as error:
            raise Refused(f"no TLS handshake: {plain_words(error)}") from None
        (version, cipher), shown = self.wire.tls or ("", ""), self.wire.certificate()
        self.tell("wrapped", version=version, cipher=cipher, us=round((time.perf_counter() - since) * 1e6),
                  certificate=shown and distinguished_name(shown["subject"]))  # fmt: skip

    def serve_http(self) -> None:
        """Answer one request: an upgrade to WebSocket, a file, or an error. (RFC 9112)"""
        self.kind = Kind.HTTPS if self.wire.tls else Kind.HTTP
        http = Exchange(self.wire, self.server.limits)
        try:
            request = Request(http.read(self.deadline), self.address, self.wire)
            self.admit(request)
            check_method(request)
            if "websocket" in request.words("Upgrade"):
                self.serve_websocket(http, request)
            else:
                http.send_file(find_file(self.server.static, request.path))
                self.ended = {} if self.wire.ended else {"why": "200 OK"}
        except Refused as refusal:
            http.refuse(refusal)
            raise

    def serve_websocket(self, http: Exchange, request: Request) -> None:
        """Upgrade (RFC 6455 section 4.2), then talk."""
        check_upgrade(request)
        app = self.server.app(request.path)
        if app is None:
            raise Refused(f"no WebSocket at {request.path[:100]!r}", 404)
        if app.loopback_only and not (request.local and is_loopback(request.host)):
            raise Refused("only for clients on this machine", 403)
        check_origin(request, self.server.origins)
        try:
            self.server.verify_upgrade(request)
        except Refused:
            raise
        except BaseException:  # a fault of its own; SystemExit too
            log.exception("verify_upgrade failed, with %s", host_port(*self.address))
            raise Refused("the server failed to decide", 500) from None
        self.kind, self.path = Kind.WSS if self.wire.tls else Kind.WS, request.path
        deflate = agree_on_deflate(",".join(request.all("Sec-WebSocket-Extensions"))) if app.deflate else ""
        offered = [name.strip() for name in ",".join(request.all("Sec-WebSocket-Protocol")).split(",")]
        limits = self.limits_of(app)
        peer = Peer(self, Frames(limits, deflate), limits)
        peer.request, peer.subprotocol = request, next((n for n in app.subprotocols if n in offered), None)
        with self.wire.lock:  # from this answer on end() says goodbye in a frame
            self.wire.put(http.switching(request, deflate, peer.subprotocol))
            self.peer = peer
        self.talk(app, peer)

    def serve_native(self) -> None:
        """Talk to a native client: the first line comes within the deadline."""
        self.kind, self.path = Kind.TCPS if self.wire.tls else Kind.TCP, "/"
        app = self.server.app("/")
        try:
            self.admit()
            if app is None or (app.loopback_only and not is_loopback(self.address[0])):
                raise Refused("no application for native clients here")
        except Refused as refusal:
            self.wire.send(Lines(self.server.limits).goodbye(1008, str(refusal)))
            raise
        limits = self.limits_of(app)
        keep_alive(self.wire.sock, limits.ping)
        self.peer = Peer(self, Lines(limits), limits, self.deadline)
        self.talk(app, self.peer)

    def limits_of(self, app: App) -> Limits:
        """The server's limits, with the application's own size of a message."""
        limits = self.server.limits
        return limits if app.message is None else replace(limits, message=app.message)

    def talk(self, app: App, peer: Peer) -> None:
        """Run the application to its end, then close."""
        self.tell("upgraded", kind=peer.kind, path=peer.path)
        self.wire.block(peer.limits.ping / 2)
        try:
            app.serve(peer)
            peer.close(1000)
        except PeerGone:
            pass
        except BaseException:  # SystemExit too: it would end this thread, and nobody would hear why
            log.exception("the application at %s failed, with %s", self.path, host_port(*self.address))
            peer.close(1011, "the application failed")
        peer.wait_closed()
        self.ended = peer.ended


def plain_address(address: Sequence[Any]) -> tuple[str, int]:
    """(ip, port) of a socket's address, an IPv4-mapped IPv6 one as the IPv4 one that it is."""
    ip = ipaddress.ip_address(address[0])
    return str(getattr(ip, "ipv4_mapped", None) or ip), address[1]


def network_of(ip: str) -> str:
    """Whose connections count together: an IPv4 address alone, of IPv6 the 64 bits that one customer gets."""
    return str(ipaddress.ip_network((ip.partition("%")[0], 64), strict=False)) if ":" in ip else ip


def host_port(host: str, port: int) -> str:
    """host:port, as URLs have it."""
    return f"[{host}]:{port}" if ":" in host.strip("[]") and host[0] != "[" else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Say whether a host name or address is this machine's own by its name: no look-up."""
    with contextlib.suppress(ValueError):
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def plain_words(error: OSError) -> str:
    """An error as a short text for the log."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error) or type(error).__name__


# ================================================================ 3. detect

METHODS = tuple(  # RFC 9110 section 9, RFC 5789; PRI opens HTTP/2, which deserves an answer too
    method + b" " for method in b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI".split()
)  # fmt: skip
REQUEST_LINE = re.compile(rb"[A-Za-z][A-Za-z-]* [/*]")  # of a method that nobody here knows


def classify(head: bytes) -> Verdict:
    """Tell what a connection is. Args: head, its first bytes: one is enough, more confirm it.

    TLS: a record of type 22, handshake, version 3.x (RFC 8446 section 5.1). HTTP: the beginning of a method
    (RFC 9110 section 9), perhaps behind an empty line (RFC 9112 section 2.2). Native: JSON's opening brace.

    >>> classify(bytes.fromhex("160301"))
    <Verdict.TLS: 'tls'>
    """
    if head[:1] == b"\x16" and head[1:2] in (b"", b"\x03"):
        return Verdict.TLS
    if head[:1] == b"{":
        return Verdict.NATIVE
    line = head.removeprefix(b"\r\n")
    if head and any(line.startswith(method) or method.startswith(line) for method in METHODS):
        return Verdict.HTTP
    return Verdict.HTTP if head == b"\r" or REQUEST_LINE.match(line) else Verdict.UNKNOWN


class IpMemory:
    """Addresses, each remembered for some seconds. Any thread may ask. Args: seconds that an entry lives;
    capacity, entries at most (the oldest goes first); clock, a monotonic one, in seconds."""

    def __init__(
        self, seconds: float = 6.0, capacity: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds, self._capacity, self._clock = seconds, capacity, clock
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
    cert: File | bytes, password: str | None = None, key: File | None = None,
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2, client_ca: File | None = None,
) -> ssl.SSLContext:  # fmt: skip
    """Make the TLS settings of a server.

    Args:
        cert: a PEM file (leaf first, then intermediates), or the content of one that holds the key too.
            With cert_tool.py beside this module also a .pfx/.p12 file, or its content.
        password: of the key, where it has one.
        key: the PEM file of the key, where it isn't in cert.
        minimum: the lowest TLS version to accept.
        client_ca: a PEM file; clients must then show a certificate signed by one in it.

    Raises OSError for a file that can't be read, ValueError for one that can't be used.
    """
    context = bare_context(client_ca)
    context.minimum_version = minimum
    data = cert if isinstance(cert, bytes) else Path(cert).read_bytes()
    if b"-----BEGIN " not in data:
        name = "this .pfx" if isinstance(cert, bytes) else str(cert)
        data, password = tool_for_pfx(name).pfx_to_pem(data, [password], name)
    elif not isinstance(cert, bytes):
        load_pem(context, cert, key, password)
        return context
    # OpenSSL reads keys from files only. What cert_tool.py hands over is encrypted; the file goes at once.
    handle, path = tempfile.mkstemp(suffix=".pem")  # readable by its owner alone
    try:
        with open(handle, "wb") as file:
            file.write(data)
        load_pem(context, path, None, password)
    finally:
        os.unlink(path)
    return context


def bare_context(client_ca: File | None) -> ssl.SSLContext:
    """TLS settings without a certificate. Nothing may be chosen that costs much: a ClientHello that offers
    ffdhe8192 alone takes 0.17 s in one call into OpenSSL, which no deadline ends."""
    if client_ca is not None:
        Path(client_ca).read_bytes()  # a file that can't be read gets an error that names it
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    except ssl.SSLError:
        raise ValueError(f"{client_ca}: no PEM certificate in it") from None
    context.verify_mode = ssl.CERT_NONE if client_ca is None else ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION  # so that a write never has to wait for a read
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # in TLS 1.2; those of 1.3 are all of that kind
    if hasattr(context, "set_groups"):  # Python 3.15
        context.set_groups("X25519:P-256")
    else:
        context.set_ecdh_curve("prime256v1")  # takes one group alone; this one every client has
    return context


def load_pem(context: ssl.SSLContext, cert: File, key: File | None, password: str | None) -> None:
    """Load a certificate and its key from PEM files. Raises OSError, ValueError."""
    locked = b"ENCRYPTED" in Path(key or cert).read_bytes()
    try:
        context.load_cert_chain(cert, key, password or "")  # no password at all: OpenSSL would ask
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", "") or str(error)
        if "KEY_VALUES_MISMATCH" in reason:
            reason = f"this key doesn't belong to {cert}"
        elif locked:
            reason = "the password is wrong"
        else:
            reason = f"no usable PEM key with its certificate: is the key in another file? ({reason})"
        raise ValueError(f"{key or cert}: {reason}") from None


def tool_for_pfx(name: str) -> Any:
    """The module cert_tool, which reads what the standard library can't. Raises ValueError."""
    try:
        import cert_tool
    except ImportError as error:
        raise ValueError(f"{name}: a .pfx wants cert_tool.py beside wsdual.py and the package cryptography "
                         f"(no {error.name} here); PEM files need neither") from None  # fmt: skip
    return cert_tool


# ================================================================ 5. parse


class Request:
    """An HTTP request's head. Attributes: method; version; headers; target, path and query as written; path,
    decoded; query; authority, the host and port asked for, in lower case; host, without the port; origin, of
    a browser's page, or None; address, (ip, port) of the client; local, whether it is on this machine; tls,
    (version, cipher) or None; certificate, the client's, as getpeercert() tells it, or None. Raises Refused
    for what can't be served: a version, a target, a Host (RFC 9112 sections 2.3, 3)."""

    def __init__(self, event: h11.Request, address: tuple[str, int], wire: Wire) -> None:
        self.method, self.version = event.method.decode(), event.http_version.decode()
        self.address, self.local = address, is_loopback(address[0])
        self.tls, self.certificate = wire.tls, wire.certificate()
        self.headers = HTTPMessage()
        for name, value in event.headers.raw_items():
            self.headers[name.decode()] = value.decode("latin-1")
        if not self.version.startswith("1."):
            raise Refused("this server speaks HTTP/1.1", 505)
        # Other methods may have targets of other forms. None of them is served.
        target = event.target.decode("ascii") if self.method in ("GET", "HEAD") else "/"
        authority, self.target = split_target(target)
        path, _, self.query = self.target.partition("#")[0].partition("?")
        self.path = unquote(path, errors="replace")
        self.authority = (authority or "".join(self.all("Host"))).lower()
        self.origin = self.one("Origin").lower() if self.all("Origin") else None
        try:
            self.host = split_port(self.authority)[0] if authority or self.all("Host") else ""
        except ValueError:
            raise Refused("a bad Host header") from None

    @property
    def parameters(self) -> dict[str, list[str]]:
        """The query's parameters, decoded, blank ones too."""
        return parse_qs(self.query, keep_blank_values=True)

    @property
    def cookies(self) -> dict[str, str]:
        """Name -> value. Of two with one name the first counts: browsers send the closer path's first."""
        pairs = (pair.partition("=") for value in self.all("Cookie") for pair in value.split(";"))
        named = [(name.strip(), value.strip().strip('"')) for name, equals, value in pairs if equals]
        return {name: value for name, value in reversed(named) if TOKEN.fullmatch(name)}

    def all(self, name: str) -> list[str]:
        """The values of a header."""
        return self.headers.get_all(name, [])

    def one(self, name: str) -> str:
        """The value of a header that has to stand there once. Raises Refused."""
        values = self.all(name)
        if len(values) != 1:
            raise Refused(f"more than one {name}" if values else f"{name} is missing")
        return values[0]

    def words(self, name: str) -> list[str]:
        """A header's comma-separated words, in lower case."""
        return [word.strip().lower() for value in self.all(name) for word in value.split(",")]


def split_target(target: str) -> tuple[str, str]:
    """Split a target into authority, mostly "", and the rest. Raises Refused. (RFC 9112 section 3.2)"""
    if target.startswith("/"):
        return "", target
    if not (match := re.fullmatch(r"(?:http|ws)s?://([^/?#]+)(/[^?#]*)?(.*)", target, re.IGNORECASE)):
        raise Refused("a bad target")
    return match[1], (match[2] or "/") + match[3]


def split_port(authority: str, tls: bool = False) -> tuple[str, int]:
    """Split "host:port"; without a port it is the scheme's. Raises ValueError. (RFC 9110 section 7.2)"""
    match = re.fullmatch(r"([a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", authority)
    if not match or int(match[2] or 0) > 65535:
        raise ValueError(authority)
    return match[1], int(match[2] or (443 if tls else 80))


def check_host(request: Request, origins: Iterable[str]) -> None:
    """Keep out DNS rebinding: evil.example that resolves to this machine, to pass for it. Raises Refused."""
    hosts = {urlsplit(origin).hostname for origin in origins} - {None}
    expected = is_loopback(request.host) if request.local else not hosts
    if request.authority and not expected and request.host.strip("[]") not in hosts:
        whose = "a local client" if request.local else "a client"
        raise Refused(f"{whose} asked for {request.authority!r}: allow it with --origin", 403)


def use_tls(request: Request | None, here: tuple[str, int]) -> Refused:
    """What a plain client hears where there is only TLS: where to go. Args: request, None for a native
    client; here, the (ip, port) that it came to. (RFC 9110 section 15.4.9)"""
    if request is None or not request.host:
        return Refused(f"only TLS here: connect to {host_port(*here)} with TLS", 403)
    place = host_port(*split_port(request.authority)) + request.target
    if request.method in ("GET", "HEAD") and "websocket" not in request.words("Upgrade"):
        return Refused("only TLS here", 308, [("Location", f"https://{place}")])
    return Refused(f"only TLS here: use wss://{place[:200]}", 403)


def check_method(request: Request) -> None:
    """Only what reads is served. Raises Refused. (RFC 9110 sections 15.5.6, 15.6.2)"""
    if request.method not in ("GET", "HEAD"):
        known = request.method.encode() + b" " in METHODS
        raise Refused("only GET and HEAD", 405 if known else 501, [("Allow", "GET, HEAD")])


def check_origin(request: Request, origins: Iterable[str]) -> None:
    """Keep foreign pages out: a browser says where a page is from. Raises Refused. (RFC 6455 section 10.2)"""
    origin = request.origin
    from_disk = origin in ("null", "file://") and request.local and is_loopback(request.host)
    if origin is None or origin in origins or from_disk:
        return
    ours = split_port(request.authority, request.tls is not None)
    with contextlib.suppress(ValueError):
        if split_port(urlsplit(origin).netloc, origin.startswith("https:")) == ours:
            return
    raise Refused(f"a page of the foreign origin {origin}: allow it with --origin {origin}", 403)


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
    if not re.fullmatch(r"[A-Za-z0-9+/]{22}==", request.one("Sec-WebSocket-Key")):
        raise Refused("Sec-WebSocket-Key isn't 16 bytes in base64")
    request.one("Host")
    if not (request.origin or "-").isprintable():
        raise Refused("a bad Origin")


BITS = r'(8|9|1[0-5]|"8"|"9"|"1[0-5]")'
PARAMETER = re.compile(f"(server|client)_(no_context_takeover|max_window_bits={BITS})|client_max_window_bits")


def agree_on_deflate(offers: str) -> str:
    """Answer the first offer of permessage-deflate that is well made; "" where there is none. Args: offers,
    the header Sec-WebSocket-Extensions. (RFC 7692 section 7.1)"""
    for offer in offers.split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        names = {parameter.split("=")[0] for parameter in parameters}
        good = all(map(PARAMETER.fullmatch, parameters)) and len(names) == len(parameters)
        if good and name == PerMessageDeflate.name:
            answer = PerMessageDeflate().accept("; ".join([name, *parameters]).replace('"', ""))
            if isinstance(answer, str):
                return "; ".join(filter(None, [name, answer]))
    return ""


def find_file(folder: Path | None, path: str) -> Path:
    """Find the file that a path names, and never one outside of the folder. Raises Refused."""
    if path.endswith(("/", "/.", "/..")):
        path += "/index.html"
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # a name too long, a loop of links
        if folder is not None and not {"\0", "\\"}.intersection(path):
            file = (folder / path.lstrip("/")).resolve()
            if file.is_relative_to(folder) and file.is_file():
                return file
    raise Refused("not found", 404)


TYPES = {  # not the system's own table, which calls .js plain text on some
    ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".txt": "text/plain",
    ".md": "text/plain", ".py": "text/plain", ".json": "application/json", ".svg": "image/svg+xml",
    ".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".ico": "image/x-icon",
}  # fmt: skip
COMMON_HEADERS = [  # one request a connection, no guessing, nothing from elsewhere
    ("Connection", "close"), ("Cache-Control", "no-cache"), ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; "
                                "form-action 'none'; frame-ancestors 'none'"),
]  # fmt: skip


class Exchange:
    """One HTTP request and its answer (RFC 9112), in the connection's own thread."""

    def __init__(self, wire: Wire, limits: Limits) -> None:
        self._wire, self._limits = wire, limits
        self._http = h11.Connection(h11.SERVER, limits.header)
        self._has_body = True  # unlike the answer to a HEAD

    def read(self, deadline: Deadline) -> h11.Request:
        """Read the request's head, of bounded size. Raises Refused, OSError."""
        room, begun = self._limits.header, False
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise Refused(str(error).partition(": bytearray(")[0], error.error_status_hint) from None
            if isinstance(event, h11.Request):
                self._has_body = event.method != b"HEAD"
                return event
            if not room:
                raise Refused("the request's head is too large", 431)
            try:
                data = self._wire.receive(deadline.left())
            except TimeoutError:
                raise Refused("the request took too long", 408) from None
            if not data:
                raise ConnectionError("closed before the request was complete")
            self._wire.unread(data[room:])
            head = data[:room] if begun else data[:room].lstrip(b"\r\n")  # empty lines first (section 2.2)
            room, begun = room - min(room, len(data)), begun or bool(head)
            if head:
                self._http.receive_data(head)

    def switching(self, request: Request, deflate: str, subprotocol: str | None) -> bytes:
        """The response 101 (RFC 6455 section 4.2.2). The wire gets back what h11 has of the frames. Args:
        deflate, the answer to the client's offer, or ""; subprotocol, that was chosen."""
        self._wire.unread(self._http.trailing_data[0])
        token = generate_accept_token(request.one("Sec-WebSocket-Key").encode()).decode()
        chosen = {"Extensions": deflate, "Protocol": subprotocol}
        more = [f"Sec-WebSocket-{name}: {value}\r\n" for name, value in chosen.items() if value]
        head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        return f"{head}Sec-WebSocket-Accept: {token}\r\n{''.join(more)}\r\n".encode()

    def refuse(self, refusal: Refused) -> None:
        """Send an error as a short text; 500 for one that can't be sent, as with a newline in a header."""
        try:
            if not 300 <= refusal.status <= 599 or refusal.status == 304:
                raise ValueError(f"{refusal.status} is no status for a refusal")
            data = f"{refusal.status} {responses.get(refusal.status, 'Refused')}: {refusal}\n".encode()
            self._begin(refusal.status, "text/plain", len(data), refusal.headers)
        except (ValueError, TypeError, h11.LocalProtocolError):
            log.exception("a refusal that can't be sent")
            return self.refuse(Refused("the server failed to say why", 500))
        if self._has_body:
            self._wire.send(self._http.send(h11.Data(data=data)) or b"")

    def send_file(self, path: Path) -> None:
        """Send a file, no faster than the client reads. Raises Refused, OSError."""
        try:
            file = path.open("rb")
        except OSError as error:
            if error.errno in OUT_OF_THEM:
                raise Refused("too much to do, try later", 503) from None
            raise Refused("this file can't be read", 404) from None
        with file:
            size = os.fstat(file.fileno()).st_size
            self._begin(200, TYPES.get(path.suffix.lower(), "application/octet-stream"), size)
            while self._has_body and not self._wire.ended and (data := file.read(min(size, RECEIVED_BYTES))):
                size -= len(data)
                self._wire.send(self._http.send(h11.Data(data=data)) or b"")
                self._wire.drain(self._limits.ping, down_to=4 * RECEIVED_BYTES)
        self._wire.drain(self._limits.ping)

    def _begin(self, status: int, kind: str, size: int, headers: Sequence[tuple[str, str]] = ()) -> None:
        kind += "; charset=utf-8" if kind.startswith("text/") else ""
        about = [("Content-Type", kind), ("Content-Length", str(size)), ("Date", formatdate(usegmt=True))]
        response = h11.Response(status_code=status, headers=[*about, *headers, *COMMON_HEADERS],
                                reason=responses.get(status, "Refused").encode())  # fmt: skip
        self._wire.send(self._http.send(response) or b"")


# ================================================================ 6. talk: the wire

LONGEST = 86400.0  # seconds: poll takes no more than 2^31 ms, and an infinite patience should do no harm
READABLE, WRITABLE = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)
DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)  # Windows has none
Waiter = Callable[[float], object]


def waiter(sock: socket.socket, event: int) -> Waiter:
    """A function that waits until a socket is readable or writable. It takes the seconds to wait at most,
    and returns something false where they are over."""
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(sock, event)
        return lambda seconds: poller.poll(math.ceil(min(seconds, LONGEST) * 1000))
    lists = ([sock], []) if event == READABLE else ([], [sock])  # Windows
    return lambda seconds: any(select.select(*lists, [], min(seconds, LONGEST)))


class State(IntEnum):
    """How far a wire has come; it only ever goes on."""

    OPEN = 0  # takes what is put, and receives
    LEAVING = 1  # takes nothing new; its backlog still goes out, and then its end is said
    SAID_END = 2  # throws away what still comes
    ENDED = 3  # nobody uses the socket any more


class Wire:
    """A client's socket, plain or TLS, that one thread reads and any thread may write to.

    An SSLSocket must never be in two threads at once. So:

    - lock guards the socket's recv and send, the state and the backlog. What is done under it never waits.
      put, end, _send, _send_backlog and _say_end want it held.
    - The connection's own thread waits, outside the lock. It alone receives and closes.
    - put() sends what the kernel takes at once. The rest is the backlog, which the Drainer (or the own
      thread, in drain) hands over later. So nobody waits for a slow client.
    - What the own thread puts while it has more to say joins the backlog too, and goes out with the rest:
      one system call, one packet. The Drainer sees to it that it goes soon.
    """

    def __init__(self, sock: socket.socket, drainer: Drainer) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # a client that is gone already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.lock = threading.Lock()
        self.state, self.why = State.OPEN, ""  # why it ended
        self.backlog = bytearray()  # what the client has still to take
        self.tls: tuple[str, str] | None = None  # version, cipher
        self.tap: Callable[[str, Bytes], None] | None = None  # sees every byte, where somebody watches
        self._drainer = drainer
        self._readable = waiter(sock, READABLE)  # made once: that saves a tenth of a small echo
        self._ahead = b""  # received, but not yet asked for
        self._known = False  # something is there: just peeked at, or decrypted inside OpenSSL
        self._flags, self._blocks = DONTWAIT, math.inf  # of send and recv under the lock; see block()

    @property
    def ended(self) -> bool:
        """Whether the client is gone."""
        return self.state is State.ENDED

    # ---- for the connection's own thread

    def peek(self, deadline: Deadline) -> bytes:
        """Look at the first bytes, without taking them. Raises TimeoutError, OSError. One look only:
        MSG_PEEK returns at once while a byte is there, so a loop that waits for more would spin."""
        head = self._retry(lambda: self.sock.recv(PEEKED_BYTES, socket.MSG_PEEK), self._readable, deadline)
        if not head:
            raise ConnectionError("closed without a byte")
        self._known = True
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

    def wrap(self, context: ssl.SSLContext, handshakes: threading.Semaphore, deadline: Deadline) -> None:
        """Do the TLS handshake. Args: handshakes, which bounds how many compute at one time. Raises
        TimeoutError, OSError."""
        with self.lock:  # which turns the raw socket into an empty shell: nobody may drop that
            try:
                sock = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
            except OSError:
                self.end("gone before TLS")  # this has closed the descriptor
                raise
            self.sock = sock
        self._readable, self._flags = waiter(sock, READABLE), 0

        def compute() -> None:  # without the lock: whoever ends the server can drop this client
            if not handshakes.acquire(timeout=deadline.left()):
                raise TimeoutError
            try:
                sock.do_handshake()
            finally:
                handshakes.release()

        self._retry(compute, self._readable, deadline)
        self.tls = (sock.version() or "", (sock.cipher() or ("",))[0])

    def certificate(self) -> dict[str, Any] | None:
        """What getpeercert() tells of the client's certificate, where it showed one."""
        return self.sock.getpeercert() or None if isinstance(self.sock, ssl.SSLSocket) else None

    def block(self, seconds: float) -> None:
        """Let receive() wait inside recv() for so long at most, where it has more time than that. For a plain
        socket alone, where a send in another thread doesn't mind: one system call less for each message."""
        if self.tls is None and DONTWAIT:
            seconds = min(seconds, LONGEST)
            timeout = struct.pack("ll", *divmod(max(1, int(seconds * 1e6)), 10**6))  # 0 would be for ever
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
            self.sock.setblocking(True)
            self._blocks = seconds

    def receive(self, seconds: float) -> bytes:
        """Return what has come, or wait for it; b"" at the end. Raises TimeoutError, OSError."""
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        if self._blocks < seconds and not self._known:
            with contextlib.suppress(BlockingIOError):
                return self._seen(self.sock.recv(RECEIVED_BYTES))
            seconds -= self._blocks
        ready = (lambda _: True) if self._known else self._readable
        return self._seen(self._retry(self._receive, ready, Deadline(seconds)))

    def _seen(self, data: bytes) -> bytes:
        if self.state is not State.OPEN:
            return b""
        if data and (tap := self.tap):
            tap("client", data)
        return data

    def _receive(self) -> bytes:
        with self.lock:
            self._known = False
            if self.state is not State.OPEN:
                return b""
            data = self.sock.recv(RECEIVED_BYTES, self._flags)
            if self.tls:  # decrypted bytes that found no room in data: no poll() sees them
                self._known = self.sock.pending() > 0  # type: ignore[attr-defined]
            return data

    def _retry(self, attempt: Callable[[], Result], ready: Waiter, deadline: Deadline) -> Result:
        """Without the lock: wait until the socket is ready, then attempt, until it succeeds."""
        while ready(deadline.left()):
            try:
                return attempt()
            except (BlockingIOError, ssl.SSLWantReadError):
                ready = self._readable  # half a TLS record, say
            except ssl.SSLWantWriteError:
                ready = waiter(self.sock, WRITABLE)
        raise TimeoutError

    def drain(self, patience: float, down_to: int = 0) -> None:
        """Wait until no more than down_to bytes are left to send. A client that takes none of them for
        patience seconds is dropped."""
        while len(self.backlog) > down_to or self.state is State.LEAVING:
            if not waiter(self.sock, WRITABLE)(patience):
                self.drop("it doesn't read what it is sent")
            self.flush()

    def close(self, patience: float, seconds: float) -> None:
        """End so that the last bytes arrive: send what is left, close_notify, FIN; then wait for the client's
        FIN. (Closing a socket with unread bytes resets the connection, which can destroy what was just sent.)
        Args: patience, as in drain; seconds, to wait at most for that FIN."""
        try:
            self.end_sending()
            self.drain(patience)
            deadline = Deadline(seconds)
            while self.state is State.SAID_END and deadline.left() and self._readable(deadline.left()):
                if not socket.socket.recv(self.sock, RECEIVED_BYTES, DONTWAIT):  # it isn't even decrypted
                    break
        except OSError:
            pass  # it has gone by itself
        finally:
            with self.lock, contextlib.suppress(OSError):
                given_up = self.state is not State.SAID_END
                self.end("done")
                if given_up:  # then the kernel shall not keep for it what it doesn't read
                    self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()

    # ---- for any thread

    def send(self, data: Bytes) -> None:
        """Send, and never wait."""
        with self.lock:
            self.put(data)

    def put(self, data: Bytes, more: bool = False) -> None:
        """Send, and never wait. Args: more, whether there is more to come, so that this may wait a moment."""
        if self.state is not State.OPEN:
            return
        if tap := self.tap:
            tap("server", data)
        waiting = len(self.backlog)
        if not (waiting or more):
            sent = self._send(data)
            if sent == len(data) or self.ended:
                return
            data = data[sent:]
        self.backlog += data
        if not waiting:
            self._drainer.add(self)
        elif not more or waiting > RECEIVED_BYTES:
            self._send_backlog()

    def flush(self) -> bool:
        """Send what the client takes now of the backlog; True where nothing is left to wait for."""
        with self.lock:
            return self._send_backlog()

    def _send_backlog(self) -> bool:
        if self.backlog:
            sent = self._send(self.backlog)
            del self.backlog[:sent]
        if self.state is State.LEAVING and not self.backlog:
            self._say_end()
        return not self.backlog and self.state is not State.LEAVING

    def _send(self, data: Bytes) -> int:
        """Hand the kernel what it takes; return how many bytes that were."""
        sent = 0
        try:
            if self.tls is None or len(data) <= TLS_RECORD:
                return self.sock.send(data, self._flags)
            with memoryview(data) as view:
                while sent < len(data):
                    # A record that couldn't be sent OpenSSL wants to get again: it stands first in the
                    # backlog, which only grows at its end.
                    with view[sent : sent + TLS_RECORD] as piece:
                        sent += self.sock.send(piece)
        except (BlockingIOError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self.end(plain_words(error))
        return sent

    def end_sending(self) -> None:
        """Take nothing new, and say the end when the backlog is out."""
        with self.lock:
            if self.state is State.OPEN:
                self.state = State.LEAVING
                if not self._send_backlog():
                    self._drainer.add(self)

    def _say_end(self) -> None:
        """close_notify where there is TLS, then FIN."""
        if isinstance(self.sock, ssl.SSLSocket):
            try:
                self.sock.unwrap()
            except ssl.SSLWantWriteError:
                return  # no room even for that: the next flush() does it
            except (OSError, ValueError):
                pass  # it would like to wait for the client's answer
        self.state = State.SAID_END
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown: that forgets TLS, and what is sent after it goes in clear.
            socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def drop(self, why: str) -> None:
        """Give the client up; its own thread wakes and closes."""
        with self.lock:
            self.end(why)

    def end(self, why: str) -> None:
        """Give the client up, as drop() does."""
        if not self.ended:
            self.state, self.why = State.ENDED, why
            self.backlog.clear()
            with contextlib.suppress(OSError):  # it wakes whoever polls the socket, as close() would not
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class Drainer:
    """One thread that sends what is left in backlogs, as the clients make room. Its lock guards the set of
    wires; whoever holds a wire's lock may take it, never the reverse."""

    MOMENT = 0.01  # seconds that an answer waits at most for the answers to what came with it

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wires: set[Wire] = set()
        self._stopped = False
        self._waker, self._wakee = socket.socketpair()
        self._waker.setblocking(False)
        self._wakee.setblocking(False)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, once. Raises RuntimeError where there is none to be had."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="drainer", daemon=True)
            thread.start()
            self._thread = thread

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
        if self._thread is not None:
            self._thread.join(0.5)
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

    def _ready(self, wires: Sequence[Wire]) -> Sequence[Wire]:
        """Wait for room on one of the wires, or for a call to wake up."""
        # No epoll here: it needs a descriptor of its own, just when there may be none left.
        with getattr(selectors, "PollSelector", selectors.SelectSelector)() as selector:
            selector.register(self._wakee, selectors.EVENT_READ)
            try:
                for wire in wires:
                    selector.register(wire.sock, selectors.EVENT_WRITE, wire)
                ready = [key.data for key, _ in selector.select() if key.data]
            except (OSError, ValueError, KeyError):
                return wires  # one was just closed by its own thread; or Windows: there are more than 512
            with contextlib.suppress(OSError):
                self._wakee.recv(4096)
        return ready


# ================================================================ 6. talk: the codecs


class Answer(NamedTuple):
    """What a codec has to say to the client, as a pong."""

    data: Bytes


class Goodbye(NamedTuple):
    """The client closes, or has broken the protocol (fault): say the same, and read no more."""

    code: int
    reason: str
    fault: bool = False


Event = str | bytes | Answer | Goodbye


class Frames:
    """WebSocket frames (RFC 6455). No socket, no thread: bytes in, events out; messages in, bytes out.
    wsproto reads and writes them; those that are like nearly all others take a short way past it. One thread
    may receive while another encodes: in wsproto the two have nothing in common.

    Args: limits, of a message; deflate, the answer to the client's offer of permessage-deflate, or "".
    """

    answers_goodbye = True  # the client says goodbye as well, and may say more before
    silent_end = {"code": 1006, "why": "closed without a close frame"}

    def __init__(self, limits: Limits, deflate: str = "") -> None:
        self._limit, self._deflate = limits.message, deflate
        self._bounds = Bounds(limits, deflate)
        self._wsproto = FrameProtocol(client=False, extensions=[self._bounds])
        self._half_read = False  # wsproto holds a part of a frame or of a message
        self._pieces: list[Any] = []  # of a message

    def receive(self, data: bytes) -> Iterator[Event]:
        """Take received bytes apart: messages, answers, and at most one goodbye, the last."""
        while data:
            if not self._half_read:
                data = yield from self.ordinary(data)
            if data:
                data = yield from self._any(data)

    def ordinary(self, data: bytes) -> Generator[Event, None, bytes]:
        """Take the frames that stand whole at the beginning and are of the usual form: final, text or binary,
        not compressed, masked, with one of the shorter lengths (RFC 6455 section 5.2):

             1 byte            1 byte        2, where n is 126   4      length
            .----------------.-------------.------------------.------.--------------------.
            | FIN 000 opcode | MASK n      | length           | mask | payload, XOR mask  |
            '----------------'-------------'------------------'------'--------------------'

        Returns the bytes from the first frame on that is different or wrong in any way: wsproto judges it.
        """
        start, size = 0, len(data)
        while size - start >= 6 and (first := data[start]) in (0x81, 0x82):
            length, body = data[start + 1] - 0x80, start + 6
            if length == 126:
                length, body = int.from_bytes(data[start + 2 : start + 4], "big"), start + 8
                if length < 126:
                    break  # it would have fitted into n
            end = body + length
            if not 0 <= length <= self._limit or data[start + 1] == 0xFF or end > size:
                break
            mask = (data[body - 4 : body] * (length // 4 + 1))[:length]
            bits = int.from_bytes(data[body:end], "little") ^ int.from_bytes(mask, "little")
            payload = bits.to_bytes(length, "little")
            try:
                message = payload.decode() if first == 0x81 else payload
            except UnicodeDecodeError:
                break
            yield message
            start = end
        return data[start:]

    def _any(self, data: bytes) -> Generator[Event, None, bytes]:
        """Take any frames, until a message is complete; return the bytes behind it."""
        self._half_read, in_message = True, bool(self._pieces)
        self._wsproto.receive_bytes(data)
        try:
            for opcode, payload, _, finished in self._wsproto.received_frames():
                if opcode is Opcode.CLOSE:
                    yield Goodbye(int(payload[0]), str(payload[1]))
                    return b""
                if opcode is Opcode.PING:
                    yield Answer(self._wsproto.pong(payload))  # type: ignore[arg-type]
                elif opcode < Opcode.CLOSE:
                    if payload or not self._pieces:  # compressed bytes without end may inflate to nothing
                        self._pieces.append(payload)
                    in_message = not finished
                    if finished:
                        pieces, self._pieces = self._pieces, []
                        yield pieces[0] if len(pieces) == 1 else type(payload)().join(pieces)  # type: ignore
                if not in_message:
                    self._half_read = False
                    return self._bounds.give_back()
        except ParseFailed as fault:
            too_big = fault.code is CloseReason.MESSAGE_TOO_BIG
            yield Goodbye(int(fault.code), "message too big" if too_big else str(fault), fault=True)
        return b""

    def encode(self, message: str | bytes) -> Bytes:
        """A message as one frame, compressed where that was agreed. One thread at a time."""
        return self._wsproto.send_data(message) if self._deflate else self.plain(message)

    @staticmethod
    def plain(message: str | bytes) -> bytes:
        """A message as an uncompressed frame, which every client takes (RFC 7692 section 6)."""
        first, payload = (0x81, message.encode()) if isinstance(message, str) else (0x82, message)
        size = len(payload)
        if size < 126:
            return bytes((first, size)) + payload
        head = ("!BBH", first, 126, size) if size < 2**16 else ("!BBQ", first, 127, size)
        return struct.pack(*head) + payload

    def goodbye(self, code: int, reason: str) -> Bytes:
        """A close frame; 1005, which stands for none, has no code in it (RFC 6455 section 7.4.1)."""
        return self._wsproto.close(CloseReason.NO_STATUS_RCVD if code == 1005 else code, reason)

    def ping(self) -> Bytes:
        """What makes a client say whether it still lives."""
        return self._wsproto.ping()


class Bounds(PerMessageDeflate):
    """What wsproto's reading side lacks: an end to the size of a message, as it comes and after inflating,
    and to the number of its frames. It is an extension: those see the length that a frame claims before a
    byte of it, and inflate. (wsproto's own takes a control frame amid a message for the message's end.)

    Args: limits, of a message; agreed, the answer to the client's offer of permessage-deflate, or "".
    """

    def __init__(self, limits: Limits, agreed: str) -> None:
        super().__init__()
        self._limit, self._deflate = limits.message, bool(agreed)
        self._inflater: Any = None
        self._size = self._before = 0  # of the message so far, and without its last frame
        self._empty = 0  # frames of it that add nothing
        self._in_control_frame = self._compressed = False
        self._buffer = Buffer()
        if agreed:
            self.accept(agreed)

    def enabled(self) -> bool:
        """Always."""
        return True

    def give_back(self) -> bytes:
        """The bytes that wsproto has, and hasn't looked at yet."""
        data = bytes(self._buffer.consume_at_most(len(self._buffer)))
        self._buffer.commit()
        return data

    def frame_inbound_header(
        self, proto: Any, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Refuse a frame by the length that it claims; return the reserved bits that it may have. (A header
        is shown twice where the mask comes a moment later: nothing is added up here.)"""
        self._buffer = proto.buffer
        self._in_control_frame = opcode >= Opcode.CLOSE
        begins = opcode in (Opcode.TEXT, Opcode.BINARY)
        if begins:
            self._compressed = self._deflate and rsv.rsv1
            if self._compressed and self._inflater is None:
                self._inflater = zlib.decompressobj(-self.client_max_window_bits)
        if not (self._in_control_frame or self._compressed) and self._size + payload_length > self._limit:
            return CloseReason.MESSAGE_TOO_BIG
        return RsvBits(self._deflate and begins, False, False)

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes | CloseReason:
        """Inflate, and count."""
        if self._in_control_frame:
            return data
        if self._compressed:
            return self._inflate(data)
        self._size += len(data)
        return data

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        try:
            inflated: bytes = self._inflater.decompress(data, self._limit - self._size + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._size += len(inflated)
        if self._size > self._limit:
            return CloseReason.MESSAGE_TOO_BIG
        if len(self._inflater.unused_data) > 1:
            # Behind a stream's end one byte may stand, a 0 (RFC 7692 section 7.2.3.4).
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return inflated

    def frame_inbound_complete(self, proto: Any, fin: bool) -> bytes | CloseReason | None:
        """End a frame, and with the last one the message."""
        if self._in_control_frame:
            return None
        self._empty += self._size == self._before
        self._before = self._size
        if self._empty > EMPTY_FRAMES:
            return CloseReason.MESSAGE_TOO_BIG
        if not fin:
            return None
        last: bytes | CloseReason = b""
        if self._compressed:
            if not self._inflater.eof:
                last = self._inflate(b"\0\0\xff\xff")  # which the client left out
            if self._inflater.eof or self.client_no_context_takeover:
                self._inflater = None  # the next message begins anew (sections 7.2.3.5 and 7.1.1)
        self._size = self._before = self._empty = 0
        self._compressed = False
        return last


class Lines:
    """A native client's lines, each a message in UTF-8. No socket, no thread. Args: limits, of a line."""

    answers_goodbye = False
    silent_end = {"why": "closed by the client"}

    def __init__(self, limits: Limits) -> None:
        self._limit, self._buffer = limits.message, bytearray()
        self._too_long = Goodbye(1007, f"a line has at most {limits.message} bytes", fault=True)

    def receive(self, data: bytes) -> Iterator[Event]:
        """Take received bytes apart: lines, and a goodbye, the last, to one that is too long or no text."""
        searched = len(self._buffer)
        self._buffer += data
        start = 0
        while (end := self._buffer.find(b"\n", max(start, searched))) >= 0:
            line = bytes(self._buffer[start:end]).removesuffix(b"\r")
            start = end + 1
            if len(line) > self._limit:
                yield self._too_long
                return
            try:
                text = line.decode()
            except UnicodeDecodeError:
                yield Goodbye(1007, "a line is text in UTF-8", fault=True)
                return
            yield text
        del self._buffer[:start]
        if len(self._buffer) > self._limit + 1:
            yield self._too_long

    @staticmethod
    def plain(message: str | bytes) -> bytes:
        """A message as a line. Raises ValueError for one with a newline in it."""
        line = message.encode() if isinstance(message, str) else message
        if b"\n" in line:
            raise ValueError("a native client's message is a line: no newline in it")
        return line + b"\n"

    encode = plain

    def goodbye(self, code: int, reason: str) -> Bytes:
        """There is no close frame here: where it matters, a last line says why."""
        return b"" if code == 1000 else self.plain(say("error", reason=reason))

    def ping(self) -> Bytes:
        """Nothing: a line can't ask. TCP's keep-alive does."""
        return b""


def keep_alive(sock: socket.socket, seconds: float) -> None:
    """Let TCP find out whether a silent client still lives."""
    idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"  # so on macOS
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in ((idle, seconds), ("TCP_KEEPINTVL", seconds / 4), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, int(min(value, 32767))))


# ================================================================ 6. talk: the peer


class Peer:
    """The client as an application sees it, whatever the wire.

    Attributes: kind ('ws', 'wss', 'tcp', 'tcps'), address (ip, port), tls (version, cipher) or None, path;
    request (a Request; None for a native client), subprotocol that was agreed on, or None, certificate (what
    getpeercert() tells of the client's, or None); name (for the application to set: the monitor shows it),
    ended ({} until it has: then why, and the close code where there is one).

    The own thread alone reads and compresses, and uses what that needs. The wire's lock guards the rest:
    ended, and whether goodbye was said.
    """

    def __init__(
        self, connection: Connection, codec: Frames | Lines, limits: Limits, first: Deadline | None = None
    ) -> None:
        assert connection.kind is not None
        self.connection, self.wire, self.server = connection, connection.wire, connection.server
        self.kind, self.path = connection.kind.value, connection.path
        self.address, self.tls = connection.address, connection.wire.tls
        self.certificate = connection.wire.certificate()
        self.request: Request | None = None
        self.subprotocol: str | None = None
        self.name: str | None = None
        self.codec, self.limits = codec, limits
        self._most = max(limits, self.server.limits, key=lambda each: each.message)  # what may wait for it
        self.ended: dict[str, Any] = {}
        self._goodbye: Deadline | None = None  # once it was said: until when to hear the client's
        self.thread = threading.current_thread()  # its own; not its number, which a later thread gets again
        # of the own thread:
        self._arrived: Iterator[Event] = iter(())
        self._following: Event | None = None  # always one event ahead, to know whether more follow
        self._in_loop = False  # it comes back for the next message
        self._first = first is not None  # nothing complete has come yet
        self._asked = False  # whether it still lives
        self._patience = first or Deadline(limits.ping)

    @property
    def backlog(self) -> int:
        """Bytes that the client has still to take."""
        return len(self.wire.backlog)

    def __iter__(self) -> Iterator[str | bytes]:
        """The client's messages, until it has closed. For the peer's own thread. A second loop goes on where
        the first one was left."""
        try:
            while (message := self.receive()) is not None:
                self._in_loop = True
                yield message
        finally:
            self._in_loop = False

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """The client's next message; None when it has closed. For the peer's own thread. Args: timeout,
        seconds to wait at most. Raises TimeoutError, with nothing lost; RuntimeError in another thread."""
        if threading.current_thread() is not self.thread:
            raise RuntimeError("only the peer's own thread may receive")
        deadline = None if timeout is None else Deadline(timeout)
        while (event := self._next(deadline)) is not None:
            self._first = False
            if isinstance(event, Answer):
                self._post(event.data, more=self._following is not None)
                self._make_room(deadline)
                if self._following is None and deadline and not deadline.left():
                    raise TimeoutError  # pings without a pause don't hold it
            elif isinstance(event, Goodbye):
                if event.fault:
                    self.tell("refused", why=event.reason)
                self.say_goodbye(event.code, event.reason, answer=True)
            elif self._goodbye is None:
                return event
        return None

    def _next(self, deadline: Deadline | None) -> Event | None:
        """The next event, None where there will be none. Raises TimeoutError."""
        while self._following is None:
            data = self._read(deadline)
            if not data:
                return None
            self._arrived = self.codec.receive(data)
            self._following = next(self._arrived, None)
            if self._following is None and deadline and not deadline.left():
                raise TimeoutError
        event, self._following = self._following, next(self._arrived, None)
        return event

    def _read(self, deadline: Deadline | None) -> bytes:
        """The next bytes, b"" where there will be none. Looks after dead clients. Raises TimeoutError."""
        if self.wire.backlog:
            self.wire.flush()
            self._make_room(deadline)
        while not self._goodbye or self._goodbye.left():
            patience = self._goodbye or self._patience
            try:
                data = self.wire.receive(min(wait.left() for wait in (patience, deadline) if wait))
            except TimeoutError:
                if not patience.left():
                    self._end_of_patience()
                elif deadline and not deadline.left():
                    raise
            except OSError as error:
                self.wire.drop(plain_words(error))
            else:
                if not self._first:
                    self._patience, self._asked = Deadline(self.limits.ping), False
                if not data:
                    with self.wire.lock:
                        self._note_end()
                return data
        return b""

    def _end_of_patience(self) -> None:
        if self._goodbye:
            return  # it is over then
        if self._first:
            self.close(1008, "no line came in time")
        elif self._asked:
            self.wire.drop("silent: no answer to a ping")
        elif ping := self.codec.ping():
            self._post(ping)
            self._asked = True
        self._patience = Deadline(self.limits.ping)

    def _note_end(self) -> None:
        # With the wire's lock held: it has gone without a goodbye, unless there was one.
        why = {"why": self.wire.why} if self.wire.ended else {}
        self.ended = self.ended or {**self.codec.silent_end, **why}

    def wait_closed(self) -> None:
        """Own thread: after close(), read on until the client has closed too, but not for long."""
        while self.receive() is not None:
            pass  # one that was dropped: nothing was said to it

    def send(self, message: str | bytes) -> bool:
        """Send one message; return whether it was taken. Any thread may; messages never interleave.

        In the peer's own thread it waits while the client has much left to read, and raises PeerGone where
        the client is gone, so that an application which only sends ends too. In any other thread it never
        waits, nor compresses: a client whose backlog is full is dropped. Raises ValueError for a newline to a
        native client.
        """
        if threading.current_thread() is not self.thread:
            return self._post(self.codec.plain(message))
        self._make_room()
        # Compressed with no lock held, since that takes long: so in this thread only.
        if not self._post(self.codec.encode(message), self._in_loop and self._following is not None):
            raise PeerGone(self.wire.why if self.wire.ended else "closed")
        return True

    def _post(self, data: Bytes, more: bool = False) -> bool:
        """Send bytes that are ready, and never wait. more: as for Wire.put."""
        wire = self.wire
        with wire.lock:
            if len(wire.backlog) > self._most.backlog:
                wire.end("its backlog is full: it doesn't read what it is sent")
            if self._goodbye or wire.state is not State.OPEN:
                self._note_end()
                return False
            wire.put(data, more)
            return True

    def _make_room(self, deadline: Deadline | None = None) -> None:
        """Own thread: who doesn't read isn't read either. Raises TimeoutError."""
        if deadline is None:
            return self.wire.drain(self.limits.ping, down_to=self._most.message)
        while len(self.wire.backlog) > self._most.message:
            if waiter(self.wire.sock, WRITABLE)(min(self._patience.left(), deadline.left())):
                self._patience = Deadline(self.limits.ping)
                self.wire.flush()
            elif self._patience.left():
                raise TimeoutError
            else:
                self.wire.drop("it doesn't read what it is sent")

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye; the loop over the peer's messages then ends. Any thread may. Args: code, a close code
        that may be sent (RFC 6455 section 7.4); reason, of which 123 bytes in UTF-8 are sent. Raises
        ValueError for another code."""
        if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
            raise ValueError(f"{code} is no close code that can be sent")
        if self.say_goodbye(code, reason) and threading.current_thread() is not self.thread:
            # The own thread would notice at the next ping; that may be long.
            patience = threading.Timer(self.limits.closing, self.wire.drop, ["no answer to the goodbye"])
            patience.daemon = True
            with contextlib.suppress(RuntimeError):  # no thread to be had: then the ping finds out
                patience.start()

    def say_goodbye(self, code: int, reason: str, answer: bool = False) -> bool:
        """Send the last frame or line; False where that was done before. Any thread may, and never waits.
        Args: answer, whether the client has said its own goodbye, or any nonsense in its place."""
        with self.wire.lock:
            said = self._goodbye is not None
            if not said:
                last = self.codec.goodbye(code, reason)  # ValueError for half a surrogate: nothing was said
                by = "the client" if answer else "the server"
                self.ended = self.ended or {"code": code, "why": reason or f"closed by {by}"}
                self.wire.put(last)
            if answer or not said:
                wait = self.codec.answers_goodbye and not answer
                self._goodbye = Deadline(self.limits.closing if wait else 0)
        if not self.codec.answers_goodbye:
            self.wire.end_sending()
        return not said

    def tell(self, step: str, **facts: Any) -> None:
        """Tell the observers a step of the application's, as 'login'."""
        self.connection.tell(step, **facts)


def broadcast(peers: Iterable[Peer], *messages: str | bytes) -> None:
    """Send one message, or several, to many. Each is framed once for each kind of wire (RFC 6455 section
    5.6). It never waits: who is gone is passed over, who doesn't read is dropped. Args: peers, each once;
    messages, text or bytes. Raises ValueError where one has a newline and goes to a native client."""
    framed: dict[type[Frames | Lines], bytes] = {}
    for peer in peers:
        kind = type(peer.codec)
        if kind not in framed:
            framed[kind] = b"".join(map(kind.plain, messages))
        peer._post(framed[kind])


# ================================================================ 7. the demo applications


def say(type: str, **fields: Any) -> str:
    """A JSON object as the chat and the monitor speak it. Invisible characters are escaped."""
    text = json.dumps({"type": type, **fields}, ensure_ascii=False, separators=(",", ":"))
    return text if text.isprintable() else json.dumps(json.loads(text), separators=(",", ":"))


def echo(peer: Peer) -> None:
    """Send every message back: an application, as small as can be. Args: peer, the client."""
    for message in peer:
        peer.send(message)


class Chat:
    """A room: who logs in hears what is said. One object serves all peers, each in its thread. The lock
    guards the users. It is held while a message goes out, so that all hear the same order; that is short,
    since a broadcast waits for nobody."""

    MESSAGE = 64 * 1024  # bytes at most: a megabyte of JSON takes a tenth of a second to read

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[str, Peer] = {}
        self._leaving: deque[Peer] = deque()

    def __call__(self, peer: Peer) -> None:
        """Serve one peer."""
        actions = {"login": self._login, "say": self._say, "who": self._who}
        try:
            for message in peer:
                try:
                    request = read_json(message)
                    if (type := request.get("type")) not in tuple(actions):
                        raise ValueError("type is one of: login, say, who")
                    if peer.name is None and type != "login":
                        raise ValueError('log in first: {"type":"login","name":"..."}')
                    actions[type](peer, request)
                except ValueError as error:
                    peer.send(say("error", reason=str(error)))
        finally:
            self._leave(peer)

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
        self._leaving.append(peer)
        with self._lock:  # all who wait for it go together: nobody tells those who are gone of each other
            leaving = [self._leaving.popleft() for _ in range(len(self._leaving))]
            names = [each.name for each in leaving if each.name and self._users.pop(each.name, None)]
            if names:
                broadcast(self._users.values(), *[say("left", name=name) for name in names])


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


SHORT_NAMES = {  # RFC 4514 section 3
    "commonName": "CN", "localityName": "L", "stateOrProvinceName": "ST", "organizationName": "O",
    "organizationalUnitName": "OU", "countryName": "C", "streetAddress": "STREET", "domainComponent": "DC",
    "userId": "UID"}  # fmt: skip


def distinguished_name(subject: Iterable[Iterable[tuple[str, str]]]) -> str:
    """A certificate's subject, as getpeercert() tells it, in one line (RFC 4514)."""
    special = re.compile(r'([,+"\\<>;]|^[ #]| $)')
    return ",".join(
        "+".join(f"{SHORT_NAMES.get(key, key)}=" + special.sub(r"\\\1", value) for key, value in part)
        for part in reversed(tuple(subject))
    )


class Monitor:
    """The server's window: it tells its watchers each step of each connection, and shows the bytes of those
    connections that one asks for. An actor: whatever happens, in whatever thread, becomes a job in a queue,
    and one thread does the jobs in their order. It alone touches the watchers, and it waits for no client."""

    PATIENCE = 256 * 1024  # bytes that a slow watcher may have waiting; then events pass it by
    JOBS = 10_000  # events that may wait for the thread; then they pass everybody by
    SHOWN = 4096  # bytes of one chunk

    def __init__(self, server: DualServer) -> None:
        self._server = server
        self._jobs: queue.SimpleQueue[tuple[Callable[[Any, Any], None], Any, Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards the next two
        self._thread: threading.Thread | None = None
        self._lost = 0  # events that found too many jobs waiting
        # of the one thread:
        self._missed: dict[Peer, int] = {}  # each watcher, and how many events it has missed
        self._watched: dict[int, tuple[Connection, set[Peer]]] = {}  # whose bytes are shown, and to whom

    def __call__(self, peer: Peer) -> None:
        """Serve one watcher."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="monitor", daemon=True)
                thread.start()
                self._thread = thread
            self._jobs.put((self._enter, peer, None))
        try:
            for message in peer:
                try:
                    request = read_json(message)
                    job = {"watch": self._watch, "unwatch": self._unwatch}.get(str(request.get("type")))
                    if job is None or not isinstance(request.get("id"), int):
                        raise ValueError('{"type":"watch","id":7} or {"type":"unwatch","id":7}')
                    self._jobs.put((job, peer, request["id"]))
                except ValueError as error:
                    peer.send(say("error", reason=str(error)))
        finally:
            self._jobs.put((self._leave, peer, None))

    def observe(self, event: dict[str, Any]) -> None:
        """Pass one step on to all watchers. Any thread calls it."""
        self._later(self._pass_on, event, self._missed)

    def _later(self, job: Callable[[Any, Any], None], first: Any, second: Any) -> None:
        if self._jobs.qsize() < self.JOBS:
            self._jobs.put((job, first, second))
        else:
            with self._lock:
                self._lost += 1

    def _run(self) -> None:
        """Do the jobs, until the last watcher has gone."""
        while True:
            job, first, second = self._jobs.get()
            try:
                job(first, second)
            except Exception:
                log.exception("the monitor failed")
            with self._lock:
                if not self._missed and self._jobs.empty():
                    self._thread = None
                    return

    # ---- the jobs

    def _enter(self, peer: Peer, _: None) -> None:
        if not self._missed:  # first observe, then look: better told twice than not at all
            self._server.observers.append(self.observe)
        self._missed[peer] = 0
        peer.send(self._snapshot())

    def _leave(self, peer: Peer, _: None) -> None:
        del self._missed[peer]
        if not self._missed:
            self._server.observers.remove(self.observe)
        for number in tuple(self._watched):
            self._unwatch(peer, number)

    def _snapshot(self) -> str:
        clients = [
            {"id": connection.id, "kind": peer.kind, "address": host_port(*peer.address), "path": peer.path,
             "name": peer.name, "tls": " ".join(peer.tls) if peer.tls else None, "since": connection.since,
             "certificate": peer.certificate and distinguished_name(peer.certificate["subject"])}
            for connection in self._server.everyone() if (peer := connection.peer)
        ]  # fmt: skip
        memory = [{"ip": ip, "seconds_left": round(left, 1)} for ip, left in self._server.memory.entries()]
        return say("snapshot", detect=self._server.detect, clients=clients, memory=memory)

    def _pass_on(self, event: dict[str, Any], watchers: Iterable[Peer]) -> None:
        if event.get("step") == "closed":
            self._watched.pop(event["id"], None)
        with self._lock:
            lost, self._lost = self._lost, 0
        for peer in self._missed:
            self._missed[peer] += lost
        message = say(**event)
        for peer in watchers:
            if peer.backlog > self.PATIENCE:
                self._missed[peer] += 1
                continue
            if self._missed[peer]:
                peer.send(say("missed", events=self._missed[peer]))
                peer.send(self._snapshot())
                self._missed[peer] = 0
            peer.send(message)

    def _watch(self, peer: Peer, number: int) -> None:
        for connection in self._server.everyone():
            if connection.id == number and connection.peer and connection.peer not in self._missed:
                self._watched.setdefault(number, (connection, set()))[1].add(peer)
                connection.wire.tap = lambda sender, data: self._later(
                    self._show, number, (sender, bytes(data[: self.SHOWN]), len(data))
                )
                return
        peer.send(say("error", reason=f"no connection {number} that can be watched"))

    def _unwatch(self, peer: Peer, number: int) -> None:
        connection, watchers = self._watched.get(number, (None, set()))
        watchers.discard(peer)
        if connection and not watchers:
            connection.wire.tap = None
            del self._watched[number]

    def _show(self, number: int, chunk: tuple[str, bytes, int]) -> None:
        sender, data, size = chunk
        shown = {"bytes": data.hex(), "more": size - len(data)}
        event = {"type": "bytes", "id": number, "time": time.time(), "from": sender, **shown}
        self._pass_on(event, self._watched[number][1] if number in self._watched else ())


# ================================================================ 9. the command line

# SIGHUP: the terminal was closed. It doesn't exist on Windows.
ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        for number in ENDING_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, signal.default_int_handler)
        raise_descriptor_limit(options.max_clients + DOORMEN + 50)
        pinned = [] if options.no_pin else hold_to_one_core()
        server = Program(options)
    except KeyboardInterrupt:
        return 130  # before it runs: at the question for a password, say
    except (OSError, ValueError, OverflowError, ImportError) as error:
        print(f"wsdual: {explain(error, options)}", file=sys.stderr)
        return 1
    with server, contextlib.suppress(KeyboardInterrupt):
        server.heed_signals()
        server.drainer.start()  # whoever reads that it runs finds all of it there
        introduce(server, [*server.about, *pinned])
        server.serve_forever(poll_interval=0.1)
    if hasattr(signal, "pthread_sigmask"):  # one more signal shall not disturb the last steps
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    return 0


class Program(DualServer):
    """The server that the flags describe. It takes up a renewed certificate: on SIGHUP, or when a file of it
    has changed. Signals only set flags; service_actions acts on them, between two calls of accept."""

    ending = hung_up = False  # the signals' flags

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self._next_look, self._has_terminal = options, Deadline(1), os.isatty(0)
        self._seen = self._stamps()  # before the files are read: what changes meanwhile is read again
        tls, self.about = prepare_tls(options)
        limits = Limits(clients=options.max_clients, message=options.max_message,
                        handshake=options.handshake_timeout, ping=options.ping_interval,
                        per_address=options.max_per_address)  # fmt: skip
        chat = App(Chat(), message=min(Chat.MESSAGE, limits.message))
        apps: dict[str, App | Callable[[Peer], object]] = {"/chat": chat, "/echo": echo}
        apps["/"] = apps["/" + options.app]
        if not options.no_monitor:
            apps["/monitor"] = App(Monitor(self), loopback_only=True)  # it shows what users write
        super().__init__((options.host, options.port), apps, tls=tls, detect=options.detect, limits=limits,
                         memory=options.memory, origins=options.origin, static=options.static,
                         tls_only=options.tls_only)  # fmt: skip
        if not os.path.isdir(options.static):
            log.warning("no folder %s: HTTP clients get 404 (--static names another)", options.static)
        if options.verbose:
            self.observers.append(log_event)

    def heed_signals(self) -> None:
        """From here on signals set flags."""
        self.options.may_ask = False  # for a password: an answer to wait for would hold up the accept loop
        for number in ENDING_SIGNALS:
            if number != getattr(signal, "SIGHUP", None):
                signal.signal(number, lambda *_: setattr(self, "ending", True))
            elif self.options.cert or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: setattr(self, "hung_up", True))

    def service_actions(self) -> None:
        """Called by serve_forever some ten times a second."""
        terminal_closed = self._has_terminal and not os.isatty(0)
        if self.ending or (self.hung_up and (self.options.cert is None or terminal_closed)):
            raise KeyboardInterrupt  # here it disturbs nobody
        if self.options.cert and (self.hung_up or not self._next_look.left()):
            stamps = self._stamps()
            if self.hung_up or stamps != self._seen:
                self.renew()
            self._seen, self.hung_up, self._next_look = stamps, False, Deadline(1)

    def renew(self) -> None:
        """New connections get a new context; the one in use is never changed."""
        try:
            self.tls, about = prepare_tls(self.options)
            log.info("certificate renewed: %s", "; ".join(about))
        except Exception as error:  # whatever there is to say against a file, the server goes on
            log.error("the old certificate stays in use: %s", explain(error, self.options))

    def _stamps(self) -> list[object]:
        stamps: list[object] = []
        for name in (self.options.cert, self.options.key, self.options.client_ca, self.options.password_file):
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
    add("--tls-only", action="store_true", help="plain HTTP is sent to https, plain ws and lines are refused")
    add("--origin", type=web_origin, action="append", default=[], help="allow its pages too (repeatable)")
    add("--max-clients", type=number(int, 1, 10**6), default=Limits.clients, help="at once (1000)")
    add("--max-per-address", type=number(int, 1, 10**6), help="of these, from one address (no limit)")
    add("--max-message", type=number(int, 1, 2**31), default=Limits.message, help="bytes (1048576)")
    add("--handshake-timeout", type=number(float, 0.1, 3600), default=Limits.handshake, help="seconds (5)")
    add("--ping-interval", type=number(float, 0.1, 86400), default=Limits.ping, help="seconds (20)")
    add("--static", default=str(Path(__file__).parent / "static"), help="the page (beside the module)")
    add("--no-monitor", action="store_true", help="no /monitor")
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
        with contextlib.suppress(ValueError):
            if low <= (value := kind(text)) <= high:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number from {low} to {high}")

    return parse


def hold_to_one_core() -> list[str]:
    """Keep this thread, and those that it starts, on one core where that pays; return a line that says so.
    Threads that share a GIL run one at a time anyway. Over several cores they hand the lock from core to
    core, which costs more than the work: 50 busy connections got twice as far on one."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    if not has_gil or not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        return []
    core = secrets.choice(sorted(os.sched_getaffinity(0)))
    os.sched_setaffinity(0, {core})
    return [f"held to core {core}, where its threads don't contend (--no-pin against it)"]


def raise_descriptor_limit(needed: int) -> None:
    """Ask for as many descriptors as clients may come; the usual 1,024 are too few for 1,000."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def prepare_tls(options: argparse.Namespace) -> tuple[ssl.SSLContext, list[str]]:
    """The TLS settings, and lines that tell the certificate."""
    cert: str | bytes = options.cert or b""
    password: str | None = None
    if options.cert is None:
        if options.key:
            raise ValueError("--key goes with --cert")
        import cert_tool

        names = [] if options.host in ("", "::", "0.0.0.0") else [options.host.partition("%")[0]]
        key, certificate = cert_tool.make_certificate("localhost", names)
        cert, password = cert_tool.pem_bytes(key, [certificate])
    elif b"-----BEGIN " not in (data := Path(options.cert).read_bytes()):
        cert, password = tool_for_pfx(options.cert).pfx_to_pem(data, passwords(options), options.cert)
    elif b"ENCRYPTED" in (Path(options.key).read_bytes() if options.key else data):
        *_, password = passwords(options)
    minimum = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[options.tls_min]
    context = server_context(cert, password, options.key, minimum, options.client_ca)
    about: list[str] = []
    with contextlib.suppress(ImportError):  # the standard library can't tell what is in a certificate
        import cert_tool

        about = cert_tool.summary(cert if isinstance(cert, bytes) else data)
    if options.cert is None:
        about[0] += ", self-signed, thrown away at the end"
    return context, about


def passwords(options: argparse.Namespace) -> Iterator[str | None]:
    """What to try on a key: none, then that of the file, the environment or the terminal. Raises OSError,
    ValueError."""
    yield None
    locked = options.key or options.cert
    if options.password_file:
        yield Path(options.password_file).read_text(encoding="utf-8-sig").partition("\n")[0].rstrip("\r")
    elif os.environ.get("WSDUAL_PASSWORD"):
        yield os.environ["WSDUAL_PASSWORD"]
    else:
        if options.typed is None:  # asked once; a renewed file has the same password
            if not (options.may_ask and sys.stdin and sys.stdin.isatty()):
                raise ValueError(f"{locked} has a password: give it by --password-file or $WSDUAL_PASSWORD")
            options.typed = getpass.getpass(f"Password of {locked}: ")
        yield options.typed


def log_event(event: dict[str, Any]) -> None:
    """Print one event as a line."""
    facts = {key: str(value) for key, value in event.items() if key not in ("type", "id", "time", "step")}
    words = [f"{key}={value if value.isprintable() else ascii(value)}" for key, value in facts.items()]
    log.info("#%d %s %s", event["id"], event["step"], " ".join(words))


def introduce(server: DualServer, about: Iterable[str]) -> None:
    """Print what works now."""
    host, port = str(server.server_address[0]), server.server_address[1]
    host = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(host, host)
    place = host_port(host, port)
    certificates = server.tls and server.tls.verify_mode is ssl.CERT_REQUIRED
    plain, paths = "" if server.tls_only or certificates else "!", ", ".join(sorted(server.apps)[1:])
    lines = [
        f"wsdual: one port, {place}, for all of these (--detect {server.detect})",
        f"browser      {plain and f'http://{place}/   '}https://{place}/",
        f"WebSocket    {plain and f'ws://{place}/   '}wss://{place}/   ({paths})",
        *([f"plain lines  nc {host} {port}"] if plain else []),
        f"TLS lines    openssl s_client -quiet -connect {place}",
        '             then type: {"type":"login","name":"ann"}',
        *about,
        "Ctrl-C ends it.",
    ]
    try:
        print("\n".join(lines), flush=True)
    except OSError:
        sys.stdout = None  # nobody reads it: no reason not to serve


def explain(error: Exception, options: argparse.Namespace) -> str:
    """What is wrong, and what to do, in one line."""
    if isinstance(error, ImportError):
        return f"no {error.name}: install the requirements, or give --cert where cert_tool.py isn't there"
    if not isinstance(error, OSError):
        return str(error)
    if error.errno == errno.EADDRINUSE:
        return f"port {options.port} is in use: end the program that has it, or give another --port"
    if error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"can't listen on {options.host} port {options.port}: {error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main())
