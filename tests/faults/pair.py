"""A real hub and a real edge that joined it, in this process: where a test takes a protection away by patching."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.link.parent.identity import join
from edgenode.link.ports import Clock, SystemClock
from edgenode.link.wire.channels import open_channel, unix_target
from edgenode.node.config import NodeConfig
from edgenode.node.node import Node
from edgenode.sdk import Client
from hub.app import Hub
from hub.ca.authority import init_authority
from hub.config import HubConfig


async def until(condition: Callable[[], Awaitable[bool]], within: float = 50.0) -> bool:
    """Whether a condition came to hold within a generous time."""
    deadline = time.monotonic() + within
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


class Pair:
    """`start` makes, joins and starts both. The hub keeps its ports over restarts."""

    def __init__(self, folder: Path, **hub: Any) -> None:
        """`hub` is more of the hub's configuration."""
        self.clock: Clock = SystemClock()
        self.hub_state = folder / "hub"
        self.edge_state = folder / "north"
        self.hub: Hub | None = None
        self.edge: Node | None = None
        self._config = HubConfig(
            state_dir=self.hub_state,
            listen="127.0.0.1:0",
            enroll_listen="127.0.0.1:0",
            heartbeat_seconds=0.2,
            lease_seconds=1.0,
            drain_seconds=1.0,
            **hub,
        )

    async def start(self, **edge: Any) -> None:
        """Both, from nothing; `edge` is more of its configuration."""
        init_authority(self.hub_state, "fleet.example", "hub", self.clock)
        await self.start_hub()
        token = await self.token("north")
        assert self.hub is not None
        await join(self.edge_state, f"127.0.0.1:{self.hub.enrollment_port}", token, clock=self.clock)
        await self.start_edge(**edge)
        assert await until(self.connected)

    async def start_hub(self) -> None:
        """Serve the hub's state."""
        self.hub = Hub(self._config, clock=self.clock)
        await self.hub.start()
        self._config = replace(
            self._config,
            listen=f"127.0.0.1:{self.hub.sync_port}",
            enroll_listen=f"127.0.0.1:{self.hub.enrollment_port}",
        )

    def impersonate(self, state: Path) -> None:
        """Serve another state at the hub's address from the next start on."""
        self.hub_state = state
        self._config = replace(self._config, state_dir=state)

    async def stop_hub(self) -> None:
        """End it in order."""
        if self.hub is not None:
            await self.hub.stop()
            self.hub = None

    async def start_edge(self, **settings: Any) -> None:
        """Run the edge's state."""
        pace = {"reconnect_min_seconds": 0.05, "reconnect_max_seconds": 0.2, "drain_seconds": 0.2}
        self.edge = Node(NodeConfig(state_dir=self.edge_state, **{**pace, **settings}), clock=self.clock)
        await self.edge.start()

    async def stop_edge(self) -> None:
        """End it in order."""
        if self.edge is not None:
            await self.edge.stop()
            self.edge = None

    async def stop(self) -> None:
        """End both."""
        await self.stop_edge()
        await self.stop_hub()

    def client(self, where: str) -> Client:
        """A client of `hub` or `edge`."""
        service = self.hub if where == "hub" else self.edge
        assert service is not None
        return Client(socket=service.socket_path, connect_timeout=20)

    async def token(self, node: str, *, rejoin: bool = False) -> str:
        """A join token."""
        request = fleet_service_pb2.CreateJoinTokenRequest(node=node, rejoin=rejoin)
        assert self.hub is not None
        async with open_channel(unix_target(self.hub.socket_path)) as channel:
            answer = await fleet_service_pb2_grpc.FleetServiceStub(channel).CreateJoinToken(request)
        return str(answer.token)

    async def node(self) -> fleet_service_pb2.Node:
        """What the hub says of the edge."""
        assert self.hub is not None
        async with open_channel(unix_target(self.hub.socket_path)) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            answer: fleet_service_pb2.GetNodeResponse = await stub.GetNode(
                fleet_service_pb2.GetNodeRequest(node="north")
            )
        return answer.node

    async def connected(self) -> bool:
        """Whether the hub has a session with the edge."""
        return (await self.node()).state == "connected"
