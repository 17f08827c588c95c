"""Tasks as rows. Functions here run inside a transaction of the node's database.

A terminal row never changes: every update carries `state < COMPLETED` (compare-and-set), and tells whether it won. Nor does
what was decided under an older fence: a row's fence is that of the newest grant to this node, 0 for a task of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from edgenode.api.problem.v1 import problem_pb2
from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.link.model.lanes import Rejection
from edgenode.link.model.task import Level, TaskState
from edgenode.link.store import logs, run_time
from edgenode.link.store.budget import LANE_FULL, STORE_FULL
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
    run_seconds REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX task_request ON task (request_id) WHERE request_id <> '';
CREATE UNIQUE INDEX task_idempotency ON task (idempotency_key) WHERE idempotency_key <> '';
CREATE INDEX task_live ON task (state) WHERE state < 8;
CREATE INDEX task_offered ON task (offer_sequence) WHERE offer_sequence > 0 AND state < 8;
CREATE INDEX task_ended ON task (run_seconds) WHERE state >= 8;
"""

# Every column of a row as `row_of` gives them.
_COLUMNS = (
    "task_id, state, state_reason, skill, context_id, origin_node, holder_node, fence, attempt_count, agent, sequence,"
    " level, submit_time, update_time, next_attempt_time, offer_sequence, cancel_requested, replay_of, request_id,"
    " idempotency_key, fingerprint, spec, output, problem, input_request, answers, history"
)
_INSERT = (
    f"INSERT INTO task ({_COLUMNS}, run_seconds) VALUES ({', '.join('?' * 27)}, {run_time.NOW}) ON CONFLICT DO NOTHING"
)
_UPDATE = (
    "UPDATE task SET state = ?, state_reason = ?, holder_node = ?, fence = ?, attempt_count = ?, agent = ?, sequence = ?,"
    " level = ?, update_time = ?, next_attempt_time = ?, offer_sequence = ?, cancel_requested = ?, output = ?, problem = ?,"
    f" input_request = ?, answers = ?, history = ?, run_seconds = {run_time.NOW}"
    " WHERE task_id = ? AND state < 8 AND fence <= ?"
)
_SUMMARY = (
    "task_id, state, state_reason, origin_node, holder_node, fence, attempt_count, agent, sequence, level, submit_time,"
    " update_time, next_attempt_time, cancel_requested, replay_of, spec, output, problem, input_request"
)
COUNTER = "task"
ACCEPTED = "ACCEPTED"
NO_ROOM = ("QUEUE_FULL", LANE_FULL, STORE_FULL)  # of tasks that were not accepted

_history_encoder = msgspec.msgpack.Encoder()
_history_decoder = msgspec.msgpack.Decoder(list[HistoryRow])
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """A row that was there already."""

    task_id: str
    fingerprint: bytes
    state: TaskState


def insert_row(live: LiveTask, *, state: TaskState | None = None) -> Row:
    """The values of an INSERT for the task as it stands."""
    return (
        live.task_id,
        int(live.state if state is None else state),
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
        live.cancel_requested,
        live.replay_of,
        live.request_id,
        live.spec.idempotency_key if live.fence == 0 else "",
        live.fingerprint,
        live.spec.wire,
        *_blobs(live),
    )


def update_row(live: LiveTask) -> Row:
    """The values of an UPDATE for the task as it stands."""
    return (
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
        live.cancel_requested,
        *_blobs(live),
        live.task_id,
        live.fence,
    )


def _blobs(live: LiveTask) -> tuple[bytes | None, bytes | None, bytes | None, bytes | None, bytes]:
    return (
        live.output.SerializeToString() if live.output is not None else None,
        problem_to_pb(live.problem).SerializeToString() if live.problem is not None else None,
        live.input_request.SerializeToString() if live.input_request is not None else None,
        _encode_answers(live) if live.answers else None,
        _history_encoder.encode(live.history),
    )


def _encode_answers(live: LiveTask) -> bytes:
    return task_service_pb2.Assignment(answers=live.answers).SerializeToString()


def decode_answers(stored: bytes | None) -> dict[str, task_pb2.TaskOutput]:
    """Answers by key, of a row."""
    return dict(task_service_pb2.Assignment.FromString(stored).answers) if stored is not None else {}


def insert(connection: sqlite3.Connection, rows: Sequence[Row]) -> list[Known | None]:
    """Insert tasks; for each None, or the row that has its id, request id or idempotency key already."""
    results: list[Known | None] = []
    inserted = 0
    for row in rows:
        if connection.execute(_INSERT, row).rowcount:
            inserted += 1
            results.append(None)
        else:
            results.append(_find(connection, row))
    if inserted:
        logs.count(connection, COUNTER, ACCEPTED, inserted)
    return results


def _find(connection: sqlite3.Connection, row: Row) -> Known:
    task_id, request_id, idempotency_key = row[0], row[18], row[19]
    found = connection.execute(
        "SELECT task_id, fingerprint, state FROM task WHERE task_id = ?"
        " OR (request_id <> '' AND request_id = ?) OR (idempotency_key <> '' AND idempotency_key = ?)",
        (task_id, request_id, idempotency_key),
    ).fetchone()
    return Known(found[0], found[1], TaskState(found[2]))


