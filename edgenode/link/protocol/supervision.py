"""When to start a program that is to run, when to start it again, and how to end it. What and how is a driver's.

Theory of operation. Somebody wants the program or does not; the program runs or has ended. Each change is an event, the table
says what it leads to. A program that ended although it is wanted is started again after a wait that grows with each end in
quick succession (full jitter, bounded) and begins anew once it ran for a while. One that is to end is asked to; when it has
not ended after a grace, it is killed. Whatever is wanted meanwhile is remembered: nothing is started beside one that has not
ended. All waits are deadlines: the driver calls `due` at `next_deadline()`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from edgenode.link.ports import Rng
from edgenode.link.protocol.backoff import ReconnectBackoff


class Phase(enum.Enum):
    """Where a program stands."""

    IDLE = "idle"  # not wanted, does not run
    RUNNING = "running"
    WAITING = "waiting"  # ended although wanted: is started again at the deadline
    ENDING = "ending"  # was asked to end; is killed at the deadline
    REPLACING = "replacing"  # was asked to end, is wanted again: starts when it has ended


class Event(enum.Enum):
    """What happens to it."""

    WANT = "want"
    UNWANT = "unwant"
    ENDED = "ended"
    DUE = "due"


class Action(enum.Enum):
    """What the driver is to do."""

    NONE = "none"
    START = "start"
    TERMINATE = "terminate"
    KILL = "kill"


_P, _E, _A = Phase, Event, Action

TABLE: Mapping[tuple[Phase, Event], tuple[Phase, Action]] = {
    (_P.IDLE, _E.WANT): (_P.RUNNING, _A.START),
    (_P.IDLE, _E.UNWANT): (_P.IDLE, _A.NONE),
    (_P.IDLE, _E.ENDED): (_P.IDLE, _A.NONE),
    (_P.IDLE, _E.DUE): (_P.IDLE, _A.NONE),
    (_P.RUNNING, _E.WANT): (_P.RUNNING, _A.NONE),
    (_P.RUNNING, _E.UNWANT): (_P.ENDING, _A.TERMINATE),
    (_P.RUNNING, _E.ENDED): (_P.WAITING, _A.NONE),
    (_P.RUNNING, _E.DUE): (_P.RUNNING, _A.NONE),
    (_P.WAITING, _E.WANT): (_P.WAITING, _A.NONE),
    (_P.WAITING, _E.UNWANT): (_P.IDLE, _A.NONE),
    (_P.WAITING, _E.ENDED): (_P.WAITING, _A.NONE),
    (_P.WAITING, _E.DUE): (_P.RUNNING, _A.START),
    (_P.ENDING, _E.WANT): (_P.REPLACING, _A.NONE),
    (_P.ENDING, _E.UNWANT): (_P.ENDING, _A.NONE),
    (_P.ENDING, _E.ENDED): (_P.IDLE, _A.NONE),
    (_P.ENDING, _E.DUE): (_P.ENDING, _A.KILL),
    (_P.REPLACING, _E.WANT): (_P.REPLACING, _A.NONE),
    (_P.REPLACING, _E.UNWANT): (_P.ENDING, _A.NONE),
    (_P.REPLACING, _E.ENDED): (_P.RUNNING, _A.START),
    (_P.REPLACING, _E.DUE): (_P.REPLACING, _A.KILL),
}


class Supervision:
    """One program. Each method returns what to do now; `next_deadline` says when to call `due`."""

    def __init__(
        self,
        rng: Rng,
        *,
        initial: float = 1.0,
        maximum: float = 60.0,
        stable_after: float = 30.0,
        grace: float = 10.0,
    ) -> None:
        """Seconds: bounds of the wait before another start, how long a start must last to count as one that went well, and
        how long a program that was asked to end may take."""
        self.phase = Phase.IDLE
        self.starts = 0
        self._backoff = ReconnectBackoff(rng, initial=initial, maximum=maximum, stable_after=stable_after)
        self._grace = grace
        self._deadline: float | None = None

    def want(self, now: float) -> Action:
        """It is to run."""
        return self._on(Event.WANT, now)

    def unwant(self, now: float) -> Action:
        """It is not to run."""
        return self._on(Event.UNWANT, now)

    def ended(self, now: float) -> Action:
        """It ended, or could not be started."""
        return self._on(Event.ENDED, now)

    def due(self, now: float) -> Action:
        """A deadline may have passed; called early it changes nothing."""
        if self._deadline is None or now < self._deadline:
            return Action.NONE
        self._deadline = None
        return self._on(Event.DUE, now)

    def next_deadline(self) -> float | None:
        """When to call `due`; None while nothing is waited for."""
        return self._deadline

    def _on(self, event: Event, now: float) -> Action:
        before = self.phase
        self.phase, action = TABLE[before, event]
        if action is Action.START:
            self.starts += 1
            self._backoff.established(now)
            self._deadline = None
        elif action is Action.TERMINATE:
            self._deadline = now + self._grace
        elif self.phase is not before:
            if self.phase is Phase.WAITING:
                self._deadline = now + self._backoff.next_delay(now)
            elif self.phase is Phase.IDLE:
                self._deadline = None
        return action
