"""Each table is damaged on purpose; what is found names the range."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from edgenode.link.model.lanes import Lane, Segment
from edgenode.link.store import audit, inbox, logs


def segments(*counts: int) -> list[Segment]:
    return [Segment(count, b"x" * count, 1.0) for count in counts]


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Log "out" holds 4-15 of 15 in four segments, "slow" has acknowledged 6; a cursor of "peer" counts 20 entries."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(logs.SCHEMA)
    log = logs.ensure_log(connection, "out", "epoch-1")
    logs.ensure_consumer(connection, log.log_id, "slow", 0)
    logs.append(connection, log.log_id, segments(3, 3, 3, 3, 3))
    logs.acknowledge(connection, log.log_id, "slow", 6, rejected=1)
    logs.trim(connection, log.log_id, keep_bytes=12)
    inbox.accept(connection, "peer", Lane.TASK, "theirs", 11, segments(20), None)
    logs.count(connection, "published", "STORED", 15)
    yield connection
    connection.close()


def walk(connection: sqlite3.Connection, step: int = 2) -> list[tuple[str, int, int]]:
    """(reason, first, last) of everything found, in steps so small that the log takes several."""
    found = audit.LogAudit("out", step)
    while not found.step(connection):
        pass
    return [(item.reason, item.first, item.last) for item in [*found.findings, *audit.check_tables(connection)]]


def test_a_sound_store_has_no_findings(db: sqlite3.Connection) -> None:
    for step in (1, 2, 3, 4, 100):
        assert walk(db, step) == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM segment WHERE entry_count = 3 AND position % 16 = 7", [("HOLE", 7, 9), ("WRONG_BYTES", 4, 15)]),
        ("DELETE FROM segment WHERE position % 16 = 13", [("HOLE", 13, 15), ("WRONG_BYTES", 4, 15)]),
        ("DELETE FROM segment WHERE position % 16 = 4", [("HOLE", 4, 6), ("WRONG_BYTES", 4, 15)]),
        ("UPDATE segment SET entry_count = 5 WHERE position % 16 = 7", [("DAMAGED", 7, 11), ("OVERLAP", 10, 11)]),
        ("UPDATE segment SET entry_count = 2 WHERE position % 16 = 7", [("DAMAGED", 7, 8), ("HOLE", 9, 9)]),
        (
            "UPDATE segment SET entry_count = 0 WHERE position % 16 = 13",
            [("WRONG_COUNT", 13, 13), ("DAMAGED", 13, 13), ("HOLE", 13, 15)],
        ),
        ("UPDATE segment SET payload = x'00' WHERE position % 16 = 10", [("DAMAGED", 10, 12), ("WRONG_BYTES", 4, 15)]),
        ("UPDATE segment SET payload = x'787879' WHERE position % 16 = 10", [("DAMAGED", 10, 12)]),
        ("UPDATE segment SET origin_node = 'other' WHERE position % 16 = 4", [("DAMAGED", 4, 6)]),
        ("UPDATE log SET first_sequence = 10", [("OUT_OF_BOUNDS", 4, 9), ("WRONG_BYTES", 10, 15), ("NOT_HELD", 7, 9)]),
        ("UPDATE log SET next_sequence = 13", [("OUT_OF_BOUNDS", 13, 15)]),
        ("UPDATE log SET next_sequence = 18", [("HOLE", 16, 17)]),
        ("UPDATE log SET held_bytes = held_bytes + 1", [("WRONG_BYTES", 4, 15)]),
        ("UPDATE log SET disk_bytes = disk_bytes + 1", [("WRONG_BYTES", 4, 15)]),
        ("UPDATE consumer SET acked_sequence = 20", [("CURSOR_AHEAD", 16, 20)]),
        ("UPDATE consumer SET acked_sequence = 1", [("NOT_HELD", 2, 3)]),
        ("UPDATE consumer SET rejected_count = 7", [("WRONG_COUNT", 1, 6)]),
        ("UPDATE inbox_cursor SET applied_count = 18", [("WRONG_COUNT", 29, 30)]),
        ("UPDATE inbox_cursor SET sequence = 35", [("WRONG_COUNT", 31, 35)]),
        ("UPDATE counter SET value = -1", [("WRONG_COUNT", 0, 0)]),
        ("INSERT INTO segment VALUES ((3 << 44) + 9, 1, 0, '', '', 0, 0, x'')", [("STRAY", 9, 9)]),
    ],
)  # fmt: skip
def test_damage_is_found_and_the_range_named(
    db: sqlite3.Connection, damage: str, found: list[tuple[str, int, int]]
) -> None:
    assert db.execute(damage).rowcount == 1
    assert walk(db) == found
    assert walk(db, 100) == found


def test_what_is_appended_and_trimmed_during_the_walk_is_no_finding(db: sqlite3.Connection) -> None:
    log = logs.log_state(db, "out")
    walked = audit.LogAudit("out", 1)
    assert not walked.step(db)  # 4-6
    assert not walked.step(db)  # 7-9
    logs.acknowledge(db, log.log_id, "slow", 12)
    logs.trim(db, log.log_id, keep_bytes=3)  # ahead of the walk as well
    logs.append(db, log.log_id, segments(4, 4))
    while not walked.step(db):
        logs.append(db, log.log_id, segments(1)) if logs.log_state(db, "out").last < 25 else None
    assert walked.findings == []


def test_half_of_a_block_that_was_walked_is_trimmed(db: sqlite3.Connection) -> None:
    log = logs.log_state(db, "out")
    walked = audit.LogAudit("out", 3)
    assert not walked.step(db)  # 4-12
    logs.acknowledge(db, log.log_id, "slow", 9)
    logs.trim(db, log.log_id, keep_bytes=6)
    assert logs.log_state(db, "out").first == 10
    assert walked.step(db)
    assert walked.findings == []


def test_an_emptied_log_is_sound(db: sqlite3.Connection) -> None:
    log = logs.log_state(db, "out")
    logs.acknowledge(db, log.log_id, "slow", 15)
    assert logs.trim(db, log.log_id)[0] == 12
    assert walk(db) == []


def test_what_is_noted_as_lost_is_no_finding(db: sqlite3.Connection) -> None:
    log = logs.log_state(db, "out")
    logs.lose(db, logs.SegmentDamaged(log.log_id, 7, 9))
    assert walk(db) == []
    logs.lose(db, logs.SegmentDamaged(log.log_id, 13, 15))
    assert walk(db) == []
    db.execute("DELETE FROM segment WHERE position % 16 = 10")
    assert ("HOLE", 10, 12) in walk(db)
