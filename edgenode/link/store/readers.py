"""Who reads a log, and how far each is: what ledgers count."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from edgenode.link.store.logs import lost


@dataclass(frozen=True, slots=True)
class Reader:
    """A consumer as its row says: it began behind `start`; of what it acknowledged some were `rejected`, some `skipped`."""

    name: str
    start: int
    acked: int
    rejected: int
    skipped: int
    lost: int  # that were damaged before it had them
    lost_ahead: int  # of these, past `acked`
    held: int  # that it has still to get, as the log says


def readers(connection: sqlite3.Connection, log_id: int) -> list[Reader]:
    """Every consumer of a log, by name."""
    state = "SELECT first_sequence - 1, next_sequence - 1 FROM log WHERE log_id = ?"
    trimmed, last = connection.execute(state, (log_id,)).fetchone() or (0, 0)
    rows = connection.execute(
        "SELECT name, start_sequence, acked_sequence, rejected_count, skipped_count, lost_count FROM consumer"
        " WHERE log_id = ? ORDER BY name",
        (log_id,),
    ).fetchall()
    result = []
    for name, start, acked, rejected, skipped, gone in rows:
        past = max(acked, trimmed)  # a trim goes over what was lost
        held = last - past - lost(connection, log_id, past)
        result.append(Reader(name, start, acked, rejected, skipped, gone, lost(connection, log_id, acked), held))
    return result
