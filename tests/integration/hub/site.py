"""A hub on a state directory, and edges that dial it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc

from edgenode.link.ports import SystemClock
from edgenode.link.wire.channels import open_channel, unix_target
from hub.app import Hub
from hub.ca.authority import Authority, init_authority
from hub.config import HubConfig
from tests.integration.hub.fake_edge import FakeEdge


class Site:
    """A hub's state directory, the hub that runs on it now, and edges that dial whichever that is."""

    def __init__(self, state: Path) -> None:
        init_authority(state, "fleet.example", "hub", SystemClock())
        self.authority = Authority.load(state, SystemClock())
        self.config = HubConfig(
            state_dir=state,
            listen="127.0.0.1:0",
            enroll_listen="127.0.0.1:0",
            heartbeat_seconds=0.2,
            lease_seconds=1.0,
            reassign_after_seconds=0.3,
            drain_seconds=2.0,
        )
        self.hub: Hub | None = None
        self.edges: list[FakeEdge] = []
        self._channels: list[grpc.aio.Channel] = []

    async def start(self, **settings: object) -> Hub:
        self.config = replace(self.config, **settings)  # type: ignore[arg-type]
        self.hub = Hub(self.config)
        await self.hub.start()
        return self.hub

    async def stop(self) -> None:
        for channel in self._channels:
            await channel.close()
        self._channels.clear()
        if self.hub is not None:
            await self.hub.stop()

    async def edge(self, node: str) -> FakeEdge:
        edge = await FakeEdge.make(node, self.authority, lambda: self.hub.sync_port if self.hub else 1)
        self.edges.append(edge)
        await edge.start()
        return edge

    def local(self) -> grpc.aio.Channel:
        """A channel to the hub's socket."""
        channel = open_channel(unix_target(self.config.socket_path))
        self._channels.append(channel)
        return channel

    async def close(self) -> None:
        for edge in self.edges:
            await edge.close()
        await self.stop()
