"""Task entries and message segments: bytes <-> what the mover and the stores decide on.

A spec or a report may be a megabyte that the hub has no need to read: where one message holds another that is there as
bytes already, the two are spliced (in protobuf, a message is the concatenation of its fields), not parsed and written anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from google.protobuf.message import DecodeError

from edgenode.api.message.v1 import message_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import EdgenodeError, InvalidArgument
from edgenode.link.model import dead_letter
from edgenode.link.model.dead_letter import DeadLetter
from edgenode.link.model.lanes import Lane, Segment
from edgenode.link.model.names import below
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import TaskSpec, TaskState
from edgenode.link.ports import Clock
from edgenode.link.protocol.scheduler import Demand
from edgenode.link.wire.blobs import refs_from_pb
from edgenode.link.wire.dead_letters import entry_content
from edgenode.link.wire.tasks import TaskLimits, task_spec_from_proto
from edgenode.link.wire.values import problem_from_pb, problem_to_pb, timestamp_from_pb, timestamp_to_pb
from hub.services.moves import (
    Answered,
    CancelAsked,
    Entry,
    Malformed,
    Offered,
    Reported,
    Restated,
    Returned,
    TaskMove,
    Unacceptable,
)
from hub.store.records import PARENT, TaskRecord

SEGMENT_BYTES = 256 * 1024
SEGMENT_COUNT = 500

_LENGTH_DELIMITED = 2


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    length = len(payload)
    head = bytearray([number << 3 | _LENGTH_DELIMITED])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + payload


_ENTRIES = sync_pb2.TaskEntryBatch.ENTRIES_FIELD_NUMBER
_OFFER = sync_pb2.TaskEntry.OFFER_FIELD_NUMBER
_OFFERED_SPEC = sync_pb2.TaskOffer.SPEC_FIELD_NUMBER
_GRANT = sync_pb2.TaskEntry.GRANT_FIELD_NUMBER
_REPORT = sync_pb2.TaskEntry.REPORT_FIELD_NUMBER
_SPEC = sync_pb2.TaskGrant.SPEC_FIELD_NUMBER
_REPORTED_TASK = sync_pb2.TaskReport.TASK_FIELD_NUMBER


class EntryCodec:
    """See hub.services.moves.Codec. `hub` is the hub's name, `child` the one by which its parent knows it."""

    def __init__(self, hub: str, child: str = "") -> None:
        self._hub = hub
        self._child = child

    def grant(self, task: TaskRecord) -> bytes:
        """See Codec."""
        facts = sync_pb2.TaskGrant(
            task_id=task.task_id,
            submit_time=timestamp_to_pb(task.submit_time),
            origin_node=task.origin,
            fence=task.fence,
            attempt_count=task.attempt_count,
        )
        return _field(_GRANT, facts.SerializeToString() + task.answers + _field(_SPEC, task.spec))

    def report(self, outcome: bytes) -> bytes:
        """See Codec."""
        return _field(_REPORT, _field(_REPORTED_TASK, outcome))

    def cancel(self, task_id: str, reason: str) -> bytes:
        """See Codec."""
        return sync_pb2.TaskEntry(cancel=sync_pb2.TaskCancel(task_id=task_id, reason=reason)).SerializeToString()

    def revoke(self, task_id: str, fence: int) -> bytes:
        """See Codec."""
        return sync_pb2.TaskEntry(revoke=sync_pb2.TaskRevoke(task_id=task_id, fence=fence)).SerializeToString()

    def answer(self, task_id: str, key: str, answer: bytes) -> bytes:
        """See Codec."""
        given = sync_pb2.TaskAnswer(task_id=task_id, key=key, answer=task_pb2.TaskOutput.FromString(answer))
        return sync_pb2.TaskEntry(answer=given).SerializeToString()

    def answers(self, key: str, answer: bytes) -> bytes:
        """See Codec."""
        return sync_pb2.TaskGrant(answers={key: task_pb2.TaskOutput.FromString(answer)}).SerializeToString()

    def restate(self, restate_id: str) -> bytes:
        """See Codec."""
        return sync_pb2.TaskEntry(restate=sync_pb2.TaskRestate(restate_id=restate_id)).SerializeToString()

    def restated(self, restate_id: str) -> bytes:
        """See Codec."""
        return sync_pb2.TaskEntry(restated=sync_pb2.TaskRestated(restate_id=restate_id)).SerializeToString()

    def offer(self, task: TaskRecord, again: bool = False) -> bytes:
        """See Codec."""
        facts = sync_pb2.TaskOffer(task_id=task.task_id, submit_time=timestamp_to_pb(task.submit_time), again=again)
        return _field(_OFFER, facts.SerializeToString() + _field(_OFFERED_SPEC, task.spec))

    def report_up(self, outcome: bytes, fence: int) -> bytes:
        """See Codec."""
        task = task_pb2.Task.FromString(outcome)
        task.fence = fence
        task_named_above(task, self._hub, self._child)
        return sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=task)).SerializeToString()

    def give_back(self, task_id: str, fence: int, problem: Problem) -> bytes:
        """See Codec."""
        returned = sync_pb2.TaskReturn(task_id=task_id, fence=fence, problem=problem_to_pb(problem))
        return sync_pb2.TaskEntry(returned=returned).SerializeToString()

    def outcome(self, task: TaskRecord, problem: Problem | None) -> bytes:
        """See Codec."""
        message = task_pb2.Task(
            task_id=task.task_id,
            state=cast("task_pb2.TaskState", int(task.state)),
            state_reason=task.state_reason,
            attempt_count=task.attempt_count,
            agent=task.agent,
            origin_node=task.origin,
            holder_node=self._hub,
            fence=task.fence,
            problem=None if problem is None else problem_to_pb(problem),
            update_time=timestamp_to_pb(task.update_time),
        )
        return message.SerializeToString()


