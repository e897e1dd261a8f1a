# SPDX-License-Identifier: MIT
"""A room of three hundred, of four kinds: nobody waits for the one who doesn't read."""

from __future__ import annotations

import json
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support import *

USERS = 300
LIMIT = 20_000  # --max-message: the backlog is bounded by a few of them
KINDS = ("ws", "wss", "tcp", "tcps")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server whose clients' backlogs are small, so that a test can fill one."""
    with running(tmp_path_factory.mktemp("room"), "--max-message", str(LIMIT)) as program:
        yield program


class User:
    """A chat user of any kind whose messages a crowd collects."""

    def __init__(self, program: Program, kind: str, name: str) -> None:
        self.kind, self.name = kind, name
        self.sock = connect(program.address, tls=kind in ("wss", "tcps"), source="127.0.0.20")
        self.buffer = b""
        if kind.startswith("ws"):
            self.sock.sendall(upgrade_request(program.address, "/chat"))
            while b"\r\n\r\n" not in self.buffer:
                self.buffer += self.sock.recv(65536)
            self.buffer = self.buffer.partition(b"\r\n\r\n")[2]
        self.send({"type": "login", "name": name})
        self.heard: list[dict[str, object]] = []
        while not self.heard:
            self.collect()

    def send(self, message: dict[str, str]) -> None:
        """Say something."""
        text = json.dumps(message).encode()
        self.sock.sendall(frame(TEXT, text) if self.kind.startswith("ws") else text + b"\n")

    def collect(self) -> None:
        """Take what has come, and split it into messages."""
        try:
            data = self.sock.recv(65536)
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        if not data:
            raise EOFError(f"{self.name} was closed")
        self.buffer += data
        take = self._take_frame if self.kind.startswith("ws") else self._take_line
        while (message := take()) is not None:
            self.heard.append(json.loads(message))

    def _take_line(self) -> bytes | None:
        line, newline, rest = self.buffer.partition(b"\n")
        if newline:
            self.buffer = rest
            return line
        return None

    def _take_frame(self) -> bytes | None:
        if len(self.buffer) < 2:
            return None
        size, start = self.buffer[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(self.buffer[2:start], "big")
        if len(self.buffer) < start + size:
            return None
        payload, opcode = self.buffer[start : start + size], self.buffer[0]
        self.buffer = self.buffer[start + size :]
        assert opcode in (0x81, 0x89), opcode
        return payload if opcode == 0x81 else self._take_frame()


class Crowd:
    """Users who all listen at the same time, in one thread of their own."""

    def __init__(self, users: list[User]) -> None:
        self.users = users
        self.failure: BaseException | None = None
        self._selector = selectors.DefaultSelector()
        for user in users:
            user.sock.setblocking(False)
            self._selector.register(user.sock, selectors.EVENT_READ, user)
        self._ending = False
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Crowd:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending = True
        self._thread.join()
        self._selector.close()

    def _listen(self) -> None:
        try:
            while not self._ending:
                for key, _ in self._selector.select(0.05):
                    user: User = key.data
                    user.collect()
                    while isinstance(user.sock, ssl.SSLSocket) and user.sock.pending():
                        user.collect()
        except BaseException as error:  # for the test to raise
            self.failure = error

    def have_all_heard(self, speaker: str, count: int) -> bool:
        """Say whether everybody has so many messages of a speaker's."""
        if self.failure:
            raise self.failure
        return all(sum(m.get("from") == speaker for m in user.heard) >= count for user in self.users)


def stalled_in_mid_record(program: Program) -> HandTLS:
    """A wss user who has sent half a TLS record, and never reads again."""
    client = HandTLS(program.address, sock=narrow(program.address))
    client.handshake()
    client.sock.sendall(client.encrypt(upgrade_request(program.address, "/chat")))
    client.receive_until(b"\r\n\r\n")
    client.sock.sendall(client.encrypt(frame(TEXT, b'{"type":"login","name":"stalled"}')))
    client.receive_until(b"welcome")
    client.sock.sendall(client.encrypt(frame(TEXT, b'{"type":"say","text":"never whole"}'))[:20])
    return client


def who_never_reads(program: Program, kind: str = "ws") -> socket.socket:
    """A user who never reads again."""
    sock, login = narrow(program.address, tls=kind in ("wss", "tcps")), b'{"type":"login","name":"deaf"}'
    if kind.startswith("ws"):
        upgraded(sock, program.address, "/chat").sendall(frame(TEXT, login))
    else:
        sock.sendall(login + b"\n")
    received = b""
    while b"welcome" not in received:
        received += sock.recv(1)
    return sock


def test_three_hundred_users_hear_everything_in_order_while_two_do_not_read(room: Program) -> None:
    """The others get every message, in the order sent and without delay; the two who don't drain their
    backlog are dropped when it is full, and the room is told."""
    with unharmed(room, growth=64 * 2**20):
        batches = [
            lambda start=start: [
                User(room, KINDS[number % 4], f"user{number}") for number in range(start, start + USERS // 6)
            ]
            for start in range(0, USERS, USERS // 6)
        ]
        users = [user for batch in all_at_once(*batches) for user in batch]
        deaf, stalled = who_never_reads(room), stalled_in_mid_record(room)
        speaker = WebSocket(room.address, "/chat", tls=True, source="127.0.0.21")
        speaker.send({"type": "login", "name": "speaker"})
        with Crowd(users) as crowd, speaker, deaf, stalled:
            while speaker.receive_json()["type"] != "welcome":
                pass
            slowest, left, count = 0.0, set(), 0
            text = "x" * 19_000
            end = time.monotonic() + 30
            while left != {"deaf", "stalled"} or count < 20:
                assert time.monotonic() < end, f"still in the room: {left}"
                since = time.monotonic()
                speaker.send({"type": "say", "text": f"{count:04} {text}"})
                count += 1
                while (heard := speaker.receive_json())["type"] != "said":
                    assert heard["type"] == "left", heard
                    left.add(heard["name"])
                assert heard["text"].startswith(f"{count - 1:04} ")
                slowest = max(slowest, time.monotonic() - since)
            wait_until(lambda: crowd.have_all_heard("speaker", count), f"all {count} messages heard", 20)
            for user in users:
                numbers = [int(str(m["text"])[:4]) for m in user.heard if m.get("from") == "speaker"]
                assert numbers == list(range(count)), (user.name, user.kind)
            assert slowest < 2, f"the speaker waited {slowest:.2f} s for an echo among {USERS}"
            others_are_served(room)
        for user in users:
            user.sock.close()


def test_many_speakers_at_once_are_heard_in_the_order_of_each(room: Program) -> None:
    """Twelve users of four kinds speak at the same time: all hear all, each speaker's words in order."""
    count, speakers = 60, [f"{kind}{number}" for kind in KINDS for number in range(3)]
    with unharmed(room):
        users = [User(room, name[:-1], name) for name in speakers]
        with Crowd(users) as crowd:

            def speak(user: User) -> Callable[[], None]:
                def send_all() -> None:
                    for number in range(count):
                        message = {"type": "say", "text": f"{number:03}"}
                        payload = json.dumps(message).encode()
                        data = frame(TEXT, payload) if user.kind.startswith("ws") else payload + b"\n"
                        user.sock.sendall(data)

                return send_all

            plain = [user for user in users if user.kind in ("ws", "tcp")]
            for user in plain:
                user.sock.settimeout(10)  # the crowd reads only what is readable: it doesn't block
            all_at_once(*(speak(user) for user in plain))
            for user in plain:
                wait_until(lambda user=user: crowd.have_all_heard(user.name, count), user.name)
                for listener in users:
                    said = [m["text"] for m in listener.heard if m.get("from") == user.name]
                    assert said == [f"{number:03}" for number in range(count)]
        for user in users:
            user.sock.close()


def test_a_room_full_of_leavers_leaves_nothing_behind(room: Program) -> None:
    """Users who vanish while everybody talks are struck off, whatever their kind, and the others go on."""
    with unharmed(room):
        for round_ in range(2):
            users = [User(room, KINDS[number % 4], f"r{round_}n{number}") for number in range(24)]
            for user in users:
                user.send({"type": "say", "text": "x" * 5000})
            for user in users[1:]:
                user.sock.close()  # unread messages: a reset
            while {"type": "left", "name": users[-1].name} not in users[0].heard:
                users[0].collect()
            users[0].send({"type": "who"})
            while users[0].heard[-1]["type"] != "users" or users[0].heard[-1]["users"] != [
                {"name": users[0].name, "kind": users[0].kind}
            ]:
                users[0].send({"type": "who"})
                users[0].collect()
            users[0].sock.close()


def test_a_client_that_never_reads_holds_up_no_speaker_whatever_its_kind(room: Program) -> None:
    """Each kind is dropped once its backlog is full, while the speaker goes on."""
    for kind in KINDS:
        with unharmed(room), who_never_reads(room, kind), WebSocket(room.address, "/chat") as speaker:
            speaker.send({"type": "login", "name": "speaker"})
            speaker.receive()
            text, end = "y" * 19_000, time.monotonic() + 10
            while True:
                speaker.send({"type": "say", "text": text})
                heard = speaker.receive_json()
                if heard == {"type": "left", "name": "deaf"}:
                    break
                assert heard["type"] == "said" and time.monotonic() < end, heard["type"]
