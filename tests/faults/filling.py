"""`scripts/fill`: an edge filled to the brim while its hub is away, and drained again.

Nothing but refusals that say so may stop anything: what must proceed does, everything that was acknowledged arrives, and the
file is small again when it has drained.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.link.config import parse_bytes
from edgenode.link.errors import ResourceExhausted
from edgenode.link.store.budget import DISK_SLACK_BYTES
from edgenode.link.terminal.output import human_bytes
from edgenode.sdk import Client, Scope
from tests.faults.oracle import ledger_lines
from tests.faults.pair import Pair, until

TOPIC = "fill.numbers"
SMALL = 50 << 20  # what the file of a drained store is to be below
_AT_ONCE = 16


@dataclass(slots=True)
class Filling:
    """What was found; `wrong` is empty when all is as promised."""

    budget: int
    messages: int = 0
    tasks: int = 0
    refusals: list[str] = field(default_factory=list)
    full_bytes: int = 0
    drained_bytes: int = 0
    fill_seconds: float = 0.0
    drain_seconds: float = 0.0
    task_ids: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def _fill(publish_one: Callable[[int], object], filling: Filling, lane: str) -> int:
    """Give work until it is refused; how much was taken."""
    taken = 0
    while True:
        results = await asyncio.gather(
            *(publish_one(number) for number in range(taken, taken + _AT_ONCE)),  # type: ignore[call-overload]
            return_exceptions=True,
        )
        refused = [result for result in results if isinstance(result, BaseException)]
        taken += len(results) - len(refused)
        for error in refused:
            if not isinstance(error, ResourceExhausted) or not error.problem.retry_after:
                filling.wrong.append(f"{lane}: {error!r}")
        if refused:
            filling.refusals.append(f"{lane}: {refused[0]}")
            return taken


async def fill(
    folder: Path, budget: int, message_bytes: int, say: Callable[[str], None] = lambda _: None, patience: float = 60.0
) -> Filling:
    """Fill an edge of `budget` bytes with messages and tasks, then let it drain to its hub. `patience` in seconds."""
    filling = Filling(budget)
    # Of what everybody has nothing is kept, so that what is left is what the store itself needs.
    pair = Pair(folder, store_bytes=4 * budget, message_retention_bytes=budget)
    kept_none = {
        "message_retention_bytes": 0,
        "ack_retention_bytes": 0,
        "task_retention_seconds": 0,
        "max_queued_tasks": 10_000_000,
    }
    try:
        await pair.start(store_bytes=budget, **kept_none)
        await pair.stop_hub()
        await _fill_up(pair, filling, message_bytes, say)
        await _drain(pair, filling, say, patience)
    finally:
        await pair.stop()
    return filling


async def _fill_up(pair: Pair, filling: Filling, message_bytes: int, say: Callable[[str], None]) -> None:
    assert pair.edge is not None
    body = os.urandom(message_bytes)
    began = time.monotonic()
    async with pair.client("edge") as client:
        filling.messages = await _fill(lambda _: client.publish(TOPIC, body), filling, "messages")
        say(f"{filling.messages:,} messages taken, then: {filling.refusals[-1]}")
        # Messages have had their share; tasks have theirs.
        tasks = []

        async def submit(_: int) -> None:
            tasks.append(await client.submit("nobody.has.it", body, scope=Scope.FLEET))

        filling.tasks = await _fill(submit, filling, "tasks")
        say(f"{filling.tasks:,} tasks taken, then: {filling.refusals[-1]}")
        filling.fill_seconds = time.monotonic() - began
        if not filling.messages or not filling.tasks:
            filling.wrong.append("one lane left the other nothing")
        for task in tasks[:1]:
            await task.cancel()  # what ends something proceeds
        filling.task_ids = [task.task_id for task in tasks]
        usages = (await status_of(client)).lane_usages
        if [usage.lane for usage in usages] != ["message", "task"]:
            filling.wrong.append(f"status does not show the lanes: {usages}")
    filling.full_bytes = pair.edge.rooms.database.file_bytes()
    if filling.full_bytes > filling.budget + DISK_SLACK_BYTES:
        filling.wrong.append(f"the files take {filling.full_bytes:,} bytes of {filling.budget:,}")


async def _drain(pair: Pair, filling: Filling, say: Callable[[str], None], patience: float) -> None:
    assert pair.edge is not None
    database = pair.edge.rooms.database
    began = time.monotonic()
    await pair.start_hub()

    async def drained() -> bool:
        async with pair.client("edge") as client:
            lanes = (await status_of(client)).lanes
        return all(not lane.pending_count for lane in lanes if lane.lane == "message")

    patience += filling.budget / (1 << 20) / 4
    if not await until(drained, patience):
        filling.wrong.append("it did not drain")
    filling.drain_seconds = time.monotonic() - began
    say(f"messages drained in {filling.drain_seconds:.1f} s")
    async with pair.client("edge") as client:
        await client.publish(TOPIC, b"fresh")
        lines = await ledger_lines(client, "north")
    filling.wrong += [f"does not add up: {line}" for line in lines if not line.balanced]
    published = next(line for line in lines if line.hop == "message.publish")
    if not published.dropped_counts.get("LANE_FULL"):
        filling.wrong.append("refusals are not in the ledger")
    uplink = next(line for line in lines if line.hop == "message.uplink")
    if uplink.delivered_count + uplink.pending_count != filling.messages + 1:
        filling.wrong.append(f"{filling.messages + 1} messages were acknowledged, the hub has {uplink.delivered_count}")
    async with pair.client("edge") as client:
        tasks = [client.task(task_id) for task_id in filling.task_ids]
        for first in range(0, len(tasks), 100):
            await asyncio.gather(*(task.cancel() for task in tasks[first : first + 100]))

    async def shrunk() -> bool:
        assert pair.edge is not None
        pair.edge.rooms.engine.book.sweep()  # as it does every minute
        await asyncio.sleep(0.05)
        filling.drained_bytes = database.file_bytes()
        return filling.drained_bytes < min(SMALL, filling.budget // 4)

    if not await until(shrunk, patience):
        filling.wrong.append(f"the drained file takes {filling.drained_bytes:,} bytes")


async def status_of(client: Client) -> admin_service_pb2.GetStatusResponse:
    admin = admin_service_pb2_grpc.AdminServiceStub(client.channel)
    return await client.unary(admin.GetStatus, admin_service_pb2.GetStatusRequest())


def lanes_of(status: admin_service_pb2.GetStatusResponse) -> dict[str, admin_pb2.LaneStatus]:
    """The lanes that go up, by name."""
    return {lane.lane: lane for lane in status.lanes if lane.direction == "up"}


@click.command()
@click.option("--bytes", "budget", default="1 GiB", help="The edge's store_bytes.")
@click.option("--message", "message", default="64 KiB", help="Size of a message and of a task's input.")
def main(budget: str, message: str) -> None:
    """Fill an edge's store to the brim while its hub is away, then drain it. Exit code 1 if anything is not as promised."""
    with tempfile.TemporaryDirectory(prefix="fill-") as folder:
        filling = asyncio.run(fill(Path(folder), parse_bytes(budget), parse_bytes(message), click.echo))
    click.echo(
        f"budget {human_bytes(filling.budget)}, files when full {human_bytes(filling.full_bytes)}, when drained"
        f" {human_bytes(filling.drained_bytes)}; filled in {filling.fill_seconds:.0f} s, drained in"
        f" {filling.drain_seconds:.0f} s"
    )
    for problem in filling.wrong:
        click.echo(f"WRONG: {problem}", err=True)
    sys.exit(1 if filling.wrong else 0)


if __name__ == "__main__":
    main()
