"""Ordered logs of segments, the consumers that read them, and the cursors of logs read from others.

A log is a row with an epoch and the next sequence; its segments are rows that hold a frame's bytes unread. A number is
never used twice: the next sequence is persisted and survives the deletion of every segment. Each consumer (the link, a
durable subscription) has an acknowledged sequence; what all of them have acknowledged is trimmed.

Sequences go on from epoch to epoch; `log_epoch` says where each earlier one ended, so an entry keeps the key (epoch,
sequence) under which it was appended. A process that appends opens the log under an epoch of its own (`open_log`). That is
what keeps disks apart that were one once: of a copied or restored disk, what was there before has the keys it always had,
on every copy, and what any process appends later has a key that no other process can give. Nobody has to notice the copy.

Everything here takes a connection and runs inside somebody's transaction, so that entries, cursors and the rows they
speak of are committed together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edgenode.link.model.lanes import Chunk, EpochEnd, Lane, LaneCursor, LaneHead, Segment

SCHEMA = """
CREATE TABLE log (
    log_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    first_sequence INTEGER NOT NULL DEFAULT 1,
    next_sequence INTEGER NOT NULL DEFAULT 1,
    held_bytes INTEGER NOT NULL DEFAULT 0,
    dropped_count INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE log_epoch (
    log_id INTEGER NOT NULL REFERENCES log (log_id),
    last_sequence INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    PRIMARY KEY (log_id, last_sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE segment (
    position INTEGER PRIMARY KEY,
    entry_count INTEGER NOT NULL,
    accept_time REAL NOT NULL,
    origin_node TEXT NOT NULL,
    origin_epoch TEXT NOT NULL,
    origin_sequence INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE consumer (
    log_id INTEGER NOT NULL REFERENCES log (log_id),
    name TEXT NOT NULL,
    acked_sequence INTEGER NOT NULL,
    rejected_count INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (log_id, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE inbox_cursor (
    cursor_id INTEGER PRIMARY KEY,
    peer TEXT NOT NULL,
    lane INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    applied_count INTEGER NOT NULL DEFAULT 0,
    duplicate_count INTEGER NOT NULL DEFAULT 0,
    rejected_count INTEGER NOT NULL DEFAULT 0,
    gap_count INTEGER NOT NULL DEFAULT 0,
    UNIQUE (peer, lane, epoch)
) STRICT;
CREATE INDEX inbox_cursor_epoch ON inbox_cursor (epoch);
CREATE TABLE counter (
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (name, reason)
) STRICT, WITHOUT ROWID;
CREATE TABLE retained (
    log_id INTEGER PRIMARY KEY,
    upto_sequence INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
"""

# A segment's rowid is its log and its first sequence in one integer, so that reading a log is a range scan.
_SEQUENCE_BITS = 44

# Earlier epochs that a log remembers although it holds nothing of them any more, and cursors kept of a peer's lane.
KEPT_EPOCHS = 64


def _position(log_id: int, sequence: int) -> int:
    return log_id << _SEQUENCE_BITS | sequence


@dataclass(frozen=True, slots=True)
class LogState:
    """A log as its row says. `first` is `last` + 1 when it holds nothing."""

    log_id: int
    name: str
    epoch: str
    first: int
    last: int
    held_bytes: int
    dropped: int


def ensure_log(connection: sqlite3.Connection, name: str, new_epoch: str) -> LogState:
    """The log of that name; made with `new_epoch` if there is none."""
    connection.execute("INSERT INTO log (name, epoch) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, new_epoch))
    return log_state(connection, name)


def log_state(connection: sqlite3.Connection, name: str) -> LogState:
    """The log of that name, which must exist."""
    row = connection.execute(
        "SELECT log_id, name, epoch, first_sequence, next_sequence - 1, held_bytes, dropped_count FROM log WHERE name = ?",
        (name,),
    ).fetchone()
    return LogState(*row)


def open_log(connection: sqlite3.Connection, name: str, new_epoch: str) -> LogState:
    """The log of that name for a process that is about to append to it: made if there is none, and under a new epoch."""
    ensure_log(connection, name, new_epoch)
    return renew_epoch(connection, name, new_epoch)


def head(connection: sqlite3.Connection, name: str, lane: Lane) -> LaneHead:
    """The log of that name as the link states it."""
    state = log_state(connection, name)
    rows = connection.execute(
        "SELECT epoch, last_sequence FROM log_epoch WHERE log_id = ? ORDER BY last_sequence DESC LIMIT ?",
        (state.log_id, KEPT_EPOCHS),
    )
    return LaneHead(lane, state.epoch, state.first, state.last, tuple(EpochEnd(*row) for row in rows))


def append(connection: sqlite3.Connection, log_id: int, segments: Sequence[Segment]) -> int:
    """Append segments; returns the sequence of the first entry."""
    count = sum(segment.count for segment in segments)
    size = sum(len(segment.payload) for segment in segments)
    base: int = (
        connection.execute(
            "UPDATE log SET next_sequence = next_sequence + ?, held_bytes = held_bytes + ? WHERE log_id = ?"
            " RETURNING next_sequence",
            (count, size, log_id),
        ).fetchone()[0]
        - count
    )
    rows = []
    sequence = base
    for segment in segments:
        rows.append(
            (
                _position(log_id, sequence),
                segment.count,
                segment.accepted,
                segment.origin_node,
                segment.origin_epoch,
                segment.origin_sequence,
                segment.payload,
            )
        )
        sequence += segment.count
    connection.executemany("INSERT INTO segment VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    return base


def read(connection: sqlite3.Connection, log_id: int, after: int, max_count: int, max_bytes: int) -> Chunk:
    """Whole segments that hold entries past `after`, at least one if there is any.

    `base` is the first entry of the first segment: below `after` + 1 when `after` lies inside it, above when entries are
    gone.
    """
    start = _position(log_id, after + 1)
    # `after` may point into a segment: begin with the one that holds the next entry.
    held = connection.execute(
        "SELECT position, entry_count FROM segment WHERE position <= ? AND position >= ? ORDER BY position DESC LIMIT 1",
        (start, _position(log_id, 0)),
    ).fetchone()
    if held is not None and held[0] + held[1] > start:
        start = held[0]
    cursor = connection.execute(
        "SELECT position, entry_count, payload, accept_time, origin_node, origin_epoch, origin_sequence FROM segment"
        " WHERE position >= ? AND position < ? ORDER BY position",
        (start, _position(log_id + 1, 0)),
    )
    segments: list[Segment] = []
    base = after + 1
    count = size = 0
    for position, *fields in cursor:
        segment = Segment(*fields)
        if segments and (count + segment.count > max_count or size + len(segment.payload) > max_bytes):
            break
        if not segments:
            base = position - _position(log_id, 0)
        segments.append(segment)
        count += segment.count
        size += len(segment.payload)
    cursor.close()
    return Chunk(base, _under_their_epochs(connection, log_id, base, segments))


def _under_their_epochs(
    connection: sqlite3.Connection, log_id: int, base: int, segments: list[Segment]
) -> tuple[Segment, ...]:
    """`segments` with the origin key of those that were appended under an earlier epoch."""
    ends = connection.execute(
        "SELECT last_sequence, epoch FROM log_epoch WHERE log_id = ? AND last_sequence >= ? ORDER BY last_sequence",
        (log_id, base),
    ).fetchall()
    if not ends:
        return tuple(segments)
    keyed = []
    sequence = base
    for segment in segments:
        while ends and ends[0][0] < sequence:
            del ends[0]
        if ends and not segment.origin_epoch:
            segment = replace(segment, origin_epoch=ends[0][1], origin_sequence=sequence)
        keyed.append(segment)
        sequence += segment.count
    return tuple(keyed)


def ensure_consumer(connection: sqlite3.Connection, log_id: int, name: str, acked: int) -> int:
    """The consumer's acknowledged sequence; a new one starts at `acked`."""
    connection.execute("INSERT INTO consumer VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING", (log_id, name, acked))
    row = connection.execute(
        "SELECT acked_sequence FROM consumer WHERE log_id = ? AND name = ?", (log_id, name)
    ).fetchone()
    return int(row[0])


def remove_consumer(connection: sqlite3.Connection, log_id: int, name: str) -> bool:
    """Forget a consumer; what only it still needed can then be trimmed. Returns whether there was one."""
    return bool(connection.execute("DELETE FROM consumer WHERE log_id = ? AND name = ?", (log_id, name)).rowcount)


def acknowledge(connection: sqlite3.Connection, log_id: int, name: str, sequence: int, rejected: int = 0) -> bool:
    """Raise a consumer's acknowledged sequence; False if it stood there already or beyond, or is not known."""
    changed = connection.execute(
        "UPDATE consumer SET acked_sequence = ?, rejected_count = rejected_count + ?"
        " WHERE log_id = ? AND name = ? AND acked_sequence < ?"
        " AND ? < (SELECT next_sequence FROM log WHERE log.log_id = consumer.log_id)",
        (sequence, rejected, log_id, name, sequence, sequence),
    ).rowcount
    return changed > 0


def consumers(connection: sqlite3.Connection, log_id: int) -> dict[str, int]:
    """Acknowledged sequence by consumer."""
    return dict(connection.execute("SELECT name, acked_sequence FROM consumer WHERE log_id = ?", (log_id,)))


def trim(connection: sqlite3.Connection, log_id: int, keep_bytes: int = 0, max_segments: int = 500) -> int:
    """Delete segments that every consumer has acknowledged, oldest first, down to `keep_bytes`; returns entries deleted.

    At most `max_segments` at a time, so that no sweep holds up a commit. A log without consumers keeps `keep_bytes`.
    """
    held, next_sequence = connection.execute(
        "SELECT held_bytes, next_sequence FROM log WHERE log_id = ?", (log_id,)
    ).fetchone()
    if held <= keep_bytes:
        return 0
    lowest = connection.execute("SELECT min(acked_sequence) FROM consumer WHERE log_id = ?", (log_id,)).fetchone()[0]
    upto = next_sequence - 1 if lowest is None else lowest
    deleted = freed = 0
    last_position = None
    origin = _position(log_id, 0)
    rows = connection.execute(
        "SELECT position, entry_count, length(payload) FROM segment WHERE position >= ? AND position <= ?"
        " ORDER BY position LIMIT ?",
        (origin, origin + upto, max_segments),
    ).fetchall()
    for position, count, size in rows:
        if position - origin + count - 1 > upto or held - freed <= keep_bytes:
            break
        last_position = position
        deleted += count
        freed += size
    if last_position is None:
        return 0
    connection.execute("DELETE FROM segment WHERE position >= ? AND position <= ?", (origin, last_position))
    first = connection.execute(
        "SELECT min(position) FROM segment WHERE position >= ? AND position < ?", (origin, _position(log_id + 1, 0))
    ).fetchone()[0]
    connection.execute(
        "UPDATE log SET held_bytes = held_bytes - ?, first_sequence = ? WHERE log_id = ?",
        (freed, next_sequence if first is None else first - origin, log_id),
    )
    return deleted


def renew_epoch(connection: sqlite3.Connection, name: str, epoch: str) -> LogState:
    """Put the log under a new epoch. What it holds keeps the key of the old one, so that it is known again."""
    state = log_state(connection, name)
    if epoch == state.epoch:
        return state
    # An epoch that ends where the one before it did has no entries: nobody knows it.
    connection.execute(
        "INSERT INTO log_epoch VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (state.log_id, state.last, state.epoch)
    )
    connection.execute(
        "DELETE FROM log_epoch WHERE log_id = :log AND last_sequence < :first AND last_sequence NOT IN"
        " (SELECT last_sequence FROM log_epoch WHERE log_id = :log ORDER BY last_sequence DESC LIMIT :kept)",
        {"log": state.log_id, "first": state.first, "kept": KEPT_EPOCHS},
    )
    connection.execute("UPDATE log SET epoch = ? WHERE log_id = ?", (epoch, state.log_id))
    return log_state(connection, name)


def inbox_cursors(connection: sqlite3.Connection, peer: str) -> list[LaneCursor]:
    """For each lane of a peer the cursor that moved last."""
    rows = connection.execute(
        "SELECT lane, epoch, sequence FROM inbox_cursor WHERE cursor_id IN"
        " (SELECT max(cursor_id) FROM inbox_cursor WHERE peer = ? GROUP BY lane)",
        (peer,),
    )
    return [LaneCursor(Lane(lane), epoch, sequence) for lane, epoch, sequence in rows]


def begin(connection: sqlite3.Connection, peer: str, lane: Lane, epoch: str, base: int, gap: str) -> int | None:
    """Where the cursor of an epoch that is new here begins; None if the epoch is known.

    It may begin past 0: what the log held before went to earlier epochs. If the sender states a gap before `base`, the
    newest of those tells what had come.
    """
    key = (peer, lane)
    known = "SELECT 1 FROM inbox_cursor WHERE peer = ? AND lane = ? AND epoch = ?"
    if connection.execute(known, (*key, epoch)).fetchone() is not None:
        return None
    if not gap:
        return base - 1
    newest = "SELECT sequence FROM inbox_cursor WHERE peer = ? AND lane = ? ORDER BY cursor_id DESC LIMIT 1"
    row = connection.execute(newest, key).fetchone()
    return 0 if row is None else min(int(row[0]), base - 1)


@dataclass(frozen=True, slots=True)
class Fresh:
    """What of a batch is new: segments from `base` on, of which the first `skip` entries were applied before."""

    base: int
    skip: int
    segments: tuple[Segment, ...]


def accept(
    connection: sqlite3.Connection, peer: str, lane: Lane, epoch: str, base: int, segments: Sequence[Segment], gap: str
) -> Fresh:
    """Advance the cursor of (peer, lane, epoch) over a batch and return what of it was not applied before.

    Counts duplicates and, where the sender states a gap, the entries missing before `base`. Call it in the transaction
    that stores the entries.
    """
    start = begin(connection, peer, lane, epoch, base, gap)
    if start is not None:
        connection.execute(
            "INSERT INTO inbox_cursor (peer, lane, epoch, sequence) VALUES (?, ?, ?, ?)", (peer, lane, epoch, start)
        )
    cursor, known, newest = connection.execute(
        "SELECT cursor_id, sequence, (SELECT max(cursor_id) FROM inbox_cursor WHERE peer = :peer AND lane = :lane)"
        " FROM inbox_cursor WHERE peer = :peer AND lane = :lane AND epoch = :epoch",
        {"peer": peer, "lane": lane, "epoch": epoch},
    ).fetchone()
    if cursor != newest:  # of two copies of a disk, this one is back
        connection.execute(
            "UPDATE inbox_cursor SET cursor_id = (SELECT max(cursor_id) + 1 FROM inbox_cursor) WHERE cursor_id = ?",
            (cursor,),
        )
    fresh: list[Segment] = []
    skip = 0
    start = sequence = base
    for segment in segments:
        end = sequence + segment.count - 1
        if end > known:
            if not fresh:
                start = sequence
                skip = max(known - sequence + 1, 0)
            fresh.append(segment)
        sequence = end + 1
    total = sequence - base
    new = sum(segment.count for segment in fresh) - skip
    missing = max(base - known - 1, 0)
    connection.execute(
        "UPDATE inbox_cursor SET sequence = max(sequence, ?), applied_count = applied_count + ?,"
        " duplicate_count = duplicate_count + ?, gap_count = gap_count + ? WHERE peer = ? AND lane = ? AND epoch = ?",
        (sequence - 1, new, total - new, missing, peer, lane, epoch),
    )
    return Fresh(start, skip, tuple(fresh))


def count_rejected(connection: sqlite3.Connection, peer: str, lane: Lane, epoch: str, rejected: int) -> None:
    """Move `rejected` entries of the cursor from applied to rejected."""
    connection.execute(
        "UPDATE inbox_cursor SET applied_count = applied_count - ?, rejected_count = rejected_count + ?"
        " WHERE peer = ? AND lane = ? AND epoch = ?",
        (rejected, rejected, peer, lane, epoch),
    )


def count(connection: sqlite3.Connection, name: str, reason: str = "", by: int = 1) -> None:
    """Add to a counter of the ledger."""
    connection.execute(
        "INSERT INTO counter VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
        (name, reason, by),
    )


def counters(connection: sqlite3.Connection, name: str) -> dict[str, int]:
    """Values of a counter by reason."""
    return dict(connection.execute("SELECT reason, value FROM counter WHERE name = ?", (name,)))


def count_many(connection: sqlite3.Connection, changes: Iterable[tuple[str, str, int]]) -> None:
    """Add to several counters: (name, reason, by)."""
    connection.executemany(
        "INSERT INTO counter VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value", changes
    )
