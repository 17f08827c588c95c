"""Versions: in some worlds machines speak newer versions of the protocol, and programs send what is not known here.

A machine of version NEWER puts a field that nobody knows into every message on its links, sends frames of a kind that nobody
knows, and offers versions of the protocol up to its own; one of version TOO_NEW does not speak the present one any more, is
refused, and works on for its programs alone until it is set back. Programs send messages and tasks with unknown fields in
them, which must arrive where they were meant to.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.sync.v1 import sync_service_pb2 as sync

PRESENT, NEWER, TOO_NEW = 1, 2, 3
FUTURE = b"from-the-future"
# Field 2000, length-delimited, as a newer version of any message might have it.
UNKNOWN_FIELD = bytes([0x82, 0x7D, len(FUTURE)]) + FUTURE


def has_skew(seed: int) -> bool:
    """Whether the world of a seed has machines of several versions."""
    return seed % 9 == 4


def first_version(rng: random.Random) -> int:
    """What a machine of such a world begins as."""
    return rng.choice((PRESENT, NEWER))


def add_unknown(message: Any) -> None:
    """Put a field into a message that is not known here."""
    message.MergeFromString(UNKNOWN_FIELD)


def spoken(parse: Callable[[bytes], Any], version: int) -> Callable[[bytes], Any]:
    """What reads the requests or responses of a link that a machine of this version wrote."""
    if version == PRESENT:
        return parse
    greeted = False

    def read(data: bytes) -> Any:
        nonlocal greeted
        frames = sync.SyncRequest.FromString(data).frames  # a response has the same fields
        for frame in frames:
            _age(frame, version)
        strange = [sync_pb2.Frame.FromString(UNKNOWN_FIELD)] if greeted else []  # the greeting comes first
        greeted = True
        request = sync.SyncRequest(frames=[*strange, *frames])
        add_unknown(request)
        return parse(request.SerializeToString())

    return read


def heard(parse: Callable[[bytes], Any], version: int, on_defect: Callable[[str], None]) -> Callable[[bytes], Any]:
    """What reads the responses to a machine of this version: one that is too new must never be welcome."""
    if version != TOO_NEW:
        return parse

    def read(data: bytes) -> Any:
        if any(frame.HasField("welcome") for frame in sync.SyncResponse.FromString(data).frames):
            on_defect("a node that speaks no version of its hub was let in")
        return parse(data)

    return read


def _age(frame: sync_pb2.Frame, version: int) -> None:
    """The frame as a machine of this version writes it."""
    kind = frame.WhichOneof("frame")
    if kind is None:
        return
    content = getattr(frame, kind)
    if kind == "hello":
        content.min_protocol_version = PRESENT if version == NEWER else version
        content.max_protocol_version = version
    for segment in content.segments if kind == "batch" else ():
        add_unknown(segment)
    for head in content.heads if kind in ("hello", "welcome") else ():
        add_unknown(head)
    add_unknown(content)
    add_unknown(frame)
