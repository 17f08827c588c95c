"""The fleet that faults are injected into: a hub and edges, each startable with a mutant or a failpoint."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.cli.demo.fleet import EDGEHUB, EDGENODE, Fleet
from edgenode.link.parent.identity import join
from edgenode.link.ports import SystemClock
from edgenode.sdk import Client
from hub.ca.authority import init_authority

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT = 120.0  # a machine on which everything is killed and started all the time is a busy one
# Tests have no patience for a field device's leases.
HUB_ENVIRONMENT = {
    "EDGEHUB_HEARTBEAT_SECONDS": "0.5",
    "EDGEHUB_LEASE_SECONDS": "2",
    "EDGEHUB_REASSIGN_AFTER_SECONDS": "3",
    "EDGEHUB_LOG_LEVEL": "warning",
}
EDGE_ENVIRONMENT = {
    "EDGENODE_RECONNECT_MIN_SECONDS": "0.05",
    "EDGENODE_RECONNECT_MAX_SECONDS": "0.5",
    "EDGENODE_LEASE_SECONDS": "3",
    "EDGENODE_LOG_LEVEL": "warning",
}


class Rig:
    """A fleet of real processes below one folder. `environment` is what every one of them gets on top."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.fleet = Fleet(folder, READY_TIMEOUT)
        self.environment = {"PYTHONPATH": str(ROOT), **(environment or {})}
        self.hub_port = 0

    async def start(self, *edges: str, hub: Mapping[str, str] | None = None) -> None:
        """A hub, and `edges` that joined it. `hub` is more of its environment."""
        await self.make_hub()
        await self.start_hub(environment=hub)
        for edge in edges:
            await self.join(edge)
        await asyncio.gather(*(self.start_edge(edge) for edge in edges))

    async def make_hub(self) -> None:
        """The hub's state and authority; it is not started."""
        await asyncio.to_thread(init_authority, self.fleet.state("hub"), "faults.example", "hub", SystemClock())

    async def join(self, edge: str) -> None:
        """Give an edge its identity; in this process, as each command costs most of a second to start."""
        await join(self.fleet.state(edge), self.fleet.enroll_address, await self.token(edge))

    async def token(self, edge: str) -> str:
        """A join token."""
        async with self.client("hub") as client:
            stub = fleet_service_pb2_grpc.FleetServiceStub(client.channel)
            request = fleet_service_pb2.CreateJoinTokenRequest(node=edge)
            answer: fleet_service_pb2.CreateJoinTokenResponse = await client.unary(stub.CreateJoinToken, request)
        return answer.token

    async def start_hub(
        self, *, mutant: str = "", failpoint: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        """Serve the hub, on the same ports each time. A failpoint that is reached at the start is no error."""
        self.hub_port = await self.fleet.serve_hub(
            f"127.0.0.1:{self.hub_port}",
            self.fleet.enroll_address or "127.0.0.1:0",
            command=command_of(EDGEHUB, mutant),
            environment=self._environment(HUB_ENVIRONMENT, failpoint, environment),
        )

    async def start_edge(
        self,
        node: str,
        *,
        port: int = 0,
        mutant: str = "",
        failpoint: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run an edge that joined. `port` is the hub's, or that of a proxy before it."""
        await self.fleet.start_edge(
            node,
            port or self.hub_port,
            command=command_of(EDGENODE, mutant),
            environment=self._environment(EDGE_ENVIRONMENT, failpoint, environment),
        )

    def _environment(
        self, base: Mapping[str, str], failpoint: str, more: Mapping[str, str] | None
    ) -> Mapping[str, str]:
        armed = {"EDGENODE_FAILPOINT": failpoint} if failpoint else {}
        return {**base, **self.environment, **armed, **(more or {})}

    async def kill(self, node: str) -> None:
        """SIGKILL; returns when it is gone. One that is gone already is left."""
        process = self.fleet.children[node].process
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def died(self, node: str, within: float) -> int:
        """Wait until it ended by itself; its return code, negative for a signal. Raises TimeoutError."""
        async with asyncio.timeout(within):
            return await self.fleet.children[node].process.wait()

    def running(self, node: str) -> bool:
        """Whether its process lives."""
        child = self.fleet.children.get(node)
        return child is not None and child.process.returncode is None

    def freeze(self, node: str) -> None:
        """SIGSTOP."""
        self.fleet.children[node].process.send_signal(signal.SIGSTOP)

    def thaw(self, node: str) -> None:
        """SIGCONT."""
        self.fleet.children[node].process.send_signal(signal.SIGCONT)

    def client(self, node: str, connect_timeout: float = 120.0) -> Client:
        """A client of an edge or, of what it serves locally, the hub; it outlives restarts."""
        return Client(socket=self.fleet.socket(node), connect_timeout=connect_timeout)

    def log(self, node: str) -> str:
        """What the node wrote to standard error, over all its lives."""
        return (self.fleet.folder / f"{node}.log").read_text(errors="replace")

    async def stop(self) -> None:
        """SIGKILL for everything: how they stop is not what is tested here."""
        for node in self.fleet.children:
            await self.kill(node)


def command_of(command: list[str], mutant: str) -> list[str]:
    """The command, with a mutant where one is named."""
    if not mutant:
        return command
    return [sys.executable, "-m", "tests.faults.mutated", mutant, Path(command[0]).name]
