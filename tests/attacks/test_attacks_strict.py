# SPDX-License-Identifier: MIT
"""Protocol strictness: offers of compression in every shape, early frames, half-closed clients, odd TLS."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import socket
import ssl
import subprocess
import time
import zlib

import broken
import pytest
from broken import PMD
from support import *

COMPRESSED = 4

# ---------------------------------------------------------------- offers

ACCEPTED = [
    # an offer (several, by commas), and the parameters of the one to take
    (PMD, set()),
    (f"  {PMD}  ", set()),
    (f"{PMD}; server_no_context_takeover", {"server_no_context_takeover"}),
    (f"{PMD}; client_no_context_takeover", {"client_no_context_takeover"}),
    (f"{PMD}; client_max_window_bits", {"client_max_window_bits"}),
    (f"{PMD}; client_max_window_bits=10", {"client_max_window_bits=10"}),
    (f"{PMD}; server_max_window_bits=10", {"server_max_window_bits=10"}),
    (f'{PMD}; server_max_window_bits="10"', {"server_max_window_bits=10"}),
    (f'{PMD}; client_max_window_bits="10"', {"client_max_window_bits=10"}),
    (f"{PMD};server_max_window_bits=15", {"server_max_window_bits=15"}),
    (f"{PMD};server_no_context_takeover ;client_max_window_bits", {"server_no_context_takeover",
                                                                   "client_max_window_bits"}),
    (f"{PMD}; unknown, {PMD}; server_max_window_bits=9", {"server_max_window_bits=9"}),
    (f"{PMD}; server_no_context_takeover, {PMD}; client_max_window_bits", {"server_no_context_takeover"}),
    (f"{PMD}; server_max_window_bits=8, {PMD};client_no_context_takeover", {"client_no_context_takeover"}),
    (f"foo, bar; baz=1, {PMD}", set()),
    (f'foo; x="a,{PMD}; client_max_window_bits", {PMD}', set()),
    (f"{PMD}; server_max_window_bits=16, {PMD}; server_max_window_bits=7, {PMD}", set()),
]


def test_an_offer_that_is_not_well_made_is_declined_and_the_connection_works(server: Program) -> None:
    """RFC 7692 section 7: unknown, repeated, misplaced or malformed parameters decline that offer, and
    nothing else: the WebSocket itself is served, without compression."""
    failures = []
    with unharmed(server):
        for offer in broken.OFFERS:
            try:
                client = Deflating(server.address, offer)
            except (AssertionError, EOFError, OSError) as error:
                failures.append((offer, repr(error)[:100]))
                continue
            with client:
                if client.agreed is not None or client.ask("x" * 1000) != "x" * 1000:
                    failures.append((offer, client.agreed))
        assert not failures


def test_an_answer_holds_nothing_that_the_accepted_offer_did_not(server: Program) -> None:
    """The first good offer is taken; its parameters are answered, a window never larger than asked for."""
    with unharmed(server):
        for offer, parameters in ACCEPTED:
            with Deflating(server.address, offer) as client:
                answer = client.agreed
                assert answer is not None, offer
                name, *answered = re.split(r"\s*;\s*", answer)
                assert name == PMD and len(answered) == len({word.split("=")[0] for word in answered}), answer
                for word in answered:
                    key, _, bits = word.partition("=")
                    offered = next((p for p in parameters if p.split("=")[0] == key), None)
                    assert offered is not None, (offer, answer)
                    if bits and "=" in offered:
                        assert 8 <= int(bits) <= int(offered.split("=")[1]), (offer, answer)
                for parameter in parameters:  # what binds the server has to be agreed on
                    if parameter.startswith("server_"):
                        assert parameter in answered, (offer, answer)
                client.sock.sendall(frame(TEXT, deflate(b"packed"), rsv=COMPRESSED))
                assert client.receive() == "packed"


def test_two_header_lines_are_one_list_of_offers(server: Program) -> None:
    """Sec-WebSocket-Extensions may come in several lines (RFC 6455 section 9.1)."""
    request = upgrade_request(server.address, Sec_WebSocket_Extensions="foo").replace(
        b"\r\n\r\n", f"\r\nSec-WebSocket-Extensions: {PMD}; server_max_window_bits=11\r\n\r\n".encode()
    )
    with unharmed(server), connect(server.address) as sock:
        sock.sendall(request)
        head = sock.recv(4096)
        assert b"permessage-deflate; server_max_window_bits=11\r\n" in head


def test_what_was_agreed_on_is_kept(server: Program) -> None:
    """A small window of the server's, and no context taken over, bind what the server sends."""
    noise = random.Random(5).randbytes(1500)
    message = noise + noise  # compresses only with a window of 2 KiB
    with unharmed(server):
        for bits in (9, 10, 12, 15):
            offer = f"{PMD}; server_max_window_bits={bits}; server_no_context_takeover"
            with Deflating(server.address, offer) as client:
                for _ in range(3):
                    client.sock.sendall(frame(BINARY, message))
                    fin, rsv, opcode, payload = client.receive_frame()
                    assert (fin, opcode) == (True, BINARY)
                    if rsv:  # a decompressor of its own for each message, and no larger than agreed
                        payload = zlib.decompressobj(-bits).decompress(payload + b"\0\0\xff\xff")
                    assert payload == message


