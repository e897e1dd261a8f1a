# SPDX-License-Identifier: MIT
"""An authority for a class: what it makes is taken by programs that trust it, within its limits only."""

from __future__ import annotations

import datetime
import os
import shutil
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from support import Program
from verifiers import VERIFIERS, Visit, program, serving

import cert_tool

PASSWORD = "correct horse"
SIGNED = ["--signed-by", "class.pfx"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("WSDUAL_")}


def run(folder: Path, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the tool in that folder, without a terminal."""
    return subprocess.run(
        [sys.executable, cert_tool.__file__, *flags], cwd=folder, env=ENVIRONMENT | env, check=False,
        capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL,
    )  # fmt: skip


def made(folder: Path, *flags: str) -> str:
    """Run the tool with the password, see it succeed, and return what it said."""
    done = run(folder, *flags, WSDUAL_PASSWORD=PASSWORD, WSDUAL_AUTHORITY_PASSWORD=PASSWORD)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def the_one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed run says: one line, and no traceback."""
    assert done.returncode not in (0, None) and "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("cert_tool.py: "), done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with class.pfx and class.crt, shared by the tests; they write elsewhere."""
    folder = tmp_path_factory.mktemp("room")
    made(folder, "authority", "--cn", "Room 12", "--out", "class.pfx", "--for", "school.example")
    return folder


@pytest.fixture
def folder(room: Path, tmp_path: Path) -> Path:
    """A folder of the test's own, with a copy of the authority."""
    for name in ("class.pfx", "class.crt"):
        shutil.copy(room / name, tmp_path)
    return tmp_path


def opened(path: Path, password: str | None = PASSWORD) -> pkcs12.PKCS12KeyAndCertificates:
    """What a .pfx holds."""
    return pkcs12.load_pkcs12(path.read_bytes(), password.encode() if password else None)


def certificate_in(path: Path, password: str | None = PASSWORD) -> x509.Certificate:
    """A .pfx file's own certificate."""
    found = opened(path, password).cert
    assert found is not None
    return found.certificate


def root_in(path: Path) -> x509.Certificate:
    """The certificate in a .crt file."""
    return x509.load_pem_x509_certificate(path.read_bytes())


# ---------------------------------------------------------------- in front of programs that verify


def stolen(folder: Path, common_name: str, san: Sequence[str]) -> bytes:
    """What a thief makes of class.pfx, who heeds no limits: a server's .pfx, without a password."""
    pfx = opened(folder / "class.pfx")
    assert pfx.cert is not None and pfx.key is not None
    intermediate = pfx.cert.certificate
    key = cert_tool.new_private_key(False)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    builder = x509.CertificateBuilder(
        intermediate.subject, name, key.public_key(), 12, start, start + datetime.timedelta(days=90)
    )
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(intermediate.public_key())
    for extension in (
        signer,
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        *([x509.SubjectAlternativeName([x509.DNSName(each) for each in san])] if san else []),
    ):
        builder = builder.add_extension(extension, False)
    certificate = builder.sign(pfx.key, hashes.SHA256())
    return cert_tool.pfx_bytes(key, certificate, None, chain=[intermediate])


# Mono can't check limits for addresses, and refuses all that is signed within such.
@pytest.mark.parametrize("verifier", [name for name in VERIFIERS if name != "mono"])
def test_who_trusts_the_root_takes_what_is_inside_and_refuses_what_is_outside(
    folder: Path, verifier: str
) -> None:
    """It takes a server as chat.lan; what a thief of class.pfx signs for bank.example it doesn't."""
    made(folder, *SIGNED, "--cn", "chat.lan", "--no-password")
    bank = stolen(folder, "bank.example", ["bank.example"])
    for host, pfx in (("chat.lan", (folder / "server.pfx").read_bytes()), ("bank.example", bank)):
        (folder / host).mkdir()
        with serving(pfx, folder / host) as server:
            taken = VERIFIERS[verifier](Visit(folder / host, folder / "class.crt", host, server))
        assert taken == (host == "chat.lan")


TRICKS = {
    "one name inside, one outside": ("localhost", "localhost", ["localhost", "bank.example"]),
    "a wildcard": ("bank.example", "x", ["*.example"]),
    "as a Common Name alone": ("bank.example", "bank.example", []),
    "as a Common Name beside a name inside": ("bank.example", "bank.example", ["localhost"]),
}


@pytest.mark.parametrize("verifier", ["openssl", f"python3.{sys.version_info[1]}", "java"])
@pytest.mark.parametrize("host, common_name, san", TRICKS.values(), ids=TRICKS.keys())
def test_no_trick_brings_a_thief_past_the_limits(
    folder: Path, verifier: str, host: str, common_name: str, san: list[str]
) -> None:
    """However the name that is outside is written, the certificate is refused."""
    with serving(stolen(folder, common_name, san), folder) as server:
        assert not VERIFIERS[verifier](Visit(folder, folder / "class.crt", host, server))


def test_what_is_signed_carries_the_intermediate_along(folder: Path) -> None:
    """The .pfx holds the server's certificate and the intermediate, and not the root, which signed that."""
    made(folder, *SIGNED, "--cn", "chat.lan")
    pfx = opened(folder / "server.pfx")
    root = root_in(folder / "class.crt")
    intermediate = certificate_in(folder / "class.pfx")
    assert [extra.certificate for extra in pfx.additional_certs] == [intermediate]
    certificate_in(folder / "server.pfx").verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    pem, _ = cert_tool.pfx_to_pem((folder / "server.pfx").read_bytes(), [PASSWORD], "server.pfx")
    assert x509.load_pem_x509_certificates(pem) == [certificate_in(folder / "server.pfx"), intermediate]


def test_the_root_s_key_is_nowhere(folder: Path) -> None:
    """class.pfx holds the intermediate's key, which isn't the root's."""
    root = root_in(folder / "class.crt")
    pfx = opened(folder / "class.pfx")
    assert pfx.key is not None and not pfx.additional_certs
    assert pfx.key.public_key() == certificate_in(folder / "class.pfx").public_key() != root.public_key()


# ---------------------------------------------------------------- clients


needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl command on this machine")
CLIENTS = ["ann", "ann.smith", "Ann Smith", "ann@school.example", "bank.example"]


@needs_openssl
@pytest.mark.parametrize("name", CLIENTS)
def test_openssl_takes_a_client_whatever_its_name(folder: Path, name: str) -> None:
    """`openssl verify`, at its strictest, takes it as a client's and not as a server's certificate."""
    made(folder, *SIGNED, "--client", "--cn", name, "--out", "ann.pfx", "--pem")
    check = ["openssl", "verify", "-x509_strict", "-CAfile", "class.crt", "-untrusted", "ann.crt"]
    for purpose, taken in (("sslclient", True), ("sslserver", False)):
        command = [*check, "-purpose", purpose, "ann.crt"]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        assert (done.returncode == 0) == taken, done.stderr
    certificate = certificate_in(folder / "ann.pfx")
    assert cert_tool.common_name_of(certificate) == name
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def curl(folder: Path, port: int, *flags: str) -> subprocess.CompletedProcess[str]:
    """Ask for / with curl, which trusts class.crt."""
    command = [program("curl"), "-sS", "--noproxy", "*", "--cacert", "class.crt", *flags]
    return subprocess.run(
        [*command, f"https://localhost:{port}/"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", CLIENTS[:2])
def test_a_python_server_that_wants_certificates_takes_curl_s(folder: Path, name: str) -> None:
    """With CERT_REQUIRED and the root alone: taken with .crt and .key, refused without."""
    made(folder, *SIGNED, "--no-password")
    made(folder, *SIGNED, "--client", "--cn", name, "--out", "ann.pfx", "--pem")
    with serving((folder / "server.pfx").read_bytes(), folder, folder / "class.crt") as server:
        server.context.verify_flags |= ssl.VERIFY_X509_STRICT
        done = curl(folder, server.port, "--cert", "ann.crt", "--key", "ann.key", "--pass", PASSWORD)
        assert (done.stdout, done.stderr) == ("yes", "")
        assert curl(folder, server.port).returncode != 0


def test_another_authority_s_client_is_refused(folder: Path) -> None:
    """A certificate for the same name from another authority doesn't open the door."""
    made(folder, *SIGNED, "--no-password")
    (folder / "other").mkdir()
    made(folder / "other", "authority", "--cn", "Room 12", "--out", "class.pfx")
    made(folder / "other", *SIGNED, "--client", "--cn", "ann", "--out", "ann.pfx", "--pem")
    with serving((folder / "server.pfx").read_bytes(), folder, folder / "class.crt") as server:
        mine = ["--cert", "other/ann.crt", "--key", "other/ann.key", "--pass", PASSWORD]
        assert curl(folder, server.port, *mine).returncode != 0


def test_the_server_is_started_with_what_the_tool_has_made(
    folder: Path, start: Callable[..., Program]
) -> None:
    """wsdual.py --cert server.pfx --client-ca class.crt serves a client with ann.pfx, and no other."""
    made(folder, *SIGNED)
    made(folder, *SIGNED, "--client", "--cn", "ann.smith", "--out", "ann.pfx", "--pem")
    (folder / "password").write_text(PASSWORD)
    files = ["--cert", str(folder / "server.pfx"), "--password-file", str(folder / "password")]
    wsdual = start(*files, "--client-ca", str(folder / "class.crt"))
    done = curl(folder, wsdual.port, "--cert", "ann.crt", "--key", "ann.key", "--pass", PASSWORD)
    assert done.returncode == 0 and "<html" in done.stdout.lower(), done.stderr
    assert curl(folder, wsdual.port).returncode != 0


# ---------------------------------------------------------------- names


NAMES = {
    "localhost": True,
    "chat.localhost": True,
    "printer.local": True,
    "lan": True,
    "a.b.test": True,
    "*.internal": True,
    "nas.home.arpa": True,
    "school.example": True,
    "Chat.School.Example": True,
    "127.8.9.1": True,
    "10.1.2.3": True,
    "172.31.255.255": True,
    "192.168.0.7": True,
    "::1": True,
    "fd12::7": True,
    "bank.example": False,
    "*.example": False,
    "notschool.example": False,
    "chat.local.example": False,
    "arpa": False,
    "8.8.8.8": False,
    "172.32.0.1": False,
    "2001:db8::1": False,
}


@pytest.mark.parametrize("name, inside", NAMES.items())
def test_only_names_inside_are_signed(room: Path, name: str, inside: bool) -> None:
    """Private names, addresses and those of --for; the error names what is inside, and --for."""
    authority = cert_tool.open_authority(room / "class.pfx", [PASSWORD])
    if inside:
        cert_tool.make_certificate(name, authority=authority)
        return
    with pytest.raises(ValueError, match="outside what .* school.example.* 10.0.0.0/8.*--for") as raised:
        cert_tool.make_certificate("Room 12", [name], authority=authority)
    assert name in str(raised.value)


FOR = {
    "chat.example": ("a.chat.example", "example"),
    "*.chat.example": ("a.chat.example", "example"),
    ".chat.example": ("chat.example", "xchat.example"),
    "bücher.example": ("xn--bcher-kva.example", "bucher.example"),
    "203.0.113.7": ("203.0.113.7", "203.0.113.8"),
    "203.0.113.0/24": ("203.0.113.8", "203.0.114.8"),
    "2001:db8::/32": ("2001:db8::1", "2001:db9::1"),
}


@pytest.mark.parametrize("permitted", FOR)
def test_for_allows_a_name_and_all_below_an_address_or_a_network(permitted: str) -> None:
    """What --for names is inside beside the private names; its neighbour isn't."""
    inside, outside = FOR[permitted]
    authority, _ = cert_tool.make_authority("Room 12", [permitted])
    cert_tool.make_certificate("localhost", [inside], authority=authority)
    with pytest.raises(ValueError, match="outside"):
        cert_tool.make_certificate("localhost", [outside], authority=authority)


def test_a_client_may_have_names_of_its_own(folder: Path) -> None:
    """--san puts them in; a DNS name is there in any case, and all have to be inside."""
    authority = cert_tool.open_authority(folder / "class.pfx", [PASSWORD])
    for san, names in (
        ([], ["client.test"]),
        (["pump.lan"], ["pump.lan"]),
        (["10.0.0.7"], ["10.0.0.7", "client.test"]),
    ):
        _, certificate = cert_tool.make_certificate("pump", san, client=True, authority=authority)
        assert cert_tool.names_of(certificate) == names
    with pytest.raises(ValueError, match="outside"):
        cert_tool.make_certificate("pump", ["pump.example"], client=True, authority=authority)


# ---------------------------------------------------------------- files, passwords, errors


def test_the_files_and_who_may_read_them(folder: Path) -> None:
    """Signed: the .pfx; with --pem the .crt and the .key too. What has a key is its owner's alone."""
    made(folder, *SIGNED)
    made(folder, *SIGNED, "--client")
    made(folder, *SIGNED, "--cn", "nginx.lan", "--out", "nginx.pfx", "--pem")
    made(folder, "--pem", "--out", "self.pfx")
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    expected = "class.crt class.pfx server.pfx client.pfx"
    pem = "nginx.pfx nginx.crt nginx.key self.pfx self.crt self.key"
    assert set(files) == {*expected.split(), *pem.split()}
    if sys.platform != "win32":
        assert {name: mode for name, mode in files.items() if mode != 0o600} == dict.fromkeys(
            ("class.crt", "nginx.crt", "self.crt"), 0o644
        )


@pytest.mark.parametrize("password", [PASSWORD, None], ids=["encrypted", "open"])
def test_the_pem_key_is_encrypted_where_the_pfx_is(folder: Path, password: str | None) -> None:
    """The .key opens with the file's password, or with none where that has none; it fits the .crt."""
    made(folder, *SIGNED, "--pem", *([] if password else ["--no-password"]))
    assert (b"ENCRYPTED" in (folder / "server.key").read_bytes()) == bool(password)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key", password or "")
    chain = x509.load_pem_x509_certificates((folder / "server.crt").read_bytes())
    assert chain == [certificate_in(folder / "server.pfx", password), certificate_in(folder / "class.pfx")]


@pytest.mark.parametrize("rsa", [[], ["--rsa"]], ids=["ec", "rsa"])
def test_a_legacy_and_an_rsa_authority_sign_too(tmp_path: Path, rsa: list[str]) -> None:
    """The authority's kind of key and of encryption don't matter."""
    made(tmp_path, "authority", "--cn", "Room 12", "--out", "class.pfx", "--legacy", *rsa)
    made(tmp_path, *SIGNED, "--cn", "chat.lan")
    certificate_in(tmp_path / "server.pfx").verify_directly_issued_by(certificate_in(tmp_path / "class.pfx"))


def test_the_authority_s_password_comes_from_its_file_its_variable_or_is_the_new_file_s(folder: Path) -> None:
    """In this order; an authority without a password needs none."""
    (folder / "right").write_text(PASSWORD + "\n")
    right, wrong = {"WSDUAL_AUTHORITY_PASSWORD": PASSWORD}, {"WSDUAL_AUTHORITY_PASSWORD": "wrong"}
    theirs = ["--authority-password-file", "right"]
    for number, (flags, env) in enumerate([
        (theirs, {"WSDUAL_PASSWORD": "new"} | wrong),
        (theirs, {"WSDUAL_PASSWORD": "new"}),
        ([], {"WSDUAL_PASSWORD": "new"} | right),
        ([], {"WSDUAL_PASSWORD": PASSWORD}),
        (["--password-file", "right"], {}),
        (["--no-password"], right),
    ]):  # fmt: skip
        done = run(folder, *SIGNED, *flags, "--out", f"{number}.pfx", **env)
        assert (done.returncode, done.stderr) == (0, "")
    assert opened(folder / "0.pfx", "new").key is not None
    made(folder, "authority", "--cn", "open", "--out", "open.pfx", "--no-password")
    done = run(folder, "--signed-by", "open.pfx", "--out", "last.pfx", WSDUAL_PASSWORD="new", **wrong)
    assert (done.returncode, done.stderr) == (0, "")


ERRORS = {
    "a wrong password": (["--signed-by", "class.pfx", "--authority-password-file", "wrong"],
                         "wrong or missing password for class.pfx: give --authority-password-file or"),
    "no such authority": (["--signed-by", "nowhere.pfx"], "nowhere.pfx"),
    "a folder as authority": (["--signed-by", "."], "."),
    "the root": (["--signed-by", "class.crt"], "class.crt is no authority's .pfx"),
    "a server's file": (["--signed-by", "server.pfx"], "server.pfx is no authority's .pfx"),
    "something else": (["--signed-by", "wrong"], "wrong is no authority's .pfx"),
    "half an authority": (["--signed-by", "half.pfx"], "half.pfx"),
    "a name outside": (["--signed-by", "class.pfx", "--cn", "bank.example"], "bank.example is outside"),
    "longer than the authority": (["--signed-by", "short.pfx", "--days", "31"], "29 days are left"),
    "the authority's own file": (["--signed-by", "class.pfx", "--out", "class.pfx", "--force"], "--out"),
    "a client by nobody": (["--client"], "--signed-by"),
    "a password for nobody": (["--authority-password-file", "wrong"], "--signed-by"),
    "an authority without a name": (["authority"], "--cn"),
    "an authority for ever": (["authority", "--cn", "x", "--days", "3651"], "1 to 3650"),
    "a bad name in --for": (["authority", "--cn", "x", "--for", "a_b"], "'a_b'"),
    "an empty --for": (["authority", "--cn", "x", "--for", ""], "''"),
    "a network that is none": (["authority", "--cn", "x", "--for", "10.0.0.1/8"], "'10.0.0.1/8'"),
    "a name in an authority": (["authority", "--cn", "x", "--san", "a.lan"], "--san"),
}  # fmt: skip


@pytest.fixture(scope="module")
def mistakes(room: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the errors are about."""
    folder = tmp_path_factory.mktemp("mistakes")
    for name in ("class.pfx", "class.crt"):
        shutil.copy(room / name, folder)
    made(folder, *SIGNED)
    made(folder, "authority", "--cn", "short", "--out", "short.pfx", "--days", "30")
    (folder / "wrong").write_text("wrong")
    (folder / "half.pfx").write_bytes((room / "class.pfx").read_bytes()[:500])
    return folder


@pytest.mark.parametrize("flags, says", ERRORS.values(), ids=ERRORS.keys())
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(
    mistakes: Path, flags: list[str], says: str
) -> None:
    """One line that says what is wrong, and the folder is as it was."""
    before = {path.name: path.read_bytes() for path in mistakes.iterdir()}
    out = [] if "--out" in flags else ["--out", "new.pfx"]
    assert says in the_one_line(run(mistakes, *flags, *out, WSDUAL_PASSWORD=PASSWORD))
    assert {path.name: path.read_bytes() for path in mistakes.iterdir()} == before


# ---------------------------------------------------------------- what is told


def test_show_tells_what_an_authority_may_sign_for(folder: Path) -> None:
    """Of class.pfx, and of class.crt, so that who is asked to trust it sees it; of a server nothing."""
    made(folder, *SIGNED, "--no-password")
    for name in ("class.pfx", "class.crt"):
        line = next(line for line in made(folder, "show", name).splitlines() if line.startswith("Signs:"))
        assert all(word in line for word in ("localhost", "home.arpa", "school.example", "10.0.0.0/8", "::1"))
    assert made(folder, "show", "server.pfx").count("Signs:") == 1  # the intermediate's


def test_show_warns_of_an_authority_without_limits(tmp_path: Path) -> None:
    """Another's authority that may speak for everybody is shown as such."""
    key, template = cert_tool.make_certificate("localhost")
    builder = x509.CertificateBuilder(template.subject, template.subject, key.public_key(), 1)
    builder = builder.not_valid_before(template.not_valid_before_utc)
    builder = builder.not_valid_after(template.not_valid_after_utc)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    assert "Signs:   for any name in the world" in cert_tool.describe(builder.sign(key, hashes.SHA256()))


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_advice_for_an_authority_tells_each_system_and_browser(platform: str) -> None:
    """Chrome on Linux is told C and not P, Firefox its list of authorities; each way has a way back."""
    _, root = cert_tool.make_authority("Room 12")
    advice = cert_tool.how_to_trust(root, Path("class.crt"), platform)
    assert all(word in advice for word in ("class.crt", "Chrome", "Edge", "Firefox", "Authorities", "Safari"))
    assert ("-t C,, -n 'Room 12'" in advice) == (platform == "linux") and "P,," not in advice
    assert advice.count("take it back") == advice.count("restart them") + 1 + 2 * (platform == "linux")


def test_what_was_made_is_told_with_what_to_do_next(folder: Path) -> None:
    """An authority: how to trust it. A server: who trusts that, trusts it. A client: --client-ca."""
    said = made(folder, "authority", "--cn", "Room 13", "--out", "other.pfx")
    assert said.endswith(cert_tool.how_to_trust(root_in(folder / "other.crt"), Path("other.crt")))
    assert "other.pfx" in said and "--signed-by" in said
    server = made(folder, *SIGNED)
    assert "class.pfx" in server and "update-ca" not in server
    assert "--client-ca" in made(folder, *SIGNED, "--client")


@pytest.mark.parametrize("command", [[], ["authority"]], ids=["certificate", "authority"])
def test_help_tells_each_flag(tmp_path: Path, command: list[str]) -> None:
    """--help names the new flags, and for an authority what it may sign for."""
    said = made(tmp_path, *command, "--help")
    flags = ["--for"] if command else ["--signed-by", "--authority-password-file", "--client", "--pem"]
    assert all(flag in said for flag in [*flags, "--days", "--out"])
    assert ("home.arpa" in said) == bool(command)
