"""Tasks in SQLite. Their blobs are sealed (`edgenode.link.store.seals`); a record says where they are not what was stored."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from edgenode.link.blobs import rows as blob_rows
from edgenode.link.errors import EdgenodeError, Internal
from edgenode.link.model.lanes import Applied, Rejection, Segment
from edgenode.link.model.task import OnLost, TaskState
from edgenode.link.store import inbox, logs, run_time
from edgenode.link.store.database import Database
from edgenode.link.store.seals import SEAL_BYTES, is_whole, seal
from hub.store.dead_letters import LetterKeeper
from hub.store.queues import queue_key, queue_text
from hub.store.records import (
    IN_DOUBT_AT_HOLDER,
    IN_DOUBT_AT_ORIGIN,
    LONGEST_AVOIDANCE,
    PARENT,
    Change,
    Committed,
    Decide,
    Decision,
    Intake,
    Selection,
    TaskFilter,
    TaskRecord,
    WaitKey,
    Workload,
)

ACCEPTED = "task.accepted"
ENDED = "task.ended"
DISCARDED = "task.discarded"
STATE = "task.state"

Pack = Callable[[Sequence[bytes]], Sequence[Segment]]

_COLUMNS = (
    "task_id, origin, queue, submit_time, deadline, on_lost, context_id, idempotency_key, request_id, replay_of, state,"
    " state_reason, holder, fence, attempt_count, agent, outcome, answers, cancel_reason, avoid, avoid_until, update_time,"
    " sequence, upstream, doubt"
)
_INSERT = (
    f"INSERT INTO task ({_COLUMNS}, skill, task_number, run_seconds) VALUES ({', '.join('?' * 27)}, {run_time.NOW})"
)
_SPEC = "(SELECT spec FROM task_spec WHERE task_spec.task_number = task.task_number)"
_UPDATE = (
    "UPDATE task SET state = ?, state_reason = ?, holder = ?, fence = ?, attempt_count = ?, agent = ?, outcome = ?,"
    " answers = ?, cancel_reason = ?, avoid = ?, avoid_until = ?, update_time = ?, sequence = ?,"
    f" upstream = ?, doubt = ?, run_seconds = {run_time.NOW}"
    " WHERE task_id = ? AND sequence = ? AND state < 8"
)


SEALED = ("spec", "outcome", "answers")  # columns
UP_LOG = "up/task"


def task_log(node: str) -> str:
    """Name of the log of task entries for a node, or for the parent."""
    return UP_LOG if node == PARENT else f"down/{node}/task"


def _read(row: Sequence[Any]) -> TaskRecord:
    """A row of _COLUMNS, with the spec behind them where it was asked for."""
    key = queue_key(row[2])
    task_id, state = row[0], TaskState(row[10])
    spec = _opened(task_id, "spec", row[25] if len(row) > 25 else b"")
    outcome = _opened(task_id, "outcome", row[16])
    answers = _opened(task_id, "answers", row[17])
    return TaskRecord(
        task_id=task_id,
        origin=row[1],
        demand=key.demand,
        priority=key.priority,
        submit_time=row[3],
        deadline=row[4],
        on_lost=OnLost(row[5]),
        context_id=row[6],
        idempotency_key=row[7],
        request_id=row[8],
        replay_of=row[9],
        spec=spec or b"",
        state=state,
        state_reason=row[11],
        holder=row[12],
        fence=row[13],
        attempt_count=row[14],
        agent=row[15],
        outcome=outcome or b"",
        answers=answers or b"",
        cancel_reason=row[18],
        avoid=row[19],
        avoid_until=row[20],
        update_time=row[21],
        sequence=row[22],
        upstream=row[23],
        doubt=row[24],
        # Before its end, an outcome is no more than what was said last.
        damaged=spec is None or answers is None or (outcome is None and state.terminal),
    )


def _opened(task_id: str, column: str, stored: bytes) -> bytes | None:
    """What a blob holds; None where that is not what was stored."""
    return stored[:-SEAL_BYTES] if is_whole(task_id, column, stored) else None


def _mutable(task: TaskRecord) -> tuple[object, ...]:
    return (
        int(task.state),
        task.state_reason,
        task.holder,
        task.fence,
        task.attempt_count,
        task.agent,
        seal(task.task_id, "outcome", task.outcome),
        seal(task.task_id, "answers", task.answers),
        task.cancel_reason,
        task.avoid,
        task.avoid_until,
        task.update_time,
        task.sequence,
        task.upstream,
        task.doubt,
    )


def _inserted(task: TaskRecord, number: int) -> tuple[object, ...]:
    return (
        task.task_id,
        task.origin,
        queue_text(task.wait_key),
        task.submit_time,
        task.deadline,
        int(task.on_lost),
        task.context_id,
        task.idempotency_key,
        task.request_id,
        task.replay_of,
        *_mutable(task),
        task.demand.skill,
        number,
    )


class SqliteTaskStore:
    """hub.store.ports.TaskStore. `pack` makes segments of task entries; `new_epoch` names a log that is made on the way."""

    def __init__(self, database: Database, pack: Pack, new_epoch: Callable[[], str], keeper: LetterKeeper) -> None:
        self._database = database
        self._pack = pack
        self._new_epoch = new_epoch
        self._keeper = keeper

    async def transact(self, selection: Selection, decide: Decide, intake: Intake | None = None) -> Committed:
        """See TaskStore."""
        epoch = self._new_epoch()

        def run(connection: sqlite3.Connection) -> Committed:
            applied_before = -1
            if intake is not None:
                applied_before = _applied_before(connection, intake)
            known = _select(connection, selection)
            decision = decide(known, applied_before)
            changes = _write(connection, known, decision)
            if decision.references and intake is not None:
                blob_rows.refer(connection, decision.references, intake.node)
            given_up = [change.after for change in changes if change.after.state is TaskState.DEAD_LETTERED]
            if given_up:
                self._keeper.keep_tasks(connection, given_up)
            appended = self._append(connection, decision.entries, epoch)
            applied = None if intake is None else _settle(connection, intake, decision)
            refusals[:] = [decision.refusal]
            return Committed(changes, appended, applied)

        # A refusal raised inside would undo and repeat the whole group commit.
        refusals: list[EdgenodeError | None] = []
        size = 0 if intake is None else sum(len(segment.payload) for segment in intake.segments)
        committed = await self._database.write(run, size=size)
        if refusals[0] is not None:
            raise refusals[0]
        return committed

    def _append(
        self, connection: sqlite3.Connection, entries: Iterable[tuple[str, bytes]], epoch: str
    ) -> dict[str, int]:
        by_node: dict[str, list[bytes]] = defaultdict(list)
        for node, entry in entries:
            by_node[node].append(entry)
        appended = {}
        for node, payloads in by_node.items():
            log = logs.ensure_log(connection, task_log(node), epoch)
            logs.ensure_consumer(connection, log.log_id, node, log.first - 1)
            base = logs.append(connection, log.log_id, self._pack(payloads))
            appended[node] = base + len(payloads) - 1
        return appended

    async def get(self, task_id: str) -> TaskRecord | None:
        """See TaskStore."""

        def run(connection: sqlite3.Connection) -> TaskRecord | None:
            row = connection.execute(f"SELECT {_COLUMNS}, {_SPEC} FROM task WHERE task_id = ?", (task_id,)).fetchone()
            return None if row is None else _read(row)

        return await self._database.read(run)

    async def page(self, wanted: TaskFilter) -> Sequence[tuple[int, TaskRecord]]:
        """See TaskStore."""
        conditions, values = ["TRUE"], list[object]()
        if wanted.before_number:
            conditions.append("task_number < ?")
            values.append(wanted.before_number)
        if wanted.states:
            conditions.append(f"state IN ({', '.join(str(int(state)) for state in wanted.states)})")
        for column, value in (("skill", wanted.skill), ("context_id", wanted.context_id)):
            if value:
                conditions.append(f"{column} = ?")
                values.append(value)
        query = f"SELECT task_number, {_COLUMNS} FROM task WHERE {' AND '.join(conditions)} ORDER BY task_number DESC LIMIT ?"
        rows = await self._database.read(
            lambda connection: connection.execute(query, (*values, wanted.limit)).fetchall()
        )
        return [(row[0], _read(row[1:])) for row in rows]

    async def origins(self, task_ids: Sequence[str]) -> Mapping[str, tuple[str, str, int, int]]:
        """See TaskStore."""
        query = (
            "SELECT task_id, origin, holder, fence, upstream FROM task"
            " WHERE task_id IN (SELECT value FROM json_each(?)) AND state < 8"
        )
        names = json.dumps(list(task_ids))
        rows = await self._database.read(lambda connection: connection.execute(query, (names,)).fetchall())
        return {row[0]: row[1:] for row in rows}

    async def workload(self) -> Workload:
        """See TaskStore."""

        def run(connection: sqlite3.Connection) -> Workload:
            waiting = connection.execute(
                "SELECT queue, count(*) FROM task WHERE holder = '' AND state < 8 GROUP BY queue"
            ).fetchall()
            held = connection.execute(
                "SELECT holder, count(*) FROM task WHERE holder != '' AND state < 8 GROUP BY holder"
            ).fetchall()
            return Workload({queue_key(text): count for text, count in waiting}, dict(held), _deadline(connection))

        return await self._database.read(run)

    async def held_queues(self, node: str) -> Sequence[WaitKey]:
        """See TaskStore."""
        query = "SELECT DISTINCT queue FROM task WHERE holder = ? AND state < 8"
        rows = await self._database.read(lambda connection: connection.execute(query, (node,)).fetchall())
        return [queue_key(text) for (text,) in rows]

    async def next_deadline(self) -> float:
        """See TaskStore."""
        return await self._database.read(_deadline)

    async def state_counts(self) -> Mapping[str, int]:
        """See TaskStore."""
        counts = await self._database.read(lambda connection: logs.counters(connection, STATE))
        return {state: count for state, count in counts.items() if count}

    def check_room(self, size: int) -> None:
        """See TaskStore."""
        self._database.check_room(size)

    async def pass_time(self, seconds: float) -> float:
        """See TaskStore."""
        return await self._database.write(lambda connection: run_time.pass_time(connection, seconds))

    async def sweep(self, ended_before: float, limit: int) -> int:
        """See TaskStore."""

        def run(connection: sqlite3.Connection) -> int:
            rows = connection.execute(
                "SELECT task_number, state FROM task WHERE state >= 8 AND run_seconds < ? AND NOT EXISTS"
                " (SELECT 1 FROM dead_letter WHERE dead_letter.task_id = task.task_id AND dead_letter.task_id <> '')"
                " ORDER BY run_seconds LIMIT ?",
                (ended_before, limit),
            ).fetchall()
            numbers = [(number,) for number, _ in rows]
            connection.executemany("DELETE FROM task WHERE task_number = ?", numbers)
            connection.executemany("DELETE FROM task_spec WHERE task_number = ?", numbers)
            logs.count_many(connection, [(STATE, TaskState(state).name, -1) for _, state in rows])
            return len(rows)

        return await self._database.write(run)


def _next_number(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'task'").fetchone()
    return 1 if row is None else int(row[0]) + 1


def _deadline(connection: sqlite3.Connection) -> float:
    row = connection.execute("SELECT min(deadline) FROM task WHERE deadline > 0 AND state < 8").fetchone()
    return float(row[0] or 0.0)


def accept(connection: sqlite3.Connection, intake: Intake) -> inbox.Fresh:
    """inbox.accept for a node's lane."""
    return inbox.accept(connection, intake.node, intake.lane, intake.epoch, intake.base, intake.segments, intake.gap)


