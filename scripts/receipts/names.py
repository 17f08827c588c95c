"""What the oracle sends, so that it is known again: every message and task names itself and carries its own checksum."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

MAGIC = b"oracle1"
TOPIC_ROOT = "oracle"
_DIGEST = 64  # hexadecimal digits of SHA-256


class Stream(NamedTuple):
    """Messages that are numbered together: those of one key of one edge in one run of the driver (`leg`)."""

    leg: int
    edge: str
    key: str


def topic(run: str, stream: Stream) -> str:
    """Where a stream's messages are published."""
    return f"{TOPIC_ROOT}.{run}.{stream.edge}.{stream.key}"


def topics(run: str) -> str:
    """The pattern of all topics of a run."""
    return f"{TOPIC_ROOT}.{run}.>"


def message(run: str, stream: Stream, number: int, size: int) -> bytes:
    """The payload of a message: about `size` bytes, and at least what its name and checksum take."""
    head = b" ".join([MAGIC, run.encode(), str(stream.leg).encode(), stream.edge.encode(), stream.key.encode(),
                      str(number).encode()]) + b" "  # fmt: skip
    seed = hashlib.sha256(head).hexdigest().encode()
    missing = max(size - len(head) - _DIGEST, 0)
    body = head + (seed * (missing // len(seed) + 1))[:missing]
    return body + hashlib.sha256(body).hexdigest().encode()


def read_message(payload: bytes) -> tuple[str, Stream, int] | None:
    """(run, stream, number) of a payload made by `message`; None where a byte of it is another."""
    body, digest = payload[:-_DIGEST], payload[-_DIGEST:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    magic, run, leg, edge, key, number, _ = body.split(b" ", 6)
    if magic != MAGIC:
        return None
    return run.decode(), Stream(int(leg), edge.decode(), key.decode()), int(number)


def answer(work: str) -> str:
    """What the skill must return for the work of that name."""
    return hashlib.sha256(f"{MAGIC.decode()} {work}".encode()).hexdigest()
