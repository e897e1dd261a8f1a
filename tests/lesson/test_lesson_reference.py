# SPDX-License-Identifier: MIT
"""The README's start, certificates, reference and Chinese summary: what they say is tried, block by block."""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from readme import README, Block, blocks
from support import *

import cert_tool
import wsdual

COVERS = ("Start", "Certificates", "Reference", "中文")

posix = pytest.mark.skipif(os.name != "posix", reason="the shell's commands are those of Linux and macOS")
LOGIN = {"type": "login", "name": "ann"}
PASSWORD = "a good password"


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip where one of these programs isn't installed."""
    missing = [tool for tool in tools if not shutil.which(tool)]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} isn't installed")


def node_command() -> list[str] | None:
    """How to run Node.js so that it has WebSocket; None where it can't be had."""
    if not (node := shutil.which("node")):
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=PATIENCE).stdout
    version = tuple(map(int, re.findall(r"\d+", said)[:2]))
    if version >= (22, 0):
        return [node]
    return [node, "--no-warnings", "--experimental-websocket"] if version >= (20, 10) else None


# ---- the README, taken apart


def section(heading: str) -> list[str]:
    """The lines under a heading, up to the next one of its level."""
    lines = README.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if re.fullmatch("#+ " + re.escape(heading), line))
    level = lines[start].count("#", 0, 4)
    end = (i for i in range(start + 1, len(lines)) if re.match(f"#{{1,{level}}} ", lines[i]))
    return lines[start + 1 : next(end, len(lines))]


def rows(heading: str, first_cell: str) -> list[list[str]]:
    """The rows of the table under a heading whose head begins with this cell."""
    found: list[list[str]] = []
    inside = False
    for line in section(heading):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif inside and not set(line) <= set("|- "):
            found.append(cells)
        elif cells[0].strip() == first_cell:
            inside = True
    assert found, f"no table that begins with {first_cell!r} under {heading!r}"
    return found


