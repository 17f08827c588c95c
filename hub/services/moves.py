"""What nodes say about tasks, as the mover hears it, and what it has the codec say to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from edgenode.link.model.blob import BlobRef
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import TaskState
from hub.store.records import TaskRecord


class Codec(Protocol):
    """Task entries for nodes, serialised."""

    def grant(self, task: TaskRecord) -> bytes:
        """Run this; needs the spec."""
        ...

    def report(self, outcome: bytes) -> bytes:
        """What became of a task; `outcome` as in TaskRecord."""
        ...

    def cancel(self, task_id: str, reason: str) -> bytes:
        """Let it end."""
        ...

    def revoke(self, task_id: str, fence: int) -> bytes:
        """Forget it."""
        ...

    def answer(self, task_id: str, key: str, answer: bytes) -> bytes:
        """An answer to the agent's question; `answer` is a TaskOutput, serialised."""
        ...

    def answers(self, key: str, answer: bytes) -> bytes:
        """The same as TaskRecord keeps it."""
        ...

    def outcome(self, task: TaskRecord, problem: Problem | None) -> bytes:
        """The task as the hub itself reports it."""
        ...

    def restate(self, restate_id: str) -> bytes:
        """Say again what you have."""
        ...

    def offer(self, task: TaskRecord, again: bool = False) -> bytes:
        """To the parent: run this elsewhere; needs the spec. `again`: it was asked for."""
        ...

    def restated(self, restate_id: str) -> bytes:
        """To the parent: this was all that was asked for."""
        ...

    def report_up(self, outcome: bytes, fence: int) -> bytes:
        """To the parent: what became of its grant of that fence; `outcome` as in TaskRecord."""
        ...

    def give_back(self, task_id: str, fence: int, problem: Problem) -> bytes:
        """To the parent: its grant of that fence cannot run here."""
        ...


@dataclass(frozen=True, slots=True)
class Offered:
    """A node or a caller wants this run. `again`: it was asked whether it still does."""

    task: TaskRecord
    again: bool = False
    blobs: tuple[BlobRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Unacceptable:
    """An offer that names its task but cannot be taken."""

    task_id: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Reported:
    """A holder says what became of its grant."""

    task_id: str
    fence: int
    state: TaskState
    state_reason: str
    attempt_count: int
    agent: str
    outcome: bytes
    origin: str = ""
    blobs: tuple[BlobRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Restated:
    """A node has said again all it has with the hub. `highest_fence` of all tasks that it knows; 0: it did not say."""

    restate_id: str
    highest_fence: int = 0


@dataclass(frozen=True, slots=True)
class Returned:
    """A holder cannot run its grant."""

    task_id: str
    fence: int
    reason: str


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The origin wants it to end."""

    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The origin answers a question."""

    task_id: str
    key: str
    answer: bytes


@dataclass(frozen=True, slots=True)
class Malformed:
    """An entry of which not even the task can be read."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class Granted:
    """The parent wants this run; `task.upstream` is its fence."""

    task: TaskRecord
    blobs: tuple[BlobRef, ...] = ()


@dataclass(frozen=True, slots=True)
class GrantRefused:
    """A grant of the parent that cannot be taken."""

    task_id: str
    fence: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class Revoked:
    """The parent takes a task back: its grants up to `fence` are void."""

    task_id: str
    fence: int


@dataclass(frozen=True, slots=True)
class Asked:
    """The parent asks what this hub has with it: one side has forgotten something."""

    restate_id: str


TaskMove = Offered | Unacceptable | Reported | Returned | CancelAsked | Answered
Entry = TaskMove | Restated | Malformed
ParentMove = Granted | GrantRefused | Revoked | Asked | Reported | CancelAsked | Answered | Malformed
"""What the parent says."""


def references(entries: Iterable[tuple[int, Entry | ParentMove]]) -> list[tuple[str, BlobRef]]:
    """(task, blob) that entries speak of."""
    found: list[tuple[str, BlobRef]] = []
    for _, entry in entries:
        if isinstance(entry, Offered | Granted):
            found += [(entry.task.task_id, ref) for ref in entry.blobs]
        elif isinstance(entry, Reported):
            found += [(entry.task_id, ref) for ref in entry.blobs]
    return found
