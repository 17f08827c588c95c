"""What a caller says of a task, put into the contract's TaskSpec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict, Unpack

from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model.blob import BlobRef
from edgenode.link.model.task import OnLost, RetryPolicy, Scope
from edgenode.link.wire.blobs import ref_to_pb
from edgenode.link.wire.values import duration_to_pb
from edgenode.sdk.blobs import MARK, refs_in
from edgenode.sdk.encoding import is_json


class SpecOptions(TypedDict, total=False):
    """Options every submission and call takes."""

    scope: Scope | str  # "local" (default) or "fleet"
    priority: int  # 0 (last) to 9 (first), default 5
    idempotency_key: str  # same key and spec: the same task
    retry: RetryPolicy | int  # or the number of attempts in all
    on_lost: OnLost | str  # "retry" (default), "wait" or "fail"
    attempt_timeout: float  # seconds one attempt may run
    selector: str  # labels the agent must match
    agent: str  # this agent only
    context_id: str  # groups the tasks of one job
    parent: str  # the task this one is made for
    cost_limit: float
    annotations: Mapping[str, str]
    blobs: Sequence[BlobRef]  # that the input refers to, beside those that are in its JSON
    tenant: str
    traceparent: str
    tracestate: str


_TEXTS = {
    "idempotency_key": "idempotency_key",
    "selector": "selector",
    "agent": "agent",
    "context_id": "context_id",
    "parent": "parent_task_id",
    "tenant": "tenant",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
}
_NEVER = 253_402_300_800.0  # wall-clock seconds at the end of the year 9999, as far as the contract's times go
_PLAIN = {"priority": "priority", "cost_limit": "cost_limit"}


def fill_spec(
    spec: task_pb2.TaskSpec,
    skill: str,
    data: bytes,
    content_type: str,
    deadline: float,
    **options: Unpack[SpecOptions],
) -> None:
    """Writes into `spec`; `deadline` in wall-clock seconds, 0 for none. Raises InvalidArgument naming the option."""
    try:
        spec.skill = skill
        spec.input = data
        if content_type:
            spec.content_type = content_type
        if deadline:
            if not deadline < _NEVER:  # nor is NaN
                raise InvalidArgument(
                    "BAD_DEADLINE", f"the deadline is {deadline}", hint="seconds; a task may have none: leave it out"
                )
            time, whole = spec.deadline_time, int(deadline)
            time.seconds = whole
            time.nanos = int((deadline - whole) * 1e9)
        if options:
            _fill_options(spec, options)
        if MARK in data and is_json(content_type):
            spec.blobs.extend(ref_to_pb(ref) for ref in refs_in(data) if ref not in options.get("blobs", ()))
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidArgument("BAD_OPTION", str(error), hint="see edgenode.sdk.spec.SpecOptions") from error


def _fill_options(spec: task_pb2.TaskSpec, options: SpecOptions) -> None:
    for option, value in options.items():
        if value is None:
            continue
        try:
            if option in _TEXTS:
                setattr(spec, _TEXTS[option], value)
            elif option in _PLAIN:
                setattr(spec, _PLAIN[option], value)
            elif option == "annotations":
                spec.annotations.update(options["annotations"])
        except (TypeError, ValueError, AttributeError) as error:
            raise TypeError(f"{option} is {value!r:.80}, not {_EXPECTED.get(option, 'a text')}") from error
        if option not in _KNOWN:
            raise TypeError(f"unknown option {option!r}")
    if (scope := options.get("scope")) is not None:
        spec.scope = int(_member(Scope, scope, "scope"))  # type: ignore[assignment]
    if (on_lost := options.get("on_lost")) is not None:
        spec.on_lost = int(_member(OnLost, on_lost, "on_lost"))  # type: ignore[assignment]
    if (retry := options.get("retry")) is not None:
        _fill_retry(spec.retry_policy, retry)
    if (attempt_timeout := options.get("attempt_timeout")) is not None:
        spec.attempt_timeout_duration.CopyFrom(duration_to_pb(attempt_timeout))
    if blobs := options.get("blobs"):
        spec.blobs.extend(map(ref_to_pb, blobs))


_KNOWN = frozenset(SpecOptions.__annotations__)
_EXPECTED = {"priority": "a whole number from 0 to 9", "cost_limit": "a number", "annotations": "texts by text"}


def _fill_retry(message: task_pb2.RetryPolicy, retry: RetryPolicy | int) -> None:
    if isinstance(retry, int):
        if retry < 1:
            raise ValueError(f"retry is {retry}, which counts attempts: 1 for no other one")
        message.max_attempt_count = retry
        return
    if not isinstance(retry, RetryPolicy):
        raise TypeError(f"retry is {retry!r:.80}, not a number of attempts or a RetryPolicy")
    message.max_attempt_count = retry.attempts
    message.initial_backoff_duration.CopyFrom(duration_to_pb(retry.initial_backoff))
    message.max_backoff_duration.CopyFrom(duration_to_pb(retry.max_backoff))
    message.backoff_multiplier = retry.multiplier
    message.retryable_reasons.extend(retry.reasons)


def _member(enum: type[Scope] | type[OnLost], value: Scope | OnLost | str, option: str) -> int:
    if isinstance(value, str):
        try:
            return enum[value.upper()]
        except KeyError:
            names = ", ".join(member.name.lower() for member in enum)
            raise ValueError(f"{option} is {value!r}, not one of {names}") from None
    return int(value)


def wall_deadline(deadline: float | datetime | None, now: float) -> float:
    """Wall-clock seconds of a deadline given as seconds from `now` or as an aware datetime; 0 for none.

    Raises InvalidArgument (BAD_DEADLINE) for a datetime without a time zone.
    """
    if deadline is None:
        return 0.0
    if isinstance(deadline, datetime):
        if deadline.tzinfo is None:
            raise InvalidArgument("BAD_DEADLINE", "the deadline has no time zone", hint="e.g. datetime.now(UTC) + ...")
        return deadline.timestamp()
    return now + deadline