def _applied_before(connection: sqlite3.Connection, intake: Intake) -> int:
    """Advance the cursor; returns the last sequence that was applied before."""
    known = accept(connection, intake)
    return known.base + known.skip - 1 if known.segments else _end(intake)


def _end(intake: Intake) -> int:
    return intake.base - 1 + sum(segment.count for segment in intake.segments)


def _settle(connection: sqlite3.Connection, intake: Intake, decision: Decision) -> Applied:
    rejections = tuple(Rejection(sequence, problem) for sequence, problem in decision.rejected)
    if rejections:
        inbox.reject(connection, intake.node, intake.lane, intake.epoch, rejections)
    return Applied(_end(intake), rejections)


def _select(connection: sqlite3.Connection, selection: Selection) -> dict[str, TaskRecord]:
    columns = f"{_COLUMNS}, {_SPEC}" if selection.with_spec else _COLUMNS
    rows: list[Sequence[Any]] = []

    def read(condition: str, *values: object) -> None:
        rows.extend(connection.execute(f"SELECT {columns} FROM task WHERE {condition}", values))

    for column, keys in (
        ("task_id", selection.task_ids),
        ("request_id", selection.request_ids),
        ("idempotency_key", selection.idempotency_keys),
    ):
        if keys:
            read(f"{column} != '' AND {column} IN (SELECT value FROM json_each(?))", json.dumps(list(keys)))
    for key, count in selection.waiting.items():
        read(
            f"queue = ? AND holder = '' AND state < 8 AND doubt = 0{' AND state <> 2' if selection.not_parked else ''}"
            f"{' AND upstream >= 0' if selection.not_kept else ''}"
            " AND NOT (avoid = ? AND avoid_until > ? AND avoid_until < ?) ORDER BY task_number LIMIT ?",
            queue_text(key),
            selection.sole.get(key, ""),
            selection.now,
            selection.now + LONGEST_AVOIDANCE,
            count,
        )
    if selection.due is not None:
        read("deadline > 0 AND deadline <= ? AND state < 8 ORDER BY deadline LIMIT ?", selection.due, selection.limit)
    if selection.doubtful is not None:
        node = selection.doubtful
        read(
            "doubt > 0 AND state < 8 AND ((origin = ? AND doubt & ?) OR (holder = ? AND doubt & ?)) AND task_id > ?"
            " ORDER BY task_id LIMIT ?",
            node,
            IN_DOUBT_AT_ORIGIN,
            node,
            IN_DOUBT_AT_HOLDER,
            selection.after_task_id,
            selection.limit,
        )
    if selection.with_parent:
        read("state < 8 AND (holder = ? OR upstream > 0) ORDER BY task_number", PARENT)
    if selection.holder:
        read(
            "holder = ? AND state < 8 AND task_id > ? ORDER BY task_id LIMIT ?",
            selection.holder,
            selection.after_task_id,
            selection.limit,
        )
    return {task.task_id: task for task in map(_read, rows)}


