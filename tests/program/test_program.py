# SPDX-License-Identifier: MIT
"""The program: every flag, what it prints, how it fails and ends; and the module in other programs."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from support import *

from wsdual import DualServer, Limits, echo, server_context

DEFLATE = {"Sec_WebSocket_Extensions": "permessage-deflate"}
has_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")


@pytest.fixture(scope="module")
def identity() -> Identity:
    """A certificate for localhost."""
    return make_identity("localhost")


# ---- what it prints at start


def banner_of(server: Program) -> str:
    return "\n".join(server.banner)


def test_printed_web_addresses_work(server: Program) -> None:
    """Each http and https URL that is printed can be fetched."""
    urls = re.findall(r"https?://\S+", banner_of(server))
    assert [url.partition(":")[0] for url in urls] == ["http", "https"]
    for url in urls:
        with urllib.request.urlopen(url, context=any_tls() if url.startswith("https") else None) as answer:
            assert answer.status == 200


def test_printed_websocket_addresses_work(server: Program) -> None:
    """Each ws and wss URL, and each path that is named with them."""
    line = next(line for line in server.banner if "wss://" in line)
    urls = re.findall(r"(wss?)://(.+?):(\d+)(/\S*)", line)
    assert [url[0] for url in urls] == ["ws", "wss"]
    for scheme, host, port, path in urls:
        for name in {path, *re.findall(r" ?\(?(/\w+)[,)]", line)}:
            with WebSocket((host, int(port)), name, tls=scheme == "wss") as client:
                assert client.status == 101


@pytest.mark.parametrize("tool", ["nc", "openssl"])
def test_printed_commands_work(server: Program, tool: str) -> None:
    """The lines for nc and openssl can be pasted, and what they say to type then logs in."""
    if not shutil.which(tool):
        pytest.skip(f"{tool} isn't installed")
    command = next(line[line.index(tool + " ") :] for line in server.banner if f"{tool} " in line)
    typed = next(line[line.index("{") :] for line in server.banner if '"login"' in line)
    with subprocess.Popen(
        shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(typed.encode() + b"\n")
        process.stdin.flush()
        assert b'"welcome"' in process.stdout.readline()
        process.kill()


def served_certificate(server: Program) -> x509.Certificate:
    """The certificate that the server really presents."""
    with connect(server.address, tls=any_tls()) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        return x509.load_der_x509_certificate(sock.getpeercert(True) or b"")


def test_printed_certificate_is_the_one_that_is_served(server: Program) -> None:
    """Subject, expiry and SHA-256, so that a person can compare them with what the browser shows."""
    certificate, told = served_certificate(server), banner_of(server)
    assert certificate.subject.rfc4514_string() in told
    assert f"{certificate.not_valid_after_utc:%Y-%m-%d}" in told
    assert certificate.fingerprint(hashes.SHA256()).hex(":").upper() in told
    assert "self-signed" in told


@pytest.mark.parametrize("form", ["pem", "pfx"])
def test_printed_certificate_of_a_file(
    start: Callable[..., Program], identity: Identity, tmp_path: Path, form: str
) -> None:
    """The same with --cert; then nothing says that it will be thrown away."""
    path = tmp_path / "server.file"
    path.write_bytes(identity.key_pem() + identity.pem() if form == "pem" else identity.pfx())
    server = start("--cert", str(path))
    assert served_certificate(server) == identity.certificate
    assert identity.certificate.fingerprint(hashes.SHA256()).hex(":").upper() in banner_of(server)
    assert "thrown" not in banner_of(server)


def test_throw_away_certificate_is_another_each_time(start: Callable[..., Program], server: Program) -> None:
    """Two servers never share a key."""
    assert served_certificate(start()) != served_certificate(server)


def test_printed_address_is_one_to_connect_to(start: Callable[..., Program]) -> None:
    """0.0.0.0 is where to listen, not where to go."""
    server = start("--host", "0.0.0.0")
    assert server.address[0] == "127.0.0.1" and get(server.address)[0] == 200


# ---- each flag


def test_help_names_every_flag() -> None:
    """--help exits with 0 and tells the defaults."""
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    flags = ["host", "port", "cert", "key", "password-file", "detect", "memory", "app", "tls-min",
             "client-ca", "origin", "max-clients", "max-message", "handshake-timeout", "ping-interval",
             "static", "no-pin", "verbose"]  # fmt: skip
    assert [flag for flag in flags if f"--{flag}" not in done.stdout] == []
    for default in ("127.0.0.1", "4530", "1048576", "1000", "20", "peek", "chat"):
        assert default in done.stdout


def test_host_and_port(start: Callable[..., Program]) -> None:
    """It listens where it is told, and nowhere else."""
    port = free_port()
    server = start("--host", "127.0.0.7", port=port)
    assert server.address == ("127.0.0.7", port)
    assert http(server.address, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        connect(("127.0.0.1", port))
    extension = served_certificate(server).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert "127.0.0.7" in map(str, extension.value.get_values_for_type(x509.IPAddress))


@pytest.mark.parametrize("method", ["peek", "trial"])
def test_detect(start: Callable[..., Program], method: str) -> None:
    """--detect: both the first line and the monitor tell which; peek takes wss at once, trial doesn't."""
    server = start("--detect", method)
    assert f"--detect {method}" in server.banner[0]
    with Watcher(server.address) as watcher:
        assert watcher.snapshot["detect"] == method
    if method == "peek":
        with WebSocket(server.address, tls=True) as client:
            assert client.ask("hi") == "hi"
    else:
        with pytest.raises(OSError):
            connect(server.address, tls=True)


