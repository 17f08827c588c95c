"""The life of a task: one table, and what follows from a failed attempt.

A holder (an edge, or the hub until it grants the task) drives the table; everybody else copies what the holder reports.
Terminal rows have no events, so a terminal state cannot change whoever asks. Stores repeat that rule as a
compare-and-set, since between reading and writing another event may have won.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from edgenode.link.errors import DeadlineExceeded, FailedPrecondition
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import OnLost, RetryPolicy, TaskState


class TaskEvent(enum.Enum):
    """What can happen to a task."""

    ASSIGN = "handed to an agent or granted to a node"
    BEGIN = "the agent works on it, or goes on after an answer"
    ASK = "the agent asks the submitter"
    ASK_AUTHORIZATION = "the agent asks for an authorisation"
    SUCCEED = "the agent gave a result"
    FAIL = "an error that is not worth repeating"
    REJECT = "the agent refused it"
    RETRY = "an attempt failed, another will follow"
    EXHAUST = "the last attempt failed"
    RELEASE = "back to the queue"
    PARK = "nobody can take it now"
    CANCEL = "no longer wanted"
    EXPIRE = "its deadline passed"

    __hash__ = object.__hash__  # as for TaskState


_S, _E = TaskState, TaskEvent

_ENDED_BY_OTHERS = {_E.CANCEL: _S.CANCELED, _E.EXPIRE: _S.EXPIRED, _E.FAIL: _S.FAILED}
_WAITING = {_E.RELEASE: _S.QUEUED, _E.PARK: _S.PARKED, _E.ASSIGN: _S.ASSIGNED, **_ENDED_BY_OTHERS}
_RUNNING = {
    _E.BEGIN: _S.WORKING,
    _E.ASK: _S.INPUT_REQUIRED,
    _E.ASK_AUTHORIZATION: _S.AUTH_REQUIRED,
    _E.SUCCEED: _S.COMPLETED,
    _E.REJECT: _S.REJECTED,
    _E.RETRY: _S.RETRY_WAIT,
    _E.EXHAUST: _S.DEAD_LETTERED,
    _E.RELEASE: _S.QUEUED,
    _E.PARK: _S.PARKED,
    **_ENDED_BY_OTHERS,
}

TRANSITIONS: Mapping[TaskState, Mapping[TaskEvent, TaskState]] = {
    _S.QUEUED: _WAITING,
    _S.PARKED: _WAITING,
    _S.RETRY_WAIT: _WAITING,
    _S.ASSIGNED: _RUNNING,
    _S.WORKING: _RUNNING,
    _S.INPUT_REQUIRED: _RUNNING,
    _S.AUTH_REQUIRED: _RUNNING,
    _S.COMPLETED: {},
    _S.FAILED: {},
    _S.CANCELED: {},
    _S.REJECTED: {},
    _S.EXPIRED: {},
    _S.DEAD_LETTERED: {},
}


def next_state(state: TaskState, event: TaskEvent) -> TaskState:
    """The state after `event`. Raises FailedPrecondition (TASK_ENDED, BAD_TRANSITION); the task then stays as it is."""
    after = TRANSITIONS[state].get(event)
    if after is not None:
        return after
    if state.terminal:
        raise FailedPrecondition("TASK_ENDED", f"the task is {state.name}", hint="replay it to run it again")
    raise FailedPrecondition("BAD_TRANSITION", f"a task that is {state.name} cannot be {event.value}")


@dataclass(frozen=True, slots=True)
class AfterFailure:
    """What follows a failed attempt; `delay` seconds with RETRY."""

    event: TaskEvent
    delay: float = 0.0


def after_failure(problem: Problem, policy: RetryPolicy, attempts: int, chance: float) -> AfterFailure:
    """Decide after `attempts` attempts. `chance` in [0, 1) spreads the wait (full jitter, as in AWS's "Exponential
    Backoff And Jitter")."""
    worth_it = problem.reason in policy.reasons if policy.reasons else problem.retryable
    if not worth_it:
        return AfterFailure(TaskEvent.FAIL)
    if attempts >= policy.attempts:
        return AfterFailure(TaskEvent.EXHAUST)
    bound = min(policy.initial_backoff * policy.multiplier ** (attempts - 1), policy.max_backoff)
    return AfterFailure(TaskEvent.RETRY, max(bound * chance, problem.retry_after or 0.0))


def after_loss(on_lost: OnLost) -> TaskEvent | None:
    """What follows when the agent is lost for good: RETRY counts as a failed attempt, None keeps waiting."""
    return {OnLost.RETRY: TaskEvent.RETRY, OnLost.FAIL: TaskEvent.FAIL, OnLost.WAIT: None}[on_lost]


def is_past(deadline: float, now: float) -> bool:
    """Whether a task with that deadline (0: none) comes too late."""
    return 0 < deadline <= now


def past_deadline(deadline: float, now: float, field: str = "spec") -> DeadlineExceeded:
    """The refusal of one that does."""
    return DeadlineExceeded(
        "PAST_DEADLINE",
        f"{field}.deadline_time passed {now - deadline:.3f} s ago",
        hint="give a later deadline; check the clocks of both machines",
        field=f"{field}.deadline_time",
    )
