"""The wall clock that does not jump."""

from __future__ import annotations

from edgenode.link.ports import SteadyClock


class Machine:
    """Clocks that are set by hand."""

    def __init__(self, wall: float) -> None:
        self.now = 100.0
        self.said = wall

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.said


def test_time_passes_as_the_monotonic_clock_says() -> None:
    machine = Machine(5000.0)
    clock = SteadyClock(machine)
    machine.now += 10
    machine.said += 31_536_000
    assert (clock.wall(), clock.monotonic()) == (5010.0, 110.0)
    machine.said = 0.0
    assert clock.wall() == 5010.0


def test_a_clock_that_cannot_be_right_is_believed_once_it_can() -> None:
    machine = Machine(60.0)
    clock = SteadyClock(machine, not_before=4000.0)
    machine.now += 10
    machine.said += 10
    assert clock.wall() == 70.0
    machine.said = 5000.0
    assert clock.wall() == 5000.0
    machine.said = 9000.0
    assert clock.wall() == 5000.0
