"""One-way or half-open link; slow, lossy, duplicating, reordering link: with real processes and a cable that has faults.

Within TCP nothing is lost, doubled or reordered without breaking the connection; what the link makes of frames that are,
tests/simulation shows. A break in the middle of a frame is here.
"""

from __future__ import annotations

import asyncio

import psutil
import pytest

from edgenode.sdk import Client, Level
from tests.faults.fleet import Rig
from tests.faults.hub_log import link_of, link_reaches, node_reaches, numbers_at_the_hub, up
from tests.faults.proxy import FaultyProxy, Way

pytestmark = pytest.mark.timeout(300)

LEASE = 2.0
SLOW = (
    40_000  # bytes a second: half a megabyte of backlog, and what goes into one batch, take far longer than the lease
)
BACKLOG = 600
MORE_MEMORY = 32 << 20


async def cabled(rig: Rig) -> FaultyProxy:
    """A hub, and north behind a cable."""
    await rig.start()
    await rig.join("north")
    cable = FaultyProxy(rig.hub_port)
    await cable.restore()
    await rig.start_edge("north", port=cable.port)
    await link_reaches(rig, "north", up)
    return cable


async def noticed(rig: Rig, within: float) -> bool:
    """Whether north gives its session up."""
    try:
        await link_reaches(rig, "north", lambda status: not up(status), within)
    except TimeoutError:
        return False
    return True


async def test_one_way_or_half_open_link(rig: Rig) -> None:
    cable = await cabled(rig)
    try:
        async with rig.client("north") as north:
            number = 0
            for ways in ((cable.up_way, cable.down_way), (cable.up_way,), (cable.down_way,)):
                sessions = (await link_of(rig, "north")).session_count
                await without(ways, rig)
                number += 1
                assert (await north.publish("count", number)).level is Level.DURABLE_LOCAL
                for way in ways:
                    way.flow()
                await link_reaches(rig, "north", lambda status, old=sessions: up(status) and status.session_count > old)  # type: ignore[misc]
            number += 1
            await north.publish("count", number, level=Level.DURABLE_HUB, wait=60)
        assert await numbers_at_the_hub(rig) == list(range(1, number + 1))

        # An edge that believes silence holds a dead session for good.
        await rig.kill("north")
        await rig.start_edge("north", port=cable.port, mutant="believe-silence")
        await link_reaches(rig, "north", up)
        cable.down_way.stall()
        assert not await noticed(rig, 3 * LEASE)
    finally:
        await cable.cut()


async def without(ways: tuple[Way, ...], rig: Rig) -> None:
    """Stall the ways; returns when both sides have seen it by themselves."""
    for way in ways:
        way.stall()
    assert await noticed(rig, 30)
    await node_reaches(rig, "north", "unreachable")


async def backlog(cable: FaultyProxy, north: Client, first: int) -> None:
    """Stored while the cable is cut, for a link that then crawls; small messages, so that a batch may be of any size."""
    await cable.cut()
    for begin in range(first, first + BACKLOG, 10):
        await asyncio.gather(
            *(
                north.publish("count", number, key="count", headers={"ballast": "x" * 800})
                for number in range(begin, begin + 10)
            )
        )
    cable.up_way.rate = SLOW
    await cable.restore()


async def test_slow_lossy_duplicating_reordering_link(rig: Rig) -> None:
    cable = await cabled(rig)
    try:
        async with rig.client("north") as north:
            processes = [psutil.Process(rig.fleet.children[node].process.pid) for node in ("north", "hub")]
            before = [process.memory_info().rss for process in processes]
            await backlog(cable, north, 1)
            sessions = (await link_reaches(rig, "north", up)).session_count
            await north.publish("count", BACKLOG + 1, key="count", level=Level.DURABLE_HUB, wait=90)
            assert (await link_of(rig, "north")).session_count == sessions
            for process, rss in zip(processes, before, strict=True):
                assert process.memory_info().rss - rss < MORE_MEMORY

            cable.up_way.rate = 0
            cable.up_way.break_after = 600  # in the middle of a frame
            await north.publish("count", BACKLOG + 2, key="count", headers={"ballast": "x" * 1000})
            await north.publish("count", BACKLOG + 3, key="count", level=Level.DURABLE_HUB, wait=60)
            assert await numbers_at_the_hub(rig) == list(range(1, BACKLOG + 4))

            # A session that sends all it has credit for is given up before it has arrived, again and again.
            await rig.kill("north")
            await rig.start_edge("north", port=cable.port, mutant="send-without-bound")
            await backlog(cable, north, BACKLOG + 4)
            await link_reaches(rig, "north", up)
            assert await noticed(rig, 60)
    finally:
        await cable.cut()
