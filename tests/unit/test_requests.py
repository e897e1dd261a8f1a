# SPDX-License-Identifier: MIT
"""What an HTTP request asks for, and whether it gets it: the pure functions, without a socket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import broken
import h11
import pytest
from support import *

from wsdual import (
    Refused,
    Request,
    check_host,
    check_method,
    check_origin,
    check_upgrade,
    find_file,
    is_loopback,
    split_port,
    split_target,
)

LOCAL, REMOTE = ("127.0.0.1", 50_000), ("192.0.2.7", 50_000)
TLS, CERTIFICATE = ("TLSv1.3", "TLS_AES_256_GCM_SHA384"), {"serialNumber": "01"}
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = [("Host", "localhost"), ("Upgrade", "websocket"), ("Connection", "Upgrade"),
           ("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Version", "13")]  # fmt: skip


def request(
    headers: Sequence[tuple[str, str]] = (("Host", "localhost"),),
    *,
    target: str = "/",
    method: str = "GET",
    version: bytes = b"1.1",
    address: tuple[str, int] = LOCAL,
    tls: tuple[str, str] | None = None,
) -> Request:
    """A request, as h11 hands it over, and a wire tells of its client."""
    fields = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    event = h11.Request(method=method, headers=fields, target=target, http_version=version)
    wire: Any = SimpleNamespace(tls=tls, certificate=lambda: CERTIFICATE if tls else None)
    return Request(event, address, wire)


def changed(**changes: str | None) -> list[tuple[str, str]]:
    """A good upgrade's headers with some of them changed, left out (None) or added; _ stands for -."""
    wanted = {name.replace("_", "-").lower(): value for name, value in changes.items()}
    new = [(name, value) for name, value in wanted.items() if value is not None]
    return [(name, value) for name, value in UPGRADE if name.lower() not in wanted] + new


# ---------------------------------------------------------------- the head


def test_a_request_is_what_its_head_says() -> None:
    """Names in any case, a field several times, the path decoded and without its query."""
    headers = [("HOST", "LocalHost:4530"), ("X-A", "One, two"), ("x-a", "THREE"), ("Origin", "HTTP://A")]
    one = request(headers, target="/a%20b?c=d", method="HEAD", address=REMOTE, tls=TLS)
    assert (one.method, one.version, one.path, one.query) == ("HEAD", "1.1", "/a b", "c=d")
    assert (one.authority, one.host, one.origin) == ("localhost:4530", "localhost", "http://a")
    assert (one.address, one.tls, one.certificate, one.local) == (REMOTE, TLS, CERTIFICATE, False)
    assert one.all("x-A") == ["One, two", "THREE"]
    assert one.words("X-A") == ["one", "two", "three"]
    assert one.all("Missing") == [] and one.words("Missing") == []
    assert one.one("host") == "LocalHost:4530"
    assert one.headers.items() == headers and one.headers["x-A"] == "One, two"
    for name, words in (("Missing", "Missing is missing"), ("X-A", "more than one X-A")):
        with pytest.raises(Refused, match=words):
            one.one(name)


QUERIES: dict[str, tuple[str, str, dict[str, list[str]]]] = {  # a target, its path, query and parameters
    "/": ("/", "", {}),
    "/?": ("/", "", {}),
    "/a?b=c": ("/a", "b=c", {"b": ["c"]}),
    "/a?b=c&b=d&e": ("/a", "b=c&b=d&e", {"b": ["c", "d"], "e": [""]}),
    "/a?b=%C3%A9+f%26": ("/a", "b=%C3%A9+f%26", {"b": ["é f&"]}),
    "/a?b?c=d": ("/a", "b?c=d", {"b?c": ["d"]}),
    "/a?b#c?d": ("/a", "b", {"b": [""]}),
    "/a#b?c": ("/a", "", {}),
    "/a%20b": ("/a b", "", {}),
    "/a+b": ("/a+b", "", {}),
    "/%C3%A9": ("/é", "", {}),
    "/%ff": ("/\ufffd", "", {}),
    "/%": ("/%", "", {}),
    "/%zz": ("/%zz", "", {}),
    "/%3Fa": ("/?a", "", {}),  # an escaped question mark begins no query
    "/%2e%2e/x": ("/../x", "", {}),
    "/a;b": ("/a;b", "", {}),
    "//a/b": ("//a/b", "", {}),  # a path, not a host
    "http://localhost?b": ("/", "b", {"b": [""]}),
}