def test_memory(start: Callable[..., Program]) -> None:
    """--memory 0.4: the monitor tells so, and a plain client is served again when the time is over."""
    server = start("--detect", "trial", "--memory", "0.4")
    with Watcher(server.address) as watcher:
        with connect(server.address) as sock:
            sock.sendall(b"\x16\x03\x01 this is no HTTP")
            assert closed(sock)
        assert watcher.wait_for("remembered")["seconds"] == 0.4

        def served() -> bool:
            with contextlib.suppress(OSError, IndexError):
                return bool(get(server.address)[0] == 200)
            return False

        wait_until(served, "served as a plain client again", 5.0)


def test_app_chat_is_the_default(server: Program) -> None:
    """/ and native clients get the chat; /chat and /echo are there too."""
    with WebSocket(server.address, "/") as client, Native(server.address) as native:
        for one, name in ((client, "ann"), (native, "bob")):
            one.send({"type": "login", "name": name})  # type: ignore[attr-defined]
            assert one.receive_json()["type"] == "welcome"  # type: ignore[attr-defined]


def test_app_echo(start: Callable[..., Program]) -> None:
    """--app echo: / and native clients get the echo, /chat stays what it is."""
    server = start("--app", "echo")
    for tls in (False, True):
        with WebSocket(server.address, "/", tls=tls) as client, Native(server.address, tls=tls) as native:
            assert client.ask("hi") == "hi"
            native.send('{"a": 1}')
            assert native.receive() == '{"a": 1}'
    with WebSocket(server.address, "/chat") as client:
        client.send({"type": "login", "name": "ann"})
        assert client.receive_json()["type"] == "welcome"


def test_origin(start: Callable[..., Program]) -> None:
    """--origin, twice: pages of both may connect, others get a 403 that names the flag."""
    server = start("--origin", "https://a.example", "--origin", "http://b.example:8080")
    for origin in ("https://a.example", "http://b.example:8080"):
        with WebSocket(server.address, Origin=origin) as client:
            assert client.ask("hi") == "hi"
    for origin in ("http://a.example", "https://b.example:8080", "https://c.example"):
        with connect(server.address) as sock:
            sock.sendall(upgrade_request(server.address, Origin=origin))
            answer = read_to_end(sock)
        assert answer.startswith(b"HTTP/1.1 403") and b"--origin" in answer


