"""What the tests of restored disks share: numbered messages, and what the hub has of them and says of its ledger."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

from click.testing import CliRunner, Result

from edgenode.cli.demo.fleet import EDGEHUB, EDGENODE
from edgenode.cli.main import main as edgenode_main
from edgenode.sdk import Agent, Client, Context, Level, OnLost, Scope, TaskHandle
from hub.cli.main import main as edgehub_main
from tests.faults.fleet import Rig

TOPIC = "restore.numbers"
NOTHING_RETAINED = {
    "EDGENODE_ACK_RETENTION_BYTES": "0",
    "EDGENODE_MESSAGE_RETENTION_BYTES": "0",
    "EDGEHUB_ACK_RETENTION_BYTES": "0",
}


async def publish(rig: Rig, node: str, numbers: Iterable[int], level: Level = Level.DURABLE_HUB) -> None:
    """Publish numbers; returns when each is at `level`."""
    async with rig.client(node) as client:
        work = [client.publish(TOPIC, number, key="n", level=level, wait=60) for number in numbers]
        receipts = await asyncio.gather(*work)
    assert all(receipt.level >= level for receipt in receipts)


async def at_hub(rig: Rig, count: int) -> list[int]:
    """The numbers in the hub's log from its start, in order, once there are `count`; a few seconds more for those too many."""
    numbers: list[int] = []
    async with rig.client("hub") as client, client.subscribe([TOPIC], position="start") as messages:
        try:
            async with asyncio.timeout(60) as limit:
                async for message in messages:
                    numbers.append(message.value())
                    if len(numbers) >= count:
                        limit.reschedule(asyncio.get_running_loop().time() + 1)
        except TimeoutError:
            pass
    return numbers


async def back_up(rig: Rig, node: str) -> Path:
    """A backup of the hub or of an edge, by its command."""
    command = EDGEHUB if node == "hub" else EDGENODE
    made = await rig.fleet.run(command, "backup", str(rig.fleet.folder), "--state", state(rig, node), "-o", "json")
    return Path(json.loads(made)["path"])


def offline(node: str, *arguments: str) -> Result:
    """A command that needs no service, of the hub or of an edge, in this process."""
    main = edgehub_main if node == "hub" else edgenode_main
    return CliRunner().invoke(main, arguments, prog_name="command")


async def restore(rig: Rig, node: str, backup: Path) -> None:
    """In place of what is there."""
    done = await asyncio.to_thread(offline, node, "restore", str(backup), "--force", "--state", state(rig, node))
    assert done.exit_code == 0, done.output


async def ledger(rig: Rig, node: str) -> list[dict[str, object]]:
    """The lines; fails unless they add up, and everything they count is as it must be."""
    command = EDGEHUB if node == "hub" else EDGENODE
    everybody = ["--all"] if node == "hub" else []
    await rig.fleet.run(command, "ledger", "verify", *everybody, "--state", state(rig, node))
    lines: list[dict[str, object]] = json.loads(
        await rig.fleet.run(command, "ledger", "--state", state(rig, node), "-o", "json")
    )
    return lines


async def gaps(rig: Rig, node: str, hop: str) -> int:
    """Entries of a hop that the ledger counts as a gap."""
    dropped = [line["dropped_counts"] for line in await ledger(rig, node) if line["hop"] == hop]
    return sum(counts.get("GAP", 0) for counts in dropped if isinstance(counts, dict))


def state(rig: Rig, node: str) -> str:
    """The state directory."""
    return str(rig.fleet.state(node))


async def submit(client: Client, skill: str, job: str, on_lost: OnLost = OnLost.RETRY) -> TaskHandle:
    """A task for the fleet; returns when the hub has it."""
    level = Level.DURABLE_HUB
    handle = await client.submit(skill, {"job": job}, scope=Scope.FLEET, on_lost=on_lost, wait_level=level, wait=60)
    assert handle.level >= level
    return handle


class Workers:
    """Agents in this process, on edges of the fleet; `runs` is the journal of what they began, by job."""

    def __init__(self, rig: Rig) -> None:
        self.runs: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self._rig = rig
        self._stack = AsyncExitStack()

    async def start(self, node: str, skill: str, *, held: bool = False) -> None:
        """An agent on `node` that has `skill`; `held`: its work ends when the gate is opened."""
        agent = Agent(f"{node}-{skill}", concurrency=64)

        @agent.skill(skill)
        async def work(ctx: Context, job: str) -> str:
            self.runs[job] += 1
            if held:
                await self.gate.wait()
            return f"done {job}"

        client = await self._stack.enter_async_context(self._rig.client(node))
        attached = asyncio.Event()
        running = asyncio.create_task(agent.attach(client, lambda _node: attached.set()))
        self._stack.push_async_callback(_end, agent, running)
        await asyncio.wait_for(attached.wait(), 30)

    async def close(self) -> None:
        """End the agents."""
        self.gate.set()
        await self._stack.aclose()


async def _end(agent: Agent, running: asyncio.Task[None]) -> None:
    await agent.stop(grace=0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def began(workers: Workers, jobs: Iterable[str]) -> None:
    """Wait until each of the jobs was begun."""
    async with asyncio.timeout(60):
        while not all(workers.runs[job] for job in jobs):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def open_tasks_at_hub(rig: Rig) -> list[str]:
    """Jobs that have not ended for the hub."""
    made = await rig.fleet.run(EDGEHUB, "tasks", "list", "--limit", "1000", "--state", state(rig, "hub"), "-o", "json")
    ended = ("COMPLETED", "FAILED", "CANCELED", "REJECTED", "EXPIRED", "DEAD_LETTERED")
    return [task["task_id"] for task in json.loads(made) if task["state"] not in ended]


async def settled_at_hub(rig: Rig, left: int = 0) -> None:
    """Wait until the hub has no more than `left` tasks that have not ended."""
    async with asyncio.timeout(60):
        while len(await open_tasks_at_hub(rig)) > left:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