def test_control_frames_fit_between_the_fragments_of_a_compressed_message(server: Program) -> None:
    """Pings leave a compressed message whole, however many; a compression bit on one of them is a fault."""
    data = deflate(b"one message in three pieces " * 20)
    with unharmed(server):
        with Deflating(server.address) as client:
            for _ in range(2):
                client.sock.sendall(frame(TEXT, data[:5], fin=False, rsv=COMPRESSED))
                client.sock.sendall(frame(PING, b"1") + frame(PONG))
                client.sock.sendall(frame(CONTINUATION, data[5:9], fin=False))
                client.sock.sendall(frame(PING, b"2") + frame(PING))
                client.sock.sendall(frame(CONTINUATION, data[9:], fin=True))
                answers = [client.receive_frame() for _ in range(4)]
                assert [(a[2], a[3]) for a in answers[:3]] == [(PONG, b"1"), (PONG, b"2"), (PONG, b"")]
                assert answers[3][2] == TEXT
        for bad in (
            frame(PING, b"x", rsv=COMPRESSED), frame(CLOSE, b"\x03\xe8", rsv=COMPRESSED), frame(TEXT, b"x"),
            frame(CONTINUATION, b"x", rsv=COMPRESSED), frame(CONTINUATION, b"x", rsv=2),
        ):  # fmt: skip
            with Deflating(server.address) as client:
                client.sock.sendall(frame(TEXT, data[:5], fin=False, rsv=COMPRESSED) + bad)
                assert client.receive_close()[0] == 1002, bad


# ---------------------------------------------------------------- early, and half-closed


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_frames_in_one_packet_with_the_upgrade_request_are_served(server: Program, secure: bool) -> None:
    """A client may be in a hurry: a hundred messages behind the request are answered, a cut one, too."""
    cut = frame(TEXT, b"cut")
    early = b"".join(frame(TEXT, b"%03d" % number) for number in range(100)) + cut[:5]
    with unharmed(server), WebSocket(server.address, tls=secure, early=early) as client:
        assert [client.receive() for _ in range(100)] == [f"{number:03}" for number in range(100)]
        client.sock.sendall(cut[5:])
        assert client.receive() == "cut"


def test_a_client_that_has_said_its_last_byte_still_gets_every_answer(server: Program) -> None:
    """Half-closed: a FIN after the request, the lines or the frames doesn't cost the answers."""
    address, count = server.address, 300
    lines = b'{"type":"who"}\n' * count
    frames = b"".join(frame(TEXT, b"%03d" % number) for number in range(count))
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def plain(data: bytes) -> bytes:
        with connect(address) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            return read_to_end(sock)

    def secure(data: bytes, notify: bool) -> bytes:
        with HandTLS(address) as client:
            client.handshake()
            client.sock.sendall(client.encrypt(data) + (client.goodbye() if notify else b""))
            client.sock.shutdown(socket.SHUT_WR)
            received = b""
            try:
                while more := client.receive():  # b"" is close_notify: an end without it raises
                    received += more
            except ssl.SSLError as error:
                # A FIN without close_notify is a fault of the client's, which it may be told by an alert
                assert not notify and "ALERT" in str(error), error
            return received

    with unharmed(server):
        assert parse_response(plain(request))[0] == 200
        assert plain(lines).count(b'"error"') == count
        assert plain(upgrade_request(address) + frames).count(b"\x81\x03") == count
        for notify in (True, False):
            assert parse_response(secure(request, notify))[0] == 200, notify
            assert secure(lines, notify).count(b'"error"') == count, notify
            assert secure(upgrade_request(address) + frames, notify).count(b"\x81\x03") == count, notify


def test_a_client_that_ends_in_the_midst_of_something_leaves_nothing_behind(server: Program) -> None:
    """A FIN in a request, a frame, a line, a record or a handshake just ends the connection."""
    address = server.address
    plain = [b"GET / HT", b"{", b"\x16\x03\x01", upgrade_request(address) + frame(TEXT, b"x" * 50)[:9]]
    with unharmed(server):
        for data in plain:
            with connect(address) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                read_to_end(sock)
        for cut in (3, -1):
            with HandTLS(address) as client:
                client.handshake()
                client.sock.sendall(client.encrypt(upgrade_request(address))[:cut])
                client.sock.shutdown(socket.SHUT_WR)
                read_to_end(client.sock)


# ---------------------------------------------------------------- TLS


