"""The case `drain`: a million messages that gathered offline go to the hub, fsync on both sides, mutual TLS between."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.sdk import Client
from scripts.benchmarks.cases import MB, Effort
from scripts.benchmarks.fleet import (
    BATCH,
    EDGE,
    PATIENCE,
    Ground,
    ground,
    percentile,
    publish_alone,
    publish_batches,
)
from scripts.benchmarks.processes import Child
from scripts.benchmarks.results import LIMIT, Budget, Floor, Metric

AT_ONCE = 8 * BATCH  # awaited while the backlog gathers


@dataclass(slots=True)
class Drained:
    """What was seen while a backlog went to the hub."""

    rate: float = 0.0  # messages a second
    most_bytes: int = 0  # of the edge's memory
    latency: float = 0.0  # of a message published meanwhile, 99th percentile, seconds


def drain(root: Path, effort: Effort) -> list[Metric]:
    """Ours and the bare limit in turn, round by round."""
    return asyncio.run(_drain(root, effort))


async def _drain(root: Path, effort: Effort) -> list[Metric]:
    count = max(int(1_000_000 * effort.scale), 10 * BATCH)
    rate = Metric(f"drain, {count} messages to the hub", "msg/s", budget=Budget(Floor(80_000)))
    start = Metric("edge start to ready with that backlog", "s", budget=Budget(Floor(1.0, least=False)))
    memory = Metric("edge memory added by draining it", "MB", budget=Budget(Floor(32, least=False)))
    live = Metric("publish p99 while draining / before", "times", budget=Budget(Floor(2, least=False)))
    async with ground(root) as place:
        port = place.start_bare("bare_link", "hub", place.hub_state, place.folder / "bare-hub.db").greeting.split()[1]
        bare = place.start_bare("bare_link", "edge", place.state(EDGE), place.folder / "bare-edge.db", port)
        for _ in range(effort.rounds):
            await place.start_edge()
            async with place.client(EDGE) as client:
                await publish_batches(client, count)
            await place.stop(EDGE)
            start.add(await place.start_edge())
            async with place.client(EDGE) as client:
                idle: list[float] = []
                await publish_alone(client, idle, max(int(500 * effort.scale), 50))
                before = place.resident(EDGE)
                await place.start_hub()
                seen = await _watch_drain(place, client, count)
            rate.add(seen.rate)
            memory.add(max(seen.most_bytes - before, 0) / MB)
            live.add(
                seen.latency / percentile(idle, 0.99),
                **{"before, ms": percentile(idle, 0.99) * 1e3, "while draining, ms": seen.latency * 1e3},
            )
            await place.stop(EDGE)
            await place.stop("hub")
            rate.against(LIMIT, await _bare_drain(bare, count))
    return [rate, start, memory, live]


async def _bare_drain(edge: Child, count: int) -> float:
    """Messages a second."""
    told = await asyncio.to_thread(edge.ask, {"kind": "drain", "count": count, "at_once": AT_ONCE})
    return count / float(told["seconds"])


async def _watch_drain(place: Ground, client: Client, count: int) -> Drained:
    stub = admin_service_pb2_grpc.AdminServiceStub(client.channel)
    seen, latencies, points = Drained(), [], []  # type: ignore[var-annotated]
    live = asyncio.create_task(publish_alone(client, latencies, sys.maxsize))
    async with asyncio.timeout(PATIENCE):
        while not points or points[-1][1] > count // 100:
            status = await client.unary(stub.GetStatus, admin_service_pb2.GetStatusRequest())
            pending = next(
                lane.pending_count for lane in status.lanes if (lane.direction, lane.lane) == ("up", "message")
            )
            seen.most_bytes = max(seen.most_bytes, place.resident(EDGE))
            if pending < count or points:
                points.append((time.perf_counter(), pending))
            else:
                latencies.clear()
            await asyncio.sleep(0.1)
    live.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await live
    (began, first), (ended, last) = points[0], points[-1]
    seen.rate = (first - last) / (ended - began) if ended > began else float(first)
    seen.latency = percentile(latencies, 0.99) if latencies else 0.0
    return seen
