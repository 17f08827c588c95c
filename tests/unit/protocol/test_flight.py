"""What may be under way: little on a slow link, enough on a fast one."""

from __future__ import annotations

from edgenode.link.model.lanes import Lane
from edgenode.link.protocol.flight import LEAST_BYTES, MOST_BYTES, START_BYTES, Flight

SEGMENT = 1000


def through_a_link(rate: float, seconds: float, patience: float = 3.0, latency: float = 0.005) -> tuple[int, float]:
    """Send as much as may be over a link of `rate` bytes a second; (bytes that arrived, longest time one was under way)."""
    flight = Flight(patience)
    now = busy_until = longest = 0.0
    arrived = sequence = 0
    acks: list[tuple[float, int, float]] = []
    while now < seconds:
        while flight.room:
            size = min(flight.room, 256 << 10)
            sequence += 1
            flight.sent(Lane.MESSAGE, sequence, max(size, SEGMENT), now)
            busy_until = max(busy_until, now) + max(size, SEGMENT) / rate
            acks.append((busy_until + latency, sequence, now))
            arrived += max(size, SEGMENT)
        now, acked, sent_at = acks.pop(0)
        flight.acknowledged(Lane.MESSAGE, acked, now)
        longest = max(longest, now - sent_at)
    return arrived, longest


def test_nothing_is_under_way_longer_than_a_slow_link_can_bear() -> None:
    for rate in (2_000, 12_000, 100_000, 1_000_000):
        arrived, longest = through_a_link(rate, seconds=300)
        assert longest < 3.0 * 2 or START_BYTES / rate > 6  # the first of a session may take longer: nobody knows yet
        assert arrived > 0.8 * rate * 300


def test_a_fast_link_is_not_held_up() -> None:
    arrived, _ = through_a_link(50e6, seconds=10)
    assert arrived > 0.9 * 50e6 * 10


def test_a_link_with_a_long_way_is_not_held_up() -> None:
    arrived, _ = through_a_link(5e6, seconds=60, latency=0.6)
    assert arrived > 0.8 * 5e6 * 60


def test_the_bound_has_bounds() -> None:
    flight = Flight(1.0)
    for sequence in range(50):
        flight.sent(Lane.TASK, sequence, flight.room, 0.0)
        flight.acknowledged(Lane.TASK, sequence, 0.0)
    assert flight.room == MOST_BYTES
    flight.sent(Lane.TASK, 100, 1, 0.0)
    flight.acknowledged(Lane.TASK, 100, 1000.0)
    assert flight.room == LEAST_BYTES


def test_what_was_sent_in_an_earlier_session_is_nothing_to_learn_from() -> None:
    flight = Flight(1.0)
    flight.acknowledged(Lane.MESSAGE, 10, 5.0)
    assert (flight.room, flight.bytes) == (START_BYTES, 0)
