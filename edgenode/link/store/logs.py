"""Ordered logs of segments and the consumers that read them; the tables of both ends, counters among them.

A log is a row with an epoch and the next sequence; its segments are rows that hold a frame's bytes unread. A number is
never used twice: the next sequence is persisted and survives the deletion of every segment. Each consumer (the link, a
durable subscription) has an acknowledged sequence; what all of them have acknowledged is trimmed.

Sequences go on from epoch to epoch; `log_epoch` says where each earlier one ended, so an entry keeps the key (epoch,
sequence) under which it was appended. A process that appends opens the log under an epoch of its own (`open_log`). That is
what keeps disks apart that were one once: of a copied or restored disk, what was there before has the keys it always had,
on every copy, and what any process appends later has a key that no other process can give. Nobody has to notice the copy.

SQLite does not notice a flipped bit in a page that still has the form of one. So a segment carries a checksum over its
bytes, its place and its origin, written with it and compared by every read; `SegmentDamaged` names the entries that are not
what they were, and so it does where entries are missing that nobody deleted. Entries that are lost for good are noted as
ranges with a reason: readers find a hole there, and the ledger counts them.

Everything here takes a connection and runs inside somebody's transaction, so that entries, cursors and the rows they
speak of are committed together.

What the ledger needs stands beside what it counts: a consumer knows where it began, and every entry between there and where
it stands was delivered, rejected, or passed over for a reason that has a count. `inbox` has the other end's cursors.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgenode.link.errors import DataLoss
from edgenode.link.model.lanes import Chunk, EpochEnd, Lane, LaneHead, Segment

SCHEMA = """
CREATE TABLE log (
    log_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    first_sequence INTEGER NOT NULL DEFAULT 1,
    next_sequence INTEGER NOT NULL DEFAULT 1,
    held_bytes INTEGER NOT NULL DEFAULT 0,
    disk_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE log_epoch (
    epoch_number INTEGER PRIMARY KEY AUTOINCREMENT,
    log_id INTEGER NOT NULL REFERENCES log (log_id),
    last_sequence INTEGER NOT NULL,
    epoch TEXT NOT NULL
) STRICT;
CREATE INDEX log_epoch_end ON log_epoch (log_id, last_sequence, epoch_number);
CREATE TABLE segment (
    position INTEGER PRIMARY KEY,
    entry_count INTEGER NOT NULL,
    accept_time REAL NOT NULL,
    origin_node TEXT NOT NULL,
    origin_epoch TEXT NOT NULL,
    origin_sequence INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE lost_range (
    log_id INTEGER NOT NULL REFERENCES log (log_id),
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (log_id, first_sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE consumer (
    log_id INTEGER NOT NULL REFERENCES log (log_id),
    name TEXT NOT NULL,
    start_sequence INTEGER NOT NULL,
    acked_sequence INTEGER NOT NULL,
    rejected_count INTEGER NOT NULL DEFAULT 0,
    lost_count INTEGER NOT NULL DEFAULT 0,
    skipped_count INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (log_id, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE inbox_cursor (
    cursor_id INTEGER PRIMARY KEY,
    peer TEXT NOT NULL,
    lane INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    start_sequence INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    applied_count INTEGER NOT NULL DEFAULT 0,
    duplicate_count INTEGER NOT NULL DEFAULT 0,
    rejected_count INTEGER NOT NULL DEFAULT 0,
    gap_count INTEGER NOT NULL DEFAULT 0,
    known_count INTEGER NOT NULL DEFAULT 0,
    UNIQUE (peer, lane, epoch)
) STRICT;
CREATE INDEX inbox_cursor_epoch ON inbox_cursor (epoch);
CREATE INDEX inbox_cursor_order ON inbox_cursor (peer, lane);
CREATE TABLE rejection (
    cursor_id INTEGER NOT NULL REFERENCES inbox_cursor (cursor_id) ON UPDATE CASCADE ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    problem BLOB NOT NULL,
    PRIMARY KEY (cursor_id, sequence)
) STRICT, WITHOUT ROWID;
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
LAST_LOG = (1 << 63 - _SEQUENCE_BITS) - 2
DAMAGED = "DAMAGED"  # reason of entries whose bytes are not what was stored
_PAGE_BYTES = 4096
_ROW_BYTES = 64

# Earlier epochs that a log remembers although it holds nothing of them any more, and cursors kept of a peer's lane.
KEPT_EPOCHS = 64


def row_at(log_id: int, sequence: int) -> int:
    """Where a log's segment that begins at `sequence` has its row."""
    return log_id << _SEQUENCE_BITS | sequence


def row_place(row: int) -> tuple[int, int]:
    """(log, sequence) of a row."""
    return row >> _SEQUENCE_BITS, row & (1 << _SEQUENCE_BITS) - 1


def lane_name(number: int) -> str:
    """A lane's name, or its number where none has it."""
    return Lane(number).name.lower() if number in Lane.__members__.values() else f"lane {number}"


def disk_bytes(size: int) -> int:
    """What a segment with `size` bytes of payload takes of the file, about; large ones take whole pages."""
    row = size + _ROW_BYTES
    return row + row // 8 if row < _PAGE_BYTES // 4 else -(-row // _PAGE_BYTES) * _PAGE_BYTES


class SegmentDamaged(DataLoss):
    """Entries `first` to `last` of a log are not what was stored, or are not there at all."""

    def __init__(self, log_id: int, first: int, last: int) -> None:
        super().__init__(
            "SEGMENT_DAMAGED",
            f"entries {first} to {last} of log {log_id} are not what was stored",
            hint="the disk changed what was written to it: check it",
            log_id=log_id,
            first_sequence=first,
            last_sequence=last,
        )
        self.log_id, self.first, self.last = log_id, first, last


def segment_checksum(facts: Sequence[Any], payload: bytes) -> int:
    """Over a row of `segment`; `facts` are the columns before the checksum."""
    position, count, accepted, node, epoch, sequence = facts
    head = f"{position} {count} {float(accepted)!r} {node} {epoch} {sequence}"
    return zlib.crc32(payload, zlib.crc32(head.encode()))


_FACTS = ("position", "entry_count", "accept_time", "origin_node", "origin_epoch", "origin_sequence")


def is_whole(row: Mapping[str, Any]) -> bool:
    """Whether a row of `segment`, by column, is what was stored."""
    try:
        return bool(segment_checksum([row[name] for name in _FACTS], row["payload"]) == row["checksum"])
    except (TypeError, ValueError):  # not even of the type it was
        return False


@dataclass(frozen=True, slots=True)
class LogState:
    """A log as its row says. `first` is `last` + 1 when it holds nothing."""

    log_id: int
    name: str
    epoch: str
    first: int
    last: int
    held_bytes: int  # of payloads
    disk_bytes: int  # what they take of the file, about


def ensure_log(connection: sqlite3.Connection, name: str, new_epoch: str) -> LogState:
    """The log of that name; made with `new_epoch` if there is none."""
    connection.execute("INSERT INTO log (name, epoch) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, new_epoch))
    return log_state(connection, name)


def log_state(connection: sqlite3.Connection, name: str) -> LogState:
    """The log of that name, which must exist."""
    row = connection.execute(
        "SELECT log_id, name, epoch, first_sequence, next_sequence - 1, held_bytes, disk_bytes FROM log WHERE name = ?",
        (name,),
    ).fetchone()
    return LogState(*row)


def disk_bytes_of(connection: sqlite3.Connection, name: str) -> int:
    """What the log of that name takes of the file, about; 0 if there is none."""
    row = connection.execute("SELECT disk_bytes FROM log WHERE name = ?", (name,)).fetchone()
    return 0 if row is None else int(row[0])


def open_log(connection: sqlite3.Connection, name: str, new_epoch: str) -> LogState:
    """The log of that name for a process that is about to append to it: made if there is none, and under a new epoch."""
    ensure_log(connection, name, new_epoch)
    return renew_epoch(connection, name, new_epoch)


def head(connection: sqlite3.Connection, name: str, lane: Lane) -> LaneHead:
    """The log of that name as the link states it."""
    state = log_state(connection, name)
    rows = connection.execute(
        "SELECT epoch, last_sequence FROM log_epoch WHERE log_id = ? ORDER BY last_sequence DESC, epoch_number DESC LIMIT ?",
        (state.log_id, KEPT_EPOCHS),
    )
    return LaneHead(lane, state.epoch, state.first, state.last, tuple(EpochEnd(*row) for row in rows))


def append(connection: sqlite3.Connection, log_id: int, segments: Sequence[Segment]) -> int:
    """Append segments; returns the sequence of the first entry."""
    count = sum(segment.count for segment in segments)
    size = sum(len(segment.payload) for segment in segments)
    taken = sum(disk_bytes(len(segment.payload)) for segment in segments)
    base: int = (
        connection.execute(
            "UPDATE log SET next_sequence = next_sequence + ?, held_bytes = held_bytes + ?, disk_bytes = disk_bytes + ?"
            " WHERE log_id = ? RETURNING next_sequence",
            (count, size, taken, log_id),
        ).fetchone()[0]
        - count
    )
    rows = []
    sequence = base
    for segment in segments:
        facts = (
            row_at(log_id, sequence),
            segment.count,
            segment.accepted,
            segment.origin_node,
            segment.origin_epoch,
            segment.origin_sequence,
        )
        rows.append((*facts, segment_checksum(facts, segment.payload), segment.payload))
        sequence += segment.count
    try:
        connection.executemany("INSERT INTO segment VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    except sqlite3.IntegrityError as error:
        raise DataLoss(
            "STATE_DAMAGED", f"log {log_id} holds entries at {base} already, where it ends", hint="restore a backup"
        ) from error
    return base


def read(connection: sqlite3.Connection, log_id: int, after: int, max_count: int, max_bytes: int) -> Chunk:
    """Whole segments that hold entries past `after`, at least one if there is any, up to the first hole.

    `base` is the first entry of the first segment: below `after` + 1 when `after` lies inside it, above when entries are
    gone. Raises SegmentDamaged where the next entries do not match their checksum, or are missing and nobody knows why.
    """
    origin = row_at(log_id, 0)
    start = origin + after + 1
    # `after` may point into a segment: begin with the one that holds the next entry.
    held = connection.execute(
        "SELECT position, entry_count, length(payload) FROM segment WHERE position <= ? AND position >= ?"
        " ORDER BY position DESC LIMIT 1",
        (start, origin),
    ).fetchone()
    most = -1
    if held is not None and held[0] + held[1] > start:
        start, _, size = held
        # SQLite has loaded a row before it is seen to be one too many: half of all work, where one fits.
        most = max(max_bytes // size, 1) if size and size > max_bytes // 8 else -1
    cursor = connection.execute(
        "SELECT position, entry_count, accept_time, origin_node, origin_epoch, origin_sequence, checksum, payload"
        " FROM segment WHERE position >= ? AND position < ? ORDER BY position LIMIT ?",
        (start, row_at(log_id + 1, 0), most),
    )
    segments: list[Segment] = []
    base = following = after + 1
    count = size = 0
    try:
        for *facts, checksum, payload in cursor:
            sequence = facts[0] - origin
            if segments and (sequence != following or count + facts[1] > max_count or size + len(payload) > max_bytes):
                break
            if segment_checksum(facts, payload) != checksum:
                if segments:
                    break  # what is whole goes first
                if sequence > following:
                    _check_hole(connection, log_id, following)
                raise SegmentDamaged(log_id, sequence, _end_of_hole(connection, log_id, sequence))
            if not segments:
                base = sequence
            segments.append(Segment(facts[1], payload, *facts[2:]))
            following = sequence + facts[1]
            count += facts[1]
            size += len(payload)
    finally:  # what is raised remembers the cursor, and an open one keeps the file from being opened anew
        cursor.close()
    if not segments or base > after + 1:
        _check_hole(connection, log_id, after + 1)
    return Chunk(base, _under_their_epochs(connection, log_id, base, segments))


def find(connection: sqlite3.Connection, log_id: int, sequence: int) -> tuple[int, Segment] | None:
    """(sequence of its first entry, segment) of the segment that holds an entry; None where it is gone or damaged."""
    try:
        chunk = read(connection, log_id, sequence - 1, 1, 1)
    except SegmentDamaged:
        return None
    return (chunk.base, chunk.segments[0]) if chunk.segments and chunk.base <= sequence else None


def oldest(connection: sqlite3.Connection, log_id: int, after: int) -> float | None:
    """When the first segment that is held past `after` was accepted, wall clock in seconds."""
    row = connection.execute(
        "SELECT accept_time FROM segment WHERE position > ? AND position < ? ORDER BY position LIMIT 1",
        (row_at(log_id, after), row_at(log_id + 1, 0)),
    ).fetchone()
    return None if row is None else float(row[0])


def payload_bytes(connection: sqlite3.Connection, log_id: int, after: int) -> int:
    """Bytes of the segments that begin past `after`."""
    return int(
        connection.execute(
            "SELECT coalesce(sum(length(payload)), 0) FROM segment WHERE position > ? AND position < ?",
            (row_at(log_id, after), row_at(log_id + 1, 0)),
        ).fetchone()[0]
    )


def _end_of_hole(connection: sqlite3.Connection, log_id: int, sequence: int) -> int:
    """Up to where entries from `sequence` on are gone, whatever the row there says."""
    following = connection.execute(
        "SELECT min(position) FROM segment WHERE position > ? AND position < ?",
        (row_at(log_id, sequence), row_at(log_id + 1, 0)),
    ).fetchone()[0]
    if following is not None:
        return int(following) - row_at(log_id, 0) - 1
    return int(connection.execute("SELECT next_sequence - 1 FROM log WHERE log_id = ?", (log_id,)).fetchone()[0])


def _check_hole(connection: sqlite3.Connection, log_id: int, sequence: int) -> None:
    """Entries from `sequence` on are not there: they are still to come, were trimmed, are noted as lost, or are damage."""
    first, following = connection.execute(
        "SELECT first_sequence, next_sequence FROM log WHERE log_id = ?", (log_id,)
    ).fetchone()
    while first <= sequence < following:
        noted = connection.execute(
            "SELECT last_sequence FROM lost_range WHERE log_id = ? AND first_sequence <= ? AND last_sequence >= ?",
            (log_id, sequence, sequence),
        ).fetchone()
        end = _end_of_hole(connection, log_id, sequence - 1)
        if noted is None:
            if end < sequence:
                return
            raise SegmentDamaged(log_id, sequence, end)
        sequence = noted[0] + 1


def _under_their_epochs(
    connection: sqlite3.Connection, log_id: int, base: int, segments: list[Segment]
) -> tuple[Segment, ...]:
    """`segments` with the origin key of those that were appended under an earlier epoch."""
    ends = connection.execute(
        "SELECT last_sequence, epoch FROM log_epoch WHERE log_id = ? AND last_sequence >= ?"
        " ORDER BY last_sequence, epoch_number",
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


def lose(connection: sqlite3.Connection, damaged: SegmentDamaged) -> int:
    """Give up what is damaged: it is deleted if it is there, and noted as lost. Returns how many entries that newly are."""
    noted = note_lost(connection, damaged.log_id, damaged.first, damaged.last)
    if noted:
        bounds = (row_at(damaged.log_id, damaged.first), row_at(damaged.log_id, damaged.last))
        connection.execute("DELETE FROM segment WHERE position BETWEEN ? AND ?", bounds)
        weigh(connection, damaged.log_id)
    return noted


def note_lost(connection: sqlite3.Connection, log_id: int, first: int, last: int) -> int:
    """Note entries as lost; a consumer that had not acknowledged them has lost them. Returns how many newly are."""
    if not connection.execute(
        "INSERT INTO lost_range VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (log_id, first, last, DAMAGED)
    ).rowcount:
        return 0
    connection.execute(
        "UPDATE consumer SET lost_count = lost_count + :last - max(acked_sequence, :first - 1)"
        " WHERE log_id = :log AND acked_sequence < :last",
        {"log": log_id, "first": first, "last": last},
    )
    return last - first + 1


def weigh(connection: sqlite3.Connection, log_id: int) -> None:
    """Count anew what a log holds, after something went that nobody took: every segment is looked at."""
    low, high = row_at(log_id, 0), row_at(log_id + 1, 0)
    held = disk = 0
    for (size,) in connection.execute(
        "SELECT length(payload) FROM segment WHERE position >= ? AND position < ?", (low, high)
    ):
        held += size
        disk += disk_bytes(size)
    connection.execute("UPDATE log SET held_bytes = ?, disk_bytes = ? WHERE log_id = ?", (held, disk, log_id))


def lost(connection: sqlite3.Connection, log_id: int, after: int = 0) -> int:
    """How many entries past `after` are noted as lost."""
    return int(
        connection.execute(
            "SELECT coalesce(sum(last_sequence - max(first_sequence, ? + 1) + 1), 0) FROM lost_range"
            " WHERE log_id = ? AND last_sequence > ?",
            (after, log_id, after),
        ).fetchone()[0]
    )


def why_missing(connection: sqlite3.Connection, log_id: int, sequence: int) -> str:
    """Why an entry that is behind the log's end is not there."""
    row = connection.execute(
        "SELECT reason FROM lost_range WHERE log_id = ? AND first_sequence <= ? AND last_sequence >= ?",
        (log_id, sequence, sequence),
    ).fetchone()
    return "RETENTION" if row is None else str(row[0])


def ensure_consumer(connection: sqlite3.Connection, log_id: int, name: str, acked: int) -> int:
    """Where the consumer goes on; a new one starts at `acked`, and what of that is gone already counts as skipped."""
    known = consumers(connection, log_id).get(name)
    if known is not None:
        return known
    first = connection.execute("SELECT first_sequence FROM log WHERE log_id = ?", (log_id,)).fetchone()[0]
    start = max(acked, first - 1)
    connection.execute(
        "INSERT INTO consumer (log_id, name, start_sequence, acked_sequence, lost_count, skipped_count)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (log_id, name, acked, start, lost(connection, log_id, start), start - acked),
    )
    return acked


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


def trim(connection: sqlite3.Connection, log_id: int, keep_bytes: int = 0, max_segments: int = 500) -> tuple[int, int]:
    """Delete segments that every consumer has acknowledged, oldest first, down to `keep_bytes`: (entries, segments) deleted.

    At most `max_segments` at a time, so that no sweep holds up a commit. A log without consumers keeps `keep_bytes`.
    """
    held, next_sequence = connection.execute(
        "SELECT held_bytes, next_sequence FROM log WHERE log_id = ?", (log_id,)
    ).fetchone()
    if held <= keep_bytes:
        return 0, 0
    lowest = connection.execute("SELECT min(acked_sequence) FROM consumer WHERE log_id = ?", (log_id,)).fetchone()[0]
    upto = next_sequence - 1 if lowest is None else lowest
    deleted = segments = freed = taken = last_position = 0
    origin = row_at(log_id, 0)
    rows = connection.execute(
        "SELECT position, entry_count, length(payload) FROM segment WHERE position >= ? AND position <= ?"
        " ORDER BY position LIMIT ?",
        (origin, origin + upto, max_segments),
    )
    for position, count, size in rows:  # most of what is acknowledged may be there to stay: read no further than needed
        if position - origin + count - 1 > upto or held - freed <= keep_bytes:
            break
        last_position = position
        deleted += count
        segments += 1
        freed += size
        taken += disk_bytes(size)
    rows.close()
    if not segments:
        return 0, 0
    connection.execute("DELETE FROM segment WHERE position >= ? AND position <= ?", (origin, last_position))
    first = connection.execute(
        "SELECT min(position) FROM segment WHERE position >= ? AND position < ?", (origin, row_at(log_id + 1, 0))
    ).fetchone()[0]
    first_sequence = next_sequence if first is None else first - origin
    connection.execute(
        "UPDATE log SET held_bytes = held_bytes - ?, disk_bytes = disk_bytes - ?, first_sequence = ? WHERE log_id = ?",
        (freed, taken, first_sequence, log_id),
    )
    return deleted, segments


def renew_epoch(connection: sqlite3.Connection, name: str, epoch: str) -> LogState:
    """Put the log under a new epoch. What it holds keeps the key of the old one, so that it is known again."""
    state = log_state(connection, name)
    if epoch == state.epoch:
        return state
    # Also where nothing was appended under it: older entries may have been sent under it, and a cursor then names it.
    # A log whose row was lost with a damaged store has none that anybody could know.
    if state.epoch:
        connection.execute(
            "INSERT INTO log_epoch (log_id, last_sequence, epoch) VALUES (?, ?, ?)",
            (state.log_id, state.last, state.epoch),
        )
    # Of those that end at one place the first has the entries; it stays while they do.
    connection.execute(
        "DELETE FROM log_epoch AS old WHERE log_id = :log AND (last_sequence < :first OR EXISTS (SELECT 1 FROM log_epoch"
        " WHERE log_id = :log AND last_sequence = old.last_sequence AND epoch_number < old.epoch_number))"
        " AND epoch_number NOT IN (SELECT epoch_number FROM log_epoch WHERE log_id = :log"
        " ORDER BY last_sequence DESC, epoch_number DESC LIMIT :kept)",
        {"log": state.log_id, "first": state.first, "kept": KEPT_EPOCHS},
    )
    connection.execute("UPDATE log SET epoch = ? WHERE log_id = ?", (epoch, state.log_id))
    return log_state(connection, name)


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
