# SPDX-License-Identifier: MIT
"""A real Chromium, and the page as it is seen in it. Where there is none, what imports this is skipped."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Program

pytest.importorskip("selenium", reason="needs selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
if not (CHROMIUM and CHROMEDRIVER):
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

PAGE_PATIENCE = 20.0  # seconds; a browser on a busy machine takes its time
WIDE, PHONE, NARROW = (1440, 900), (390, 844), (360, 740)
FOREIGN = "wsdual.test"  # a name for this machine that isn't a loopback one


@contextlib.contextmanager
def chromium(folder: Path, *flags: str) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own, and no window but the tests'."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (
        "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--lang=en",
        f"--window-size={WIDE[0]},{WIDE[1]}", f"--user-data-dir={folder}",
        f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1", *flags,
    ):  # fmt: skip
        options.add_argument(flag)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # which root can't have
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.set_page_load_timeout(30)
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The page in one window."""

    def __init__(self, browser: webdriver.Chrome, url: str, *, new: bool = False) -> None:
        if new:
            browser.switch_to.new_window("window")
        self.browser = browser
        browser.get(url)
        self.window = browser.current_window_handle

    def to_front(self) -> Page:
        """What follows happens in this window."""
        if self.browser.current_window_handle != self.window:
            self.browser.switch_to.window(self.window)
        return self

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page."""
        return self.to_front().browser.execute_script(script, *arguments)

    def one(self, selector: str) -> Any:
        """The element that a CSS selector finds."""
        return self.to_front().browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text of all elements that a CSS selector finds, in one reading: they may change any time."""
        return str(self.run(
            "const elements = document.querySelectorAll(arguments[0]);"
            "return Array.from(elements, element => element.innerText).join('\\n')", selector))  # fmt: skip

    def until(self, condition: Callable[[], Any], what: str = "") -> Any:
        """Wait for a condition; return its value."""
        wait = WebDriverWait(self.browser, PAGE_PATIENCE, 0.03, [StaleElementReferenceException])
        return wait.until(lambda _: condition(), what)

    def sees(self, selector: str, *words: str) -> None:
        """Wait until the elements show all these words."""

        def shown() -> bool:
            text = self.text(selector)
            return all(word in text for word in words)

        try:
            self.until(shown)
        except TimeoutException:
            raise AssertionError(f"{selector} shows {self.text(selector)!r}, not {words}") from None

    def inspects(self, client: str, provoke: Callable[[], object], *words: str) -> None:
        """Open the inspector on a client, and wait until it shows these words.

        No message tells when the server has begun to pass the bytes on: so provoke them until it does.
        """

        def shown(_: object) -> bool:
            text = self.text("#frames")
            return all(word in text for word in words)

        self.one(f"{client} button").click()
        for _ in range(int(PAGE_PATIENCE)):
            provoke()
            with contextlib.suppress(TimeoutException):
                WebDriverWait(self.browser, 1, 0.03).until(shown)
                return
        raise AssertionError(f"the inspector shows {self.text('#inspector')!r}, not {words}")

    def is_live(self) -> Page:
        """Wait until the server's window is connected."""
        self.sees("#monitor-state", "Live")
        return self

    def fill(self, field: str, text: object) -> None:
        """Write into a field."""
        element = self.one(f"#{field}")
        element.clear()
        element.send_keys(str(text))

    def connect(
        self, name: str, *, wss: bool | None = None, host: str | None = None, port: int | None = None
    ) -> None:
        """Fill in the form and press the button."""
        switch = self.one("#use-wss")
        if wss is not None and switch.is_selected() != wss:
            switch.click()
        if host is not None:
            self.fill("host", host)
        if port is not None:
            self.fill("port", port)
        self.fill("name", name)
        self.one("#connect").click()

    def log_in(self, name: str, **options: Any) -> Page:
        """Connect, and wait for the welcome."""
        self.connect(name, **options)
        self.sees("#state", f"as {name}")
        return self

    def say(self, text: str) -> None:
        """Say something."""
        self.fill("text", text)
        self.one("#say").click()

    def client(self, name: str) -> str:
        """Selector of a client's row in the server's window."""
        self.sees("#clients", name)
        number = self.run(
            "return Array.from(document.querySelectorAll('#clients [data-column=name]')).find("
            "cell => cell.innerText === arguments[0]).parentElement.dataset.id", name)  # fmt: skip
        return f"#clients tr[data-id='{number}']"

    def card(self, sock: socket.socket) -> str:
        """Selector of the card in the list of the last connections that is about this client of ours."""
        address = "{}:{}".format(*sock.getsockname())
        number = self.until(lambda: self.run(
            "return Array.from(document.querySelectorAll('#recent > li')).find("
            "card => card.innerText.includes(arguments[0]))?.dataset.id", f"from {address}\n"
        ), f"a card for {address}")  # fmt: skip
        return f"#recent > li[data-id='{number}']"

    def complaints(self) -> list[str]:
        """What the browser wrote to its console: broken scripts, violations of the security policy."""
        return [entry["message"] for entry in self.to_front().browser.get_log("browser")]


def url_of(program: Program, scheme: str = "http", host: str = "127.0.0.1") -> str:
    return f"{scheme}://{host}:{program.port}/"
