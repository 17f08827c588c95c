"""Long pause, then resume: the old link session is fenced, and so is the work that went elsewhere meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from edgenode.link.model.task import TaskState
from edgenode.sdk import Agent, Client, Scope
from tests.faults.fleet import Rig
from tests.faults.hub_log import LOOK_AGAIN, link_of, link_reaches, node_reaches, up
from tests.faults.oracle import ledger_lines

pytestmark = pytest.mark.timeout(300)

HUB = {"EDGEHUB_REASSIGN_AFTER_SECONDS": "0.5", "EDGEHUB_LEASE_SECONDS": "2"}
SKILL = "where"


class Worker:
    """An agent that answers with its node's name, once it is told to."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.began = asyncio.Event()
        self.gate = asyncio.Event()
        self.agent = Agent(f"worker-{node}")

        @self.agent.skill(SKILL)
        async def where() -> str:
            self.began.set()
            await self.gate.wait()
            return node

    async def attach(self, client: Client) -> asyncio.Task[None]:
        ready = asyncio.Event()
        task = asyncio.create_task(self.agent.attach(client, lambda _node: ready.set()))
        await asyncio.wait_for(ready.wait(), 60)
        return task


async def outcome(rig: Rig) -> str:
    """Of a task that north began, that was given to south while north was frozen, and that both then finish."""
    north, south = Worker("north"), Worker("south")
    tasks: list[asyncio.Task[None]] = []
    async with rig.client("north") as at_north, rig.client("south") as at_south, rig.client("hub") as hub:
        try:
            tasks.append(await north.attach(at_north))
            handle = await hub.submit(SKILL, scope=Scope.FLEET)
            await asyncio.wait_for(north.began.wait(), 60)
            sessions = (await link_of(rig, "north")).session_count
            rig.freeze("north")
            await node_reaches(rig, "north", "unreachable")
            tasks.append(await south.attach(at_south))
            await asyncio.wait_for(south.began.wait(), 60)

            north.gate.set()
            rig.thaw("north")
            await link_reaches(rig, "north", lambda status: up(status) and status.session_count > sessions)
            await reported(at_north, handle.task_id)
            if TaskState((await hub.get_task(handle.task_id)).state).terminal:
                return str(await handle.result(10))
            south.gate.set()
            return str(await handle.result(60))
        finally:
            await north.agent.stop(grace=1)
            await south.agent.stop(grace=1)
            await asyncio.gather(*tasks, return_exceptions=True)


async def reported(north: Client, task_id: str) -> None:
    """Wait until north has ended the task, and the hub has heard of it."""
    async with asyncio.timeout(60):
        while True:
            ended = TaskState((await north.get_task(task_id)).state).terminal
            lines = await ledger_lines(north, "north")
            if ended and not any(line.pending_count for line in lines if line.hop == "task.uplink"):
                return
            await asyncio.sleep(LOOK_AGAIN)


async def test_long_pause_then_resume(rig: Rig) -> None:
    await rig.start("north", "south", hub=HUB)
    await link_reaches(rig, "north", up)
    await link_reaches(rig, "south", up)
    assert await outcome(rig) == "south"

    # A hub that looks at no fences takes the report of whoever comes first.
    await rig.kill("hub")
    await rig.start_hub(mutant="believe-any-fence", environment=HUB)
    await link_reaches(rig, "north", up)
    await link_reaches(rig, "south", up)
    assert await outcome(rig) == "north"
