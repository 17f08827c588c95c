"""Trees: some worlds have hubs below the hub, each with a fleet and an authority of its own.

A child hub is a machine like any other, and an edge to its parent: it has a road that can be cut, and a disk.
"""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, Any

from edgenode.link.parent.identity import load_identity
from edgenode.link.parent.membership import Membership
from edgenode.link.protocol.registry import RegistryLog
from hub.app import parent_ports
from hub.services.core import Core
from hub.services.uplink import ParentPorts
from tests.simulation.fleet import CHILDREN, EDGES
from tests.simulation.machines import Edge, Hub, dial, leave
from tests.simulation.network import Channel, Road

if TYPE_CHECKING:
    from tests.simulation.world import World


# What hubs below another one keep of messages that it has already, in bytes.
RETENTIONS = (2000, 1 << 30)


def is_tree(seed: int) -> bool:
    """Whether the world of a seed has hubs below the hub."""
    return seed % 4 == 3


class ChildHub(Hub):
    """A hub that has joined `hub`."""

    def __init__(self, world: World, name: str, road: Road, hub: Hub, **settings: Any) -> None:
        super().__init__(world, name, **settings)
        self.road = road
        self.hub = hub
        self._membership: Membership | None = None
        shutil.copytree(hub.fleet.directory / name / "identity", self.config.parent_dir / "identity")

    @property
    def forgets(self) -> bool:
        """Whether it lets go of messages that the parent has."""
        return bool(self.config.message_retention_bytes < max(RETENTIONS))

    def _parent(self, rng: random.Random) -> ParentPorts:
        identity = load_identity(self.config.parent_dir)
        assert identity is not None

        async def redial() -> None:
            assert self.core is not None
            await self.core.redial()

        membership = Membership(
            self.config.parent_dir,
            identity,
            "",
            self.clock,
            rng,
            redial,
            self._open_channel,  # type: ignore[arg-type]
        )
        self._membership = membership
        return parent_ports(self.config, membership)

    async def _join_tree(self, core: Core) -> None:
        assert self._membership is not None
        self._closing.push_async_callback(self._membership.stop)
        self._membership.start()
        await core.join_tree()

    def registry_log(self) -> RegistryLog:
        """What it tells its parent of the agents of its fleet."""
        assert self.core is not None
        assert self.core.uplink is not None
        return self.core.uplink._registry.log

    def _open_channel(self, target: str, credentials: Any = None, *, settings: Any = None) -> Channel:
        return dial(self, self.hub, self.road, self.config.parent_dir, target)

    def _forget(self, process: Any, *, silent: bool) -> None:
        super()._forget(process, silent=silent)
        leave(self.world, self.road, silent=silent)


def way_up(edge: Edge) -> list[Hub]:
    """The hubs that an edge's messages pass, to the root."""
    way: list[Hub] = [edge.hub]
    while isinstance(hub := way[-1], ChildHub):
        way.append(hub.hub)
    return way


def plant(world: World, rng: random.Random, edge_settings: dict[str, Any]) -> None:
    """Give a world with a hub two fleets below it, or one and an edge of the hub's own; one or two edges in each."""
    heartbeat, lease = rng.choice(((5.0, 15.0), (1.0, 4.0)))
    names = list(EDGES)

    def add_edge(hub: Hub) -> None:
        name = names.pop(0)
        world.edges.append(Edge(world, name, world.make_road(name), hub, **edge_settings))

    for name in CHILDREN[: rng.choice((1, 2, 2))]:
        child = ChildHub(
            world,
            name,
            world.make_road(name),
            world.hub,
            reassign_after_seconds=rng.choice((1.0, 5.0, 30.0)),
            heartbeat_seconds=heartbeat,
            lease_seconds=lease,
            reconnect_min_seconds=0.3,
            reconnect_max_seconds=world.reconnect_max,
            message_retention_bytes=rng.choice(RETENTIONS),
        )
        world.hubs.append(child)
        for _ in range(rng.choice((1, 1, 2))):
            add_edge(child)
    if len(world.hubs) == 2:
        add_edge(world.hub)