@pytest.mark.parametrize(("target", "expected"), QUERIES.items(), ids=QUERIES)
def test_a_path_is_decoded_and_a_query_taken_apart(
    target: str, expected: tuple[str, str, dict[str, list[str]]]
) -> None:
    """The query itself stays as it was written."""
    one = request(target=target)
    assert (one.path, one.query, one.parameters) == expected


COOKIES: list[tuple[list[str], dict[str, str]]] = [
    ([], {}),
    ([""], {}),
    (["a=b"], {"a": "b"}),
    (["a=b; c=d"], {"a": "b", "c": "d"}),
    (["a=b;c=d", "e=f"], {"a": "b", "c": "d", "e": "f"}),
    (["a=b; a=c"], {"a": "b"}),  # browsers send the closer path's first
    (['a="b c"'], {"a": "b c"}),
    (["a=b=c=="], {"a": "b=c=="}),
    (["a="], {"a": ""}),
    (["a; =b; a b=c; ;;e=f"], {"e": "f"}),
]


@pytest.mark.parametrize(("values", "cookies"), COOKIES)
def test_cookies_have_names_and_values(values: list[str], cookies: dict[str, str]) -> None:
    """What is no cookie is passed over."""
    assert request([("Host", "a"), *(("Cookie", value) for value in values)]).cookies == cookies


HEADS: dict[str, tuple[dict[str, object], int]] = {  # what is refused, and its status
    "HTTP/2.0": ({"version": b"2.0"}, 505),
    "HTTP/0.9": ({"version": b"0.9"}, 505),
    **{method: ({"method": method}, 405)
       for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT")},
    **{method: ({"method": method}, 501) for method in ("BREW", "get", "G", "GETS", "M-SEARCH")},
    "the target *": ({"target": "*"}, 400),
    "a target of another scheme": ({"target": "ftp://localhost/"}, 400),
    "a user in the target": ({"target": "http://a@b/"}, 400),
    **{f"the Host {host!r}": ({"headers": [("Host", host)]}, 400)
       for host in ("local host", "localhost/x", "a@b", "a:1:2", "a:b", "a:123456", "[::1", "::1", "", "\xe9",
                    "a:", ":1", "a,b", "a#b", "a\\b", "%31")},
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "status"), HEADS.values(), ids=HEADS)
def test_a_head_that_cannot_be_served_is_refused(arguments: dict[str, object], status: int) -> None:
    """With the status that tells why."""
    with pytest.raises(Refused) as refused:
        check_method(request(**arguments))  # type: ignore[arg-type]
    assert refused.value.status == status
    assert (("Allow", "GET, HEAD") in refused.value.headers) == (status in (405, 501))


def test_a_host_may_be_missing_where_the_version_allows_it() -> None:
    """HTTP/1.0 knows none."""
    old = request([], version=b"1.0")
    assert (old.authority, old.host, old.origin) == ("", "", None)


def test_the_host_of_a_whole_url_is_the_one_that_counts() -> None:
    """Whatever the header says. (RFC 9112 section 3.2.2)"""
    one = request([("Host", "other")], target="http://Example.com:81/x")
    assert (one.authority, one.host, one.path) == ("example.com:81", "example.com", "/x")


TARGETS: dict[str, tuple[str, str] | None] = {  # authority and the rest, None where it is refused
    "/": ("", "/"),
    "/a/b?c#d": ("", "/a/b?c#d"),
    "//a/b": ("", "//a/b"),
    "/http://a/": ("", "/http://a/"),
    "http://a": ("a", "/"),
    "http://a/": ("a", "/"),
    "https://a:1/b?c": ("a:1", "/b?c"),
    "ws://a/b": ("a", "/b"),
    "wss://[::1]:1/b": ("[::1]:1", "/b"),
    "HTTP://A/b": ("A", "/b"),
    "http://a?b/c": ("a", "/?b/c"),
    "http://a/b/http://c/": ("a", "/b/http://c/"),
    **dict.fromkeys(("http:///b", "http:/b", "http:", "http://", "http://?", "file:///b", "ftp://a/", "httpss://a/",
                     "xhttp://a/", "*", "", "?", "a", "a/b", "a:80", "\\\\a/b"), None),
}  # fmt: skip


