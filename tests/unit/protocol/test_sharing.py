"""Shares of the link: in proportion to the weights, never nothing, never faster than the pace."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.link.errors import InvalidArgument
from edgenode.link.model.lanes import Lane
from edgenode.link.protocol.sharing import DEFAULT_WEIGHTS, MAX_WEIGHT, MIN_SHARE, LaneSharing, TokenBucket

MEGABYTE = 1 << 20


def _share(sharing: LaneSharing, ready: list[Lane], total: int, size: int = 64 << 10) -> dict[Lane, float]:
    sent: Counter[Lane] = Counter()
    while sent.total() < total:
        lane = sharing.choose(ready)
        assert lane is not None
        sharing.charge(lane, size)
        sent[lane] += size
    return {lane: sent[lane] / sent.total() for lane in ready}


def test_busy_lanes_share_by_weight() -> None:
    shares = _share(LaneSharing(), list(Lane), 200 * MEGABYTE)
    whole = sum(DEFAULT_WEIGHTS.values())
    for lane, share in shares.items():
        assert share == pytest.approx(DEFAULT_WEIGHTS[lane] / whole, abs=0.01)


def test_what_silent_lanes_leave_goes_to_the_others() -> None:
    shares = _share(LaneSharing(), [Lane.MESSAGE, Lane.BULK], 100 * MEGABYTE)
    assert shares[Lane.MESSAGE] == pytest.approx(2 / 3, abs=0.01)


def test_every_lane_has_a_share_whatever_the_weights() -> None:
    sharing = LaneSharing({Lane.CONTROL: MAX_WEIGHT, Lane.TASK: 1, Lane.MESSAGE: 1, Lane.BULK: 1})
    shares = _share(sharing, list(Lane), 200 * MEGABYTE)
    assert min(shares.values()) > MIN_SHARE * 0.8


@given(st.dictionaries(st.sampled_from(Lane), st.integers(1, MAX_WEIGHT)), st.integers(0, 1000))
def test_no_lane_waits_longer_than_a_round_of_the_others(weights: dict[Lane, int], seed: int) -> None:
    rng = random.Random(seed)
    sharing = LaneSharing(weights, round_bytes=1000)
    waited: Counter[Lane] = Counter()
    for _ in range(400):
        lane = sharing.choose(list(Lane))
        assert lane is not None
        size = rng.randint(1, 400)
        sharing.charge(lane, size)
        for other in Lane:
            waited[other] = 0 if other is lane else waited[other] + size
        # A round, what each may have overdrawn, and the rounds it takes to pay one's own overdraft off.
        assert max(waited.values()) <= (1000 + 4 * 400) * (2 + 400 / (1000 * MIN_SHARE))


def test_control_goes_first_when_it_comes_back() -> None:
    sharing = LaneSharing()
    _share(sharing, [Lane.MESSAGE, Lane.BULK], 10 * MEGABYTE)
    sharing.choose(list(Lane))
    _share(sharing, [Lane.MESSAGE, Lane.BULK], MEGABYTE)
    waited = 0
    while (lane := sharing.choose(list(Lane))) is not Lane.CONTROL:
        assert lane is not None
        sharing.charge(lane, 64 << 10)
        waited += 64 << 10
    assert waited <= MEGABYTE


def test_a_lane_with_nothing_to_send_is_never_chosen() -> None:
    sharing = LaneSharing()
    assert sharing.choose([]) is None
    for _ in range(100):
        assert sharing.choose([Lane.BULK]) is Lane.BULK
        sharing.charge(Lane.BULK, MEGABYTE)


def test_a_huge_batch_is_paid_for_in_one_step() -> None:
    sharing = LaneSharing()
    sharing.charge(Lane.TASK, 1 << 40)
    assert sharing.choose([Lane.TASK]) is Lane.TASK


def test_weights_change_at_runtime() -> None:
    sharing = LaneSharing()
    _share(sharing, list(Lane), 10 * MEGABYTE)
    sharing.set_weights({Lane.BULK: 14})
    assert _share(sharing, list(Lane), 200 * MEGABYTE)[Lane.BULK] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("weight", [0, -1, MAX_WEIGHT + 1])
def test_bad_weights_are_refused_as_a_whole(weight: int) -> None:
    sharing = LaneSharing()
    with pytest.raises(InvalidArgument) as caught:
        sharing.set_weights({Lane.CONTROL: 1, Lane.BULK: weight})
    assert caught.value.problem.metadata["field"] == "lane_weights.bulk"
    assert _share(sharing, list(Lane), 200 * MEGABYTE)[Lane.CONTROL] == pytest.approx(8 / 15, abs=0.01)


def test_the_bucket_lets_all_through_without_a_rate() -> None:
    bucket = TokenBucket(0.0)
    bucket.take(1 << 40, 0.0)
    assert bucket.ready_at(0.0) == 0.0


@given(st.integers(100, 10_000), st.lists(st.integers(1, 5_000), min_size=1, max_size=50))
def test_the_bucket_keeps_the_rate_over_any_time(rate: int, sizes: list[int]) -> None:
    bucket = TokenBucket(0.0)
    bucket.set_rate(rate, 0.0)
    now, sent = 0.0, 0
    for size in sizes:
        now = bucket.ready_at(now)
        bucket.take(size, now)
        sent += size
        assert sent <= rate * now + max(sizes) + 1


def test_an_idle_bucket_saves_a_second_and_no_more() -> None:
    bucket = TokenBucket(0.0)
    bucket.set_rate(100, 0.0)
    bucket.take(150, 50.0)
    assert bucket.ready_at(50.0) == pytest.approx(50.5)


def test_lifting_the_rate_frees_at_once() -> None:
    bucket = TokenBucket(0.0)
    bucket.set_rate(1, 0.0)
    bucket.take(1000, 0.0)
    bucket.set_rate(0, 0.0)
    assert bucket.ready_at(0.0) == 0.0
