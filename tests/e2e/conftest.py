"""Real processes: a hub, edges north and south, the test agent on north. South and the agent run on uvloop."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from edgenode.cli.demo.fleet import EDGENODE, Fleet
from edgenode.cli.demo.proxy import Proxy
from edgenode.sdk import Client

UVLOOP = {"EDGENODE_EVENT_LOOP": "uvloop"}
SKILLS = Path(__file__).with_name("skills.py")


@contextmanager
def short_folder() -> Iterator[Path]:
    """A short path: Unix sockets have room for about a hundred characters."""
    path = Path(tempfile.mkdtemp(prefix="e2e-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


class Site:
    """The fleet of one test; north's link goes through `proxy`."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.proxy = Proxy(0)
        self.hub_port = 0

    async def start(self) -> None:
        self.hub_port = await self.fleet.start_hub()
        self.proxy = Proxy(self.hub_port)
        await self.proxy.restore()
        for node in ("north", "south"):
            await self.fleet.join(node)
            await self.start_edge(node)
        await self.start_agent()

    async def start_edge(self, node: str) -> None:
        north = node == "north"
        port, environment = (self.proxy.port, {}) if north else (self.hub_port, UVLOOP)
        await self.fleet.start_edge(node, port, environment=environment)

    async def start_hub_again(self) -> None:
        await self.fleet.serve_hub(f"127.0.0.1:{self.hub_port}", self.fleet.enroll_address)

    async def start_agent(self) -> None:
        where = ["--state", str(self.fleet.state("north"))]
        command = ("agent", "run", f"{SKILLS}:agent", *where)
        agent = await self.fleet.spawn("odd", EDGENODE, *command, environment=UVLOOP)
        await agent.ready()

    def client(self, node: str) -> Client:
        return Client(socket=self.fleet.socket(node), connect_timeout=20)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    """One for the tests of a file, each of which leaves it at work."""
    with short_folder() as folder:
        made = Site(Fleet(folder))
        try:
            await made.start()
            yield made
        finally:
            await made.proxy.cut()
            await made.fleet.stop()
