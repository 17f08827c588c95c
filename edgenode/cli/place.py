"""The one place where a command opens a channel or client to its node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edgenode.link.terminal.rpc import check_listening
from edgenode.node.config import load_node_config
from edgenode.sdk.client import Client

CONNECT_TIMEOUT = 5.0


def node_target(state: Path) -> str:
    """`unix:PATH` of the running node. Raises Unavailable (NODE_NOT_RUNNING), InvalidArgument (BAD_CONFIG)."""
    path = load_node_config(state).config.socket_path
    return check_listening(path, "NODE_NOT_RUNNING", "node", f"edgenode run --state {state}")


@asynccontextmanager
async def node_client(state: Path) -> AsyncIterator[Client]:
    """A client of the running node. Raises as `node_target` does."""
    async with Client(target=node_target(state), connect_timeout=CONNECT_TIMEOUT) as client:
        yield client
