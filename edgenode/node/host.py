"""What a node stands on beside its clock and its chance: the places where it meets files, sockets and the network.

The simulation puts its own in their place and runs the node itself unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edgenode.link.store.connector import Connect, connect_on_thread
from edgenode.link.wire.channels import OpenChannel, open_channel
from edgenode.node.config import NodeConfig
from edgenode.node.local_server import LocalServer, Services
from edgenode.node.supervisor import Spawn, spawn


class Server(Protocol):
    """Where the node is served; see LocalServer."""

    port: int

    async def start(self) -> None:
        """Listen."""
        ...

    async def ready(self) -> None:
        """Tell health checks that the node serves."""
        ...

    async def drain(self) -> None:
        """Tell health checks that the node is going."""
        ...

    async def stop(self, grace: float) -> None:
        """End; rpcs under way have `grace` seconds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """How to open the store, dial the hub, listen, start programs."""

    connect: Connect = connect_on_thread
    open_channel: OpenChannel = open_channel
    make_server: Callable[[NodeConfig, Services], Server] = LocalServer
    spawn: Spawn = spawn
