"""Tasks as rows. Functions here run inside a transaction of the node's database.

A terminal row never changes: every update carries `state < COMPLETED` (compare-and-set), and tells whether it won. Nor does
what was decided under an older fence: a row's fence is that of the newest grant to this node, 0 for a task of its own.

Blobs are sealed (`edgenode.link.store.seals`), each by whoever writes it, and opened by whoever reads it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from edgenode.api.problem.v1 import problem_pb2
from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.link.model.lanes import Rejection
from edgenode.link.model.task import Level, TaskState
from edgenode.link.store import logs, run_time
from edgenode.link.store.budget import LANE_FULL, STORE_FULL
from edgenode.link.store.seals import TASK_DAMAGED, TaskDamaged, is_whole, seal, unseal
from edgenode.link.wire.values import problem_from_pb, problem_to_pb, timestamp_to_pb
from edgenode.node.task_state import HistoryRow, LiveTask

SCHEMA = """
CREATE TABLE task (
    task_id TEXT PRIMARY KEY,
    state INTEGER NOT NULL,
    state_reason TEXT NOT NULL,
    skill TEXT NOT NULL,
    context_id TEXT NOT NULL,
    origin_node TEXT NOT NULL,
    holder_node TEXT NOT NULL,
    fence INTEGER NOT NULL,
    attempt_count INTEGER NOT NULL,
    agent TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    level INTEGER NOT NULL,
    submit_time REAL NOT NULL,
    update_time REAL NOT NULL,
    next_attempt_time REAL NOT NULL,
    offer_sequence INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL,
    replay_of TEXT NOT NULL,
    request_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    spec BLOB NOT NULL,
    output BLOB,
    problem BLOB,
    input_request BLOB,
    answers BLOB,
    history BLOB NOT NULL,
    agent_instance TEXT NOT NULL,
    run_seconds REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX task_request ON task (request_id) WHERE request_id <> '';
CREATE UNIQUE INDEX task_idempotency ON task (idempotency_key) WHERE idempotency_key <> '';
CREATE INDEX task_live ON task (state) WHERE state < 8;
CREATE INDEX task_offered ON task (offer_sequence) WHERE offer_sequence > 0 AND state < 8;
CREATE INDEX task_ended ON task (run_seconds) WHERE state >= 8;
"""

_CHANGED = (
    "state",
    "state_reason",
    "holder_node",
    "fence",
    "attempt_count",
    "agent",
    "sequence",
    "level",
    "update_time",
    "next_attempt_time",
    "offer_sequence",
    "cancel_requested",
    "history",
    "agent_instance",
)  # by every update
_OPTIONAL = ("output", "problem", "input_request", "answers")

# What is inserted into `task_change` updates the task; one that ended or was granted anew is noted in `task_missed` instead.
_CHANGE = (
    f"UPDATE task SET {', '.join(f'{column} = NEW.{column}' for column in (*_CHANGED, *_OPTIONAL))},"
    f" run_seconds = {run_time.NOW} WHERE task_id = NEW.task_id AND state < 8 AND fence <= NEW.fence"
)
CHANGES_SCHEMA = f"""
CREATE TABLE task_missed (task_id TEXT NOT NULL) STRICT;
CREATE VIEW task_change AS SELECT {", ".join((*_CHANGED, *_OPTIONAL, "task_id"))} FROM task;
CREATE TRIGGER task_change_made INSTEAD OF INSERT ON task_change
    BEGIN {_CHANGE}; INSERT INTO task_missed SELECT NEW.task_id WHERE changes() = 0; END;
"""

_FIXED = (
    "task_id, state, state_reason, skill, context_id, origin_node, holder_node, fence, attempt_count, agent, sequence,"
    " level, submit_time, update_time, next_attempt_time, offer_sequence, cancel_requested, replay_of, request_id,"
    " idempotency_key, fingerprint, spec, history, agent_instance"
)
_COLUMNS = ", ".join((_FIXED, *_OPTIONAL))  # of a row of `load_live`
_SUMMARY = (
    "task_id, state, state_reason, origin_node, holder_node, fence, attempt_count, agent, sequence, level, submit_time,"
    " update_time, next_attempt_time, cancel_requested, replay_of, spec, output, problem, input_request, skill"
)
SEALED = ("spec", "output", "problem", "input_request", "answers", "history")  # columns
COUNTER = "task"
_MAX_ROWID = (1 << 63) - 1
ACCEPTED = "ACCEPTED"
NO_ROOM = ("QUEUE_FULL", LANE_FULL, STORE_FULL)  # of tasks that were not accepted

_history_encoder = msgspec.msgpack.Encoder()
_history_decoder = msgspec.msgpack.Decoder(list[HistoryRow])
Row = tuple[Any, ...]


class Change(NamedTuple):
    """A row to insert, or what an update makes of one. `optional`: its columns that are not NULL, in their order; `large`: its
    blobs want a statement of their own."""

    optional: tuple[str, ...]
    values: Row
    large: bool


# To bind a None costs ten times what a text does, and most tasks have few of the optional blobs at any time: so what is NULL
# stands in the statement, of which there is one for each set of those that are there.
#
# A statement takes as many rows as there are, in powers of two, so that there are few of them: between two steps of SQLite its
# thread gives up the interpreter, and waits for a busy event loop to have it again. What is bound stays with a statement until
# it is executed again, so large rows have one of their own.
_COUNTS = (128, 64, 32, 16, 8, 4, 2, 1)
_LARGE = 8 << 10  # bytes of a blob


@lru_cache
def _insert_of(optional: tuple[str, ...], count: int) -> str:
    columns = ", ".join((_FIXED, *optional))
    values = ", ".join("?" * (columns.count(",") + 1))
    rows = ", ".join([f"({values}, {run_time.NOW})"] * count)
    return f"INSERT INTO task ({columns}, run_seconds) VALUES {rows} ON CONFLICT DO NOTHING"


@lru_cache
def _update_of(optional: tuple[str, ...], count: int) -> str:
    columns = ", ".join((*_CHANGED, *optional, "task_id"))
    values = ", ".join("?" * (columns.count(",") + 1))
    return f"INSERT INTO task_change ({columns}) VALUES {', '.join([f'({values})'] * count)}"


def _runs(rows: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """The rows in order, in as few runs as one statement can take."""
    start = 0
    while start < len(rows):
        optional, end = rows[start].optional, start + 1
        if not rows[start].large:
            while (
                end < len(rows) and end - start < _COUNTS[0] and rows[end].optional == optional and not rows[end].large
            ):
                end += 1
        for count in _COUNTS:
            while end - start >= count:
                yield rows[start : start + count]
                start += count


def _values(rows: Iterable[Change]) -> Row:
    return tuple(chain.from_iterable(row.values for row in rows))


@dataclass(frozen=True, slots=True)
class Known:
    """A row that was there already."""

    task_id: str
    fingerprint: bytes
    state: TaskState


def insert_row(live: LiveTask) -> Change:
    """The INSERT of the task as it stands."""
    optional, blobs = _blobs(live)
    values = (
        live.task_id,
        int(live.state),
        live.reason,
        live.spec.skill,
        live.spec.context_id,
        live.origin,
        live.holder,
        live.fence,
        live.attempts,
        live.agent,
        live.sequence,
        int(live.level),
        live.submit_time,
        live.update_time,
        live.next_attempt_time,
        live.offer_sequence,
        int(live.cancel_requested),
        live.replay_of,
        live.request_id,
        live.spec.idempotency_key if live.fence == 0 else "",
        bytearray(live.fingerprint),
        seal(live.task_id, "spec", live.spec.wire),
        _encode_history(live),
        live.agent_instance,
        *blobs,
    )
    return Change(optional, values, max(map(len, (live.spec.wire, *blobs))) > _LARGE)


def update_row(live: LiveTask) -> Change:
    """The UPDATE to the task as it stands."""
    optional, blobs = _blobs(live)
    values = (
        int(live.state),
        live.reason,
        live.holder,
        live.fence,
        live.attempts,
        live.agent,
        live.sequence,
        int(live.level),
        live.update_time,
        live.next_attempt_time,
        live.offer_sequence,
        int(live.cancel_requested),
        _encode_history(live),
        live.agent_instance,
        *blobs,
        live.task_id,
    )
    return Change(optional, values, max(map(len, blobs), default=0) > _LARGE)


def _blobs(live: LiveTask) -> tuple[tuple[str, ...], list[bytearray]]:
    """The optional columns that are not NULL, in their order, and their values."""
    columns: tuple[str, ...] = ()
    blobs: list[bytearray] = []
    if live.output is not None:
        columns += ("output",)
        blobs.append(seal(live.task_id, "output", live.output.SerializeToString()))
    if live.problem is not None:
        columns += ("problem",)
        blobs.append(seal(live.task_id, "problem", problem_to_pb(live.problem).SerializeToString()))
    if live.input_request is not None:
        columns += ("input_request",)
        blobs.append(seal(live.task_id, "input_request", live.input_request.SerializeToString()))
    if live.answers:
        columns += ("answers",)
        blobs.append(encode_answers(live.task_id, live.answers))
    return columns, blobs


def _encode_history(live: LiveTask) -> bytearray:
    return seal(live.task_id, "history", _history_encoder.encode(live.history))


def _decode_history(task_id: str, stored: bytes) -> list[HistoryRow]:
    return _history_decoder.decode(unseal(task_id, "history", stored))


def encode_answers(task_id: str, answers: Mapping[str, task_pb2.TaskOutput]) -> bytearray:
    """Answers by key, for a row."""
    return seal(task_id, "answers", task_service_pb2.Assignment(answers=answers).SerializeToString())


def decode_answers(task_id: str, stored: bytes | None) -> dict[str, task_pb2.TaskOutput]:
    """Answers by key, of a row. Raises TaskDamaged."""
    if stored is None:
        return {}
    return dict(task_service_pb2.Assignment.FromString(unseal(task_id, "answers", stored)).answers)


def insert(connection: sqlite3.Connection, rows: Sequence[Change], late: Collection[int] = ()) -> list[Known | None]:
    """Insert tasks but for those with `late` indices; for each None, or the row that has its id or a key of it already."""
    results: list[Known | None] = []
    inserted = 0
    for run in _runs(rows) if not late else ([row] for row in rows):
        if len(results) in late:
            results.append(_find(connection, run[0].values))
            continue
        cursor = connection.execute(_insert_of(run[0].optional, len(run)), _values(run))
        new = cursor.rowcount
        inserted += new
        if new == len(run):
            results += [None] * new
        else:  # the rows of a statement have the highest row ids of all
            before = (cursor.lastrowid or 0) - new if new else _MAX_ROWID
            results += [_find(connection, row.values, before) for row in run]
    if inserted:
        logs.count(connection, COUNTER, ACCEPTED, inserted)
    return results


def _find(connection: sqlite3.Connection, row: Row, before: int = _MAX_ROWID) -> Known | None:
    """The row that has an id or a key of this one; None for none, or for this one itself, whose row id is over `before`."""
    task_id, request_id, idempotency_key = row[0], row[18], row[19]
    found = connection.execute(
        "SELECT task_id, fingerprint, state, rowid FROM task WHERE task_id = ?"
        " OR (request_id <> '' AND request_id = ?) OR (idempotency_key <> '' AND idempotency_key = ?)",
        (task_id, request_id, idempotency_key),
    ).fetchone()
    if found is None or (found[0] == task_id and found[3] > before):
        return None
    return Known(found[0], found[1], TaskState(found[2]))


def update(connection: sqlite3.Connection, rows: Sequence[Change]) -> list[bool]:
    """Update tasks that have not ended or been granted anew; for each whether it was changed. Counts those that end."""
    for run in _runs(rows):
        connection.execute(_update_of(run[0].optional, len(run)), _values(run))
    missed = {task_id for (task_id,) in connection.execute("SELECT task_id FROM task_missed")}
    if missed:
        connection.execute("DELETE FROM task_missed")
    results = [row.values[-1] not in missed for row in rows]
    states = Counter(row.values[0] for row, changed in zip(rows, results, strict=True) if changed)
    ended = [(COUNTER, TaskState(state).name, number) for state, number in states.items() if TaskState(state).terminal]
    if ended:
        logs.count_many(connection, ended)
    return results


def set_offer_sequences(connection: sqlite3.Connection, pairs: Sequence[tuple[int, str]]) -> None:
    """Note where in the task log each task was offered: (sequence, task id)."""
    connection.executemany("UPDATE task SET offer_sequence = ? WHERE task_id = ?", pairs)


def fail_offers(connection: sqlite3.Connection, rejections: Sequence[Rejection]) -> None:
    """End the tasks whose offers the hub would not take."""
    failed = 0
    for rejection in rejections:
        problem = problem_to_pb(rejection.problem).SerializeToString()
        rows = connection.execute(
            "SELECT task_id FROM task WHERE offer_sequence = ? AND holder_node <> '' AND state < 8",
            (rejection.sequence,),
        ).fetchall()
        for (task_id,) in rows:
            connection.execute(
                "UPDATE task SET state = ?, state_reason = ?, problem = ?, level = ?, sequence = sequence + 1"
                " WHERE task_id = ?",
                (
                    int(TaskState.FAILED),
                    rejection.problem.reason,
                    seal(task_id, "problem", problem),
                    int(Level.DONE),
                    task_id,
                ),
            )
        failed += len(rows)
    if failed:
        logs.count(connection, COUNTER, TaskState.FAILED.name, failed)


def store_history(connection: sqlite3.Connection, lives: Sequence[LiveTask]) -> None:
    """Note the history of tasks that ended elsewhere: their rows were written from the report alone."""
    connection.executemany(
        "UPDATE task SET sequence = max(sequence, ?), history = ? WHERE task_id = ?",
        [(live.sequence, _encode_history(live), live.task_id) for live in lives],
    )


def let_go(connection: sqlite3.Connection, task_id: str, fence: int, node: str, reason: str) -> bool:
    """The hub has a task again that it granted under `fence` or before: forgotten here and counted under `reason`, or, where
    this node is its origin, followed. False if it is not here under such a grant."""
    row = connection.execute(
        "SELECT origin_node, fence FROM task WHERE task_id = ? AND state < 8", (task_id,)
    ).fetchone()
    if row is None or not 0 < row[1] <= fence:
        return False
    if row[0] == node:
        connection.execute(
            "UPDATE task SET holder_node = 'hub', state = ?, fence = 0 WHERE task_id = ?",
            (int(TaskState.QUEUED), task_id),
        )
    else:
        connection.execute("DELETE FROM task WHERE task_id = ?", (task_id,))
        logs.count(connection, COUNTER, reason)
    return True


def highest_fence(connection: sqlite3.Connection) -> int:
    """Of all tasks that are kept; looks at every row."""
    return int(connection.execute("SELECT coalesce(max(fence), 0) FROM task").fetchone()[0])


def with_hub(connection: sqlite3.Connection) -> tuple[list[tuple[str, float, bytes]], list[str]]:
    """What this node has with the hub: (id, submit time, spec) of its own tasks that the hub has, ids of those it granted.

    A task whose spec is damaged is not offered again: it fails with the next start, and the hub is told then.
    """
    own = connection.execute(
        "SELECT task_id, submit_time, spec FROM task INDEXED BY task_live WHERE state < 8 AND fence = 0 AND holder_node <> ''"
        " ORDER BY task_id"
    ).fetchall()
    granted = connection.execute(
        "SELECT task_id FROM task INDEXED BY task_live WHERE state < 8 AND fence > 0 ORDER BY task_id"
    ).fetchall()
    whole = [
        (task_id, submitted, unseal(task_id, "spec", spec))
        for task_id, submitted, spec in own
        if is_whole(task_id, "spec", spec)
    ]
    return whole, [task_id for (task_id,) in granted]


def load_live(connection: sqlite3.Connection) -> list[Row]:
    """Rows of all tasks that have not ended, in the order they came, whatever the clock said then; for `revive`."""
    return connection.execute(
        f"SELECT {_COLUMNS} FROM task INDEXED BY task_live WHERE state < 8 ORDER BY rowid"
    ).fetchall()


def revive(row: Row, live: LiveTask) -> None:
    """Fill `live`, made from the row's spec, with what the row says. Raises TaskDamaged."""
    revive_facts(row, live)
    name, history, problem, input_request, answers = row[0], row[22], *row[25:28]
    if problem is not None:
        live.problem = problem_from_pb(problem_pb2.Problem.FromString(unseal(name, "problem", problem)))
    if input_request is not None:
        live.input_request = task_pb2.InputRequest.FromString(unseal(name, "input_request", input_request))
    live.answers = decode_answers(name, answers)
    live.history = _decode_history(name, history)


def revive_facts(row: Row, live: LiveTask) -> None:
    """The same without what blobs hold."""
    (_, state, live.reason, _, _, _, live.holder, live.fence, live.attempts, live.agent, live.sequence, level) = row[
        :12
    ]
    (live.submit_time, live.update_time, live.next_attempt_time, live.offer_sequence) = row[12:16]
    live.cancel_requested = bool(row[16])
    live.replay_of, live.request_id = row[17], row[18]
    live.fingerprint = row[20]
    live.agent_instance = row[23]
    live.state = TaskState(state)
    live.level = Level(level)


def offer_sequence(row: Row) -> int:
    """Where in the task log a row of `load_live` was offered; 0 for one that was not."""
    sequence: int = row[15]
    return sequence


def spec_wire(row: Row) -> bytes:
    """The stored TaskSpec of a row of `load_live`. Raises TaskDamaged."""
    return unseal(row[0], "spec", row[21])


def skill(row: Row) -> str:
    """The skill of a row of `load_live`, whose spec may be damaged."""
    name: str = row[3]
    return name


def fetch(connection: sqlite3.Connection, task_id: str, node: str) -> task_pb2.Task | None:
    """A stored task, whole; None if it is not known.

    Raises TaskDamaged where it is not what was stored; one that ended for that has no spec.
    """
    row = connection.execute(f"SELECT {_SUMMARY} FROM task WHERE task_id = ?", (task_id,)).fetchone()
    if row is None:
        return None
    if row[2] != TASK_DAMAGED and not _whole(row):
        raise TaskDamaged(task_id)
    return _task_pb(row, node, with_payload=True)


def check_spec(connection: sqlite3.Connection, task_id: str) -> None:
    """Raises TaskDamaged where the spec of a task is not what was stored."""
    row = connection.execute("SELECT spec FROM task WHERE task_id = ?", (task_id,)).fetchone()
    if row is not None:
        unseal(task_id, "spec", row[0])


def fetch_history(connection: sqlite3.Connection, task_id: str) -> list[HistoryRow]:
    """A stored task's history; empty if it is not known, or not what was stored."""
    row = connection.execute("SELECT history FROM task WHERE task_id = ?", (task_id,)).fetchone()
    return [] if row is None or not is_whole(task_id, "history", row[0]) else _decode_history(task_id, row[0])


def page(
    connection: sqlite3.Connection,
    node: str,
    *,
    before: str,
    size: int,
    states: Sequence[int] = (),
    skill: str = "",
    context_id: str = "",
) -> list[task_pb2.Task]:
    """Stored tasks older than task id `before` ('' for the newest), newest first, without payloads.

    Of those that are not what was stored, only what their rows say, with TASK_DAMAGED as the problem.
    """
    where, values = ["task_id < ?"], [before or "~"]
    if states:
        where.append(f"state IN ({', '.join(str(int(state)) for state in states)})")
    for column, value in (("skill", skill), ("context_id", context_id)):
        if value:
            where.append(f"{column} = ?")
            values.append(value)
    rows = connection.execute(
        f"SELECT {_SUMMARY} FROM task WHERE {' AND '.join(where)} ORDER BY task_id DESC LIMIT ?", (*values, size)
    )
    return [_task_pb(row, node, with_payload=False) for row in rows]


_BLOBS = {name: _SUMMARY.split(", ").index(name) for name in ("spec", "output", "problem", "input_request")}


def _whole(row: Row) -> bool:
    return all(is_whole(row[0], column, row[index]) for column, index in _BLOBS.items())


def _task_pb(row: Row, node: str, *, with_payload: bool) -> task_pb2.Task:
    (task_id, state, reason, origin, holder, fence, attempts, agent, sequence, level, submitted, updated) = row[:12]
    (next_attempt, cancel_requested, replay_of) = row[12:15]
    message = task_pb2.Task(
        task_id=task_id,
        state=state,
        state_reason=reason,
        attempt_count=attempts,
        agent=agent,
        origin_node=origin,
        holder_node=holder or node,
        fence=fence,
        sequence=sequence,
        level=level,
        submit_time=timestamp_to_pb(submitted),
        update_time=timestamp_to_pb(updated),
        cancel_requested=bool(cancel_requested),
        replay_of_task_id=replay_of,
    )
    _fill(message, row, with_payload=with_payload)
    if next_attempt:
        message.next_attempt_time.CopyFrom(timestamp_to_pb(next_attempt))
    return message


def _fill(message: task_pb2.Task, row: Row, *, with_payload: bool) -> None:
    """What the blobs of a row hold, so far as they are what was stored."""
    for column, index in _BLOBS.items():
        stored = row[index]
        if stored is None or (column == "output" and not with_payload):
            continue
        try:
            getattr(message, column).MergeFromString(unseal(message.task_id, column, stored))
        except TaskDamaged as damaged:
            message.problem.CopyFrom(problem_to_pb(damaged.problem))
            message.spec.skill = row[-1]
            continue
        getattr(message, column).SetInParent()
    if not with_payload:
        message.spec.ClearField("input")


def counts_by_state(connection: sqlite3.Connection) -> dict[str, int]:
    """Stored tasks by state name."""
    rows = connection.execute("SELECT state, count(*) FROM task GROUP BY state")
    return {TaskState(state).name: number for state, number in rows}


def sweep(connection: sqlite3.Connection, before: float, limit: int = 500) -> int:
    """Forget at most `limit` tasks that ended before a running time; returns how many. Those with a dead letter stay."""
    return connection.execute(
        "DELETE FROM task WHERE task_id IN (SELECT task_id FROM task INDEXED BY task_ended WHERE state >= 8"
        " AND run_seconds < ? AND NOT EXISTS (SELECT 1 FROM dead_letter WHERE dead_letter.task_id = task.task_id) LIMIT ?)",
        (before, limit),
    ).rowcount