def update(connection: sqlite3.Connection, rows: Sequence[Row]) -> list[bool]:
    """Update tasks that have not ended or been granted anew; for each whether it was changed. Counts those that end."""
    results = [connection.execute(_UPDATE, row).rowcount > 0 for row in rows]
    ended: dict[str, int] = {}
    for row, changed in zip(rows, results, strict=True):
        if changed and row[0] >= TaskState.COMPLETED:
            name = TaskState(row[0]).name
            ended[name] = ended.get(name, 0) + 1
    if ended:
        logs.count_many(connection, [(COUNTER, name, number) for name, number in ended.items()])
    return results


def set_offer_sequences(connection: sqlite3.Connection, pairs: Sequence[tuple[int, str]]) -> None:
    """Note where in the task log each task was offered: (sequence, task id)."""
    connection.executemany("UPDATE task SET offer_sequence = ? WHERE task_id = ?", pairs)


def fail_offers(connection: sqlite3.Connection, rejections: Sequence[Rejection]) -> None:
    """End the tasks whose offers the hub would not take."""
    failed = 0
    for rejection in rejections:
        failed += connection.execute(
            "UPDATE task SET state = ?, state_reason = ?, problem = ?, level = ?, sequence = sequence + 1"
            " WHERE offer_sequence = ? AND holder_node <> '' AND state < 8",
            (
                int(TaskState.FAILED),
                rejection.problem.reason,
                problem_to_pb(rejection.problem).SerializeToString(),
                int(Level.DONE),
                rejection.sequence,
            ),
        ).rowcount
    if failed:
        logs.count(connection, COUNTER, TaskState.FAILED.name, failed)


def store_history(connection: sqlite3.Connection, lives: Sequence[LiveTask]) -> None:
    """Note the history of tasks that ended elsewhere: their rows were written from the report alone."""
    connection.executemany(
        "UPDATE task SET sequence = max(sequence, ?), history = ? WHERE task_id = ?",
        [(live.sequence, _history_encoder.encode(live.history), live.task_id) for live in lives],
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


def with_hub(connection: sqlite3.Connection) -> tuple[list[tuple[str, float, bytes]], list[str]]:
    """What this node has with the hub: (id, submit time, spec) of its own tasks that the hub has, ids of those it granted."""
    own = connection.execute(
        "SELECT task_id, submit_time, spec FROM task INDEXED BY task_live WHERE state < 8 AND fence = 0 AND holder_node <> ''"
        " ORDER BY task_id"
    ).fetchall()
    granted = connection.execute(
        "SELECT task_id FROM task INDEXED BY task_live WHERE state < 8 AND fence > 0 ORDER BY task_id"
    ).fetchall()
    return own, [task_id for (task_id,) in granted]


def load_live(connection: sqlite3.Connection) -> list[Row]:
    """Rows of all tasks that have not ended, in the order they came, whatever the clock said then; for `revive`."""
    return connection.execute(
        f"SELECT {_COLUMNS} FROM task INDEXED BY task_live WHERE state < 8 ORDER BY rowid"
    ).fetchall()


def revive(row: Row, live: LiveTask) -> None:
    """Fill `live`, made from the row's spec, with what the row says."""
    (_, state, live.reason, _, _, _, live.holder, live.fence, live.attempts, live.agent, live.sequence, level) = row[
        :12
    ]
    (live.submit_time, live.update_time, live.next_attempt_time, live.offer_sequence) = row[12:16]
    live.cancel_requested = bool(row[16])
    live.replay_of, live.request_id = row[17], row[18]
    live.fingerprint = row[20]
    problem, input_request, answers, history = row[23:27]
    live.state = TaskState(state)
    live.level = Level(level)
    if problem is not None:
        live.problem = problem_from_pb(problem_pb2.Problem.FromString(problem))
    if input_request is not None:
        live.input_request = task_pb2.InputRequest.FromString(input_request)
    live.answers = decode_answers(answers)
    live.history = _history_decoder.decode(history)


def offer_sequence(row: Row) -> int:
    """Where in the task log a row of `load_live` was offered; 0 for one that was not."""
    sequence: int = row[15]
    return sequence


def spec_wire(row: Row) -> bytes:
    """The stored TaskSpec of a row of `load_live`."""
    wire: bytes = row[21]
    return wire


def fetch(connection: sqlite3.Connection, task_id: str, node: str) -> task_pb2.Task | None:
    """A stored task, whole; None if it is not known."""
    row = connection.execute(f"SELECT {_SUMMARY} FROM task WHERE task_id = ?", (task_id,)).fetchone()
    return None if row is None else _task_pb(row, node, with_payload=True)


def fetch_history(connection: sqlite3.Connection, task_id: str) -> list[HistoryRow]:
    """A stored task's history; empty if it is not known."""
    row = connection.execute("SELECT history FROM task WHERE task_id = ?", (task_id,)).fetchone()
    return [] if row is None else _history_decoder.decode(row[0])


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
    """Stored tasks older than task id `before` ('' for the newest), newest first, without payloads."""
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


def _task_pb(row: Row, node: str, *, with_payload: bool) -> task_pb2.Task:
    (task_id, state, reason, origin, holder, fence, attempts, agent, sequence, level, submitted, updated) = row[:12]
    (next_attempt, cancel_requested, replay_of, spec, output, problem, input_request) = row[12:]
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
    message.spec.ParseFromString(spec)
    if not with_payload:
        message.spec.ClearField("input")
    elif output is not None:
        message.output.ParseFromString(output)
    if problem is not None:
        message.problem.ParseFromString(problem)
    if input_request is not None:
        message.input_request.ParseFromString(input_request)
    if next_attempt:
        message.next_attempt_time.CopyFrom(timestamp_to_pb(next_attempt))
    return message


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
