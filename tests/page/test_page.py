# SPDX-License-Identifier: MIT
"""The page and the server's window, in a real Chromium: what a class sees."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import FOREIGN, NARROW, PAGE_PATIENCE, PHONE, Page, chromium, url_of
from selenium import webdriver
from selenium.webdriver.support.ui import Select
from support import *

from wsdual import App, Monitor, echo, server_context

# ---------------------------------------------------------------- a browser, and what is seen in it


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser that takes every certificate, shared by the tests."""
    with chromium(tmp_path_factory.mktemp("chromium"), "--ignore-certificate-errors") as driver:
        yield driver


@pytest.fixture
def browser(trusting: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The shared browser, with one empty window, before a test and after it."""
    yield trusting
    first, *others = trusting.window_handles
    for other in others:
        trusting.switch_to.window(other)
        trusting.close()
    trusting.switch_to.window(first)
    trusting.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    trusting.get("about:blank")
    trusting.get_log("browser")  # empties it


@pytest.fixture(name="server")
def empty_server(server: Program) -> Program:
    """The shared server, once those whom the test before left behind have gone."""

    def nobody_else() -> bool:
        with WebSocket(server.address, "/monitor") as watcher:
            return len(watcher.receive_json()["clients"]) == 1

    wait_until(nobody_else, "the clients of the last test are gone")
    return server


@contextlib.contextmanager
def native(program: Program, name: str, *, tls: bool = False) -> Iterator[Native]:
    """A native client that is logged in."""
    with Native(program.address, tls=tls) as client:
        client.send({"type": "login", "name": name})
        assert client.receive_json()["type"] == "welcome"
        yield client


def heard(client: Native, kind: str) -> dict[str, Any]:
    """The next message of a kind that a native client gets."""
    while (message := client.receive_json())["type"] != kind:
        pass
    return message


# ---------------------------------------------------------------- the picture, alive


def test_ws_wss_and_native_talk_and_the_servers_window_shows_all_three(
    browser: webdriver.Chrome, server: Program
) -> None:
    """The article's picture: a wss, a ws and a native client in one room, and in the server's window."""
    ann = Page(browser, url_of(server)).is_live()
    ann.log_in("ann", wss=True)
    bob = Page(browser, url_of(server), new=True).is_live()
    bob.log_in("bob", wss=False)
    with native(server, "nora") as nora:
        for page in (ann, bob):
            page.sees("#people", "wss\nann", "ws\nbob", "tcp\nnora")
        ann.say("hello from wss")
        bob.sees("#conversation", "ann\nhello from wss")
        bob.say("hello from ws")
        ann.sees("#conversation", "bob\nhello from ws")
        assert [heard(nora, "said")["text"] for _ in range(2)] == ["hello from wss", "hello from ws"]
        nora.send({"type": "say", "text": "hello from a line"})
        for page in (ann, bob):
            page.sees("#conversation", "nora\nhello from a line")
            page.sees(page.client("ann"), "wss", "/chat", "TLS 1.3")
            page.sees(page.client("bob"), "ws", "/chat", "no TLS")
            page.sees(page.client("nora"), "tcp", f"127.0.0.1:{nora.sock.getsockname()[1]}", "no TLS")
    ann.sees("#conversation", "nora left.")
    ann.until(lambda: "nora" not in ann.text("#clients"), "nora has left the server's window")
    assert bob.complaints() == []


def test_a_private_message_reaches_its_receiver_alone(browser: webdriver.Chrome, server: Program) -> None:
    """... and never everyone, not even where the receiver has left while it was written."""
    page = Page(browser, url_of(server)).log_in("ann")
    with native(server, "eve") as eve:
        with native(server, "nora") as nora:
            page.sees("#people", "nora")
            page.one("#people [data-name=nora] button").click()
            page.say("psst")
            page.sees("#conversation", "ann to nora alone\npsst")
            assert heard(nora, "said")["to"] == "nora"
        page.sees("#conversation", "nora left.")
        assert Select(page.one("#to")).first_selected_option.text == "nora (not here)"
        page.say("still private")
        page.sees("#conversation", "The server says: no such user")
        Select(page.one("#to")).select_by_visible_text("everyone")
        page.say("for all")
        assert heard(eve, "said") == {"type": "said", "from": "ann", "text": "for all"}


def test_a_name_in_use_is_said_and_another_one_logs_in(browser: webdriver.Chrome, server: Program) -> None:
    """The connection stays; another name is enough."""
    with native(server, "ann"):
        page = Page(browser, url_of(server))
        page.connect("ann")
        page.sees("#trouble", "the name ann is in use")
        page.sees("#state", "Connected over ws, not logged in")
        assert page.run("return document.activeElement.id") == "name"
        page.log_in("ann2")
        assert page.text("#trouble") == ""


def test_what_others_write_is_text_and_never_markup(browser: webdriver.Chrome, server: Program) -> None:
    """In the conversation, among the people, in the server's window and in the inspector."""
    markup = "<img src=x onerror=alert(1)>"
    page = Page(browser, url_of(server)).is_live().log_in("ann")
    with native(server, markup) as mallory:
        page.sees("#people", markup)
        says = {"type": "say", "text": f"{markup}<script>document.title='gotcha'</script>"}
        page.inspects(page.client(markup), lambda: mallory.send(says), f"{markup}<script>")
        page.sees("#conversation", f"{markup}<script>")
        page.sees("#recent", f"logged in: {markup}")
        assert page.run("return document.querySelectorAll('body img, body script').length") == 0
        assert page.complaints() == []


def test_who_leaves_the_page_leaves_the_room(browser: webdriver.Chrome, server: Program) -> None:
    """... though the browser may keep the page, connections and all; "back" brings it back alive."""
    with native(server, "nora") as nora:
        page = Page(browser, url_of(server)).log_in("ann")
        assert heard(nora, "joined")["name"] == "ann"
        browser.get("about:blank")
        assert heard(nora, "left")["name"] == "ann"
        browser.back()
        page.is_live().log_in("ann")


# ---------------------------------------------------------------- the migration: who still comes plain


def seen_by(watcher: WebSocket) -> dict[str, dict[str, Any]]:
    """What a new window is told of the clients that are there: address -> client."""
    return {client["address"]: client for client in watcher.receive_json()["clients"]}


def address_of_client(sock: socket.socket) -> str:
    """As the server tells it."""
    return "{}:{}".format(*sock.getsockname())


def row(page: Page, sock: socket.socket) -> str:
    """Selector of the row of one of our clients in the server's window, named or not."""
    number = page.until(lambda: page.run(
        "return Array.from(document.querySelectorAll('#clients [data-column=address]')).find("
        "cell => cell.innerText === arguments[0])?.parentElement.dataset.id", address_of_client(sock)
    ), f"a row for {address_of_client(sock)}")  # fmt: skip
    return f"#clients tr[data-id='{number}']"


def shown_since(page: Page, selector: str) -> float:
    """The moment that is shown there, to the millisecond."""
    moment = "return Date.parse(document.querySelector(arguments[0]).dateTime)"
    return float(page.run(moment, f"{selector} time")) / 1000


def test_the_window_counts_plain_and_tls_and_tells_since_when_the_plain_ones_are_there(
    browser: webdriver.Chrome, server: Program
) -> None:
    """Who was there before the window has its time from the snapshot, who comes later from the event."""
    with contextlib.ExitStack() as clients:
        first = clients.enter_context(WebSocket(server.address, "/echo"))
        clients.enter_context(native(server, "tom", tls=True))
        clients.enter_context(WebSocket(server.address, "/chat", tls=True))
        page = Page(browser, url_of(server)).is_live()
        watcher = clients.enter_context(WebSocket(server.address, "/monitor"))
        since = seen_by(watcher)[address_of_client(first.sock)]["since"]
        clock = time.strftime("%H:%M", time.localtime(since))
        page.sees("#migration", "By TLS: 2 · plain: 1, since ", clock, "windows: 2")
        page.sees(row(page, first.sock), "no TLS, since ", clock)
        with native(server, "nora") as nora:
            while (event := watcher.receive_json())["step"] != "accepted":
                pass
            assert event["address"] == address_of_client(nora.sock)
            page.sees("#migration", "By TLS: 2 · plain: 2, the first since ", clock)
            for selector, moment in {
                "#migration": since, row(page, first.sock): since, row(page, nora.sock): event["time"]
            }.items():  # fmt: skip
                assert shown_since(page, selector) == pytest.approx(moment, abs=0.001), selector
        page.sees("#migration", "plain: 1, since ")
        first.close()
        page.sees("#migration", "By TLS: 2 · plain: 0 · windows: 2")
        assert "since" not in page.text("#migration")
        assert page.complaints() == []


def test_who_came_before_the_window_and_talks_only_now_has_a_time_too(
    browser: webdriver.Chrome, server: Program
) -> None:
    """Neither a snapshot nor an event told of its arrival: the first event that the window sees counts."""
    with connect(server.address) as sock:
        request = upgrade_request(server.address)
        sock.sendall(request[:40])
        page = Page(browser, url_of(server)).is_live()
        before = time.time()
        sock.sendall(request[40:])
        page.sees("#migration", "By TLS: 0 · plain: 1, since ")
        assert before - 0.001 <= shown_since(page, "#migration") <= time.time()


def test_a_time_of_another_day_tells_the_day(browser: webdriver.Chrome, server: Program) -> None:
    """A client may stay for weeks."""
    page = Page(browser, url_of(server))
    words = """
        const seconds = (...moment) => new Date(...moment).getTime() / 1000;
        return sinceInWords(seconds(...arguments[0]), new Date(2026, 10, 24, 10, 0));
    """
    for moment, expected in {
        (2026, 10, 24, 9, 41): "09:41",
        (2026, 10, 24, 0, 0): "00:00",
        (2026, 10, 23, 23, 59): "23 Nov, 23:59",
        (2026, 9, 24, 9, 41): "24 Oct, 09:41",
        (2025, 10, 24, 9, 41): "24 Nov 2025, 09:41",
    }.items():
        assert page.run(words, list(moment)) == expected


def test_the_plain_ones_come_first_and_no_crowd_hides_them(
    browser: webdriver.Chrome, server: Program
) -> None:
    """The list has an end, and those by TLS are left out of it before the plain ones are."""
    kinds = "return Array.from(document.querySelectorAll('#clients tr'), (row) => row.dataset.kind)"
    page = Page(browser, url_of(server)).is_live()
    with contextlib.ExitStack() as clients:
        for number, tls in enumerate((True, False, True, True, False)):
            clients.enter_context(native(server, f"nora{number}", tls=tls))
            page.client(f"nora{number}")
        assert page.run(kinds) == ["tcp", "tcp", "tcps", "tcps", "tcps", "ws"], "the last is the window"
        page.run("ServerWindow.CLIENTS = 3; serverWindow.draw()")
        page.until(lambda: page.run(kinds) == ["tcp", "tcp", "tcps"], "three of them")
        page.sees("#migration", "By TLS: 3 · plain: 2")


def test_a_client_certificates_subject_is_shown(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """... as text, beside what TLS agreed on, and it fits on a phone however long it is."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": PHONE[0], "height": PHONE[1], "deviceScaleFactor": 1, "mobile": True})  # fmt: skip
    ours, theirs = make_identity("localhost"), make_identity("<b>" + "ann" * 15)
    for name, identity in {"server": ours, "ann": theirs}.items():
        (tmp_path / f"{name}.pem").write_bytes(identity.pem())
        (tmp_path / f"{name}.key").write_bytes(identity.key_pem())
    cert, key, trusted = tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ann.pem"
    settings = server_context(cert, key=key, client_ca=trusted)
    settings.verify_mode = ssl.CERT_OPTIONAL  # so that there are others, too
    client = any_tls()
    client.load_cert_chain(tmp_path / "ann.pem", tmp_path / "ann.key")
    with serving({"/echo": echo}, tls=settings, static=REPO / "static") as server:
        server.apps["/monitor"] = App(Monitor(server), loopback_only=True)
        address = address_of(server)
        with WebSocket(address, tls=client) as ann, WebSocket(address, tls=True) as nobody:
            page = Page(browser, "http://{}:{}/".format(*address)).is_live()
            page.sees(row(page, ann.sock), "TLS 1.3", "certificate CN=\\<b\\>" + "ann" * 15)
            page.sees(row(page, nobody.sock), "TLS 1.3")
            assert "certificate" not in page.text(row(page, nobody.sock))
            with WebSocket(address, tls=client) as later:
                page.sees(row(page, later.sock), "certificate CN=")
            assert page.run("return document.documentElement.scrollWidth") == PHONE[0]


# ---------------------------------------------------------------- detection, seen


def test_first_bytes_are_shown_with_the_words_for_what_they_mean(
    browser: webdriver.Chrome, server: Program
) -> None:
    """The deciding byte marked, the verdict, the microseconds, and the steps that followed."""
    page = Page(browser, url_of(server)).is_live()
    with native(server, "tom", tls=True) as tom, native(server, "nora") as nora:
        card = page.card(tom.sock)
        page.sees(card, "16 03 01: a TLS record, type 22: handshake; the 01 in it: a ClientHello of")
        page.sees(card, "TLS in", "µs")
        page.sees(card, "accepted", "looked at", "handshake", "logged in: tom", "tcps")
        assert page.text(f"{card} .deciding") == "16\n·"
        assert page.run("return document.querySelectorAll(arguments[0]).length", f"{card} .byte") == 16
        card = page.card(nora.sock)
        page.sees(card, "7b: “{”, JSON begins: a native client’s line", "native in", "logged in: nora", "tcp")
        assert page.text(f"{card} .deciding") == "7b\n{"
    with WebSocket(server.address, "/echo") as client:
        card = page.card(client.sock)
        page.sees(card, "47 45 54 20: “GET ”, an HTTP request", "HTTP in", "upgraded to ws, /echo")
        assert page.text(f"{card} .deciding") == "47\nG"
        assert page.run("return document.querySelectorAll(arguments[0]).length", f"{card} .confirming") == 3
    page.sees(card, "closed 1006")


def test_unknown_bytes_and_the_remembered_address_running_down(
    browser: webdriver.Chrome, start: Callable[..., Program]
) -> None:
    """An entry is shown with a bar, and is gone when its time is."""
    server = start("--memory", "1.5")
    page = Page(browser, url_of(server)).is_live()
    page.sees("#memory-empty", "none")
    page.run("""
        window.left = [];  // of the bar, from 1 to 0; noted by the page itself, however slow the test is
        setInterval(() => {
          const bar = document.querySelector("#memory [data-ip='127.0.0.1'] progress");
          if (bar) left.push(bar.value / bar.max);
        }, 50);
    """)
    with connect(server.address) as sock:
        sock.sendall(b"\x00\x01\x02\x03")
        page.sees(page.card(sock), "00: no TLS record, no HTTP method, no “{”", "unknown in")
        page.sees(page.card(sock), "127.0.0.1 remembered for 1.5 s", "refused: unknown first bytes")
        page.until(lambda: page.run("return left.length") and not page.text("#memory"), "came, and is gone")
    left = page.run("return left")
    assert left == sorted(left, reverse=True) and left[0] > 0.5 > left[-1]


def test_by_the_trial_method_the_page_gets_through_with_wss_by_itself(
    browser: webdriver.Chrome, start: Callable[..., Program]
) -> None:
    """Its first attempt is closed by the server, the next one gets TLS; the window shows both."""
    server = start("--detect", "trial", "--memory", "20")
    page = Page(browser, url_of(server)).is_live()
    page.sees("#method-title", "trial")
    page.log_in("ann", wss=True)
    page.sees(page.client("ann"), "wss", "TLS 1.3")
    page.sees("#recent", "16 03 01: a TLS record", "unreadable in", "remembered for 20 s")
    page.sees("#recent", "refused: unreadable first message")
    page.sees("#recent", "A remembered address: TLS was expected before a byte was read.", "logged in: ann")
    page.sees("#memory", "127.0.0.1")
    page.is_live()  # what is open already stays
    with connect(server.address) as sock:  # but now every new client from here is taken for TLS
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        page.sees(page.card(sock), "refused: no TLS", "(a plain client, where TLS was expected)")
    other = Page(browser, url_of(server, "https"), new=True)
    other.is_live()
    assert other.one("#use-wss").is_selected()  # it follows how the page was loaded


class HoldingProxy:
    """Passes plain connections on to the server, and holds TLS ones until it is told what to do with them."""

    def __init__(self, program: Program) -> None:
        self._target = program.address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._held: list[socket.socket] = []
        self._lock = threading.Lock()
        self.passes = False
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> HoldingProxy:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()
        for sock in self.held():
            sock.close()

    def held(self) -> list[socket.socket]:
        """The TLS connections that are held now."""
        with self._lock:
            return list(self._held)

    def cut(self, socks: list[socket.socket]) -> None:
        """Close some of them, as the trial method does."""
        with self._lock:
            self._held = [sock for sock in self._held if sock not in socks]
        for sock in socks:
            sock.recv(65536)
            sock.close()

    def let_pass(self) -> None:
        """Hold no more."""
        with self._lock:
            self.passes = True
            held, self._held = self._held, []
        for sock in held:
            self._pass_on(sock)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._begin, args=(sock,), daemon=True).start()

    def _begin(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            is_tls = sock.recv(1, socket.MSG_PEEK) == b"\x16"
            with self._lock:
                holds = is_tls and not self.passes
                if holds:
                    self._held.append(sock)
            if not holds:
                self._pass_on(sock)

    def _pass_on(self, sock: socket.socket) -> None:
        server = socket.create_connection(self._target)
        for pair in ((sock, server), (server, sock)):
            threading.Thread(target=self._copy, args=pair, daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def test_the_engine_tries_wss_a_second_time_at_once_where_the_first_was_closed(
    browser: webdriver.Chrome, server: Program
) -> None:
    """With no pause between, since the server's memory is short. (Chromium may have tried twice itself.)"""
    with HoldingProxy(server) as proxy:
        page = Page(browser, f"http://127.0.0.1:{proxy.port}/").is_live()
        page.run("window.states = []; clientHalf.engine.on('state', now => states.push(now.state))")
        page.connect("ann", wss=True)

        def second_try() -> bool:
            of_first_try = proxy.held()  # since they are looked up before the states are
            if page.run("return states").count("connecting") == 2:
                return True
            proxy.cut(of_first_try)
            return False

        page.until(second_try, "a second try")
        proxy.let_pass()
        page.sees("#state", "Connected over wss as ann")
        page.sees("#conversation", "The first wss attempt was closed, as the trial method does it.")
        assert page.run("return states") == ["connecting", "connecting", "open"]


# ---------------------------------------------------------------- reconnecting, and errors in words


def test_the_page_comes_back_by_itself_when_the_server_does(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    """Both halves say that the server is gone, and go on when it is there again: logged in, and live."""
    with running(tmp_path) as server:
        page = Page(browser, url_of(server)).is_live().log_in("ann")
    page.sees("#state", "Not connected, retrying in")
    page.sees("#monitor-state", "Not connected, retrying in")
    page.sees("#conversation", "The server was stopped. (1001")
    page.sees("#trouble", "No answer from ws://127.0.0.1:", "Is the server running there?")
    with running(tmp_path, port=server.port):
        page.sees("#state", "Connected over ws as ann")
        page.is_live()
        page.sees(page.client("ann"), "ws")
        assert page.text("#trouble") == ""
        page.one("#disconnect").click()
        page.sees("#state", "Not connected")
        page.until(lambda: "ann" not in page.text("#clients"), "ann has gone")
        assert page.run("return document.activeElement.id") == "connect"


def test_an_untrusted_certificate_is_explained_with_a_link(tmp_path: Path, server: Program) -> None:
    """The browser tells no page why a wss connection failed; this page finds out and tells what to do."""
    with chromium(tmp_path / "chromium") as browser:
        page = Page(browser, url_of(server)).is_live()
        page.connect("ann", wss=True)
        page.sees("#trouble", "doesn’t trust this certificate yet: open ", "once, accept it, come back")
        assert page.one("#trouble a").get_attribute("href") == url_of(server, "https")
        page.sees("#state", "Not connected, retrying in")
        page.sees("#recent", "certificate unknown (the client doesn’t trust the certificate)")
        page.one("#disconnect").click()
        page.sees("#state", "Not connected")
        assert page.text("#trouble") == ""


def test_a_page_that_came_over_https_says_why_it_opens_no_ws_elsewhere(
    browser: webdriver.Chrome, start: Callable[..., Program]
) -> None:
    """Mixed content: no attempt is made, and the ways out are named."""
    server = start("--origin", f"http://{FOREIGN}")
    page = Page(browser, url_of(server, "https", FOREIGN))
    assert page.one("#use-wss").is_selected()
    page.connect("ann", wss=False)
    page.sees("#trouble", "(“mixed content”). Switch useWss on, or open the page over http: ")
    assert page.one("#trouble a").get_attribute("href") == url_of(server, "http", FOREIGN)
    assert page.text("#state") == "Not connected"


def test_a_page_from_elsewhere_is_refused_in_words(
    browser: webdriver.Chrome, server: Program, start: Callable[..., Program]
) -> None:
    """The server is there, but says no: both halves tell that, not that there is no answer."""
    page = Page(browser, url_of(start("--origin", f"http://{FOREIGN}"), host=FOREIGN))
    page.sees("#monitor-trouble", "shows its window only to clients on its own machine")
    page = Page(browser, (REPO / "static" / "index.html").as_uri())
    page.connect("ann", host=FOREIGN, port=server.port)
    page.sees("#trouble", f"{FOREIGN}:{server.port} is there, but refuses this page.", "--origin")


def test_a_server_without_a_window_is_told_in_words(
    browser: webdriver.Chrome, start: Callable[..., Program]
) -> None:
    """It was started with --no-monitor; the client beside the window works all the same."""
    page = Page(browser, url_of(start("--no-monitor")))
    page.sees("#monitor-trouble", "The server is there, but has no window: it was started with --no-monitor.")
    page.log_in("ann")
    unknown = page.text("#server")
    assert "Nobody" not in unknown and "none" not in unknown


def test_a_full_server_is_told_in_words(browser: webdriver.Chrome, start: Callable[..., Program]) -> None:
    """No seat is no --no-monitor: it passes."""
    server = start("--max-clients", "20")  # a browser takes several for one page
    page = Page(browser, url_of(server)).is_live()
    leave_or_come_back = """
        const { engine } = serverWindow;
        if (engine.state === "open") engine.disconnect();
        else if (engine.state === "closed") engine.connect();
    """
    with contextlib.ExitStack() as clients:

        def is_told() -> bool:
            with contextlib.suppress(AssertionError):  # until one is refused
                while True:
                    clients.enter_context(WebSocket(server.address))
            page.run(leave_or_come_back)  # again where the window was quicker than the last of these
            return "The server has no room for one more client now." in page.text("#monitor-trouble")

        page.until(is_told, "no room")
    page.is_live()


def test_who_still_comes_by_ws_when_the_server_takes_tls_alone_is_shown_the_way(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    """A page that was open over http when the migration ended: both halves link to the one over https."""
    with running(tmp_path) as server:
        page = Page(browser, url_of(server)).is_live().log_in("ann")
    page.sees("#monitor-trouble", "No answer")
    with running(tmp_path, "--tls-only", port=server.port):
        for trouble in ("#monitor-trouble", "#trouble"):
            page.sees(trouble, "The server takes TLS alone now", url_of(server, "https"))
            assert page.one(f"{trouble} a").get_attribute("href") == url_of(server, "https")
        page = Page(browser, url_of(server, "https")).is_live().log_in("ann")
        page.sees("#migration", "By TLS: 1 · plain: 0")


def test_a_server_that_wants_client_certificates_now_is_told_in_words(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    """It refuses all that is plain; that it had no window would be wrong."""
    (tmp_path / "ca.pem").write_bytes(make_identity("Room 12", authority=True).pem())
    with running(tmp_path) as server:
        page = Page(browser, url_of(server)).is_live().log_in("ann")
    page.sees("#monitor-trouble", "No answer")
    with running(tmp_path, "--client-ca", str(tmp_path / "ca.pem"), port=server.port):
        for trouble in ("#monitor-trouble", "#trouble"):
            page.sees(trouble, "The server refuses what comes from this page; its log tells the reason.")


def test_a_host_that_is_none_is_said(browser: webdriver.Chrome, server: Program) -> None:
    """A mistyped address is no reason to try again and again."""
    page = Page(browser, url_of(server))
    page.connect("ann", host="no host")
    page.sees("#trouble", "“no host” isn’t a host’s name or address.")
    assert page.text("#state") == "Not connected"


def test_the_page_works_from_the_disk(browser: webdriver.Chrome, server: Program) -> None:
    """Opened as a file, the page connects where it is told to, and the server's window follows."""
    page = Page(browser, (REPO / "static" / "index.html").as_uri())
    assert page.text("#url") == "ws://127.0.0.1:4530/chat"
    page.log_in("ann", port=server.port)
    page.is_live()
    page.sees(page.client("ann"), "ws", "/chat")
    page.say("from the disk")
    page.sees("#conversation", "ann\nfrom the disk")
    page.one("#disconnect").click()
    page.log_in("ann", wss=True)
    page.sees(page.client("ann"), "wss", "TLS 1.3")


# ---------------------------------------------------------------- the frame inspector


def test_the_inspector_shows_a_known_frame_as_it_was_on_the_wire(
    browser: webdriver.Chrome, server: Program
) -> None:
    """The masked "Hello" of RFC 6455 section 5.7, and the server's unmasked answer, over wss."""
    page = Page(browser, url_of(server)).is_live()
    with WebSocket(server.address, "/echo", tls=True) as client:
        page.sees("#clients", "/echo")
        page.inspects("#clients tr[data-kind=wss]", lambda: client.sock.sendall(frame(PING)), "ping", "pong")
        page.sees("#inspector-title", "Frames of #", "(wss)")
        assert page.text("#clients [aria-pressed=true]") == "Inspect"
        client.sock.sendall(bytes.fromhex("8185 37fa213d 7f9f4d5158"))
        theirs, ours = "#frames .from-client[data-opcode=text]", "#frames .from-server[data-opcode=text]"
        page.sees(theirs, "81 85 37 fa 21 3d", "FIN\n1", "RSV\n000", "opcode\n1 text", "MASK\n1", "length\n5",
                  "mask key\n37 fa 21 3d", "7f 9f 4d 51  58", "unmasked: 7f XOR 37 = 48 …", "48 65 6c 6c  6f",
                  "Hello")  # fmt: skip
        page.sees(ours, "81 05", "MASK\n0", "mask key\nnone", "48 65 6c 6c  6f", "Hello")
        page.one("#inspector-pause").click()
        client.sock.sendall(frame(TEXT, b"unseen"))
        page.sees("#inspector-state", "Paused; 2 not shown.")
        assert "unseen" not in page.text("#frames")
    page.sees("#inspector-state", "The connection has closed")
    page.one("#inspector-close").click()
    assert not page.one("#inspector").is_displayed()


def test_the_inspector_inflates_compressed_messages(browser: webdriver.Chrome, server: Program) -> None:
    """What the browser compresses is shown as it was, and as what it means; unknown parts are marked."""
    page = Page(browser, url_of(server)).is_live().log_in("ann")
    said: list[str] = []

    def say_something_new() -> None:
        # Said once more it would be a repetition, of something that the window may not have seen.
        said.append("".join(chr(0x4E00 + random.randrange(0x5000)) for _ in range(6)))
        page.say(said[-1])

    page.inspects(page.client("ann"), say_something_new, "compressed (RSV1): ", "RSV\n100")
    page.sees("#frames .from-client .text", said[-1])
    page.sees("#frames .from-server", f'{{"type":"said","from":"ann","text":"{said[-1]}"}}')


def test_the_inspector_shows_a_native_clients_lines(browser: webdriver.Chrome, server: Program) -> None:
    """There are no frames, so it shows lines."""
    page = Page(browser, url_of(server)).is_live()
    with native(server, "nora") as nora:
        page.inspects(page.client("nora"), lambda: nora.send({"type": "who"}), "client → server")
        page.sees("#inspector-title", "Lines of #", "nora (tcp)")
        page.sees("#frames .from-client", "length\n16", '{"type": "who"}')
        page.sees("#frames .from-server", '"users":[{"name":"nora","kind":"tcp"}]', "7b 22 74 79  70 65")
        page.one("#inspector-close").click()
        page.until(lambda: page.text("#clients [aria-pressed=true]") == "", "no client is inspected")
        assert page.run("return document.activeElement.innerText") == "Inspect"


READ = """
    const [fromClient, chunks] = arguments;
    const reader = new FrameReader(fromClient);
    const inShort = ({ opcode, length, missing, wire, key }) =>
      [opcode, length, missing, textOfBytes(unmask(wire, key))].join(" ");
    const found = chunks.flatMap(([hex, more]) => reader.read(bytesOfHex(hex), more));
    return found.map((frame) => (frame.lost ? "lost" : inShort(frame)));
"""


def test_frames_are_taken_apart_whatever_the_chunks(browser: webdriver.Chrome, server: Program) -> None:
    """Byte by byte, many at once, cut off in the middle, or joined in the middle."""
    page = Page(browser, url_of(server))

    def read(*chunks: tuple[bytes, int], from_client: bool = True) -> Any:
        return page.run(READ, from_client, [[data.hex(), more] for data, more in chunks])

    hello, long, pong = frame(TEXT, b"Hello"), frame(TEXT, b"x" * 300), frame(10)
    expected = ["1 5 0 Hello", f"1 300 0 {'x' * 300}", "10 0 0 "]
    whole = hello + long + pong
    assert read((whole, 0)) == expected
    assert read(*((whole[at : at + 1], 0) for at in range(len(whole)))) == expected
    assert read((whole[:9], 0), (whole[9:], 0)) == expected
    # Bytes that aren't shown: of this frame alone, then of more than one.
    assert read((long[:108], 200), (hello, 0)) == [f"1 300 200 {'x' * 100}", "1 5 0 Hello"]
    assert read((long[:108], 250), (hello, 0)) == ["lost", "1 5 0 Hello"]
    # In the middle of a frame there is no beginning; the next chunk has one.
    assert read((b"no frame begins here", 0), (hello, 0)) == ["lost", "1 5 0 Hello"]
    assert read((hello, 0), from_client=False) == ["lost"], "a server's frames aren't masked"


def test_a_message_is_inflated_though_what_it_repeats_is_unknown(
    browser: webdriver.Chrome, server: Program
) -> None:
    """With context takeover a message may refer to those before it."""
    page = Page(browser, url_of(server))
    page.browser.set_script_timeout(PAGE_PATIENCE)

    def inflate(data: bytes) -> Any:
        return page.to_front().browser.execute_async_script(
            "const [hex, done] = arguments;"
            "new Inflater().inflate(bytesOfHex(hex)).then(bytes => done(bytes && textOfBytes(bytes)))",
            data.hex(),
        )

    assert inflate(deflate(b"Hello")) == "Hello"
    assert inflate(deflate(b"")) == ""
    assert inflate(b"\xff\xff\xff") is None
    assert inflate(deflate(b"x" * 10_000_000)) is None, "a bomb"
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    packer.compress(b"known before, and ")
    packer.flush(zlib.Z_SYNC_FLUSH)
    second = (packer.compress(b"known before, new") + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert re.fullmatch("k?\x1a+new", inflate(second))


# ---------------------------------------------------------------- for everyone


def test_a_phone_needs_no_sideways_scrolling(browser: webdriver.Chrome, server: Program) -> None:
    """With clients, long words, an open inspector: all of it fits into the width."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": NARROW[0], "height": NARROW[1], "deviceScaleFactor": 1, "mobile": True})  # fmt: skip
    page = Page(browser, url_of(server)).is_live().log_in("ann", wss=True)
    with native(server, "n" * 32, tls=True) as nora:
        says = {"type": "say", "text": "w" * 300}
        page.inspects(page.client("ann"), lambda: nora.send(says), "w" * 300)
        page.sees("#conversation", "w" * 300)
        wide = """
            const list = document.getElementById("frames");
            return [document.documentElement.scrollWidth, list.scrollWidth - list.clientWidth];
        """
        assert page.run(wide) == [NARROW[0], 0]


def test_every_control_has_a_name_and_shows_the_focus(browser: webdriver.Chrome, server: Program) -> None:
    """For who listens to the page, and for who uses the keyboard."""
    page = Page(browser, url_of(server)).is_live().log_in("ann")
    page.client("ann")
    nameless = """
        const controls = document.querySelectorAll("input, select, button, progress, [tabindex='0']");
        const isNamed = (control) => control.labels?.length || control.ariaLabel
          || control.getAttribute("aria-labelledby") || control.innerText.trim();
        return Array.from(controls).filter((control) => !isNamed(control)).map(({ outerHTML }) => outerHTML);
    """
    assert page.run(nameless) == []
    page.one("#text").send_keys("\t")
    assert page.run("return document.activeElement.id") == "say"
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for role, names in {
        "status": ("state", "monitor-state", "inspector-state"),
        "alert": ("trouble", "monitor-trouble"),
        "log": ("conversation",),
    }.items():
        for name in names:
            assert page.one(f"#{name}").get_attribute("role") == role


def test_a_window_that_was_too_slow_says_so_and_begins_anew(
    browser: webdriver.Chrome, server: Program
) -> None:
    """Events left out may have been anybody's arrival or end: only a new snapshot tells."""
    page = Page(browser, url_of(server)).is_live()
    page.run("serverWindow.engine.dispatchEvent(new CustomEvent('missed', { detail: { events: 1234 } }))")
    page.sees("#monitor-trouble", "1234 events came too fast for this window and were left out.")
    page.until(lambda: page.text("#monitor-trouble") == "", "a new snapshot")
    page.is_live()
