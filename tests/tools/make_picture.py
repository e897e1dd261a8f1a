#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Make tests/tools/page.png, the README's picture: python tests/tools/make_picture.py

Three clients in one room, wss, ws and native, and the server's window beside them. It needs what the
page's tests need: selenium, Chromium and its driver.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]

from browser import Page, chromium, url_of  # noqa: E402
from support import Native, Program, WebSocket  # noqa: E402

PICTURE = Path(__file__).with_name("page.png")
SIZE = (1200, 860)
LIGHT = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}


def main() -> None:
    """Start a server and a browser, let three clients talk, and take the picture."""
    with tempfile.TemporaryDirectory() as folder:
        server = Program(log=Path(folder) / "log", port=4530)
        try:
            take(server, Path(folder) / "profile")
        finally:
            server.end()
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes")


def take(server: Program, profile: Path) -> None:
    """The page is ann, over wss; bob and nora are clients of the tests."""
    with chromium(profile, "--ignore-certificate-errors") as browser, contextlib.ExitStack() as clients:
        metrics = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", LIGHT)
        page = Page(browser, url_of(server)).is_live().log_in("ann", wss=True)
        bob = clients.enter_context(WebSocket(server.address, "/chat"))
        bob.send({"type": "login", "name": "bob"})
        nora = clients.enter_context(Native(server.address))
        nora.send({"type": "login", "name": "nora"})
        page.sees("#people", "bob", "nora")
        page.say("hello, I came over wss")
        page.sees("#conversation", "over wss")
        bob.send({"type": "say", "text": "and I over ws"})
        page.sees("#conversation", "over ws")
        nora.send({"type": "say", "text": "and I over tcp: one line, one message"})
        page.sees("#conversation", "one line")
        for name in ("ann", "bob", "nora"):
            page.client(name)
        page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
        browser.save_screenshot(str(PICTURE))


if __name__ == "__main__":
    main()
