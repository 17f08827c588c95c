"""Tasks as callers see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from edgenode.api.problem.v1 import problem_pb2
from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.model.task import Level, TaskState
from edgenode.link.wire.values import timestamp_to_pb
from hub.store.records import PARENT, TaskRecord, WaitKey

_BEGUN = (TaskState.WORKING, TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED, TaskState.RETRY_WAIT)


def level_of(task: TaskRecord) -> Level:
    """The best level known of a task that is committed here."""
    if task.state.terminal:
        return Level.DONE
    if task.agent or task.state in _BEGUN:
        return Level.DELIVERED
    return Level.DURABLE_HUB


def level_to_pb(level: Level) -> receipt_pb2.ReceiptLevel:
    """The contract's number."""
    return cast("receipt_pb2.ReceiptLevel", int(level))


def state_to_pb(state: TaskState) -> task_pb2.TaskState:
    """The contract's number."""
    return cast("task_pb2.TaskState", int(state))


def shown_state(task: TaskRecord, parked: Mapping[WaitKey, str]) -> tuple[TaskState, str]:
    """State and reason of a task: one that waits is PARKED exactly while its queue is."""
    if not task.waiting:
        return task.state, task.state_reason
    reason = parked.get(task.wait_key)
    if reason is not None:
        return TaskState.PARKED, reason
    return TaskState.QUEUED, "" if task.state is TaskState.PARKED else task.state_reason


def task_to_pb(task: TaskRecord, hub: str, parked: Mapping[WaitKey, str], *, contents: bool = True) -> task_pb2.Task:
    """The task; without `contents` its input and output are left out."""
    message = task_pb2.Task.FromString(task.outcome)
    message.task_id = task.task_id
    state, reason = shown_state(task, parked)
    message.state = state_to_pb(state)
    message.state_reason = reason
    message.attempt_count = task.attempt_count
    message.agent = task.agent
    message.origin_node = task.origin
    if task.holder != PARENT:  # of what the parent holds it said who has it
        message.holder_node = task.holder or hub
    elif not message.holder_node:
        message.holder_node = PARENT
    message.fence = task.fence
    message.cancel_requested = task.cancel_reason is not None and not task.state.terminal
    message.submit_time.CopyFrom(timestamp_to_pb(task.submit_time))
    message.update_time.CopyFrom(timestamp_to_pb(task.update_time))
    message.sequence = task.sequence
    message.level = level_to_pb(level_of(task))
    message.replay_of_task_id = task.replay_of
    if task.spec:
        message.spec.ParseFromString(task.spec)
    else:
        message.spec.skill = task.demand.skill
        message.spec.context_id = task.context_id
    if not contents:
        message.ClearField("output")
        message.spec.ClearField("input")
    return message


def outcome_parts(task: TaskRecord) -> tuple[task_pb2.TaskOutput | None, problem_pb2.Problem | None]:
    """(output, problem) of a task that ended."""
    message = task_pb2.Task.FromString(task.outcome)
    return (
        message.output if message.HasField("output") else None,
        message.problem if message.HasField("problem") else None,
    )