def words(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def put_in(text: str, port: int) -> str:
    """A block's text, for this machine: the running interpreter, and a port that is free."""
    return text.replace(".venv/bin/python", shlex.quote(sys.executable)).replace("4530", str(port))


# ---- programs and servers


def shell(text: str, folder: Path, stdin: str = "", env: dict[str, str] | None = None) -> str:
    """Run a block's commands to their end; return what they print."""
    done = subprocess.run(
        ["bash", "-e", "-c", text], cwd=folder, input=stdin, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **(env or {})},
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def process(command: list[str], folder: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A program of a block, with pipes; ended with all that it started."""
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **env}, start_new_session=True,
    ) as started:  # fmt: skip
        try:
            yield started
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGTERM)


@contextlib.contextmanager
def started_by(block: str, folder: Path, **env: str) -> Iterator[tuple[str, int]]:
    """A block's command that starts the server; its address, once it listens."""
    port = free_port()
    command = f"exec {put_in(block, port).strip()} --port {port}"
    with process(["bash", "-c", command], folder, **env) as started:
        assert started.stdout and started.stderr
        if not any(line.startswith("Ctrl-C") for line in started.stdout):
            pytest.fail(f"{command}: {started.stderr.read()}")
        yield "127.0.0.1", port


@contextlib.contextmanager
def within(**options: Any) -> Iterator[tuple[str, int]]:
    """A DualServer in this process; its address."""
    apps = options.pop("apps", {"/": wsdual.echo, "/echo": wsdual.echo})
    with serving(apps, **options) as server:
        yield address_of(server)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the reader's: the programs, and what cert_tool.py made when it had asked."""
    if os.name != "posix":
        pytest.skip("needs a shell, and links")
    place = tmp_path_factory.mktemp("project")
    for name in ("wsdual.py", "cert_tool.py", "static", "requirements.txt"):
        (place / name).symlink_to(REPO / name)
    asked = shell(put_in(blocks("Make one", "sh")[0].text, 0), place, f"\n{PASSWORD}\n{PASSWORD}\n\n")
    (place / "asked").write_text(asked)
    return place


@pytest.fixture(scope="module")
def trusted(folder: Path) -> Iterator[tuple[str, int]]:
    """The server with the certificate that was made, started as the README says; its address."""
    with started_by(blocks("Make one", "sh")[1].text, folder, WSDUAL_PASSWORD=PASSWORD) as address:
        yield address


# ================================================================ Start


def test_picture_is_a_small_png_of_the_page() -> None:
    """About 1200 pixels wide, under 200 KB."""
    data = (REPO / "tests" / "tools" / "page.png").read_bytes()
    assert "](tests/tools/page.png)" in README.read_text(encoding="utf-8")
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack("!II", data[16:24])[0] == 1200 and len(data) < 200_000


@posix
def test_set_up_commands_start_the_server(folder: Path) -> None:
    """... where the requirements are installed, as they are here (.ci/run installs them from the file)."""
    install, start = blocks("Start", "sh")[0].text.splitlines()
    assert install == "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt"
    for line in (REPO / "requirements.txt").read_text().splitlines():
        assert importlib.metadata.version(re.match(r"[\w-]+", line)[0])  # type: ignore[index]
    with started_by(start, folder) as address:
        assert get(address)[0] == 200


@posix
@pytest.mark.parametrize("tool", ["uv", "pipx"])
def test_one_command_start(tool: str, folder: Path) -> None:
    """uv and pipx read the module's head, and bring the packages."""
    if not shutil.which(tool):
        pytest.skip(f"{tool} isn't installed")
    prose = " ".join(line for line in section("Start") if not line.startswith("```"))
    command = next(word for word in words(prose) if word.startswith(f"{tool} run "))
    with started_by(command, folder) as address, WebSocket(address, tls=True) as client:
        assert client.ask("hi") == "hi"


@posix
@pytest.mark.parametrize("tool", ["nc", "openssl"])
def test_typed_line_logs_in(tool: str, server: Program) -> None:
    """The table's commands for a terminal, and what it says to type."""
    if not shutil.which(tool):
        pytest.skip(f"{tool} isn't installed")
    table = {row[0]: words(row[1]) for row in rows("Start", "with")}
    command, typed = table[f"`{tool}`"]
    with process(shlex.split(put_in(command, server.port)), REPO) as started:
        assert started.stdin and started.stdout
        started.stdin.write(typed + "\n")
        started.stdin.flush()
        welcome = json.loads(started.stdout.readline())
        assert (welcome["type"], welcome["name"]) == ("welcome", json.loads(typed)["name"])


@needs("curl")
@posix
def test_curl_fetches_the_page(server: Program, tmp_path: Path) -> None:
    """Both of the table's commands."""
    commands = next(words(row[1]) for row in rows("Start", "with") if row[0] == "`curl`")
    assert len(commands) == 2
    for command in commands:
        assert shell(put_in(command, server.port) + " -sS", tmp_path).startswith("HTTP/1.1 200")


@pytest.mark.parametrize("number, kind", [(0, "wss"), (1, "tcp")])
def test_python_programs_are_welcomed(number: int, kind: str, server: Program) -> None:
    """The output is the README's, but for the kind."""
    if number == 0:
        pytest.importorskip("websockets.sync.client", reason="this program needs the package websockets")
    program = put_in(blocks("From Python", "python")[number].text, server.port)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    name = re.search(r'"name": ?"(\w+)"', program)[1]  # type: ignore[index]
    shown = blocks("From Python", "text")[0].text.replace('"wss"', f'"{kind}"').replace('"ann"', f'"{name}"')
    assert (done.stdout, done.stderr) == (shown, "")


@pytest.mark.parametrize("number", [0, 1])
def test_javascript_programs_are_welcomed(number: int, server: Program) -> None:
    """In Node.js: the bare WebSocket, and the page's Engine."""
    node = node_command()
    if node is None:
        pytest.skip("needs Node.js 20.10 or newer")
    program = put_in(blocks("From JavaScript", "js")[number].text, server.port)
    done = subprocess.run([*node, "-e", program], cwd=REPO, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    if number:
        assert done.stdout == blocks("From JavaScript", "text")[0].text
    else:
        assert json.loads(done.stdout)["type"] == "welcome"


def test_csharp_programs_say_what_the_server_understands(server: Program) -> None:
    """Their address and their line, sent by other clients: C# itself isn't run here."""
    web, native = (block.text for block in blocks("From C#", "csharp"))
    host, path = re.search(r'"wss://([\d.]+):4530(/\w+)"', web).groups()  # type: ignore[union-attr]
    with WebSocket((host, server.port), path, tls=True) as client, Native(server.address) as other:
        assert '("127.0.0.1", 4530)' in native
        for one, program in ((client, web), (other, native)):
            one.send(re.search('"""(.+)"""', program)[1])  # type: ignore[attr-defined, index]
            assert one.receive_json()["type"] == "welcome"  # type: ignore[attr-defined]


def test_csharp_programs_compile() -> None:
    """Nobody has compiled them yet."""
    pytest.skip("the C# programs are checked against the documentation, not compiled: no .NET here")


# ================================================================ Certificates


def test_cert_tool_asks_the_three_things_that_the_text_shows(folder: Path) -> None:
    """In this order, with these defaults; two files come out, and how to trust them."""
    asked = (folder / "asked").read_text()
    place = 0
    for question in blocks("Make one", "text")[0].text.splitlines():
        place = asked.index(question, place) + len(question)
    assert (folder / "server.pfx").exists() and b"BEGIN CERT" in (folder / "server.crt").read_bytes()
    assert "To trust it" in asked and asked.count("take it back") >= 3


def test_server_uses_the_certificate_that_was_made(folder: Path, trusted: tuple[str, int]) -> None:
    """What the server shows is server.crt."""
    with connect(trusted, tls=any_tls()) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        shown = ssl.DER_cert_to_PEM_cert(sock.getpeercert(True) or b"")
    assert shown.strip() == (folder / "server.crt").read_text().strip()


def test_cert_tool_with_flags_and_show(folder: Path) -> None:
    """The output ends as the README shows it, but for dates and digits."""
    output = shell(put_in(blocks("Make one", "sh")[2].text, 0), folder)

    def plain(text: str) -> str:
        text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "DATE", text)
        return re.sub(r"([0-9A-F]{2}:){31}[0-9A-F]{2}", "DIGITS", text)

    shown = plain(blocks("Make one", "text")[1].text)
    assert plain(output).endswith(shown) and "DATE to DATE" in shown and "DIGITS" in shown


def test_pem_files_of_an_authority_work_as_they_are(folder: Path) -> None:
    """fullchain.pem and privkey.pem, as Let's Encrypt calls them."""
    authority = make_identity("authority", authority=True)
    leaf = make_identity("localhost", authority)
    (folder / "fullchain.pem").write_bytes(leaf.pem() + authority.pem())
    (folder / "privkey.pem").write_bytes(leaf.key_pem())
    with started_by(blocks("From elsewhere", "sh")[0].text, folder) as address:
        with WebSocket(address, tls=ssl.create_default_context(cadata=authority.pem().decode())) as client:
            assert client.ask("hi") == "hi"


def trust_block(tool: str) -> Block:
    """The block under "Trust it" that begins with a word or holds it."""
    return next(b for b in blocks("Trust it, and take it back") if tool in b.text)


UNTRUSTING = {"CURL_CA_BUNDLE": "", "SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}


@needs("curl")
def test_curl_trusts_the_file(folder: Path, trusted: tuple[str, int]) -> None:
    """With --cacert; without it, it refuses in the words of "What an error means"."""
    command = put_in(trust_block("curl --cacert").text, trusted[1])
    assert "<title>wsdual" in shell(command, folder)
    with pytest.raises(AssertionError, match="SSL certificate problem: self-signed certificate"):
        shell(command.replace("--cacert server.crt", "-sS"), folder, env=UNTRUSTING)


@needs("openssl")
def test_openssl_trusts_the_file(folder: Path, trusted: tuple[str, int]) -> None:
    """It goes on to talk, and to no server whose name is another."""
    command = put_in(trust_block("openssl s_client").text, trusted[1])
    with process(shlex.split(command), folder) as started:
        assert started.stdin and started.stdout
        started.stdin.write(json.dumps(LOGIN) + "\n")
        started.stdin.flush()
        assert "welcome" in started.stdout.readline()
    with pytest.raises(AssertionError, match="ostname mismatch"):
        shell(command.replace("hostname localhost", "hostname elsewhere"), folder)


@needs("node")
def test_node_trusts_the_file(folder: Path, trusted: tuple[str, int]) -> None:
    """Without the variable it says DEPTH_ZERO_SELF_SIGNED_CERT."""
    command = put_in(trust_block("NODE_EXTRA_CA_CERTS").text, trusted[1])
    assert shell(command, folder) == "200\n"
    with pytest.raises(AssertionError, match="DEPTH_ZERO_SELF_SIGNED_CERT"):
        shell(command.replace("NODE_EXTRA_CA_CERTS=server.crt", "NODE_EXTRA_CA_CERTS="), folder)


def test_python_trusts_the_file(folder: Path, trusted: tuple[str, int]) -> None:
    """Without the file it says CERTIFICATE_VERIFY_FAILED."""
    (folder / "trusting.py").write_text(put_in(trust_block("cafile").text, trusted[1]))
    assert shell(f"{shlex.quote(sys.executable)} trusting.py", folder) == "200\n"
    (folder / "untrusting.py").write_text(
        (folder / "trusting.py").read_text().replace('cafile="server.crt"', "")
    )
    with pytest.raises(AssertionError, match="CERTIFICATE_VERIFY_FAILED"):
        shell(f"{shlex.quote(sys.executable)} untrusting.py", folder, env=UNTRUSTING)


def trust_commands() -> dict[str, list[str]]:
    """What the table tells to do, and to undo it, by the beginning of its first column."""
    table = rows("Trust it, and take it back", "system")
    return {row[0].partition(",")[0]: [word for cell in row[1:] for word in words(cell)] for row in table}


@needs("certutil")
def test_chromes_store_takes_the_certificate_and_forgets_it(folder: Path, tmp_path: Path) -> None:
    """As a trusted server, in a home of its own."""
    home, listing = {"HOME": str(tmp_path)}, f"certutil -d sql:{tmp_path}/.pki/nssdb -L"
    (tmp_path / ".pki" / "nssdb").mkdir(parents=True)
    add, remove = trust_commands()["Chrome"]
    shell(add, folder, env=home)
    assert re.search(r"(?m)^localhost\s+P,,", shell(listing, folder))
    shell(remove, folder, env=home)
    assert "localhost" not in shell(listing, folder)


def test_commands_for_each_system_are_those_that_cert_tool_prints() -> None:
    """The README and the tool say the same; changing this machine's store isn't a test's business."""
    _, certificate = cert_tool.make_certificate("localhost")
    crt, systems = Path("server.crt"), ("linux", "darwin", "win32")
    told = {name: cert_tool.how_to_trust(certificate, crt, name) for name in systems}
    told["linux"] = told["linux"].replace(cert_tool.chrome_database(), "$HOME/.pki/nssdb")
    table = trust_commands()
    assert len(table) == 7
    for start, commands in table.items():
        name = {"macOS: Safari": "darwin", "Windows: Chrome": "win32"}.get(start, "linux")
        if start != "Windows":  # by mouse
            assert commands and [word for word in commands if word not in told[name]] == []


OPEN = """
const [url, done] = arguments, told = [];
const socket = new WebSocket(url);
socket.onopen = () => { told.push("open"); socket.close(); };
socket.onerror = (event) => told.push(`error ${event.message}`);
socket.onclose = (event) => done([...told, event.code, event.reason]);
"""


def test_a_browser_tells_no_page_why_and_its_click_is_for_one_name(server: Program, tmp_path: Path) -> None:
    """Both traps, in Chromium."""
    from browser import chromium, url_of  # here, since it skips where there is none

    with chromium(tmp_path / "profile") as browser:
        browser.get(url_of(server) + "style.css")
        here, there = (f"wss://{host}:{server.port}/echo" for host in ("127.0.0.1", "localhost"))
        assert browser.execute_async_script(OPEN, here) == ["error undefined", 1006, ""]
        console = " ".join(entry["message"] for entry in browser.get_log("browser"))
        assert "net::ERR_CERT_AUTHORITY_INVALID" in console
        browser.get(url_of(server, "https") + "style.css")
        browser.find_element("id", "details-button").click()
        browser.find_element("id", "proceed-link").click()
        assert browser.execute_async_script(OPEN, here)[0] == "open"
        assert browser.execute_async_script(OPEN, there) == ["error undefined", 1006, ""]


@needs("curl", "openssl")
def test_client_certificates_are_asked_for(folder: Path) -> None:
    """Who has one is served; the others, and plain ones, aren't."""
    (authority,) = blocks("One authority for a class", "sh")
    make, start, without, fetch = (block.text for block in blocks("Client certificates", "sh"))
    (folder / "password.txt").write_text(PASSWORD + "\n")
    shell(put_in(authority.text + make, 0).replace(" --out", " --force --out"), folder)
    with started_by(start, folder) as address:
        assert shell(put_in(fetch, address[1]), folder).startswith("HTTP/1.1 200")
        with pytest.raises(AssertionError, match="certificate required"):
            shell(put_in(without, address[1]), folder)
        assert get(address)[0] == 403
        with Native(address) as native:
            native.send(LOGIN)
            assert "this server wants a client certificate" in native.receive_json()["reason"]


def test_who_trusts_the_authority_of_a_class_trusts_its_servers(folder: Path) -> None:
    """... by every name in their certificates; and no name of the internet is signed for."""
    (folder / "password.txt").write_text(PASSWORD + "\n")
    (make,) = blocks("One authority for a class", "sh")
    shell(put_in(make.text, 0).replace(" --out", " --force --out"), folder)
    start = blocks("Client certificates", "sh")[1].text.partition(" --client-ca")[0]
    with started_by(start, folder) as address:
        for name in ("server7.lan", "localhost"):
            trusting = ssl.create_default_context(cafile=str(folder / "class.crt"))
            with trusting.wrap_socket(socket.create_connection(address), server_hostname=name):
                pass
    with pytest.raises(AssertionError, match="outside what class.pfx may sign for"):
        shell(put_in(make.text.splitlines()[1].replace("server7.lan", "bank.example"), 0), folder)


# ================================================================ Reference


def test_paths_are_those_of_the_table(server: Program) -> None:
    """Each takes WebSockets, and / is the page; another path is 404."""
    paths = [words(row[0])[0] for row in rows("Paths", "path") if words(row[0])]
    assert sorted(paths) == ["/", "/chat", "/echo", "/monitor"]
    for path in paths:
        with WebSocket(server.address, path + "?query") as client:
            assert client.status == 101
    assert get(server.address)[0] == 200 and get(server.address, "/chat")[0] == 404
    assert http(server.address, upgrade_request(server.address, "/other"))[0] == 404


def test_who_may_connect_is_as_the_paths_say(server: Program) -> None:
    """A foreign page may not, the page from the disk may, a client that asks for another host may not."""

    def status(path: str = "/chat", **headers: str) -> int:
        try:
            with WebSocket(server.address, path, **headers) as client:
                return client.status
        except AssertionError as error:
            return int(re.search(r"HTTP/1.1 (\d+)", str(error))[1])  # type: ignore[index]

    own = f"127.0.0.1:{server.port}"
    assert (status(Origin="null"), status(Origin=f"https://{own}")) == (101, 101)
    assert status(Origin="https://elsewhere.example") == 403
    assert status(Host="elsewhere.example") == 403 and status("/monitor", Host="elsewhere.example") == 403


def test_the_chat_answers_as_its_table_says(start: Callable[..., Program]) -> None:
    """Each row, sent as it stands."""
    sent: dict[str, list[Any]] = {}
    for request, answer in rows("The chat", "client sends"):
        last = request or last  # type: ignore[has-type] # noqa: F821
        sent.setdefault(last, []).append(json.loads(next(word for word in words(answer) if word[0] == "{")))
    login, say, whisper, who, leave, other = sent
    server = start()
    with Native(server.address) as bob:
        with WebSocket(server.address, "/chat", tls=True) as ann:
            ann.send(words(login)[0])
            assert ann.receive_json() == sent[login][0]
            bob.send({"type": "login", "name": "bob"})
            assert bob.receive_json()["type"] == "welcome"
            assert ann.receive_json()["type"] == "joined"
            for request in (say, whisper):
                ann.send(words(request)[0])
                assert ann.receive_json() == bob.receive_json() == sent[request][0]
            ann.send(words(who)[0])
            answer = ann.receive_json()
            assert answer["users"][0] == sent[who][0]["users"][0] and answer["type"] == "users"
            ann.send(other)
            assert ann.receive_json()["type"] == "error"
            ann.send({"type": "other"})
            assert ann.receive_json() == sent[other][0]
            ann.sock.sendall(frame(8))
            assert bob.receive_json() == sent[leave][0]
        with WebSocket(server.address, "/chat", tls=True) as ann:
            ann.send(words(login)[0])
            assert bob.receive_json() == sent[login][1]


def monitor_json() -> dict[str, dict[str, Any]]:
    """The messages that the text shows, by their type."""
    return {
        message["type"]: message
        for message in map(json.loads, (b.text for b in blocks("The monitor", "json")))
    }


def same_shape(shown: Any, real: Any) -> bool:
    """Say whether two messages have the same fields, of the same types, in the same order."""
    if isinstance(shown, dict):
        same = list(shown) == list(real)
        return same and all(same_shape(shown[key], real[key]) for key in shown)
    if isinstance(shown, list):
        return bool(real) and same_shape(shown[0], real[0])
    return type(shown) is type(real)


def fields_of(watcher: Watcher) -> dict[str, set[str]]:
    """The fields of each step that a watcher has seen, beside those that all have."""
    seen: dict[str, set[str]] = {}
    for event in tuple(watcher.events):
        if event["type"] == "event":
            seen.setdefault(event["step"], set()).update(set(event) - {"type", "id", "time", "step"})
    return seen


def watch_bytes(watcher: Watcher, number: int, talker: WebSocket) -> None:
    """Watch a connection, while it sends five thousand bytes, and a number that there isn't."""
    shown = monitor_json()["bytes"]
    assert bytes.fromhex(shown["bytes"])[6:] == b"hola"
    watcher.client.send({"type": "watch", "id": number})
    watcher.client.send({"type": "watch", "id": 10**6})
    wait_until(lambda: any(e["type"] == "error" for e in watcher.events), watcher)
    talker.send("x" * 5000)
    data = wait_until(lambda: [e for e in watcher.events if e["type"] == "bytes"], watcher)[0]
    assert same_shape(shown, data) and len(data["bytes"]) == 2 * 4096 and data["more"] > 900
    wait_until(lambda: any(e.get("from") == "server" for e in watcher.events), watcher)
    watcher.client.send({"type": "unwatch", "id": number})


def test_the_monitors_messages_are_those_of_the_text(start: Callable[..., Program]) -> None:
    """Snapshot, event, each step, bytes: sent by a real server, with just these fields."""
    shown, server = monitor_json(), start("--memory", "30")
    steps = {words(row[0])[0]: set(words(row[1])) for row in rows("The monitor", "`step`")}
    steps["peeked"] -= {"tls", "http", "native", "unknown"}
    with connect(server.address) as sock:
        sock.sendall(b"?")
        assert closed(sock)
    with WebSocket(server.address, "/chat", tls=True) as ann:
        ann.send(LOGIN)
        ann.receive_json()
        with Watcher(server.address) as watcher:
            snapshot = {**watcher.snapshot, "clients": [c for c in watcher.snapshot["clients"] if c["tls"]]}
            assert same_shape(shown["snapshot"], snapshot)
            watch_bytes(watcher, snapshot["clients"][0]["id"], ann)
            with connect(server.address) as sock:
                sock.sendall(b"?" * 40)
                sock.shutdown(socket.SHUT_WR)
                assert closed(sock)
            with WebSocket(server.address, "/chat", tls=True) as bob:
                bob.send({"type": "login", "name": "bob"})
                bob.receive_json()
            with connect(server.address) as sock:
                sock.sendall(b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n")
                read_to_end(sock)
            wait_until(lambda: watcher.find("closed", code=1006), watcher)
            wait_until(lambda: watcher.find("refused"), watcher)
            assert same_shape(shown["event"], watcher.wait_for("peeked"))
            seen = fields_of(watcher)
    with connect(server.address, source="127.0.0.8") as sock, Watcher(server.address) as watcher:
        sock.sendall(b"?")
        seen["remembered"] = set(watcher.wait_for("remembered")) - {"type", "id", "time", "step"}
    assert seen == steps


def test_a_slow_watcher_is_told_how_much_it_missed(server: Program) -> None:
    """Then comes a fresh snapshot."""
    client = WebSocket(server.address)
    client.ask("here I am")
    watcher = WebSocket(server.address, "/monitor", sock=narrow(server.address))
    with watcher, client:
        number = next(c["id"] for c in watcher.receive_json()["clients"] if c["path"] == "/echo")
        watcher.send({"type": "watch", "id": number})
        while True:  # until the watch has begun
            client.ask("x")
            watcher.sock.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                if watcher.receive_json()["type"] == "bytes":
                    break
        watcher.sock.settimeout(PATIENCE)
        for _ in range(150):
            client.ask("x" * 4096)
        end = time.monotonic() + PATIENCE
        while (message := watcher.receive_json())["type"] != "missed":
            assert time.monotonic() < end
            client.ask("x")
        assert same_shape(monitor_json()["missed"], message) and message["events"] > 0
        assert watcher.receive_json()["type"] == "snapshot"


# ---- the module


def test_public_names_are_those_of_the_table() -> None:
    """__all__, no more and no less."""
    assert {name for row in rows("The module", "name") for name in words(row[0])} == set(wsdual.__all__)


def test_steps_that_may_be_overridden_are_those_that_say_so() -> None:
    """... in their docstrings; and a subclass of Connection can be set."""
    text = " ".join(section("The module")).rpartition("**Steps that may be overridden**")[2]
    told = set(re.findall(r"`((?:DualServer|Connection)\.\w+)`", text))
    parts = [part for part in vars(wsdual).values() if inspect.isclass(part) and part.__module__ == "wsdual"]
    found = {
        f"{part.__name__}.{name}"
        for part in parts
        for name, member in vars(part).items()
        if "May be overridden" in (getattr(member, "__doc__", None) or "")
    }
    assert told == found

    class AllHttp(wsdual.Connection):
        def detect(self) -> wsdual.Verdict:
            return wsdual.Verdict.HTTP

    with serving({}) as server:
        server.RequestHandlerClass = AllHttp
        assert http(address_of(server), "{}\r\n\r\n")[0] == 400


@posix
def test_the_modules_program_runs(tmp_path: Path) -> None:
    """Its first line is the one shown; the room, the clock and the closed door do what their names say."""
    port = free_port()
    program = tmp_path / "program.py"
    program.write_text(put_in(blocks("The module", "python")[0].text, port))
    address = ("127.0.0.1", port)
    with process([sys.executable, str(program)], tmp_path, PYTHONPATH=str(REPO)) as started:
        assert started.stdin and started.stdout and started.stderr
        assert started.stdout.readline() == blocks("The module", "text")[0].text
        assert started.stdout.readline() == "Return ends it.\n"
        status, _, why = http(address, upgrade_request(address, "/clock"))
        assert status == 401 and b"say /clock?password=" in why
        for answer, said in (("42", "right"), ("41", "wrong"), (None, "too late")):
            with WebSocket(address, "/quiz") as client:
                assert client.receive() == "What is 6 times 7?"
                if answer:
                    client.send(answer)
                assert client.receive() == said
        assert close_of(address, frame(TEXT, b"x" * 1001), path="/echo") == (1009, "message too big")
        with WebSocket(address, "/clock?password=") as client:
            assert [client.receive() for _ in range(3)] == ["tick 0", "tick 1", "tick 2"]
            assert client.receive_close() == (4000, "that was all")
        with WebSocket(address, "/") as one, Native(address) as other:
            assert one.ask("hi") == "ws: hi"
            other.send("{}")
            assert one.receive() == "tcp: {}" == other.receive()
        if sys.platform == "linux":
            with connect(address, source="127.0.0.9") as sock:
                assert closed(sock)
        started.stdin.write("\n")
        started.stdin.flush()
        output, errors = started.communicate(timeout=PATIENCE)
        assert started.returncode == 0 and errors == ""
        assert {"accepted", "peeked", "upgraded", "closed"} <= set(output.split())


EVERY_EVENT = """
const source = require("node:fs").readFileSync("static/index.js", "utf8");
const Engine = new Function(source + "; return Engine;")();
const names = Object.getOwnPropertyNames(Engine.prototype), engine = new Engine();
const told = {}, states = {};
for (const type of "message welcome joined left said users error".split(" "))
  engine.on(type, () => (told[type] = true));
engine.on("state", (now) => (states[now.state] = { ...states[now.state], ...now }));
engine.on("welcome", () => { engine.say("hi"); engine.who(); engine.send({ type: "?" }); });
engine.on("error", () => engine.send({ type: "x".repeat(2000000) })); // it ends the connection: 1009
engine.on("state", (now) => {
  if (now.state !== "waiting") return;
  engine.disconnect();
  engine.initialize("bad host", 1, false);
  engine.connect();
  const all = [names, Object.keys(engine), told, states, engine.url, engine.say("x")];
  console.log(JSON.stringify(all));
});
engine.initialize("127.0.0.1", 4530, false);
engine.connect();
engine.login("eve");
"""


WHY_NONE = {"address", "blocked", "unsupported", "unknown"}


def test_the_engines_methods_and_events_are_those_of_the_tables(server: Program) -> None:
    """In Node.js: every method, and every event that a login and a lost server bring."""
    node = node_command()
    if node is None:
        pytest.skip("needs Node.js 20.10 or newer")
    program = put_in(EVERY_EVENT, server.port)
    done = subprocess.run([*node, "-e", program], cwd=REPO, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    names, attributes, told, states, url, said = json.loads(done.stdout)
    told_in = " ".join(section("The page's Engine")).partition("Its methods are ")[2].partition(";")[0]
    assert {*words(told_in), "on", "constructor"} == set(names) - {"url"}
    assert {"state", "name"} <= set(attributes)
    events = [word for row in rows("The page's Engine", "event") for word in words(row[0])]
    assert set(told) <= set(events) and {"message", "welcome", "said", "users", "error"} <= set(told)
    assert set(events) == {"state", "message", "welcome", "joined", "left", "said", "users", "error"}
    assert set(states) == {"connecting", "open", "waiting", "closed"} and said is False
    table = [row for row in rows("The page's Engine", "event") if words(row[0]) in (["state"], [])]
    details = {word for row in table for word in words(row[1])}
    fields = {field for state in states.values() for field in state}
    assert fields | set(states) | {"lost", "failed", *WHY_NONE} == details
    assert set(states["open"]) == {"state", "afterSecondTry"} and (
        states["waiting"]["problem"],
        states["waiting"]["code"],
    ) == ("lost", 1009)
    assert set(states["waiting"]) == {"state", "milliseconds", "problem", "code", "reason"}
    assert states["closed"]["problem"] == "address" and url.startswith("ws://bad host")
    source = (REPO / "static" / "index.js").read_text(encoding="utf-8")
    assert all(f': "{problem}"' in source for problem in WHY_NONE), "its words for no WebSocket"


# ---- codes and statuses


def close_of(
    address: tuple[str, int], *data: bytes, path: str = "/", deflating: bool = False
) -> tuple[int, str]:
    """The close frame that answers these bytes."""
    with Deflating(address) if deflating else WebSocket(address, path) as client:
        client.sock.sendall(b"".join(data))
        return client.receive_close()


def test_close_codes_are_those_of_the_table() -> None:
    """Each is brought about."""

    def fail(peer: wsdual.Peer) -> None:
        raise RuntimeError("on purpose")

    def done(peer: wsdual.Peer) -> None:
        """Returns at once."""

    codes = {row[0]: row[1] for row in rows("Close codes", "code")}
    apps = {"/": wsdual.echo, "/echo": wsdual.echo, "/fail": fail, "/done": done}
    seen: dict[int, str] = {}
    with contextlib.ExitStack() as stack:
        with within(apps=apps, limits=wsdual.Limits(message=1000)) as address:
            for code, (sent, path, deflating) in {
                1000: ([], "/done", False),
                1002: ([frame(TEXT, b"x", mask=b"")], "/", False),
                1007: ([frame(TEXT, b"\xff\xff")], "/", False),
                1009: ([frame(TEXT, b"x" * 1001)], "/", False),
                1011: ([], "/fail", False),
                4321: ([frame(8, struct.pack("!H", 4321))], "/", False),
            }.items():
                got, reason = close_of(address, *sent, path=path, deflating=deflating)
                assert got == code
                seen[code] = reason
            assert close_of(address, frame(TEXT, b"x", rsv=4))[0] == 1002
            assert close_of(address, frame(CONTINUATION, b"x"))[0] == 1002
            begun = frame(TEXT, b"x", fin=False) + frame(CONTINUATION, fin=False) * 1025
            assert close_of(address, begun) == (1009, "message too big")
            assert close_of(address, frame(TEXT, b"\xff\xff\xff", rsv=4), deflating=True)[0] == 1007
            last = stack.enter_context(WebSocket(address, "/"))
            last.ask("hi")

            def hear_the_end() -> None:
                seen.update([last.receive_close()])
                last.sock.sendall(frame(8, struct.pack("!H", 1001)))
                last.sock.close()

            threading.Thread(target=hear_the_end).start()
        wait_until(lambda: 1001 in seen)
    assert {code for code in map(str, seen) if code != "4321"} == {code for code in codes if code.isdigit()}
    assert words(codes["1009"])[0] == seen[1009]


def undecided() -> int:
    """The status where verify_upgrade has a fault."""

    class Faulty(wsdual.DualServer):
        def verify_upgrade(self, request: wsdual.Request) -> None:
            raise RuntimeError("on purpose")

    with Faulty(("127.0.0.1", 0), {"/echo": wsdual.echo}) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        status: int = http(address_of(server), upgrade_request(address_of(server), "/echo"))[0]
        server.shutdown()
        thread.join()
    return status


def test_http_statuses_are_those_of_the_table(start: Callable[..., Program], server: Program) -> None:
    """Each is brought about."""
    at, head = server.address, f"Host: 127.0.0.1:{server.port}\r\n"
    hasty, full = start("--handshake-timeout", "0.3").address, start("--max-clients", "1").address

    def status(request: str | bytes) -> int:
        return http(at, request)[0]

    seen = {
        status(f"GET / HTTP/1.1\r\n{head}\r\n"),
        status("GET / HTTP/1.1\r\nHost: bad host\r\n\r\n"),
        status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        status(upgrade_request(at, "/echo", Origin="https://elsewhere.example")),
        status(f"GET /none HTTP/1.1\r\n{head}\r\n"),
        status(f"POST / HTTP/1.1\r\n{head}Content-Length: 0\r\n\r\n"),
        http(hasty, "GET / HT")[0],
        status(upgrade_request(at, "/echo", Sec_WebSocket_Version="8")),
        status(f"GET / HTTP/1.1\r\n{head}X: {'x' * 17000}\r\n\r\n"),
        status(f"POST / HTTP/1.1\r\n{head}Transfer-Encoding: gzip\r\n\r\n"),
        get(start("--tls-only").address)[0],
        undecided(),
    }
    assert status(f"BREW / HTTP/1.1\r\n{head}\r\n") == 501 and status(f"GET / HTTP/9.9\r\n{head}\r\n") == 505
    with WebSocket(full) as client:
        seen |= {client.status, get(full)[0]}
    assert seen == {int(row[0]) for row in rows("HTTP statuses", "status")}


# ---- what an error means

SOURCES = ("wsdual.py", "cert_tool.py")


def error_messages() -> list[str]:
    """The messages of the first two tables, which are the project's own."""
    text = "\n".join(section("What an error means")).partition("What clients say.")[0]
    cells = re.findall(r"(?m)^\| (`[^|]+`) \|", text)
    return [message for cell in cells for message in words(cell)]


def test_every_message_stands_in_the_sources() -> None:
    """Each piece between the names and numbers that vary."""
    # Pieces of a string over two lines, quotes, and the fields of f-strings don't count.
    source = " ".join((REPO / name).read_text(encoding="utf-8") for name in SOURCES)
    source = re.sub(r'"\n +f?"', "", source)
    source += "a local client asked for a client asked for"  # put together from two pieces; caused below
    messages = error_messages()
    assert len(messages) > 25
    for message in messages:
        text = re.sub(r"^(wsdual|cert_tool\.py): ", "", message)
        for piece in filter(None, (piece.strip(" :") for piece in re.split("…|: ", text))):
            if piece != "No module named":  # Python's own
                assert piece in source, message


def matches(message: str, line: str) -> bool:
    """Say whether a line that was seen is a message of the table."""
    return re.search(".*".join(map(re.escape, message.split("…"))), line) is not None


ONE_BY_ONE = """
import json, os, sys
import cert_tool, wsdual
for program, password, *arguments in json.load(sys.stdin):
    os.environ.pop("WSDUAL_PASSWORD", None)
    if password:
        os.environ["WSDUAL_PASSWORD"] = password
    try:
        assert {"wsdual": wsdual, "cert_tool": cert_tool}[program].main(arguments) == 1
    except SystemExit as ended:
        assert ended.code == 2
    print("--", flush=True, file=sys.stderr)
"""


def test_messages_at_the_start_are_those_of_the_table(folder: Path, server: Program, tmp_path: Path) -> None:
    """Each is brought about; it is one line on stderr, and the status isn't 0."""
    key, pair, alone = tmp_path / "other.key", tmp_path / "pair.pem", tmp_path / "wsdual.py"
    key.write_bytes(make_identity("other").key_pem())
    pair.write_bytes(make_identity("pair").pem())
    alone.write_text((REPO / "wsdual.py").read_text(encoding="utf-8"), encoding="utf-8")
    pfx, crt, authority = str(folder / "server.pfx"), str(folder / "server.crt"), str(tmp_path / "class.pfx")
    assert cert_tool.main(["authority", "--cn", "Our class", "--no-password", "--out", authority]) == 0
    commands = [
        ["wsdual", "", "--port", str(server.port)],
        ["wsdual", "", "--port", "0", "--host", "203.0.113.1"],
        ["wsdual", "wrong", "--port", "0", "--cert", pfx],
        ["wsdual", "", "--port", "0", "--cert", pfx],
        ["wsdual", "", "--port", "0", "--cert", str(README)],
        ["wsdual", "", "--port", "0", "--cert", crt],
        ["wsdual", "", "--port", "0", "--cert", str(pair), "--key", str(key)],
        ["wsdual", "", "--port", "0", "--client-ca", str(README)],
        ["wsdual", "", "--port", "0", "--key", crt],
        ["cert_tool", "", "--no-password", "--cn", "bank.example", "--signed-by", authority],
        ["cert_tool", "wrong", "show", pfx],
        ["cert_tool", "", "show", str(README)],
    ]

    def errors_of(*command: str, stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, *command], input=stdin, capture_output=True, text=True, cwd=REPO, timeout=30
        )
        assert done.stdout == "", done
        return done.stderr

    lines = errors_of("-c", ONE_BY_ONE, stdin=json.dumps(commands)).split("--\n")[:-1]
    assert len(lines) == len(commands), lines
    lines.append(errors_of("-S", "wsdual.py"))  # without its packages
    lines.append(errors_of(str(alone), "--port", "0"))  # copied alone
    lines.append(errors_of(str(alone), "--port", "0", "--cert", pfx))
    told = [m for m in error_messages() if m.startswith(("wsdual: ", "cert_tool.py: "))]
    assert [line for line in lines if line.count("\n") != 1] == []
    assert [m for m in told if not any(matches(m, line) for line in lines)] == []


CAUSED = (  # what cause_trouble brings about: messages of the table, and some that explain themselves
    "no TLS handshake: …",
    "unknown first bytes: the address is remembered",
    "neither HTTP nor a native client inside TLS",
    "a page of the foreign origin …",
    "a local client asked for …",
    "no WebSocket at …",
    "silent, or not ready, for … s",
    "the request took too long",
    "no line came in time",
    "a line has at most … bytes",
    "message too big",
    "closed without a close frame",
)


def cause_trouble(at: tuple[str, int]) -> None:
    """Do what clients do wrong, one after another."""
    host = "elsewhere.example"
    with pytest.raises(ssl.SSLError):
        connect(at, tls=ssl.create_default_context())
    for data in (b"?", upgrade_request(at, Origin=f"https://{host}"), upgrade_request(at, Host=host),
                 upgrade_request(at, "/none")):  # fmt: skip
        with connect(at) as sock:
            sock.sendall(data)
            closed(sock)
    with connect(at, tls=True) as sock:
        sock.sendall(b"?")
        closed(sock)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(at)) for _ in range(3)]
        for sock, data in zip(slow, (b"", b"GET / HT", b"{"), strict=True):
            sock.sendall(data)
        for sock in slow:
            read_to_end(sock)
    with Native(at) as native:
        native.send("{" + "x" * 1001)
        assert matches("a line has at most … bytes", native.receive())
    close_of(at, frame(TEXT, b"x" * 1001))
    WebSocket(at, "/echo").close()


def test_main_messages_of_a_connection_are_those_of_the_table(start: Callable[..., Program]) -> None:
    """Those that can be brought about soon, as a watcher sees them."""
    server = start("--handshake-timeout", "1", "--max-message", "1000", "-v")
    with Watcher(server.address) as watcher:
        cause_trouble(server.address)

        def told(message: str) -> bool:
            return any(matches(message, str(event.get("why"))) for event in tuple(watcher.events))

        for message in CAUSED:
            wait_until(lambda message=message: told(message), message)


def test_clients_words_are_told_as_theirs() -> None:
    """They are tried beside the clients; here: that none of those that are tried lacks a row."""
    cells = " ".join(row[0] for row in rows("What an error means", "message"))
    for said in (
        "1006",
        "ERR_CERT_AUTHORITY_INVALID",
        "SSL certificate problem: self-signed certificate",
        "DEPTH_ZERO_SELF_SIGNED_CERT",
        "CERTIFICATE_VERIFY_FAILED",
        "Connection refused",
    ):
        assert said in cells


# ================================================================ 中文


def test_the_chinese_summary_names_what_there_is(server: Program) -> None:
    """Its two commands are those of the start, its code words exist, its links lead somewhere."""
    text = "\n".join(section("中文"))
    assert blocks("中文", "sh")[0].text == blocks("Start", "sh")[0].text
    told = words(re.sub("(?s)```.*?```", "", text))
    for word in (
        "--detect trial",
        "--detect peek",
        "recv(16, MSG_PEEK)",
        "useWss",
        "server.pfx",
        "server.crt",
    ):
        assert word in told
    lines = README.read_text(encoding="utf-8").splitlines()
    headings = {line.lstrip("# ").lower() for line in lines if line.startswith("#")}
    links = re.findall(r"\]\(#([\w-]+)\)", text)
    assert links and set(links) <= headings
    for url in re.findall(r"<(https?)://127.0.0.1:4530/>", text):
        assert get(server.address, tls=url == "https")[0] == 200
    assert wsdual.PEEKED_BYTES == 16 and wsdual.IpMemory().seconds == 6
