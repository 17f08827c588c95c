import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.link.model.lanes import EpochEnd, Gap, Lane, LaneCursor, LaneHead, Segment
from edgenode.link.protocol.lanes import resume_point
from edgenode.link.store import audit, inbox, logs
from edgenode.link.store.readers import readers
from edgenode.link.wire.ledger import reader_line


def connect() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(logs.SCHEMA)
    return connection


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = connect()
    yield connection
    connection.close()


def segment(count: int, fill: bytes = b"x") -> Segment:
    return Segment(count, fill * count, accepted=1.0)


def test_sequences_are_never_reused(db: sqlite3.Connection) -> None:
    log = logs.ensure_log(db, "up/message", "e1")
    assert logs.append(db, log.log_id, [segment(3), segment(2)]) == 1
    logs.ensure_consumer(db, log.log_id, "parent", 0)
    assert logs.acknowledge(db, log.log_id, "parent", 5)
    assert logs.trim(db, log.log_id) == (5, 2)
    state = logs.log_state(db, "up/message")
    assert (state.first, state.last, state.held_bytes) == (6, 5, 0)
    assert logs.append(db, log.log_id, [segment(1)]) == 6
    assert logs.ensure_log(db, "up/message", "e2").epoch == "e1"


def test_read_starts_inside_a_segment_and_obeys_bounds(db: sqlite3.Connection) -> None:
    other = logs.ensure_log(db, "other", "e").log_id
    log = logs.ensure_log(db, "log", "e").log_id
    logs.append(db, other, [segment(10)])
    logs.append(db, log, [segment(4), segment(4), segment(4)])
    chunk = logs.read(db, log, 5, 100, 1000)
    assert (chunk.base, chunk.end) == (5, 12)
    assert logs.read(db, log, 0, 5, 1000).end == 4
    assert logs.read(db, log, 0, 100, 1).end == 4
    assert logs.read(db, log, 12, 100, 1000).segments == ()
    assert logs.read(db, other, 10, 100, 1000).segments == ()
    assert logs.read(db, other, 0, 100, 1000).end == 10


def test_of_large_segments_no_more_rows_are_loaded_than_fit(db: sqlite3.Connection) -> None:
    log = logs.ensure_log(db, "log", "e").log_id
    logs.append(db, log, [segment(400), segment(400), segment(10), segment(10), segment(400)])
    asked: list[str] = []
    db.set_trace_callback(asked.append)

    def read(after: int, max_bytes: int) -> tuple[int, str]:
        asked.clear()
        end = logs.read(db, log, after, 10_000, max_bytes).end
        (statement,) = (text for text in asked if "payload FROM" in text)
        return end, statement.rpartition(" ")[2]

    assert read(0, 500) == (400, "1")
    assert read(100, 300) == (400, "1"), "one goes in any case"
    assert read(0, 900) == (800, "2")
    assert read(400, 900) == (810, "2"), "what is smaller than the first waits for the next read"
    assert read(800, 900) == (1220, "-1"), "many small ones are bounded by what they are"


def test_trim_waits_for_the_slowest_consumer(db: sqlite3.Connection) -> None:
    log = logs.ensure_log(db, "log", "e").log_id
    logs.append(db, log, [segment(4), segment(4)])
    logs.ensure_consumer(db, log, "fast", 0)
    logs.ensure_consumer(db, log, "slow", 0)
    logs.acknowledge(db, log, "fast", 8)
    assert logs.trim(db, log) == (0, 0)
    logs.acknowledge(db, log, "slow", 5)
    assert logs.trim(db, log) == (4, 1)
    assert not logs.acknowledge(db, log, "slow", 5)
    assert not logs.acknowledge(db, log, "slow", 99)
    assert logs.remove_consumer(db, log, "slow")
    assert logs.trim(db, log, keep_bytes=4) == (0, 0)
    assert logs.trim(db, log) == (4, 1)


@pytest.mark.parametrize("acked", [10, 12, 15, 16])
def test_what_was_lost_counts_once_though_part_of_it_was_acknowledged_and_trimmed(
    db: sqlite3.Connection, acked: int
) -> None:
    """The other end had got some of what a damaged store lost."""
    log_id = logs.ensure_log(db, "log", "e").log_id
    logs.ensure_consumer(db, log_id, "reader", 0)
    logs.append(db, log_id, [segment(10)])
    db.execute("UPDATE log SET next_sequence = 16 WHERE log_id = ?", (log_id,))
    logs.note_lost(db, log_id, 11, 15)
    logs.append(db, log_id, [segment(4)])
    logs.acknowledge(db, log_id, "reader", acked)
    logs.trim(db, log_id)
    (reader,) = readers(db, log_id)
    line = reader_line(
        "hop",
        "peer",
        start=reader.start,
        last=19,
        acked=reader.acked,
        held=reader.held,
        lost=reader.lost,
        lost_ahead=reader.lost_ahead,
    )
    assert line.balanced, (line, reader)
    found = audit.LogAudit("log", 2)
    while not found.step(db):
        pass
    assert not found.findings
    assert (line.pending_count, line.dropped_counts["DAMAGED"]) == (19 - max(acked, 15), 5)


