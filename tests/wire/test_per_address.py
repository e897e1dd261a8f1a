# SPDX-License-Identifier: MIT
"""Limits.per_address, --max-per-address: one address can't take all seats."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import *

from wsdual import Limits, echo

TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture
def two_each(start: Callable[..., Program]) -> Program:
    """A server that takes two connections of each address."""
    return start("--max-per-address", "2", "--app", "echo")


@contextlib.contextmanager
def seated(address: tuple[str, int], source: str, number: int = 2) -> Iterator[list[WebSocket]]:
    """Clients of one address, each of them served."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(WebSocket(address, source=source)) for _ in range(number)]
        assert all(client.ask("hi") == "hi" for client in clients)
        yield clients


def test_one_more_of_an_address_is_503_and_others_are_served(two_each: Program) -> None:
    """Whatever the others of its address do: they count, not their kind."""
    with seated(two_each.address, "127.0.0.2") as clients:
        request = upgrade_request(two_each.address)
        for _ in range(3):
            status, _, body = http(two_each.address, request, source="127.0.0.2")
            assert status == 503 and b"address" in body
        assert get(two_each.address, source="127.0.0.2")[0] == 503
        assert get(two_each.address, source="127.0.0.3")[0] == 200
        others_are_served(two_each)
        assert all(client.ask("still here") == "still here" for client in clients)


def test_a_native_client_hears_why_and_one_of_tls_is_closed(two_each: Program) -> None:
    """An error line; inside TLS nothing, since a handshake costs more than it is worth."""
    with seated(two_each.address, "127.0.0.2"):
        with Native(two_each.address, source="127.0.0.2") as client:
            client.send("{}")
            error = client.receive_json()
            assert error["type"] == "error" and "address" in error["reason"]
        with pytest.raises((ssl.SSLError, OSError)):
            connect(two_each.address, tls=True, source="127.0.0.2")


def test_a_connection_that_says_nothing_counts_and_one_too_many_is_closed_soon(two_each: Program) -> None:
    """Within a second or so, not after the deadline for a handshake."""
    with connect(two_each.address, source="127.0.0.2"), connect(two_each.address, source="127.0.0.2"):
        with connect(two_each.address, source="127.0.0.2") as third:
            third.settimeout(4)
            assert closed(third)
        others_are_served(two_each)


@pytest.mark.parametrize("ending", ["close", "reset", "refused"])
def test_who_goes_makes_room(two_each: Program, ending: str) -> None:
    """However it ends, for the next of its address; those who were turned away have taken nothing."""

    def comes_and_goes() -> bool:
        sock = connect(two_each.address, source="127.0.0.2")
        sock.sendall(upgrade_request(two_each.address, "/no" if ending == "refused" else "/echo"))
        status = int(sock.recv(12).split()[1])
        if status == 101:
            assert get(two_each.address, source="127.0.0.2")[0] == 503, "one more"
        reset(sock) if ending == "reset" else sock.close()
        return status != 503

    with seated(two_each.address, "127.0.0.2", 1):
        for _ in range(5):
            wait_until(comes_and_goes, "there is room again")


def test_the_limit_for_all_still_holds(start: Callable[..., Program]) -> None:
    """Many addresses with one client each."""
    program = start("--max-per-address", "2", "--max-clients", "4")
    with contextlib.ExitStack() as stack:
        for number in range(2, 6):
            stack.enter_context(seated(program.address, f"127.0.0.{number}", 1))
        status, _, body = http(program.address, upgrade_request(program.address), source="127.0.0.9")
        assert status == 503 and b"too many clients" in body


def test_without_the_flag_there_is_no_limit(server: Program) -> None:
    """A class behind one address, a proxy."""
    assert Limits().per_address is None
    with seated(server.address, "127.0.0.2", 60):
        pass


def test_an_ipv4_address_counts_as_one_whatever_the_servers_family_is() -> None:
    """On "::" IPv4 clients come as ::ffff:127.0.0.2: not all of IPv4 is one network then."""
    try:
        context = serving({"/echo": echo}, address=("::", 0), limits=Limits(per_address=2))
        with context as server:
            address = ("127.0.0.1", address_of(server)[1])
            with seated(address, "127.0.0.2"), seated(address, "127.0.0.3"):
                for source, status in [("127.0.0.2", 503), ("127.0.0.3", 503), ("127.0.0.4", 404)]:
                    assert get(address, source=source)[0] == status, source
    except OSError:
        pytest.skip("this machine has no IPv6")


