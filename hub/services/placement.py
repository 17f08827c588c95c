"""Which nodes get the next tasks.

Work waits at the hub, by queue, until a node that fits has room: a node is given no more than a window of tasks ahead, so
that a backlog spreads over nodes that come later. Of two fit nodes drawn at random the one with less outstanding work for
its capacity gets the task (the power of two choices); what was heard of long ago counts as busier. A queue nobody fits is
parked, with the reason; it is looked at again when the fleet changes, not by the clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from edgenode.link.ports import Rng
from hub.services.fits import Fit
from hub.services.view import FleetView
from hub.store.records import Change, WaitKey, Workload

MANY = 64  # nodes, from which on two are drawn from all of them before anybody looks at each
DRAWS = 16  # so often, before all are looked at after all
MIN_WINDOW = 256  # tasks
WINDOW_SHARE = 8  # tasks ahead for each task a node works on at once
STALE_SECONDS = 10.0  # knowledge this old counts a node twice as busy


@dataclass(frozen=True, slots=True)
class Plan:
    """Slots by queue, a node's name for each.

    `spares` are other nodes with room, for tasks that avoid the node of their slot. `more`: there may be slots after these.
    """

    slots: dict[WaitKey, list[str]]
    spares: dict[WaitKey, str]
    more: bool

    def without(self, barred: Callable[[str], object]) -> Plan:
        """The same, but for nodes that may not be given anything now."""
        if not any(barred(node) for nodes in self.slots.values() for node in set(nodes)):
            return self
        left = {key: [node for node in nodes if not barred(node)] for key, nodes in self.slots.items()}
        slots = {key: nodes for key, nodes in left.items() if nodes}
        spares = {key: node for key, node in self.spares.items() if key in slots and not barred(node)}
        return Plan(slots, spares, self.more)

    def sole(self) -> dict[WaitKey, str]:
        """Queues that have one node only to choose from."""
        return {key: nodes[0] for key, nodes in self.slots.items() if key not in self.spares and len(set(nodes)) == 1}


class Placement:
    """Counts what waits and what is held, and plans what goes where."""

    def __init__(self, view: FleetView, rng: Rng) -> None:
        self._view = view
        self._rng = rng
        self._waiting: dict[WaitKey, int] = {}
        self._waiting_count = 0
        self._held: Counter[str] = Counter()
        self._held_count = 0
        self.parked: dict[WaitKey, str] = {}

    def restore(self, workload: Workload) -> None:
        """What the rows say, at start."""
        self._waiting = {key: count for key, count in workload.waiting.items() if count}
        self._waiting_count = sum(self._waiting.values())
        self._held = Counter(workload.held)
        self._held_count = self._held.total()

    @property
    def waiting_count(self) -> int:
        """Tasks that wait at the hub."""
        return self._waiting_count

    @property
    def pending_count(self) -> int:
        """Tasks that have not ended."""
        return self._waiting_count + self._held_count

    @property
    def parked_count(self) -> int:
        """Tasks that wait in parked queues."""
        return sum(self._waiting.get(key, 0) for key in self.parked)

    def held(self, node: str) -> int:
        """Tasks a node has."""
        return self._held[node]

    def holding(self, nodes: Collection[str]) -> list[str]:
        """Which of these nodes have tasks."""
        if len(nodes) > len(self._held):
            return [node for node in self._held if node in nodes]
        return [node for node in nodes if node in self._held]

    def window(self, node: str) -> int:
        """How many tasks a node may have."""
        known = self._view.node(node)
        return MIN_WINDOW if known is None else max(MIN_WINDOW, WINDOW_SHARE * known.capacity)

    def note(self, changes: Iterable[Change]) -> None:
        """Count committed changes."""
        for change in changes:
            before, after = change.before, change.after
            if before is not None and before.waiting:
                self._add_waiting(before.wait_key, -1)
            elif before is not None and before.held:
                self._add_held(before.holder, -1)
            if after.waiting:
                self._add_waiting(after.wait_key, 1)
            elif after.held:
                self._add_held(after.holder, 1)

    def _add_held(self, node: str, by: int) -> None:
        self._held[node] += by
        self._held_count += by
        if not self._held[node]:
            del self._held[node]

    def _add_waiting(self, key: WaitKey, by: int) -> None:
        before = self._waiting.get(key, 0)
        count = max(before + by, 0)
        self._waiting_count += count - before
        if count:
            self._waiting[key] = count
        else:
            self._waiting.pop(key, None)
            self.parked.pop(key, None)

    def park(self) -> list[WaitKey]:
        """Look at all queues against the fleet as it is now; returns those newly parked."""
        newly = []
        for key in self._waiting:
            reason = self._view.fit(key.demand).reason
            if not reason:
                self.parked.pop(key, None)
                continue
            if key not in self.parked:
                newly.append(key)
            self.parked[key] = reason
        return newly

    def unfit(self, keys: Collection[WaitKey] | None = None) -> dict[WaitKey, str]:
        """Of these queues (None: all), those that hold something and nobody fits, with the reason.

        What is for an agent of this fleet is left out: nobody elsewhere can fit it, and its name means another one there.
        """
        waiting = self._waiting if keys is None else [key for key in keys if key in self._waiting]
        reasons = {key: self._view.fit(key.demand).reason for key in waiting if not self._view.owns(key.demand.agent)}
        return {key: reason for key, reason in reasons.items() if reason}

    def movable(self, node: str, keys: Iterable[WaitKey]) -> set[WaitKey]:
        """Of these queues, those that somebody else than `node` fits."""
        fits = {key: self._view.fit(key.demand).nodes for key in keys}
        return {key for key, nodes in fits.items() if len(nodes) > (node in nodes)}

    def plan(self, now: float, limit: int) -> Plan:
        """At most `limit` slots for what waits: highest priority first, queues of one priority in turn."""
        room = dict[str, int]()
        slots: dict[WaitKey, list[str]] = {}
        spares: dict[WaitKey, str] = {}
        left = limit
        for key in sorted(self._waiting, key=lambda key: -key.priority):
            if key in self.parked:
                continue
            if left <= 0:
                break
            nodes, spare = self._fill(key, room, min(self._waiting[key], left), now)
            if nodes:
                slots[key] = nodes
                left -= len(nodes)
                if spare:
                    spares[key] = spare
        for key in slots:  # whoever was served goes behind the others of its priority
            self._waiting[key] = self._waiting.pop(key)
        return Plan(slots, spares, left <= 0)

    def _fill(self, key: WaitKey, room: dict[str, int], count: int, now: float) -> tuple[list[str], str]:
        """At most `count` nodes for a queue, and another one with room if they are all the same."""
        fit = self._view.fit(key.demand)
        if len(fit.nodes) <= MANY:
            return self._fill_from(fit.nodes, room, count, now)
        # Of many nodes few are full: whoever draws finds two with room, and need not look at the others.
        chosen: list[str] = []
        for _ in range(count):
            drawn = self._draw(fit, lambda node: self._room(node, room) > 0)
            if len(drawn) < 2:
                more, spare = self._fill_from(fit.nodes, room, count - len(chosen), now)
                return chosen + more, spare
            weights = {node: self._weight(node, fit.nodes, now) for node in drawn}
            node = self._choose(drawn, weights, room)
            chosen.append(node)
            room[node] -= 1
        if len(set(chosen)) > 1:
            return chosen, ""
        others = self._draw(fit, lambda node: node not in chosen and self._room(node, room) > 0)
        return chosen, others[0] if others else ""

    def _room(self, node: str, room: dict[str, int]) -> int:
        if node not in room:
            room[node] = self.window(node) - self._held[node]
        return room[node]

    def _weight(self, node: str, fit: Mapping[str, float], now: float) -> float:
        return fit[node] / (1 + self._view.staleness(node, now) / STALE_SECONDS)

    def _draw(self, fit: Fit, good: Callable[[str], bool]) -> list[str]:
        """Two good nodes by chance, fewer if they are hard to find."""
        drawn: list[str] = []
        for _ in range(DRAWS):
            node = fit.drawn(self._rng)
            if node not in drawn and good(node):
                drawn.append(node)
                if len(drawn) == 2:
                    break
        return drawn

    def _fill_from(
        self, fit: Mapping[str, float], room: dict[str, int], count: int, now: float
    ) -> tuple[list[str], str]:
        weights = {node: self._weight(node, fit, now) for node in fit if self._room(node, room) > 0}
        free = list(weights)
        chosen: list[str] = []
        while free and len(chosen) < count:
            node = self._choose(free, weights, room)
            chosen.append(node)
            room[node] -= 1
            if room[node] <= 0:
                free.remove(node)
        if len(set(chosen)) == 1:
            return chosen, next((node for node in free if node != chosen[0]), "")
        return chosen, ""

    def _choose(self, free: list[str], weights: dict[str, float], room: dict[str, int]) -> str:
        if len(free) == 1:
            return free[0]
        first = int(self._rng.random() * len(free))
        second = int(self._rng.random() * (len(free) - 1))
        if second >= first:
            second += 1

        def load(node: str) -> float:
            return (self.window(node) - room[node] + 1) / weights[node]

        one, other = free[first], free[second]
        return one if load(one) <= load(other) else other

    def pick(self, key: WaitKey, good: Callable[[str], bool]) -> str | None:
        """One node for a call: the same choice among those that are `good`, whatever its window."""
        fit = self._view.fit(key.demand)
        nodes = self._draw(fit, good) if len(fit.nodes) > MANY else []
        if len(nodes) < 2:
            nodes = [node for node in fit.nodes if good(node)]
        if not nodes:
            return None
        weights = {node: fit.nodes[node] for node in nodes}
        room = {node: self.window(node) - self._held[node] for node in nodes}
        return self._choose(nodes, weights, room)
