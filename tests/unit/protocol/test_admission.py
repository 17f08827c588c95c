"""The gate: a rate, an order, nobody comes back in vain, and little to remember."""

from __future__ import annotations

import heapq
import random

import pytest

from edgenode.link.protocol.admission import AdmissionGate
from scripts.scaling.storm import storm


def test_a_few_come_in_at_once_and_others_one_after_the_other() -> None:
    gate = AdmissionGate(rate=10)
    waits = [gate.ask(f"n{number}", 100.0) for number in range(30)]
    assert waits[:11] == [0.0] * 11  # a second's worth, and the slot of this moment
    assert waits[11:] == pytest.approx([(number - 10) / 10 for number in range(11, 30)])
    assert (gate.admitted_count, gate.delayed_count, gate.waiting_count(100.0)) == (11, 19, 19)


def test_whoever_comes_back_in_time_is_let_in_before_newcomers() -> None:
    gate = AdmissionGate(rate=10)
    for number in range(11):
        assert gate.ask(f"n{number}", 100.0) == 0.0
    wait = gate.ask("late", 100.0)
    assert gate.ask("late", 100.0 + wait / 2) == pytest.approx(wait / 2)  # too early: the place is the same
    assert gate.ask("newcomer", 100.0 + wait) > 0.0
    assert gate.ask("late", 100.0 + wait + 1.0) == 0.0


def test_a_place_is_kept_for_a_while_only() -> None:
    gate = AdmissionGate(rate=1, keep=5)
    gate.ask("a", 0.0)
    gate.ask("b", 0.0)
    assert gate.ask("c", 0.0) > 0.0
    assert gate.waiting_count(6.0) == 1
    assert gate.waiting_count(6.5) == 0


def test_no_bound() -> None:
    gate = AdmissionGate(rate=0)
    assert {gate.ask(f"n{number}", 1.0) for number in range(1000)} == {0.0}


def test_what_is_remembered_is_bounded() -> None:
    gate = AdmissionGate(rate=1, limit=10)
    for number in range(1000):
        gate.ask(f"n{number}", 0.0)
    assert gate.waiting_count(0.0) == 10


def test_whoever_is_not_remembered_takes_no_slot_and_comes_in_behind_the_others() -> None:
    gate = AdmissionGate(rate=1, limit=2)
    gate.ask("first", 0.0)
    gate.ask("second", 0.0)
    assert [gate.ask(name, 0.0) for name in ("a", "b")] == [1.0, 2.0]
    assert [gate.ask("nobody", 0.0) for _ in range(100)] == [3.0] * 100
    assert (gate.ask("a", 1.0), gate.ask("b", 2.0), gate.ask("nobody", 3.0)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("failures", [0, 9])
def test_all_are_in_when_the_rate_allows_also_after_hours_without_a_hub(failures: int) -> None:
    seen = storm(3_000, 5.0, failures)
    assert seen.most_knocks == 2
    assert seen.slack < 0.05


@pytest.mark.parametrize("seed", range(5))
def test_ten_thousand_at_once_come_in_at_the_rate_and_each_knocks_twice_at_most(seed: int) -> None:
    rng = random.Random(seed)
    gate = AdmissionGate(rate=50)
    knocks = [(rng.random(), node, 1) for node in range(10_000)]
    heapq.heapify(knocks)
    entries: list[float] = []
    most = 0
    while knocks:
        now, node, times = heapq.heappop(knocks)
        wait = gate.ask(str(node), now)
        if wait:
            heapq.heappush(knocks, (now + wait + rng.random(), node, times + 1))  # the dialing end's jitter
        else:
            entries.append(now)
            most = max(most, times)
    assert most == 2
    assert entries[-1] == pytest.approx(10_000 / 50, abs=3)
    for first in range(0, len(entries) - 200):
        assert entries[first + 200] - entries[first] > 1.5  # 200 in 4 s at the rate, jitter and a first burst apart
