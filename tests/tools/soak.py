#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A long run of clients of all kinds that come, talk, break and go at random, and a look at what is left.

    python tests/tools/soak.py --minutes 5 [--seed 1] [--users 24]

It starts the server, warms it up, and notes threads, descriptors and memory. Then the users do as they like.
At the end all of them go, and the three figures must be back where they were; the log must hold no traceback,
a fresh client of each kind must be served, and SIGTERM must end the server with status 0. The exit status is
0 if all of that holds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]

from support import (  # noqa: E402
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Deflating,
    HandTLS,
    Native,
    Program,
    WebSocket,
    connect,
    deflate,
    frame,
    get,
    narrow,
    others_are_served,
    reset,
    upgrade_request,
    upgraded,
)

SPARE_MEMORY = 40 * 2**20  # bytes by which the process may have grown: arenas of threads that are gone
LIMIT = 200_000  # --max-message


class User(threading.Thread):
    """Somebody who does one random thing after the other. What he expects and doesn't get is a failure."""

    def __init__(self, program: Program, seed: str, ending: threading.Event) -> None:
        super().__init__(daemon=True)
        self.program, self.address, self.ending = program, program.address, ending
        self.chance = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.doing = ""
        self._deeds: list[Callable[[], None]] = [
            self.echo, self.echo, self.echo, self.chat, self.chat, self.lines, self.lines, self.fetch,
            self.watch, self.pack, self.break_frame, self.too_big, self.bomb, self.go_silent,
            self.stop_halfway, self.reset_at_once, self.reset_while_sent_to, self.throw_garbage,
            self.never_read, self.half_a_record, self.half_close,
        ]  # fmt: skip

    def run(self) -> None:
        """Do things until the end."""
        while not self.ending.is_set():
            deed = self.chance.choice(self._deeds)
            self.doing = deed.__name__
            try:
                deed()
            except Exception as error:
                self.failures.append(f"{deed.__name__}: {type(error).__name__} {error}"[:300])
            self.done[deed.__name__] += 1

    def _tls(self) -> bool:
        return self.chance.random() < 0.5

    # ---- well-behaved: any failure counts

    def echo(self) -> None:
        """A WebSocket client that talks."""
        with WebSocket(self.address, tls=self._tls()) as client:
            for _ in range(self.chance.randint(1, 30)):
                message = self.chance.randbytes(self.chance.choice((1, 100, 5000, 150_000)))
                assert client.ask(message) == message
            client.sock.sendall(frame(CLOSE, b"\x03\xe8"))
            assert client.receive_close()[0] == 1000

    def pack(self) -> None:
        """One that compresses."""
        with Deflating(self.address, tls=self._tls()) as client:
            for number in range(self.chance.randint(1, 10)):
                text = f"{number} again and again " * self.chance.randint(1, 500)
                client.sock.sendall(frame(TEXT, zipped := deflate(text.encode()), rsv=4))
                assert client.receive() == text, len(zipped)

    def chat(self) -> None:
        """A user of the room, who hears himself among all the others."""
        name = f"{self.name}-{self.chance.getrandbits(32):x}"
        with WebSocket(self.address, "/chat", tls=self._tls()) as client:
            client.send({"type": "login", "name": name})
            assert client.receive_json()["type"] == "welcome"
            for number in range(self.chance.randint(1, 15)):
                client.send({"type": "say", "text": f"{number}"})
                while True:
                    heard = client.receive_json()
                    if heard.get("from") == name:
                        assert heard["text"] == f"{number}"
                        break

    def lines(self) -> None:
        """A native client."""
        name = f"{self.name}-{self.chance.getrandbits(32):x}"
        with Native(self.address, tls=self._tls()) as client:
            client.send({"type": "login", "name": name})
            assert client.receive_json()["type"] == "welcome"
            client.send({"type": "who"})
            while (heard := client.receive_json())["type"] != "users":
                pass
            assert name in [user["name"] for user in heard["users"]]

    def fetch(self) -> None:
        """A browser that fetches the page."""
        assert get(self.address, self.chance.choice(("/", "/index.js")), tls=self._tls())[0] in (200, 404)

    def watch(self) -> None:
        """A watcher of the server's window."""
        with WebSocket(self.address, "/monitor", tls=self._tls()) as client:
            assert client.receive_json()["type"] == "snapshot"
            client.send({"type": "watch", "id": self.chance.randint(1, 1000)})
            for _ in range(self.chance.randint(1, 50)):
                _, _, opcode, payload = client.receive_frame()
                if opcode == PING:
                    client.sock.sendall(frame(PONG, payload))
                if self.ending.is_set():
                    break

    def half_close(self) -> None:
        """One who says his last word first, and then listens."""
        with connect(self.address) as sock:
            sock.sendall(upgrade_request(self.address) + frame(TEXT, b"last") + frame(CLOSE))
            sock.shutdown(socket.SHUT_WR)
            data = b""
            while more := sock.recv(65536):
                data += more
            assert b"\x81\x04last\x88\x00" in data, data[-100:]

    # ---- ill-behaved: whatever comes back is fine, as long as it comes

    def break_frame(self) -> None:
        """A frame that breaks a rule."""
        bad = [frame(TEXT, b"\xff"), frame(3, b""), frame(TEXT, b"x", mask=b""), frame(PING, b"x" * 126),
               frame(CONTINUATION, b"x"), frame(CLOSE, b"\x03"), frame(TEXT, b"x", rsv=2)]  # fmt: skip
        with WebSocket(self.address, tls=self._tls()) as client:
            client.sock.sendall(self.chance.choice(bad))
            assert client.receive_close()[0] in (1002, 1007)

    def too_big(self) -> None:
        """A message over the limit."""
        gone = contextlib.suppress(ConnectionError, ssl.SSLError)
        with WebSocket(self.address, tls=self._tls()) as client, gone:
            client.sock.sendall(frame(BINARY, bytes(LIMIT + 1)))
            assert client.receive_close()[0] == 1009

    def bomb(self) -> None:
        """A message that inflates to too much."""
        with Deflating(self.address, tls=self._tls()) as client:
            client.sock.sendall(frame(BINARY, deflate(bytes(100 * LIMIT), 9), rsv=4))
            assert client.receive_close()[0] == 1009

    def go_silent(self) -> None:
        """Nothing at all, and then gone."""
        with connect(self.address, tls=self._tls()):
            self.ending.wait(self.chance.random() * 3)

    def stop_halfway(self) -> None:
        """Half a request, hello or line; the server has to end it."""
        halves = (b"G", b"\x16", b"{", b"GET / HTTP/1.1\r\n", b'{"type":', b"\x16\x03\x01\x02\x00\x01")
        with connect(self.address) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(self.chance.choice(halves))
            while sock.recv(4096):
                pass

    def reset_at_once(self) -> None:
        """A reset after some bytes."""
        sock = connect(self.address)
        sock.sendall(self.chance.choice((b"", b"\x16", b"GET /", b"{", upgrade_request(self.address))))
        reset(sock)

    def reset_while_sent_to(self) -> None:
        """A reset with megabytes on their way."""
        sock = upgraded(connect(self.address, tls=self._tls()), self.address)
        sock.sendall(frame(BINARY, bytes(150_000)) * 5)
        sock.recv(1)
        reset(sock)

    def throw_garbage(self) -> None:
        """Random bytes."""
        with connect(self.address, source=f"127.0.1.{self.chance.randint(1, 250)}") as sock:
            with contextlib.suppress(ConnectionError):
                begin = self.chance.choice((b"\x16\x03\x01", b"", b"{", b"GET "))
                sock.sendall(begin + self.chance.randbytes(300) + b"\n")
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(4096):
                    pass

    def never_read(self) -> None:
        """A client that sends and never reads, for a while."""
        with narrow(self.address, tls=self._tls()) as sock:
            upgraded(sock, self.address)
            sock.settimeout(1)
            with contextlib.suppress(OSError):
                for _ in range(50):
                    sock.sendall(frame(BINARY, bytes(100_000)))

    def half_a_record(self) -> None:
        """A user of the room who stalls in the midst of a TLS record, and goes."""
        with HandTLS(self.address) as client:
            client.handshake()
            client.sock.sendall(client.encrypt(upgrade_request(self.address, "/chat")))
            client.receive_until(b"\r\n\r\n")
            name = f"{self.name}-{self.chance.getrandbits(32):x}"
            login = json.dumps({"type": "login", "name": name})
            client.sock.sendall(client.encrypt(frame(TEXT, login.encode())))
            client.receive_until(b"welcome")
            client.sock.sendall(client.encrypt(frame(TEXT, b"never whole"))[:15])
            self.ending.wait(self.chance.random() * 3)


