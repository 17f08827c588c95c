"""The case `load`: what urgent work takes while bulk work saturates the same node, against what it takes when idle.

One client has one urgent thing after the other; beside it another one keeps the node busy: with durable messages, or with
tasks of the lowest priority for the agents the urgent work is for. Idle and under load take turns, round by round.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from scripts.benchmarks.cases import Effort
from scripts.benchmarks.processes import Bed, Child, Failed
from scripts.benchmarks.results import Budget, Floor, Metric

BULK = {
    "messages": ("publish", 20_000, 8192),
    "tasks": ("bulk", 4_000, 2048),
}  # kind, items of a round, awaited at once
URGENT = {"call": ("call", 400), "task of priority 9": ("urgent", 300), "renewal of a lease": ("renew", 400)}


def load(bed: Bed, effort: Effort) -> list[Metric]:
    """For each kind of urgent work and of bulk work the ratio of the 99th percentiles."""
    agents, client, other = bed.agents(2), bed.client(), bed.client("bulk")
    metrics = {
        (urgent, bulk): Metric(
            f"{urgent}: p99 beside bulk {bulk} / idle", "times", budget=Budget(Floor(2, least=False))
        )
        for urgent in URGENT
        for bulk in BULK
    }
    try:
        for number in range(effort.rounds + 1):  # one to warm up
            for urgent in URGENT:
                idle = _p99(client, urgent, effort)
                for bulk in BULK:
                    with _busy(other, bulk):
                        loaded = _p99(client, urgent, effort)
                    if number:
                        notes = {"idle, ms": idle * 1e3, "beside, ms": loaded * 1e3}
                        metrics[urgent, bulk].add(loaded / idle, **notes)
    finally:
        bed.end([other, client, *agents])
    return list(metrics.values())


def _p99(client: Child, urgent: str, effort: Effort) -> float:
    """Seconds."""
    kind, count = URGENT[urgent]
    told = client.ask({"kind": kind, "count": max(int(count * effort.scale), 20), "at_once": 1})
    return float(told["p99_seconds"])


@contextmanager
def _busy(client: Child, bulk: str) -> Iterator[None]:
    """Keeps the node busy, one round after the other, from the first that is under way."""
    kind, count, at_once = BULK[bulk]
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
