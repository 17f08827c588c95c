"""Programs of the peers. They run in the peers' environment and see of this project only scripts.benchmarks.rounds."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any


def run(main: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, on the event loop that edgenode is measured on."""
    if os.environ.get("EDGENODE_EVENT_LOOP") == "uvloop":
        import uvloop  # in the peers' environment

        uvloop.run(main)
    else:
        asyncio.run(main)
