"""A node as a process of its own, to be killed."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_NODE = """
import asyncio, sys
from pathlib import Path
from edgenode.node.config import NodeConfig
from edgenode.node.node import Node

async def main():
    await Node(NodeConfig(state_dir=Path(sys.argv[1]), node="north")).start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def start_node(state: Path) -> Process:
    """Node `north` on that directory, once it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _NODE, str(state), stdout=PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    async with asyncio.timeout(40):
        assert await process.stdout.readline() == b"ready\n"
    return process
