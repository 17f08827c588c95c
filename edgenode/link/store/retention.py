"""What a log keeps of what everybody has acknowledged, so that a peer that comes back from a backup can be refilled.

An acknowledged entry is of no use to anybody until the other side loses its disk; then it is the only copy there is. So it
stays for a while: at most so many bytes of acknowledged entries, none older than so many seconds. What waits to be
acknowledged is not counted, so a backlog does not push out what was delivered just before. Beside that a log may keep a
number of bytes for those who read it from the start, whatever their age and whether or not all of them are acknowledged.

How many bytes are acknowledged is noted as the consumers come on (`retained`), never counted from the start. A store that is
more than half full keeps nothing of what everybody has: work comes first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from edgenode.link.store import logs

TRIM_SEGMENTS = 500  # at a time, so that no sweep holds up a commit
LONGEST_INTERVAL = 60.0


def _no_age() -> float:
    return 0.0


def _plenty() -> bool:
    return False


def holding(connection: sqlite3.Connection, after: int, most: int) -> list[int]:
    """Logs above `after` that hold segments, `most` of them; goes from one to the next and not through those that do not."""
    found: list[int] = []
    while len(found) < most:
        row = connection.execute(
            "SELECT position FROM segment WHERE position >= ? ORDER BY position LIMIT 1", (logs.row_at(after + 1, 0),)
        ).fetchone()
        if row is None:
            break
        after = logs.row_place(row[0])[0]
        found.append(after)
    return found


@dataclass(frozen=True, slots=True)
class Retention:
    """The rule of one log. `wall` is the clock of the entries' stamps, in seconds; `scarce` tells when room is short."""

    keep_bytes: int = 0
    acked_bytes: int = 0
    acked_seconds: float = 0.0
    wall: Callable[[], float] = _no_age
    scarce: Callable[[], bool] = _plenty

    @property
    def interval(self) -> float:
        """How often to look for what has become too old, in seconds; a commit that acknowledges looks as well."""
        return min(LONGEST_INTERVAL, max(self.acked_seconds / 4, 0.1))

    def trim(self, connection: sqlite3.Connection, log_id: int, max_segments: int = TRIM_SEGMENTS) -> bool:
        """Delete what may go, oldest first; returns whether there may be more, as so many went."""
        held, first = connection.execute(
            "SELECT held_bytes, first_sequence FROM log WHERE log_id = ?", (log_id,)
        ).fetchone()
        keep_bytes = 0 if self.scarce() else self.keep_bytes
        if held <= keep_bytes:
            return False
        acked = connection.execute("SELECT min(acked_sequence) FROM consumer WHERE log_id = ?", (log_id,)).fetchone()[0]
        if acked is None:  # nobody acknowledges, so nobody can come back for it
            return logs.trim(connection, log_id, keep_bytes, max_segments)[1] >= max_segments
        retained = _note_acknowledged(connection, log_id, first, acked, held)
        allowed = max(keep_bytes, held - retained + self._allowance(connection, log_id, retained, max_segments))
        segments = logs.trim(connection, log_id, allowed, max_segments)[1] if held > allowed else 0
        if segments:
            connection.execute(
                "UPDATE retained SET bytes = max(bytes - (? - (SELECT held_bytes FROM log WHERE log_id = ?)), 0)"
                " WHERE log_id = ?",
                (held, log_id, log_id),
            )
        return segments >= max_segments

    def _allowance(self, connection: sqlite3.Connection, log_id: int, retained: int, max_segments: int) -> int:
        """How many of the acknowledged bytes may stay."""
        if not retained or not self.acked_bytes or self.scarce():
            return 0
        return min(self.acked_bytes, retained - self._outdated(connection, log_id, max_segments))

    def _outdated(self, connection: sqlite3.Connection, log_id: int, max_segments: int) -> int:
        """Bytes of the oldest segments that are older than they may get, of so many at most."""
        before = self.wall() - self.acked_seconds
        size = 0
        low = logs.row_at(log_id, 0)
        rows = connection.execute(
            "SELECT accept_time, length(payload) FROM segment WHERE position >= ? AND position < ?"
            " ORDER BY position LIMIT ?",
            (low, logs.row_at(log_id + 1, 0), max_segments),
        )
        for accepted, length in rows:
            if accepted >= before:
                break
            size += length
        rows.close()
        return size


def _note_acknowledged(connection: sqlite3.Connection, log_id: int, first: int, acked: int, held: int) -> int:
    """Bring the note of acknowledged bytes up to `acked`; returns them."""
    row = connection.execute("SELECT upto_sequence, bytes FROM retained WHERE log_id = ?", (log_id,)).fetchone()
    upto, size = row if row is not None else (first - 1, 0)
    if upto < first - 1:
        upto, size = first - 1, 0
    if acked > upto:
        low = logs.row_at(log_id, 0)
        # A segment is acknowledged with its last entry; where one began inside the range noted before, it ends in this one.
        segments, more = connection.execute(
            "SELECT coalesce(max(position + entry_count - 1), :low + :upto), coalesce(sum(length(payload)), 0)"
            " FROM segment WHERE position > :low + :upto AND position + entry_count - 1 <= :low + :acked"
            " AND position <= :low + :acked",
            {"low": low, "upto": upto, "acked": acked},
        ).fetchone()
        upto, size = segments - low, size + more
    size = min(size, held)
    if row is None or row != (upto, size):
        connection.execute("INSERT OR REPLACE INTO retained VALUES (?, ?, ?)", (log_id, upto, size))
    return int(size)
