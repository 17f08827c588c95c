"""How fast a parent lets its nodes in, so that thousands that come back together do not take it from those who are there.

Theory of operation. Time is cut into slots, `rate` of them a second, and a session costs one. Slots that passed unused are
kept for a second at most: so many may come at once. A node that finds no free slot is given the next one that nobody has,
and told when that is; it is let in when it comes back then or within `keep` seconds, and everybody else finds the slot taken.
So nodes come in in the order they knocked, at the rate set, and nobody comes back in vain. A slot whose node stays away
is lost, which costs a fraction of a second.

What is remembered is one number for each node that was sent away, for as long as its slot is good, and bounded besides.
"""

from __future__ import annotations

from collections import OrderedDict

KEEP_SECONDS = 10.0
# Beyond so many a node that was sent away is not remembered and takes no slot: it asks again when those before it are in.
MAX_WAITING = 100_000


class AdmissionGate:
    """`ask` for each node that knocks. `rate` is sessions per second; 0 lets everybody in."""

    def __init__(self, rate: float, keep: float = KEEP_SECONDS, limit: int = MAX_WAITING) -> None:
        self._slot = 1.0 / rate if rate > 0 else 0.0
        self._keep = keep
        self._limit = limit
        self._next = float("-inf")  # the first slot that nobody has
        # The slots of those who were sent away, earliest first. A plain dict would go past everyone who left at each look at
        # its first.
        self._places: OrderedDict[str, float] = OrderedDict()
        self.admitted_count = 0
        self.delayed_count = 0  # how often somebody was sent away

    def ask(self, node: str, now: float) -> float:
        """0: come in. Else so many seconds to wait; the node's place is kept. `now` is monotonic."""
        self._forget(now)
        place = self._places.pop(node, None)
        new = place is None
        if place is None:
            place = max(self._next, now - 1.0) if self._slot else now
        if place > now:
            self.delayed_count += 1
            if len(self._places) >= self._limit:
                return place - now
            self._places[node] = place
        else:
            self.admitted_count += 1
        if new:
            self._next = place + self._slot
        return max(place - now, 0.0)

    def waiting_count(self, now: float) -> int:
        """Nodes that were sent away and have a place."""
        self._forget(now)
        return len(self._places)

    def _forget(self, now: float) -> None:
        while self._places:
            node, place = next(iter(self._places.items()))
            if place + self._keep >= now:
                return
            del self._places[node]
