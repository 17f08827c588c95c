"""Entries of the parent's task lane as events for the mover."""

from __future__ import annotations

from collections.abc import Sequence

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import EdgenodeError
from edgenode.link.model.lanes import Segment
from edgenode.link.model.names import seen_from
from edgenode.link.wire.tasks import TaskLimits
from edgenode.link.wire.values import timestamp_from_pb
from hub.services.entries import (
    answer_event,
    bad_entry,
    check_task_id,
    checked_spec,
    read_entries,
    record_of,
    report_event,
)
from hub.services.moves import Asked, CancelAsked, Granted, GrantRefused, ParentMove, Revoked
from hub.store.records import PARENT


class ParentReader:
    """`child` is the name by which the parent knows this hub: agents below it are named without it here."""

    def __init__(self, limits: TaskLimits, child: str) -> None:
        self._limits = limits
        self._child = child

    def read(
        self, base: int, segments: Sequence[Segment], now: float
    ) -> tuple[list[tuple[int, ParentMove]], list[str]]:
        """See read_entries."""
        return read_entries(base, segments, lambda entry: self._event(entry, now))

    def _event(self, entry: sync_pb2.TaskEntry, now: float) -> tuple[str, ParentMove]:
        match entry.WhichOneof("entry"):
            case "grant":
                return entry.grant.task_id, self._grant(entry.grant)
            case "report":
                return entry.report.task.task_id, report_event(entry.report.task)
            case "revoke":
                return entry.revoke.task_id, Revoked(entry.revoke.task_id, entry.revoke.fence)
            case "restate":
                return "", Asked(entry.restate.restate_id)
            case "cancel":
                return entry.cancel.task_id, CancelAsked(entry.cancel.task_id, entry.cancel.reason)
            case "answer":
                return entry.answer.task_id, answer_event(entry.answer)
            case other:
                raise bad_entry(f"an entry of kind {other} does not come down")

    def _grant(self, grant: sync_pb2.TaskGrant) -> Granted | GrantRefused:
        check_task_id(grant.task_id)
        try:
            return self._granted(grant)
        except EdgenodeError as error:
            return GrantRefused(grant.task_id, grant.fence, error.problem)

    def _granted(self, grant: sync_pb2.TaskGrant) -> Granted:
        if grant.spec.agent:
            grant.spec.agent = seen_from(self._child, grant.spec.agent)
        spec = checked_spec(grant.spec, self._limits, "")
        origin = f"{PARENT}/{grant.origin_node}"
        record = record_of(grant.task_id, origin, spec, timestamp_from_pb(grant.submit_time, "submit_time"))
        answers = sync_pb2.TaskGrant(answers=grant.answers).SerializeToString()
        return Granted(record.as_granted(grant.fence, grant.attempt_count, answers), spec.blobs)
