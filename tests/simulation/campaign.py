"""Many seeds, on several processors; a seed that fails is made small: as few of its faults as still make it fail."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from edgenode.link.telemetry import set_level
from tests.simulation.faults import Fault
from tests.simulation.loop import SimulationFailure
from tests.simulation.world import World

CHUNK = 20
SHRINK_RUNS = 120


@dataclass
class Totals:
    """Of many runs."""

    seeds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    fates: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    entries: int = 0
    tasks: int = 0
    steps: int = 0
    failures: dict[int, str] = field(default_factory=dict)

    def add(self, other: Totals) -> None:
        """Both together."""
        self.seeds += other.seeds
        self.faults += other.faults
        self.fates += other.fates
        self.sessions += other.sessions
        self.entries += other.entries
        self.tasks += other.tasks
        self.steps += other.steps
        self.failures.update(other.failures)


def run_seeds(seeds: Sequence[int]) -> Totals:
    """Run each; failures are kept, not raised."""
    totals = Totals()
    set_level("error")
    for seed in seeds:
        totals.seeds += 1
        try:
            report = World(seed).run()
        except SimulationFailure as failure:
            totals.failures[seed] = str(failure)
            continue
        totals.faults += report.faults
        totals.fates += report.fates
        totals.sessions += report.sessions
        totals.entries += report.entries
        totals.tasks += report.tasks
        totals.steps += report.steps
    return totals


def run_campaign(first: int, count: int, jobs: int) -> Iterator[Totals]:
    """Totals of a chunk of seeds at a time, as they come."""
    chunks = [range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)]
    if jobs == 1:
        yield from map(run_seeds, chunks)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            for done in as_completed([pool.submit(run_seeds, chunk) for chunk in chunks]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)  # whoever has seen enough


def failure_of(seed: int, faults: Sequence[Fault] | None = None) -> str:
    """How a seed fails with these faults only; empty if it does not."""
    try:
        World(seed, faults).run()
    except SimulationFailure as failure:
        return str(failure)
    return ""


def shrink(seed: int, tell: Callable[[str], None] = lambda text: None) -> tuple[list[Fault], str]:
    """(faults that still make it fail, how it fails then)."""
    set_level("warning")  # it belongs to the history
    faults = World(seed).faults
    failure = failure_of(seed, faults)
    runs = 0
    size = max(len(faults) // 2, 1)
    while failure and faults and runs < SHRINK_RUNS:
        shrunk = False
        for start in range(0, len(faults), size):
            fewer = faults[:start] + faults[start + size :]
            runs += 1
            if again := failure_of(seed, fewer):
                faults, failure, shrunk = fewer, again, True
                tell(f"{len(faults)} faults left after {runs} runs")
                break
        if not shrunk:
            if size == 1:
                break
            size = max(size // 2, 1)
    return faults, failure
