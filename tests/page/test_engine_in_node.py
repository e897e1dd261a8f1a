# SPDX-License-Identifier: MIT
"""The page's engine outside of a browser: Node's WebSockets tell less, and some Nodes have none."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from typing import Any

import pytest
from support import PATIENCE, REPO, Program

LOAD = """
    const source = require("node:fs").readFileSync("static/index.js", "utf8");
    require("node:vm").runInThisContext(source + ";globalThis.Engine = Engine", "index.js");
    const seen = [];
"""
TRY_ONCE = """
    new Engine().on("state", (now) => seen.push(now)).connect();
    console.log(JSON.stringify(seen));
"""


def node(*flags: str) -> list[str]:
    """The command; skips where there is no Node new enough for the engine's events."""
    if not (path := shutil.which("node")):
        pytest.skip("node isn't installed")
    has_events = subprocess.run([path, "-e", "new CustomEvent('x')"], capture_output=True, timeout=PATIENCE)
    if has_events.returncode:
        pytest.skip("this node has no CustomEvent")
    return [path, "--no-warnings", *flags]


def run(script: str, *flags: str) -> list[dict[str, Any]]:
    """Run a script after the engine's; return the states that it printed."""
    command = [*node(*flags), "-e", LOAD + script]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def with_websocket() -> list[str]:
    """The flags that give this Node its WebSocket; skips where there is none."""
    for flags in ([], ["--experimental-websocket"]):
        asked = [*node(*flags), "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
        if subprocess.run(asked, capture_output=True, timeout=PATIENCE).returncode == 0:
            return flags
    pytest.skip("this node has no WebSocket")


@pytest.mark.parametrize("leave", ["delete globalThis.WebSocket;", "globalThis.WebSocket = null;"])
def test_where_there_is_no_websocket_the_engine_says_so(leave: str) -> None:
    """It isn't the address that is bad: there is nothing to open it with."""
    last = run(leave + TRY_ONCE)[-1]
    assert (last["state"], last["problem"]) == ("closed", "unsupported"), last


THROWN = [
    ('new DOMException("no address", "SyntaxError")', "address"),
    ('new DOMException("not this port", "SecurityError")', "blocked"),
    ('new TypeError("something else")', "unknown"),
    ('new RangeError("something else")', "unknown"),
    ('"something else"', "unknown"),
]


@pytest.mark.parametrize(("thrown", "problem"), THROWN, ids=range(len(THROWN)))
def test_only_a_bad_address_is_told_as_one(thrown: str, problem: str) -> None:
    """Each thing that may be thrown has a name of its own; an unknown one brings its words along."""
    last = run(f"globalThis.WebSocket = class {{ constructor() {{ throw {thrown}; }} }};" + TRY_ONCE)[-1]
    assert (last["state"], last["problem"]) == ("closed", problem), last
    if problem == "unknown":
        assert "something else" in last["reason"]


def test_a_bad_address_of_nodes_own_websocket_is_told_as_one() -> None:
    """A real WebSocket's word for it is SyntaxError."""
    script = 'const bad = new Engine(); bad.initialize("a b", 1, false);'
    show = 'bad.on("state", (now) => seen.push(now)).connect(); console.log(JSON.stringify(seen));'
    last = run(script + show, *with_websocket())[-1]
    assert (last["state"], last["problem"]) == ("closed", "address"), last


UNTIL_IT_WAITS = """
    const engine = new Engine();
    engine.initialize("127.0.0.1", %d, %s, "%s");
    engine.on("state", (now) => {
      seen.push(now);
      if (now.state !== "waiting") return;
      console.log(JSON.stringify(seen));
      process.exit();
    });
    engine.connect();
    setTimeout(() => console.log(JSON.stringify(seen)), 5000);
"""


@pytest.mark.parametrize("why", ["nobody there", "no such path", "not trusted"])
def test_a_connection_that_never_opened_is_tried_again(server: Program, why: str) -> None:
    """Where it fails, Node 20 fires an error and no close event; the engine goes on all the same."""
    port, secure, path = server.port, "false", "/chat"
    if why == "nobody there":
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))  # and is closed before anybody tries it
            port = sock.getsockname()[1]
    elif why == "no such path":
        path = "/missing"
    else:
        secure = "true"
    seen = run(UNTIL_IT_WAITS % (port, secure, path), *with_websocket())
    tries = 2 if why == "not trusted" else 1  # for wss there is a second one at once
    assert [now["state"] for now in seen] == ["connecting"] * tries + ["waiting"], seen
    assert (seen[-1]["problem"], seen[-1]["code"]) == ("failed", 1006)
