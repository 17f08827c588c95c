"""All edges come back to a hub at once, in simulated time: the hub's gate and the edges' own waiting, and nothing else."""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter
from dataclasses import dataclass

from edgenode.link.protocol.admission import AdmissionGate
from edgenode.link.protocol.backoff import ReconnectBackoff

ROUND_TRIP = 0.2  # seconds a knock takes on the way, handshake included


@dataclass(slots=True)
class Storm:
    """What was seen. Times are simulated seconds; `cpu` microseconds a knock at the gate."""

    seconds: float  # until the last was in
    knocks: int
    most_knocks: int  # of one edge
    most_a_second: int  # knocks that came within one second
    cpu: float
    slack: float  # what the last waited beyond the time that the rate alone asks for, as a share of it


def storm(count: int, rate: float, failures: int, seed: int = 1) -> Storm:
    """`count` edges that failed `failures` times meanwhile find their hub again; `rate` are let in a second."""
    rng = random.Random(seed)
    gate = AdmissionGate(rate)
    backoffs = [ReconnectBackoff(rng) for _ in range(count)]
    arrivals: list[tuple[float, int]] = []
    for number, backoff in enumerate(backoffs):
        for _ in range(failures):
            backoff.next_delay(0.0)
        arrivals.append((backoff.next_delay(0.0), number))
    heapq.heapify(arrivals)
    knocks: Counter[int] = Counter()
    seconds: Counter[int] = Counter()
    now = spent = 0.0
    while arrivals:
        now, number = heapq.heappop(arrivals)
        knocks[number] += 1
        seconds[int(now)] += 1
        began = time.perf_counter()
        wait = gate.ask(str(number), now)
        spent += time.perf_counter() - began
        if wait:
            backoffs[number].pace(wait)
            heapq.heappush(arrivals, (now + ROUND_TRIP + backoffs[number].next_delay(now), number))
    total = knocks.total()
    least = count / rate
    return Storm(now, total, max(knocks.values()), max(seconds.values()), spent / total * 1e6, now / least - 1)
