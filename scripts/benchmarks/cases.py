"""The cases. Each takes the bed it runs on and how much to do, and gives its figures."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.peer_set import (
    AUTOGEN,
    CELERY,
    DRAMATIQ,
    HUEY,
    JETSTREAM,
    JETSTREAM_BATCHES,
    JETSTREAM_DEFAULT,
    MOSQUITTO,
    NATS,
    REDIS,
    NotInstalled,
    Peer,
    install,
)
from scripts.benchmarks.processes import Bed, Child, CpuMeter, Failed
from scripts.benchmarks.results import LIMIT, Budget, Floor, Metric

MB = 1_000_000
IDLE_SECONDS = 10.0
PRESCRIBED = ("grpcio", "cryptography")  # transport and certificates: one library of 15 MB each
BARE_ITEMS = 400_000  # of a round of the bare limit, at most


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to do: rounds that count, and the share of each round's usual number of items."""

    rounds: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Rival:
    """Who is measured beside us: its client, and how many items a round has. `alone`: items one at a time; 0 for not."""

    name: str
    client: Child
    count: int
    at_once: int
    alone: int


@dataclass(frozen=True, slots=True)
class Many:
    """A rate: what is asked of our client, how many items a round has and how many are awaited, and which peers it meets."""

    metric: Metric
    kind: str
    count: int
    at_once: int
    peers: frozenset[str]


