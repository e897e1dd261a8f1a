# SPDX-License-Identifier: MIT
"""The README's recipes: each block is taken from the page, run as it stands, and talked to."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from readme import blocks
from support import *

from wsdual import Limits

COVERS = (
    "A 10-line echo",
    "A push server",
    "A chat with rooms",
    "Another thread, or asyncio, wants to send",
    "Behind systemd",
    "Behind a reverse proxy",
    "With Let's Encrypt",
    "In production",
)
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the recipes are run as on a POSIX system")

LIVE = "/etc/letsencrypt/live/chat.example.org"
PUBLIC = "chat.example.org"


def find(name: str) -> str:
    """The path of a system's program; skip where there is none."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"no {name} here")
    return path


class Running:
    """A process, with the lines that it prints; stderr goes in among them."""

    def __init__(self, command: list[str], folder: Path, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command, cwd=folder, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def listening(self) -> bool:
        """Say whether it takes connections."""
        assert self.process.poll() is None, self.lines
        with contextlib.suppress(OSError), connect(self.address):
            return True
        return False

    def has_printed(self, what: str) -> bool:
        """Say whether it has printed this."""
        return self.count(what) > 0

    def count(self, what: str) -> int:
        """How often it has printed this. (Threads that print at the same time may share a line.)"""
        return "\n".join(self.lines).count(what)

    def end(self, how: int) -> int:
        """Send a signal (0: none); return the status, when all that it printed has been read."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@contextlib.contextmanager
def started(command: list[str], folder: Path, port: int, how: int = signal.SIGINT) -> Iterator[Running]:
    """A process while it runs; no traceback but Ctrl-C's own comes from it."""
    process = Running(command, folder, port)
    try:
        wait_until(process.listening, process.lines)
        yield process
    finally:
        process.end(how)
    found = [number for number, line in enumerate(process.lines) if line.startswith("Traceback")]
    assert not found or (len(found) == 1 and process.lines[-1] == "KeyboardInterrupt"), process.lines


def own(heading: str, folder: Path) -> contextlib.AbstractContextManager[Running]:
    """A recipe's Python program, written to the file that its first line names, and run."""
    (block,) = blocks(heading, "python")
    port = free_port()
    name = block.text.splitlines()[0].removeprefix("# ")
    assert re.fullmatch(r"\w+\.py", name), block
    text = block.text.replace("4530", str(port))
    assert text != block.text, f"{block}: it listens on port 4530"
    (folder / name).write_text(text)
    return started([sys.executable, name], folder, port)


def command(text: str, port: int, **changes: str) -> list[str]:
    """A command line of the README's that starts wsdual.py, as a list; changes: of words in it."""
    words = shlex.split(text)
    assert words[:2] == [".venv/bin/python", "wsdual.py"], text
    words = [changes.get(word, word) for word in words]
    return [sys.executable, str(REPO / "wsdual.py"), *words[2:], "--port", str(port)]


def shell(text: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a block as a reader would, who has a virtual environment."""
    text = text.replace(".venv/bin/python", shlex.quote(sys.executable))
    return subprocess.run(
        ["sh", "-e", "-c", text], cwd=folder, env={**os.environ, **env},
        capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def shown(address: tuple[str, int]) -> bytes:
    """The certificate that a fresh client is shown."""
    with connect(address, tls=any_tls()) as sock:
        return sock.getpeercert(True)  # type: ignore[attr-defined, no-any-return]


def refused(address: tuple[str, int], path: str, tls: bool = False, **headers: str) -> int:
    """The status of an upgrade that is not granted."""
    with connect(address, tls=tls) as sock:
        sock.sendall(upgrade_request(address, path, **headers))
        return int(sock.recv(65536).split()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the modules, and the certificate that the first recipe makes."""
    folder = tmp_path_factory.mktemp("recipes")
    for name in ("wsdual.py", "cert_tool.py"):
        shutil.copy(REPO / name, folder)
    made = shell(blocks("A 10-line echo", "sh")[0].text, folder)
    assert made.returncode == 0, made.stderr
    assert {"local.pfx", "local.crt"} <= set(os.listdir(folder)), made.stdout
    return folder


@pytest.fixture(scope="module")
def echo(folder: Path) -> Iterator[Running]:
    """The echo of the first recipe, for several tests."""
    with own("A 10-line echo", folder) as echo:
        yield echo


# ---------------------------------------------------------------- A 10-line echo


def test_the_echo_has_ten_lines_and_answers_every_kind_of_client(echo: Running, folder: Path) -> None:
    assert len(blocks("A 10-line echo", "python")[0].text.splitlines()) == 10
    trusting = ssl.create_default_context(cafile=str(folder / "local.crt"))
    for tls in (False, trusting):
        with WebSocket(echo.address, "/", tls=tls) as client:
            assert client.ask("hi") == "hi"
            assert client.ask(b"\0\xff") == b"\0\xff"
    for tls in (False, True):
        with Native(echo.address, tls=tls) as native:
            native.send("{native}")
            assert native.receive() == "{native}"
    assert get(echo.address)[0] == 404, "no page"
    assert refused(echo.address, "/monitor") == 404, "no monitor"


def test_the_echo_answers_the_line_that_nc_sends(echo: Running, folder: Path) -> None:
    if "OpenBSD" not in subprocess.run([find("nc"), "-h"], capture_output=True, text=True).stderr:
        pytest.skip("another nc than OpenBSD's")
    block = blocks("A 10-line echo", "sh")[2]
    result = shell(block.text.replace("4530", str(echo.address[1])), folder)
    assert result.stdout == blocks("A 10-line echo", "text")[0].text


def test_the_echo_answers_the_client_in_javascript_that_trusts_its_certificate(
    echo: Running, folder: Path
) -> None:
    node = find("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
    major, minor = map(int, version.strip().lstrip("v").split(".")[:2])
    if (major, minor) < (20, 10):
        pytest.skip("this node has no WebSocket")
    flags = " --experimental-websocket" if major < 22 else ""
    (block,) = blocks("A 10-line echo", "js")
    (folder / "client.js").write_text(block.text.replace("4530", str(echo.address[1])))
    command = blocks("A 10-line echo", "sh")[1].text
    assert command.endswith(" node client.js\n")
    result = shell(command.replace(" node", f" node{flags}"), folder, NODE_NO_WARNINGS="1")
    assert result.stdout == "hello\n", result.stderr
    distrusting = shell(f"node{flags} client.js", folder, NODE_NO_WARNINGS="1")
    assert distrusting.stdout == "no connection: does it trust the certificate?\n", distrusting.stderr


def test_ctrl_c_ends_a_program_of_ones_own_and_its_clients_get_1001(folder: Path) -> None:
    with own("A 10-line echo", folder) as echo:
        with WebSocket(echo.address, "/") as client:
            client.ask("hi")
            echo.process.send_signal(signal.SIGINT)
            assert client.receive_close()[0] == 1001
            client.sock.sendall(frame(CLOSE, (1001).to_bytes(2, "big")))
        assert echo.end(0) == -signal.SIGINT
        assert echo.lines[-1] == "KeyboardInterrupt"


# ---------------------------------------------------------------- A push server


def test_the_push_server_drops_a_slow_client_and_the_others_get_every_tick_in_time(folder: Path) -> None:
    expected = blocks("A push server", "text")[0].text.splitlines()
    with own("A push server", folder) as push, WebSocket(push.address, "/", tls=True) as reader:
        numbers = [int(str(reader.receive()).split()[1])]
        slow = upgraded(narrow(push.address), push.address, "/")
        last = time.monotonic()
        with contextlib.closing(slow):
            while len(push.lines) < len(expected):
                numbers.append(int(str(reader.receive()).split()[1]))
                assert time.monotonic() - last < 1, "the slow client was waited for"
                last = time.monotonic()
        assert push.lines == expected
        with Native(push.address) as native:
            native.send("{}")
            assert native.receive().startswith("tick ")
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "a tick was missed"


def test_the_two_clients_of_the_push_recipe_connect(folder: Path) -> None:
    """Until one of them is dropped it takes some ten seconds, which the test above does in less."""
    find("nc")
    (block,) = blocks("A push server", "sh")
    with own("A push server", folder) as push:
        text = block.text.replace("4530", str(push.address[1]))
        with subprocess.Popen(["sh", "-c", text], start_new_session=True, stdin=subprocess.DEVNULL) as both:
            try:
                wait_until(lambda: push.has_printed("2 peers"), push.lines)
            finally:
                os.killpg(both.pid, signal.SIGKILL)
        assert push.lines[:2] == blocks("A push server", "text")[0].text.splitlines()[:2]


def test_the_backlog_has_the_bound_that_the_push_recipe_tells() -> None:
    assert Limits(message=32 * 1024).backlog == 2 * 32 * 1024 + 64 * 1024 == 128 * 1024
    assert Limits().handshake == 5


# ---------------------------------------------------------------- A chat with rooms


@pytest.fixture(scope="module")
def rooms(folder: Path) -> Iterator[Running]:
    """The chat with rooms; each test uses rooms of its own."""
    with own("A chat with rooms", folder) as rooms:
        yield rooms


def test_the_rooms_hear_each_their_own_and_clients_of_all_kinds_are_in_one_room(rooms: Running) -> None:
    with contextlib.ExitStack() as stack:
        ann = stack.enter_context(WebSocket(rooms.address, "/"))
        ann.send({"join": "physics", "name": "ann"})
        ann.send("hi")
        seen = "".join(f"{ann.receive()}\n" for _ in range(2))
        assert seen == blocks("A chat with rooms", "text")[0].text
        dee = stack.enter_context(WebSocket(rooms.address, "/", tls=True))
        dee.send({"join": "art", "name": "ann"})
        assert dee.receive_json()["here"] == ["ann"], "the same name, in another room"
        bob = stack.enter_context(WebSocket(rooms.address, "/", tls=True))
        bob.send({"join": "physics", "name": "bob"})
        assert bob.receive_json() == ann.receive_json() == {"joined": "bob", "here": ["ann", "bob"]}
        with Native(rooms.address, tls=True) as cal:
            cal.send({"join": "physics", "name": "cal"})
            assert cal.receive_json()["here"] == ["ann", "bob", "cal"]
            cal.send("any line")
            assert cal.receive_json() == {"name": "cal", "text": "any line"}
        heard = [[peer.receive_json() for _ in range(3)] for peer in (ann, bob)]
        assert heard[0] == heard[1] and heard[0][-1] == {"left": "cal"}
        with WebSocket(rooms.address, "/") as again:
            again.send({"join": "physics", "name": "cal"})
            assert again.receive_json()["here"] == ["ann", "bob", "cal"], "the name was free again"
        dee.send("alone")
        assert dee.receive_json() == {"name": "ann", "text": "alone"}, "nothing from physics came before"


def test_rooms_may_be_paths_and_the_peer_tells_which(tmp_path: Path) -> None:
    with serving({"/room/": lambda peer: peer.send(peer.path)}) as server:
        with WebSocket(address_of(server), "/room/art") as client:
            assert client.receive() == "/room/art"


def test_the_rooms_refuse_a_bad_first_message_and_a_name_in_use(rooms: Running) -> None:
    with WebSocket(rooms.address, "/") as ann:
        ann.send({"join": "maths", "name": "ann"})
        ann.receive()
        with WebSocket(rooms.address, "/") as other:
            other.send({"join": "maths", "name": "ann"})
            assert other.receive_close() == (1008, "somebody in this room has that name")
        for bad in ("hi", "[]", "7", "{}", '{"join": "maths"}', "[" * 100_000, b"\xff"):
            with WebSocket(rooms.address, "/") as other:
                other.send(bad)
                assert other.receive_close()[0] == 1008, bad[:20]
        with Native(rooms.address) as native:
            native.send("{}")
            told = native.receive_json()
            assert told["type"] == "error" and set(told) == {"type", "reason"}
        ann.send("still here")
        assert ann.receive_json()["text"] == "still here", "none of them was in the room"
        assert WebSocket(rooms.address, "/").sock.close() is None  # one who goes without a word


# ---------------------------------------------------------------- Another thread, or asyncio, wants to send


def test_a_thread_and_a_coroutine_send_until_the_client_is_gone(folder: Path) -> None:
    with own("Another thread, or asyncio, wants to send", folder) as program:
        with Native(program.address) as native, WebSocket(program.address, "/", tls=True) as client:
            native.send('{"a": "job"}')
            wait_until(lambda: native.receive() == 'thread: {"a": "job"} is done')
            wait_until(lambda: native.receive().startswith("asyncio: "))
            assert [client.receive() for _ in range(2)] == ["asyncio: 0", "asyncio: 1"]
            client.send("sums")
            wait_until(lambda: client.receive() == "thread: sums is done")
            client.send("more sums")
            client.sock.sendall(frame(CLOSE, (1000).to_bytes(2, "big")))
        wait_until(lambda: program.count("gone: the coroutine ends") == 2, program.lines)
        wait_until(lambda: program.has_printed("gone: the work was in vain"), program.lines)


# ---------------------------------------------------------------- Behind systemd


def unit_settings() -> dict[str, str]:
    """The unit's settings; each stands there once but After= and the like."""
    text = blocks("Behind systemd", "ini")[0].text.replace("\\\n", " ")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_the_unit_passes_systemd_analyze_verify(tmp_path: Path) -> None:
    text = blocks("Behind systemd", "ini")[0].text
    text = text.replace("/opt/wsdual/.venv/bin/python", sys.executable)  # that it's there is checked, too
    unit = tmp_path / "wsdual.service"
    unit.write_text(text)
    result = subprocess.run(
        [find("systemd-analyze"), "verify", "--man=no", str(unit)],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert (result.returncode, result.stderr + result.stdout) == (0, "")


def pem_files(folder: Path, identity: Identity) -> None:
    """Write a certificate and its key as certbot names them."""
    (folder / "fullchain.pem").write_bytes(identity.pem())
    (folder / "privkey.pem").write_bytes(identity.key_pem())


def test_the_unit_s_command_serves_and_stops(tmp_path: Path) -> None:
    settings, port, identity = unit_settings(), free_port(), make_identity(PUBLIC)
    pem_files(tmp_path, identity)
    line = settings["ExecStart"].replace("/opt/wsdual/", "").replace("/etc/wsdual/", f"{tmp_path}/")
    start = command(line, port, **{"::": "127.0.0.1", "443": str(port)})
    with started(start, tmp_path, port, signal.SIGTERM) as program:
        assert shown(program.address) == identity.der()
        with WebSocket(program.address) as client:
            client.ask("hi")  # so that its application runs by now
            program.process.send_signal(signal.SIGTERM)
            assert client.receive_close()[0] == 1001
        assert program.end(0) == 0


def test_without_a_certificate_sighup_ends_the_program(tmp_path: Path) -> None:
    port = free_port()
    with started([sys.executable, str(REPO / "wsdual.py"), "--port", str(port)], tmp_path, port) as program:
        assert program.end(signal.SIGHUP) == 0


def test_sigterm_ends_a_program_of_ones_own_without_a_goodbye(folder: Path) -> None:
    with own("A 10-line echo", folder) as echo, WebSocket(echo.address, "/") as client:
        client.ask("hi")
        assert echo.end(signal.SIGTERM) == -signal.SIGTERM
        assert client.sock.recv(100) == b""


def test_the_unit_has_room_for_the_clients_that_the_program_takes() -> None:
    settings = unit_settings()
    assert int(settings["TasksMax"]) > Limits().clients + 50 + 100


# ---------------------------------------------------------------- Behind a reverse proxy


def proxied(heading: str, name: str, tmp_path: Path, backend: int) -> tuple[list[str], int]:
    """The command that runs a proxy with the README's configuration, and its port.

    name: a word that tells the block. Changed are the ports, the paths of the certificate, and what keeps
    an unprivileged process in a folder of its own.
    """
    (block,) = (b for b in blocks(heading) if b.language in ("nginx", "haproxy") and name in b.text)
    port = free_port()
    identity = make_identity(PUBLIC)
    pem_files(tmp_path, identity)
    (tmp_path / "both.pem").write_bytes(identity.pem() + identity.key_pem())
    text = block.text.replace("4530", str(backend)).replace(LIVE, str(tmp_path))
    text = text.replace(f"/etc/haproxy/{PUBLIC}.pem", str(tmp_path / "both.pem"))
    text = re.sub(r"(listen +|bind +:)443", lambda m: f"{m[1].rstrip(':')}127.0.0.1:{port}", text)
    assert str(port) in text and str(backend) in text, block
    text = text.replace("60s", "2500ms")  # longer than the interval of pings that the tests set
    path = tmp_path / f"{block.language}.conf"
    if block.language == "haproxy":
        path.write_text(text)
        return [find("haproxy"), "-db", "-f", str(path)], port
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    head = f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
    if text.startswith("stream"):
        find("nginx")
        if not module.exists():
            pytest.skip("this nginx has no stream module, or has it elsewhere")
        text = f"load_module {module};\n{head}events {{}}\n{text}"
    else:
        places = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};\n"
            for kind in "client_body proxy fastcgi uwsgi scgi".split()
        )
        text = f"{head}events {{}}\nhttp {{\naccess_log off;\n{places}{text}}}\n"
    path.write_text(text)
    return [find("nginx"), "-e", f"{tmp_path}/error.log", "-p", str(tmp_path), "-c", str(path)], port


@contextlib.contextmanager
def behind(
    name: str, tmp_path: Path, start: Callable[[int], contextlib.AbstractContextManager[Running]]
) -> Iterator[tuple[str, int]]:
    """The address of a proxy with a server behind it, both running."""
    backend = free_port()
    proxy, port = proxied("Behind a reverse proxy", name, tmp_path, backend)
    with start(backend), started(proxy, tmp_path, port, signal.SIGTERM) as process:
        yield process.address


def public_program(tmp_path: Path) -> Callable[[int], contextlib.AbstractContextManager[Running]]:
    """The program, as the recipe starts it."""
    (block,) = blocks("Behind a reverse proxy", "sh")

    def start(port: int) -> contextlib.AbstractContextManager[Running]:
        return started([*command(block.text, port), "--ping-interval", "1"], tmp_path, port)

    return start


PROXIES = ["proxy_set_header", "http-request"]
PASSES = ["stream", "mode tcp"]


@pytest.mark.parametrize("name", PROXIES)
def test_behind_a_proxy_the_public_page_gets_in_and_strangers_do_not(name: str, tmp_path: Path) -> None:
    with behind(name, tmp_path, public_program(tmp_path)) as address:
        page = {"Host": PUBLIC, "Origin": f"https://{PUBLIC}"}
        with WebSocket(address, "/chat", tls=True, **page) as client:
            client.send({"type": "login", "name": "ann"})
            assert client.receive_json()["kind"] == "ws", "the proxy has done the TLS"
        status, _, body = http(
            address, f"GET / HTTP/1.1\r\nHost: {PUBLIC}\r\nConnection: close\r\n\r\n", tls=True
        )
        assert status == 200 and b"<html" in body
        for host in (PUBLIC, "localhost", "127.0.0.1"):
            for path in ("/monitor", "/%6donitor", "/monitor?x", "/./monitor", "//monitor"):
                assert refused(address, path, True, Host=host) in (400, 403, 404), (host, path)
        for origin in ("null", "file://", "https://evil.example"):
            assert refused(address, "/chat", True, Host=PUBLIC, Origin=origin) == 403, origin


def test_pings_keep_a_silent_connection_alive_through_each_proxy(tmp_path: Path) -> None:
    backend = free_port()
    with contextlib.ExitStack() as stack:
        stack.enter_context(public_program(tmp_path)(backend))
        clients = []
        for name in PROXIES:
            folder = tmp_path / name
            folder.mkdir()
            proxy, port = proxied("Behind a reverse proxy", name, folder, backend)
            process = stack.enter_context(started(proxy, folder, port, signal.SIGTERM))
            clients.append(stack.enter_context(WebSocket(process.address, "/echo", tls=True, Host=PUBLIC)))
        for _ in range(3):  # 3 s; the time-out in these configurations is 2.5 s
            for client in clients:
                assert client.receive_frame()[2] == PING
                client.sock.sendall(frame(PONG))
        for client in clients:
            client.send("still here?")
            assert client.next_but_pings()[2:] == (TEXT, b"still here?")


@pytest.mark.parametrize("name", PROXIES)
def test_each_of_the_two_lines_keeps_strangers_from_the_monitor_by_itself(name: str, tmp_path: Path) -> None:
    port = free_port()
    start = public_program(tmp_path)
    without = {"proxy_set_header": r".*location = /monitor.*\n", "http-request": r".*url_dec.*\n"}[name]
    proxy, proxy_port = proxied("Behind a reverse proxy", name, tmp_path, port)
    path = next(tmp_path.glob("*.conf"))
    text = path.read_text()
    with start(port):
        for pattern in (without, r".*[Hh]ost chat\.example\.org.*\n"):
            changed, count = re.subn(pattern, "", text)
            assert count == 1, pattern
            path.write_text(changed)
            with started(proxy, tmp_path, proxy_port, signal.SIGTERM) as process:
                assert refused(process.address, "/monitor", True, Host="localhost") == 403


def test_without_the_origin_flag_the_public_name_is_refused_and_local_names_are_let_in(
    server: Program,
) -> None:
    assert refused(server.address, "/chat", Host=PUBLIC) == 403
    with WebSocket(server.address, "/monitor", Host="localhost"):
        pass  # which is why what the client wrote as Host must not be passed on


@pytest.mark.parametrize("name", PASSES)
def test_through_a_tcp_proxy_every_kind_of_client_gets_in_on_one_port(
    name: str, tmp_path: Path, folder: Path, echo: Running
) -> None:
    proxy, port = proxied("Behind a reverse proxy", name, tmp_path, echo.address[1])
    trusting = ssl.create_default_context(cafile=str(folder / "local.crt"))  # it's the echo's own TLS
    with started(proxy, tmp_path, port, signal.SIGTERM) as process:
        for tls in (False, trusting):
            with WebSocket(process.address, "/", tls=tls) as client:
                assert client.ask("hi") == "hi"
        for tls in (False, True):
            with Native(process.address, tls=tls) as native:
                native.send("{hi}")
                assert native.receive() == "{hi}"
        assert refused(process.address, "/monitor", Host="localhost") == 404, "it has no monitor"


def test_through_a_tcp_proxy_on_the_same_machine_the_program_s_monitor_is_open_and_trial_fails(
    tmp_path: Path,
) -> None:
    def trial(port: int) -> contextlib.AbstractContextManager[Running]:
        flags = ["--detect", "trial", "--port", str(port)]
        return started([sys.executable, str(REPO / "wsdual.py"), *flags], tmp_path, port)

    with behind("mode tcp", tmp_path, trial) as address:
        with WebSocket(address, "/monitor", Host="localhost") as stranger:
            assert stranger.receive_json()["type"] == "snapshot"
        with pytest.raises((OSError, EOFError)):
            connect(address, tls=True)  # the first try of a login over TLS
        with pytest.raises((OSError, EOFError, AssertionError)), WebSocket(address):
            pass  # a plain client, of whatever machine: it is taken for TLS


def test_without_the_monitor_a_local_name_opens_nothing(start: Callable[..., Program]) -> None:
    assert refused(start("--no-monitor").address, "/monitor", Host="localhost") == 404


def test_the_proxy_protocol_is_not_understood(echo: Running) -> None:
    with connect(echo.address) as sock:
        sock.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 53122 443\r\n" + upgrade_request(echo.address, "/"))
        with contextlib.suppress(ConnectionError):
            assert sock.recv(100) == b""


# ---------------------------------------------------------------- With Let's Encrypt


def test_the_program_takes_certbot_s_files_and_their_renewal(tmp_path: Path) -> None:
    served, lineage, port = tmp_path / "served", tmp_path / "lineage", free_port()
    served.mkdir()
    lineage.mkdir()
    old, new, newer = (make_identity(PUBLIC) for _ in range(3))
    pem_files(served, old)
    first, hook = (block.text for block in blocks("With Let's Encrypt", "sh"))
    start = command(first.replace("\\\n", " ").replace(LIVE, str(served)), port)
    with started(start, tmp_path, port) as program, WebSocket(program.address, tls=True) as client:
        assert shown(program.address) == old.der()
        pem_files(lineage, new)
        reload = unit_settings()["ExecReload"].replace("$MAINPID", str(program.process.pid))
        for old_text, new_text in (
            ("-g wsdual-tls", f"-g {os.getgid()}"),
            ("/etc/wsdual/", f"{served}/"),
            ("systemctl reload wsdual", reload),  # what systemd would do
        ):
            assert old_text in hook
            hook = hook.replace(old_text, new_text)
        result = shell(hook, tmp_path, RENEWED_LINEAGE=str(lineage))
        assert result.returncode == 0, result.stderr
        assert (served / "privkey.pem").stat().st_mode & 0o777 == 0o640
        wait_until(lambda: shown(program.address) == new.der(), program.lines)
        pem_files(lineage, newer)
        shutil.copy(lineage / "fullchain.pem", served)  # only one of the two, for now
        program.process.send_signal(signal.SIGHUP)
        said = "the old certificate stays in use"
        wait_until(lambda: shown(program.address) == new.der() and program.has_printed(said), program.lines)
        shutil.copy(lineage / "privkey.pem", served)  # and no signal
        wait_until(lambda: shown(program.address) == newer.der(), program.lines)
        assert client.ask("still here?") == "still here?"
        line = next(line for line in program.lines if "certificate renewed" in line)
        assert shape(line) == shape(blocks("With Let's Encrypt", "text")[0].text.strip())


def shape(line: str) -> str:
    """A line of the log, without what differs from one certificate and one time to the next."""
    line = re.sub(r"SHA-256 +\S+", lambda m: re.sub(r"[0-9A-F:…]+$", "#", m[0]), line)
    return re.sub(r"\d", "0", line)


def test_a_program_of_ones_own_takes_a_new_context_and_keeps_who_is_there(folder: Path) -> None:
    old, new = make_identity("old"), make_identity("new")
    pem_files(folder, old)
    with own("With Let's Encrypt", folder) as program:
        with WebSocket(program.address, "/", tls=True) as client:
            assert shown(program.address) == old.der()
            (folder / "privkey.pem").write_bytes(new.key_pem())  # doesn't belong to the certificate
            wait_until(lambda: client.ask("ready?") == "ready?")
            program.process.send_signal(signal.SIGHUP)
            wait_until(lambda: program.has_printed("the old certificate stays in use: "), program.lines)
            assert shown(program.address) == old.der()
            pem_files(folder, new)
            program.process.send_signal(signal.SIGHUP)
            wait_until(lambda: program.has_printed("certificate renewed"), program.lines)
            assert shown(program.address) == new.der()
            assert client.ask("still here?") == "still here?"


# ---------------------------------------------------------------- In production


def chapter() -> str:
    """The text of the chapter on production."""
    text = (REPO / "README.md").read_text(encoding="utf-8")
    return text.split("\n### In production\n")[1].split("\n## ")[0]


def test_the_flags_and_limits_that_the_table_names_are_there() -> None:
    help_text = subprocess.run(
        [sys.executable, str(REPO / "wsdual.py"), "--help"], capture_output=True, text=True
    ).stdout
    flags = set(re.findall(r"`(--[a-z-]+)", chapter()))
    assert flags and all(flag in help_text for flag in flags), flags
    assert Limits().clients == 1000 and "`--max-clients 1000`" in chapter()
    assert Limits().message == 2**20 and "`--max-message`, 1 MiB (the chat: 64 KiB)" in chapter()


def test_an_application_may_refuse_plain_connections_as_the_chapter_says(tmp_path: Path) -> None:
    (line,) = re.findall(r"`(if peer\.tls is None: [^`]+)`", " ".join(chapter().split()))
    text = blocks("A 10-line echo", "python")[0].text
    changed = text.replace("(peer):\n", f"(peer):\n    {line}\n")
    assert changed != text
    port = free_port()
    (tmp_path / "local.pfx").write_bytes(make_identity("localhost").pfx())
    (tmp_path / "secure.py").write_text(changed.replace("4530", str(port)))
    for name in ("wsdual.py", "cert_tool.py"):
        shutil.copy(REPO / name, tmp_path)
    with started([sys.executable, "secure.py"], tmp_path, port) as program:
        with WebSocket(program.address, "/", tls=True) as client:
            assert client.ask("hi") == "hi"
        with WebSocket(program.address, "/") as client:
            assert client.receive_close() == (1008, "use wss")


def test_one_client_too_many_is_told_as_its_kind_can_hear_it(start: Callable[..., Program]) -> None:
    full = start("--max-clients", "1", "-v")
    with WebSocket(full.address) as client:
        client.ask("hi")
        assert get(full.address)[0] == 503
        with Native(full.address) as native:
            native.send("{}")
            assert "too many clients" in native.receive_json()["reason"]
        with pytest.raises((OSError, EOFError)):
            connect(full.address, tls=True)
        wait_until(lambda: full.log().count("refused why=too many clients") == 3, full.log())


def test_http_is_as_small_as_the_chapter_says(server: Program) -> None:
    assert get(server.address, method="POST")[0] == 405
    ranged = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes=0-9\r\nAccept-Encoding: gzip\r\n\r\n"
    with connect(server.address) as sock:
        sock.sendall(ranged.encode() * 2)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := sock.recv(65536):
                answer += piece
    head = answer.split(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 200") and b"connection: close" in head
    assert b"cache-control: no-cache" in head and b"content-encoding" not in head
    assert answer.count(b"HTTP/1.1 ") == 1, "one request for each connection"
    with connect(server.address) as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 505 "), "no HTTP/2"