def _write(connection: sqlite3.Connection, known: Mapping[str, TaskRecord], decision: Decision) -> tuple[Change, ...]:
    gone = _forget(connection, known, decision) if decision.forgotten else ()
    changes = tuple(
        Change(None if task_id in decision.forgotten else known.get(task_id), task)
        for task_id, task in decision.tasks.items()
    )
    new = [change.after for change in changes if change.before is None]
    changed = [(change.before, change.after) for change in changes if change.before is not None]
    if new:
        first = _next_number(connection)
        connection.executemany(_INSERT, [_inserted(task, first + index) for index, task in enumerate(new)])
        connection.executemany(
            "INSERT INTO task_spec VALUES (?, ?)",
            [(first + index, seal(task.task_id, "spec", task.spec)) for index, task in enumerate(new)],
        )
    if changed:
        rows = [(*_mutable(after), after.task_id, before.sequence) for before, after in changed]
        updated = connection.executemany(_UPDATE, rows).rowcount
        if updated != len(rows):
            raise Internal("TASK_CHANGED", f"{len(rows) - updated} tasks changed inside one transaction")
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for change in changes:
        after = change.after.state
        if change.before is None:
            counts[ACCEPTED, ""] += 1
        else:
            counts[STATE, change.before.state.name] -= 1
        counts[STATE, after.name] += 1
        if after.terminal:
            counts[ENDED, after.name] += 1
    for reason, count in decision.discarded.items():
        counts[DISCARDED, reason] += count
    logs.count_many(connection, [(name, reason, by) for (name, reason), by in counts.items() if by])
    return (*gone, *changes)


def _forget(connection: sqlite3.Connection, known: Mapping[str, TaskRecord], decision: Decision) -> tuple[Change, ...]:
    """Delete rows; to whoever counts or follows them they end as CANCELED."""
    gone = [(known[task_id], reason) for task_id, reason in decision.forgotten.items() if task_id in known]
    names = [(task.task_id,) for task, _ in gone]
    connection.executemany(
        "DELETE FROM task_spec WHERE task_number = (SELECT task_number FROM task WHERE task_id = ?)", names
    )
    connection.executemany("DELETE FROM task WHERE task_id = ?", names)
    logs.count_many(connection, [(STATE, task.state.name, -1) for task, _ in gone])
    logs.count_many(connection, [(ENDED, reason, 1) for _, reason in gone])
    return tuple(
        Change(task, msgspec.structs.replace(task, state=TaskState.CANCELED, state_reason=reason))
        for task, reason in gone
    )
