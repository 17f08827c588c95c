import random

import pytest

from edgenode.link.errors import FailedPrecondition
from edgenode.link.model.problem import Code, Problem
from edgenode.link.model.task import OnLost, RetryPolicy, TaskState
from edgenode.link.protocol.scheduler import FAILURE_LATENCY, Demand, Scheduler
from edgenode.link.protocol.tasks import TRANSITIONS, TaskEvent, after_failure, after_loss, next_state
from edgenode.link.protocol.timers import Timers

FLAKY = Problem(Code.UNAVAILABLE, "FLAKY", "try again", retryable=True)


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("event", TaskEvent)
def test_every_pair_is_in_the_table_or_refused(state: TaskState, event: TaskEvent) -> None:
    after = TRANSITIONS[state].get(event)
    if after is not None:
        assert next_state(state, event) is after
        return
    with pytest.raises(FailedPrecondition) as caught:
        next_state(state, event)
    assert caught.value.reason == ("TASK_ENDED" if state.terminal else "BAD_TRANSITION")


def test_terminal_states_have_no_way_out_and_all_others_have_one() -> None:
    for state in TaskState:
        assert bool(TRANSITIONS[state]) is not state.terminal
        if not state.terminal:
            assert {TaskEvent.CANCEL, TaskEvent.EXPIRE} <= set(TRANSITIONS[state])


def test_after_failure() -> None:
    policy = RetryPolicy(attempts=3, initial_backoff=1.0, multiplier=2.0, max_backoff=3.0)
    assert after_failure(FLAKY, policy, 1, 0.5).delay == 0.5
    assert after_failure(FLAKY, policy, 2, 0.5).delay == 1.0
    assert after_failure(FLAKY, policy, 3, 0.5).event is TaskEvent.EXHAUST
    final = Problem(Code.INTERNAL, "BUG", "no")
    assert after_failure(final, policy, 1, 0.5).event is TaskEvent.FAIL
    named = RetryPolicy(attempts=2, reasons=("BUG",))
    assert after_failure(final, named, 1, 0.0).event is TaskEvent.RETRY
    assert after_failure(FLAKY, named, 1, 0.0).event is TaskEvent.FAIL
    told = Problem(Code.RESOURCE_EXHAUSTED, "BUSY", "later", retryable=True, retry_after=7.0)
    assert after_failure(told, policy, 1, 0.5).delay == 7.0
    assert after_loss(OnLost.WAIT) is None


class TestScheduler:
    def setup_method(self) -> None:
        self.fit = {"a": ["w1", "w2"], "b": ["w2"]}
        self.scheduler: Scheduler[str] = Scheduler(lambda demand: self.fit.get(demand.skill, []), random.Random(1))

    def push(self, key: str, skill: str = "a", priority: int = 5, *, first: bool = False) -> None:
        self.scheduler.push(key, Demand(skill), priority, key, first=first)

    def credit(self, name: str, count: int) -> None:
        self.scheduler.add_credits(self.scheduler.worker(name), count)

    def assigned(self) -> list[tuple[str, str]]:
        return [(item, worker.name) for worker, items in self.scheduler.assign(0.0).items() for item in items]

    def test_priority_then_arrival_across_demands(self) -> None:
        self.push("old", "b", 5)
        self.push("new", "a", 5)
        self.push("urgent", "a", 9)
        self.push("again", "a", 5, first=True)
        self.credit("w2", 9)
        assert [item for item, _ in self.assigned()] == ["urgent", "old", "again", "new"]
        assert len(self.scheduler) == 0

    def test_a_demand_nobody_fits_holds_up_nobody(self) -> None:
        self.push("stuck", "nobody", 9)
        self.push("fine", "b")
        self.credit("w2", 2)
        assert self.assigned() == [("fine", "w2")]
        assert self.scheduler.depth("nobody") == 1
        self.fit["nobody"] = ["w2"]
        self.scheduler.changed()
        assert self.assigned() == [("stuck", "w2")]

    def test_credits_bound_assignments(self) -> None:
        for number in range(5):
            self.push(f"t{number}")
        self.credit("w1", 2)
        assert len(self.assigned()) == 2
        assert self.assigned() == []
        self.credit("w1", 1)
        assert len(self.assigned()) == 1

    def test_a_worker_that_does_not_take_what_it_was_sent_gets_no_more(self) -> None:
        weighed: Scheduler[str] = Scheduler(lambda _: ["w1"], random.Random(1), len, 10)
        for key in ("four", "seven77", "one", "two"):
            weighed.push(key, Demand("a"), 5, key)
        worker = weighed.worker("w1")
        weighed.add_credits(worker, 9)
        assert weighed.assign(0.0) == {worker: ["four", "seven77"]}
        assert not weighed.add_room(worker, 1)  # what is on its way fills it still
        assert weighed.assign(0.0) == {}
        assert weighed.add_room(worker, 3)
        assert not weighed.add_room(worker, 7)
        assert weighed.assign(0.0) == {worker: ["one", "two"]}

    def test_discarded_tasks_are_not_assigned(self) -> None:
        self.push("gone")
        self.push("kept")
        assert self.scheduler.discard("gone")
        assert not self.scheduler.discard("gone")
        self.credit("w1", 9)
        assert self.assigned() == [("kept", "w1")]

    def test_limit_leaves_the_rest_for_the_next_round(self) -> None:
        for number in range(10):
            self.push(f"t{number}")
        self.credit("w1", 10)
        (four,) = self.scheduler.assign(0.0, limit=4).values()
        assert len(four) == 4
        assert len(self.assigned()) == 6

    def test_slow_and_failing_workers_shed_load_and_are_probed_back(self) -> None:
        slow, fast = self.scheduler.worker("w1"), self.scheduler.worker("w2")
        fast.latency.observe(0.01, 0.0)
        self.scheduler.finished(slow, 0.001, 0.0, failed=True)
        assert slow.latency.value == FAILURE_LATENCY

        def share(now: float) -> float:
            taken = 0
            for number in range(100):
                self.push(f"{now}-{number}")
                self.credit("w1", 1)
                self.credit("w2", 1)
                (worker,) = self.scheduler.assign(now)
                taken += worker is slow
                self.scheduler.finished(worker, None, now)
            return taken / 100

        assert share(1.0) == 0.0
        assert share(60.0) > 0.2


def test_timers_fire_in_order_and_forget_cancelled_ones() -> None:
    alarms: list[float] = []
    fired: list[str] = []
    timers = Timers(alarms.append)
    late = timers.at(5.0, lambda: fired.append("late"))
    timers.at(3.0, lambda: fired.append("early"))
    assert alarms == [5.0, 3.0]
    timers.run_due(4.0)
    assert fired == ["early"]
    late.cancel()
    late.cancel()
    assert timers.next_due() is None
    many = [timers.at(10.0 + number, lambda: fired.append("never")) for number in range(1000)]
    for timer in many[:-1]:
        timer.cancel()
    assert len(timers._heap) < 200
    assert len(timers) == 1
    assert timers.next_due() == many[-1].when
