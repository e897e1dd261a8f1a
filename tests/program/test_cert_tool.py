# SPDX-License-Identifier: MIT
"""cert_tool.py from outside: the real program, its real files, and other programs that read them."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import re
import select
import shlex
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

import cert_tool  # noqa: E402

PROGRAM = REPO / "cert_tool.py"
PASSWORD = "correct horse"
Done = subprocess.CompletedProcess[str]

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty and no mode bits")
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl command on this machine")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name != "WSDUAL_PASSWORD"}
    return {**clean, "PYTHONDONTWRITEBYTECODE": "1", **(extra or {})}


def run(folder: pathlib.Path, *flags: str, text: str = "", **options: Any) -> Done:
    """Run the program in `folder`, without a terminal; `text` is its standard input."""
    settings: dict[str, Any] = {"input": text, "encoding": "utf-8", "capture_output": True, "check": False}
    settings |= {"cwd": folder, "env": environment({"WSDUAL_PASSWORD": PASSWORD}), **options}
    return subprocess.run([sys.executable, str(PROGRAM), *flags], **settings)


def run_inside(capsys: pytest.CaptureFixture[str], *arguments: str) -> Done:
    """Run the program's main() in this process and folder: the long tables would take long otherwise."""
    try:
        code = cert_tool.main(arguments)
    except SystemExit as left:  # argparse
        code = int(left.code or 0)
    return Done(arguments, code, *capsys.readouterr())


