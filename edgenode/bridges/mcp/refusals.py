"""Errors of the node as errors of the protocol, and which failures are the tool's own.

A tool's own failure is a result with `isError`, so that a model sees it and may do better. Everything else is an error of
JSON-RPC whose data holds reason, message, hint and whether trying again may help.
"""

from __future__ import annotations

from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from edgenode.link.model.problem import Code, Problem
from edgenode.link.model.task import TaskState

# What the node, the hub or the SDK's worker says of a task that its agent could not finish.
OF_THE_INFRASTRUCTURE = frozenset(
    {
        "AGENT_LOST",
        "AGENT_STOPPED",
        "LINK_DOWN",
        "LINK_LOST",
        "MAY_HAVE_RUN",
        "MCP_ERROR",
        "MCP_SERVER_DOWN",
        "MCP_SERVER_LOST",
        "NODE_LOST",
        "NODE_STOPPING",
        "NO_AGENT",
        "NO_PROBLEM",
        "NO_RESULT",
        "TASK_DAMAGED",
        "UNKNOWN_SKILL",
        "UNREACHABLE",
    }
)
# What ends a call, which has no state to tell it by, by its agent's own doing.
OF_THE_CALLED = frozenset({"A2A_FAILED", "A2A_REJECTED", "BAD_INPUT", "BAD_RESULT", "HANDLER_ERROR", "TOOL_ERROR"})
_CODES = {
    Code.INVALID_ARGUMENT: INVALID_PARAMS,
    Code.NOT_FOUND: INVALID_PARAMS,
    Code.ALREADY_EXISTS: INVALID_PARAMS,
    Code.OUT_OF_RANGE: INVALID_PARAMS,
}


# Before any work, yet what a model can mend.
_MENDABLE = frozenset({"BAD_INPUT"})


def is_own_failure(state: TaskState, problem: Problem) -> bool:
    """Whether a task that ended so failed by its agent's own doing."""
    if state is TaskState.REJECTED:
        return problem.reason in _MENDABLE
    failed = state in (TaskState.FAILED, TaskState.DEAD_LETTERED)
    return failed and problem.reason not in OF_THE_INFRASTRUCTURE


def refusal(problem: Problem, **facts: Any) -> MCPError:
    """The JSON-RPC error of a problem; `facts` are put beside reason and hint."""
    said = problem.metadata.get("mcp_code", "")  # by a server that an agent stands for
    code = int(said) if said.lstrip("-").isdecimal() else _CODES.get(problem.code, INTERNAL_ERROR)
    return MCPError(code, f"{problem.reason}: {problem.message}", data_of(problem, **facts))


def data_of(problem: Problem, **facts: Any) -> dict[str, Any]:
    """What an error's data says."""
    data: dict[str, Any] = {
        "reason": problem.reason,
        "message": problem.message,
        "hint": problem.hint,
        "retryable": problem.retryable,
        **facts,
    }
    if problem.retry_after is not None:
        data["retryAfterSeconds"] = problem.retry_after
    if problem.metadata:
        data["metadata"] = dict(problem.metadata)
    return data
