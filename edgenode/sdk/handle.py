"""A durable task as its submitter holds it, and what is seen of it over time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.link.errors import Cancelled, DeadlineExceeded, EdgenodeError, Internal, from_problem
from edgenode.link.model.blob import BlobRef
from edgenode.link.model.task import Level, TaskState
from edgenode.link.wire.blobs import ref_from_pb
from edgenode.link.wire.values import problem_from_pb
from edgenode.sdk.encoding import decode
from edgenode.sdk.streaming import read_pieces

if TYPE_CHECKING:
    from edgenode.sdk.client import Client
    from edgenode.sdk.submitter import Entry, Outcome

Ending = task_pb2.Task | task_service_pb2.SubmissionOutcome


@dataclass(frozen=True, slots=True)
class TaskUpdate:
    """One change of a task. `gap`: changes before it are gone. `task` is set in the first update and the last."""

    sequence: int
    time: float  # wall-clock seconds
    state: TaskState
    reason: str = ""
    attempt: int = 0
    agent: str = ""
    fraction: float | None = None  # of the work, as the agent says
    message: str = ""
    gap: bool = False
    task: task_pb2.Task | None = None
    pieces: tuple[task_pb2.TaskPiece, ...] = ()  # of a result that forms, those since the last update


def result_of(ending: Ending, task_id: str, expected: Any = Any) -> Any:
    """The decoded result of a completed task or call; raises the error of any other ending."""
    if ending.state == task_pb2.TASK_STATE_COMPLETED:
        output = ending.output
        return decode(output.data, output.content_type, expected)
    if ending.HasField("problem"):
        raise from_problem(problem_from_pb(ending.problem))
    if ending.state == task_pb2.TASK_STATE_CANCELED:
        raise Cancelled("CANCELED", "it was cancelled", task_id=task_id)
    state = TaskState(ending.state).name if ending.state else "no state"
    raise Internal("NO_PROBLEM", f"it ended as {state} without saying why", task_id=task_id)


class TaskHandle:
    """A submitted task. Keep it to get the result without asking; the task itself does not depend on it."""

    __slots__ = ("__weakref__", "_client", "_entry", "level", "task_id")

    def __init__(self, client: Client, task_id: str, level: Level, entry: Entry | None = None) -> None:
        self.task_id = task_id
        self.level = level
        self._client = client
        self._entry = entry  # on the client's stream, which brings the outcome unasked

    def __repr__(self) -> str:
        return f"TaskHandle({self.task_id!r}, {self.level.name})"

    async def result(self, timeout: float | None = None, type: Any = Any) -> Any:
        """The result, decoded as `type`. Without `timeout` (seconds) it waits as long as the task takes.

        Raises the task's own problem, DeadlineExceeded (WAIT_OVER) after `timeout` - the task goes on -, and Unavailable
        when the node is out of reach; asking again is always possible.
        """
        if timeout is None and (entry := self._entry) is not None:
            ending: Ending = self._told(await entry.wait() if entry.outcome is None else entry.outcome)
        else:
            ending = await self.ending(timeout)
        return result_of(ending, self.task_id, type)

    async def ending(self, timeout: float | None = None) -> Ending:
        """How it ended: its state, and its output or problem as the contract has them.

        Raises DeadlineExceeded (WAIT_OVER) and Unavailable as `result` does.
        """
        try:
            if timeout is None or (self._entry is not None and self._entry.outcome is not None):
                return await self._ending()
            async with asyncio.timeout(timeout):
                return await self._ending()
        except TimeoutError:
            raise DeadlineExceeded(
                "WAIT_OVER",
                f"task {self.task_id} did not end within {timeout:g} s",
                hint="it goes on; ask again",
                task_id=self.task_id,
            ) from None

    async def artifacts(self, timeout: float | None = None) -> list[BlobRef]:
        """What belongs to the result beside it, and what it refers to; waits and raises as `result`."""
        ending = await self.ending(timeout)
        result_of(ending, self.task_id)
        return [ref_from_pb(ref) for ref in ending.output.blobs]

    async def _ending(self) -> Ending:
        if (entry := self._entry) is not None:
            return self._told(await entry.wait() if entry.outcome is None else entry.outcome)
        async for update in self.watch():
            if update.task is not None and TaskState(update.task.state).terminal:
                return update.task
        raise Internal("NO_END", f"the watch of task {self.task_id} ended before the task", task_id=self.task_id)

    def _told(self, outcome: Outcome) -> task_service_pb2.SubmissionOutcome:
        """What the stream brought. Raises where that is no outcome of the task; who asks again asks the node."""
        if isinstance(outcome, EdgenodeError):
            self._entry = None
            raise from_problem(outcome.problem)
        return outcome

    def watch(self) -> AsyncGenerator[TaskUpdate, None]:
        """Its changes, from the first that is kept to the terminal state."""
        return self._client.watch_task(self.task_id)

    def stream(self, type: Any = Any) -> AsyncIterator[Any]:
        """The pieces of a result that forms, each decoded as `type`; of a skill that gives none, its result.

        Raises what `result` raises, and Unavailable (STREAM_INTERRUPTED) where pieces are gone or another attempt began:
        `result` has it whole.
        """
        return read_pieces(self.watch(), lambda ended: result_of(ended, self.task_id), type)

    async def cancel(self, reason: str = "") -> task_pb2.Task:
        """Asks for it to end; it may still complete first."""
        return await self._client.cancel_task(self.task_id, reason)
