# SPDX-License-Identifier: MIT
"""The README as a whole, its problem and its walkthrough: the quotes are right, and so are the pictures."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from readme import README, all_blocks, blocks
from support import *

import cert_tool
import wsdual

COVERS = ("The problem, and two answers", "Walkthrough", "How fast", "Tests")
MODULE = (REPO / "wsdual.py").read_text(encoding="utf-8").splitlines()
QUOTED = ("DualServer", "Connection", "classify", "IpMemory", "check_host")  # the rest is told in words
SCREEN = 40  # lines of a function, its docstring included


def find_quote(quote: str) -> int:
    """The line of the module where a quote begins; -1 where it isn't in there."""
    wanted = quote.splitlines()
    for start in range(len(MODULE) - len(wanted) + 1):
        found = "\n".join(MODULE[start : start + len(wanted)])
        if textwrap.dedent(found) == textwrap.dedent("\n".join(wanted)):
            return start
    return -1


def test_what_the_walkthrough_quotes_stands_in_the_module_in_the_same_order() -> None:
    """A quote that the module has outgrown would teach what isn't so."""
    quotes = blocks("Walkthrough", "python")
    places = [find_quote(block.text) for block in quotes]
    assert [str(block) for block in quotes if find_quote(block.text) < 0] == []
    assert places == sorted(places)
    parts = [node for node in ast.parse("\n".join(MODULE)).body if getattr(node, "name", None) in QUOTED]
    for block, place in zip(quotes, places, strict=True):
        inside = (part.lineno <= place + 1 <= (part.end_lineno or 0) for part in parts)
        assert any(inside), f"{block}: not of a part that is quoted"


def in_backticks() -> list[str]:
    """What the README's text has between backticks, on one line or over two."""
    text = re.sub(r"(?ms)^```.*?^```", "", README.read_text(encoding="utf-8"))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def test_every_name_of_the_module_that_the_readme_uses_is_there() -> None:
    """`DualServer.enter`, `peer.send()` and the like."""
    owners = {"peer": wsdual.Peer} | vars(wsdual)
    found = [re.match(r"(\w+)\.([a-z]\w*)", span) for span in in_backticks()]
    named = {match.groups() for match in found if match and match[1] in owners}
    assert len(named) > 15
    source = "\n".join(MODULE)
    missing = [f"{owner}.{name}" for owner, name in sorted(named)
               if not hasattr(owners[owner], name) and f"self.{name}" not in source]  # fmt: skip
    assert missing == []


def test_every_function_and_class_that_the_walkthrough_names_is_there() -> None:
    """`serve_http`, `IpMemory`, `bare_context`: as a definition in the module."""
    story = README.read_text(encoding="utf-8").split("\n## Walkthrough\n")[1].split("\n## ")[0]
    story = re.sub(r"(?ms)^```.*?^```", "", story)
    named = set(re.findall(r"`(?:\w+\.)?([a-z]+_\w+|[A-Z]\w+[a-z])`", story))
    assert len(named) > 15
    source = "\n".join(MODULE)
    ours = sorted(named - {"SSLSocket"})
    assert [name for name in ours if not re.search(rf"(def|class) {name}\b", source)] == []


def test_every_flag_that_the_readme_names_is_there() -> None:
    """... of wsdual.py or of cert_tool.py; some are other programs'."""
    others = {"--cacert", "--experimental-websocket", "--use-openssl-ca", "--minutes", "--system", "--fresh"}
    helps = [["wsdual.py"], ["cert_tool.py"], ["cert_tool.py", "authority"]]
    told = ""
    for command in helps:
        told += subprocess.run(
            [sys.executable, *command, "--help"], cwd=REPO, capture_output=True, text=True
        ).stdout
    flags = {flag for span in in_backticks() for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span)}
    assert len(flags) > 20
    assert [flag for flag in sorted(flags - others) if not re.search(rf"{flag}\b", told)] == []


def test_a_chat_login_over_wss_is_logged_as_the_walkthrough_shows(start: Callable[..., Program]) -> None:
    """The same steps, in the same order, with the same words."""
    (shown,) = blocks("Walkthrough", "text")
    server = start("-v")
    with WebSocket(server.address, "/chat", tls=True) as client:
        client.send({"type": "login", "name": "ann"})
        assert client.receive_json()["type"] == "welcome"
        client.sock.sendall(bytes.fromhex("88820000000003e8"))
        assert client.receive_close()[0] == 1000
        assert closed(client.sock)
    server.end()
    logged = [line for line in server.log().splitlines() if re.match(r"[\d:]{8} #1 ", line)]
    assert [plain(line) for line in logged] == [plain(line) for line in shown.text.splitlines()]


def plain(line: str) -> str:
    """A line of the log without what differs from run to run."""
    line = re.sub(r"^[\d:]{8}|(?<=us=)[\d.]+|(?<=127\.0\.0\.1:)\d+", "", line)
    return re.sub(r"(?<=bytes=160301)\w+", "", line)


