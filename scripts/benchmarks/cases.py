"""The cases. Each takes the bed it runs on and how much to do, and gives its figures."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.processes import Bed, Child, CpuMeter
from scripts.benchmarks.results import Floor, Metric

MB = 1_000_000
IDLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to do: rounds that count, and the share of each round's usual number of items."""

    rounds: int
    scale: float = 1.0


def publish(bed: Bed, effort: Effort) -> list[Metric]:
    """Durable messages: fsync before each acknowledgement."""
    client = bed.client()
    metric = Metric("publish, 8192 at once", "msg/s", Floor(40_000))
    alone = Metric("publish, one at a time: p50", "ms")
    _rounds(metric, effort, "publish", 200_000, 8192, client, [bed.edge])
    _lone_rounds(alone, effort, "publish", 500, client, [bed.edge])
    bed.end([client])
    return [metric, alone]


def call(bed: Bed, effort: Effort) -> list[Metric]:
    """Calls to one agent: never stored."""
    agents = bed.agents(1)
    client = bed.client()
    many = Metric("call, 64 at once", "calls/s", Floor(8_000))
    alone = Metric("call, one at a time: p50", "ms")
    _rounds(many, effort, "call", 20_000, 64, client, [bed.edge, *agents])
    _lone_rounds(alone, effort, "call", 1_000, client, [bed.edge, *agents])
    bed.end([client, *agents])
    return [many, alone]


def task(bed: Bed, effort: Effort) -> list[Metric]:
    """Durable tasks: submitted, run by one of two agents, result seen."""
    agents = bed.agents(2)
    client = bed.client()
    many = Metric("task, 2048 at once", "tasks/s", Floor(2_000))
    alone = Metric("task, one at a time: p50", "ms")
    _rounds(many, effort, "task", 10_000, 2048, client, [bed.edge, *agents])
    _lone_rounds(alone, effort, "task", 300, client, [bed.edge, *agents])
    bed.end([client, *agents])
    return [many, alone]


def _rounds(
    metric: Metric, effort: Effort, kind: str, count: int, at_once: int, client: Child, others: list[Child]
) -> None:
    """One round to warm up, then those that count."""
    count = max(int(count * effort.scale), at_once)
    client.ask({"kind": kind, "count": count // 4, "at_once": at_once})
    for _ in range(effort.rounds):
        meter = CpuMeter([client, *others])
        seconds = client.ask({"kind": kind, "count": count, "at_once": at_once})["seconds"]
        own, elsewhere = meter.read()
        spent: dict[str, float] = {}
        for name, cpu in own.items():
            role = f"{name.partition('-')[0]} CPU us"
            spent[role] = spent.get(role, 0.0) + cpu / count * 1e6
        metric.add(count / seconds, **spent, **{"cores busy elsewhere": elsewhere})


def _lone_rounds(metric: Metric, effort: Effort, kind: str, count: int, client: Child, others: list[Child]) -> None:
    count = max(int(count * effort.scale), 10)
    for _ in range(effort.rounds):
        meter = CpuMeter([client, *others])
        answer = client.ask({"kind": kind, "count": count, "at_once": 1})
        _, elsewhere = meter.read()
        metric.add(
            answer["p50_seconds"] * 1e3, **{"p99": answer["p99_seconds"] * 1e3, "cores busy elsewhere": elsewhere}
        )


def idle(edge: Child) -> list[Metric]:
    """An edge that nobody uses: memory, CPU."""
    resident = Metric("edge RSS idle after start", "MB", Floor(70, least=False))
    resident.add(edge.resident_bytes() / MB)
    cpu = Metric(f"edge CPU idle, {IDLE_SECONDS:g} s", "% of a core")
    before = edge.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    cpu.add((edge.cpu_seconds() - before) / IDLE_SECONDS * 100)
    return [resident, cpu]


def after(edge: Child) -> list[Metric]:
    """Memory of an edge that has worked."""
    resident = Metric("edge RSS after the cases", "MB")
    resident.add(edge.resident_bytes() / MB)
    return [resident]


def starts(root: Path, rounds: int) -> list[Metric]:
    """Cold starts: a new process on a new state directory, until it says that it serves."""
    metric = Metric("edge start to ready", "s")
    for _ in range(rounds):
        with scratch(root) as folder, Bed(folder) as bed:
            metric.add(bed.edge.start_seconds)
    return [metric]


def installed() -> list[Metric]:
    """What the packages an edge needs take on disk, compiled files included."""
    names = required("edgenode")
    size = sum(_size(importlib.metadata.distribution(name)) for name in names)
    metric = Metric("core dependencies installed", "MB")
    metric.add(size / MB, packages=len(names))
    return [metric]


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
    return sum(path.stat().st_size for path in paths if path.is_file())


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
