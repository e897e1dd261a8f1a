# SPDX-License-Identifier: MIT
"""peer.certificate: whose certificate a client has shown; and what browsers do where one is asked for."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import *

from wsdual import App, DualServer, Peer, Refused, server_context

ASKING = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
BROWSER_PATIENCE = 60.0  # seconds; a browser's first start on a busy machine takes its time


@dataclass
class School:
    """An authority, whom it has signed, and where their files are."""

    folder: Path
    authority: Identity = field(default_factory=lambda: make_identity("class", authority=True))

    def __post_init__(self) -> None:
        self.server = make_identity("localhost", self.authority)
        self.ann = make_identity("ann", self.authority)
        (self.folder / "ca.pem").write_bytes(self.authority.pem())
        for name, identity in (("server", self.server), ("ann", self.ann)):
            (self.folder / f"{name}.pem").write_bytes(identity.key_pem() + identity.pem())

    def context(self, asking: str, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """A server's settings that ask for a client's certificate in this way."""
        context = server_context(self.folder / "server.pem", client_ca=self.folder / "ca.pem")
        context.verify_mode = ASKING[asking]
        if version:
            context.maximum_version = version
        return context

    def client(self) -> ssl.SSLContext:
        """The settings of a client that shows Ann's certificate."""
        context = any_tls()
        context.load_cert_chain(self.folder / "ann.pem")
        return context


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> School:
    """One for all tests."""
    return School(tmp_path_factory.mktemp("school"))


@contextlib.contextmanager
def keeping(**options: Any) -> Iterator[tuple[DualServer, queue.Queue[Peer]]]:
    """A server whose application hands its peers over."""
    peers: queue.Queue[Peer] = queue.Queue()

    def keep(peer: Peer) -> None:
        peers.put(peer)
        for message in peer:
            peer.send(message)

    with serving({"/": App(keep, subprotocols=("x",))}, **options) as server:
        yield server, peers


def name_of(certificate: Any) -> str | None:
    """The Common Name in what getpeercert() gives."""
    return certificate and dict(part[0] for part in certificate["subject"])["commonName"]


# ---- what an application sees


@pytest.mark.parametrize("asking", ASKING)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_it_is_what_getpeercert_gives(school: School, asking: str, version: ssl.TLSVersion) -> None:
    """Where the server asks for one and the client has one; the same for WebSockets and native lines."""
    expected = None if asking == "none" else "ann"
    with keeping(tls=school.context(asking, version)) as (server, peers):
        with WebSocket(address_of(server), "/", tls=school.client()) as client:
            peer = peers.get(timeout=PATIENCE)
            assert client.ask("hi") == "hi"
            assert name_of(peer.certificate) == expected
            assert peer.request and peer.request.certificate == peer.certificate
        if expected:
            assert peer.certificate
            assert int(peer.certificate["serialNumber"], 16) == school.ann.certificate.serial_number
            assert name_of({"subject": peer.certificate["issuer"]}) == "class"
            assert {"notBefore", "notAfter", "subjectAltName", "version"} <= set(peer.certificate)
        with connect(address_of(server), tls=school.client()) as native:
            native.sendall(b"{}\n")
            assert native.recv(10) == b"{}\n"
            assert name_of(peers.get(timeout=PATIENCE).certificate) == expected


def test_who_has_none_has_none(school: School) -> None:
    """By TLS where it is optional, and plain."""
    with keeping(tls=school.context("optional")) as (server, peers):
        for tls in (True, False):
            with WebSocket(address_of(server), "/", tls=tls):
                peer = peers.get(timeout=PATIENCE)
                assert peer.certificate is None and peer.request and peer.request.certificate is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_resumed_session_has_it_too(school: School, version: ssl.TLSVersion) -> None:
    """The client doesn't show it again then: the session's ticket knows it."""
    with keeping(tls=school.context("required", version)) as (server, peers):
        context, session = school.client(), None
        for _ in range(2):
            raw = connect(address_of(server))
            sock = context.wrap_socket(raw, server_hostname="localhost", session=session)
            with WebSocket(address_of(server), "/", sock=sock) as client:
                assert client.ask("hi") == "hi"
                reused, session = sock.session_reused, sock.session
                assert name_of(peers.get(timeout=PATIENCE).certificate) == "ann"
    assert reused, "the second one should have been resumed"


