"""What every kind of mount needs: the bounds it was given, and what it remembers of the tasks it passed on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypedDict, TypeVar

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.wire.agents import DEFAULT_LEASE
from edgenode.link.wire.mounts import MAX_REFUSED
from edgenode.link.wire.values import duration_from_pb
from edgenode.sdk import Context

DEFAULT_CONCURRENCY = 16
REMEMBERED = 4096

Value = TypeVar("Value")


class Bounds(TypedDict):
    """Of an agent; see Agent."""

    concurrency: int
    lease: float


def bounds_of(policy: admin_pb2.MountPolicy) -> Bounds:
    """Those of a mount, with what it leaves out."""
    lease = duration_from_pb(policy.lease_duration) if policy.HasField("lease_duration") else DEFAULT_LEASE
    return Bounds(concurrency=policy.concurrency_count or DEFAULT_CONCURRENCY, lease=lease)


def refusals(refused: Sequence[str]) -> list[str]:
    """What a mount's status says of tools that are no skills: all of them, or so many and how many more there are."""
    if len(refused) <= MAX_REFUSED:
        return list(refused)
    return [*refused[: MAX_REFUSED - 1], f"and {len(refused) - MAX_REFUSED + 1} more"]


class Recent(Generic[Value]):
    """The newest values by task, so many that what runs is among them."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, Value] = OrderedDict()

    def put(self, task_id: str, value: Value) -> None:
        """Remember it; the oldest may be forgotten for it."""
        self._values[task_id] = value
        self._values.move_to_end(task_id)
        if len(self._values) > REMEMBERED:
            self._values.popitem(last=False)

    def get(self, task_id: str) -> Value | None:
        """The value, if it is remembered."""
        return self._values.get(task_id)

    def drop(self, task_id: str) -> None:
        """Forget it."""
        self._values.pop(task_id, None)


class Unsent:
    """Attempts that ended before anything was sent: the next one repeats nothing."""

    def __init__(self) -> None:
        self._attempts = Recent[int]()

    def note(self, ctx: Context) -> None:
        """Nothing was sent in this attempt, nor in those before it."""
        self._attempts.put(ctx.task_id, ctx.attempt)

    def before(self, ctx: Context) -> bool:
        """Whether nothing can have been sent before this attempt."""
        return ctx.attempt == 1 or (self._attempts.get(ctx.task_id) or 0) >= ctx.attempt - 1