def test_max_clients(start: Callable[..., Program]) -> None:
    """--max-clients 2: the third gets 503 at once, and is served when one of the two has left."""
    server = start("--max-clients", "2")
    with WebSocket(server.address) as first:
        with WebSocket(server.address) as second:
            assert first.ask("hi") == second.ask("hi") == "hi"
            assert get(server.address)[0] == 503
        wait_until(lambda: get(server.address)[0] == 200, "a free seat")


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server that takes messages of up to 1000 bytes."""
    with running(tmp_path_factory.mktemp("limited"), "--max-message", "1000", "--app", "echo") as program:
        yield program


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("form", ["text", "binary", "utf8", "compressed", "fragments"])
def test_max_message_of_a_websocket(limited: Program, form: str, tls: bool) -> None:
    """--max-message counts bytes after inflating: just that many pass, one more is 1009."""
    fits: dict[str, Callable[[int], bytes]] = {
        "text": lambda size: frame(TEXT, b"x" * size),
        "binary": lambda size: frame(2, b"x" * size),
        "utf8": lambda size: frame(TEXT, "ä".encode() * 500 + b"x" * (size - 1000)),
        "compressed": lambda size: frame(TEXT, deflate(b"x" * size), rsv=4),
        "fragments": lambda size: frame(TEXT, b"x" * 600, fin=False) + frame(0, b"x" * (size - 600)),
    }
    with WebSocket(limited.address, tls=tls, **DEFLATE) as client:
        client.sock.sendall(fits[form](1000))
        assert client.receive_frame()[2] == (2 if form == "binary" else TEXT)
        client.sock.sendall(fits[form](1001))
        assert client.receive_close()[0] == 1009


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tcps"])
def test_max_message_of_a_native_client(limited: Program, tls: bool) -> None:
    """Its newline doesn't count; a line over the limit gets an error line, then the end."""
    with Native(limited.address, tls=tls) as client:
        line = "{" + "x" * 999
        client.send(line)
        assert client.receive() == line
        client.send(line + "x")
        error = client.receive_json()
        assert error["type"] == "error" and "1000" in error["reason"]
        with pytest.raises(EOFError):
            client.receive()


def test_handshake_timeout(start: Callable[..., Program]) -> None:
    """--handshake-timeout 0.8: whoever doesn't get on is closed by then, at whatever step; others are not."""
    server = start("--handshake-timeout", "0.8")
    with Watcher(server.address) as watcher, WebSocket(server.address) as talking:
        with contextlib.ExitStack() as stack:
            silent, hello, request, line = (stack.enter_context(connect(server.address)) for _ in range(4))
            inside = stack.enter_context(connect(server.address, tls=True))
            hello.sendall(b"\x16\x03\x01\x02")
            request.sendall(b"GET / HTTP/1.1\r\nHost: local")
            line.sendall(b'{"type":')
            assert closed(silent) and closed(hello) and closed(inside)
            assert read_to_end(request).startswith(b"HTTP/1.1 408 ")
            assert b"error" in read_to_end(line)
        watcher.wait_for("closed", why="silent, or not ready, for 0.8 s")
        assert talking.ask("still here") == "still here"


def test_ping_interval(start: Callable[..., Program]) -> None:
    """--ping-interval 0.8: a client that answers pings stays; one that doesn't is dropped, and told of."""
    server = start("--ping-interval", "0.8", "-v")
    with WebSocket(server.address) as alive, WebSocket(server.address) as dead:
        heard: list[bytes] = []
        thread = threading.Thread(target=lambda: heard.append(alive.next_but_pings()[3]))
        thread.start()
        assert dead.receive_frame()[2] == PING and closed(dead.sock)
        mine = "{}:{}".format(*dead.sock.getsockname())
        number = re.findall(rf"#(\d+) accepted address={re.escape(mine)}", server.log())[0]
        wait_until(lambda: re.search(rf"#{number} closed .*ping", server.log()), "it is told")
        alive.send("still here")
        thread.join(PATIENCE)
        assert heard == [b"still here"]


def test_static(start: Callable[..., Program], tmp_path: Path) -> None:
    """--static: a folder of one's own; a missing one is no reason not to start."""
    (tmp_path / "index.html").write_text("mine")
    assert get(start("--static", str(tmp_path)).address)[2] == b"mine"
    assert get(start("--static", str(tmp_path / "missing")).address)[0] == 404


def cores_of(process: int) -> str:
    """The cores that a process may use."""
    status = Path(f"/proc/{process}/status").read_text()
    return re.findall(r"Cpus_allowed_list:\s*(\S+)", status)[0]