def test_verify_upgrade_may_decide_by_it(school: School) -> None:
    """request.certificate is there before the 101."""

    class Guarded(DualServer):
        def verify_upgrade(self, request: Any) -> None:
            if name_of(request.certificate) != "ann":
                raise Refused("only Ann", 403)

    with Guarded(("127.0.0.1", 0), {"/": lambda peer: None}, tls=school.context("optional")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            request = upgrade_request(address_of(server), "/")
            assert http(address_of(server), request, tls=True)[0] == 403
            assert http(address_of(server), request)[0] == 403
            with WebSocket(address_of(server), "/", tls=school.client()) as client:
                assert client.receive_close()[0] == 1000
        finally:
            server.shutdown()
            thread.join(PATIENCE)


def test_it_is_there_after_the_client_has_gone(school: School) -> None:
    """An application may keep its peer."""
    with keeping(tls=school.context("required")) as (server, peers):
        with WebSocket(address_of(server), "/", tls=school.client()):
            peer = peers.get(timeout=PATIENCE)
        wait_until(lambda: not server.everyone(), "it has gone")
        assert name_of(peer.certificate) == "ann"


# ---- browsers: a page whose WebSocket goes to a server that asks for a certificate

SCRIPT = """
const report = new WebSocket(`ws://${location.host}/report`);
report.onopen = () => {
  const client = new WebSocket("wss://localhost:PORT/", "x");
  client.onopen = () => report.send("open");
  client.onerror = () => report.send("refused");
};
"""


@dataclass
class Outcome:
    """What became of the page's WebSocket: 'open' or 'refused', and as whom the server saw it."""

    page: str
    who: str | None = None


@contextlib.contextmanager
def page(school: School, folder: Path, asking: str) -> Iterator[tuple[str, Any]]:
    """A page's URL, and a function that waits for what becomes of its WebSocket."""
    reports: queue.Queue[str] = queue.Queue()

    def report(peer: Peer) -> None:
        for message in peer:
            reports.put(str(message))

    with serving({"/report": report}, static=folder) as here:
        origin = "http://127.0.0.1:{1}".format(*here.server_address)
        with keeping(tls=school.context(asking), origins=[origin]) as (server, peers):
            (folder / "index.html").write_text('<!doctype html><script src="page.js"></script>')
            (folder / "page.js").write_text(SCRIPT.replace("PORT", str(address_of(server)[1])))

            def outcome() -> Outcome:
                said = reports.get(timeout=BROWSER_PATIENCE)
                peer = peers.get(timeout=PATIENCE) if said == "open" else None
                return Outcome(said, peer and name_of(peer.certificate))

            yield f"{origin}/", outcome


def test_chromium_gives_up_a_pages_websocket_where_a_certificate_is_asked_for(
    school: School, tmp_path: Path
) -> None:
    """A page from elsewhere, even where one is optional; where none is asked for, all is well."""
    from browser import chromium

    seen = {}
    with chromium(tmp_path / "profile", "--ignore-certificate-errors") as driver:
        for asking in ASKING:
            folder = tmp_path / asking
            folder.mkdir()
            with page(school, folder, asking) as (url, outcome):
                driver.get(url)
                seen[asking] = outcome()
    assert seen == {"none": Outcome("open"), "optional": Outcome("refused"), "required": Outcome("refused")}


POLICY = """#!/bin/sh
# Chromium with a policy of its own, which this machine's other ones don't see: it chooses by itself.
exec unshare --mount sh -c '
    mkdir -p /etc/chromium && mount -t tmpfs none /etc/chromium && mkdir -p /etc/chromium/policies/managed &&
    cp FOLDER/policy.json /etc/chromium/policies/managed/ && exec CHROMIUM "$@"' sh "$@"
"""
OPEN = """
const [url, done] = arguments, client = new WebSocket(url, "x");
client.onopen = () => done("open");
client.onerror = () => done("refused");
"""


def choosing_chromium(school: School, home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Chromium that has Ann's certificate, and shows it where it would ask its user. A context manager."""
    import browser

    mount = ["unshare", "--mount", "sh", "-c", "mkdir -p /etc/chromium && mount -t tmpfs none /etc/chromium"]
    if not shutil.which("unshare") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no namespace to be had here for a policy of Chromium's")
    certutil, pk12util = shutil.which("certutil"), shutil.which("pk12util")
    if not (certutil and pk12util):
        pytest.skip("needs certutil and pk12util")
    (home / ".pki/nssdb").mkdir(parents=True)
    (home / "ann.pfx").write_bytes(school.ann.pfx("secret"))
    for command in ([certutil, "-N", "--empty-password"],
                    [pk12util, "-i", str(home / "ann.pfx"), "-W", "secret", "-K", ""]):  # fmt: skip
        database = ["-d", f"sql:{home}/.pki/nssdb"]
        subprocess.run([*command, *database], check=True, capture_output=True, timeout=BROWSER_PATIENCE)
    chosen = {"AutoSelectCertificateForUrls": ['{"pattern":"https://localhost","filter":{}}']}
    (home / "policy.json").write_text(json.dumps(chosen))
    script = POLICY.replace("FOLDER", str(home)).replace("CHROMIUM", str(browser.CHROMIUM))
    (home / "chromium.sh").write_text(script)
    (home / "chromium.sh").chmod(0o755)
    monkeypatch.setattr(browser, "CHROMIUM", str(home / "chromium.sh"))
    monkeypatch.setenv("HOME", str(home))
    return browser.chromium(home / "profile", "--ignore-certificate-errors")


def test_chromium_goes_on_where_it_has_shown_a_certificate_to_the_same_server(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that came from the server itself, or a visit there before: Chromium remembers the choice."""
    (tmp_path / "index.html").write_text("<!doctype html><title>a page</title>")
    files: dict[str, Any] = {"static": tmp_path, "tls": school.context("required")}
    with keeping(**files) as (server, peers):
        place = f"localhost:{address_of(server)[1]}"
        with keeping(**files, origins=[f"https://{place}"]) as (other, others):
            elsewhere = f"localhost:{address_of(other)[1]}"
            with choosing_chromium(school, tmp_path / "home", monkeypatch) as driver:
                driver.get(f"https://{place}/")
                assert driver.execute_async_script(OPEN, f"wss://{place}/") == "open"
                assert name_of(peers.get(timeout=PATIENCE).certificate) == "ann"
                assert driver.execute_async_script(OPEN, f"wss://{elsewhere}/") == "refused"
                driver.get(f"https://{elsewhere}/")
                driver.get(f"https://{place}/")
                assert driver.execute_async_script(OPEN, f"wss://{elsewhere}/") == "open"
                assert name_of(others.get(timeout=PATIENCE).certificate) == "ann"


PREFERENCES = """
user_pref("security.default_personal_cert", "Select Automatically");
user_pref("network.proxy.type", 0);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("app.normandy.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("dom.security.https_first", false);
"""


def profile_of(school: School, folder: Path, *, with_ann: bool) -> Path:
    """A profile of Firefox that trusts the authority, and perhaps has Ann's certificate."""
    certutil, pk12util = shutil.which("certutil"), shutil.which("pk12util")
    if not (certutil and pk12util):
        pytest.skip("needs certutil and pk12util")
    profile = folder / "profile"
    profile.mkdir()
    database = f"sql:{profile}"
    add = [certutil, "-A", "-t", "C,,", "-n", "class", "-i", str(school.folder / "ca.pem")]
    commands = [[certutil, "-N", "--empty-password"], add]
    if with_ann:
        (folder / "ann.pfx").write_bytes(school.ann.pfx("secret"))
        commands.append([pk12util, "-i", str(folder / "ann.pfx"), "-W", "secret", "-K", ""])
    for command in commands:
        subprocess.run([*command, "-d", database], check=True, capture_output=True, timeout=BROWSER_PATIENCE)
    (profile / "user.js").write_text(PREFERENCES)
    return profile


@contextlib.contextmanager
def firefox(profile: Path, url: str) -> Iterator[None]:
    """A Firefox that opens a page."""
    if not (browser := shutil.which("firefox-esr") or shutil.which("firefox")):
        pytest.skip("needs firefox")
    environment = {**os.environ, "HOME": str(profile.parent), "MOZ_CRASHREPORTER_DISABLE": "1"}
    command = [browser, "--headless", "--no-remote", "--profile", str(profile), url]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("asking", "with_ann", "expected"),
    [("none", False, Outcome("open")), ("optional", False, Outcome("open")),
     ("optional", True, Outcome("open", "ann")), ("required", True, Outcome("open", "ann")),
     ("required", False, Outcome("refused"))],
    ids=["not asked", "optional, has none", "optional, has one", "required, has one", "required, has none"],
)  # fmt: skip
def test_firefox_goes_on_where_a_certificate_is_asked_for(
    school: School, tmp_path: Path, asking: str, with_ann: bool, expected: Outcome
) -> None:
    """It shows one that it may choose by itself; without one it comes in where it is optional."""
    profile, folder = profile_of(school, tmp_path, with_ann=with_ann), tmp_path / "page"
    folder.mkdir()
    with page(school, folder, asking) as (url, outcome), firefox(profile, url):
        assert outcome() == expected
