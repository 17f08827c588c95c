"""Dead letters stay within their bounds, and every one that was added is accounted for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from edgenode.link.model.dead_letter import ENTRY, GRANT, DeadLetter, LetterBounds
from edgenode.link.model.lanes import Lane, Rejection, Segment
from edgenode.link.model.problem import Code, Problem
from edgenode.link.store import dead_letters, logs
from edgenode.link.wire.ledger import dead_letter_line

PROBLEM = Problem(Code.INVALID_ARGUMENT, "NOT_LIKED", "no", hint="see", retry_after=2.0, metadata={"a": "b"})
WIDE = LetterBounds(100, 1 << 20)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(logs.SCHEMA + dead_letters.SCHEMA)
    yield connection
    connection.close()


def letter(size: int = 10, kind: str = ENTRY) -> DeadLetter:
    return DeadLetter(kind, "device.cpu", PROBLEM, 5.0, "message", "north", attempts=1, payload=b"x" * size)


def kept(db: sqlite3.Connection) -> list[int]:
    assert dead_letter_line(dead_letters.counts(db), dead_letters.count(db)).balanced
    return [found.number for found in dead_letters.find(db, None)]


def test_a_letter_comes_back_as_it_was(db: sqlite3.Connection) -> None:
    dead_letters.add(db, [letter(3)], WIDE)
    (found,) = dead_letters.find(db, [1])
    assert (found.problem, found.payload, found.size, found.node, found.time) == (PROBLEM, b"xxx", 3, "north", 5.0)
    assert dead_letters.page(db, 99, 10)[0].payload == b""


def test_the_oldest_go_beyond_the_count_and_beyond_the_bytes(db: sqlite3.Connection) -> None:
    dead_letters.add(db, [letter() for _ in range(5)], LetterBounds(3, 1000))
    assert kept(db) == [3, 4, 5]
    dead_letters.add(db, [letter(25)], LetterBounds(3, 50))
    assert kept(db) == [4, 5, 6]
    dead_letters.add(db, [letter(60)], LetterBounds(3, 50))
    assert kept(db) == []  # none fits beside it, nor does it
    assert dead_letters.counts(db) == {"ADDED": 7, "EVICTED": 7}


def test_a_grant_that_nobody_has_dealt_with_is_never_evicted(db: sqlite3.Connection) -> None:
    dead_letters.add(db, [letter(kind=GRANT), letter(), letter()], LetterBounds(1, 1000))
    assert kept(db) == [1]
    assert [found.number for found in dead_letters.grants(db, "north", 10)] == [1]
    assert dead_letters.grants(db, "south", 10) == []


def test_what_becomes_of_them_is_counted_and_the_reasons_are_bounded(db: sqlite3.Connection) -> None:
    dead_letters.add(db, [letter() for _ in range(50)], WIDE)
    assert dead_letters.drop(db, [1, 1, 99], dead_letters.REPLAYED) == 1
    for number in range(2, 50):
        dead_letters.drop(db, [number], f"REASON_{number}")
    assert dead_letters.drop(db, None, "REASON_2") == 1
    counts = dead_letters.counts(db)
    assert len(counts) == dead_letters.MAX_REASONS + 1
    assert (counts["REPLAYED"], counts["REASON_2"], counts[dead_letters.OTHER]) == (1, 2, 18)
    assert kept(db) == []


def test_a_segment_that_cannot_be_read_is_kept_once(db: sqlite3.Connection) -> None:
    log = logs.ensure_log(db, "out", "epoch")
    logs.append(db, log.log_id, [Segment(3, b"poison", 1.0), Segment(1, b"good", 1.0)])
    rejections = [Rejection(sequence, PROBLEM) for sequence in (1, 2, 3, 4, 9)]

    def extract(lane: Lane, payload: bytes, place: int) -> tuple[str, str, str, bytes] | None:
        return None if payload == b"poison" else (ENTRY, "topic", "", payload)

    dead_letters.add_rejected(db, Lane.MESSAGE, "out", rejections, "north", 1.0, WIDE, extract)
    found = dead_letters.find(db, None)
    assert [(one.subject, one.payload) for one in found] == [
        ("", b"poison"), ("", b""), ("", b""), ("topic", b"good"), ("", b"")
    ]  # fmt: skip