def task_named_above(task: task_pb2.Task, hub: str, child: str) -> None:
    """Name origin, holder and agent as the parent names them; `hub` is this hub's own name, `child` the parent's for it."""
    from_above = task.origin_node.startswith(f"{PARENT}/")
    task.origin_node = task.origin_node.removeprefix(f"{PARENT}/") if from_above else child
    task.holder_node = child if task.holder_node == hub else f"{child}/{task.holder_node}"
    if task.agent:
        task.agent = below(child, task.agent)


def pack(clock: Clock) -> Callable[[Sequence[bytes]], list[Segment]]:
    """Makes segments of bounded size from serialised entries, in order."""

    def run(entries: Sequence[bytes]) -> list[Segment]:
        segments: list[Segment] = []
        part: list[bytes] = []
        size = 0
        now = clock.wall()
        for entry in entries:
            if part and (size + len(entry) > SEGMENT_BYTES or len(part) >= SEGMENT_COUNT):
                segments.append(Segment(len(part), b"".join(part), now))
                part, size = [], 0
            part.append(_field(_ENTRIES, entry))
            size += len(entry)
        if part:
            segments.append(Segment(len(part), b"".join(part), now))
        return segments

    return run


def cut_messages(segment: Segment, count: int) -> Segment:
    """A segment of the message lane without its first `count` entries; one that cannot be read stays as it is."""
    try:
        batch = message_pb2.MessageBatch.FromString(segment.payload)
    except DecodeError:
        return segment
    del batch.messages[:count]
    return dataclasses.replace(
        segment,
        count=segment.count - count,
        payload=batch.SerializeToString(),
        origin_sequence=segment.origin_sequence + count,
    )


def refused_content(lane: Lane, payload: bytes, place: int) -> tuple[str, str, str, bytes] | None:
    """As `entry_content`, with the grants told apart: those the hub gives elsewhere by itself."""
    content = entry_content(lane, payload, place)
    if content is None or lane is not Lane.TASK or not sync_pb2.TaskEntry.FromString(content[3]).HasField("grant"):
        return content
    return (dead_letter.GRANT, *content[1:])


def refused_grant(letter: DeadLetter) -> tuple[str, int]:
    """(task, fence) of a grant that a node would not take."""
    grant = sync_pb2.TaskEntry.FromString(letter.payload).grant
    return grant.task_id, grant.fence


def task_letter(task: TaskRecord) -> DeadLetter:
    """What is kept of a task that was given up; its row has the rest."""
    problem = problem_from_pb(task_pb2.Task.FromString(task.outcome).problem)
    return DeadLetter(
        dead_letter.TASK,
        task.demand.skill,
        problem,
        task.update_time,
        node=task.holder,
        task_id=task.task_id,
        attempts=task.attempt_count,
    )


def record_of(task_id: str, origin: str, spec: TaskSpec, submit_time: float) -> TaskRecord:
    """A task that is new here."""
    return TaskRecord(
        task_id=task_id,
        origin=origin,
        demand=Demand(spec.skill, spec.selector, spec.agent, spec.cost_limit),
        priority=spec.priority,
        submit_time=submit_time,
        deadline=spec.deadline,
        on_lost=spec.on_lost,
        context_id=spec.context_id,
        spec=spec.wire,
        update_time=submit_time,
    )


E = TypeVar("E")


