"""Things that were given up and kept: rows, at most so many, the oldest go first. Functions of a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.message.v1 import message_pb2
from edgenode.api.problem.v1 import problem_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.model.lanes import Lane, Rejection
from edgenode.link.model.problem import Problem
from edgenode.link.store import logs
from edgenode.link.wire.values import problem_to_pb, timestamp_to_pb

SCHEMA = """
CREATE TABLE dead_letter (
    dead_letter_id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    lane TEXT NOT NULL,
    task_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    problem BLOB NOT NULL,
    time REAL NOT NULL,
    attempts INTEGER NOT NULL,
    size INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX dead_letter_task ON dead_letter (task_id) WHERE task_id <> '';
"""

TASK = "task"
ENTRY = "entry"
COUNTER = "dead_letter"

_INSERT = (
    "INSERT INTO dead_letter (kind, lane, task_id, subject, problem, time, attempts, size, payload)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class Letter:
    """What is kept. `kind` is `task` (payload: none, the task's row has it) or `entry` (payload: the Message or TaskEntry).

    `lane` is the lane's name of an entry; `time` is wall clock in seconds.
    """

    kind: str
    subject: str
    problem: Problem
    time: float
    lane: str = ""
    task_id: str = ""
    attempts: int = 0
    size: int = 0
    payload: bytes = b""


def add(connection: sqlite3.Connection, letters: Sequence[Letter], limit: int) -> None:
    """Keep letters; the oldest beyond `limit` go, and are counted."""
    connection.executemany(
        _INSERT,
        [
            (
                letter.kind,
                letter.lane,
                letter.task_id,
                letter.subject,
                problem_to_pb(letter.problem).SerializeToString(),
                letter.time,
                letter.attempts,
                letter.size or len(letter.payload),
                letter.payload,
            )
            for letter in letters
        ],
    )
    excess = count(connection) - limit
    if excess > 0:
        connection.execute(
            "DELETE FROM dead_letter WHERE dead_letter_id IN"
            " (SELECT dead_letter_id FROM dead_letter ORDER BY dead_letter_id LIMIT ?)",
            (excess,),
        )
        logs.count(connection, COUNTER, "EVICTED", excess)


def add_rejected(
    connection: sqlite3.Connection,
    lane: Lane,
    log_name: str,
    rejections: Sequence[Rejection],
    now_time: float,
    limit: int,
) -> None:
    """Keep the entries of a log that the other side would not take."""
    log_id = logs.log_state(connection, log_name).log_id
    letters = []
    for rejection in rejections:
        found = logs.find(connection, log_id, rejection.sequence)
        subject, payload = "", b""
        if found is not None:
            base, segment = found
            subject, payload = _entry(lane, segment.payload, rejection.sequence - base)
        letters.append(Letter(ENTRY, subject, rejection.problem, now_time, lane.name.lower(), payload=payload))
    add(connection, letters, limit)


def _entry(lane: Lane, payload: bytes, index: int) -> tuple[str, bytes]:
    """(subject, bytes) of the entry at `index` of a segment; the whole segment where it cannot be read."""
    try:
        if lane is Lane.MESSAGE:
            message = message_pb2.MessageBatch.FromString(payload).messages[index]
            return message.topic, message.SerializeToString()
        entry = sync_pb2.TaskEntryBatch.FromString(payload).entries[index]
        return entry.offer.spec.skill, entry.SerializeToString()
    except (DecodeError, IndexError):
        return "", payload


def count(connection: sqlite3.Connection) -> int:
    """How many are kept."""
    return int(connection.execute("SELECT count(*) FROM dead_letter").fetchone()[0])


def page(connection: sqlite3.Connection, before: int, size: int) -> list[admin_pb2.DeadLetter]:
    """At most `size` letters with a number below `before`, newest first."""
    rows = connection.execute(
        "SELECT dead_letter_id, kind, task_id, subject, problem, time, attempts, size FROM dead_letter"
        " WHERE dead_letter_id < ? ORDER BY dead_letter_id DESC LIMIT ?",
        (before, size),
    )
    return [
        admin_pb2.DeadLetter(
            dead_letter_id=number,
            kind=kind,
            task_id=task_id,
            subject=subject,
            problem=problem_pb2.Problem.FromString(problem),
            dead_letter_time=timestamp_to_pb(time),
            attempt_count=attempts,
            size_bytes=length,
        )
        for number, kind, task_id, subject, problem, time, attempts, length in rows
    ]


@dataclass(frozen=True, slots=True)
class Kept:
    """What replaying needs of a stored letter."""

    dead_letter_id: int
    kind: str
    lane: str
    task_id: str
    subject: str
    payload: bytes


def find(connection: sqlite3.Connection, numbers: Sequence[int] | None) -> list[Kept]:
    """The letters of these numbers that are kept, all for None; in the order of the numbers."""
    query = "SELECT dead_letter_id, kind, lane, task_id, subject, payload FROM dead_letter"
    if numbers is None:
        return [Kept(*row) for row in connection.execute(f"{query} ORDER BY dead_letter_id")]
    rows = (connection.execute(f"{query} WHERE dead_letter_id = ?", (number,)).fetchone() for number in numbers)
    return [Kept(*row) for row in rows if row is not None]


def drop(connection: sqlite3.Connection, numbers: Sequence[int] | None, reason: str) -> int:
    """Forget these letters, all for None; counted under `reason`. Returns how many were there."""
    if numbers is None:
        dropped = connection.execute("DELETE FROM dead_letter").rowcount
    else:
        dropped = connection.executemany(
            "DELETE FROM dead_letter WHERE dead_letter_id = ?", [(number,) for number in numbers]
        ).rowcount
    if dropped:
        logs.count(connection, COUNTER, reason, dropped)
    return dropped
