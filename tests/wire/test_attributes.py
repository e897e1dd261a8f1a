# SPDX-License-Identifier: MIT
"""What can be asked of a server and of a peer while they live."""

from __future__ import annotations

import inspect

import pytest
from support import *

import wsdual


def test_each_argument_of_the_server_is_an_attribute_too() -> None:
    """... the address as socketserver calls it; the seconds of the memory are those of an IpMemory."""
    with wsdual.DualServer(("127.0.0.1", 0), {"/": wsdual.echo}, memory=7, detect="trial") as server:
        names = set(inspect.signature(wsdual.DualServer).parameters) - {"address"}
        assert [name for name in names if not hasattr(server, name)] == []
        assert server.server_address[0] == "127.0.0.1" and server.detect == "trial"
        assert isinstance(server.memory, wsdual.IpMemory) and server.memory.seconds == 7
        assert server.apps["/"] is wsdual.echo and server.limits == wsdual.Limits() and server.observers == []


@pytest.mark.parametrize("kind", ["ws", "tcp"])
def test_a_peer_tells_who_it_is(kind: str) -> None:
    """Its kind, address, path and name, while it lasts; and why it ended, afterwards."""
    found: list[wsdual.Peer] = []

    def look(peer: wsdual.Peer) -> None:
        found.append(peer)
        wsdual.echo(peer)

    with serving({"/": look}) as server:
        at = address_of(server)
        with WebSocket(at, "/") if kind == "ws" else Native(at) as client:
            client.send("{}")
            assert client.receive() == "{}"
            (peer,) = found
            assert (peer.kind, peer.path) == (kind, "/")
            assert peer.address == client.sock.getsockname() and peer.tls is None and peer.server is server
            assert peer.name is None and peer.ended == {} and peer.backlog == 0
        wait_until(lambda: peer.ended.get("why"))
