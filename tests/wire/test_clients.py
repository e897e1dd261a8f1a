# SPDX-License-Identifier: MIT
"""Other people's clients, each as its own documentation shows it; skipped where it isn't installed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from support import *

MESSAGES: list[str | bytes] = ["hi", "grüße 🎈", "", b"", bytes(range(256)), "a" * 100_000, b"\0" * 500_000]
both_schemes = pytest.mark.parametrize("scheme", ["ws", "wss"])
with_and_without = pytest.mark.parametrize("compress", [True, False], ids=["deflate", "plain"])


def url(server: Program, scheme: str, path: str = "/echo") -> str:
    """Where it listens."""
    return f"{scheme}://127.0.0.1:{server.port}{path}"


# ---- the websockets library


# Not over wss: this client reads one SSLSocket in a thread while another one writes to it, and that
# loses a request now and then (it never leaves the client), with whatever server. Its asyncio form doesn't.
@with_and_without
def test_websockets_in_threads(server: Program, compress: bool) -> None:
    """websockets.sync: messages of all kinds come back, compressed or not; ping and close are answered."""
    client = pytest.importorskip("websockets.sync.client", reason="websockets isn't installed")
    options: dict[str, Any] = {"compression": "deflate" if compress else None, "proxy": None}
    with client.connect(url(server, "ws"), **options) as connection:
        for message in MESSAGES:
            connection.send(message)
            assert connection.recv(PATIENCE) == message
        connection.send(["in ", "three ", "fragments"])
        assert connection.recv(PATIENCE) == "in three fragments"
        assert connection.ping(b"hello").wait(PATIENCE)
        agreed = [extension.name for extension in connection.protocol.extensions]
    assert agreed == (["permessage-deflate"] if compress else [])
    assert connection.protocol.close_code == 1000


@both_schemes
@with_and_without
def test_websockets_in_asyncio(server: Program, scheme: str, compress: bool) -> None:
    """websockets.asyncio: the same, and three connections at once."""
    client = pytest.importorskip("websockets.asyncio.client", reason="websockets isn't installed")
    context = any_tls() if scheme == "wss" else None
    options: dict[str, Any] = {"ssl": context, "compression": "deflate" if compress else None, "proxy": None}

    async def talk() -> None:
        async with client.connect(url(server, scheme), **options) as connection:
            for message in MESSAGES:
                await connection.send(message)
                assert await connection.recv() == message
            await (await connection.ping())
        assert connection.close_code == 1000

    async def all_talk() -> None:
        await asyncio.wait_for(asyncio.gather(talk(), talk(), talk()), PATIENCE)

    asyncio.run(all_talk())


# ---- the websocket-client library


@both_schemes
def test_websocket_client(server: Program, scheme: str) -> None:
    """websocket-client: messages of all kinds come back; its close is answered."""
    websocket = pytest.importorskip("websocket", reason="websocket-client isn't installed")
    connection = websocket.create_connection(
        url(server, scheme), timeout=PATIENCE, sslopt={"cert_reqs": 0, "check_hostname": False}
    )
    for message in MESSAGES:
        if isinstance(message, bytes):
            connection.send_binary(message)
        else:
            connection.send(message)
        assert connection.recv() == message
    connection.ping(b"hello")
    assert connection.recv_data(control_frame=True) == (websocket.ABNF.OPCODE_PONG, b"hello")
    connection.send_close(1000)
    assert connection.recv_data(control_frame=True) == (websocket.ABNF.OPCODE_CLOSE, b"\x03\xe8")
    connection.shutdown()


def test_websocket_client_with_callbacks(server: Program) -> None:
    """Its WebSocketApp, which many tutorials use: open, message, close."""
    websocket = pytest.importorskip("websocket", reason="websocket-client isn't installed")
    seen: list[Any] = []

    def opened(app: Any) -> None:
        app.send("hi")

    def received(app: Any, message: str) -> None:
        seen.append(message)
        app.close(status=1000)

    app = websocket.WebSocketApp(
        url(server, "ws"), on_open=opened, on_message=received,
        on_error=lambda app, error: seen.append(error), on_close=lambda app, *code: seen.append("closed"),
    )  # fmt: skip
    app.run_forever()
    assert seen == ["hi", "closed"]


# ---- wsproto, as a client


@both_schemes
@with_and_without
def test_wsproto_client(server: Program, scheme: str, compress: bool) -> None:
    """The server's own library on the other side, with every window size that deflate has."""
    from wsproto.extensions import PerMessageDeflate

    for bits in (9, 12, 15) if compress else (15,):
        offer = [PerMessageDeflate(client_max_window_bits=bits, server_max_window_bits=bits)]
        with connect(server.address, tls=scheme == "wss") as sock:
            assert talk_wsproto(sock, offer if compress else [], MESSAGES) == MESSAGES
        assert not compress or offer[0].enabled()


def talk_wsproto(
    sock: socket.socket, extensions: list[Any], messages: list[str | bytes]
) -> list[str | bytes]:
    """Send messages one by one, and return what comes back for each."""
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import AcceptConnection, CloseConnection, Message, Request

    connection = WSConnection(ConnectionType.CLIENT)
    sock.sendall(connection.send(Request(host="localhost", target="/echo", extensions=extensions)))
    to_send, answers, piece = list(messages), [], None
    while True:
        connection.receive_data(sock.recv(65536) or None)
        for event in connection.events():
            if isinstance(event, Message):
                piece = event.data if piece is None else piece + event.data
                if not event.message_finished:
                    continue
                answers.append(piece)
                piece = None
            if isinstance(event, CloseConnection):
                assert event.code == 1000
                return answers
            if isinstance(event, AcceptConnection | Message):
                closing: Any = CloseConnection(code=1000)
                sock.sendall(connection.send(message_event(to_send.pop(0)) if to_send else closing))