@has_proc
def test_held_to_one_core_unless_told_not_to(start: Callable[..., Program], server: Program) -> None:
    """The default says which at start; --no-pin leaves the process what it was given."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core only")
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("without a GIL nothing is held")
    core = cores_of(server.process.pid)
    assert core.isdigit() and re.search(rf"core {core}\b.*--no-pin", banner_of(server))
    free = start("--no-pin")
    assert cores_of(free.process.pid) == cores_of(os.getpid())
    assert "core" not in banner_of(free)


def test_verbose_prints_every_step(start: Callable[..., Program]) -> None:
    """-v: one line for each step of a connection, in order, on stderr."""
    server = start("-v")
    with Native(server.address, tls=True) as client:
        client.send({"type": "login", "name": "ann"})
        client.receive()
    wait_until(lambda: " closed " in server.log(), "the last step")
    steps = re.findall(r"#1 (\w+)", server.log())
    assert steps == ["accepted", "peeked", "wrapped", "upgraded", "login", "closed"]
    assert "bytes=1603" in server.log() and "verdict=tls" in server.log() and "name=ann" in server.log()


def test_without_verbose_it_is_quiet(start: Callable[..., Program]) -> None:
    """A client that comes and goes is no news."""
    server = start()
    assert get(server.address)[0] == get(server.address, tls=True)[0] == 200
    with connect(server.address) as sock:
        sock.sendall(b"garbage")
        assert closed(sock)
    assert server.end() == 0 and server.log() == ""


# ---- how it fails: (flag, value, words of the one line)


def run(*flags: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> Any:
    """Run the program to its end."""
    clean = {name: value for name, value in os.environ.items() if name != "WSDUAL_PASSWORD"}
    return subprocess.run(
        [sys.executable, str(cwd or REPO) + "/wsdual.py", *flags], env={**clean, **(env or {})},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, cwd=cwd,
    )  # fmt: skip


def assert_one_line(done: Any, *words: str) -> None:
    """It ended with an error, which is one line on stderr."""
    assert done.returncode not in (0, None) and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("wsdual: ")
    for word in words:
        assert word in done.stderr


BAD_FLAGS = {
    "no_such_flag": ("--nonsense", "x", "--nonsense"),
    "port_a_word": ("--port", "http", "--port", "http"),
    "port_too_high": ("--port", "65536", "65535"),
    "memory_negative": ("--memory", "-1", "--memory", "-1"),
    "memory_no_number": ("--memory", "nan", "--memory"),
    "no_clients": ("--max-clients", "0", "--max-clients"),
    "message_of_half_a_byte": ("--max-message", "0.5", "--max-message"),
    "handshake_never": ("--handshake-timeout", "0", "--handshake-timeout"),
    "ping_for_ever": ("--ping-interval", "inf", "--ping-interval"),
    "detect_otherwise": ("--detect", "guess", "guess", "trial"),
    "app_unknown": ("--app", "mail", "mail", "echo"),
    "tls_too_old": ("--tls-min", "1.1", "1.1", "1.3"),
    "key_without_cert": ("--key", "k.pem", "--key", "--cert"),
    "host_unknown": ("--host", "no-such-host.invalid", "no-such-host.invalid"),
    "host_not_ours": ("--host", "192.0.2.123", "192.0.2.123"),
    "host_too_long": ("--host", "x" * 70 + ".example", "x" * 70),
    "cert_missing": ("--cert", "missing.pfx", "missing.pfx"),
    "cert_a_folder": ("--cert", ".", "."),
    "client_ca_missing": ("--client-ca", "missing.pem", "missing.pem"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flag_is_one_clear_line(name: str) -> None:
    """Non-zero exit, one line on stderr that says what is wrong, and no traceback."""
    flag, value, *words = BAD_FLAGS[name]
    port = () if flag == "--port" else ("--port", "0")
    assert_one_line(run(*port, flag, value), *words)


def test_port_in_use_is_one_clear_line() -> None:
    """It names the port, and a way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_line(run("--port", port), port, "in use", "--port")