def test_new_epoch_keeps_the_origin(db: sqlite3.Connection) -> None:
    log = logs.ensure_log(db, "log", "old").log_id
    logs.append(db, log, [segment(2), segment(3)])
    state = logs.renew_epoch(db, "log", "new")
    assert (state.epoch, state.first, state.last) == ("new", 1, 5)
    held = logs.read(db, log, 0, 100, 1000).segments
    assert [(s.origin_epoch, s.origin_sequence) for s in held] == [("old", 1), ("old", 3)]


def test_each_process_appends_under_an_epoch_of_its_own(db: sqlite3.Connection) -> None:
    for epoch, counts in (("boot-1", [2, 3]), ("boot-2", []), ("boot-3", [1])):
        log = logs.open_log(db, "log", epoch).log_id
        logs.append(db, log, [segment(count) for count in counts])
    head = logs.head(db, "log", Lane.TASK)
    assert (head.epoch, head.first, head.last) == ("boot-3", 1, 6)
    assert [(end.epoch, end.last) for end in head.earlier] == [("boot-2", 5), ("boot-1", 5)]
    read = logs.read(db, log, 2, 100, 1000)
    assert [(s.origin_epoch, s.origin_sequence) for s in read.segments] == [("boot-1", 3), ("", 0)]


def test_earlier_epochs_are_kept_while_something_of_them_is_held_and_a_while_longer(db: sqlite3.Connection) -> None:
    held = logs.KEPT_EPOCHS + 10
    for number in range(held):
        log = logs.open_log(db, "log", f"boot-{number}").log_id
        logs.append(db, log, [segment(1)])
    assert logs.read(db, log, 0, 1000, 10_000).segments[0].origin_epoch == "boot-0"
    logs.ensure_consumer(db, log, "parent", 0)
    logs.acknowledge(db, log, "parent", held)
    logs.trim(db, log)
    logs.open_log(db, "log", "last")
    (count,) = db.execute("SELECT count(*) FROM log_epoch").fetchone()
    assert count == len(logs.head(db, "log", Lane.TASK).earlier) == logs.KEPT_EPOCHS


def test_a_cursor_under_an_epoch_that_nothing_was_appended_under_counts(db: sqlite3.Connection) -> None:
    """A process that only passed on what it found, and died: whoever took it knows it by that process's epoch."""
    log = logs.open_log(db, "log", "boot-1").log_id
    logs.append(db, log, [segment(5)])
    for epoch in ("boot-2", "boot-3"):
        logs.open_log(db, "log", epoch)
    assert resume_point(logs.head(db, "log", Lane.TASK), LaneCursor(Lane.TASK, "boot-2", 4)) == 4
    assert {s.origin_epoch for s in logs.read(db, log, 0, 100, 1000).segments} == {"boot-1"}


def test_processes_that_append_nothing_leave_a_bounded_trace(db: sqlite3.Connection) -> None:
    log = logs.open_log(db, "log", "first").log_id
    logs.append(db, log, [segment(5)])
    for number in range(3 * logs.KEPT_EPOCHS):
        logs.open_log(db, "log", f"boot-{number}")
    (count,) = db.execute("SELECT count(*) FROM log_epoch").fetchone()
    assert count == logs.KEPT_EPOCHS + 1
    assert {s.origin_epoch for s in logs.read(db, log, 0, 100, 1000).segments} == {"first"}


def test_the_cursor_of_a_disk_that_is_back_counts_again(db: sqlite3.Connection) -> None:
    inbox.accept(db, "north", Lane.TASK, "original", 1, [segment(4)], None)
    inbox.accept(db, "north", Lane.TASK, "copy", 3, [segment(9)], None)
    assert [(c.epoch, c.sequence) for c in inbox.inbox_cursors(db, "north")] == [("copy", 11)]
    inbox.accept(db, "north", Lane.TASK, "original", 5, [segment(1)], None)
    assert [(c.epoch, c.sequence) for c in inbox.inbox_cursors(db, "north")] == [("original", 5)]


def test_cursors_of_many_processes_are_bounded_and_still_add_up(db: sqlite3.Connection) -> None:
    total = inbox.KEPT_CURSORS + 20
    for number in range(total):
        inbox.accept(db, "north", Lane.TASK, f"boot-{number}", 1 + 3 * number, [segment(3)], None)
    rows = db.execute(
        "SELECT count(*), sum(applied_count), sum(sequence - start_sequence), min(start_sequence) FROM inbox_cursor"
    ).fetchone()
    assert rows == (inbox.KEPT_CURSORS, 3 * total, 3 * total, 0)
    assert [(c.epoch, c.sequence) for c in inbox.inbox_cursors(db, "north")] == [(f"boot-{total - 1}", 3 * total)]


