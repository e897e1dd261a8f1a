# SPDX-License-Identifier: MIT
"""What the tests of codecs share: bytes in pieces, and the events that they make."""

from __future__ import annotations

from collections.abc import Iterable

from wsdual import Frames, Goodbye, Lines

PMD = "permessage-deflate"


def heard(codec: Frames | Lines, *pieces: bytes) -> list[object]:
    """All events that these pieces make, up to a goodbye."""
    events: list[object] = []
    for piece in pieces:
        for event in codec.receive(piece):
            events.append(event)
            if isinstance(event, Goodbye):
                return events
    return events


def bytewise(data: bytes) -> list[bytes]:
    """The same bytes one by one."""
    return [data[place : place + 1] for place in range(len(data))]


def last_code(events: Iterable[object]) -> tuple[int, bool]:
    """The code of the goodbye at the end, and whether it is the client's fault."""
    *_, goodbye = events
    assert isinstance(goodbye, Goodbye), goodbye
    return goodbye.code, goodbye.fault