def test_unusable_certificate_is_one_clear_line(identity: Identity, tmp_path: Path) -> None:
    """Garbage, a foreign key, an unreadable client authority: the line names the file."""
    good, key, foreign, garbage = (tmp_path / name for name in ("c.pem", "k.pem", "f.pem", "garbage.pfx"))
    good.write_bytes(identity.pem())
    key.write_bytes(identity.key_pem())
    foreign.write_bytes(make_identity("other").key_pem())
    garbage.write_bytes(os.urandom(300))
    for flags, name in (
        (["--cert", str(garbage)], "garbage.pfx"),
        (["--cert", str(good)], "c.pem"),
        (["--cert", str(good), "--key", str(foreign)], "f.pem"),
        (["--cert", str(good), "--key", str(tmp_path / "missing.pem")], "missing.pem"),
        (["--cert", str(good), "--key", str(key), "--client-ca", str(garbage)], "garbage.pfx"),
    ):
        assert_one_line(run("--port", "0", *flags), name)


def test_password_trouble_is_one_clear_line(identity: Identity, tmp_path: Path) -> None:
    """Wrong, nowhere to be had, or in a file that isn't there."""
    pfx = tmp_path / "server.pfx"
    pfx.write_bytes(identity.pfx("right"))
    flags = ("--port", "0", "--cert", str(pfx))
    assert_one_line(run(*flags, env={"WSDUAL_PASSWORD": "wrong"}), "server.pfx", "password is wrong")
    assert_one_line(run(*flags), "server.pfx", "--password-file", "WSDUAL_PASSWORD")
    assert_one_line(run(*flags, "--password-file", str(tmp_path / "missing")), "missing")


# ---- how it ends


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A test run in the background ignores SIGINT, and so would the programs that it starts."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@posix
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_signal_closes_every_client_and_exits_0(start: Callable[..., Program], how: int) -> None:
    """Ctrl-C, SIGTERM: 1001 for WebSockets, an error line for native clients, a FIN for the silent."""
    server = start()
    with contextlib.ExitStack() as stack:
        chat, echoing = (stack.enter_context(WebSocket(server.address, path)) for path in ("/", "/echo"))
        wss = stack.enter_context(WebSocket(server.address, tls=True))
        natives = [stack.enter_context(Native(server.address, tls=tls)) for tls in (False, True)]
        silent, half = (stack.enter_context(connect(server.address)) for _ in range(2))
        half.sendall(b"GET / HTTP/1.1\r\n")
        for client in (echoing, wss):
            assert client.ask("hi") == "hi"
        for native in natives:
            native.send("{}")
            assert native.receive_json()["type"] == "error"
        chat.send("{}")
        chat.receive()
        server.process.send_signal(how)
        for client in (chat, echoing, wss):
            assert client.receive_close()[0] == 1001
            client.sock.sendall(frame(CLOSE, b"\x03\xe9"))
            assert closed(client.sock)
            client.sock.close()
        for native in natives:
            error = native.receive_json()
            assert error["type"] == "error" and "going away" in error["reason"]
            with pytest.raises(EOFError):
                native.receive()
            native.__exit__()
        for sock in (silent, half):
            assert closed(sock)
            sock.close()
        assert server.process.wait(PATIENCE) == 0


@posix
def test_stubborn_clients_do_not_keep_it_from_ending(start: Callable[..., Program]) -> None:
    """Silent, amid the TLS handshake, never reading, never closing: it still ends within 5 s, with 0."""
    server = start()
    with contextlib.ExitStack() as stack:
        silent, hello = (stack.enter_context(connect(server.address)) for _ in range(2))
        hello.sendall(bytes.fromhex("16030102000100") + b"half a ClientHello")
        stack.enter_context(connect(server.address, tls=True))
        polite = stack.enter_context(WebSocket(server.address, tls=True))
        stack.enter_context(Native(server.address)).send("{}")
        for tls in (False, True):
            fill_up(stack.enter_context(WebSocket(server.address, tls=tls)))
        began = time.monotonic()
        server.process.terminate()
        assert polite.receive_close()[0] == 1001  # and no answer to it
        assert server.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 5.0
        assert closed(silent) and closed(hello)


