"""Things that were given up and kept: rows within bounds, the oldest go first. Functions of a transaction.

Every letter is counted when it is added and when it goes, by what became of it, so that added = kept + replayed + dropped +
evicted at any time. A `grant` is no letter for people: the hub deals with it by itself, so it is never evicted before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from edgenode.link.model.dead_letter import ENTRY, GRANT, DeadLetter, LetterBounds
from edgenode.link.model.lanes import Lane, Rejection
from edgenode.link.model.problem import Problem
from edgenode.link.store import logs

SCHEMA = """
CREATE TABLE dead_letter (
    dead_letter_id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    lane TEXT NOT NULL,
    node TEXT NOT NULL,
    task_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    problem BLOB NOT NULL,
    time REAL NOT NULL,
    attempts INTEGER NOT NULL,
    size INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX dead_letter_task ON dead_letter (task_id) WHERE task_id <> '';
CREATE INDEX dead_letter_grant ON dead_letter (node) WHERE kind = 'grant';
"""

COUNTER = "dead_letter"
ADDED = "ADDED"
REPLAYED = "REPLAYED"
DROPPED = "DROPPED"
EVICTED = "EVICTED"
OTHER = "OTHER"
MAX_REASONS = 32  # under which letters are counted as dropped; beyond them OTHER

# (kind, subject, task id, bytes) of the entry at a place of a segment; None where it cannot be read
Extract = Callable[[Lane, bytes, int], tuple[str, str, str, bytes] | None]

_INSERT = (
    "INSERT INTO dead_letter (kind, lane, node, task_id, subject, problem, time, attempts, size, payload)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_FIELDS = "dead_letter_id, kind, lane, node, task_id, subject, problem, time, attempts, size"


def add(connection: sqlite3.Connection, letters: Sequence[DeadLetter], bounds: LetterBounds) -> None:
    """Keep letters; the oldest beyond the bounds go."""
    connection.executemany(
        _INSERT,
        [
            (
                letter.kind,
                letter.lane,
                letter.node,
                letter.task_id,
                letter.subject,
                msgspec.msgpack.encode(letter.problem),
                letter.time,
                letter.attempts,
                letter.size or len(letter.payload),
                letter.payload,
            )
            for letter in letters
        ],
    )
    logs.count(connection, COUNTER, ADDED, len(letters))
    _evict(connection, bounds)


def _evict(connection: sqlite3.Connection, bounds: LetterBounds) -> None:
    kept, size = connection.execute("SELECT count(*), coalesce(sum(size), 0) FROM dead_letter").fetchone()
    if kept <= bounds.count and size <= bounds.size:
        return
    excess: list[tuple[int]] = []
    rows = connection.execute(
        "SELECT dead_letter_id, size FROM dead_letter WHERE kind <> ? ORDER BY dead_letter_id", (GRANT,)
    )
    for number, length in rows:
        if kept <= bounds.count and size <= bounds.size:
            break
        excess.append((number,))
        kept, size = kept - 1, size - length
    rows.close()
    connection.executemany("DELETE FROM dead_letter WHERE dead_letter_id = ?", excess)
    logs.count(connection, COUNTER, EVICTED, len(excess))


def add_rejected(
    connection: sqlite3.Connection,
    lane: Lane,
    log_name: str,
    rejections: Sequence[Rejection],
    node: str,
    now_time: float,
    bounds: LetterBounds,
    extract: Extract,
) -> None:
    """Keep the entries of a log that the other side, `node`, would not take.

    Of a segment that cannot be read, the first letter keeps all there is and the others nothing.
    """
    log_id = logs.log_state(connection, log_name).log_id
    letters = []
    unreadable = 0
    for rejection in rejections:
        found = logs.find(connection, log_id, rejection.sequence)
        kind, subject, task_id, payload = ENTRY, "", "", b""
        if found is not None:
            base, segment = found
            content = extract(lane, segment.payload, rejection.sequence - base)
            if content is not None:
                kind, subject, task_id, payload = content
            elif base != unreadable:
                unreadable, payload = base, segment.payload
        letters.append(
            DeadLetter(kind, subject, rejection.problem, now_time, lane.name.lower(), node, task_id, payload=payload)
        )
    add(connection, letters, bounds)


def count(connection: sqlite3.Connection) -> int:
    """How many are kept."""
    return int(connection.execute("SELECT count(*) FROM dead_letter").fetchone()[0])


def page(connection: sqlite3.Connection, before: int, size: int) -> list[DeadLetter]:
    """At most `size` letters with a number below `before`, newest first, without their payload."""
    rows = connection.execute(
        f"SELECT {_FIELDS}, x'' FROM dead_letter WHERE dead_letter_id < ? ORDER BY dead_letter_id DESC LIMIT ?",
        (before, size),
    )
    return [_letter(row) for row in rows]


def find(connection: sqlite3.Connection, numbers: Sequence[int] | None) -> list[DeadLetter]:
    """The letters of these numbers that are kept, all for None; in the order of the numbers."""
    query = f"SELECT {_FIELDS}, payload FROM dead_letter"
    if numbers is None:
        return [_letter(row) for row in connection.execute(f"{query} ORDER BY dead_letter_id")]
    rows = (connection.execute(f"{query} WHERE dead_letter_id = ?", (number,)).fetchone() for number in numbers)
    return [_letter(row) for row in rows if row is not None]


def grants(connection: sqlite3.Connection, node: str, limit: int) -> list[DeadLetter]:
    """Grants that `node` would not take (any node, for an empty name), oldest first."""
    rows = connection.execute(
        f"SELECT {_FIELDS}, payload FROM dead_letter INDEXED BY dead_letter_grant WHERE kind = 'grant'"
        " AND (node = :node OR :node = '') ORDER BY dead_letter_id LIMIT :limit",
        {"node": node, "limit": limit},
    )
    return [_letter(row) for row in rows]


def _letter(row: Sequence[Any]) -> DeadLetter:
    number, kind, lane, node, task_id, subject, problem, time, attempts, size, payload = row
    why = msgspec.msgpack.decode(problem, type=Problem)
    return DeadLetter(kind, subject, why, time, lane, node, task_id, attempts, size, payload, number)


def drop(connection: sqlite3.Connection, numbers: Sequence[int] | None, reason: str) -> int:
    """Forget these letters, all for None; counted under `reason`. Returns how many were there."""
    if numbers is None:
        dropped = connection.execute("DELETE FROM dead_letter").rowcount
    else:
        dropped = connection.executemany(
            "DELETE FROM dead_letter WHERE dead_letter_id = ?", [(number,) for number in numbers]
        ).rowcount
    if dropped:
        known = counts(connection)
        counted = reason if reason in known or len(known) < MAX_REASONS else OTHER
        logs.count(connection, COUNTER, counted, dropped)
    return dropped


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """How many were added, and what became of those that went."""
    return logs.counters(connection, COUNTER)
