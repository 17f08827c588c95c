"""Ack lost: resend, dedup. Hub killed before and after commit: same cursor."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from edgenode.link.failpoints import Failpoint
from edgenode.sdk import Client, Level
from tests.faults.fleet import Rig
from tests.faults.hub_log import link_reaches, numbers_at_the_hub, up
from tests.faults.oracle import ledger_lines

pytestmark = pytest.mark.timeout(300)


class Publisher:
    """Numbers from `first`, one after the other, asking for the hub's receipt of each, for as long as it runs."""

    def __init__(self, rig: Rig, first: int = 1) -> None:
        self.first = first
        self.sent = 0
        self.receipts: list[int] = []  # numbers that were DURABLE_HUB
        self._rig = rig
        self._over = False
        self.first_receipt = asyncio.Event()

    async def run(self) -> None:
        async with self._rig.client("north") as client, asyncio.TaskGroup() as group:
            while not self._over:
                group.create_task(self._publish(client, self.first + self.sent))
                self.sent += 1
                await asyncio.sleep(0.005)

    async def _publish(self, client: Client, number: int) -> None:
        receipt = await client.publish("count", number, key="count", level=Level.DURABLE_HUB, wait=90)
        if receipt.level >= Level.DURABLE_HUB:
            self.receipts.append(number)
            self.first_receipt.set()

    def stop(self) -> None:
        self._over = True


async def missing_at_a_hub_alone(rig: Rig, publisher: Publisher) -> set[int]:
    """Receipts that are not true, as the hub stands without any edge's help."""
    receipts = set(publisher.receipts)
    await rig.kill("north")
    await rig.start_hub()
    return receipts - set(await numbers_at_the_hub(rig))


POINTS = (Failpoint.BATCH_RECEIVED, Failpoint.BATCH_COMMITTED)


async def test_hub_killed_before_and_after_commit(rig: Rig) -> None:
    await rig.start("north")
    publisher = Publisher(rig)
    running = asyncio.create_task(publisher.run())
    try:
        for point in POINTS:
            await rig.kill("hub")
            await rig.start_hub(failpoint=f"{point.value}:4")
            await rig.died("hub", 60)
            assert await missing_at_a_hub_alone(rig, publisher) == set()
            await rig.start_edge("north")
            await link_reaches(rig, "north", up)
        publisher.stop()
        await asyncio.wait_for(running, 60)
        assert len(publisher.receipts) == publisher.sent
        assert await numbers_at_the_hub(rig) == list(range(1, publisher.sent + 1))
        await same_cursor(rig)

        # A hub that says so before it commits is found out.
        liar = Publisher(rig, first=1_000_000)
        await rig.kill("hub")
        await rig.start_hub(mutant="acknowledge-before-the-hub-commits")
        running = asyncio.create_task(liar.run())
        await asyncio.wait_for(liar.first_receipt.wait(), 60)
        await rig.kill("hub")
        assert await missing_at_a_hub_alone(rig, liar)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def same_cursor(rig: Rig) -> None:
    """What north's ledger says was delivered is what the hub's says was applied."""
    async with rig.client("north") as north, rig.client("hub") as hub:
        delivered = next(
            line.delivered_count for line in await ledger_lines(north, "north") if line.hop == "message.uplink"
        )
        applied = sum(
            line.delivered_count
            for line in await ledger_lines(hub, "hub")
            if line.hop == "message.uplink" and line.peer == "north"
        )
    assert delivered == applied


async def test_ack_lost(rig: Rig) -> None:
    await rig.start("north")
    publisher = Publisher(rig)
    running = asyncio.create_task(publisher.run())
    try:
        await rig.kill("hub")
        await rig.start_hub(failpoint=f"{Failpoint.ACK_DUE.value}:4")
        await rig.died("hub", 60)
        await rig.start_hub()
        publisher.stop()
        await asyncio.wait_for(running, 60)
        assert await numbers_at_the_hub(rig) == list(range(1, publisher.sent + 1))

        # A hub that forgets how far it came stores what is sent again.
        again = Publisher(rig, first=1_000_000)
        running = asyncio.create_task(again.run())
        await rig.kill("hub")
        await rig.start_hub(mutant="forget-the-cursor", failpoint=f"{Failpoint.ACK_DUE.value}:4")
        await rig.died("hub", 60)
        await rig.start_hub(mutant="forget-the-cursor")
        again.stop()
        await asyncio.wait_for(running, 60)
        assert max(Counter(await numbers_at_the_hub(rig)).values()) > 1
    finally:
        running.cancel()
        await asyncio.wait([running])
