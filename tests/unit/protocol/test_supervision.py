"""When a supervised program is started, started again, ended and killed."""

from __future__ import annotations

import random

import pytest

from edgenode.link.protocol.supervision import TABLE, Action, Event, Phase, Supervision


def made(**bounds: float) -> Supervision:
    return Supervision(random.Random(1), **bounds)


def test_every_pair_of_phase_and_event_is_decided() -> None:
    assert set(TABLE) == {(phase, event) for phase in Phase for event in Event}
    # Nothing is started beside what runs, or has not ended.
    for (phase, event), (after, action) in TABLE.items():
        if action is Action.START:
            assert (phase, event) in (
                (Phase.IDLE, Event.WANT),
                (Phase.WAITING, Event.DUE),
                (Phase.REPLACING, Event.ENDED),
            )
            assert after is Phase.RUNNING


def test_one_that_ends_is_started_again_after_waits_that_grow_to_a_bound() -> None:
    core = made(initial=1.0, maximum=8.0, stable_after=30.0)
    now = 0.0
    assert core.want(now) is Action.START
    waits = []
    for _ in range(200):
        assert core.ended(now) is Action.NONE
        deadline = core.next_deadline()
        assert deadline is not None
        waits.append(deadline - now)
        assert core.due(deadline - 1e-6) is Action.NONE or deadline == now
        now = deadline
        if core.phase is Phase.WAITING:
            assert core.due(now) is Action.START
    assert max(waits[:1]) <= 1.0
    assert 4.0 < max(waits) <= 8.0
    # One that ran for long begins anew.
    core.ended(now + 31)
    deadline = core.next_deadline()
    assert deadline is not None
    assert deadline - (now + 31) <= 1.0
    assert core.starts == 201


def test_one_that_is_not_wanted_is_asked_to_end_then_killed() -> None:
    core = made(grace=5.0)
    core.want(0)
    assert core.unwant(10) is Action.TERMINATE
    assert core.next_deadline() == 15
    assert core.due(14) is Action.NONE
    assert core.due(15) is Action.KILL
    assert core.ended(15.1) is Action.NONE
    assert (core.phase, core.next_deadline()) == (Phase.IDLE, None)


@pytest.mark.parametrize("changes", ["", "uw", "uwuw"])
def test_one_that_is_wanted_again_starts_when_it_has_ended(changes: str) -> None:
    core = made()
    core.want(0)
    core.unwant(1)
    core.want(2)
    for change in changes:
        assert (core.unwant(3) if change == "u" else core.want(3)) is Action.NONE
    assert core.phase is Phase.REPLACING
    assert core.ended(4) is Action.START
    assert core.next_deadline() is None


def test_one_that_waits_is_let_go() -> None:
    core = made()
    core.want(0)
    core.ended(1)
    assert core.unwant(1) is Action.NONE
    assert (core.phase, core.next_deadline()) == (Phase.IDLE, None)
    assert core.due(100) is Action.NONE
