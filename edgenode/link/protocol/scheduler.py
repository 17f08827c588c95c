"""Which queued task goes to which worker.

Tasks that ask for the same thing (skill, selector, agent, cost limit) share a demand: a queue by priority, then by arrival.
A task that nobody fits therefore holds up only its own demand. A worker has credits; each assignment uses one. It also has
room for what is on its way to it, in bytes or whatever tasks are weighed in: one that does not take what it is sent gets no
more, whatever its credits.

The choice among fit workers is the power of two choices (Mitzenmacher 2001) over peak EWMA latency times work in flight
(Finagle's PeakEwma): of two workers drawn at random the one with the smaller product gets the task. A slow answer counts at
once and fades with `DECAY`; a failure counts as a slow answer, so that a worker that fails fast does not look fast. As the
mark fades the worker is tried again.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from edgenode.link.ports import Rng

DECAY = 5.0  # seconds until an old latency counts 1/e
FAILURE_LATENCY = 2.0  # seconds a failed attempt counts at least
_FLOOR = 1e-4  # seconds; below this latencies do not matter

T = TypeVar("T")


class Demand(NamedTuple):
    """What a task asks of a worker. A tuple, since it is a key many times in the life of a task."""

    skill: str
    selector: str = ""
    agent: str = ""
    cost_limit: float | None = None


class PeakEwma:
    """Latency that rises at once and falls slowly, in seconds."""

    __slots__ = ("_stamp", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._stamp = 0.0

    def observe(self, latency: float, now: float) -> None:
        """Take a sample."""
        if latency >= self.value:
            self.value = latency
        else:
            weight = math.exp(-max(now - self._stamp, 0.0) / DECAY)
            self.value = self.value * weight + latency * (1 - weight)
        self._stamp = now

    def at(self, now: float) -> float:
        """The value, faded since the last sample."""
        return self.value * math.exp(-max(now - self._stamp, 0.0) / DECAY)


class Worker:
    """One that takes tasks: an attached agent, or a node as the hub sees it."""

    __slots__ = ("_weighed", "_weight", "credits", "demands", "in_flight", "latency", "name", "room")

    def __init__(self, name: str, room: float) -> None:
        self.name = name
        self.credits = 0
        self.room = room
        self.in_flight = 0
        self.latency = PeakEwma()
        self.demands: set[Demand] = set()  # those it is known to fit
        self._weight = _FLOOR
        self._weighed = math.nan  # when that was looked at

    def load(self, now: float) -> float:
        """Smaller is better."""
        if now != self._weighed:
            self._weight = max(self.latency.at(now), _FLOOR)
            self._weighed = now
        return self._weight * (self.in_flight + 1)

    def observe(self, latency: float, now: float) -> None:
        """Take a sample."""
        self.latency.observe(latency, now)
        self._weighed = math.nan


class _Queue(Generic[T]):
    """Tasks of one demand: by priority (9 first), then by arrival. Removal is lazy."""

    __slots__ = ("_by_priority", "_keys", "_top")

    def __init__(self) -> None:
        self._by_priority: dict[int, deque[tuple[int, str, T]]] = {}
        self._keys: dict[str, int] = {}

    def push(self, order: int, priority: int, key: str, item: T, first: bool) -> None:
        self._keys[key] = order
        items = self._by_priority.get(priority)
        if items is None:
            items = self._by_priority[priority] = deque()
        if first:
            items.appendleft((order, key, item))
        else:
            items.append((order, key, item))

    def discard(self, key: str) -> bool:
        return self._keys.pop(key, None) is not None

    def head(self) -> tuple[int, int, T] | None:
        """(priority, order, item) of the first, or None."""
        for priority in sorted(self._by_priority, reverse=True):
            items = self._by_priority[priority]
            while items and self._keys.get(items[0][1]) != items[0][0]:
                items.popleft()
            if items:
                order, _, item = items[0]
                return priority, order, item
            del self._by_priority[priority]
        return None

    def take(self, priority: int, last: float) -> Iterator[tuple[str, T]]:
        """Those of a priority, one by one, up to the order `last`. Each is out of the queue once it is given."""
        items, keys = self._by_priority[priority], self._keys
        while items:
            order, key, item = items[0]
            waits = keys.get(key) == order
            if waits and order > last:
                return
            items.popleft()
            if waits:
                del keys[key]
                yield key, item

    def __len__(self) -> int:
        return len(self._keys)

    def items(self) -> list[T]:
        return [
            item for items in self._by_priority.values() for order, key, item in items if self._keys.get(key) == order
        ]


class Scheduler(Generic[T]):
    """Queues of tasks `T`. `fits(demand)` names the workers that may take it; its answers are kept until `changed()`.

    Only demands that may have become assignable (a task came, a fit worker got credit, fitness changed) are looked at,
    so the cost of `assign` does not grow with what is queued.
    """

    def __init__(
        self,
        fits: Callable[[Demand], Iterable[str]],
        rng: Rng,
        weigh: Callable[[T], float] = lambda _: 0,
        room: float = math.inf,
    ) -> None:
        """`room` is each worker's: it gets tasks while what `weigh` said of those it did not take yet is below that."""
        self._fits = fits
        self._rng = rng
        self._weigh = weigh
        self._room = room
        self._queues: dict[Demand, _Queue[T]] = {}
        self._demand_of: dict[str, Demand] = {}
        self._fit_cache: dict[Demand, list[Worker]] = {}
        self._workers: dict[str, Worker] = {}
        self._dirty: set[Demand] = set()
        self._order = 0

    def worker(self, name: str) -> Worker:
        """The worker of that name; made if there is none."""
        worker = self._workers.get(name)
        if worker is None:
            worker = self._workers[name] = Worker(name, self._room)
            self.changed()
        return worker

    def find_worker(self, name: str) -> Worker | None:
        """The worker of that name, if it is attached."""
        return self._workers.get(name)

    def remove_worker(self, name: str) -> None:
        """It is gone; what it had in flight is the caller's to release."""
        if self._workers.pop(name, None) is not None:
            self.changed()

    def add_credits(self, worker: Worker, count: int) -> None:
        """The worker can take `count` more tasks (negative takes back)."""
        worker.credits += count
        if count > 0:
            self._dirty |= worker.demands

    def add_room(self, worker: Worker, weight: float) -> bool:
        """The worker took tasks of this weight; True if it had no room before and has some now."""
        had = worker.room > 0
        worker.room += weight
        if had or worker.room <= 0:
            return False
        self._dirty |= worker.demands
        return True

    def changed(self) -> None:
        """Who fits what may have changed."""
        self._fit_cache.clear()
        for worker in self._workers.values():
            worker.demands.clear()
        self._dirty.update(self._queues)

    def push(self, key: str, demand: Demand, priority: int, item: T, *, first: bool = False) -> None:
        """Queue a task under a key. `first` puts it before all others of its priority (it waited before)."""
        self._order += 1
        queue = self._queues.get(demand)
        if queue is None:
            queue = self._queues[demand] = _Queue()
        queue.push(self._order, priority, key, item, first)
        self._demand_of[key] = demand
        self._dirty.add(demand)

    def discard(self, key: str) -> bool:
        """Take a task out of its queue; False if it was not queued."""
        demand = self._demand_of.pop(key, None)
        if demand is None:
            return False
        queue = self._queues[demand]
        queue.discard(key)
        if not queue:
            del self._queues[demand]
        return True

    def __len__(self) -> int:
        return len(self._demand_of)

    def depth(self, skill: str) -> int:
        """Tasks queued for a skill."""
        return sum(len(queue) for demand, queue in self._queues.items() if demand.skill == skill)

    def demands(self) -> list[Demand]:
        """What is asked for by the queued tasks."""
        return list(self._queues)

    def items(self, demand: Demand) -> list[T]:
        """The queued tasks of a demand."""
        queue = self._queues.get(demand)
        return queue.items() if queue is not None else []

    def assign(self, now: float, limit: int = 1024) -> dict[Worker, list[T]]:
        """Match queued tasks and credits: highest priority first, then oldest. Takes the credits; at most `limit`."""
        ready: list[tuple[int, int, Demand]] = []
        for demand in self._dirty:
            self._offer(ready, demand)
        self._dirty.clear()
        assigned: dict[Worker, list[T]] = {}
        while ready and limit > 0:
            negative_priority, _, demand = heapq.heappop(ready)
            free = self._free(demand)
            # As many as go before any other demand's.
            last = ready[0][1] if ready and ready[0][0] == negative_priority else math.inf
            queue = self._queues[demand]
            for key, item in queue.take(-negative_priority, last) if free else ():
                worker = free[0] if len(free) == 1 else self._choose(free, now)
                del self._demand_of[key]
                worker.credits -= 1
                worker.in_flight += 1
                worker.room -= self._weigh(item)
                limit -= 1
                if worker in assigned:
                    assigned[worker].append(item)
                else:
                    assigned[worker] = [item]
                if worker.credits <= 0 or worker.room <= 0:
                    free.remove(worker)
                if not free or limit <= 0:
                    break
            if not queue:
                del self._queues[demand]
            elif free:
                self._offer(ready, demand)
        self._dirty.update(demand for _, _, demand in ready)
        return assigned

    def finished(self, worker: Worker, latency: float | None, now: float, *, failed: bool = False) -> None:
        """An attempt ended after `latency` seconds (None: not known, e.g. it was lost)."""
        if worker.in_flight:
            worker.in_flight -= 1
        if failed:
            latency = max(latency or 0.0, FAILURE_LATENCY)
        if latency is not None:
            worker.observe(latency, now)

    def _offer(self, ready: list[tuple[int, int, Demand]], demand: Demand) -> None:
        queue = self._queues.get(demand)
        head = queue.head() if queue is not None else None
        if head is not None:
            heapq.heappush(ready, (-head[0], head[1], demand))

    def _free(self, demand: Demand) -> list[Worker]:
        """The workers that may take such a task now."""
        fit = self._fit_cache.get(demand)
        if fit is None:
            names = self._fits(demand)
            fit = self._fit_cache[demand] = [self._workers[name] for name in names if name in self._workers]
            for worker in fit:
                worker.demands.add(demand)
        return [worker for worker in fit if worker.credits > 0 and worker.room > 0]

    def _choose(self, free: Sequence[Worker], now: float) -> Worker:
        """The better of two of several."""
        first = int(self._rng.random() * len(free))
        second = int(self._rng.random() * (len(free) - 1))
        if second >= first:
            second += 1
        one, other = free[first], free[second]
        return one if one.load(now) <= other.load(now) else other
