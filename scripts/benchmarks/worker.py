"""A worker agent of the measurements: its skill gives back what it gets."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from edgenode.link.terminal.event_loop import run_on
from edgenode.node.config import load_node_config
from edgenode.sdk import Agent

CONCURRENCY = 256


async def _serve(state: str, name: str) -> None:
    agent = Agent(name, concurrency=CONCURRENCY)

    @agent.skill()
    async def echo(data: bytes) -> bytes:
        """Gives back what it gets."""
        return data

    running = asyncio.ensure_future(agent.run(state=state, on_attached=lambda _node: print("ready", flush=True)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(agent.stop()))
    await running


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", required=True)
    parser.add_argument("--name", required=True)
    arguments = parser.parse_args()
    run_on(load_node_config(Path(arguments.state)).config.event_loop, lambda: _serve(arguments.state, arguments.name))
