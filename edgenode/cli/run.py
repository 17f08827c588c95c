"""`edgenode run`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from edgenode.cli.state import state_option
from edgenode.link import failpoints
from edgenode.link.config import LOG_LEVELS
from edgenode.link.errors import DataLoss
from edgenode.link.telemetry import configure_logging
from edgenode.link.terminal.event_loop import run_on
from edgenode.link.terminal.signals import serve
from edgenode.node.config import NodeConfig, load_node_config
from edgenode.node.node import Node

LONGEST_PAUSE = 60.0  # seconds


@click.command()
@click.option("--node", help="Name of the node; the joined identity's, else the host's when not given.")
@click.option("--hub", metavar="HOST:PORT", help="The hub's sync listener; as joined when not given.")
@click.option("--listen", metavar="HOST:PORT", help="Also listen on loopback, in plaintext.")
@click.option("--socket", type=click.Path(), help="Path of the Unix socket; STATE/edgenode.sock when not given.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="What is logged, to standard error.")
@state_option
def run(state: Path, **flags: str | None) -> None:
    """Run the edge node. Prints a line that begins with `ready` when it serves; SIGTERM and SIGINT drain and stop it."""
    config = load_node_config(state, flags=flags).config
    configure_logging(config.log_level)
    failpoints.arm_from_environment()
    run_on(config.event_loop, lambda: _serve(config))


async def _serve(config: NodeConfig) -> None:
    pause = 0.0
    while not await _serve_once(config):
        # The store is damaged: the next start sets it aside. A disk that damages one after the other is given time.
        await asyncio.sleep(pause)
        pause = min(2 * pause + 1, LONGEST_PAUSE)


async def _serve_once(config: NodeConfig) -> bool:
    """False if the node ended because its store is damaged."""
    node = Node(config)

    try:
        return await serve(node, lambda: f"ready node={node.name} socket={config.socket_path}")
    except DataLoss as error:
        if error.reason != "STATE_DAMAGED":
            raise
        return False  # found while it started