def message_event(message: str | bytes) -> Any:
    """What wsproto wants for a message."""
    from wsproto.events import BytesMessage, TextMessage

    return TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)


# ---- programs for native lines: nc and openssl


class Lines:
    """A program that passes lines between its standard streams and the server."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, bufsize=1,
        )  # fmt: skip

    def send(self, **message: Any) -> None:
        """Type one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")

    def receive(self) -> Any:
        """The next line, as JSON; None at the end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        self.process.wait()


def program(name: str) -> str:
    """The path of a program that not every machine has."""
    path = shutil.which(name)
    if not path:
        pytest.skip(f"{name} isn't installed")
    return path


@pytest.fixture
def nc(server: Program) -> Iterator[Lines]:
    """nc 127.0.0.1 PORT"""
    with Lines(program("nc"), "127.0.0.1", str(server.port)) as lines:
        yield lines


@pytest.fixture
def openssl(server: Program) -> Iterator[Lines]:
    """openssl s_client -quiet -connect 127.0.0.1:PORT"""
    command = [program("openssl"), "s_client", "-quiet", "-connect", f"127.0.0.1:{server.port}"]
    with Lines(*command) as lines:
        yield lines


@pytest.fixture(params=["nc", "openssl"])
def native(request: pytest.FixtureRequest) -> Lines:
    """One after the other."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def kind_of(lines: Lines) -> str:
    """What the server should call it."""
    return "tcps" if isinstance(lines.process.args, tuple) and "s_client" in lines.process.args else "tcp"


def test_native_program_logs_in(native: Lines) -> None:
    """A line typed is a message; the answer is a line."""
    native.send(type="login", name="ann")
    welcome = native.receive()
    assert (welcome["type"], welcome["kind"]) == ("welcome", kind_of(native))
    native.send(type="nonsense")
    assert native.receive()["type"] == "error"
    native.send(type="who")
    assert native.receive() == {"type": "users", "users": [{"name": "ann", "kind": kind_of(native)}]}


def test_native_program_chats_with_a_wss_client(server: Program, native: Lines) -> None:
    """Both hear what either says; the private word too; and each hears the other come and go."""
    native.send(type="login", name="ann")
    assert native.receive()["type"] == "welcome"
    with WebSocket(server.address, "/chat", tls=True) as bob:
        bob.send({"type": "login", "name": "bob"})
        users = bob.receive_json()["users"]
        assert sorted(users, key=lambda user: user["name"]) == [
            {"name": "ann", "kind": kind_of(native)}, {"name": "bob", "kind": "wss"}]  # fmt: skip
        assert native.receive() == {"type": "joined", "name": "bob", "kind": "wss"}
        bob.send({"type": "say", "text": "hi, grüße"})
        said = {"type": "said", "from": "bob", "text": "hi, grüße"}
        assert bob.receive_json() == said and native.receive() == said
        native.send(type="say", text="psst", to="bob")
        said = {"type": "said", "from": "ann", "to": "bob", "text": "psst"}
        assert bob.receive_json() == said and native.receive() == said
    assert native.receive() == {"type": "left", "name": "bob"}


def test_nc_and_openssl_and_a_library_share_a_room(server: Program, nc: Lines, openssl: Lines) -> None:
    """Four kinds of client in one room: each of them hears each one's word once, in one order."""
    with WebSocket(server.address, "/chat") as ws, WebSocket(server.address, "/chat", tls=True) as wss:
        send: list[Any] = [nc.send, openssl.send, lambda **m: ws.send(m), lambda **m: wss.send(m)]
        receive = [nc.receive, openssl.receive, ws.receive_json, wss.receive_json]
        for name, one, hear in zip("abcd", send, receive, strict=True):
            one(type="login", name=name)
            wait_until(lambda hear=hear: hear()["type"] == "welcome")
        for name, one in zip("abcd", send, strict=True):
            one(type="say", text=f"I am {name}")
        heard = [[text for text in iter_texts(hear)] for hear in receive]
        assert sorted(heard[0]) == [f"I am {name}" for name in "abcd"]
        assert all(texts == heard[0] for texts in heard)


def iter_texts(hear: Any) -> Iterator[str]:
    """The next four things said."""
    count = 0
    while count < 4:
        message = hear()
        if message["type"] == "said":
            count += 1
            yield message["text"]


def test_curl_of_a_version_that_knows_websockets(server: Program) -> None:
    """curl 8.11 and later speak ws:// and wss:// by themselves; older ones upgrade by hand."""
    curl = program("curl")
    version = subprocess.run([curl, "-V"], capture_output=True, text=True, check=True).stdout
    protocols = version.partition("Protocols:")[2].split("\n")[0].split()
    if not {"ws", "wss"} <= set(protocols):
        pytest.skip("this curl has no ws")
    for scheme in ("ws", "wss"):
        command = [curl, "-sSkN", "--max-time", "1", "-T", "-", url(server, scheme)]
        done = subprocess.run(command, input=b"hi", capture_output=True, timeout=PATIENCE)
        assert b"hi" in done.stdout