def made(folder: pathlib.Path, *flags: str, **options: Any) -> Done:
    """Run the program with at least one flag, so that it asks nothing, and see it succeed."""
    done = run(folder, *(flags or ("--cn", "localhost")), **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done


def the_one_line(done: Done) -> str:
    """What a failed run says on stderr: one line, and no traceback anywhere."""
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("cert_tool.py: "), done.stderr
    return lines[0]


def files(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def opened(folder: pathlib.Path, password: str | None = PASSWORD) -> pkcs12.PKCS12KeyAndCertificates:
    return pkcs12.load_pkcs12((folder / "server.pfx").read_bytes(), password.encode() if password else None)


def certificate_in(folder: pathlib.Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())


def openssl(*arguments: str, cwd: pathlib.Path) -> str:
    done = subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


# --- The questions ----------------------------------------------------------------------------------------


AT_ITS_TERMINAL = """
import os, sys
os.close(os.open(os.ttyname(0), os.O_RDWR))  # a session's leader gets the first terminal that it opens
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """The program at a terminal of its own, and a user who types when the prompt has come."""

    def __init__(self, folder: pathlib.Path, *flags: str) -> None:
        self.heard = self.unread = ""
        command = [sys.executable, "-ISc", AT_ITS_TERMINAL, sys.executable, str(PROGRAM), *flags]
        self.fd, theirs = os.openpty()
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def listen(self) -> bool:
        if not select.select([self.fd], [], [], 20)[0]:
            pytest.fail(f"the program waits for something else; it said: {self.heard!r}")
        try:
            data = os.read(self.fd, 4096).decode()
        except OSError:  # Linux's way to say that the other side is closed
            return False
        self.heard += data
        self.unread += data
        return bool(data)

    def answer(self, prompt: str, text: str) -> None:
        while prompt not in self.unread:
            assert self.listen(), f"it never asked {prompt!r} but said: {self.heard!r}"
        self.unread = self.unread.partition(prompt)[2]
        os.write(self.fd, text.encode())

    def insist(self, key: str) -> None:
        """Type the key, and again: Python doesn't see one that comes just before it reads."""
        for _ in range(20):
            while select.select([self.fd], [], [], 1)[0]:
                if not self.listen():
                    return
            os.write(self.fd, key.encode())

    def end(self) -> int:
        while self.listen():
            pass
        os.close(self.fd)
        return self.process.wait(20)


@posix_only
def test_bare_it_asks_common_name_password_and_place_and_writes_both_files(tmp_path: pathlib.Path) -> None:
    """Three answers (the password twice, unseen) make a .pfx with that name and password, and its .crt."""
    terminal = Terminal(tmp_path)
    terminal.answer("Common Name", "chat.example\n")
    terminal.answer("Password: ", PASSWORD + "\n")
    terminal.answer("again: ", PASSWORD + "\n")
    terminal.answer("Save to [server.pfx]: ", "mine.pfx\n")
    assert terminal.end() == 0
    assert files(tmp_path) == {"mine.pfx", "mine.crt"}
    pfx = pkcs12.load_pkcs12((tmp_path / "mine.pfx").read_bytes(), PASSWORD.encode())
    assert pfx.cert is not None and pfx.key is not None
    assert pfx.cert.certificate.subject.rfc4514_string() == "CN=chat.example"
    assert PASSWORD not in terminal.heard


@posix_only
def test_enter_takes_the_defaults_that_the_questions_show(tmp_path: pathlib.Path) -> None:
    """Enter at the name and at the place means localhost and server.pfx."""
    terminal = Terminal(tmp_path)
    terminal.answer("[localhost]: ", "\n")
    terminal.answer("Password: ", "p\n")
    terminal.answer("again: ", "p\n")
    terminal.answer("[server.pfx]: ", "\n")
    assert terminal.end() == 0
    assert certificate_in(tmp_path).subject.rfc4514_string() == "CN=localhost"
    assert opened(tmp_path, "p").key is not None


@posix_only
def test_a_bad_answer_is_explained_and_asked_again(tmp_path: pathlib.Path) -> None:
    """A name too long, no password, two different ones, a folder that isn't there: each is asked again."""
    terminal = Terminal(tmp_path)
    terminal.answer("Common Name", "x" * 65 + "\n")
    terminal.answer("X.509 allows 64", "")
    terminal.answer("Common Name", "localhost\n")
    terminal.answer("Password: ", "\n")
    terminal.answer("needs a password", "")
    terminal.answer("Password: ", "one\n")
    terminal.answer("again: ", "two\n")
    terminal.answer("different", "")
    terminal.answer("Password: ", "three\n")
    terminal.answer("again: ", "three\n")
    terminal.answer("Save to", "nowhere/server.pfx\n")
    terminal.answer("no folder", "")
    terminal.answer("Save to", "server.pem\n")
    terminal.answer(".pfx or .p12", "")
    terminal.answer("Save to", "\n")
    assert terminal.end() == 0
    assert opened(tmp_path, "three").key is not None


@posix_only
@pytest.mark.parametrize("existing", ["server.pfx", "server.crt"])
def test_an_existing_file_is_replaced_only_after_a_yes(tmp_path: pathlib.Path, existing: str) -> None:
    """At the questions an existing .pfx or .crt stays as it is unless the user says y."""
    (tmp_path / existing).write_text("precious")
    terminal = Terminal(tmp_path)
    terminal.answer("Common Name", "\n")
    terminal.answer("Password: ", "p\n")
    terminal.answer("again: ", "p\n")
    terminal.answer("Save to", "\n")
    terminal.answer(f"{existing} exists. Replace it? [y/N]: ", "\n")
    terminal.answer("Save to", "\n")
    assert (tmp_path / existing).read_text() == "precious"
    terminal.answer("[y/N]: ", "y\n")
    assert terminal.end() == 0
    assert opened(tmp_path, "p").key is not None
    assert files(tmp_path) == {"server.pfx", "server.crt"}


@posix_only
@pytest.mark.parametrize("key, code", [("\x03", 130), ("\x04", 1)], ids=["ctrl-c", "ctrl-d"])
@pytest.mark.parametrize("question", range(4))
def test_leaving_at_any_question_is_one_line_and_no_file(
    tmp_path: pathlib.Path, question: int, key: str, code: int
) -> None:
    """Ctrl-C and Ctrl-D at each question end the program with one line, no traceback and no file."""
    terminal = Terminal(tmp_path)
    dialog = [("Common Name", "\n"), ("Password: ", "p\n"), ("again: ", "p\n"), ("Save to", "\n")]
    for prompt, text in dialog[:question]:
        terminal.answer(prompt, text)
    terminal.answer(dialog[question][0], key)
    terminal.insist(key)
    assert terminal.end() == code
    assert "Traceback" not in terminal.heard
    assert terminal.heard.count("cert_tool.py: ") == 1
    assert files(tmp_path) == set()


def test_answers_may_come_through_a_pipe(tmp_path: pathlib.Path) -> None:
    """Without a terminal the answers are read from standard input, without getpass's warnings."""
    done = run(tmp_path, text="chat.example\np\np\nserver.pfx\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert opened(tmp_path, "p").key is not None


def test_the_end_of_input_at_a_question_is_one_line(tmp_path: pathlib.Path) -> None:
    """Standard input that ends before the last answer is an error in one line, and nothing is written."""
    assert "input ended" in the_one_line(run(tmp_path, text="chat.example\np\np\n"))
    assert files(tmp_path) == set()


@posix_only
def test_without_any_standard_input_it_is_one_line_too(tmp_path: pathlib.Path) -> None:
    """Started bare by something that gave it no standard input at all, it ends with one line as well."""
    the_one_line(run(tmp_path, input=None, preexec_fn=lambda: os.close(0)))
    assert files(tmp_path) == set()


# --- The flags --------------------------------------------------------------------------------------------


def test_with_any_flag_it_asks_nothing(tmp_path: pathlib.Path) -> None:
    """One flag is enough: standard input stays untouched and the defaults fill in the rest."""
    done = made(tmp_path, "--days", "30", stdin=subprocess.DEVNULL, input=None)
    assert "Common Name" not in done.stdout
    assert certificate_in(tmp_path).subject.rfc4514_string() == "CN=localhost"
    assert opened(tmp_path).key is not None


def test_the_flags_reach_the_certificate(tmp_path: pathlib.Path) -> None:
    """--cn, --san, --days, --out and --rsa do what --help says."""
    flags = ["--cn", "chat.example", "--san", "10.0.0.7", "--san", "*.other.example", "--days", "30"]
    made(tmp_path, *flags, "--out", "other.p12", "--rsa")
    assert files(tmp_path) == {"other.p12", "other.crt"}
    certificate = x509.load_pem_x509_certificate((tmp_path / "other.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [
        "chat.example",
        "localhost",
        "127.0.0.1",
        "::1",
        "10.0.0.7",
        "*.other.example",
    ]
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == datetime.timedelta(days=30)
    assert isinstance(certificate.public_key(), rsa.RSAPublicKey)


def test_a_password_file_goes_before_the_environment(tmp_path: pathlib.Path) -> None:
    """The password is the first line of --password-file, whatever line ends and byte order mark it has."""
    (tmp_path / "secret").write_bytes("\ufeffpässword\r\nnot this\r\n".encode())
    made(tmp_path, "--password-file", "secret")
    assert opened(tmp_path, "pässword").key is not None


def test_no_password_leaves_the_key_open_and_says_so(tmp_path: pathlib.Path) -> None:
    """--no-password wins over $WSDUAL_PASSWORD, and the output says that the key is not encrypted."""
    assert "NOT encrypted" in made(tmp_path, "--no-password").stdout
    assert opened(tmp_path, None).key is not None


ERRORS = {
    "days that are no number": (["--days", "many"], "--days"),
    "days out of range, low": (["--days", "0"], "1 to 825"),
    "days out of range, high": (["--days", "826"], "1 to 825"),
    "an empty Common Name": (["--cn", ""], "Common Name"),
    "a Common Name too long": (["--cn", "x" * 65], "Common Name"),
    "a Common Name with a line end": (["--cn", "a\nb"], "Common Name"),
    "a bad host name": (["--san", "under_score.example"], "'under_score.example'"),
    "an empty name": (["--san", ""], "neither a host name nor an IP address"),
    "a mistyped IP address": (["--san", "300.1.1.1"], "'300.1.1.1'"),
    "an IP address of one interface": (["--san", "fe80::1%eth0"], "'fe80::1%eth0'"),
    "a label too long": (["--san", "x" * 64 + ".example"], "neither a host name nor an IP address"),
    "no such folder": (["--out", "nowhere/server.pfx"], "no folder 'nowhere'"),
    "a file as folder": (["--out", "secret/server.pfx"], "no folder 'secret'"),
    "another suffix": (["--out", "server.pem"], ".pfx or .p12"),
    "a folder as file": (["--out", "folder.pfx", "--force"], "is a folder"),
    "no such password file": (["--password-file", "nowhere"], "nowhere"),
    "an empty password file": (["--password-file", "empty"], "first line of empty"),
    "a password file in UTF-16": (["--password-file", "utf-16"], "UTF-8"),
    "two ways to say the password": (["--password-file", "secret", "--no-password"], "exclude"),
    "a password as an argument": (["--password", "hush"], "--password-file"),
    "legacy without a password": (["--legacy", "--no-password"], "legacy"),
    "an unknown flag": (["--colour", "blue"], "--colour"),
    "an abbreviated flag": (["--no-pass"], "--no-pass"),
}


@pytest.mark.parametrize("flags, says", ERRORS.values(), ids=ERRORS.keys())
def test_an_error_is_one_line_and_writes_nothing(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    says: str,
) -> None:
    """Whatever is wrong with the flags: one line that names it, a non-zero exit, no file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WSDUAL_PASSWORD", PASSWORD)
    (tmp_path / "secret").write_text(PASSWORD)
    (tmp_path / "empty").write_text("\n" + PASSWORD)
    (tmp_path / "utf-16").write_text(PASSWORD, "utf-16")
    (tmp_path / "folder.pfx").mkdir()
    before = files(tmp_path)
    line = the_one_line(run_inside(capsys, *flags))
    assert says in line and "hush" not in line
    assert files(tmp_path) == before


def test_without_a_password_the_error_names_the_three_ways(tmp_path: pathlib.Path) -> None:
    """Flags but no password: the line names --password-file, $WSDUAL_PASSWORD and --no-password."""
    for env in (environment(), environment({"WSDUAL_PASSWORD": ""})):
        line = the_one_line(run(tmp_path, "--cn", "localhost", env=env))
        assert all(way in line for way in ("--password-file", "$WSDUAL_PASSWORD", "--no-password"))
    assert files(tmp_path) == set()


# --- The files --------------------------------------------------------------------------------------------


@posix_only
@pytest.mark.parametrize("umask", [0, 0o022, 0o077], ids=oct)
def test_the_pfx_is_the_owner_s_alone_and_the_crt_everybody_s_under_any_umask(
    tmp_path: pathlib.Path, umask: int
) -> None:
    """Whatever the umask would allow or forbid: .pfx 0600, .crt 0644, new or replaced."""
    for flags in ([], ["--force"]):
        made(tmp_path, "--cn", "localhost", *flags, umask=umask)
        for name, mode in (("server.pfx", 0o600), ("server.crt", 0o644)):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
            (tmp_path / name).chmod(0o666)


@pytest.mark.parametrize("existing", ["server.pfx", "server.crt"])
def test_an_existing_file_is_never_overwritten_unasked(tmp_path: pathlib.Path, existing: str) -> None:
    """Where one of the two files exists, it stays, and the other one isn't made."""
    (tmp_path / existing).write_text("precious")
    assert "--force" in the_one_line(run(tmp_path, "--cn", "localhost"))
    assert (tmp_path / existing).read_text() == "precious"
    assert files(tmp_path) == {existing}


@posix_only
def test_a_dangling_link_counts_as_an_existing_file(tmp_path: pathlib.Path) -> None:
    """The key isn't written through a symbolic link that somebody has put in its place."""
    (tmp_path / "server.pfx").symlink_to("elsewhere")
    the_one_line(run(tmp_path, "--cn", "localhost"))
    assert files(tmp_path) == {"server.pfx"}


def test_force_replaces_both_files_and_leaves_no_other(tmp_path: pathlib.Path) -> None:
    """--force puts a new pair in the place of the old one, and no temporary file stays behind."""
    made(tmp_path)
    old = certificate_in(tmp_path)
    made(tmp_path, "--force")
    new = certificate_in(tmp_path)
    assert new != old
    pfx = opened(tmp_path)
    assert pfx.cert is not None and pfx.cert.certificate == new
    assert files(tmp_path) == {"server.pfx", "server.crt"}


@posix_only
@pytest.mark.parametrize("force", [False, True], ids=["new", "force"])
def test_a_full_disk_leaves_no_half_written_file(tmp_path: pathlib.Path, force: bool) -> None:
    """When the writing fails midway, what was there before is there, and nothing else."""
    import resource

    before = {}
    if force:
        made(tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # the .crt would fit, the .pfx doesn't

    flags = ["--cn", "localhost", *(["--force"] if force else [])]
    the_one_line(run(tmp_path, *flags, preexec_fn=limit))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_one_line(tmp_path: pathlib.Path) -> None:
    """A folder that the user must not write to is told in one line, and stays empty."""
    tmp_path.chmod(0o500)
    try:
        assert "no permission" in the_one_line(run(tmp_path, "--cn", "localhost"))
        assert "no permission" in the_one_line(run(tmp_path, "--cn", "localhost", "--force"))
    finally:
        tmp_path.chmod(0o700)
    assert files(tmp_path) == set()


def holds_the_key(folder: pathlib.Path, key: ec.EllipticCurvePrivateKey) -> bool:
    secret = key.private_numbers().private_value.to_bytes(32, "big")
    return any(secret in path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize("flags", [["--cn", "localhost"], ["--legacy"]], ids=["aes", "legacy"])
def test_the_private_key_is_never_on_disk_in_clear(tmp_path: pathlib.Path, flags: list[str]) -> None:
    """With a password no file holds the key's bytes (with --no-password the .pfx does)."""
    made(tmp_path, *flags)
    key = opened(tmp_path).key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert not holds_the_key(tmp_path, key)
    made(tmp_path, "--no-password", "--force")
    key = opened(tmp_path, None).key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert holds_the_key(tmp_path, key)


# --- Other programs ---------------------------------------------------------------------------------------


PFX_INFO = ["pkcs12", "-info", "-noout", "-in", "server.pfx", "-passin", f"pass:{PASSWORD}"]


@needs_openssl
def test_openssl_reads_the_pfx_and_finds_aes_and_sha256(tmp_path: pathlib.Path) -> None:
    """By default the key and the certificate are encrypted with AES-256, and the MAC is SHA-256."""
    made(tmp_path)
    info = openssl(*PFX_INFO, cwd=tmp_path)
    assert len(re.findall("AES-256-CBC", info)) == 2
    assert re.search("MAC: sha256", info)


@needs_openssl
def test_a_legacy_pfx_uses_nothing_newer_than_3des_and_sha1(tmp_path: pathlib.Path) -> None:
    """--legacy encrypts both parts with 3DES and takes SHA-1 for the MAC, and openssl can read it."""
    made(tmp_path, "--legacy")
    info = openssl(*PFX_INFO, cwd=tmp_path)
    assert len(re.findall("pbeWithSHA1And3-KeyTripleDES-CBC", info)) == 2
    assert re.search("MAC: sha1", info) and "AES" not in info


@needs_openssl
@pytest.mark.parametrize("flags", [[], ["--rsa"]], ids=["ec", "rsa"])
def test_openssl_accepts_the_certificate_strictly_for_its_names_only(
    tmp_path: pathlib.Path, flags: list[str]
) -> None:
    """`openssl verify -x509_strict` accepts it as its own root for a server of its names, and of no other."""
    made(tmp_path, "--cn", "chat.example", *flags)
    verify = ["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "server.crt"]
    for name in ("chat.example", "localhost"):
        openssl(*verify, "-verify_hostname", name, "server.crt", cwd=tmp_path)
    for address in ("127.0.0.1", "::1"):
        openssl(*verify, "-verify_ip", address, "server.crt", cwd=tmp_path)
    other = ["openssl", *verify, "-verify_hostname", "other.example", "server.crt"]
    assert subprocess.run(other, cwd=tmp_path, capture_output=True, check=False).returncode != 0


@contextlib.contextmanager
def tls_server(folder: pathlib.Path) -> Iterator[tuple[str, int]]:
    """A TLS server with the key and the certificate from server.pfx, until the block ends."""
    pfx = opened(folder)
    assert pfx.key is not None and pfx.cert is not None
    pem = folder / "for-python.pem"  # Python's ssl can't read a .pfx
    encryption = serialization.BestAvailableEncryption(b"x")
    pem.write_bytes(
        pfx.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        + pfx.cert.certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, password="x")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                if tls.recv(1) == b"q":
                    return
                tls.sendall(b"!")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        asks = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        asks.check_hostname, asks.verify_mode = False, ssl.CERT_NONE
        with asks.wrap_socket(socket.create_connection(listener.getsockname())) as tls:
            tls.sendall(b"q")
            thread.join()
        listener.close()


def greet(address: tuple[str, int], name: str, context: ssl.SSLContext) -> bytes:
    with context.wrap_socket(socket.create_connection(address), server_hostname=name) as tls:
        tls.sendall(b"?")
        return tls.recv(1)


@pytest.mark.parametrize("flags", [[], ["--rsa"], ["--legacy"]], ids=["ec", "rsa", "legacy"])
def test_a_tls_client_that_trusts_the_crt_alone_accepts_each_name(
    tmp_path: pathlib.Path, flags: list[str]
) -> None:
    """With the .crt as its only root a client verifies every name in it, and refuses any other name."""
    made(tmp_path, "--cn", "chat.example", "--san", "10.1.2.3", "--san", "bücher.example", *flags)
    context = ssl.create_default_context(cafile=str(tmp_path / "server.crt"))
    with tls_server(tmp_path) as address:
        for name in ("chat.example", "localhost", "127.0.0.1", "::1", "10.1.2.3", "xn--bcher-kva.example"):
            assert greet(address, name, context) == b"!"
        with pytest.raises(ssl.SSLCertVerificationError):
            greet(address, "other.example", context)


def test_a_tls_client_that_does_not_have_the_crt_refuses(tmp_path: pathlib.Path) -> None:
    """Nobody trusts the certificate by himself: with another certificate as the root the handshake fails."""
    made(tmp_path)
    (tmp_path / "other").mkdir()
    made(tmp_path / "other")
    context = ssl.create_default_context(cafile=str(tmp_path / "other" / "server.crt"))
    with tls_server(tmp_path) as address, pytest.raises(ssl.SSLCertVerificationError):
        greet(address, "localhost", context)


# --- show -------------------------------------------------------------------------------------------------


def test_show_tells_subject_names_validity_fingerprint_and_key_of_a_pfx(tmp_path: pathlib.Path) -> None:
    """`show` finds the password in $WSDUAL_PASSWORD and prints what `describe` and `fingerprint` return."""
    made(tmp_path, "--cn", "chat.example", "--rsa")
    shown = run(tmp_path, "show", "server.pfx").stdout
    certificate = certificate_in(tmp_path)
    assert shown.splitlines()[0] == "server.pfx: 1 certificate, private key: RSA, 2048 bits"
    assert shown.splitlines()[2:] == cert_tool.describe(certificate)
    assert "CN=chat.example" in shown and "chat.example, localhost, 127.0.0.1, ::1" in shown
    assert f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M}" in shown
    digest = certificate.fingerprint(hashes.SHA256())
    assert ":".join(f"{byte:02X}" for byte in digest) == cert_tool.fingerprint(certificate)
    assert cert_tool.fingerprint(certificate) in shown


@needs_openssl
def test_the_fingerprint_is_written_as_openssl_writes_it(tmp_path: pathlib.Path) -> None:
    """`fingerprint` and `openssl x509 -fingerprint -sha256` agree to the letter."""
    made(tmp_path)
    said = openssl("x509", "-in", "server.crt", "-noout", "-fingerprint", "-sha256", cwd=tmp_path)
    assert said.strip().partition("=")[2] == cert_tool.fingerprint(certificate_in(tmp_path))


def chain_in_files(folder: pathlib.Path) -> list[str]:
    """Write a key with two certificates in each format; return the subjects' lines."""
    key, leaf = cert_tool.make_certificate("leaf.example")
    _, issuer = cert_tool.make_certificate("issuer.example")
    pem = serialization.Encoding.PEM
    both = leaf.public_bytes(pem) + issuer.public_bytes(pem)
    pkcs8 = serialization.PrivateFormat.PKCS8
    locked = serialization.BestAvailableEncryption(PASSWORD.encode())
    pfx = pkcs12.serialize_key_and_certificates(None, key, leaf, [issuer], locked)
    (folder / "chain.pfx").write_bytes(pfx)
    (folder / "open.pem").write_bytes(both + key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    (folder / "locked.pem").write_bytes(key.private_bytes(pem, pkcs8, locked) + both)
    (folder / "chain.pem").write_bytes(both)
    (folder / "leaf.cer").write_bytes(leaf.public_bytes(serialization.Encoding.DER))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    return ["Subject: CN=leaf.example", "Subject: CN=issuer.example"]


def test_show_lists_every_certificate_and_whether_the_key_is_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A chain in a .pfx or a .pem is listed whole; the key's kind is told where it can be, the key never."""
    subjects = chain_in_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WSDUAL_PASSWORD", PASSWORD)
    for name, count, key in [
        ("chain.pfx", 2, "ECDSA P-256"),
        ("open.pem", 2, "ECDSA P-256"),
        ("locked.pem", 2, "yes, encrypted"),
        ("chain.pem", 2, "none"),
        ("leaf.cer", 1, "none"),
    ]:
        done = run_inside(capsys, "show", name)
        lines = done.stdout.splitlines()
        assert (done.returncode, done.stderr) == (0, "")
        assert lines[0] == f"{name}: {count} certificate{'s' * (count > 1)}, private key: {key}"
        assert [line for line in lines if line.startswith("Subject: ")] == subjects[:count]
        assert "PRIVATE" not in done.stdout


def test_show_needs_no_password_where_the_file_has_none(tmp_path: pathlib.Path) -> None:
    """A .pfx without a password is shown even if $WSDUAL_PASSWORD holds another file's."""
    made(tmp_path, "--no-password")
    assert "private key: ECDSA P-256" in run(tmp_path, "show", "server.pfx").stdout


@posix_only
def test_show_asks_at_the_terminal_when_it_has_no_password(tmp_path: pathlib.Path) -> None:
    """At a terminal the password is asked for, unseen; a wrong one is an error in one line."""
    made(tmp_path)
    terminal = Terminal(tmp_path, "show", "server.pfx")
    terminal.answer("Password of server.pfx: ", PASSWORD + "\n")
    assert terminal.end() == 0
    assert "CN=localhost" in terminal.heard and PASSWORD not in terminal.heard
    terminal = Terminal(tmp_path, "show", "server.pfx")
    terminal.answer("Password of server.pfx: ", "wrong\n")
    assert terminal.end() == 1
    assert "wrong or missing password" in terminal.heard and "Traceback" not in terminal.heard


def test_show_explains_in_one_line_what_it_cannot_show(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong or missing password, a file that is no certificate, damaged, unreadable: one line each."""
    made(tmp_path)
    chain_in_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong").write_text("wrong")
    (tmp_path / "notes.txt").write_text("0123456789")
    (tmp_path / "empty.pfx").write_bytes(b"")
    (tmp_path / "half.pfx").write_bytes((tmp_path / "server.pfx").read_bytes()[:500])
    (tmp_path / "half.pem").write_bytes((tmp_path / "server.crt").read_bytes()[:300])
    for arguments, says in [
        (["server.pfx", "--password-file", "wrong"], "wrong or missing password"),
        (["half.pfx"], "half.pfx"),
        (["half.pem"], "half.pem"),
        (["key.pem"], "no certificate"),
        (["notes.txt"], "notes.txt"),
        (["empty.pfx"], "empty.pfx"),
        (["nowhere.pfx"], "nowhere.pfx"),
        (["."], "."),
        ([], "FILE"),
        (["server.pfx", "--password", "hush"], "--password-file"),
    ]:
        assert says in the_one_line(run_inside(capsys, "show", *arguments))
    assert "wrong or missing" in the_one_line(run(tmp_path, "show", "server.pfx", env=environment()))


def test_show_lets_no_certificate_steer_the_terminal(tmp_path: pathlib.Path) -> None:
    """Control characters in somebody else's certificate are printed escaped."""
    evil = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "\x1b[2Jevil")])
    key, template = cert_tool.make_certificate("localhost")
    builder = x509.CertificateBuilder(evil, evil, key.public_key(), template.serial_number)
    builder = builder.not_valid_before(template.not_valid_before_utc)
    certificate = builder.not_valid_after(template.not_valid_after_utc).sign(key, hashes.SHA256())
    (tmp_path / "evil.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    shown = run(tmp_path, "show", "evil.crt").stdout
    assert "evil" in shown and "\x1b" not in shown


@posix_only
def test_a_reader_who_has_had_enough_causes_no_complaint(tmp_path: pathlib.Path) -> None:
    """`cert_tool.py show ... | head -1` prints the line and nothing on stderr."""
    made(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    done = run(tmp_path, "show", "server.crt", stdout=writer, stderr=subprocess.PIPE, capture_output=False)
    os.close(writer)
    assert done.stderr == ""


# --- How to trust it --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "platform, words",
    [
        ("linux", ["update-ca-certificates", "update-ca-trust", "certutil -d sql:$HOME", "chrome://"]),
        ("darwin", ["security add-trusted-cert", "security delete-certificate"]),
        ("win32", ["certutil -user -addstore Root", "certutil -user -delstore Root"]),
    ],
)
def test_the_advice_fits_the_system_and_tells_the_way_back(platform: str, words: list[str]) -> None:
    """Each system's advice names its own commands and all four browsers, with a way back for each way in."""
    _, certificate = cert_tool.make_certificate("localhost")
    advice = cert_tool.how_to_trust(certificate, pathlib.Path("server.crt"), platform)
    assert all(word in advice for word in [*words, "Chrome", "Edge", "Firefox", "Safari"])
    assert advice.count("take it back") == advice.count("restart them") + 1 + 2 * (platform == "linux")
    assert len(advice.splitlines()) <= 25


def test_the_program_prints_the_advice_for_this_system(tmp_path: pathlib.Path) -> None:
    """What it prints after writing ends with the advice for this machine, under real names."""
    done = made(tmp_path, "--cn", "chat.example")
    advice = cert_tool.how_to_trust(certificate_in(tmp_path), pathlib.Path("server.crt"))
    assert "server.crt" in advice
    if "HOME" in os.environ:
        assert done.stdout.endswith(advice)


@posix_only
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_commands_can_be_pasted_whatever_the_names_are(platform: str) -> None:
    """A blank or a quote in the Common Name or in the path reaches the command as one argument."""
    _, certificate = cert_tool.make_certificate("Ann's $(room)")
    advice = cert_tool.how_to_trust(certificate, pathlib.Path("my files/it's.crt"), platform)
    commands = [shlex.split(line) for line in advice.splitlines() if line.startswith("    ")]
    assert any("my files/it's.crt" in command for command in commands)
    if platform == "linux":
        assert sum("Ann's $(room)" in command for command in commands) == 2
        assert any("/usr/local/share/ca-certificates/it's.crt" in command for command in commands)


# --- The module -------------------------------------------------------------------------------------------


def test_make_certificate_makes_a_leaf_for_servers_only() -> None:
    """No authority, for servers, valid already, its own number."""
    for use_rsa in (False, True):
        key, certificate = cert_tool.make_certificate("localhost", rsa=use_rsa)
        get = certificate.extensions.get_extension_for_class
        assert get(x509.BasicConstraints).value == x509.BasicConstraints(ca=False, path_length=None)
        assert list(get(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
        public = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        assert get(x509.SubjectKeyIdentifier).value == public
        now = datetime.datetime.now(datetime.timezone.utc)
        assert certificate.not_valid_before_utc <= now - datetime.timedelta(minutes=5)
        assert certificate.serial_number != cert_tool.make_certificate("localhost")[1].serial_number


NAMES = {
    "localhost": "localhost",
    "Chat.Example": "chat.example",
    "*.example.com": "*.example.com",
    "bücher.example": "xn--bcher-kva.example",
    "127.0.0.1": "127.0.0.1",
    "2001:DB8::1": "2001:db8::1",
    "": None,
    "*": None,
    "a..b": None,
    "-a.example": None,
    "a.*.example": None,
    "under_score": None,
    "a b": None,
    "1.2.3": None,
    "300.1.1.1": None,
    "[::1]": None,
    "fe80::1%eth0": None,
    "https://localhost": None,
    "x" * 64: None,
    ".".join(["x" * 60] * 5): None,
}


@pytest.mark.parametrize("name, value", NAMES.items())
def test_a_name_is_an_ip_address_or_a_host_name_or_refused(name: str, value: str | None) -> None:
    """IP addresses become iPAddress names, host names dNSName in IDNA, and everything else a ValueError."""
    if value is None:
        with pytest.raises(ValueError, match="neither a host name nor an IP address"):
            cert_tool.make_certificate("localhost", [name])
        return
    _, certificate = cert_tool.make_certificate("Room 12", [name])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    kind = x509.IPAddress if ":" in name or name[0].isdigit() else x509.DNSName
    assert value in [str(found) for found in names.get_values_for_type(kind)]
    assert len(names) == len({str(found.value) for found in names})


def test_a_common_name_that_is_no_host_name_is_no_alternative_name() -> None:
    """A Common Name may be any text; only a host name or an IP address is also put among the names."""
    _, certificate = cert_tool.make_certificate("Room 12")
    assert cert_tool.describe(certificate)[0] == "Subject: CN=Room 12"
    assert cert_tool.describe(certificate)[2] == "Names:   localhost, 127.0.0.1, ::1"


def test_describe_marks_what_is_not_valid_now() -> None:
    """An expired certificate, and one from the future, is told apart from a valid one."""
    key, template = cert_tool.make_certificate("localhost")
    for shift, mark in ((-400, "(EXPIRED)"), (400, "(NOT YET VALID)"), (0, "UTC")):
        days = datetime.timedelta(days=shift)
        builder = x509.CertificateBuilder(template.issuer, template.subject, key.public_key(), 1)
        builder = builder.not_valid_before(template.not_valid_before_utc + days)
        certificate = builder.not_valid_after(template.not_valid_after_utc + days).sign(key, hashes.SHA256())
        assert cert_tool.describe(certificate)[3].endswith(mark)


def test_pfx_bytes_takes_none_for_no_password_but_no_empty_one() -> None:
    """None means no encryption; an empty password is a mistake, and so is legacy without any."""
    key, certificate = cert_tool.make_certificate("localhost")
    assert pkcs12.load_pkcs12(cert_tool.pfx_bytes(key, certificate, None), None).key is not None
    with pytest.raises(ValueError, match="empty"):
        cert_tool.pfx_bytes(key, certificate, "")
    with pytest.raises(ValueError, match="password"):
        cert_tool.pfx_bytes(key, certificate, None, legacy=True)