class Case:
    """One kind of traffic: ours and the rivals', turn by turn within each round."""

    def __init__(self, bed: Bed, effort: Effort, kind: str, agents: int) -> None:
        self._bed = bed
        self._effort = effort
        self._kind = kind
        self._own = bed.agents(agents)
        self._client = bed.client()
        self._rivals: list[Rival] = []
        self._reasons: dict[str, str] = {}
        self._agents = agents

    def run(self, rates: Sequence[Many], alone: Metric, lone: int, peers: Sequence[Peer]) -> list[Metric]:
        """`lone`: items of a round one at a time. A peer that fails is not run."""
        most = max(rates, key=lambda many: many.count)
        try:
            # A bare round is short: it has more items, so that it lasts a second or so.
            items = min(most.count * 4, BARE_ITEMS)
            self._rivals.append(Rival(LIMIT, self._bed.bare(self._agents), items, most.at_once, lone))
            for peer in peers:
                self._add(peer)
            for many in rates:
                self._many(many)
            self._lone(alone, lone)
            met = [(many.metric, many.peers) for many in rates]
            for metric, names in [*met, (alone, frozenset(peer.name for peer in peers if peer.alone))]:
                metric.not_run |= {
                    name: why for name, why in self._reasons.items() if name in names and name not in metric.rivals
                }
        finally:
            self._bed.end_peers()
            self._bed.end([self._client, *self._own])
        return [*(many.metric for many in rates), alone]

    def _add(self, peer: Peer) -> None:
        try:
            install(peer.packages)
            client = self._bed.peer(peer.commands())
        except (NotInstalled, Failed, OSError) as error:
            self._reasons[peer.name] = str(error)
            return
        self._rivals.append(Rival(peer.name, client, peer.count, peer.at_once, peer.alone))

    def _many(self, many: Many) -> None:
        """One round to warm up, then those that count."""
        metric, count = many.metric, max(int(many.count * self._effort.scale), many.at_once)
        asked = {"kind": many.kind, "at_once": many.at_once}
        names = many.peers | {LIMIT}
        self._client.ask({**asked, "count": count // 4})
        self._each(metric, names, lambda rival: self._theirs(rival, share=4))
        for _ in range(self._effort.rounds):
            meter = CpuMeter([self._client, self._bed.edge, *self._own])
            seconds = self._client.ask({**asked, "count": count})["seconds"]
            own, elsewhere = meter.read()
            spent: dict[str, float] = {}
            for name, cpu in own.items():
                role = f"{name.partition('-')[0]} CPU us"
                spent[role] = spent.get(role, 0.0) + cpu / count * 1e6
            metric.add(count / seconds, **spent, **{"cores busy elsewhere": elsewhere})
            self._each(metric, names, lambda rival: metric.against(rival.name, self._theirs(rival)))

    def _theirs(self, rival: Rival, share: int = 1) -> float:
        """Items a second of one round of a rival."""
        count = max(int(rival.count * self._effort.scale) // share, rival.at_once)
        told = rival.client.ask({"kind": self._kind, "count": count, "at_once": rival.at_once})
        return count / float(told["seconds"])

    def _lone(self, metric: Metric, count: int) -> None:
        count = max(int(count * self._effort.scale), 10)
        for _ in range(self._effort.rounds):
            meter = CpuMeter([self._client, self._bed.edge, *self._own])
            answer = self._client.ask({"kind": self._kind, "count": count, "at_once": 1})
            _, elsewhere = meter.read()
            metric.add(
                answer["p50_seconds"] * 1e3, **{"p99": answer["p99_seconds"] * 1e3, "cores busy elsewhere": elsewhere}
            )
            names = {rival.name for rival in self._rivals if rival.alone}
            self._each(metric, names, lambda rival: self._their_latency(metric, rival))

    def _their_latency(self, metric: Metric, rival: Rival) -> None:
        count = max(int(rival.alone * self._effort.scale), 10)
        told = rival.client.ask({"kind": self._kind, "count": count, "at_once": 1})
        metric.against(rival.name, told["p50_seconds"] * 1e3)

    def _each(self, metric: Metric, names: Collection[str], step: Callable[[Rival], object]) -> None:
        for rival in [rival for rival in self._rivals if rival.name in names]:
            try:
                step(rival)
            except (Failed, OSError) as error:
                if rival.name == LIMIT:
                    raise
                self._rivals.remove(rival)
                self._reasons[rival.name] = str(error)
                metric.drop(rival.name, str(error))


def _alone(peer: str) -> dict[str, Floor]:
    """No worse than a peer whose broker is compiled, as it was first asked; at most a quarter above what bare frames take."""
    return {peer: Floor(1, least=False), LIMIT: Floor(1.25, least=False)}


def publish(bed: Bed, effort: Effort, peers: Sequence[Peer]) -> list[Metric]:
    """Durable messages: fsync before each acknowledgement."""
    budget = Budget(Floor(100_000), {LIMIT: Floor(0.5), REDIS: Floor(4), JETSTREAM: Floor(20)})
    each = Metric("publish, 8192 at once", "msg/s", Floor(40_000), budget)
    # Pipelines and full frames are batches: like for like they meet ours.
    batches = Budget(None, {LIMIT: Floor(0.5), REDIS: Floor(4)})
    many = Metric("publish_many, 8 of 1024 at once", "msg/s", Floor(80_000), batches)
    alone = Metric("publish, one at a time: p50", "ms", budget=Budget(None, _alone(JETSTREAM)))
    rates = (
        Many(each, "publish", 200_000, 8192, frozenset({JETSTREAM, JETSTREAM_DEFAULT, REDIS, MOSQUITTO})),
        Many(many, "batches", 400_000, 8192, frozenset({JETSTREAM_BATCHES, REDIS})),
    )
    return Case(bed, effort, "publish", 0).run(rates, alone, 500, peers)


def call(bed: Bed, effort: Effort, peers: Sequence[Peer]) -> list[Metric]:
    """Calls to one agent: never stored."""
    budget = Budget(Floor(15_000), {NATS: Floor(1.5), AUTOGEN: Floor(10)})
    many = Metric("call, 64 at once", "calls/s", Floor(8_000), budget)
    alone = Metric("call, one at a time: p50", "ms", budget=Budget(None, _alone(NATS)))
    rates = (Many(many, "call", 20_000, 64, frozenset({NATS, AUTOGEN})),)
    return Case(bed, effort, "call", 1).run(rates, alone, 1_000, peers)


def task(bed: Bed, effort: Effort, peers: Sequence[Peer]) -> list[Metric]:
    """Durable tasks: submitted, run by one of two agents, result seen."""
    budget = Budget(Floor(8_000), {name: Floor(10) for name in (HUEY, DRAMATIQ, CELERY)})
    many = Metric("task, 2048 at once", "tasks/s", Floor(2_000), budget)
    alone = Metric("task, one at a time: p50", "ms")
    rates = (Many(many, "task", 10_000, 2048, frozenset({HUEY, DRAMATIQ, CELERY})),)
    return Case(bed, effort, "task", 2).run(rates, alone, 300, peers)


def idle(edge: Child) -> list[Metric]:
    """An edge that nobody uses: memory, CPU."""
    resident = Metric("edge RSS idle after start", "MB", Floor(70, least=False), Budget(Floor(55, least=False)))
    resident.add(edge.resident_bytes() / MB)
    cpu = Metric(f"edge CPU idle, {IDLE_SECONDS:g} s", "% of a core", budget=Budget(Floor(0.5, least=False)))
    before = edge.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    cpu.add((edge.cpu_seconds() - before) / IDLE_SECONDS * 100)
    return [resident, cpu]


def after(edge: Child) -> list[Metric]:
    """Memory of an edge that has worked."""
    resident = Metric("edge RSS after the cases", "MB")
    resident.add(edge.resident_bytes() / MB)
    return [resident]


def compiled(root: Path) -> None:
    """A start that does not count: what the first one in an environment imports is compiled then, and kept."""
    with scratch(root) as folder, Bed(folder):
        pass


def starts(root: Path, rounds: int) -> list[Metric]:
    """Cold starts: a new process on a new state directory, until it says that it serves."""
    metric = Metric("edge start to ready", "s", budget=Budget(Floor(0.7, least=False)))
    for _ in range(rounds):
        with scratch(root) as folder, Bed(folder) as bed:
            metric.add(bed.edge.start_seconds)
    return [metric]


def installed() -> list[Metric]:
    """What the packages an edge needs take on disk, as they are shipped: all of them, and what they add to the two largest."""
    sizes = {name: _size(importlib.metadata.distribution(name)) / MB for name in required("edgenode")}
    metric = Metric("core dependencies installed", "MB")
    metric.add(sum(sizes.values()), packages=len(sizes), **{name: sizes.get(name, 0.0) for name in PRESCRIBED})
    name = f"core dependencies installed, without {' and '.join(PRESCRIBED)}"
    rest = Metric(name, "MB", budget=Budget(Floor(6, least=False)))
    rest.add(sum(size for package, size in sizes.items() if package not in PRESCRIBED))
    return [metric, rest]


def required(root: str) -> set[str]:
    """Distributions `root` needs on this machine, without extras; itself excluded."""
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        for requirement in importlib.metadata.requires(waiting.pop()) or ():
            requirement, _, marker = requirement.partition(";")
            name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()
            if "extra" in marker or name in seen or not _present(name):
                continue
            seen.add(name)
            waiting.append(name)
    return seen


def _present(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False  # for another platform or Python
    return True


def _size(distribution: importlib.metadata.Distribution) -> int:
    paths = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")


def bare_fsync(root: Path, seconds: float = 1.0) -> Metric:
    """What the disk gives: 4 KiB appended and synced, one after the other."""
    metric = Metric("bare fdatasync of 4 KiB", "1/s")
    with tempfile.NamedTemporaryFile(dir=root) as file:
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            os.write(file.fileno(), b"\0" * 4096)
            os.fdatasync(file.fileno())
            count += 1
        metric.add(count / (time.perf_counter() - began))
    return metric


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A folder with a short name (socket paths are short), gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="edgebench-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
