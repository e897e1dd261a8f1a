# SPDX-License-Identifier: MIT
"""TLS: forms of certificates, versions, client certificates, passwords, and what the disk gets to see."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import *

from wsdual import DualServer, echo, server_context

PASSWORD = "pass wörd"
Files = tuple[Path | bytes, str | None, Path | None]  # certificate, password, key


class Chain:
    """Four certificates: the root signed the outer, that the inner, and that the server's own."""

    def __init__(self) -> None:
        self.root = make_identity("root", authority=True)
        self.outer = make_identity("outer", self.root, authority=True)
        self.inner = make_identity("inner", self.outer, authority=True)
        self.leaf = make_identity("localhost", self.inner)

    def full(self) -> bytes:
        """What Let's Encrypt calls fullchain.pem."""
        return self.leaf.pem() + self.inner.pem() + self.outer.pem()

    def client(self) -> ssl.SSLContext:
        """Client settings that trust the root and nothing else."""
        return ssl.create_default_context(cadata=self.root.pem().decode())


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain()


@pytest.fixture(scope="module")
def library() -> Iterator[DualServer]:
    """A server within this process; each test gives it its own TLS settings."""
    with serving({"/echo": echo}) as server:
        yield server


# ---- what server_context() reads


def pfx_with_password(folder: Path, chain: Chain) -> Files:
    return write(folder / "a.pfx", chain.leaf.pfx(PASSWORD, [chain.inner, chain.outer])), PASSWORD, None


def pfx_in_wrong_order(folder: Path, chain: Chain) -> Files:
    others = [chain.root, chain.outer, chain.inner]
    return write(folder / "a.pfx", chain.leaf.pfx(PASSWORD, others)), PASSWORD, None


def p12_without_password(folder: Path, chain: Chain) -> Files:
    return write(folder / "a.p12", chain.leaf.pfx(None, [chain.outer, chain.inner])), None, None


def pfx_as_bytes(folder: Path, chain: Chain) -> Files:
    return chain.leaf.pfx(PASSWORD, [chain.inner, chain.outer]), PASSWORD, None


def pem_pair(folder: Path, chain: Chain) -> Files:
    return write(folder / "c.pem", chain.full()), None, write(folder / "k.pem", chain.leaf.key_pem())


def pem_pair_with_password(folder: Path, chain: Chain) -> Files:
    key = write(folder / "k.pem", chain.leaf.key_pem(PASSWORD))
    return write(folder / "c.pem", chain.full()), PASSWORD, key


def pem_file_with_key_first(folder: Path, chain: Chain) -> Files:
    return write(folder / "all.pem", chain.leaf.key_pem() + chain.full()), None, None


def pem_file_with_key_last(folder: Path, chain: Chain) -> Files:
    return write(folder / "all.pem", chain.full() + chain.leaf.key_pem()), None, None


def pem_file_with_password(folder: Path, chain: Chain) -> Files:
    return write(folder / "all.pem", chain.leaf.key_pem(PASSWORD) + chain.full()), PASSWORD, None


def plain_key_and_a_password_too_many(folder: Path, chain: Chain) -> Files:
    return write(folder / "all.pem", chain.full() + chain.leaf.key_pem()), PASSWORD, None


FORMS = [
    pfx_with_password, pfx_in_wrong_order, p12_without_password, pfx_as_bytes,
    pem_pair, pem_pair_with_password, plain_key_and_a_password_too_many,
    pem_file_with_key_first, pem_file_with_key_last, pem_file_with_password,
]  # fmt: skip


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_client_that_trusts_the_root_alone_accepts_each_form(
    form: Callable[[Path, Chain], Files], tmp_path: Path, chain: Chain, library: DualServer
) -> None:
    """Whatever file the certificate is in, the intermediates are sent with it."""
    library.tls = server_context(*form(tmp_path, chain))
    with connect(address_of(library), tls=chain.client()) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.getpeercert(True) == chain.leaf.der()


