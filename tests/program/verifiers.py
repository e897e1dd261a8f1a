# SPDX-License-Identifier: MIT
"""Other people's TLS clients, and a server that tells whether one of them took its certificate.

Each client is told to trust one .crt file, in a profile or a home of its own, and asks for a page under some
host name, which leads to this machine. `takes` says whether it took the certificate. A client that this
machine doesn't have is skipped.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest
from cryptography import x509

import cert_tool

PATIENCE = 90.0  # seconds; a browser's first start on a busy machine takes its time
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nyes"


class Server:
    """An HTTPS server on loopback, with the key and the certificates from a .pfx file's content.

    `outcomes` gets, for each connection, the request's first line, or why the client left.
    """

    def __init__(self, pfx: bytes, context: ssl.SSLContext, folder: pathlib.Path) -> None:
        pem, secret = cert_tool.pfx_to_pem(pfx, [None], "the test's .pfx")
        (folder / "server.pem").write_bytes(pem)
        context.load_cert_chain(folder / "server.pem", password=secret)
        self.context = context
        self.outcomes: queue.Queue[str] = queue.Queue()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self) -> None:
        """Take connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def end(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):  # macOS and Windows: closing has to do
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)

    def serve(self, connection: socket.socket) -> None:
        """Answer one request, and tell it."""
        connection.settimeout(PATIENCE)
        try:
            with connection, self.context.wrap_socket(connection, server_side=True) as tls:
                head = b""
                while data := b"" if b"\r\n\r\n" in head else tls.recv(4096):
                    head += data
                if head:
                    tls.sendall(PAGE)
                self.outcomes.put(head.partition(b"\r\n")[0].decode() or "left without a word")
        except OSError as error:
            self.outcomes.put(str(error))

    def verdict(self) -> bool:
        """Wait until somebody asked for something (True), or refused the certificate by an alert (False)."""
        while True:
            outcome = self.outcomes.get(timeout=PATIENCE).lower()
            if outcome.startswith("get /"):
                return True
            if "alert" in outcome and ("certificate" in outcome or "unknown ca" in outcome):
                return False


