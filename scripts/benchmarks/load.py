"""The case `load`: what urgent work takes while bulk work saturates the same node, against what it takes when idle.

One client has one urgent thing after the other; beside it another one keeps the node busy: with durable messages, or with
tasks of the lowest priority for the agents the urgent work is for. Idle and under load take turns, round by round.

The bare limit (`bare`) is the same with bare frames, one small one after the other, in the same loaded system: a bare node
that has nothing else to do, beside ours under its bulk work. So it is what the processors and the disk leave to whoever
is urgent, and what ours takes beyond is the node's own doing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Event, Thread

from scripts.benchmarks.cases import Effort
from scripts.benchmarks.processes import Bed, Child, Failed
from scripts.benchmarks.results import LIMIT, Budget, Floor, Metric

Round = tuple[str, int, int]  # kind, items of a round, awaited at once

BULK: Mapping[str, Round] = {"messages": ("publish", 20_000, 8192), "tasks": ("bulk", 4_000, 2048)}
MOST_TIMES = {"messages": 4.0, "tasks": 6.0}  # the bare limit's p99; see the decisions in docs/architecture.md
URGENT = {"call": 160, "task of priority 9": 120, "renewal of a lease": 160}  # and how many of each a round has


@dataclass(frozen=True, slots=True)
class Side:
    """Ours, or the bare limit's: who asks, and what the urgent work is called there."""

    client: Child
    urgent: Mapping[str, str]


def load(bed: Bed, effort: Effort) -> list[Metric]:
    """For each kind of urgent work and of bulk work the 99th percentile beside it, and its ratio to the idle node's."""
    agents = bed.agents(2)
    bulk_client = bed.client("bulk")
    ours = Side(bed.client(), {"call": "call", "task of priority 9": "urgent", "renewal of a lease": "renew"})
    bare = Side(bed.bare(2), {"call": "call", "task of priority 9": "task", "renewal of a lease": "renew"})
    kinds = [(urgent, bulk) for urgent in URGENT for bulk in BULK]
    ratios = {
        (urgent, bulk): Metric(
            f"{urgent}: p99 beside bulk {bulk} / idle", "times", budget=Budget(Floor(2, least=False))
        )
        for urgent, bulk in kinds
    }
    times = {
        (urgent, bulk): Metric(
            f"{urgent}: p99 beside bulk {bulk}",
            "ms",
            budget=Budget(None, {LIMIT: Floor(MOST_TIMES[bulk], least=False)}),
        )
        for urgent, bulk in kinds
    }
    try:
        for number in range(effort.rounds + 1):  # one to warm up
            share = effort if number else replace(effort, scale=effort.scale / 4)
            for urgent in URGENT:
                idle, bare_idle = _p99(ours, urgent, share), _p99(bare, urgent, share)
                for bulk in BULK:
                    with _busy(bulk_client, *BULK[bulk]):
                        beside, bare_beside = _p99(ours, urgent, share), _p99(bare, urgent, share)
                    if number:
                        ratios[urgent, bulk].add(beside / idle, **{"idle, ms": idle, "beside, ms": beside})
                        ratios[urgent, bulk].against(LIMIT, bare_beside / bare_idle)
                        times[urgent, bulk].add(beside)
                        times[urgent, bulk].against(LIMIT, bare_beside)
    finally:
        bed.end([bulk_client, ours.client, *agents])
    return [metric for kind in kinds for metric in (ratios[kind], times[kind])]


def _p99(side: Side, urgent: str, effort: Effort) -> float:
    """Milliseconds."""
    count = max(int(URGENT[urgent] * effort.scale), 20)
    return float(side.client.ask({"kind": side.urgent[urgent], "count": count, "at_once": 1})["p99_seconds"]) * 1e3


@contextmanager
def _busy(client: Child, kind: str, count: int, at_once: int) -> Iterator[None]:
    """Keeps the node busy, one round after the other, from the first that is under way."""
    over, failed = Event(), list[BaseException]()

    def keep_on() -> None:
        try:
            while not over.is_set():
                client.ask({"kind": kind, "count": count, "at_once": at_once})
        except BaseException as error:
            failed.append(error)

    client.ask({"kind": kind, "count": at_once, "at_once": at_once})
    thread = Thread(target=keep_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:
        raise Failed(f"the bulk client: {failed[0]}") from failed[0]