class Figures:
    """Threads, descriptors and memory of the server at one moment."""

    def __init__(self, program: Program) -> None:
        self.threads, self.descriptors = program.threads(), program.descriptors()
        self.memory = program.memory()

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.descriptors} descriptors, {self.memory / 2**20:.1f} MiB"

    def is_back_at(self, before: Figures) -> bool:
        """Say whether nothing was left behind."""
        return (
            self.threads <= before.threads
            and self.descriptors <= before.descriptors
            and self.memory <= before.memory + SPARE_MEMORY
        )


def let_loose(program: Program, seed: str, users: int, seconds: float) -> list[User]:
    """Have a crowd of users do what it likes for some time; return them when all have gone."""
    ending = threading.Event()
    crowd = [User(program, f"{seed}/{number}", ending) for number in range(users)]
    for user in crowd:
        user.start()
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(15.0, left))
        print(f"  {max(0.0, end - time.monotonic()):5.0f} s left: {Figures(program)}", flush=True)
        if program.process.poll() is not None:
            break
    ending.set()
    for user in crowd:
        user.join(60)
    return crowd


def settled(program: Program, before: Figures | None = None) -> Figures:
    """The figures, after the last connection had the time to end."""
    end = time.monotonic() + 20
    figures = Figures(program)
    while time.monotonic() < end:
        time.sleep(0.5)
        figures = Figures(program)
        if figures.is_back_at(before) if before else figures.threads <= 2:
            break
    return figures


