"""Waits before trying again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.link.model.task import RetryPolicy
from edgenode.link.protocol.admission import KEEP_SECONDS
from edgenode.link.protocol.backoff import ReconnectBackoff, retry_delay


class Most:
    """Chance that always asks for the longest wait."""

    def random(self) -> float:
        return 1.0

    def getrandbits(self, k: int, /) -> int:
        return (1 << k) - 1


def test_the_bound_doubles_from_a_second_to_five_minutes() -> None:
    backoff = ReconnectBackoff(Most())
    assert [backoff.next_delay(0.0) for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_the_jitter_is_full() -> None:
    backoff = ReconnectBackoff(random.Random(1), initial=100.0, maximum=100.0)
    delays = sorted(backoff.next_delay(0.0) for _ in range(1000))
    assert delays[0] < 2
    assert delays[-1] > 98
    assert sum(delays) / 1000 == pytest.approx(50, abs=3)


def test_a_session_that_lasted_starts_the_count_anew_and_a_short_one_does_not() -> None:
    backoff = ReconnectBackoff(Most(), stable_after=30.0)
    for _ in range(5):
        backoff.next_delay(0.0)
    backoff.established(100.0)
    assert backoff.next_delay(129.0) == 32
    backoff.established(200.0)
    assert backoff.next_delay(230.0) == 1


def test_the_parents_wish_is_a_floor_for_one_attempt_with_jitter_on_top() -> None:
    backoff = ReconnectBackoff(Most())
    backoff.pace(60.0)
    backoff.pace(20.0)
    assert backoff.next_delay(0.0) == 61.0
    assert backoff.next_delay(0.0) == 2.0


def test_a_long_outage_does_not_overflow() -> None:
    backoff = ReconnectBackoff(Most())
    for _ in range(5000):
        delay = backoff.next_delay(0.0)
    assert delay == 300.0


@given(
    st.integers(1, 500),
    st.floats(0.001, 10.0),
    st.floats(1.0, 10.0),
    st.floats(0.001, 1000.0),
    st.integers(0, 1 << 30),
)
def test_retries_of_tasks_stay_within_their_policy(
    attempt: int, initial: float, multiplier: float, maximum: float, seed: int
) -> None:
    policy = RetryPolicy(initial_backoff=initial, multiplier=multiplier, max_backoff=maximum)
    assert 0 <= retry_delay(policy, attempt, random.Random(seed)) <= maximum
    assert retry_delay(policy, 1, Most()) == min(initial, maximum)
    assert retry_delay(policy, attempt, Most()) <= retry_delay(policy, attempt + 1, Most())


def test_whoever_was_given_a_place_comes_while_it_is_kept_however_long_it_had_failed() -> None:
    backoff = ReconnectBackoff(Most())
    for _ in range(20):
        backoff.next_delay(0.0)
    backoff.pace(60.0)
    assert 60.0 < backoff.next_delay(0.0) < 60.0 + KEEP_SECONDS
    assert backoff.next_delay(0.0) == 300.0
