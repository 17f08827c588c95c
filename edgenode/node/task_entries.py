"""Entries of the task lane: what the node tells the hub, and what it stores of what the hub tells it.

Up go offers, reports, cancels, answers and returns; down come grants, reports, cancels, answers and revocations. The
functions that take a connection run in the transaction that also moves the lane's cursor, so that nothing is applied
twice and nothing acknowledged is forgotten; `TaskEngine.absorb` then brings memory up to date.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.blobs import rows as blob_rows
from edgenode.link.errors import EdgenodeError, InvalidArgument
from edgenode.link.model import dead_letter
from edgenode.link.model.blob import BlobRef
from edgenode.link.model.dead_letter import DeadLetter
from edgenode.link.model.lanes import Rejection, Segment
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import Level, TaskSpec, TaskState
from edgenode.link.store import logs
from edgenode.link.store.inbox import Fresh
from edgenode.link.store.seals import SEAL_BYTES, TaskDamaged, seal
from edgenode.link.wire.blobs import refs_from_pb
from edgenode.link.wire.tasks import TaskLimits, task_spec_from_proto
from edgenode.link.wire.values import problem_from_pb, problem_to_pb, timestamp_from_pb, timestamp_to_pb
from edgenode.node import task_store
from edgenode.node.message_log import PARENT
from edgenode.node.task_state import LiveTask

SEGMENT_BYTES = 256 * 1024
SEGMENT_COUNT = 500
_STATES = frozenset(int(state) for state in TaskState)


def offer(live: LiveTask) -> sync_pb2.TaskEntry:
    """Up: run this elsewhere."""
    entry = sync_pb2.TaskEntry(
        offer=sync_pb2.TaskOffer(task_id=live.task_id, submit_time=timestamp_to_pb(live.submit_time))
    )
    entry.offer.spec.ParseFromString(live.spec.wire)
    return entry


def report(live: LiveTask, node: str) -> sync_pb2.TaskEntry:
    """Up: what became of a granted task."""
    return sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=live.report_pb(node)))


def cancel(live: LiveTask, reason: str) -> sync_pb2.TaskEntry:
    """Up: a task that was offered is to end."""
    return sync_pb2.TaskEntry(cancel=sync_pb2.TaskCancel(task_id=live.task_id, reason=reason))


def answer(live: LiveTask, key: str, value: task_pb2.TaskOutput) -> sync_pb2.TaskEntry:
    """Up: an answer for the agent that runs it elsewhere."""
    return sync_pb2.TaskEntry(answer=sync_pb2.TaskAnswer(task_id=live.task_id, key=key, answer=value))


def give_back(task_id: str, fence: int, problem: Problem) -> sync_pb2.TaskEntry:
    """Up: a granted task cannot run here."""
    return sync_pb2.TaskEntry(
        returned=sync_pb2.TaskReturn(task_id=task_id, fence=fence, problem=problem_to_pb(problem))
    )


def restatement(connection: sqlite3.Connection, node: str, restate_id: str) -> list[sync_pb2.TaskEntry]:
    """Up: all that this node has with the hub, for one side has forgotten some of it."""
    own, granted = task_store.with_hub(connection)
    entries = []
    for task_id, submit_time, spec in own:
        offered = sync_pb2.TaskOffer(task_id=task_id, submit_time=timestamp_to_pb(submit_time), again=True)
        offered.spec.ParseFromString(spec)
        entries.append(sync_pb2.TaskEntry(offer=offered))
    for task_id in granted:
        again = _reported_again(connection, task_id, node)
        if again is not None:
            entries.append(again)
    restated = sync_pb2.TaskRestated(restate_id=restate_id, highest_fence=task_store.highest_fence(connection))
    entries.append(sync_pb2.TaskEntry(restated=restated))
    return entries


def _reported_again(connection: sqlite3.Connection, task_id: str, node: str) -> sync_pb2.TaskEntry | None:
    """Up: where a granted task stands, as stored; None if it is not here."""
    try:
        task = task_store.fetch(connection, task_id, node)
    except TaskDamaged as damaged:
        task = task_pb2.Task(task_id=task_id, state=task_pb2.TASK_STATE_FAILED, state_reason=damaged.reason)
        task.problem.CopyFrom(problem_to_pb(damaged.problem))
        (task.fence,) = connection.execute("SELECT fence FROM task WHERE task_id = ?", (task_id,)).fetchone()
    if task is None:
        return None
    task.ClearField("spec")
    return sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=task))


def pack(entries: Sequence[sync_pb2.TaskEntry], accepted: float) -> list[Segment]:
    """Entries as segments of bounded size; `accepted` is the wall clock."""
    segments: list[Segment] = []
    part = sync_pb2.TaskEntryBatch()
    size = 0
    for entry in entries:
        entry_size = entry.ByteSize()
        if part.entries and (size + entry_size > SEGMENT_BYTES or len(part.entries) >= SEGMENT_COUNT):
            segments.append(Segment(len(part.entries), part.SerializeToString(), accepted))
            part, size = sync_pb2.TaskEntryBatch(), 0
        part.entries.append(entry)
        size += entry_size
    if part.entries:
        segments.append(Segment(len(part.entries), part.SerializeToString(), accepted))
    return segments


def append(connection: sqlite3.Connection, log: str, entries: Sequence[sync_pb2.TaskEntry], accepted: float) -> int:
    """Append entries to the task log; returns the last sequence, 0 for no entries."""
    if not entries:
        return 0
    base = logs.append(connection, logs.log_state(connection, log).log_id, pack(entries, accepted))
    return base + len(entries) - 1


def acknowledged(connection: sqlite3.Connection, log: str) -> int:
    """Up to where the hub has the task log."""
    return logs.consumers(connection, logs.log_state(connection, log).log_id).get(PARENT, 0)


def unpack(fresh: Fresh) -> tuple[list[tuple[int, sync_pb2.TaskEntry]], list[Rejection]]:
    """(sequence, entry) of what is new, and rejections for segments that cannot be read."""
    entries: list[tuple[int, sync_pb2.TaskEntry]] = []
    rejections: list[Rejection] = []
    sequence = fresh.base
    first = fresh.base + fresh.skip
    for segment in fresh.segments:
        problem = None
        try:
            batch = sync_pb2.TaskEntryBatch.FromString(segment.payload)
            if (count := len(batch.entries)) != segment.count:
                problem = _bad_entry(f"the segment has {count} entries, {segment.count} were announced").problem
        except DecodeError as error:
            problem = _bad_entry(f"the segment cannot be read: {error}").problem
        for number in range(segment.count):
            if sequence + number < first:
                continue
            if problem is not None:
                rejections.append(Rejection(sequence + number, problem))
            else:
                entries.append((sequence + number, batch.entries[number]))
        sequence += segment.count
    return entries, rejections


def _bad_entry(detail: str) -> InvalidArgument:
    return InvalidArgument("BAD_ENTRY", detail, hint="compare the versions of hub and edge")


@dataclass(frozen=True, slots=True)
class Absorbed:
    """What the transaction made of the hub's entries, in order, for memory to follow; a LiveTask is a grant."""

    steps: tuple[LiveTask | sync_pb2.TaskEntry, ...]
    last_appended: int
    rejections: tuple[Rejection, ...] = ()
    blobs: tuple[BlobRef, ...] = ()  # that these tasks refer to


