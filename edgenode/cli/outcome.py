"""How a command ends that waited for a task."""

from __future__ import annotations

from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import Cancelled, Internal
from edgenode.link.model.task import TaskState
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.wire.values import problem_from_pb


def finish(task: task_pb2.Task) -> None:
    """Returns when the ended task is completed; else ends the command with exit code 1 and the task's problem."""
    state = TaskState(task.state)
    if state is TaskState.COMPLETED:
        return
    if task.HasField("problem"):
        raise Exit(ExitCode.FAILED, problem_from_pb(task.problem))
    if state is TaskState.CANCELED:
        raise Exit(ExitCode.FAILED, Cancelled("CANCELED", f"task {task.task_id} was cancelled").problem)
    raise Exit(
        ExitCode.FAILED, Internal("NO_PROBLEM", f"task {task.task_id} ended as {state.name} without a word").problem
    )