@pytest.mark.parametrize("kind", ["str", "Path"])
def test_file_may_be_a_string_or_a_path(kind: str, tmp_path: Path, chain: Chain, library: DualServer) -> None:
    """server_context("server.pfx", "password") is what the documentation shows."""
    path = write(tmp_path / "server.pfx", chain.leaf.pfx("password"))
    library.tls = server_context(str(path) if kind == "str" else path, "password")
    with WebSocket(address_of(library), tls=True) as client:
        assert client.ask("hi") == "hi"


def test_intermediates_are_sent_in_order_and_the_root_is_not(
    tmp_path: Path, chain: Chain, library: DualServer
) -> None:
    """A .pfx that stores its certificates in any order sends leaf, inner, outer: each issued by the next."""
    openssl = needs("openssl")
    library.tls = server_context(*pfx_in_wrong_order(tmp_path, chain))
    host, port = address_of(library)
    shown = subprocess.run(
        [openssl, "s_client", "-showcerts", "-connect", f"{host}:{port}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
    ).stdout  # fmt: skip
    assert re.findall(r"^ *\d+ s:.*CN ?= ?(\w+)", shown, re.M) == ["localhost", "inner", "outer"]


def test_pfx_of_openssl_with_an_empty_password(tmp_path: Path, chain: Chain, library: DualServer) -> None:
    """An empty password is what many tools write where a person gives none."""
    openssl = needs("openssl")
    both, pfx = write(tmp_path / "both.pem", chain.leaf.key_pem() + chain.leaf.pem()), tmp_path / "a.pfx"
    subprocess.run([openssl, "pkcs12", "-export", "-in", both, "-out", pfx, "-passout", "pass:"], check=True)
    library.tls = server_context(pfx)
    with connect(address_of(library), tls=any_tls()) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.getpeercert(True) == chain.leaf.der()


def test_old_pfx_is_read(tmp_path: Path, chain: Chain, library: DualServer) -> None:
    """3DES and SHA-1, which Windows Server 2016 and macOS still write."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.serialization import pkcs12

    builder = serialization.PrivateFormat.PKCS12.encryption_builder()
    builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC).hmac_hash(hashes.SHA1())
    leaf = chain.leaf
    data = pkcs12.serialize_key_and_certificates(b"", leaf.key, leaf.certificate, None, builder.build(b"old"))
    library.tls = server_context(write(tmp_path / "old.pfx", data), "old")
    with connect(address_of(library), tls=any_tls()) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.getpeercert(True) == leaf.der()


def needs(tool: str) -> str:
    """The path of a program that not every machine has."""
    if not (path := shutil.which(tool)):
        pytest.skip(f"{tool} isn't installed")
    return path


# ---- what it can't use: (file's content, password, the words that tell)

BAD: dict[str, tuple[Callable[[Chain], bytes], str | None, str]] = {
    "pfx_wrong_password": (lambda chain: chain.leaf.pfx("right"), "wrong", "password is wrong"),
    "pfx_no_password_given": (lambda chain: chain.leaf.pfx("right"), None, "password is wrong"),
    "pem_wrong_password": (lambda chain: chain.leaf.pem() + chain.leaf.key_pem("right"), "wrong", "password"),
    "pem_no_password_given": (lambda chain: chain.leaf.pem() + chain.leaf.key_pem("right"), None, "password"),
    "pem_without_key": (lambda chain: chain.leaf.pem(), None, "key"),
    "pem_without_certificate": (lambda chain: chain.leaf.key_pem(), None, "no usable"),
    "pem_with_a_foreign_key": (lambda chain: chain.leaf.pem() + chain.root.key_pem(), None, "doesn't belong"),
    "pem_cut_off": (lambda chain: chain.leaf.key_pem() + chain.leaf.pem()[:200], None, "no usable"),
    "pfx_cut_off": (lambda chain: chain.leaf.pfx("right")[:200], "right", "neither"),
    "garbage": (lambda chain: b"\x30\x82" + bytes(range(256)), None, "neither"),
    "text": (lambda chain: b"hello", "password", "neither"),
    "empty": (lambda chain: b"", None, "neither"),
    "certificate_alone": (lambda chain: chain.leaf.der(), None, "neither"),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_file_is_a_value_error_that_names_it(name: str, tmp_path: Path, chain: Chain) -> None:
    """The caller learns which file is at fault, and what is wrong with it, in one line."""
    make, password, words = BAD[name]
    path = write(tmp_path / "server.file", make(chain))
    with pytest.raises(ValueError) as caught:
        server_context(path, password)
    assert not isinstance(caught.value, UnicodeError | OSError)
    assert str(path) in str(caught.value) and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_key_that_belongs_to_another_certificate_is_a_value_error(tmp_path: Path, chain: Chain) -> None:
    """The message names both files."""
    cert, key = write(tmp_path / "c.pem", chain.full()), write(tmp_path / "k.pem", chain.root.key_pem())
    with pytest.raises(ValueError, match=r"k\.pem: .*belong.*c\.pem"):
        server_context(cert, None, key)


@pytest.mark.parametrize("missing", ["cert", "key", "client_ca"])
def test_missing_file_is_an_os_error_that_names_it(missing: str, tmp_path: Path, chain: Chain) -> None:
    """FileNotFoundError, with the name that the person gave."""
    cert, _, key = pem_pair(tmp_path, chain)
    assert isinstance(cert, Path)
    files = {"cert": cert, "key": key, "client_ca": cert} | {missing: tmp_path / "missing.pem"}
    with pytest.raises(FileNotFoundError) as caught:
        server_context(files["cert"], None, files["key"], client_ca=files["client_ca"])
    assert Path(caught.value.filename or "").name == "missing.pem"


def test_client_ca_without_a_certificate_is_a_value_error(tmp_path: Path, chain: Chain) -> None:
    """A file that isn't one is told from a missing one."""
    garbage = write(tmp_path / "ca.pem", b"garbage")
    with pytest.raises(ValueError, match=r"ca\.pem: "):
        server_context(*pem_pair(tmp_path, chain), client_ca=garbage)


# ---- versions, and what else a handshake agrees on


def versions(lowest: ssl.TLSVersion, highest: ssl.TLSVersion) -> ssl.SSLContext:
    """Client settings for some versions, with the old ones' weak ciphers allowed."""
    context = any_tls()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns() if lowest < ssl.TLSVersion.TLSv1_2 else contextlib.nullcontext():
        context.minimum_version = lowest
        context.maximum_version = highest
    return context


ONLY_1_1 = (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1)
ONLY_1_2 = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
ONLY_1_3 = (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)


@pytest.mark.parametrize(("only", "name"), [(ONLY_1_2, "TLSv1.2"), (ONLY_1_3, "TLSv1.3")])
def test_default_takes_1_2_and_1_3(server: Program, only: Any, name: str) -> None:
    """A client with either version is served."""
    with WebSocket(server.address, tls=versions(*only)) as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        assert (client.sock.version(), client.ask("hi")) == (name, "hi")


def test_default_refuses_1_1(server: Program) -> None:
    """The server answers with an alert that tells the client why."""
    with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):
        connect(server.address, tls=versions(*ONLY_1_1))


