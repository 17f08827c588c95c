"""The case `load`: what urgent work takes while bulk work saturates the same node, against what it takes when idle.

One client has one urgent thing after the other; beside it another one keeps the node busy: with durable messages, or with
tasks of the lowest priority for the agents the urgent work is for. Idle and under load take turns, round by round.

The bare limit does the same with bare frames (`bare`): one small one after the other beside a client that has as many items
under way as ours. What it gives against its own idle node is what gRPC and as many processes on these cores would allow.
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

BULK = ("messages", "tasks")
URGENT = {"call": 160, "task of priority 9": 120, "renewal of a lease": 160}  # and how many of each a round has


@dataclass(frozen=True, slots=True)
class Side:
    """Ours, or the bare limit's: who asks, what it is called there, and the bulk work beside it."""

    client: Child
    bulk_client: Child
    urgent: Mapping[str, str]
    bulk: Mapping[str, Round]


def load(bed: Bed, effort: Effort) -> list[Metric]:
    """For each kind of urgent work and of bulk work the ratio of the 99th percentiles."""
    agents = bed.agents(2)
    ours = Side(
        bed.client(),
        bed.client("bulk"),
        {"call": "call", "task of priority 9": "urgent", "renewal of a lease": "renew"},
        {"messages": ("publish", 20_000, 8192), "tasks": ("bulk", 4_000, 2048)},
    )
    bare = Side(
        bed.bare(2),
        bed.bare_bulk(),
        {"call": "call", "task of priority 9": "task", "renewal of a lease": "renew"},
        {"messages": ("publish", 80_000, 8192), "tasks": ("task", 40_000, 2048)},
    )
    metrics = {
        (urgent, bulk): Metric(
            f"{urgent}: p99 beside bulk {bulk} / idle", "times", budget=Budget(Floor(2, least=False))
        )
        for urgent in URGENT
        for bulk in BULK
    }
    try:
        for number in range(effort.rounds + 1):  # one to warm up
            share = effort if number else replace(effort, scale=effort.scale / 4)
            for urgent in URGENT:
                told, limit = _compare(ours, urgent, share), _compare(bare, urgent, share)
                for bulk in BULK if number else ():
                    (idle, beside), (bare_idle, bare_beside) = told[bulk], limit[bulk]
                    notes = {"idle, ms": idle, "beside, ms": beside, "bare": bare_idle, "bare beside": bare_beside}
                    metrics[urgent, bulk].add(beside / idle, **notes)
                    metrics[urgent, bulk].against(LIMIT, bare_beside / bare_idle)
    finally:
        bed.end([bare.bulk_client, ours.bulk_client, ours.client, *agents])
    return list(metrics.values())


def _compare(side: Side, urgent: str, effort: Effort) -> dict[str, tuple[float, float]]:
    """Milliseconds (idle, beside) for each kind of bulk work."""
    idle = _p99(side, urgent, effort)
    told = {}
    for bulk in BULK:
        with _busy(side.bulk_client, *side.bulk[bulk]):
            told[bulk] = idle, _p99(side, urgent, effort)
    return told


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
