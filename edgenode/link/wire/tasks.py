"""TaskSpec messages -> checked model.task.TaskSpec. What passes here needs no checking further in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model import selector
from edgenode.link.model.blob import BlobRef
from edgenode.link.model.names import agent_resource, check_skill, parse_agent_resource
from edgenode.link.model.task import PRIORITY, OnLost, RetryPolicy, Scope, TaskSpec
from edgenode.link.protocol.tasks import is_past, past_deadline
from edgenode.link.wire import checks
from edgenode.link.wire.blobs import refs_from_pb
from edgenode.link.wire.values import duration_from_pb, timestamp_from_pb
from edgenode.link.wire.varints import content_size, opening

_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_DEFAULT_RETRY = RetryPolicy()
_HOUR = 3600.0
_DAY = 24 * _HOUR
_EARLIEST = 0.001
_KNOWN_SPECS = 256  # that a reader remembers
_SHORT = 128  # what most texts may have
_INPUT_TAG = b"\x22"  # TaskSpec.input
_NO_LEAD = b"\0"  # no message begins so


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """What a node takes."""

    max_input_bytes: int = 1024 * 1024
    max_output_bytes: int = 1024 * 1024


def task_spec_from_proto(
    message: task_pb2.TaskSpec, *, limits: TaskLimits, now: float | None, node: str, field: str = "spec"
) -> TaskSpec:
    """The checked spec with defaults applied; `wire` is the whole message, so that equal specs are equal bytes.

    `now` is the wall clock in seconds; None where a deadline in the past is no fault of the spec. An agent's bare name becomes
    its full name on `node`, in `wire` as well, because the task may run elsewhere. Raises InvalidArgument naming the field,
    ResourceExhausted (INPUT_TOO_LARGE) and DeadlineExceeded (PAST_DEADLINE).
    """
    # This is done for every task and call: what most of them do not have costs a look and no more.
    size = len(message.input)
    if size > limits.max_input_bytes:
        raise checks.too_large(size, limits.max_input_bytes, f"{field}.input", "INPUT_TOO_LARGE")
    skill = check_skill(message.skill, f"{field}.skill")
    if message.selector:
        selector.parse(message.selector, f"{field}.selector")
    agent = message.agent
    if agent:
        agent = agent_resource(*parse_agent_resource(agent, node, f"{field}.agent"))
    priority = PRIORITY
    if message.HasField("priority"):
        priority = message.priority
        checks.in_range(priority, 0, 9, f"{field}.priority")
    cost_limit = None
    if message.HasField("cost_limit"):
        cost_limit = message.cost_limit
        checks.in_range(cost_limit, 0, math.inf, f"{field}.cost_limit")
    wire = _serialised(message, agent) if agent or message.annotations else message.SerializeToString()
    checks.media_type(message.content_type, f"{field}.content_type")
    if len(wire) - size > _SHORT:  # else no text is longer
        _check_texts(message, field)
    return TaskSpec(
        skill=skill,
        wire=wire,
        selector=message.selector,
        agent=agent,
        priority=priority,
        deadline=_deadline(message, now, field) if message.HasField("deadline_time") else 0.0,
        scope=checks.choice(Scope, scope, Scope.LOCAL, f"{field}.scope") if (scope := message.scope) else Scope.LOCAL,
        retry=_retry_policy(message.retry_policy, f"{field}.retry_policy")
        if message.HasField("retry_policy")
        else _DEFAULT_RETRY,
        on_lost=checks.choice(OnLost, lost, OnLost.RETRY, f"{field}.on_lost")
        if (lost := message.on_lost)
        else OnLost.RETRY,
        attempt_timeout=_attempt_timeout(message, field) if message.HasField("attempt_timeout_duration") else 0.0,
        idempotency_key=message.idempotency_key,
        context_id=message.context_id,
        cost_limit=cost_limit,
        blobs=refs_from_pb(message.blobs, f"{field}.blobs") if message.blobs else (),
    )


class _Shape:
    """Serialised specs that are equal but for their input. `spec` is one of them, checked."""

    __slots__ = ("_before", "_behind", "_leads", "spec")

    def __init__(self, spec: TaskSpec, message: task_pb2.TaskSpec, head: bytes) -> None:
        """`head`: the serialised `message` without its input."""
        self.spec = spec
        before = task_pb2.TaskSpec(skill=message.skill, selector=message.selector, agent=message.agent)
        self._before = before.SerializeToString()  # the fields whose numbers are lower
        self._behind = head[len(self._before) :]
        self._leads: dict[int, bytes] = {}  # what one of that length begins with, up to its input

    def input_size(self, wire: bytes) -> int:
        """Bytes of its input, -1 for one that is not of this shape."""
        lead = self._leads.get(len(wire))
        if lead is None:
            if len(self._leads) >= _KNOWN_SPECS:
                self._leads.clear()
            lead = self._leads[len(wire)] = self._lead(len(wire))
        size = len(wire) - len(lead) - len(self._behind)
        return size if size >= 0 and wire.startswith(lead) and wire.endswith(self._behind) else -1

    def _lead(self, length: int) -> bytes:
        size = content_size(length - len(self._before) - len(self._behind))
        return self._before + opening(_INPUT_TAG, size) if size >= 0 else _NO_LEAD


class SpecReader:
    """`task_spec_from_proto` for many: specs that differ in input and deadline alone are checked once.

    That is what most submissions of a program are. What is like the one before is known by the bytes beside its input.
    """

    def __init__(self, limits: Callable[[], TaskLimits], node: str) -> None:
        self._limits = limits
        self._node = node
        self._known: dict[bytes, _Shape] = {}  # by their bytes without input and deadline
        self._last: _Shape | None = None

    def read(self, message: task_pb2.TaskSpec) -> TaskSpec:
        """The checked spec; a deadline in the past is no fault of it. `message` may be left without input and deadline; one
        with an idempotency key is not. Raises as `task_spec_from_proto`."""
        wire = timeless = message.SerializeToString()
        deadline = 0.0
        if message.HasField("deadline_time"):
            deadline = _deadline(message, None, "spec")
            message.ClearField("deadline_time")
            timeless = message.SerializeToString()
        shape = self._last
        size = -1 if shape is None else shape.input_size(timeless)
        if shape is None or size < 0:
            size = len(message.input)
            message.ClearField("input")
            head = message.SerializeToString()
            shape = self._known.get(head)
            if shape is None:
                message.ParseFromString(wire)
                return self._check(message, head)
            self._last = shape
        limit = self._limits().max_input_bytes
        if size > limit:
            raise checks.too_large(size, limit, "spec.input", "INPUT_TOO_LARGE")
        return shape.spec.with_content(wire, deadline)

    def _check(self, message: task_pb2.TaskSpec, head: bytes) -> TaskSpec:
        spec = task_spec_from_proto(message, limits=self._limits(), now=None, node=self._node)
        # What has a word of its own is not met again, and what is not written as it came is not taken from here.
        own = (
            message.idempotency_key or message.context_id or message.parent_task_id or message.traceparent or spec.blobs
        )
        if not own and not message.annotations and spec.agent == message.agent:
            if len(self._known) >= _KNOWN_SPECS:
                self._known.clear()
            self._last = self._known[head] = _Shape(spec, message, head)
        return spec


def check_output(output: task_pb2.TaskOutput, *, limits: TaskLimits, field: str = "output") -> tuple[BlobRef, ...]:
    """The blobs a result or answer refers to. Raises ResourceExhausted (RESULT_TOO_LARGE) or InvalidArgument for one that
    cannot be taken."""
    size = len(output.data)
    if size > limits.max_output_bytes:
        raise checks.too_large(size, limits.max_output_bytes, field, "RESULT_TOO_LARGE")
    _check_media_type(output.content_type, field)
    return refs_from_pb(blobs, f"{field}.blobs") if (blobs := output.blobs) else ()


@lru_cache(256)
def _check_media_type(value: str, field: str) -> None:
    checks.media_type(value, f"{field}.content_type")


def _serialised(message: task_pb2.TaskSpec, agent: str) -> bytes:
    if agent and agent != message.agent:
        full = task_pb2.TaskSpec()
        full.CopyFrom(message)
        full.agent = agent
        message = full
    # Only maps can be written in several orders; asking for one costs as much as all the rest.
    return message.SerializeToString(deterministic=True) if message.annotations else message.SerializeToString()


def _deadline(message: task_pb2.TaskSpec, now: float | None, field: str) -> float:
    # 0 stands for none.
    deadline = max(timestamp_from_pb(message.deadline_time, f"{field}.deadline_time"), _EARLIEST)
    if now is not None and is_past(deadline, now):
        raise past_deadline(deadline, now, field)
    return deadline


def _attempt_timeout(message: task_pb2.TaskSpec, field: str) -> float:
    timeout = duration_from_pb(message.attempt_timeout_duration, f"{field}.attempt_timeout_duration")
    checks.in_range(timeout, 0.001, 30 * _DAY, f"{field}.attempt_timeout_duration")
    return timeout


def _retry_policy(message: task_pb2.RetryPolicy, field: str) -> RetryPolicy:
    attempts = message.max_attempt_count or _DEFAULT_RETRY.attempts
    checks.in_range(attempts, 1, 100, f"{field}.max_attempt_count")
    initial = _DEFAULT_RETRY.initial_backoff
    if message.HasField("initial_backoff_duration"):
        initial = duration_from_pb(message.initial_backoff_duration, f"{field}.initial_backoff_duration")
        checks.in_range(initial, 0.001, _HOUR, f"{field}.initial_backoff_duration")
    longest = max(_DEFAULT_RETRY.max_backoff, initial)
    if message.HasField("max_backoff_duration"):
        longest = duration_from_pb(message.max_backoff_duration, f"{field}.max_backoff_duration")
        checks.in_range(longest, min(initial, _DAY), _DAY, f"{field}.max_backoff_duration")
    multiplier = message.backoff_multiplier or _DEFAULT_RETRY.multiplier
    checks.in_range(multiplier, 1, 10, f"{field}.backoff_multiplier")
    checks.at_most(len(message.retryable_reasons), 64, f"{field}.retryable_reasons")
    for reason in message.retryable_reasons:
        if _REASON.fullmatch(reason) is None:
            raise InvalidArgument(
                "BAD_REASON",
                f"{field}.retryable_reasons has {reason[:80]!r}",
                hint="expected upper snake case, e.g. AGENT_LOST",
                field=f"{field}.retryable_reasons",
            )
    return RetryPolicy(attempts, initial, longest, multiplier, tuple(message.retryable_reasons))


def _check_texts(message: task_pb2.TaskSpec, field: str) -> None:
    checks.short(message.idempotency_key, _SHORT, f"{field}.idempotency_key")
    checks.short(message.context_id, _SHORT, f"{field}.context_id")
    checks.short(message.parent_task_id, _SHORT, f"{field}.parent_task_id")
    checks.short(message.tenant, _SHORT, f"{field}.tenant")
    checks.short(message.traceparent, _SHORT, f"{field}.traceparent")
    checks.short(message.tracestate, 512, f"{field}.tracestate")
    if message.annotations:
        checks.free_facts(message.annotations, f"{field}.annotations")