def test_tls_min_1_3_refuses_1_2(start: Callable[..., Program]) -> None:
    """--tls-min 1.3: a client of 1.2 gets an alert, one of 1.3 is served, and the monitor tells."""
    server = start("--tls-min", "1.3")
    with Watcher(server.address) as watcher:
        with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):
            connect(server.address, tls=versions(*ONLY_1_2))
        assert "TLS" in watcher.wait_for("refused")["why"]
        assert get(server.address, tls=versions(*ONLY_1_3))[0] == 200


def test_tls_min_1_2_takes_1_2(start: Callable[..., Program]) -> None:
    """--tls-min 1.2 is the default, said aloud."""
    assert get(start("--tls-min", "1.2").address, tls=versions(*ONLY_1_2))[0] == 200


def test_minimum_of_the_function(chain: Chain, tmp_path: Path, library: DualServer) -> None:
    """server_context(minimum=...) is what --tls-min uses."""
    library.tls = server_context(*pem_pair(tmp_path, chain), minimum=ssl.TLSVersion.TLSv1_3)
    with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):
        connect(address_of(library), tls=versions(*ONLY_1_2))


@pytest.mark.parametrize("offer", [["http/1.1"], ["h2", "http/1.1"]])
def test_alpn_selects_http_1_1(server: Program, offer: list[str]) -> None:
    """A browser that could speak HTTP/2 is told not to."""
    context = any_tls()
    context.set_alpn_protocols(offer)
    with connect(server.address, tls=context) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("only", [ONLY_1_2, ONLY_1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("target", ["/", "/missing"])
def test_https_answer_ends_with_close_notify(server: Program, only: Any, target: str) -> None:
    """A client that insists on TLS's own end of the stream gets it, and so knows that nothing was cut off."""
    request = f"GET {target} HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode()
    with socket.create_connection(server.address, timeout=PATIENCE) as raw:
        with versions(*only).wrap_socket(raw, suppress_ragged_eofs=False) as sock:
            sock.sendall(request)
            status, headers, body = parse_response(read_to_end(sock))
    assert status == (200 if target == "/" else 404) and len(body) == int(headers["content-length"])


@pytest.mark.parametrize(
    ("opening", "goodbye"),
    [(b"", b"{\xff\n"), (upgrade_request(("localhost", 1)), frame(CLOSE, b"\x03\xe8"))],
    ids=["native", "wss"],
)
def test_wss_and_native_end_with_close_notify(server: Program, opening: bytes, goodbye: bytes) -> None:
    """So does whatever else is spoken inside TLS."""
    with socket.create_connection(server.address, timeout=PATIENCE) as raw:
        with any_tls().wrap_socket(raw, suppress_ragged_eofs=False) as sock:
            sock.sendall(opening + goodbye)
            assert read_to_end(sock).endswith((b"}\n", b"\x88\x02\x03\xe8"))


@pytest.mark.parametrize("only", [ONLY_1_2, ONLY_1_3], ids=["1.2", "1.3"])
def test_monitor_tells_version_and_cipher_of_each_client(server: Program, only: Any) -> None:
    """peer.tls is what the client itself says of its connection; None for a plain one."""
    with WebSocket(server.address, tls=versions(*only)) as wss, WebSocket(server.address) as plain:
        assert isinstance(wss.sock, ssl.SSLSocket)
        for client in (wss, plain):
            client.ask("in the application by now")
        with Watcher(server.address) as watcher:
            told = {client["address"]: client["tls"] for client in watcher.snapshot["clients"]}
        mine = "{}:{}".format(*wss.sock.getsockname())
        assert told[mine] == f"{wss.sock.version()} {(wss.sock.cipher() or ('',))[0]}"
        assert told["{}:{}".format(*plain.sock.getsockname())] is None


def test_keys_are_logged_for_wireshark(start: Callable[..., Program], tmp_path: Path) -> None:
    """$SSLKEYLOGFILE gets the secrets of each session, under the random bytes that the client chose."""
    keys = tmp_path / "keys.log"
    server = start(env={"SSLKEYLOGFILE": str(keys)})
    mine = tmp_path / "mine.log"
    context = any_tls()
    context.keylog_filename = str(mine)
    assert get(server.address, tls=context)[0] == 200
    wanted = ("CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0")
    lines = {line for line in mine.read_text().splitlines() if line.startswith(wanted)}
    assert len(lines) == 2 and lines <= set(keys.read_text().splitlines())


# ---- client certificates


@pytest.fixture(scope="module")
def guarded(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server that requires client certificates of the chain's root."""
    folder = tmp_path_factory.mktemp("guarded")
    cert, _, key = pem_pair(folder, chain)
    root = write(folder / "root.pem", chain.root.pem())
    flags = ("--cert", str(cert), "--key", str(key), "--client-ca", str(root), "--app", "echo")
    with running(folder, *flags) as program:
        yield program


def client_with(identity: Identity, folder: Path) -> ssl.SSLContext:
    """Client settings that show a certificate."""
    context = any_tls()
    context.load_cert_chain(write(folder / "client.pem", identity.key_pem() + identity.pem()))
    return context


def test_client_with_a_certificate_is_served(guarded: Program, chain: Chain, tmp_path: Path) -> None:
    """--client-ca: wss, https and native all work for a client whose certificate the authority has signed."""
    context = client_with(make_identity("ann", chain.root), tmp_path)
    with WebSocket(guarded.address, tls=context) as client:
        assert client.ask("hi") == "hi"
    assert get(guarded.address, tls=context)[0] == 200
    with connect(guarded.address, tls=context) as sock:
        sock.sendall(b"{}\n")
        assert sock.recv(100) == b"{}\n"


@pytest.mark.parametrize("only", [ONLY_1_2, ONLY_1_3], ids=["1.2", "1.3"])
def test_client_without_a_certificate_is_refused(guarded: Program, only: Any) -> None:
    """It gets an alert: in TLS 1.3 when it reads, since its own half of the handshake is over by then."""
    with pytest.raises(ssl.SSLError, match="(?i)(certificate.required|handshake.failure)"):
        get(guarded.address, tls=versions(*only))


def test_client_with_a_foreign_certificate_is_refused(guarded: Program, tmp_path: Path) -> None:
    """A certificate that somebody else has signed is none."""
    context = client_with(make_identity("ann"), tmp_path)
    with pytest.raises(ssl.SSLError, match="(?i)(unknown.ca|certificate)"):
        get(guarded.address, tls=context)


def test_plain_http_is_refused_where_certificates_are_required(guarded: Program) -> None:
    """Or it would be the way round them: 403, with the reason."""
    status, _, body = get(guarded.address)
    assert status == 403 and b"certificate" in body


def test_plain_websocket_is_refused_where_certificates_are_required(guarded: Program) -> None:
    """The same for an upgrade, /monitor's included."""
    for path in ("/echo", "/monitor"):
        with pytest.raises(AssertionError, match="403"):
            WebSocket(guarded.address, path)


def test_plain_native_is_refused_where_certificates_are_required(guarded: Program) -> None:
    """A native client gets its error line, and is closed."""
    with Native(guarded.address) as client:
        client.send({"type": "login", "name": "ann"})
        error = client.receive_json()
        assert error["type"] == "error" and "certificate" in error["reason"]
        with pytest.raises(EOFError):
            client.receive()


def test_trial_method_does_not_lead_round_certificates(
    start: Callable[..., Program], chain: Chain, tmp_path: Path
) -> None:
    """With --detect trial plain clients are refused as well."""
    cert, _, key = pem_pair(tmp_path, chain)
    files = ("--cert", str(cert), "--key", str(key), "--client-ca", str(cert))
    server = start(*files, "--detect", "trial")
    assert get(server.address)[0] == 403


# ---- the private key and the disk

WATCH_THE_TEMP_FOLDER = """
import json, os, stat, sys
folder, file, password = sys.argv[1:]
seen, busy = [], False

def look(event, arguments):
    global busy
    if busy:
        return
    busy = True
    try:
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            with open(path, encoding="latin-1") as opened:
                seen.append((stat.S_IMODE(os.stat(path).st_mode), opened.read()))
    finally:
        busy = False

sys.path.insert(0, {repo!r})
import wsdual
sys.addaudithook(look)
try:
    wsdual.server_context(file, password)
except ValueError:
    pass
print(json.dumps([seen, os.listdir(folder)]))
"""


def test_no_unencrypted_key_is_ever_in_the_temp_folder(tmp_path: Path, chain: Chain) -> None:
    """Loading a .pfx writes an encrypted key that its owner alone can read, and it is gone at once."""
    temp = tmp_path / "temp"
    temp.mkdir()
    pfx = write(tmp_path / "server.pfx", chain.leaf.pfx(PASSWORD, [chain.inner]))
    command = [sys.executable, "-c", WATCH_THE_TEMP_FOLDER.format(repo=str(REPO)), temp, pfx, PASSWORD]
    done = subprocess.run(
        command, env=os.environ | {"TMPDIR": str(temp), "TEMP": str(temp)}, capture_output=True, check=True,
        timeout=PATIENCE,
    )  # fmt: skip
    seen, left = json.loads(done.stdout)
    assert left == []
    assert any("ENCRYPTED PRIVATE KEY" in content for _, content in seen), "nothing was seen"
    assert not re.search(r"BEGIN (EC |RSA )?PRIVATE KEY", " ".join(content for _, content in seen))
    if os.name == "posix":
        assert {mode for mode, _ in seen} == {stat.S_IRUSR | stat.S_IWUSR}


def test_throw_away_certificate_leaves_nothing_on_the_disk(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    """Without --cert the key exists in memory alone."""
    temp = tmp_path / "temp"
    temp.mkdir()
    server = start(env={"TMPDIR": str(temp)})
    assert get(server.address, tls=True)[0] == 200 and list(temp.iterdir()) == []


# ---- where the program gets the password from


@pytest.fixture
def pfx(tmp_path: Path, chain: Chain) -> Path:
    return write(tmp_path / "server.pfx", chain.leaf.pfx(PASSWORD))


def serves(program: Program, chain: Chain) -> bool:
    """Say whether it has the certificate."""
    with connect(program.address, tls=any_tls()) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        return sock.getpeercert(True) == chain.leaf.der()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["bare", "newline", "windows_newline"])
def test_password_file(
    start: Callable[..., Program], pfx: Path, chain: Chain, tmp_path: Path, end: str
) -> None:
    """--password-file: its line's end doesn't count, and it goes before $WSDUAL_PASSWORD."""
    file = write(tmp_path / "password", (PASSWORD + end).encode())
    flags = ("--cert", str(pfx), "--password-file", str(file))
    assert serves(start(*flags, env={"WSDUAL_PASSWORD": "wrong"}), chain)


def test_password_from_the_environment(start: Callable[..., Program], pfx: Path, chain: Chain) -> None:
    """$WSDUAL_PASSWORD, for services."""
    assert serves(start("--cert", str(pfx), env={"WSDUAL_PASSWORD": PASSWORD}), chain)


def test_password_of_a_separate_key(start: Callable[..., Program], chain: Chain, tmp_path: Path) -> None:
    """--cert and --key, the key encrypted."""
    cert, _, key = pem_pair_with_password(tmp_path, chain)
    assert serves(start("--cert", str(cert), "--key", str(key), env={"WSDUAL_PASSWORD": PASSWORD}), chain)


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("password", "right"), [(PASSWORD, True), ("wrong", False)], ids=["right", "wrong"])
def test_password_asked_at_the_terminal(pfx: Path, chain: Chain, password: str, right: bool) -> None:
    """Who starts it by hand is asked, naming the file; what is typed isn't shown."""
    ours, theirs = os.openpty()
    command = [sys.executable, str(REPO / "wsdual.py"), "--port", "0", "--cert", str(pfx)]
    environment = {name: value for name, value in os.environ.items() if name != "WSDUAL_PASSWORD"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=environment
    )
    os.close(theirs)
    try:
        assert "server.pfx" in read_terminal(ours, "Password.*: ")
        os.write(ours, password.encode() + b"\n")
        shown = read_terminal(ours, "Ctrl-C|wrong\\b.*\n")
        assert PASSWORD not in shown and "Traceback" not in shown
        if right:
            port = int(re.findall(r":(\d+)", shown)[0])
            with connect(("127.0.0.1", port), tls=any_tls()) as sock:
                assert isinstance(sock, ssl.SSLSocket)
                assert sock.getpeercert(True) == chain.leaf.der()
            process.terminate()
        else:
            assert "password is wrong" in shown
        assert (process.wait(PATIENCE) == 0) is right
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_terminal(handle: int, pattern: str) -> str:
    """What a terminal shows, up to a pattern."""
    os.set_blocking(handle, False)
    shown = b""

    def found() -> bool:
        nonlocal shown
        with contextlib.suppress(OSError):  # nothing yet, or the program has ended
            shown += os.read(handle, 65536)
        return bool(re.search(pattern.encode(), shown))

    wait_until(found, pattern)
    return shown.decode()