@contextlib.contextmanager
def serving(pfx: bytes, folder: pathlib.Path, client_ca: pathlib.Path | None = None) -> Iterator[Server]:
    """A server until the block ends; with `client_ca` it wants a client's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
    server = Server(pfx, context, folder)
    try:
        yield server
    finally:
        server.end()


@dataclass
class Visit:
    """What a client is to do: trust the .crt, and ask the server under this name. `folder` is its own."""

    folder: pathlib.Path
    crt: pathlib.Path
    host: str
    server: Server

    @property
    def port(self) -> int:
        """Where the server listens."""
        return self.server.port

    def run(self, *command: str | os.PathLike[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a client to its end; return its status and all that it said."""
        settings = {**os.environ, "HOME": str(self.folder), **(env or {})}
        done = subprocess.run(
            command, env=settings, cwd=self.folder, capture_output=True, text=True, errors="replace",
            timeout=PATIENCE, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def watch(self, *command: str | os.PathLike[str], env: Mapping[str, str] | None = None) -> bool:
        """Run a browser until the server knows what it makes of the certificate."""
        settings = {**os.environ, "HOME": str(self.folder), **(env or {})}
        with (self.folder / "browser.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            return self.server.verdict()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def program(*names: str) -> str:
    """The first of these programs that this machine has."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no {names[-1]} on this machine")


def judged(status: int, said: str, *refusals: str) -> bool:
    """Whether the client took the certificate; where it didn't, it has to say so in one of these words."""
    assert status == 0 or any(word in said for word in refusals), said
    return status == 0


# ---- clients without a window


def curl(visit: Visit) -> bool:
    """curl with OpenSSL: what is in --cacert is trusted, an authority or not."""
    url = f"https://{visit.host}:{visit.port}/"
    resolve = f"{visit.host}:{visit.port}:127.0.0.1"
    command = [program("curl"), "-sS", "--noproxy", "*", "--cacert", visit.crt, "--resolve", resolve, url]
    return judged(*visit.run(*command), "certificate", "SSL")


def openssl(visit: Visit) -> bool:
    """`openssl s_client`, as strict as it can be."""
    check = ["-verify_return_error", "-x509_strict", "-purpose", "sslserver", "-CAfile", visit.crt]
    if not visit.host.replace(".", "").isdigit():
        check += ["-servername", visit.host, "-verify_hostname", visit.host]
    else:
        check += ["-verify_ip", visit.host]
    where = ["-connect", f"127.0.0.1:{visit.port}"]
    return judged(*visit.run(program("openssl"), "s_client", *where, *check), "verify error", "verify failed")


PYTHON = """
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
context.verify_flags |= ssl.VERIFY_X509_STRICT  # by default since 3.13
plain = socket.create_connection(("127.0.0.1", int(sys.argv[3])))
with context.wrap_socket(plain, server_hostname=sys.argv[2]) as tls:
    tls.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
    tls.recv(1)
"""


def python(minor: int) -> Callable[[Visit], bool]:
    """Python 3.`minor`, strict as 3.13 is by default."""

    def visit_with_python(visit: Visit) -> bool:
        here = [sys.executable] if sys.version_info[1] == minor else []
        pyenv = sorted(pathlib.Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3"))
        path = program(*here, *map(str, pyenv), f"python3.{minor}")
        said = visit.run(path, "-c", PYTHON, visit.crt, visit.host, str(visit.port))
        return judged(*said, "CERTIFICATE_VERIFY_FAILED")

    return visit_with_python


NODE = """
const [host, port] = process.argv.slice(1)
const options = {host: "127.0.0.1", port, servername: /^[0-9.]+$/.test(host) ? "" : host, headers: {host}}
require("https").get(options, (answer) => answer.resume()).on("error", (error) => {
  console.error("refused:", error.code, error.message)
  process.exitCode = 1
})
"""


def node(visit: Visit) -> bool:
    """Node: $NODE_EXTRA_CA_CERTS."""
    command = [program("node"), "-e", NODE, visit.host, str(visit.port)]
    return judged(*visit.run(*command, env={"NODE_EXTRA_CA_CERTS": str(visit.crt)}), "refused: ")


JAVA = """
import javax.net.ssl.*;
import java.net.*;

class Client {
    public static void main(String[] a) throws Exception {
        Socket plain = new Socket("127.0.0.1", Integer.parseInt(a[1]));
        SSLSocketFactory factory = (SSLSocketFactory) SSLSocketFactory.getDefault();
        SSLSocket socket = (SSLSocket) factory.createSocket(plain, a[0], plain.getPort(), true);
        SSLParameters parameters = socket.getSSLParameters();
        parameters.setEndpointIdentificationAlgorithm("HTTPS");
        socket.setSSLParameters(parameters);
        socket.getOutputStream().write("GET / HTTP/1.1\\r\\n\\r\\n".getBytes());
        socket.getInputStream().read();
    }
}
"""


def java(visit: Visit) -> bool:
    """Java: a trust store made by keytool."""
    if not (visit.folder / "trust").exists():
        store = ["-keystore", visit.folder / "trust", "-storepass", "changeit", "-noprompt", "-alias", "it"]
        status, said = visit.run(program("keytool"), "-importcert", "-file", visit.crt, *store)
        assert status == 0, said
    (visit.folder / "Client.java").write_text(JAVA)
    trust = ["-Djavax.net.ssl.trustStore=trust", "-Djavax.net.ssl.trustStorePassword=changeit"]
    command = [program("java"), *trust, "Client.java", visit.host, str(visit.port)]
    return judged(*visit.run(*command), "SSLHandshakeException")


MONO = """
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;

class Client {
    static void Main(string[] a) {
        var tls = new SslStream(new TcpClient("127.0.0.1", int.Parse(a[1])).GetStream());
        tls.AuthenticateAsClient(a[0], null, SslProtocols.Tls12, false);
        tls.Write(System.Text.Encoding.ASCII.GetBytes("GET / HTTP/1.1\\r\\n\\r\\n"));
        tls.ReadByte();
    }
}
"""


def mono(visit: Visit) -> bool:
    """Mono: cert-sync, which is what Debian's update-ca-certificates runs for it too."""
    status, said = visit.run(program("cert-sync"), "--user", visit.crt)
    assert status == 0, said
    (visit.folder / "client.cs").write_text(MONO)
    status, said = visit.run(program("mcs"), "-out:client.exe", "client.cs")
    assert status == 0, said
    command = [program("mono"), "client.exe", visit.host, str(visit.port)]
    return judged(*visit.run(*command), "CERTIFICATE_VERIFY_FAILED", "AuthenticationException")


# ---- browsers


def trusted_by_nss(visit: Visit, database: pathlib.Path, trust: str) -> None:
    """Put the .crt into a database of NSS, which Firefox has, and Chrome on Linux."""
    certutil = program("certutil")
    if sys.platform != "linux":
        pytest.skip("certutil is another program here")
    database.mkdir(parents=True, exist_ok=True)
    add: Sequence[str | pathlib.Path] = ["-A", "-t", trust, "-n", "ours", "-i", visit.crt]
    for command in (["-N", "--empty-password"], add):
        status, said = visit.run(certutil, "-d", f"sql:{database}", *command)
        assert status == 0, said


def is_authority(visit: Visit) -> bool:
    """Whether the .crt says of itself that it is an authority."""
    certificate = x509.load_pem_x509_certificate(visit.crt.read_bytes())
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def chromium(visit: Visit) -> bool:
    """Chromium: the user's NSS database, as the tool's text says."""
    browser = program("chromium", "chromium-browser", "google-chrome")
    trusted_by_nss(visit, visit.folder / ".pki/nssdb", "C,," if is_authority(visit) else "P,,")
    flags = [
        "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server",
        f"--user-data-dir={visit.folder / 'chromium'}", "--host-resolver-rules=MAP * 127.0.0.1",
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # which root can't have
    return visit.watch(browser, *flags, f"https://{visit.host}:{visit.port}/")


FIREFOX = """
user_pref("network.dns.forceResolve", "127.0.0.1");
user_pref("network.proxy.type", 0);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("app.normandy.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("dom.security.https_first", false);
"""


def firefox(visit: Visit) -> bool:
    """Firefox: an authority in its database; a server's own certificate by the exception that it makes."""
    browser = program("firefox-esr", "firefox")
    profile = visit.folder / "firefox"
    trusted_by_nss(visit, profile, "C,," if is_authority(visit) else ",,")
    (profile / "user.js").write_text(FIREFOX)
    if not is_authority(visit):
        certificate = x509.load_pem_x509_certificate(visit.crt.read_bytes())
        sha256 = f"OID.2.16.840.1.101.3.4.2.1\t{cert_tool.fingerprint(certificate)}"
        (profile / "cert_override.txt").write_text(f"{visit.host}:{visit.port}:\t{sha256}\t\n")
    command = [browser, "--headless", "--no-remote", "--profile", profile]
    quiet = {"MOZ_CRASHREPORTER_DISABLE": "1"}
    return visit.watch(*command, f"https://{visit.host}:{visit.port}/", env=quiet)


VERIFIERS: dict[str, Callable[[Visit], bool]] = {
    "curl": curl,
    "openssl": openssl,
    **{f"python3.{minor}": python(minor) for minor in (10, 11, 12, 13)},
    "node": node,
    "java": java,
    "mono": mono,
    "chromium": chromium,
    "firefox": firefox,
}