class EntryApplier:
    """Stores the hub's entries. `node` is this node's name, `log` the log that carries answers up.

    `on_dead_letter` keeps a task of this node's that was given up elsewhere: whoever has a task's row has its letter.
    """

    def __init__(
        self,
        node: str,
        log: str,
        limits: Callable[[], TaskLimits],
        on_dead_letter: Callable[[sqlite3.Connection, DeadLetter], None],
    ) -> None:
        self._node = node
        self._log = log
        self._limits = limits
        self._on_dead_letter = on_dead_letter

    def apply(
        self, connection: sqlite3.Connection, entries: Iterable[tuple[int, sync_pb2.TaskEntry]], now_time: float
    ) -> Absorbed:
        """Run inside the transaction that moves the cursor; each entry comes with its sequence.

        One that cannot be taken is rejected by itself, before it has written anything.
        """
        steps: list[LiveTask | sync_pb2.TaskEntry] = []
        replies: list[sync_pb2.TaskEntry] = []
        rejections: list[Rejection] = []
        references: list[tuple[str, BlobRef]] = []
        for sequence, entry in entries:
            try:
                step, answers = self._apply_one(connection, entry, now_time)
            except EdgenodeError as error:
                rejections.append(Rejection(sequence, error.problem))
                continue
            if step is not None:
                steps.append(step)
                references += _references(step)
            replies += answers
        if references:
            blob_rows.refer(connection, references, PARENT)
        last = append(connection, self._log, replies, now_time)
        return Absorbed(tuple(steps), last, tuple(rejections), tuple(ref for _, ref in references))

    def _apply_one(
        self, connection: sqlite3.Connection, entry: sync_pb2.TaskEntry, now_time: float
    ) -> tuple[LiveTask | sync_pb2.TaskEntry | None, Sequence[sync_pb2.TaskEntry]]:
        """(what memory is to follow, what the hub is told). Raises InvalidArgument (BAD_ENTRY)."""
        match entry.WhichOneof("entry"):
            case "grant":
                live, reply = self._grant(connection, entry.grant, now_time)
                return live, () if reply is None else (reply,)
            case "report":
                return self._report(connection, entry, now_time), ()
            case "revoke":
                gone = task_store.let_go(connection, entry.revoke.task_id, entry.revoke.fence, self._node, "REVOKED")
                return entry if gone else None, ()
            case "cancel":
                connection.execute(
                    "UPDATE task SET cancel_requested = 1 WHERE task_id = ? AND state < 8", (entry.cancel.task_id,)
                )
                return entry, ()
            case "answer":
                return entry if _store_answer(connection, entry.answer) else None, ()
            case "restate":
                return None, restatement(connection, self._node, entry.restate.restate_id)
            case other:
                raise _bad_entry(f"an entry of kind {other} does not come down")

    def _report(
        self, connection: sqlite3.Connection, entry: sync_pb2.TaskEntry, now_time: float
    ) -> sync_pb2.TaskEntry | None:
        task = entry.report.task
        if task.state not in _STATES:
            raise _bad_entry(f"task {task.task_id} is reported in state {task.state}")
        refs_from_pb(task.output.blobs, "output.blobs")  # before anything is written
        if not _store_report(connection, task, now_time):
            logs.count(connection, "task.downlink", "DISCARDED_REPORT")
            return None
        if task.state == task_pb2.TASK_STATE_DEAD_LETTERED:
            self._on_dead_letter(connection, _letter(connection, task, now_time))
        return entry

    def _grant(
        self, connection: sqlite3.Connection, grant: sync_pb2.TaskGrant, now_time: float
    ) -> tuple[LiveTask | None, sync_pb2.TaskEntry | None]:
        try:
            spec = self.spec(grant.spec)
        except EdgenodeError as error:
            return None, give_back(grant.task_id, grant.fence, error.problem)
        live = LiveTask(grant.task_id, spec, grant.origin_node, now_time)
        live.submit_time = timestamp_from_pb(grant.submit_time)
        live.fence = grant.fence
        live.attempts = grant.attempt_count
        live.answers = dict(grant.answers)
        live.level = Level.DURABLE_HUB
        live.note()
        known = connection.execute(
            "SELECT state, fence, level, answers FROM task WHERE task_id = ?", (grant.task_id,)
        ).fetchone()
        if known is None:
            task_store.insert(connection, [task_store.insert_row(live)])
            return live, None
        state, fence, level, answers = known
        if fence >= grant.fence:
            return None, None
        if TaskState(state).terminal:
            # It ended here under an older fence: say so again rather than run it twice.
            connection.execute("UPDATE task SET fence = ? WHERE task_id = ?", (grant.fence, grant.task_id))
            return None, _reported_again(connection, grant.task_id, self._node)
        live.level = max(live.level, Level(level))
        try:
            live.answers = task_store.decode_answers(grant.task_id, answers) | live.answers
        except TaskDamaged as damaged:
            return None, give_back(grant.task_id, grant.fence, damaged.problem)
        task_store.update(connection, [task_store.update_row(live)])
        return live, None

    def spec(self, message: task_pb2.TaskSpec) -> TaskSpec:
        """The checked spec of a grant; a deadline in the past is left to the engine, which expires the task."""
        return task_spec_from_proto(
            message,
            limits=self._limits(),
            now=None,
            node=self._node,
        )