def test_of_copies_of_a_disk_each_goes_on_behind_what_was_applied_of_its_own_log(db: sqlite3.Connection) -> None:
    inbox.accept(db, "north", Lane.TASK, "common", 1, [segment(4)], None)
    inbox.accept(db, "north", Lane.TASK, "copy", 5, [segment(30)], None)
    head = LaneHead(Lane.TASK, "original", 1, 9, (EpochEnd("common", 6),))
    (cursor,) = inbox.inbox_cursors(db, "north", [head])
    assert resume_point(head, cursor) == 4
    inbox.accept(db, "north", Lane.TASK, "original", 8, [segment(2)], Gap("DAMAGED", resume_point(head, cursor)))
    assert db.execute("SELECT gap_count FROM inbox_cursor WHERE epoch = 'original'").fetchone() == (3,)
    stranger = LaneHead(Lane.TASK, "anew", 1, 9)
    assert [cursor.epoch for cursor in inbox.inbox_cursors(db, "north", [stranger])] == ["original"]


def test_a_gap_in_an_epoch_that_is_new_counts_from_what_came_before(db: sqlite3.Connection) -> None:
    inbox.accept(db, "north", Lane.TASK, "boot-1", 1, [segment(4)], None)
    inbox.accept(db, "north", Lane.TASK, "boot-2", 8, [segment(1)], Gap("RETENTION", 4))
    assert db.execute("SELECT gap_count FROM inbox_cursor WHERE epoch = 'boot-2'").fetchone() == (3,)


def test_gap_is_counted_when_stated(db: sqlite3.Connection) -> None:
    fresh = inbox.accept(db, "north", Lane.TASK, "e", 7, [segment(2)], Gap("RETENTION", 0))
    assert (fresh.base, fresh.skip) == (7, 0)
    assert db.execute("SELECT sequence, applied_count, gap_count FROM inbox_cursor").fetchone() == (8, 2, 6)
    inbox.accept(db, "north", Lane.TASK, "e2", 9, [segment(1)], None)
    assert db.execute("SELECT gap_count FROM inbox_cursor WHERE epoch = 'e2'").fetchone() == (0,)
    assert [(c.epoch, c.sequence) for c in inbox.inbox_cursors(db, "north")] == [("e2", 9)]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 3)), max_size=30))
def test_every_entry_is_accepted_once_whatever_is_resent(resends: list[tuple[int, int]]) -> None:
    """The sender goes back by any number of segments; each entry is still taken once, in order."""
    db = connect()
    sizes = [1, 3, 2, 5, 1, 4, 2, 2, 3]
    bases = [1 + sum(sizes[:i]) for i in range(len(sizes))]
    taken: list[int] = []
    known = 0
    for start, length in [*resends, *((i, 1) for i in range(len(sizes)))]:
        start = min(start, known)
        part = [segment(n) for n in sizes[start : start + length]]
        if not part:
            continue
        fresh = inbox.accept(db, "p", Lane.MESSAGE, "e", bases[start], part, None)
        sequence = fresh.base + fresh.skip
        taken.extend(range(sequence, fresh.base + sum(s.count for s in fresh.segments)))
        known = max(known, start + len(part))
    assert taken == list(range(1, sum(sizes) + 1))
    db.close()


def test_a_log_whose_epoch_nobody_knows_any_more_remembers_none(db: sqlite3.Connection) -> None:
    """Its row was lost with a damaged store. A greeting that named the empty epoch would be refused for good."""
    log = logs.ensure_log(db, "up/message", "")
    logs.append(db, log.log_id, [segment(3)])
    logs.open_log(db, "up/message", "e1")
    assert logs.head(db, "up/message", Lane.MESSAGE).earlier == ()
    logs.open_log(db, "up/message", "e2")
    assert [end.epoch for end in logs.head(db, "up/message", Lane.MESSAGE).earlier] == ["e1"]


def test_damage_that_is_remembered_does_not_keep_the_file_open(tmp_path: Path) -> None:
    first = sqlite3.connect(tmp_path / "store", isolation_level=None)
    first.execute("PRAGMA locking_mode = EXCLUSIVE")
    first.execute("PRAGMA journal_mode = WAL")
    first.executescript(logs.SCHEMA)
    log = logs.ensure_log(first, "up/message", "e1")
    logs.append(first, log.log_id, [segment(3), segment(3)])
    first.execute("UPDATE segment SET payload = x'00'")
    with pytest.raises(logs.SegmentDamaged) as remembered:
        logs.read(first, log.log_id, 0, 10, 1 << 20)
    first.close()
    second = sqlite3.connect(tmp_path / "store", isolation_level=None, timeout=0)
    second.execute("BEGIN IMMEDIATE")
    second.close()
    assert remembered.value.first == 1