def main() -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(description="clients that come, talk, break and go at random")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", default=str(random.randrange(10**6)))
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument("--log", type=Path, help="a file for the server to tell every step in (only faults)")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.users} users, {options.minutes:g} minutes", flush=True)
    log = options.log or Path(tempfile.mkdtemp(prefix="wsdual-soak-")) / "server.log"
    flags = ["--max-message", str(LIMIT), "--handshake-timeout", "8"]
    flags += ["-v"] if options.log else []
    program = Program(*flags, log=log)
    failures: list[str] = []
    try:
        let_loose(program, f"{options.seed}/warm-up", options.users, min(15.0, options.minutes * 15))
        before = settled(program)
        print(f"before: {before}", flush=True)
        crowd = let_loose(program, options.seed, options.users, options.minutes * 60)
        after = settled(program, before)
        print(f"after:  {after}")
        deeds = sum((user.done for user in crowd), Counter[str]())
        print("done:   " + ", ".join(f"{name} {count}" for name, count in sorted(deeds.items())))
        if not after.is_back_at(before):
            failures.append(f"something was left behind: {before}, then {after}")
        failures += [failure for user in crowd for failure in user.failures]
        failures += [f"{user.name} hangs in {user.doing}" for user in crowd if user.is_alive()]
        others_are_served(program)
    finally:
        status = program.end()
    if status != 0:
        failures.append(f"the server ended with status {status}")
    if "Traceback" in program.log():
        failures.append(f"a traceback in {log}")
    for failure, count in Counter(failures).most_common(20):
        print(f"FAILED {count} x {failure}")
    print("FAILED" if failures else "passed")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