# ---- an attacker


def test_one_address_that_comes_again_and_again_keeps_nobody_out() -> None:
    """Each connection too many has a second to speak, and a thread: that isn't to be had for all of them."""
    with serving({"/echo": echo}, limits=Limits(clients=100, per_address=2)) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(500):
                with contextlib.suppress(OSError):  # turned away at once
                    stack.enter_context(connect(address_of(server), source="127.0.0.2"))
            for source in ("127.0.0.3", "127.0.0.4", "127.0.0.5"):
                with WebSocket(address_of(server), source=source) as client:
                    assert client.ask("let me in") == "let me in"
        wait_until(lambda: not server.everyone(), "nobody is left behind")


def test_the_program_is_unharmed_by_one_address_with_many_connections(two_each: Program) -> None:
    """Threads, descriptors and memory come back."""
    with unharmed(two_each), contextlib.ExitStack() as stack:
        for number in range(300):
            with contextlib.suppress(OSError):  # turned away at once
                sock = stack.enter_context(connect(two_each.address, source="127.0.0.2"))
                sock.sendall((b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"{", b"")[number % 4])
        others_are_served(two_each)


# ---- IPv6: a network of 64 bits counts as one address

NETWORKS = f"""
import contextlib, sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
from support import WebSocket, address_of, http, serving, upgrade_request
from wsdual import Limits, echo

with serving({{"/echo": echo}}, address=("::", 0), limits=Limits(per_address=2)) as server:
    address = ("::1", address_of(server)[1])
    def status(source, host="fd00:0:0:1::1"):
        where = (host, address[1])
        return http(where, upgrade_request(where, "/no"), source=source)[0]
    with contextlib.ExitStack() as stack:
        def sit(source, host="fd00:0:0:1::1"):
            client = stack.enter_context(WebSocket((host, address[1]), source=source))
            assert client.ask("hi") == "hi"
        sit("fd00:0:0:1::1")
        sit("fd00:0:0:1:ffff:ffff:ffff:ffff")
        print("same network", status("fd00:0:0:1::2"))
        print("another", status("fd00:0:0:2::1"))
        sit("fd00:0:0:2::1")
        print("one of two", status("fd00:0:0:2:8000::1"))
        print("loopback", status("::1", "::1"))
        sit("10.77.0.1", "10.77.0.1")
        sit("10.77.0.1", "10.77.0.1")
        print("IPv4", status("10.77.0.1", "10.77.0.1"), status("10.77.0.2", "10.77.0.1"))
"""
ADDRESSES = ["fd00:0:0:1::1", "fd00:0:0:1::2", "fd00:0:0:1:ffff:ffff:ffff:ffff", "fd00:0:0:2::1",
             "fd00:0:0:2:8000::1", "10.77.0.1", "10.77.0.2"]  # fmt: skip
ADD = [f"ip addr add {address} dev lo" for address in ADDRESSES]
UP = " && ".join(["ip link set lo up", *ADD, 'exec "$@"'])


def test_ipv6_counts_by_network_of_64_bits() -> None:
    """That is what one customer gets; IPv4 in it counts by its own address."""
    for flags in (["--net"], ["--net", "--map-root-user"]):
        command = ["unshare", *flags, "sh", "-c", UP, "sh"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if subprocess.run([*command, "true"], capture_output=True, timeout=PATIENCE).returncode == 0:
                break
    else:
        pytest.skip("no network namespace with IPv6 to be had here")
    done = subprocess.run([*command, sys.executable, "-c", NETWORKS], capture_output=True, text=True,
                          timeout=3 * PATIENCE, check=False)  # fmt: skip
    lines = ["same network 503", "another 404", "one of two 404", "loopback 404", "IPv4 503 404"]
    assert (done.stdout.splitlines(), done.stderr) == (lines, "")


# ---- the flag


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", ""])
def test_a_bad_number_is_one_line(value: str) -> None:
    """Zero would be nobody."""
    command = [sys.executable, str(REPO / "wsdual.py"), "--port", "0", "--max-per-address", value]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "--max-per-address" in done.stderr


def test_a_monitor_is_a_connection_like_any_other(start: Callable[..., Program]) -> None:
    """Of one's own address."""
    program = start("--max-per-address", "1")
    with Watcher(program.address):
        assert get(program.address)[0] == 503
        assert get(program.address, source="127.0.0.2")[0] == 200
