"""What stays of acknowledged entries."""

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.link.model.lanes import Segment
from edgenode.link.store import logs
from edgenode.link.store.retention import Retention, holding


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(logs.SCHEMA)
    yield connection
    connection.close()


def make_log(db: sqlite3.Connection, *consumers: str) -> int:
    log_id = logs.ensure_log(db, "log", "e").log_id
    for name in consumers or ("parent",):
        logs.ensure_consumer(db, log_id, name, 0)
    return log_id


def append(db: sqlite3.Connection, log_id: int, count: int, accepted: float = 0.0, size: int = 10) -> None:
    logs.append(db, log_id, [Segment(1, b"x" * size, accepted)] * count)


def held(db: sqlite3.Connection) -> tuple[int, int]:
    state = logs.log_state(db, "log")
    return state.first, state.last


def trim_all(db: sqlite3.Connection, log_id: int, retention: Retention) -> None:
    while retention.trim(db, log_id):
        pass


def test_nothing_acknowledged_is_kept_unless_asked_for(db: sqlite3.Connection) -> None:
    log_id = make_log(db)
    append(db, log_id, 10)
    logs.acknowledge(db, log_id, "parent", 7)
    trim_all(db, log_id, Retention())
    assert held(db) == (8, 10)


def test_acknowledged_entries_stay_up_to_so_many_bytes_whatever_waits(db: sqlite3.Connection) -> None:
    log_id = make_log(db)
    append(db, log_id, 100)
    logs.acknowledge(db, log_id, "parent", 50)
    retention = Retention(acked_bytes=200, acked_seconds=60)
    trim_all(db, log_id, retention)
    assert held(db) == (31, 100)
    append(db, log_id, 1000)  # a backlog pushes out nothing
    trim_all(db, log_id, retention)
    assert held(db) == (31, 1100)
    logs.acknowledge(db, log_id, "parent", 1100)
    trim_all(db, log_id, retention)
    assert held(db) == (1081, 1100)


def test_acknowledged_entries_go_when_they_are_too_old(db: sqlite3.Connection) -> None:
    log_id = make_log(db)
    for time in range(10):
        append(db, log_id, 1, float(time))
    logs.acknowledge(db, log_id, "parent", 8)
    now = 10.0
    retention = Retention(acked_bytes=1000, acked_seconds=5, wall=lambda: now)
    trim_all(db, log_id, retention)
    assert held(db) == (6, 10)
    now = 100.0
    trim_all(db, log_id, retention)
    assert held(db) == (9, 10)  # what waits never grows too old


def test_the_slowest_consumer_counts(db: sqlite3.Connection) -> None:
    log_id = make_log(db, "parent", "slow")
    append(db, log_id, 20)
    logs.acknowledge(db, log_id, "parent", 20)
    logs.acknowledge(db, log_id, "slow", 4)
    retention = Retention(acked_bytes=20, acked_seconds=60)
    trim_all(db, log_id, retention)
    assert held(db) == (3, 20)
    logs.remove_consumer(db, log_id, "slow")
    trim_all(db, log_id, retention)
    assert held(db) == (19, 20)
    logs.remove_consumer(db, log_id, "parent")
    trim_all(db, log_id, retention)
    assert held(db) == (21, 20)  # nobody can come back for it


def test_a_store_that_fills_keeps_nothing_acknowledged(db: sqlite3.Connection) -> None:
    log_id = make_log(db)
    append(db, log_id, 20)
    logs.acknowledge(db, log_id, "parent", 10)
    trim_all(db, log_id, Retention(acked_bytes=1000, acked_seconds=60, scarce=lambda: True))
    assert held(db) == (11, 20)


def test_what_readers_from_the_start_may_have_is_kept_beside_it(db: sqlite3.Connection) -> None:
    log_id = make_log(db)
    append(db, log_id, 20, accepted=0.0)
    logs.acknowledge(db, log_id, "parent", 20)
    trim_all(db, log_id, Retention(keep_bytes=50, acked_bytes=1000, acked_seconds=1, wall=lambda: 100.0))
    assert held(db) == (16, 20)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 30), st.integers(0, 3)), min_size=1, max_size=30),
    st.integers(0, 120),
)
def test_the_note_of_acknowledged_bytes_is_what_is_there(steps: list[tuple[int, int, int]], acked_bytes: int) -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(logs.SCHEMA)
    log_id = make_log(db)
    retention = Retention(acked_bytes=acked_bytes, acked_seconds=3.0, wall=lambda: float(len(steps)))
    acked = 0
    for time, (count, size, more) in enumerate(steps):
        logs.append(db, log_id, [Segment(count, b"x" * size, float(time))])
        acked = min(acked + more, logs.log_state(db, "log").last)
        logs.acknowledge(db, log_id, "parent", acked)
        trim_all(db, log_id, retention)
        low = logs.row_at(log_id, 0)
        there = db.execute(
            "SELECT coalesce(sum(length(payload)), 0) FROM segment WHERE position + entry_count - 1 <= ?",
            (low + acked,),
        ).fetchone()[0]
        noted = db.execute("SELECT bytes FROM retained WHERE log_id = ?", (log_id,)).fetchone()
        assert (noted[0] if noted else 0) == there <= acked_bytes
        assert (
            logs.log_state(db, "log").held_bytes
            == db.execute("SELECT coalesce(sum(length(payload)), 0) FROM segment").fetchone()[0]
        )
    db.close()


def test_logs_that_hold_something_are_found_one_after_the_other(db: sqlite3.Connection) -> None:
    made = [logs.ensure_log(db, f"down/n{number}/task", "e").log_id for number in range(20)]
    for log_id in made[3::5]:
        append(db, log_id, 2)
    assert holding(db, 0, 10) == made[3::5]
    assert holding(db, made[3], 2) == made[8:14:5]
    assert holding(db, made[18], 10) == []