def read_entries(
    base: int, segments: Sequence[Segment], read: Callable[[sync_pb2.TaskEntry], tuple[str, E]]
) -> tuple[list[tuple[int, E | Malformed]], list[str]]:
    """(sequence, event) of each entry from `base` on, and the ids of the tasks they speak of.

    `read` gives (task, event) of an entry and raises EdgenodeError if not even its task can be read.
    """
    events: list[tuple[int, E | Malformed]] = []
    task_ids: list[str] = []
    sequence = base
    for segment in segments:
        try:
            batch = sync_pb2.TaskEntryBatch.FromString(segment.payload)
            if len(batch.entries) != segment.count:
                raise DecodeError(f"{len(batch.entries)} entries where {segment.count} were announced")
        except DecodeError as error:
            problem = bad_entry(f"the segment cannot be read: {error}").problem
            events += [(sequence + index, Malformed(problem)) for index in range(segment.count)]
        else:
            for index, entry in enumerate(batch.entries):
                try:
                    task_id, event = read(entry)
                except EdgenodeError as error:
                    events.append((sequence + index, Malformed(error.problem)))
                else:
                    events.append((sequence + index, event))
                    task_ids.append(task_id)
        sequence += segment.count
    return events, task_ids


class EntryReader:
    """Entries of a node's task lane as events for the mover."""

    def __init__(self, limits: TaskLimits) -> None:
        self._limits = limits

    def read(
        self, node: str, base: int, segments: Sequence[Segment], now: float
    ) -> tuple[list[tuple[int, Entry]], list[str]]:
        """See read_entries."""
        return read_entries(base, segments, lambda entry: self._event(node, entry, now))

    def _event(self, node: str, entry: sync_pb2.TaskEntry, now: float) -> tuple[str, TaskMove | Restated]:
        match entry.WhichOneof("entry"):
            case "offer":
                return entry.offer.task_id, self._offer(node, entry.offer)
            case "report":
                return entry.report.task.task_id, report_event(entry.report.task)
            case "returned":
                given_back, problem = entry.returned, entry.returned.problem
                reason = f"{problem.reason}: {problem.message}"
                return given_back.task_id, Returned(given_back.task_id, given_back.fence, reason)
            case "cancel":
                return entry.cancel.task_id, CancelAsked(entry.cancel.task_id, entry.cancel.reason)
            case "answer":
                return entry.answer.task_id, answer_event(entry.answer)
            case "restated":
                return "", Restated(entry.restated.restate_id, entry.restated.highest_fence)
            case other:
                raise bad_entry(f"an entry of kind {other} does not go up")

    def _offer(self, node: str, offer: sync_pb2.TaskOffer) -> Offered | Unacceptable:
        check_task_id(offer.task_id)
        try:
            spec = checked_spec(offer.spec, self._limits, node)
            submit_time = timestamp_from_pb(offer.submit_time, "submit_time")
            return Offered(record_of(offer.task_id, node, spec, submit_time), offer.again, spec.blobs)
        except EdgenodeError as error:
            return Unacceptable(offer.task_id, error.problem)


def check_task_id(task_id: str) -> None:
    """Raises InvalidArgument (BAD_ENTRY)."""
    if not 1 <= len(task_id) <= 64 or not task_id.isascii() or not task_id.isprintable():
        raise bad_entry("a task without a proper id")


def checked_spec(spec: task_pb2.TaskSpec, limits: TaskLimits, node: str) -> TaskSpec:
    """The spec of an entry, checked. A deadline in the past is no fault of the entry: the mover expires the task."""
    return task_spec_from_proto(spec, limits=limits, now=None, node=node)


def answer_event(given: sync_pb2.TaskAnswer) -> Answered:
    """An answer as the mover hears it."""
    return Answered(given.task_id, given.key, given.answer.SerializeToString())


def report_event(task: task_pb2.Task) -> Reported:
    """A report as the mover hears it."""
    if task.HasField("spec"):
        task.ClearField("spec")
    try:
        state = TaskState(task.state)
    except ValueError:
        # Whatever it means, its holder is not going to say it otherwise.
        state = TaskState.FAILED
        task.problem.CopyFrom(problem_to_pb(bad_entry(f"{task.holder_node} reported state {task.state}").problem))
        task.state = task_pb2.TASK_STATE_FAILED
    return Reported(
        task_id=task.task_id,
        fence=task.fence,
        state=state,
        state_reason=task.state_reason,
        attempt_count=task.attempt_count,
        agent=task.agent,
        outcome=task.SerializeToString(),
        origin=task.origin_node,
        blobs=refs_from_pb(task.output.blobs, "output.blobs"),
    )


def retell(payload: bytes, count: int, in_force: Callable[[str, int], bool]) -> bytes:
    """Entries for a node that had the first `count` of them before: of those, grants that are not in force any more are
    told as their revocation."""
    batch = sync_pb2.TaskEntryBatch.FromString(payload)
    changed = False
    for entry in batch.entries[:count]:
        if entry.HasField("grant") and not in_force(entry.grant.task_id, entry.grant.fence):
            entry.revoke.CopyFrom(sync_pb2.TaskRevoke(task_id=entry.grant.task_id, fence=entry.grant.fence))
            changed = True
    return batch.SerializeToString() if changed else payload


def bad_entry(message: str) -> InvalidArgument:
    """The error for an entry that cannot be read."""
    return InvalidArgument("BAD_ENTRY", message, hint="compare the versions of hub and edge")
