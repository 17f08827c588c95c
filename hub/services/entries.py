"""Task entries and message segments: bytes <-> what the mover and the stores decide on.

A spec or a report may be a megabyte that the hub has no need to read: where one message holds another that is there as
bytes already, the two are spliced (in protobuf, a message is the concatenation of its fields), not parsed and written anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import cast

from google.protobuf.message import DecodeError

from edgenode.api.message.v1 import message_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import EdgenodeError, InvalidArgument
from edgenode.link.model.lanes import Segment
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import TaskSpec, TaskState
from edgenode.link.ports import Clock
from edgenode.link.protocol.scheduler import Demand
from edgenode.link.wire.tasks import TaskLimits, task_spec_from_proto
from edgenode.link.wire.values import problem_to_pb, timestamp_from_pb, timestamp_to_pb
from hub.services.moves import Answered, CancelAsked, Entry, Malformed, Offered, Reported, Returned, Unacceptable
from hub.store.records import TaskRecord

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
_GRANT = sync_pb2.TaskEntry.GRANT_FIELD_NUMBER
_REPORT = sync_pb2.TaskEntry.REPORT_FIELD_NUMBER
_SPEC = sync_pb2.TaskGrant.SPEC_FIELD_NUMBER
_REPORTED_TASK = sync_pb2.TaskReport.TASK_FIELD_NUMBER


class EntryCodec:
    """See hub.services.moves.Codec. `hub` is the hub's name."""

    def __init__(self, hub: str) -> None:
        self._hub = hub

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


def refused_grant(payload: bytes, place: int) -> tuple[str, int] | None:
    """(task, fence) of the grant at `place` of a segment of task entries; None for any other entry."""
    try:
        entry = sync_pb2.TaskEntryBatch.FromString(payload).entries[place]
    except (DecodeError, IndexError):
        return None
    return (entry.grant.task_id, entry.grant.fence) if entry.HasField("grant") else None


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


class EntryReader:
    """Entries of a node's task lane as events for the mover."""

    def __init__(self, limits: TaskLimits) -> None:
        self._limits = limits

    def read(
        self, node: str, base: int, segments: Sequence[Segment], now: float
    ) -> tuple[list[tuple[int, Entry]], list[str]]:
        """(sequence, event) of each entry from `base` on, and the ids of the tasks they speak of."""
        events: list[tuple[int, Entry]] = []
        task_ids: list[str] = []
        sequence = base
        for segment in segments:
            try:
                batch = sync_pb2.TaskEntryBatch.FromString(segment.payload)
                if len(batch.entries) != segment.count:
                    raise DecodeError(f"{len(batch.entries)} entries where {segment.count} were announced")
            except DecodeError as error:
                problem = _bad_entry(f"the segment cannot be read: {error}").problem
                events += [(sequence + index, Malformed(problem)) for index in range(segment.count)]
            else:
                for index, entry in enumerate(batch.entries):
                    event = self._event(node, entry, now)
                    events.append((sequence + index, event))
                    if isinstance(event, Offered):
                        task_ids.append(event.task.task_id)
                    elif not isinstance(event, Malformed):
                        task_ids.append(event.task_id)
            sequence += segment.count
        return events, task_ids

    def _event(self, node: str, entry: sync_pb2.TaskEntry, now: float) -> Entry:
        try:
            match entry.WhichOneof("entry"):
                case "offer":
                    return self._offer(node, entry.offer, now)
                case "report":
                    return _report(entry.report.task)
                case "returned":
                    problem = entry.returned.problem
                    return Returned(
                        entry.returned.task_id, entry.returned.fence, f"{problem.reason}: {problem.message}"
                    )
                case "cancel":
                    return CancelAsked(entry.cancel.task_id, entry.cancel.reason)
                case "answer":
                    given = entry.answer
                    return Answered(given.task_id, given.key, given.answer.SerializeToString())
                case other:
                    raise _bad_entry(f"an entry of kind {other} does not go up")
        except EdgenodeError as error:
            return Malformed(error.problem)

    def _offer(self, node: str, offer: sync_pb2.TaskOffer, now: float) -> Offered | Unacceptable:
        if not 1 <= len(offer.task_id) <= 64 or not offer.task_id.isascii() or not offer.task_id.isprintable():
            raise _bad_entry("an offer without a proper task id")
        try:
            return Offered(self._offered(node, offer, now))
        except EdgenodeError as error:
            return Unacceptable(offer.task_id, error.problem)

    def _offered(self, node: str, offer: sync_pb2.TaskOffer, now: float) -> TaskRecord:
        # A deadline in the past is no fault of the entry: the mover expires the task.
        checked_at = now
        if offer.spec.HasField("deadline_time"):
            checked_at = min(now, timestamp_from_pb(offer.spec.deadline_time, "spec.deadline_time") - 1)
        spec = task_spec_from_proto(offer.spec, limits=self._limits, now=checked_at, node=node)
        return record_of(offer.task_id, node, spec, timestamp_from_pb(offer.submit_time, "submit_time"))


def _report(task: task_pb2.Task) -> Reported:
    if task.HasField("spec"):
        task.ClearField("spec")
    try:
        state = TaskState(task.state)
    except ValueError:
        # Whatever it means, its holder is not going to say it otherwise.
        state = TaskState.FAILED
        task.problem.CopyFrom(problem_to_pb(_bad_entry(f"{task.holder_node} reported state {task.state}").problem))
        task.state = task_pb2.TASK_STATE_FAILED
    return Reported(
        task_id=task.task_id,
        fence=task.fence,
        state=state,
        state_reason=task.state_reason,
        attempt_count=task.attempt_count,
        agent=task.agent,
        outcome=task.SerializeToString(),
    )


def _bad_entry(message: str) -> InvalidArgument:
    return InvalidArgument("BAD_ENTRY", message, hint="compare the versions of hub and edge")