def test_bytes_behind_close_notify_are_ignored(server: Program) -> None:
    """close_notify is the end of what a client says (RFC 8446 section 6.1); what follows is no message, and
    no harm."""
    for tail in (b"in clear\n" * 10, b"\x17\x03\x03\x00\x05abcde" * 10, b"\x16\x03\x01\x00\x05\x01"):
        with unharmed(server), HandTLS(server.address) as client:
            client.handshake()
            client.sock.sendall(client.encrypt(b'{"type":"who"}\n'))
            assert b"error" in client.receive_until(b"\n")
            client.sock.sendall(client.goodbye() + tail)
            assert client.receive() == b""
            with contextlib.suppress(ConnectionError):  # a reset is what such a tail deserves
                assert read_to_end(client.sock) == b""


def test_a_spoilt_record_ends_the_connection_with_an_alert(server: Program) -> None:
    """A flipped bit, a record in clear, or one too long: an alert, a close, no traceback."""
    spoilt = [
        lambda r: r[:-1] + bytes([r[-1] ^ 1]), lambda r: b"\x17\x03\x03\xff\xff" + r[5:] * 200,
        lambda r: b"GET / HTTP/1.1\r\n\r\n" * 3, lambda r: b"\x15\x03\x03\x00\x02\x02\x28",
        lambda r: b"\x18\x03\x03\x00\x03\x01\xff\xff" * 4,
    ]  # fmt: skip
    with unharmed(server):
        for spoil in spoilt:
            with HandTLS(server.address) as client:
                client.handshake()
                client.sock.sendall(client.encrypt(upgrade_request(server.address)))
                client.receive_until(b"\r\n\r\n")
                client.sock.sendall(spoil(client.encrypt(frame(TEXT, b"spoilt"))))
                with contextlib.suppress(OSError):  # the server may have been faster
                    client.sock.shutdown(socket.SHUT_WR)
                received = read_to_end(client.sock)
                assert received[:1] in (b"\x15", b"\x17", b""), received  # an alert, maybe enciphered


def s_client(program: Program, *flags: str) -> subprocess.Popen[bytes]:
    """openssl s_client; skips where there is none."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl isn't there")
    place = f"{program.address[0]}:{program.port}"
    return subprocess.Popen(
        [openssl, "s_client", "-connect", place, *flags],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
    )  # fmt: skip


def wait_for_output(process: subprocess.Popen[bytes], *words: bytes) -> bytes:
    """Read what a program prints until one of these words has come, or its end."""
    output, end = b"", time.monotonic() + PATIENCE
    assert process.stdout is not None
    while not any(word in output for word in words) and time.monotonic() < end:
        data = process.stdout.read(65536)
        if not data:
            break
        output += data
    return output


def test_a_client_that_wants_to_renegotiate_is_refused(server: Program) -> None:
    """TLS 1.2 renegotiation, an old way to keep a server's CPU busy, is not done."""
    with unharmed(server):
        process = s_client(server, "-tls1_2")
        try:
            wait_for_output(process, b"Verify return code", b"---\n")
            process.stdin.write(b"R\n")  # type: ignore[union-attr]
            output = wait_for_output(process, b"no renegotiation", b"NO_RENEGOTIATION", b"alert")
            assert b"renegotiation" in output.lower() or process.wait(PATIENCE) != 0
            others_are_served(server)
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("letter", [b"k", b"K"], ids=["update", "update_requested"])
def test_a_flood_of_key_updates_costs_little_and_the_session_goes_on(server: Program, letter: bytes) -> None:
    """TLS 1.3 lets a client change its keys as often as it likes; the session survives it, and the server
    has time for others."""
    with unharmed(server):
        process = s_client(server, "-tls1_3")
        assert process.stdin is not None
        try:
            wait_for_output(process, b"Verify return code", b"read R BLOCK")
            used = server.cpu_seconds()
            for _ in range(200):
                process.stdin.write(letter + b"\n")
                time.sleep(0.002)  # keeps the keystrokes apart: s_client takes one command from each read
            others_are_served(server)
            process.stdin.write(b'{"type":"who"}\n')
            output = wait_for_output(process, b"log in first")
            assert b"log in first" in output and output.count(b"KEYUPDATE") > 20
            assert server.cpu_seconds() - used < 1
        finally:
            process.kill()
            process.communicate()


def test_sessions_of_tls_are_resumed_or_not_but_never_mixed_up(server: Program) -> None:
    """Many handshakes at once, on many connections: each client gets its own answer."""

    def talk(number: int) -> None:
        with WebSocket(server.address, tls=True) as client:
            for turn in range(5):
                assert client.ask(f"{number}/{turn}") == f"{number}/{turn}"
        with Native(server.address, tls=True) as native, contextlib.suppress(EOFError):
            native.send({"type": f"{number}"})
            assert native.receive_json()["type"] == "error"

    with unharmed(server):
        all_at_once(*(lambda number=number: talk(number) for number in range(15)))