def test_the_first_bytes_of_both_clients_are_those_of_the_problem() -> None:
    """An upgrade request as it is sent, and a ClientHello as OpenSSL makes it."""
    request, hello, *_ = (block.text for block in blocks("The problem, and two answers", "text"))
    shown = bytes.fromhex(request.split("...")[0])
    assert upgrade_request(("127.0.0.1", 4530), "/chat").startswith(shown)
    assert re.sub(r"\s", "", request.split("...")[1]).encode() == re.sub(rb"\s", b"", shown)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        any_tls().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    real, shown = outgoing.read(), bytes.fromhex(hello.split("...")[0])
    assert shown[:3] == real[:3] and shown[5] == real[5] == 1, "a record of type 22, with a ClientHello in it"
    assert int.from_bytes(shown[3:5], "big") == int.from_bytes(shown[6:9], "big") + 4, "the lengths agree"


@pytest.mark.parametrize("detect", ["trial", "peek"])
def test_each_method_takes_the_steps_of_its_diagram(detect: str, start: Callable[..., Program]) -> None:
    """How often a wss client connects, and what the server does each time."""
    trial, peek = [block.text for block in blocks("The problem, and two answers", "text")][2:4]
    diagram = trial if detect == "trial" else peek
    server = start("--detect", detect)
    with Watcher(server.address) as watcher:
        for attempt in range(diagram.count("connects")):
            if "close" in diagram and attempt == 0:
                with connect(server.address) as sock:
                    sock.sendall(b"\x16\x03\x01")
                    assert closed(sock)
            else:
                with WebSocket(server.address, "/echo", tls=True) as client:
                    assert client.ask("hi") == "hi"
        watcher.wait_for("upgraded", kind="wss")
        steps = [event["step"] for event in watcher.events if event["id"] > 1 and event["step"] != "closed"]
    refused = ["accepted", "peeked", "remembered", "refused", "accepted", "wrapped", "upgraded"]
    assert steps == (refused if detect == "trial" else ["accepted", "peeked", "wrapped", "upgraded"])


def test_every_block_of_the_readme_is_tried() -> None:
    """Each stands under a heading that one of the test files covers."""
    names = [path.stem for path in Path(__file__).parent.glob("test_lesson*.py")]
    covered = {heading for name in names for heading in importlib.import_module(name).COVERS}
    found = all_blocks()
    assert [str(block) for block in found if not covered & set(block.headings)] == []
    assert [str(block) for block in found if not block.language] == [], "a block says its language"
    headings = {heading for block in found for heading in block.headings}
    assert covered - headings - {"In production", "How fast"} == set(), "headings that are no more"


def test_the_links_of_the_readme_lead_somewhere() -> None:
    """To a heading of the page, or to a file of the project."""
    text = README.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    for target in targets:
        assert (target[1:] in anchors) if target.startswith("#") else (REPO / target).is_file(), target


def test_the_test_command_is_the_one_that_runs_these_tests() -> None:
    """As far as that can be tried in here: pytest finds this very test by it."""
    (block,) = blocks("Tests", "sh")
    command = block.text.replace(".venv/bin/python", sys.executable).split()
    collect = [*command, "--collect-only", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(collect, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "test_the_test_command" in done.stdout


def test_each_source_file_names_the_licence_and_the_readme_has_it_in_full() -> None:
    """Copying has to be allowed to be useful."""
    sources = [REPO / "wsdual.py", REPO / "cert_tool.py", REPO / ".ci" / "run"]
    sources += [*(REPO / "tests").rglob("*.py"), *(REPO / "static").iterdir()]
    for source in sources:
        head = source.read_text(encoding="utf-8")[:400]
        assert "SPDX-License-Identifier: MIT" in head, source.name
    licence = README.read_text(encoding="utf-8").rpartition("\n## Licence\n")[2]
    words = " ".join(licence.split())
    assert "Permission is hereby granted, free of charge" in words and "WITHOUT WARRANTY OF ANY KIND" in words


@pytest.mark.parametrize("module", [wsdual, cert_tool], ids=lambda module: str(module.__name__))
def test_every_function_fits_on_a_screen_and_says_what_it_does(module: object) -> None:
    """No function longer than a screen; a docstring on each that another could call."""
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    long = [f.name for f in functions if isinstance(f, ast.FunctionDef) and f.end_lineno - f.lineno >= SCREEN]  # type: ignore[operator]
    assert long == []
    inner = {g for f in functions if isinstance(f, ast.FunctionDef) for g in ast.walk(f) if g is not f}
    silent = [f.name for f in functions
              if f not in inner and not f.name.startswith("_") and not ast.get_docstring(f)]  # fmt: skip
    assert silent == []
