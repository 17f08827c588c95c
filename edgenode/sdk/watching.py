"""Following a task, and a node's agents, over broken streams; and a call, whose stream is the only one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from itertools import chain, repeat
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
from edgenode.sdk.submitter import no_answer, node_lost

_END_GRACE = 2.0  # seconds in which the node says itself that the time is over


async def watch(stub: Any, patience: Patience, task_id: str, after: int) -> AsyncGenerator[TaskUpdate, None]:
    """See Client.watch_task."""

    def call() -> Any:
        return stub.WatchTask(task_service_pb2.WatchTaskRequest(task_id=task_id, after_sequence=after))

    async with aclosing(_frames(patience, call)) as frames:
        async for frame in frames:
            for update in updates(frame):
                after = max(after, update.sequence)
                yield update
            if frame.HasField("task") and TaskState(frame.task.state).terminal:
                return


async def watch_agents(
    stub: Any, patience: Patience, after: int
) -> AsyncGenerator[registry_service_pb2.WatchAgentsResponse, None]:
    """See Client.watch_agents."""
    # Behind a break the node may be another process, whose versions say nothing here.
    versions = chain([after], repeat(0))

    def call() -> Any:
        return stub.WatchAgents(registry_service_pb2.WatchAgentsRequest(after_version=next(versions)))

    async with aclosing(_frames(patience, call)) as frames:
        async for frame in frames:
            yield frame


async def stream_call(
    method: Any, request: task_service_pb2.StreamCallRequest, timeout: float
) -> AsyncGenerator[task_service_pb2.StreamCallResponse, None]:
    """What comes of a call, once: it may not be run twice. Raises the node's refusal, Unavailable (NODE_LOST) and, after
    `timeout` seconds, DeadlineExceeded.
    """
    call = method(request, timeout=timeout + _END_GRACE)
    try:
        async for response in call:
            yield response
    except grpc.aio.AioRpcError as rpc_error:
        error = from_rpc_error(rpc_error)
        if error.reason in ("UNREACHABLE", "CANCELLED"):
            error = node_lost(error)
        elif error.reason == "RPC_DEADLINE":
            error = no_answer(timeout)
        raise error from rpc_error
    finally:
        call.cancel()


async def _frames(patience: Patience, open_call: Callable[[], Any]) -> AsyncGenerator[Any, None]:
    """The frames of a stream that is opened again when it breaks or ends, without end."""
    attempts = Attempts(patience)
    while True:
        call = open_call()
        try:
            async for frame in call:
                attempts.begin()
                yield frame
            error: EdgenodeError = Unavailable("STREAM_CLOSED", "the node closed the stream")
        except grpc.aio.AioRpcError as rpc_error:
            error = from_rpc_error(rpc_error)
            if error.problem.code not in (Code.UNAVAILABLE, Code.CANCELLED):
                raise error from rpc_error
        finally:
            call.cancel()
        await attempts.wait(error)


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