def fill_up(client: WebSocket) -> None:
    """Send echoes and read none, until the server takes no more from us."""
    client.sock.setblocking(False)
    data = memoryview(frame(2, b"x" * 500_000))
    sent, end, stuck = 0, time.monotonic() + PATIENCE, 0
    while stuck < 10 and time.monotonic() < end:
        try:
            sent += client.sock.send(data[sent % len(data) :])
            stuck = 0
        except (BlockingIOError, ssl.SSLWantWriteError):
            stuck += 1
            time.sleep(0.02)
    assert stuck == 10, "the server never stopped reading"


@posix
@pytest.mark.usefixtures("interruptible")
def test_second_ctrl_c_does_no_harm(start: Callable[..., Program]) -> None:
    """Impatient people press it more than once; the first one counts, and nobody sees a traceback."""
    server = start()
    with WebSocket(server.address) as client:
        client.ask("hi")
        server.process.send_signal(signal.SIGINT)
        assert client.receive_close()[0] == 1001
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        client.sock.sendall(frame(CLOSE, b"\x03\xe9"))
        assert closed(client.sock)
    assert server.process.wait(PATIENCE) == 0


@posix
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_right_after_the_start(start: Callable[..., Program]) -> None:
    """As soon as the first line is there it ends in order."""
    server = start()
    assert server.end(signal.SIGINT) == 0 and server.log() == ""


@posix
def test_port_is_free_at_once_after_the_end(start: Callable[..., Program]) -> None:
    """Though a connection that it has closed still lingers in the system's books."""
    first = start()
    with WebSocket(first.address) as client:
        client.ask("hi")
        first.process.terminate()
        assert client.receive_close()[0] == 1001
        client.sock.sendall(frame(CLOSE, b"\x03\xe9"))
        assert closed(client.sock)  # the server was first, so TIME_WAIT is on its side
    assert first.end() == 0
    assert get(start(port=first.port).address)[0] == 200


# ---- the module in other people's programs


def example() -> str:
    """The program that the module's docstring shows."""
    import wsdual

    blocks = re.findall(r"(?:^    .*\n|^\n)+", wsdual.__doc__ or "", re.M)
    return textwrap.dedent(next(block for block in blocks if "import DualServer" in block))


@contextlib.contextmanager
def example_running(folder: Path, library: Path) -> Iterator[int]:
    """Run the example in a folder, with the module from another; yield its port."""
    port = free_port()
    code = example()
    assert "4530" in code and len(code.strip().splitlines()) <= 10
    (folder / "example.py").write_text(code.replace("4530", str(port)))
    environment = os.environ | {"PYTHONPATH": str(library)}
    process = subprocess.Popen([sys.executable, "example.py"], cwd=folder, env=environment)
    try:
        wait_until(lambda: process.poll() is not None or listens(port), "the example listens")
        yield port
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    """Say whether somebody is there."""
    with contextlib.suppress(OSError), connect(("127.0.0.1", port)):
        return True
    return False