@pytest.mark.parametrize(("target", "expected"), TARGETS.items(), ids=map(repr, TARGETS))
def test_a_target_is_an_authority_and_what_follows(target: str, expected: tuple[str, str] | None) -> None:
    """As they were written, or refused with 400."""
    if expected:
        assert split_target(target) == expected
    else:
        with pytest.raises(Refused) as refused:
            split_target(target)
        assert refused.value.status == 400


PORTS: dict[tuple[str, bool], tuple[str, int] | None] = {
    ("a", False): ("a", 80),
    ("a", True): ("a", 443),
    ("a:1", True): ("a", 1),
    ("a:00080", False): ("a", 80),
    ("a.b-c_d~e", False): ("a.b-c_d~e", 80),
    ("127.0.0.1:4530", False): ("127.0.0.1", 4530),
    ("[::1]", False): ("[::1]", 80),
    ("[::1]:8", True): ("[::1]", 8),
    ("[::ffff:1.2.3.4]", False): ("[::ffff:1.2.3.4]", 80),
    **{(bad, False): None
       for bad in ("", ":", ":80", "a:", "a:x", "a:-1", "a:+1", "a:123456", "a:1:2", "::1", "[::1", "[::1]x",
                   "[::1]:", "[]", "a b", " a", "a\n", "a/", "a@b", "é", "A", "[::1%eth0]", "a:\u0661")},
}  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), PORTS.items(), ids=map(repr, PORTS))
def test_an_authority_is_a_host_and_a_port(given: tuple[str, bool], expected: tuple[str, int] | None) -> None:
    """The port is the scheme's where none is given; anything else is a ValueError."""
    if expected:
        assert split_port(*given) == expected
    else:
        with pytest.raises(ValueError):
            split_port(*given)


LOOPBACK = {
    **dict.fromkeys(("localhost", "127.0.0.1", "127.255.255.254", "::1", "[::1]"), True),
    **dict.fromkeys(("", "localhost.", "127.1", "0.0.0.0", "::", "[::]", "128.0.0.1", "10.0.0.1",
                     "localhost.evil.example", "2130706433", "0x7f.1"), False),
}  # fmt: skip


@pytest.mark.parametrize(("host", "expected"), LOOPBACK.items(), ids=map(repr, LOOPBACK))
def test_loopback_is_told_by_the_name_alone(host: str, expected: bool) -> None:
    """Nobody is asked what a name stands for."""
    assert is_loopback(host) is expected


# ---------------------------------------------------------------- an upgrade

UPGRADES: dict[str, tuple[list[tuple[str, str]], int]] = {  # 101: it passes
    "good": (UPGRADE, 101),
    "among other words": (changed(Connection="keep-alive, UPGRADE ,x"), 101),
    "a body of nothing": (changed(Content_Length="0"), 101),
    "with an origin": (changed(Origin="http://a"), 101),
    "no Connection": (changed(Connection=None), 400),
    "another Connection": (changed(Connection="keep-alive"), 400),
    "a Connection that only begins so": (changed(Connection="upgrades"), 400),
    "a body": (changed(Content_Length="3"), 400),
    "a body in chunks": (changed(Transfer_Encoding="chunked"), 400),
    "no version": (changed(Sec_WebSocket_Version=None), 400),
    **{f"version {version!r}": (changed(Sec_WebSocket_Version=version), 426)
       for version in ("8", "12", "14", "013", "13, 13", "", "thirteen")},
    "two versions": ([*UPGRADE, ("Sec-WebSocket-Version", "13")], 400),
    "no key": (changed(Sec_WebSocket_Key=None), 400),
    "two keys": ([*UPGRADE, ("Sec-WebSocket-Key", KEY)], 400),
    **{f"the key {key!r}": (changed(Sec_WebSocket_Key=key), 400)
       for key in ("", "x", KEY[:-1], KEY[:-2], KEY + "=", "A" * 23 + "=", "A" * 24, "A" * 20 + "====",
                   KEY[:4] + " " + KEY[4:], KEY[:-3] + "-==", "\xe9" * 24, "*" * 24)},
    "no Host": (changed(Host=None), 400),
    "a control byte in the origin": (changed(Origin="http://\x85"), 400),
}  # fmt: skip


