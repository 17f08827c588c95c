"""`scripts/crowd`: hundreds of edges come to a hub at once, and once more when the hub was killed.

Those who are connected stay so: edge north publishes through the hub all the while, and keeps its one session.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.sdk import Level
from tests.faults.crowd import enroll
from tests.faults.fleet import Rig

CROWD_PROCESSES = 2
CONNECTED = "north"
# The product's own: what is asked is whether a node that works as it should is taken for dead.
LEASES = {"EDGEHUB_HEARTBEAT_SECONDS": "5", "EDGEHUB_LEASE_SECONDS": "15"}


@dataclass(slots=True)
class Storm:
    """A crowd that came: when each member's session came up (monotonic seconds), and what north saw meanwhile."""

    began: float
    entries: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)  # of north's messages to the hub's disk, seconds
    sessions: int = 0  # that north needed
    delayed: int = 0  # times the hub told a member to come back later

    @property
    def seconds(self) -> float:
        """Until the last was in."""
        return max(self.entries) - self.began

    def spread(self, first: int) -> float:
        """From the entry of the `first` to that of the last."""
        ordered = sorted(self.entries)
        return ordered[-1] - ordered[first]

    def __str__(self) -> str:
        worst = sorted(self.latencies)
        return (
            f"{len(self.entries)} sessions in {self.seconds:.1f} s, {self.delayed} times told to come later; north: "
            f"{self.sessions} session, {len(worst)} messages to the hub's disk, median {worst[len(worst) // 2] * 1e3:.0f} ms, "
            f"longest {worst[-1] * 1e3:.0f} ms"
        )


class Crowd:
    """`count` members in a few processes."""

    def __init__(self, rig: Rig, count: int) -> None:
        self._rig = rig
        self._count = count
        self._credentials = rig.fleet.folder / "crowd.json"

    async def prepare(self) -> None:
        """Before the hub runs."""
        await enroll(self._rig.fleet.state("hub"), self._count, self._credentials)

    async def come(self, within: float) -> Storm:
        """All at once; returns when all are in. Raises TimeoutError."""
        rig, share = self._rig, -(-self._count // CROWD_PROCESSES)
        storm = Storm(time.monotonic())
        over = asyncio.Event()
        before = await _sessions(rig)
        working = asyncio.create_task(_work(rig, storm, over))
        readers = []
        for number in range(CROWD_PROCESSES):
            first = number * share
            members = min(share, self._count - first)
            arguments = [str(self._credentials), str(rig.hub_port), str(first), str(members)]
            child = await rig.fleet.spawn(
                f"crowd{number}", [sys.executable, "-m", "tests.faults.crowd"], *arguments, environment=rig.environment
            )
            assert child.process.stdout is not None
            readers.append(_read(child.process.stdout, members, storm))
        try:
            async with asyncio.timeout(within):
                await asyncio.gather(*readers)
        finally:
            over.set()
            await working
        storm.sessions = 1 + await _sessions(rig) - before
        storm.delayed = await _delayed(rig)
        return storm

    async def leave(self) -> None:
        """All at once, without a word."""
        for number in range(CROWD_PROCESSES):
            await self._rig.kill(f"crowd{number}")


async def _read(stream: asyncio.StreamReader, count: int, storm: Storm) -> None:
    seen: set[str] = set()
    while len(seen) < count and (line := await stream.readline()):
        name, _, at = line.decode().partition(" ")
        if name not in seen:
            seen.add(name)
            storm.entries.append(float(at))


async def _work(rig: Rig, storm: Storm, over: asyncio.Event) -> None:
    async with rig.client(CONNECTED) as client:
        while not over.is_set():
            began = time.monotonic()
            receipt = await client.publish("storm", {"n": len(storm.latencies)}, level=Level.DURABLE_HUB, wait=60)
            if receipt.level >= Level.DURABLE_HUB:
                storm.latencies.append(time.monotonic() - began)


async def _sessions(rig: Rig) -> int:
    """How many sessions north has had; waits for the first."""
    async with rig.client(CONNECTED) as client, asyncio.timeout(30):
        stub = admin_service_pb2_grpc.AdminServiceStub(client.channel)
        while True:
            status = await client.unary(stub.GetStatus, admin_service_pb2.GetStatusRequest())
            if status.link.state == "established":
                return int(status.link.session_count)
            await asyncio.sleep(0.05)


async def _delayed(rig: Rig) -> int:
    async with rig.client("hub") as client:
        stub = fleet_service_pb2_grpc.FleetServiceStub(client.channel)
        return int((await client.unary(stub.GetHubStatus, fleet_service_pb2.GetHubStatusRequest())).delayed_count)


async def campaign(count: int, rate: float) -> int:
    """The whole of it; the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="crowd-"))
    rig = Rig(folder, {**LEASES, "EDGEHUB_ADMISSIONS_PER_SECOND": str(rate)})
    crowd = Crowd(rig, count)
    wrong = []
    try:
        await rig.make_hub()
        await crowd.prepare()
        await rig.start_hub()
        await rig.join(CONNECTED)
        await rig.start_edge(CONNECTED)
        for when in ("come", "come back"):
            storm = await crowd.come(within=60 + 4 * count / (rate or count))
            sys.stdout.write(f"{count} edges {when} at once, {rate:g} are let in per second: {storm}\n")
            sys.stdout.flush()
            if storm.sessions != 1:
                wrong.append(f"north lost its session when they {when}")
            await crowd.leave()
    finally:
        await rig.stop()
        shutil.rmtree(folder)
    for problem in wrong:
        sys.stdout.write(f"WRONG: {problem}\n")
    return 1 if wrong else 0


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="scripts/crowd",
        description="Hundreds of edges reconnect to a hub at once. Exit code 1 if one that was connected is lost by it.",
    )
    parser.add_argument("--count", type=int, default=500, help="edges (500)")
    parser.add_argument("--rate", type=float, default=50.0, help="admissions_per_second of the hub (50)")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(campaign(arguments.count, arguments.rate)))


if __name__ == "__main__":
    main()
