# SPDX-License-Identifier: MIT
"""Make a certificate for a server of your own, and look into certificate files.

    python cert_tool.py                         asks three questions, writes server.pfx and server.crt
    python cert_tool.py --cn chat.example ...   asks nothing (--help tells the flags)
    python cert_tool.py authority --cn ...      makes an authority that many certificates are signed by
    python cert_tool.py show server.pfx         tells what a .pfx, .pem or .crt holds

TLS proves to a client that it talks to the right server. The server holds a private key; a certificate says
which names that key may answer for, and carries a signature that the client believes:

    server.pfx   private key + certificate, encrypted with a password: for the server, for nobody else
    server.crt   certificate: for everybody who shall trust the server

Usually an authority signs, and every browser comes with a list of authorities. A certificate made here signs
itself, so each client has to be told once to trust it; the program prints how, and how to take that back.

It says of itself that it is no authority (CA:FALSE), though many recipes do the opposite. Whom you trust as
an authority can speak for any site in the world; this one speaks for its own names only. And Firefox accepts
nothing else here: an authority's certificate can't be a server's.

For thirty servers, or for clients that show certificates too, there is `authority`: trusted once, it vouches
for all that it signs. It may speak for private names and addresses alone, so that nobody who steals it can
speak for your bank:

    class.crt    the root, for everybody to trust; its private key exists nowhere any more
    class.pfx    what the root has signed: an authority within those limits, for whoever signs with it
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import getpass
import io
import ipaddress
import os
import pathlib
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
    from cryptography.hazmat.primitives.serialization import pkcs12
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as missing:
    if __name__ != "__main__":
        raise
    raise SystemExit(f"cert_tool.py: {missing}: python -m pip install -r requirements.txt") from None

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Answer = TypeVar("Answer")
Extension = TypeVar("Extension", bound=x509.ExtensionType)

UNREADABLE = (
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
STANDARD_NAMES = ("localhost", "127.0.0.1", "::1")
PRIVATE = (  # names and addresses that nobody has on the internet
    *("localhost", "local", "lan", "test", "internal", "home.arpa"),
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1", "fc00::/7"),
)
CLIENT_NAME = "client.test"
MAX_DAYS = 825  # Apple's systems trust no server certificate that is valid for longer (since macOS 10.15)
MAX_AUTHORITY_DAYS = 3650
MAX_COMMON_NAME = 64  # bytes: RFC 5280 appendix A.1, ub-common-name
CLOCK_SKEW = datetime.timedelta(hours=1)  # or it would not be valid yet for a client whose clock is slow

# --- Making -----------------------------------------------------------------------------------------------


@dataclass
class Authority:
    """Who signs: what the file is called, the private key, and its certificate."""

    file: str
    key: PrivateKey
    certificate: x509.Certificate


def make_certificate(
    common_name: str,
    names: Sequence[str] = (),
    *,
    days: int = 365,
    rsa: bool = False,
    client: bool = False,
    authority: Authority | None = None,
) -> tuple[PrivateKey, x509.Certificate]:
    """Make a private key and a certificate for it (RFC 5280), signed by the authority or else by itself.

    A server's is good for `common_name` (where that is a host name or an IP address), localhost, 127.0.0.1,
    ::1 and `names`; a client's tells who it is by `common_name`. It is valid for `days` days (1 to 825). The
    key is ECDSA P-256, or 2048-bit RSA for clients that need it. Raises ValueError, saying what is wrong
    with which argument.
    """
    if not 1 <= days <= MAX_DAYS:
        raise ValueError(f"days must be 1 to {MAX_DAYS} (Apple's systems trust nothing longer), not {days}")
    subject = subject_of(common_name)
    alternatives = client_names(names) if client else alternative_names(common_name, names)
    if authority:
        check_permitted(alternatives, authority)
    key = new_private_key(rsa)
    return key, sign(subject, key, leaf_extensions(key, alternatives, client), from_now(days), authority)


def from_now(days: int) -> tuple[datetime.datetime, datetime.datetime]:
    """When a certificate begins to be valid, and when it ends."""
    start = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) - CLOCK_SKEW
    return start, start + datetime.timedelta(days=days)


def sign(
    subject: x509.Name,
    key: PrivateKey,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    valid: tuple[datetime.datetime, datetime.datetime],
    authority: Authority | None,
) -> x509.Certificate:
    """Sign a certificate for this subject, key and time, by the authority or else by the key itself."""
    issuer = authority.certificate.subject if authority else subject
    number = x509.random_serial_number()
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), number, *valid)
    if authority:
        start, end, last = *valid, authority.certificate.not_valid_after_utc
        if end > last:
            fit = max((last - start).days, 0)
            raise ValueError(f"{authority.file} itself ends on {last:%Y-%m-%d}: {fit} days are left")
        name = extension_of(authority.certificate, x509.SubjectKeyIdentifier)
        name = name or x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key())
        signer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(name)
        builder = builder.add_extension(signer, False)  # Python 3.13 wants it
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(authority.key if authority else key, hashes.SHA256())


def subject_of(common_name: str, *more: x509.NameAttribute[str]) -> x509.Name:
    """What a certificate calls the one that it is for. Raises ValueError."""
    return x509.Name([*more, x509.NameAttribute(NameOID.COMMON_NAME, check_common_name(common_name))])


def check_common_name(name: str) -> str:
    """Return the name where a certificate can carry it. Raises ValueError."""
    if not name:
        raise ValueError("the Common Name must not be empty")
    if not name.isprintable():
        raise ValueError(f"the Common Name {name!r} has characters that can't be printed")
    if len(name.encode()) > MAX_COMMON_NAME:
        raise ValueError(f"the Common Name has {len(name.encode())} bytes, X.509 allows {MAX_COMMON_NAME}")
    return name


def alternative_names(common_name: str, names: Sequence[str]) -> list[x509.GeneralName]:
    """The names to connect to: the Common Name, the standard ones, and `names`. Raises ValueError."""
    own: list[x509.GeneralName] = []
    with contextlib.suppress(ValueError):  # "Room 12" is a fine Common Name, but nothing to connect to
        own.append(general_name(common_name))
    return list(dict.fromkeys(own + [general_name(name) for name in (*STANDARD_NAMES, *names)]))


def client_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """The names in a client's certificate, a DNS name among them at least. Raises ValueError.

    Where there is none, OpenSSL takes a Common Name like "ann.smith" for one, and holds it against what the
    authority may sign for.
    """
    found = [general_name(name) for name in names]
    has_one = any(isinstance(name, x509.DNSName) for name in found)
    return found if has_one else [*found, x509.DNSName(CLIENT_NAME)]


def general_name(name: str) -> x509.GeneralName:
    """Turn a host name (*.example.com too) or an IP address into what a certificate calls it.

    See RFC 5280 section 4.2.1.6; names beyond ASCII become IDNA. Raises ValueError when `name` is neither.
    """
    if "%" not in name:  # fe80::1%eth0 names an interface of one machine
        with contextlib.suppress(ValueError):
            return x509.IPAddress(ipaddress.ip_address(name))
    with contextlib.suppress(UnicodeError):
        host = name.lower().encode("idna").decode("ascii")
        labels = host.removeprefix("*.").split(".")
        well_formed = all(re.fullmatch(r"(?!-)[a-z0-9-]{1,63}(?<!-)", label) for label in labels)
        if well_formed and len(host) <= 253 and not labels[-1].isdigit():  # 300.1.1.1 is a mistyped address
            return x509.DNSName(host)
    raise ValueError(f"{name!r} is neither a host name nor an IP address")


def new_private_key(use_rsa: bool) -> PrivateKey:
    """A fresh key: RSA with 2048 bits, or ECDSA P-256."""
    return rsa.generate_private_key(65537, 2048) if use_rsa else ec.generate_private_key(ec.SECP256R1())


def leaf_extensions(
    key: PrivateKey, names: Sequence[x509.GeneralName], client: bool
) -> list[tuple[x509.ExtensionType, bool]]:
    """What the other side checks in a certificate (RFC 5280 section 4.2); True: it must not be ignored."""
    # No keyUsage: Mono wants keyCertSign in it, or it doesn't believe that the certificate has signed itself,
    # but RFC 5280 has that for authorities alone. Nobody else misses it: curl, Node, Java, Chromium, Firefox,
    # OpenSSL and Python at their strictest. Firefox refuses CA:TRUE, which all others take.
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    return [
        (x509.SubjectAlternativeName(names), False),  # browsers look here only, never at the Common Name
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.ExtendedKeyUsage([purpose]), False),  # Apple's systems want it
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]


def pfx_bytes(
    key: PrivateKey,
    certificate: x509.Certificate,
    password: str | None,
    *,
    legacy: bool = False,
    chain: Sequence[x509.Certificate] = (),
) -> bytes:
    """Put a key and its certificate into one PKCS#12 file (RFC 7292), encrypted unless `password` is None.

    `chain` holds the certificates to send along, the one that has signed this one first.
    `legacy` encrypts with 3DES and SHA-1, not AES and SHA-256: macOS's keychain and Windows Server 2016 know
    nothing newer (Windows calls it a wrong password). Raises ValueError for an empty password.
    """
    if password == "":
        raise ValueError("the password is empty")
    if legacy and password is None:
        raise ValueError("legacy is a way to encrypt, so it needs a password")
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None and legacy:
        builder = serialization.PrivateFormat.PKCS12.encryption_builder()
        builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
        encryption = builder.hmac_hash(hashes.SHA1()).build(password.encode())
    elif password is not None:
        encryption = serialization.BestAvailableEncryption(password.encode())
    name = common_name_of(certificate).encode()
    return pkcs12.serialize_key_and_certificates(name, key, certificate, chain or None, encryption)


# --- An authority of one's own ------------------------------------------------------------------------------


def make_authority(
    common_name: str, names: Sequence[str] = (), *, days: int = 1095, rsa: bool = False
) -> tuple[Authority, x509.Certificate]:
    """Make an authority for private names and addresses and for `names`; return it and the root to trust.

    `names` may hold networks too, such as 203.0.113.0/24. Raises ValueError, saying what is wrong.
    """
    if not 1 <= days <= MAX_AUTHORITY_DAYS:
        raise ValueError(f"an authority's days must be 1 to {MAX_AUTHORITY_DAYS}, not {days}")
    permitted = [constraint(name) for name in (*PRIVATE, *names)]
    valid = from_now(days)
    # Java doesn't look at the limits of a root that it trusts, but at those of what the root has signed. So
    # the root signs one intermediate, and the root's key ends with this function.
    key = new_private_key(rsa)
    root = sign(subject_of(common_name), key, authority_extensions(key, permitted, 1), valid, None)
    below = new_private_key(rsa)
    subject = subject_of(common_name, x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "intermediate"))
    extensions = authority_extensions(below, permitted, 0)
    certificate = sign(subject, below, extensions, valid, Authority("the root", key, root))
    return Authority("the authority", below, certificate), root


def constraint(name: str) -> x509.GeneralName:
    """Turn a name (all below it too), an address or a network into a limit. Raises ValueError."""
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_network(name))
    return general_name(name.removeprefix("*.").removeprefix("."))


def authority_extensions(
    key: PrivateKey, permitted: Sequence[x509.GeneralName], authorities_below: int
) -> list[tuple[x509.ExtensionType, bool]]:
    """What makes a certificate an authority's, and limits it (RFC 5280 section 4.2.1.10)."""
    # Mono can't check limits for addresses, and refuses all that is signed within such.
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # keyCertSign, cRLSign
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return [
        (x509.BasicConstraints(ca=True, path_length=authorities_below), True),
        (usage, True),
        (x509.ExtendedKeyUsage(purposes), False),
        (x509.NameConstraints(permitted, None), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]


def open_authority(path: pathlib.Path, passwords: Iterable[str | None]) -> Authority:
    """Read an authority's .pfx file. Raises ValueError when it is none, OSError when it can't be read."""
    data = path.read_bytes()
    if is_pfx(data):
        pfx = open_pfx(data, passwords, str(path))
        if pfx.cert and isinstance(pfx.key, PrivateKey) and may_sign(pfx.cert.certificate):
            return Authority(str(path), pfx.key, pfx.cert.certificate)
    raise ValueError(f"{path} is no authority's .pfx: 'cert_tool.py authority' makes one")


def may_sign(certificate: x509.Certificate) -> bool:
    """Whether this is an authority's certificate."""
    return bool((found := extension_of(certificate, x509.BasicConstraints)) and found.ca)


def limits_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """The names, addresses and networks that an authority may sign for; none: there is no limit."""
    found = extension_of(certificate, x509.NameConstraints)
    return list(found.permitted_subtrees or []) if found else []


def in_words(limits: Sequence[x509.GeneralName]) -> str:
    """Such limits as text."""
    names = [str(limit.value) for limit in limits if not isinstance(limit, x509.IPAddress)]
    networks = [str(limit.value) for limit in limits if isinstance(limit, x509.IPAddress)]
    words = [f"{', '.join(names)} and all names below"] if names else []
    return ", ".join(words + networks) or "any name in the world"


def check_permitted(names: Iterable[x509.GeneralName], authority: Authority) -> None:
    """Raises ValueError for the first of the names that the authority may not sign for."""
    limits = limits_of(authority.certificate)
    for name in names:
        same_kind = [limit for limit in limits if isinstance(limit, type(name))]
        if same_kind and not any(permits(limit, name) for limit in same_kind):
            raise ValueError(
                f"{name.value} is outside what {authority.file} may sign for, which is {in_words(limits)}; "
                "--for, when an authority is made, allows others"
            )


def permits(limit: x509.GeneralName, name: x509.GeneralName) -> bool:
    """Whether a name is within a limit of its kind (RFC 5280 section 4.2.1.10)."""
    if isinstance(limit.value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return name.value in limit.value
    return f".{name.value}".endswith("." + str(limit.value).removeprefix("."))


# --- Looking ----------------------------------------------------------------------------------------------


def fingerprint(certificate: x509.Certificate) -> str:
    """The certificate's SHA-256 as people compare it: upper-case hex pairs with colons."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def describe(certificate: x509.Certificate) -> list[str]:
    """What a person wants to know of a certificate, in a few lines of plain text."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = datetime.datetime.now(datetime.timezone.utc)
    remark = " (EXPIRED)" if now > end else " (NOT YET VALID)" if now < start else ""
    self_signed = certificate.issuer == certificate.subject
    lines = [
        f"Subject: {certificate.subject.rfc4514_string() or 'none'}",
        f"Issuer:  {'itself' if self_signed else certificate.issuer.rfc4514_string()}",
        f"Names:   {', '.join(names_of(certificate)) or 'none'}",
        f"Valid:   {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC{remark}",
        f"Key:     {kind_of(certificate.public_key())}",
        f"SHA-256: {fingerprint(certificate)}",
    ]
    if may_sign(certificate):
        lines.insert(3, f"Signs:   for {in_words(limits_of(certificate))}")
    return [printable(line) for line in lines]


def names_of(certificate: x509.Certificate) -> list[str]:
    """The alternative names of a certificate, as text."""
    return [str(name.value) for name in extension_of(certificate, x509.SubjectAlternativeName) or ()]


def extension_of(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    """The certificate's extension of this kind, if it has one."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def common_name_of(certificate: x509.Certificate) -> str:
    """The Common Name of a certificate, or ""."""
    attributes = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value) if attributes else ""


def kind_of(key: PublicKeyTypes) -> str:
    """What kind of key this is, in words."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "ECDSA " + {"secp256r1": "P-256", "secp384r1": "P-384"}.get(key.curve.name, key.curve.name)
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA, {key.key_size} bits"
    return type(key).__name__.removesuffix("PublicKey")


def printable(text: str) -> str:
    """Somebody else's certificate may hold anything; what would steer the terminal is shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show(path: pathlib.Path, passwords: Iterable[str | None]) -> list[str]:
    """Tell what a .pfx, .pem or .crt file holds: each certificate, and whether there is a key, never the key.

    Only as many of `passwords` (None: none) are taken as a .pfx needs, so they may come from a generator that
    asks. Raises ValueError when the file holds no certificate or none of them fits, OSError when unreadable.
    """
    data = path.read_bytes()
    if b"-----BEGIN " in data:
        certificates, key = open_pem(path, data)
    elif is_pfx(data):
        pfx = open_pfx(data, passwords, str(path))
        certificates = [entry.certificate for entry in (pfx.cert, *pfx.additional_certs) if entry]
        key = kind_of(pfx.key.public_key()) if pfx.key else "none"
    else:
        try:
            certificates, key = [x509.load_der_x509_certificate(data)], "none"
        except ValueError:
            raise ValueError(f"{path} is no .pfx, no .pem and no certificate") from None
    count = "1 certificate" if len(certificates) == 1 else f"{len(certificates)} certificates"
    lines = [f"{path}: {count}, private key: {key}"]
    for certificate in certificates:
        lines += ["", *describe(certificate)]
    return lines


def open_pem(path: pathlib.Path, data: bytes) -> tuple[list[x509.Certificate], str]:
    """The certificates of a PEM file, and what is said of its key. Raises ValueError."""
    try:
        certificates = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise ValueError(f"there is no certificate in {path}, or it is damaged") from None
    if b"PRIVATE KEY-----" not in data:
        return certificates, "none"
    try:
        return certificates, kind_of(serialization.load_pem_private_key(data, None).public_key())
    except TypeError:
        return certificates, "yes, encrypted"
    except (ValueError, UnsupportedAlgorithm):
        return certificates, "yes, but unreadable"


# --- Reading: what a server wants of a file ---------------------------------------------------------------


def is_pfx(data: bytes) -> bool:
    """Whether this looks like a .pfx file's content (RFC 7292 section 4)."""
    return bool(re.match(rb"\x30[\x80-\x84].{0,4}?\x02\x01\x03\x30", data, re.DOTALL))


def open_pfx(data: bytes, passwords: Iterable[str | None], name: str) -> pkcs12.PKCS12KeyAndCertificates:
    """Open a .pfx file's content with the first of the passwords (None: no password) that fits.

    Only as many are taken as it needs, so they may come from a generator that asks, or raises. Raises
    ValueError, which calls the file `name`.
    """
    for password in passwords:
        try:
            return pkcs12.load_pkcs12(data, None if password is None else password.encode())
        except ValueError as error:
            if "password" not in str(error).lower():
                raise ValueError(f"{name}: neither a .pfx/.p12 nor a PEM file") from None
        except Exception as error:  # UnsupportedAlgorithm, InvalidVersion ...: they have no class in common
            raise ValueError(f"{name}: {error}") from error
    raise ValueError(f"{name}: the password is wrong")


def pfx_to_pem(data: bytes, passwords: Iterable[str | None], name: str) -> tuple[bytes, str]:
    """Turn a .pfx file's content into the PEM that OpenSSL loads, as `pem_bytes` does.

    The passwords, the name and what is raised: see `open_pfx`.
    """
    pfx = open_pfx(data, passwords, name)
    if pfx.key is None or pfx.cert is None:
        raise ValueError(f"{name}: no key with its certificate in it")
    try:
        return pem_bytes(pfx.key, chain_of(pfx))
    except Exception as error:
        raise ValueError(f"{name}: {error}") from error


def chain_of(pfx: pkcs12.PKCS12KeyAndCertificates) -> list[x509.Certificate]:
    """A file's own certificate, then the intermediates in order.

    The root, which has signed itself, is left out: it need not be sent.
    """
    chain = [pfx.cert.certificate] if pfx.cert else []
    others = [extra.certificate for extra in pfx.additional_certs]
    while issuer := next((c for c in others if c.subject == chain[-1].issuer != c.issuer), None):
        chain.append(issuer)
        others.remove(issuer)
    return chain


def pem_bytes(key: PrivateKeyTypes, chain: Iterable[x509.Certificate]) -> tuple[bytes, str]:
    """A key and its certificates as PEM, and the fresh secret that the key is encrypted with.

    OpenSSL reads keys from files only; so what is written for it is of no use to whoever finds it.
    """
    secret = secrets.token_urlsafe()
    return key_pem(key, secret) + certificates_pem(chain), secret


def key_pem(key: PrivateKeyTypes, password: str | None) -> bytes:
    """A private key as PEM (PKCS#8), encrypted unless `password` is None."""
    locked: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        locked = serialization.BestAvailableEncryption(password.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


def certificates_pem(chain: Iterable[x509.Certificate]) -> bytes:
    """Certificates as PEM, one after the other."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)


def summary(pem: bytes) -> list[str]:
    """The first certificate of a PEM in two lines: whose, until when, its SHA-256. Raises ValueError."""
    try:
        leaf = x509.load_pem_x509_certificate(pem)
        whose, end = leaf.subject.rfc4514_string(), leaf.not_valid_after_utc
    except UNREADABLE as error:
        raise ValueError(str(error)) from error
    about = printable(f"certificate  {whose}, until {end:%Y-%m-%d %H:%M} UTC")
    return [about, f"SHA-256      {fingerprint(leaf)}"]


# --- Writing ----------------------------------------------------------------------------------------------


def save(contents: Mapping[pathlib.Path, bytes], *, force: bool = False) -> None:
    """Write all the files or none of them: a .crt is for everybody to read, the others for their owner alone.

    An existing file is a FileExistsError unless `force` is set; then the new one takes its place in one step,
    so that a server which starts meanwhile reads the old one or the new one, never a half. Raises OSError.
    """
    written: dict[pathlib.Path, pathlib.Path] = {}
    try:
        for path, data in contents.items():
            place = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp") if force else path
            write_new(place, data)
            if path.suffix == ".crt":
                place.chmod(0o644)  # under any umask
            written[path] = place
        for path, place in written.items():
            os.replace(place, path)
    except BaseException:  # Ctrl-C too
        for place in written.values():
            place.unlink(missing_ok=True)
        raise


def write_new(path: pathlib.Path, data: bytes) -> None:
    """Write a file that must not exist yet, readable by its owner alone. Raises FileExistsError."""
    # 0600 from the first instant: a chmod after the writing would come too late for a reader who is waiting.
    # Windows has no such bits: there the file is as private as the folder that it is in.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
    except BaseException:
        path.unlink()
        raise


# --- Trusting ---------------------------------------------------------------------------------------------

# update-ca-trust passes over what is no authority, so Fedora's line says that this one is to count as one.
# Chrome on Linux trusts a server's own certificate as a "peer", P, and only so; an authority's as C.
LINUX = r"""The system (curl, Python, ...) on Debian and Ubuntu:
    sudo install -m 644 {crt} {debian} && sudo update-ca-certificates
  take it back:
    sudo rm {debian} && sudo update-ca-certificates --fresh
The system on Fedora and Red Hat:
    (printf '[p11-kit-object-v1]\ntrusted: true\ncertificate-category: authority\n'; cat {crt}) |
        sudo tee {fedora} > /dev/null && sudo update-ca-trust
  take it back:
    sudo rm {fedora} && sudo update-ca-trust
Chrome and Edge (certutil comes with libnss3-tools or nss-tools), then restart them:
    mkdir -p {nssdb} && certutil -d sql:{nssdb} -A -t {trust} -n {name} -i {crt}
  take it back:
    certutil -d sql:{nssdb} -D -n {name}
  or both by hand: chrome://certificate-manager, Installed by you, Trusted Certificates
"""
MACOS = """The system, Safari, Chrome and Edge (macOS asks for your password), then restart them:
    security add-trusted-cert -r trustRoot -p ssl -p basic -k ~/Library/Keychains/login.keychain-db {crt}
  take it back:
    security delete-certificate -t -Z {sha1}
Firefox 120 and newer trusts what macOS trusts (older: about:config, security.enterprise_roots.enabled).
"""
WINDOWS = """The system, Chrome and Edge (Windows asks whether you are sure), then restart them:
    certutil -user -addstore Root {crt}
  take it back:
    certutil -user -delstore Root {sha1}
Firefox 120 and newer trusts what Windows trusts (older: about:config, security.enterprise_roots.enabled).
"""
FIREFOX = """Firefox without all that: open the server's https:// address once, Advanced, accept the risk
  take it back: about:preferences#privacy, View Certificates, Servers, Delete
"""
FIREFOX_AUTHORITY = """Firefox without all that: about:preferences#privacy, View Certificates, Authorities,
    Import, and tick: trust this CA to identify websites
  take it back: the same place, Delete or Distrust
"""
NO_SAFARI = "Safari: exists on Apple's systems only\n"


def how_to_trust(certificate: x509.Certificate, crt: pathlib.Path, platform: str = sys.platform) -> str:
    """How a machine's system and browsers come to trust the certificate in the file `crt`, or forget it.

    The commands can be pasted. `platform` is what sys.platform says on that machine.
    """
    windows, mac = platform == "win32", platform == "darwin"
    authority = may_sign(certificate)
    text = WINDOWS if windows else MACOS if mac else LINUX
    text += (FIREFOX_AUTHORITY if authority else FIREFOX) + ("" if mac else NO_SAFARI)
    values = {
        "crt": str(crt),
        "debian": f"/usr/local/share/ca-certificates/{crt.name}",
        "fedora": f"/etc/pki/ca-trust/source/{crt.stem}.p11-kit",
        "name": common_name_of(certificate),
        "trust": "C,," if authority else "P,,",
        "sha1": certificate.fingerprint(hashes.SHA1()).hex().upper(),  # by which both systems find it again
    }
    quoted = {key: subprocess.list2cmdline([v]) if windows else shlex.quote(v) for key, v in values.items()}
    return text.format(**quoted, nssdb=chrome_database())


def chrome_database() -> str:
    """Where Chrome on Linux keeps what it trusts: the second place if there is no first (since 146)."""
    places = ("~/.pki/nssdb", "~/.local/share/pki/nssdb")
    existing = [place for place in places if os.path.isdir(os.path.expanduser(place))]
    return (existing or places)[0].replace("~", "$HOME")


# --- The program ------------------------------------------------------------------------------------------


def write_files(
    key: PrivateKey,
    certificate: x509.Certificate,
    password: str | None,
    out: pathlib.Path,
    *,
    chain: Sequence[x509.Certificate] = (),
    crt: Sequence[x509.Certificate] = (),
    pem: bool = False,
    legacy: bool = False,
    force: bool = False,
) -> None:
    """Save a certificate with its key, those in `crt` by themselves, with `pem` the key too; tell of it."""
    contents = {out: pfx_bytes(key, certificate, password, legacy=legacy, chain=chain)}
    secrecy = "encrypted with the password" if password else "NOT encrypted: who has the file has the key"
    told = [f"{out}: the certificate and its private key, {secrecy}"]
    if crt:
        contents[out.with_suffix(".crt")] = certificates_pem(crt)
        what = "the root" if crt[0] != certificate else "the certificate"
        alone = "and the authority's" if crt[1:] else "alone, for importing"
        told.append(f"{out.with_suffix('.crt')}: {what} {alone}")
    if pem:
        contents[out.with_suffix(".key")] = key_pem(key, password)
        told.append(f"{out.with_suffix('.key')}: the private key alone, {secrecy}")
    save(contents, force=force)
    print("\n".join([*told, "", *describe(crt[0] if crt else certificate)]))


def tell_how_to_trust(certificate: x509.Certificate, out: pathlib.Path) -> None:
    """Print what those do who have got the .crt."""
    crt = out.with_suffix(".crt")
    print(f"\nTo trust it on a machine that has {crt.name} (never hand out {out.name}):\n")
    print(how_to_trust(certificate, crt), end="")


def make_as_answered() -> None:
    """Ask three things, and make the files."""
    common_name = ask("Common Name, the name that clients connect to", "localhost", check_common_name)
    password = ask_new_password()
    while True:
        out = ask("Save to", "server.pfx", check_out)
        existing = [path for path in (out, out.with_suffix(".crt")) if path.exists()]
        answer = input(f"{existing[0]} exists. Replace it? [y/N]: ") if existing else "y"
        if answer.strip().lower() in ("y", "yes"):
            break
    key, certificate = make_certificate(common_name)
    write_files(key, certificate, password, out, crt=[certificate], force=bool(existing))
    tell_how_to_trust(certificate, out)


def ask(question: str, default: str, check: Callable[[str], Answer]) -> Answer:
    """Ask until the answer passes the check; return what the check made of it."""
    while True:
        answer = input(f"{question} [{default}]: ").strip() or default
        try:
            return check(answer)
        except (ValueError, OSError) as error:
            print(explain(error))


def ask_new_password() -> str:
    """Ask for a password, twice, until both are the same and not empty."""
    while True:
        password = ask_password("Password: ")
        if not password:
            print("The file will hold the private key: it needs a password (without one: --no-password).")
        elif ask_password("The password again: ") == password:
            return password
        else:
            print("These were two different ones.")


def ask_password(question: str) -> str:
    """Ask for a password; on a terminal it isn't shown."""
    # On a pipe getpass would warn in three lines that it can't hide the typing.
    return getpass.getpass(question) if sys.stdin.isatty() else input(question)


def check_out(name: str) -> pathlib.Path:
    """The path to save to. Raises ValueError for one that can't be meant."""
    path = pathlib.Path(name).expanduser()
    if path.suffix.lower() not in (".pfx", ".p12"):
        raise ValueError(f"the file's name must end in .pfx or .p12, unlike {name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r}: make it first")
    if any(each.is_dir() for each in (path, path.with_suffix(".crt"), path.with_suffix(".key"))):
        raise ValueError(f"{name!r} or its .crt or .key is a folder: take another name")
    return path


class Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, and where a password may come from: never from the arguments."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        source = "the password is its first line (else: $WSDUAL_PASSWORD)"
        self.add_argument("--password-file", metavar="FILE", help=source)
        self.add_argument("--password", type=self.refuse, help=argparse.SUPPRESS)

    @staticmethod
    def refuse(_: str) -> NoReturn:  # and without repeating it, as argparse would
        """Refuse a password among the arguments."""
        raise argparse.ArgumentTypeError("others can read a command: use --password-file or $WSDUAL_PASSWORD")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, in one line, and exit with 2."""
        self.exit(2, f"cert_tool.py: {message} (--help tells more)\n")


class Maker(Parser):
    """The flags of what makes files."""

    def __init__(self, prog: str, description: str, out: str, days: int, most: int) -> None:
        super().__init__(prog, description)
        add = self.add_argument
        add("--no-password", action="store_true", help="leave the private key in the .pfx unencrypted")
        add("--out", default=out, metavar="FILE", help=f"where to save (default: {out})")
        add("--days", type=int, default=days, help=f"how long it is valid, 1 to {most} (default: {days})")
        add("--rsa", action="store_true", help="an RSA key, for old clients (default: ECDSA P-256)")
        add("--legacy", action="store_true", help="encrypt so that macOS and Windows Server 2016 can read it")
        add("--force", action="store_true", help="replace existing files")

    def password(self, flags: argparse.Namespace) -> str | None:
        """The new file's password; None where it shall have none."""
        if flags.no_password and flags.password_file:
            self.error("--no-password and --password-file exclude each other")
        password = None if flags.no_password else given_password(flags.password_file, "WSDUAL_PASSWORD")
        if password is None and not flags.no_password:
            self.error("no password: give --password-file or $WSDUAL_PASSWORD, or say --no-password")
        return password


def make_as_flagged(arguments: Sequence[str]) -> None:
    """Make the files that the flags describe, and ask nothing."""
    about = "Make a certificate: a .pfx for the server, a .crt for its clients."
    own_place = "client.pfx" if "--client" in arguments else "server.pfx"
    parser = Maker("cert_tool.py", about, own_place, 365, MAX_DAYS)
    parser.epilog = (
        "Without any flag it asks. 'cert_tool.py show FILE' tells what a file holds; "
        "'cert_tool.py authority' makes what --signed-by takes (--help tells its flags)."
    )
    add = parser.add_argument
    add("--cn", default="localhost", metavar="NAME", help="the Common Name (default: localhost)")
    add("--san", action="append", default=[], metavar="NAME", help="one more host name or IP (repeatable)")
    add("--pem", action="store_true", help="write .crt and .key beside it, for programs that read no .pfx")
    add("--signed-by", metavar="FILE", help="the authority's .pfx that signs it (default: it signs itself)")
    source = "the authority's password (else: $WSDUAL_AUTHORITY_PASSWORD, else the new file's)"
    add("--authority-password-file", metavar="FILE", help=source)
    add("--client", action="store_true", help="a client's certificate (where to save: client.pfx)")
    flags = parser.parse_args(arguments)
    if not flags.signed_by and (flags.client or flags.authority_password_file):
        parser.error(f"--{'client' if flags.client else 'authority-password-file'} goes with --signed-by")
    password, out = parser.password(flags), check_out(flags.out)
    authority = chosen_authority(flags, password, out) if flags.signed_by else None
    key, certificate = make_certificate(
        flags.cn, flags.san, days=flags.days, rsa=flags.rsa, client=flags.client, authority=authority
    )
    chain = [authority.certificate] if authority else []
    crt = [certificate, *chain] if flags.pem or not authority else []
    files: dict[str, Any] = {name: getattr(flags, name) for name in ("pem", "legacy", "force")}
    write_files(key, certificate, password, out, chain=chain, crt=crt, **files)
    if not authority:
        tell_how_to_trust(certificate, out)
    elif flags.client:
        print(f"\nA server that is given {authority.file}'s .crt as --client-ca lets it in.")
    else:
        print(f"\nWho trusts {authority.file}'s .crt trusts it: nothing is to be done.")


def chosen_authority(flags: argparse.Namespace, new: str | None, out: pathlib.Path) -> Authority:
    """The authority that --signed-by names; `new` is the password of the file to make."""
    path = pathlib.Path(flags.signed_by).expanduser()
    if out.resolve() == path.resolve():
        raise ValueError(f"{out} is the authority itself: --out takes another name")

    def passwords() -> Iterator[str | None]:
        yield None
        variable = "WSDUAL_AUTHORITY_PASSWORD"
        yield given_password(flags.authority_password_file, variable) or new
        ways = f"--authority-password-file or ${variable}"
        raise ValueError(f"wrong or missing password for {path}: give {ways}")

    return open_authority(path, passwords())


def make_authority_as_flagged(arguments: Sequence[str]) -> None:
    """Make the authority that the flags describe, and ask nothing."""
    about = "Make an authority: a .pfx that signs, a .crt for everybody to trust once."
    parser = Maker("cert_tool.py authority", about, "authority.pfx", 1095, MAX_AUTHORITY_DAYS)
    parser.epilog = f"It may sign for {in_words([constraint(name) for name in PRIVATE])}."
    add = parser.add_argument
    add("--cn", required=True, metavar="NAME", help="the Common Name, as which people know it")
    permit = "one more host name (and all below it), IP address or network that it may sign for (repeatable)"
    add("--for", dest="names", action="append", default=[], metavar="NAME", help=permit)
    flags = parser.parse_args(arguments)
    password, out = parser.password(flags), check_out(flags.out)
    authority, root = make_authority(flags.cn, flags.names, days=flags.days, rsa=flags.rsa)
    files: dict[str, Any] = {"crt": [root], "legacy": flags.legacy, "force": flags.force}
    write_files(authority.key, authority.certificate, password, out, **files)
    print(f"\n--signed-by {out} signs with it.")
    tell_how_to_trust(root, out)


def given_password(file: str | None, variable: str) -> str | None:
    """The password from a file's first line, else from the environment; None where there is none."""
    if file is None:
        return os.environ.get(variable) or None
    try:
        password = pathlib.Path(file).read_text("utf-8-sig").partition("\n")[0]
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no UTF-8 text") from None
    if not password:
        raise ValueError(f"the first line of {file} should be the password, but is empty")
    return password


def show_as_flagged(arguments: Sequence[str]) -> None:
    """Print what a file holds."""
    parser = Parser("cert_tool.py show", "Tell what a .pfx, .pem or .crt file holds.")
    parser.add_argument("file", metavar="FILE")
    flags = parser.parse_args(arguments)
    print("\n".join(show(pathlib.Path(flags.file), passwords_to_try(flags.file, flags.password_file))))


def passwords_to_try(file: str, password_file: str | None) -> Iterator[str | None]:
    """None at first, then the given password; at last, on a terminal, the one that is asked for.

    Raises ValueError where none of them was taken.
    """
    yield None
    given = given_password(password_file, "WSDUAL_PASSWORD")
    if given is not None:
        yield given
    if password_file is None and sys.stdin.isatty():
        yield ask_password(f"Password of {file}: ")
    raise ValueError(f"wrong or missing password for {file}: give --password-file or $WSDUAL_PASSWORD")


def explain(error: Exception) -> str:
    """What went wrong and what to do about it, in one line."""
    if isinstance(error, FileExistsError):
        return f"{error.filename} exists: --force replaces it, --out takes another name"
    if isinstance(error, PermissionError):
        return f"no permission for {error.filename}: take another folder, or ask its owner"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return printable(" ".join(str(error).split()))


def main(arguments: Sequence[str]) -> int:
    """Run the program; return its exit status."""
    sys.stdin = sys.stdin or open(os.devnull)  # a service may have been started without one
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that the terminal can't write
    try:
        if arguments and arguments[0] == "show":
            show_as_flagged(arguments[1:])
        elif arguments and arguments[0] == "authority":
            make_authority_as_flagged(arguments[1:])
        elif arguments:
            make_as_flagged(arguments)
        else:
            make_as_answered()
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # "| head -1" has read enough; without this the interpreter complains at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, *UNREADABLE) as error:
        problem, code = explain(error), 1
    except EOFError:
        problem, code = "the input ended before the last answer; nothing was written", 1
    except KeyboardInterrupt:
        problem, code = "stopped", 130
    print(f"cert_tool.py: {problem}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