@pytest.mark.parametrize(("headers", "status"), UPGRADES.values(), ids=UPGRADES)
def test_an_upgrade_is_what_the_rfc_demands(headers: list[tuple[str, str]], status: int) -> None:
    """Else it is refused with the status that tells why. (RFC 6455 section 4.2.1)"""
    version = b"1.0" if not any(name.lower() == "host" for name, _ in headers) else b"1.1"
    try:
        check_upgrade(request(headers, version=version))
    except Refused as refusal:
        assert refusal.status == status
        if status == 426:
            assert dict(refusal.headers) == {"Sec-WebSocket-Version": "13", "Upgrade": "websocket"}
    else:
        assert status == 101


def test_an_upgrade_is_a_get_of_http_1_1() -> None:
    """No HEAD (405), no HTTP/1.0 (400)."""
    for status, arguments in ((405, {"method": "HEAD"}), (400, {"version": b"1.0"})):
        with pytest.raises(Refused) as refused:
            check_upgrade(request(UPGRADE, **arguments))  # type: ignore[arg-type]
        assert refused.value.status == status


# ---------------------------------------------------------------- host and origin

SITE = "https://example.com"
HOSTS: list[tuple[str, tuple[str, int], tuple[str, ...], bool]] = [
    # the host asked for, from where, the origins that are allowed, whether it is served
    *[(host, LOCAL, (), True)
      for host in ("localhost", "LOCALHOST:1", "127.0.0.1:4530", "127.9.9.9", "[::1]:1")],
    *[(host, ("::1", 1), (), True) for host in ("localhost", "[::1]")],
    ("example.com", LOCAL, (), False),
    ("example.com", LOCAL, (SITE,), True),
    ("example.com:81", LOCAL, (SITE,), True),
    ("www.example.com", LOCAL, (SITE,), False),
    ("localhost", LOCAL, (SITE,), True),
    ("anything", REMOTE, (), True),
    ("anything", REMOTE, (SITE,), False),
    ("example.com", REMOTE, (SITE,), True),
    ("localhost", REMOTE, (SITE,), False),
    ("[2001:db8::1]:1", REMOTE, ("http://[2001:db8::1]:1",), True),
    ("10.0.0.1", REMOTE, (SITE, "http://10.0.0.1:8000"), True),
]  # fmt: skip


@pytest.mark.parametrize(("host", "address", "origins", "served"), HOSTS)
def test_a_host_has_to_be_one_of_ours(
    host: str, address: tuple[str, int], origins: tuple[str, ...], served: bool
) -> None:
    """Against DNS rebinding; the refusal tells the flag that allows it."""
    one = request([("Host", host)], address=address)
    if served:
        check_host(one, origins)
    else:
        with pytest.raises(Refused, match="--origin") as refused:
            check_host(one, origins)
        assert refused.value.status == 403


@pytest.mark.parametrize("host", broken.FOREIGN_HOSTS, ids=ascii)
def test_a_foreign_host_is_refused_to_local_clients(host: str) -> None:
    """Whether it is a host at all (403) or not (400)."""
    with pytest.raises(Refused) as refused:
        check_host(request([("Host", host)]), ())
    assert refused.value.status in (400, 403)


def test_who_names_no_host_is_served() -> None:
    """No browser is so old."""
    check_host(request([], version=b"1.0"), (SITE,))