def _references(step: LiveTask | sync_pb2.TaskEntry) -> list[tuple[str, BlobRef]]:
    """The blobs that a grant's input or a report's output refers to, with the task."""
    if isinstance(step, LiveTask):
        return [(step.task_id, ref) for ref in step.spec.blobs]
    task = step.report.task
    return [(task.task_id, ref) for ref in refs_from_pb(task.output.blobs, "output.blobs")]


def _store_report(connection: sqlite3.Connection, task: task_pb2.Task, now_time: float) -> bool:
    state = TaskState(task.state)
    changed = connection.execute(
        "UPDATE task SET state = ?, state_reason = ?, holder_node = ?, attempt_count = ?, agent = ?, sequence = sequence + 1,"
        " update_time = ?, output = ?, problem = ?, input_request = ?, level = max(level, ?),"
        " cancel_requested = cancel_requested AND NOT ?, fence = CASE WHEN ? THEN ? ELSE fence END"
        " WHERE task_id = ? AND state < 8 AND holder_node <> ''",
        (
            task.state,
            task.state_reason,
            task.holder_node,
            task.attempt_count,
            task.agent,
            now_time,
            seal(task.task_id, "output", task.output.SerializeToString()) if task.HasField("output") else None,
            seal(task.task_id, "problem", task.problem.SerializeToString()) if task.HasField("problem") else None,
            seal(task.task_id, "input_request", task.input_request.SerializeToString())
            if task.HasField("input_request")
            else None,
            int(Level.DONE if state.terminal else Level.DURABLE_HUB),
            state.terminal,
            state.terminal,
            task.fence,
            task.task_id,
        ),
    ).rowcount
    if changed and state.terminal:
        logs.count(connection, task_store.COUNTER, state.name)
    return changed > 0


def _letter(connection: sqlite3.Connection, task: task_pb2.Task, now_time: float) -> DeadLetter:
    skill, size = connection.execute(
        "SELECT skill, length(spec) - ? FROM task WHERE task_id = ?", (SEAL_BYTES, task.task_id)
    ).fetchone()
    problem = problem_from_pb(task.problem)
    attempts = task.attempt_count
    return DeadLetter(dead_letter.TASK, skill, problem, now_time, task_id=task.task_id, attempts=attempts, size=size)


def _store_answer(connection: sqlite3.Connection, given: sync_pb2.TaskAnswer) -> bool:
    row = connection.execute("SELECT answers FROM task WHERE task_id = ? AND state < 8", (given.task_id,)).fetchone()
    if row is None:
        return False
    answers = task_store.decode_answers(given.task_id, row[0])
    answers[given.key] = given.answer
    stored = task_store.encode_answers(given.task_id, answers)
    connection.execute("UPDATE task SET answers = ? WHERE task_id = ?", (stored, given.task_id))
    return True
