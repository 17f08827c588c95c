"""Times, durations and problems: model values <-> their messages. Seconds are floats everywhere above."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from edgenode.api.problem.v1 import problem_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model.problem import Code, Problem

_NANO = 1_000_000_000
_MAX_TIMESTAMP = 253_402_300_799  # the last second of year 9999, the end of Timestamp's range
_MAX_DURATION = 315_576_000_000  # 10,000 years, the end of Duration's range


def timestamp_to_pb(seconds: float) -> Timestamp:
    """Wall-clock `seconds` since 1970 as a Timestamp."""
    whole, nanos = stamp_parts(seconds)
    return Timestamp(seconds=whole, nanos=nanos)


def stamp_parts(seconds: float) -> tuple[int, int]:
    """(seconds, nanos) of the Timestamp of wall-clock `seconds` since 1970."""
    return divmod(round(seconds * _NANO), _NANO)


def timestamp_from_pb(value: Timestamp, field: str = "time") -> float:
    """Seconds since 1970. Raises InvalidArgument (BAD_TIME) outside the years 1970-9999."""
    seconds, nanos = value.seconds, value.nanos
    if not (0 <= seconds <= _MAX_TIMESTAMP and 0 <= nanos < _NANO):
        raise InvalidArgument(
            "BAD_TIME",
            f"{field} is {seconds} s and {nanos} ns",
            hint="expected a time in the years 1970-9999",
            field=field,
        )
    return seconds + nanos / _NANO


def duration_to_pb(seconds: float) -> Duration:
    """`seconds` as a Duration; negative ones become zero."""
    whole, nanos = divmod(round(max(0.0, seconds) * _NANO), _NANO)
    return Duration(seconds=whole, nanos=nanos)


def duration_from_pb(value: Duration, field: str = "duration") -> float:
    """Seconds, not negative. Raises InvalidArgument (BAD_DURATION)."""
    if not (0 <= value.seconds <= _MAX_DURATION and 0 <= value.nanos < _NANO):
        raise InvalidArgument(
            "BAD_DURATION",
            f"{field} is {value.seconds} s and {value.nanos} ns",
            hint="expected a duration that is not negative",
            field=field,
        )
    return value.seconds + value.nanos / _NANO


def problem_to_pb(problem: Problem) -> problem_pb2.Problem:
    """A Problem as its message."""
    message = problem_pb2.Problem(
        code=int(problem.code),
        reason=problem.reason,
        message=problem.message,
        hint=problem.hint,
        retryable=problem.retryable,
        metadata=problem.metadata,
    )
    if problem.retry_after is not None:
        message.retry_after_duration.CopyFrom(duration_to_pb(problem.retry_after))
    return message


def problem_from_pb(message: problem_pb2.Problem) -> Problem:
    """A Problem from its message. It comes from elsewhere: a code unknown here becomes UNKNOWN, an absurd wait none."""
    return Problem(
        code=code_from_number(message.code),
        reason=message.reason or "UNKNOWN",
        message=message.message,
        hint=message.hint,
        retryable=message.retryable,
        retry_after=lenient_duration(message.retry_after_duration)
        if message.HasField("retry_after_duration")
        else None,
        metadata=dict(message.metadata),
    )


def code_from_number(number: int) -> Code:
    """The Code of that number; UNKNOWN where there is none."""
    try:
        return Code(number)
    except ValueError:
        return Code.UNKNOWN


def lenient_duration(value: Duration) -> float | None:
    """Seconds, or None for a duration that is out of range: for advice from a peer that is not worth a refusal."""
    try:
        return duration_from_pb(value)
    except InvalidArgument:
        return None
