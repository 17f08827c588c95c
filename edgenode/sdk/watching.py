"""Following a task, and a node's agents, over broken streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from edgenode.api.registry.v1 import registry_service_pb2
from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.link.errors import EdgenodeError, Unavailable
from edgenode.link.model.problem import Code
from edgenode.link.model.task import TaskState
from edgenode.link.wire.status import from_rpc_error
from edgenode.link.wire.values import timestamp_from_pb
from edgenode.sdk.handle import TaskUpdate
from edgenode.sdk.rpc import Attempts, Patience


async def watch(stub: Any, patience: Patience, task_id: str, after: int) -> AsyncIterator[TaskUpdate]:
    """See Client.watch_task."""
    attempts = Attempts(patience)
    while True:
        call = stub.WatchTask(task_service_pb2.WatchTaskRequest(task_id=task_id, after_sequence=after))
        try:
            async for frame in call:
                attempts.begin()
                for update in updates(frame):
                    after = max(after, update.sequence)
                    yield update
                if frame.HasField("task") and TaskState(frame.task.state).terminal:
                    return
            error: EdgenodeError = Unavailable("STREAM_CLOSED", "the node closed the stream")
        except grpc.aio.AioRpcError as rpc_error:
            error = from_rpc_error(rpc_error)
            if error.problem.code not in (Code.UNAVAILABLE, Code.CANCELLED):
                raise error from rpc_error
        finally:
            call.cancel()
        await attempts.wait(error)


async def watch_agents(
    stub: Any, patience: Patience, after: int
) -> AsyncIterator[registry_service_pb2.WatchAgentsResponse]:
    """See Client.watch_agents."""
    attempts = Attempts(patience)
    while True:
        call = stub.WatchAgents(registry_service_pb2.WatchAgentsRequest(after_version=after))
        try:
            async for frame in call:
                attempts.begin()
                after = frame.version
                yield frame
            error: EdgenodeError = Unavailable("STREAM_CLOSED", "the node closed the stream")
        except grpc.aio.AioRpcError as rpc_error:
            error = from_rpc_error(rpc_error)
            if error.problem.code not in (Code.UNAVAILABLE, Code.CANCELLED):
                raise error from rpc_error
        finally:
            call.cancel()
        await attempts.wait(error)
        after = 0  # the node may be another process by now, whose versions say nothing here


def updates(frame: task_service_pb2.WatchTaskResponse) -> list[TaskUpdate]:
    """A frame's changes; one made of the task where the frame has no events."""
    task = frame.task if frame.HasField("task") else None
    found: list[TaskUpdate] = []
    for event in frame.events:
        found.append(
            TaskUpdate(
                sequence=event.sequence,
                time=timestamp_from_pb(event.event_time),
                state=TaskState(event.state),
                reason=event.state_reason,
                attempt=event.attempt_count,
                agent=event.agent,
                fraction=_fraction(event.progress),
                message=event.progress.message,
                gap=frame.gap and not found,
                task=task if len(found) == len(frame.events) - 1 else None,
                pieces=tuple(event.progress.pieces),
            )
        )
    if not found and task is not None:
        found.append(
            TaskUpdate(
                sequence=task.sequence,
                time=timestamp_from_pb(task.update_time),
                state=TaskState(task.state),
                reason=task.state_reason,
                attempt=task.attempt_count,
                agent=task.agent,
                fraction=_fraction(task.progress),
                message=task.progress.message,
                gap=frame.gap,
                task=task,
            )
        )
    return found


def _fraction(progress: task_pb2.TaskProgress) -> float | None:
    return progress.fraction if progress.HasField("fraction") else None
