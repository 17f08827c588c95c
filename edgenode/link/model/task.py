"""Tasks as the cores see them. Numbers are those of the contract."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from edgenode.link.model.blob import BlobRef


class TaskState(enum.IntEnum):
    """Where a task stands."""

    QUEUED = 1
    PARKED = 2
    ASSIGNED = 3
    WORKING = 4
    INPUT_REQUIRED = 5
    AUTH_REQUIRED = 6
    RETRY_WAIT = 7
    COMPLETED = 8
    FAILED = 9
    CANCELED = 10
    REJECTED = 11
    EXPIRED = 12
    DEAD_LETTERED = 13

    __hash__ = int.__hash__  # a key at every change of state; Enum's own is written in Python

    @property
    def terminal(self) -> bool:
        """Whether it never changes again."""
        return self >= TaskState.COMPLETED


class OnLost(enum.IntEnum):
    """What happens to a task whose agent or node is lost while it works."""

    RETRY = 1
    WAIT = 2
    FAIL = 3


class Scope(enum.IntEnum):
    """Where a task may run."""

    LOCAL = 1
    FLEET = 2


class Level(enum.IntEnum):
    """How far an accepted thing has come."""

    ACCEPTED = 1
    DURABLE_LOCAL = 2
    DURABLE_HUB = 3
    DELIVERED = 4
    DONE = 5


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and how often to try again; durations in seconds. Empty `reasons`: every retryable problem."""

    attempts: int = 3
    initial_backoff: float = 1.0
    max_backoff: float = 60.0
    multiplier: float = 2.0
    reasons: tuple[str, ...] = ()


PRIORITY = 5  # where nothing else is said
URGENT = 8  # from this priority on a task waits for no frame, turn or transaction of others


class TaskSpec(NamedTuple):
    """What decides where and when a task runs. `wire` holds the submitter's whole TaskSpec, serialised and unread.

    `deadline` is wall-clock seconds, 0 for none; `attempt_timeout` seconds, 0 for the skill's or node's default.
    """

    skill: str
    wire: bytes
    selector: str = ""
    agent: str = ""
    priority: int = PRIORITY
    deadline: float = 0.0
    scope: Scope = Scope.LOCAL
    retry: RetryPolicy = RetryPolicy()
    on_lost: OnLost = OnLost.RETRY
    attempt_timeout: float = 0.0
    idempotency_key: str = ""
    context_id: str = ""
    cost_limit: float | None = None
    blobs: tuple[BlobRef, ...] = ()

    def with_content(self, wire: bytes, deadline: float) -> TaskSpec:
        """The same but for these two; as `_replace`, at an eighth of its cost."""
        return tuple.__new__(TaskSpec, (self[0], wire, *self[2:5], deadline, *self[6:]))