def test_example_of_the_docstring_runs(identity: Identity, tmp_path: Path) -> None:
    """Ten lines, pasted: ws and wss on one port."""
    (tmp_path / "server.pfx").write_bytes(identity.pfx("password"))
    with example_running(tmp_path, REPO) as port:
        for tls in (False, True):
            with WebSocket(("127.0.0.1", port), tls=tls) as client:
                assert client.ask("hi") == "hi"


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A folder with wsdual.py and nothing else of the project."""
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(REPO / "wsdual.py", folder)
    return folder


def test_module_alone_is_a_library(identity: Identity, tmp_path: Path, alone: Path) -> None:
    """Copying the one file into a project is enough; a .pfx wants cert_tool.py beside it."""
    shutil.copy(REPO / "cert_tool.py", alone)
    project = tmp_path / "project"
    project.mkdir()
    (project / "server.pfx").write_bytes(identity.pfx("password"))
    with example_running(project, alone) as port, WebSocket(("127.0.0.1", port), tls=True) as client:
        assert client.ask("hi") == "hi"


def test_module_alone_is_a_program(identity: Identity, alone: Path) -> None:
    """With --cert it serves all kinds; there is no page then, and it says 404."""
    (alone / "server.pem").write_bytes(identity.key_pem() + identity.pem())
    command = [sys.executable, "wsdual.py", "--port", "0", "--cert", "server.pem"]
    with subprocess.Popen(command, cwd=alone, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(re.findall(r":(\d+)", process.stdout.readline())[0])
            with WebSocket(("127.0.0.1", port), tls=True) as client:
                assert client.ask("hi") == "hi"
            assert get(("127.0.0.1", port))[0] == 404
        finally:
            process.terminate()
        assert process.wait(PATIENCE) == 0


def test_module_alone_says_what_it_needs_for_a_throw_away_certificate(alone: Path) -> None:
    """Without --cert it wants cert_tool.py beside it."""
    assert_one_line(run("--port", "0", cwd=alone), "cert_tool", "--cert")


@pytest.mark.parametrize("close_first", [True, False], ids=["client_closes", "server_closes"])
def test_server_in_a_thread_ends_with_all_its_threads(close_first: bool) -> None:
    """serve_forever() in a thread, shutdown(), server_close(): as with any class of socketserver."""
    before = set(threading.enumerate())
    server = DualServer(("127.0.0.1", 0), {"/echo": echo}, limits=Limits(closing=0.5))
    address = ("127.0.0.1", server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    with contextlib.ExitStack() as clients:
        client = clients.enter_context(WebSocket(address))
        assert client.ask("hi") == "hi"
        clients.enter_context(connect(address))  # says nothing
        if close_first:
            clients.close()
        server.shutdown()
        server.server_close()
        if not close_first:
            assert client.receive_close()[0] == 1001
        thread.join(PATIENCE)
        wait_until(lambda: set(threading.enumerate()) <= before, "no thread is left")
    with pytest.raises(ConnectionRefusedError):
        connect(address)


def test_silent_clients_do_not_hold_up_the_end() -> None:
    """The time for goodbyes is for those who have something to say."""
    server = DualServer(("127.0.0.1", 0), {}, limits=Limits(closing=3 * PATIENCE))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    with connect(("127.0.0.1", server.server_address[1])) as silent:
        wait_until(server.everyone, "it is in")
        server.shutdown()
        began = time.monotonic()
        server.server_close()
        assert time.monotonic() - began < PATIENCE and closed(silent)
    thread.join(PATIENCE)


def test_server_that_never_served_can_be_closed() -> None:
    """A program that fails between the two steps leaves no thread behind."""
    before = set(threading.enumerate())
    with DualServer(("127.0.0.1", 0), {}):
        pass
    wait_until(lambda: set(threading.enumerate()) <= before, "no thread is left")


def test_server_that_cannot_listen_leaves_no_thread() -> None:
    """The error is the caller's, and nothing else is left of it."""
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError):
        DualServer(taken.getsockname(), {})
    assert set(threading.enumerate()) <= before


def test_library_without_tls_serves_plain_clients_and_refuses_others() -> None:
    """tls=None: ws and http work, a TLS client is closed."""
    with serving({"/echo": echo}) as server:
        address = address_of(server)
        with WebSocket(address) as client:
            assert client.ask("hi") == "hi"
        with pytest.raises(OSError):
            connect(address, tls=True)
        with Native(address) as native:  # "/" isn't mapped
            native.send("{}")
            assert native.receive_json()["type"] == "error"
        assert get(address)[0] == 404  # nor is there a folder


def test_tls_may_be_replaced_while_the_server_runs(tmp_path: Path) -> None:
    """New connections get the new certificate, those that are there stay."""
    first, second = make_identity("first"), make_identity("second")
    contexts = []
    for identity in (first, second):
        path = tmp_path / "server.pfx"
        path.write_bytes(identity.pfx())
        contexts.append(server_context(path))
    with serving({"/echo": echo}, tls=contexts[0]) as server:
        address = address_of(server)
        with WebSocket(address, tls=True) as old:
            server.tls = contexts[1]
            with WebSocket(address, tls=True) as new:
                for client, identity in ((old, first), (new, second)):
                    assert isinstance(client.sock, ssl.SSLSocket)
                    assert client.sock.getpeercert(True) == identity.der() and client.ask("hi") == "hi"


def test_unknown_method_of_detection_is_a_value_error() -> None:
    """DualServer says which there are."""
    with pytest.raises(ValueError, match="peek.*trial"):
        DualServer(("127.0.0.1", 0), {}, detect="guess")
