"""A world with a clock of its own: events happen in order of time, chance comes from one seed, what happened is kept."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable

Note = tuple[float, str, str, object]


class SimulationFailure(AssertionError):
    """Something that must hold did not; the message names the seed and tells what happened last."""


class World:
    """Clock, chance, event queue and history of one run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 0.0
        self.faults: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()
        self.step_count = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._history: deque[Note] = deque(maxlen=120)

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """Do `action` in `delay` seconds."""
        self.at(self.now + max(delay, 0.0), action)

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do `action` at `time`, after what was to be done then already. Exact, so that order can be kept."""
        self._number += 1
        heapq.heappush(self._queue, (time, self._number, action))

    def note(self, who: str, what: str, detail: object = "") -> None:
        """Remember that this happened; `detail` is turned into text only if it is asked for."""
        self._history.append((self.now, who, what, detail))

    def fault(self, kind: str, detail: object = "") -> None:
        """Remember that the world did this to them."""
        self.faults[kind] += 1
        self.note("world", f"FAULT {kind}", detail)

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass up to `until`, or until `done`; returns whether it was done."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self._queue)
            action()
            self.step_count += 1
            if done is not None and done():
                return True
        self.now = max(self.now, until)
        return False

    def check(self, holds: bool, broken: str) -> None:
        """Fail with the history if something that must hold does not."""
        if not holds:
            raise SimulationFailure(f"seed {self.seed}: {broken}\n{self.tail()}")

    def tail(self, lines: int = 60) -> str:
        """What happened last, a line each."""
        return "\n".join(
            f"{time:9.3f} {who:5} {what:10} {_short(detail)}"
            for time, who, what, detail in list(self._history)[-lines:]
        )


def _short(detail: object) -> str:
    text = str(detail)
    return text if len(text) <= 160 else text[:157] + "..."
