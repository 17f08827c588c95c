import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from edgenode.api.problem.v1 import problem_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model.problem import Code, Problem
from edgenode.link.wire.values import (
    duration_from_pb,
    duration_to_pb,
    problem_from_pb,
    problem_to_pb,
    timestamp_from_pb,
    timestamp_to_pb,
)

texts = st.text(max_size=20)
problems = st.builds(
    Problem,
    code=st.sampled_from(Code),
    reason=st.from_regex(r"[A-Z][A-Z_]{0,20}", fullmatch=True),
    message=texts,
    hint=texts,
    retryable=st.booleans(),
    retry_after=st.none() | st.integers(0, 10**6).map(float),
    metadata=st.dictionaries(texts, texts, max_size=4),
)


@given(st.floats(0, 4e9))
def test_times_keep_their_value(seconds: float) -> None:
    assert timestamp_from_pb(timestamp_to_pb(seconds)) == pytest.approx(seconds, abs=1e-6)
    assert duration_from_pb(duration_to_pb(seconds)) == pytest.approx(seconds, abs=1e-6)


def test_negative_durations_become_zero() -> None:
    assert duration_to_pb(-3.5) == Duration()


@pytest.mark.parametrize("value", [Timestamp(seconds=-1), Timestamp(nanos=-1), Timestamp(seconds=253_402_300_800)])
def test_bad_times(value: Timestamp) -> None:
    with pytest.raises(InvalidArgument, match="BAD_TIME"):
        timestamp_from_pb(value, "at")


@pytest.mark.parametrize("value", [Duration(seconds=-1), Duration(nanos=-5), Duration(nanos=1_000_000_000)])
def test_bad_durations(value: Duration) -> None:
    with pytest.raises(InvalidArgument, match="BAD_DURATION"):
        duration_from_pb(value, "for")


@given(problems)
def test_problems_round_trip(problem: Problem) -> None:
    assert problem_from_pb(problem_to_pb(problem)) == problem


def test_a_problem_from_a_newer_peer_is_still_a_problem() -> None:
    message = problem_pb2.Problem(code=99, message="?", retry_after_duration=Duration(seconds=-4))
    assert problem_from_pb(message) == Problem(Code.UNKNOWN, "UNKNOWN", "?")