ORIGINS: list[tuple[str | None, str, bool, tuple[str, int], bool]] = [
    # the origin, the host asked for, whether over TLS, from where, whether it is allowed
    (None, "localhost", False, LOCAL, True),
    ("http://localhost:4530", "localhost:4530", False, LOCAL, True),
    ("https://localhost:4530", "localhost:4530", False, LOCAL, True),  # whatever the scheme is
    ("http://localhost:4530", "localhost:4530", True, LOCAL, True),
    ("HTTP://LOCALHOST:4530", "localhost:4530", False, LOCAL, True),
    ("http://localhost", "localhost", False, LOCAL, True),
    ("http://localhost", "localhost:80", False, LOCAL, True),
    ("https://localhost", "localhost", True, LOCAL, True),
    ("https://localhost", "localhost:443", True, LOCAL, True),
    ("http://localhost", "localhost", True, LOCAL, False),  # ports 80 and 443
    ("http://localhost:1", "localhost:2", False, LOCAL, False),
    ("http://127.0.0.1:1", "localhost:1", False, LOCAL, False),
    ("http://[::1]:1", "[::1]:1", False, LOCAL, True),
    ("http://other", "example.com", False, REMOTE, False),
    (SITE, "localhost", False, LOCAL, True),  # which is allowed
    (SITE + ":444", "localhost", False, LOCAL, False),
    ("http://example.com", "localhost", False, LOCAL, False),
    ("null", "localhost", False, LOCAL, True),
    ("file://", "127.0.0.1", False, LOCAL, True),
    ("null", "example.com", False, LOCAL, False),
    ("null", "localhost", False, REMOTE, False),
    ("file://", "localhost", False, REMOTE, False),
    *[(bad, "localhost", False, LOCAL, False)
      for bad in ("", "x", "//", "http://", "http://[", "http://a b", "http://localhost:x", "http://@localhost",
                  "http://localhost@evil.example", "http://evil.example/localhost", "data:,", "null null")],
]  # fmt: skip


@pytest.mark.parametrize(("origin", "host", "secure", "address", "allowed"), ORIGINS)
def test_a_page_has_to_be_one_of_ours(
    origin: str | None, host: str, secure: bool, address: tuple[str, int], allowed: bool
) -> None:
    """Of the same host and port, one that is allowed, or from the disk of this machine."""
    headers = [("Host", host)] + ([] if origin is None else [("Origin", origin)])
    one = request(headers, address=address, tls=TLS if secure else None)
    if allowed:
        check_origin(one, (SITE,))
    else:
        with pytest.raises(Refused, match="--origin") as refused:
            check_origin(one, (SITE,))
        assert refused.value.status == 403


def test_two_origins_are_no_request() -> None:
    """A browser sends one."""
    with pytest.raises(Refused, match="more than one Origin"):
        request([("Host", "localhost"), ("Origin", "http://localhost"), ("Origin", "null")])


# ---------------------------------------------------------------- files

FILES = {  # a path, and the file that it names
    "/": "index.html",
    "/.": "index.html",
    "/index.html": "index.html",
    "//index.html": "index.html",
    "/./index.html": "index.html",
    "/sub/": "sub/index.html",
    "/sub/.": "sub/index.html",
    "/sub/..": "index.html",
    "/sub/../index.html": "index.html",
    "/sub/index.html": "sub/index.html",
}


@pytest.mark.parametrize(("path", "file"), FILES.items(), ids=map(repr, FILES))
def test_a_path_names_a_file_of_the_folder(tmp_path: Path, path: str, file: str) -> None:
    """A folder's is its index.html."""
    folder = broken.folder_with_traps(tmp_path).resolve()
    assert find_file(folder, path) == folder / file


@pytest.mark.parametrize("folder_is_there", [True, False], ids=["a folder", "no folder"])
def test_no_path_names_a_file_outside_of_the_folder(tmp_path: Path, folder_is_there: bool) -> None:
    """Nor anything that is no file: 404 for all of them, without a look at what is there."""
    folder = broken.folder_with_traps(tmp_path).resolve()
    secret = str(tmp_path / "secret.txt")
    for path in broken.PATHS:
        path = path.replace("{secret}", secret).replace("{escaped}", secret.replace("/", "%2f"))
        with pytest.raises((Refused, h11.LocalProtocolError)) as refused:
            find_file(folder if folder_is_there else None, request(target=path).path)
        if isinstance(refused.value, Refused):  # else h11 takes no such target
            assert refused.value.status in (400, 404), path
