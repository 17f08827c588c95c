"""Clock a year off, or no clock at all: order and leases untouched, nothing expires that should not, TLS recovers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.sdk import Agent, Client, Level, TaskHandle, TaskState
from tests.faults.disk.control import YEAR, Disk
from tests.faults.disk.recording import echoing
from tests.faults.fleet import Rig

pytestmark = pytest.mark.timeout(180)
NO_CLOCK = -int(time.time()) + 60  # a minute after the beginning of 1970
PATIENCE = 60.0


@pytest.fixture
def disk(folder: Path) -> Iterator[Disk]:
    """That of north; whoever starts it gives it `disk.environment`."""
    (folder / "north").mkdir(mode=0o700)
    made = Disk(folder / "north", folder / "control")
    yield made
    made.close()


@pytest.fixture
def hub_disk(folder: Path) -> Iterator[Disk]:
    """That of the hub."""
    (folder / "hub").mkdir(mode=0o700)
    made = Disk(folder / "hub", folder / "hub-control")
    yield made
    made.close()


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await true():
            await breathe()


async def breathe() -> None:
    await asyncio.sleep(0.05)


async def link(client: Client) -> admin_pb2.LinkStatus:
    stub = admin_service_pb2_grpc.AdminServiceStub(client.channel)
    status = await client.unary(stub.GetStatus, admin_service_pb2.GetStatusRequest())
    return cast(admin_pb2.LinkStatus, status.link)


async def connected(client: Client) -> bool:
    return (await link(client)).state == "established"


async def while_running(rig: Rig, disk: Disk, hub_disk: Disk, mutant: str = "") -> list[str]:
    """Clocks jump while an edge and its hub are at work; everything that went wrong."""
    await rig.start(hub=hub_disk.environment)
    await rig.join("north")
    await rig.start_edge("north", mutant=mutant, environment=disk.environment)
    wrong = []
    async with rig.client("north") as client, rig.client("hub") as hub:
        await until(lambda: connected(client))
        since = (await link(client)).state_time.ToNanoseconds()
        parked = await hub.submit("nobody", deadline=3600)
        handles = [await client.submit("later", {"text": str(number)}, deadline=3600) for number in range(3)]
        for jump in (YEAR, -YEAR):
            soon = await hub.submit("nobody", deadline=2)
            read, read_at_hub = disk.clock_reads, hub_disk.clock_reads
            disk.set_clock(jump)
            hub_disk.set_clock(jump)
            number = len(handles)
            handles.append(await client.submit("later", {"text": str(number)}))
            if (await client.publish("t", "after", level=Level.DURABLE_HUB)).level < Level.DURABLE_HUB:
                wrong.append("the hub is out of reach")
            await until(lambda soon=soon: ended(hub, soon))  # type: ignore[misc]
            assert disk.clock_reads > read, "the edge does not ask this clock"
            assert hub_disk.clock_reads > read_at_hub, "the hub does not ask this clock"
            disk.set_clock(0)
            hub_disk.set_clock(0)
        if await ended(hub, parked):
            wrong.append("a task of the hub expired an hour early")
        if (await link(client)).state_time.ToNanoseconds() != since:
            wrong.append("the link was lost")
        disk.set_clock(YEAR)
        order = await run_in_order(client, len(handles))
        if order != ["0", "1", "2", "3", "4"]:
            wrong.append(f"run in the order {order}")
        states = [TaskState((await client.get_task(handle.task_id)).state).name for handle in handles]
        if set(states) != {"COMPLETED"}:
            wrong.append(f"ended as {states}")
    return wrong


async def at_the_start(rig: Rig, disk: Disk, jumps: Sequence[int], mutant: str = "") -> list[str]:
    """An edge starts with a wrong clock, which is set later; everything that went wrong."""
    await rig.start()
    await rig.join("north")
    await rig.start_edge("north", mutant=mutant, environment=disk.environment)
    wrong: list[str] = []
    async with rig.client("north") as client:
        async with echoing(client):
            done = await client.submit("echo", {"text": "before"}, idempotency_key="once")
            await done.result()
        for jump in jumps:
            wrong += [
                f"clock off by {jump}: {text}" for text in await _start_wrong(rig, disk, client, done, jump, mutant)
            ]
    return wrong


async def _start_wrong(rig: Rig, disk: Disk, client: Client, done: TaskHandle, jump: int, mutant: str) -> list[str]:
    wrong = []
    handles = [await client.submit("later", {"text": str(number)}) for number in range(3)]
    await rig.fleet.children["north"].stop()
    disk.set_clock(jump)
    await rig.start_edge("north", mutant=mutant, environment=disk.environment)
    # Local work goes on, and nothing was forgotten.
    again = await client.submit("echo", {"text": "before"}, idempotency_key="once")
    if again.task_id != done.task_id:
        wrong.append("a finished task was forgotten")
    handles += [await client.submit("later", {"text": str(number)}) for number in range(3, 6)]
    await rig.kill("north")
    await rig.start_edge("north", mutant=mutant, environment=disk.environment)
    order = await run_in_order(client, len(handles))
    if order != ["0", "1", "2", "3", "4", "5"]:
        wrong.append(f"run in the order {order}")
    if (await client.publish("t", "while it is wrong")).level is not Level.DURABLE_LOCAL:
        wrong.append("local work does not go on")
    # By this clock no certificate is good; once it is set, the link comes back by itself.
    if await connected(client):
        wrong.append("a certificate was believed that is not good")
    disk.set_clock(0)
    await until(lambda: connected(client))
    if (await client.publish("t", "set right", level=Level.DURABLE_HUB)).level < Level.DURABLE_HUB:
        wrong.append("the hub is out of reach")
    return wrong


async def ended(client: Client, handle: TaskHandle) -> bool:
    return TaskState((await client.get_task(handle.task_id)).state).terminal


async def run_in_order(client: Client, count: int) -> list[str]:
    """Have the waiting tasks run by one agent, one at a time; the order in which they came."""
    agent, order, all_there = Agent("later", concurrency=1), list[str](), asyncio.Event()

    @agent.skill("later", idempotent=True)
    async def later(text: str) -> None:
        order.append(text)
        if len(order) == count:
            all_there.set()

    serving = asyncio.create_task(agent.attach(client))
    try:
        with suppress(TimeoutError):  # then the order says what is missing
            async with asyncio.timeout(PATIENCE / 2):
                await all_there.wait()
    finally:
        await agent.stop(grace=5)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    return order


async def test_clock_off_by_a_year_while_running(rig: Rig, disk: Disk, hub_disk: Disk) -> None:
    assert await while_running(rig, disk, hub_disk) == []


async def test_clock_wrong_at_the_start_until_it_is_set(rig: Rig, disk: Disk) -> None:
    assert await at_the_start(rig, disk, (YEAR, NO_CLOCK)) == []


async def test_clock_that_shortens_attempts_is_noticed(rig: Rig, disk: Disk, hub_disk: Disk) -> None:
    wrong = await while_running(rig, disk, hub_disk, "time-attempts-by-the-wall-clock")
    assert any("ended as" in text for text in wrong)


async def test_clock_that_forgets_or_reorders_is_noticed(rig: Rig, disk: Disk) -> None:
    wrong = await at_the_start(rig, disk, (YEAR, NO_CLOCK), "keep-tasks-by-the-wall-clock")
    assert any("forgotten" in text for text in wrong)
    assert any("in the order" in text for text in wrong)
