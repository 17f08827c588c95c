"""Entries, registry, loads and best-effort frames over a link."""

import asyncio
import random
from collections.abc import Sequence

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import ResourceExhausted
from edgenode.link.model.frames import AgentLoad
from edgenode.link.model.lanes import Lane
from edgenode.link.protocol.registry import RegistryLog
from tests.integration.link.memory import MemoryInbox
from tests.integration.link.rig import Hub, Rig, eventually, fill, linked

BOTH = (Lane.TASK, Lane.MESSAGE)


def _has(inbox: MemoryInbox, count: int, lanes: Sequence[Lane] = BOTH) -> bool:
    return all(len(inbox.entries[lane]) >= count for lane in lanes)


async def drained(rig: Rig, expected: int) -> None:
    """Until both sides have applied and heard acknowledged `expected` entries per lane."""
    north = rig.hub.side("north")
    for inbox, outbox in ((north.inbox, rig.edge.side.outbox), (rig.edge.side.inbox, north.outbox)):
        await eventually(_has, inbox, expected, timeout=30)
        await eventually(lambda outbox: outbox.pending() == 0, outbox, timeout=30)


async def test_ten_thousand_entries_both_ways_across_cuts_arrive_once_and_in_order() -> None:
    chance = random.Random(5)
    async with linked() as rig:
        north = rig.hub.side("north")
        sent: dict[Lane, list[bytes]] = {lane: [] for lane in BOTH}
        for start in range(0, 10_000, 500):
            for lane in BOTH:
                sent[lane] += fill(rig.edge.side.outbox, lane, start, 500, segment=25)
                fill(north.outbox, lane, start, 500, segment=25)
            if start % 2000 == 0:
                await eventually(lambda: rig.edge.up)
                await asyncio.sleep(chance.random() * 0.02)
                rig.proxy.cut()
            await asyncio.sleep(0)
        await drained(rig, 10_000)
        for lane in BOTH:
            assert north.inbox.entries[lane] == sent[lane]
            assert rig.edge.side.inbox.entries[lane] == sent[lane]
        assert rig.edge.end.status().session_count > 3
        assert north.inbox.overlaps == rig.edge.side.inbox.overlaps == 0


async def test_what_is_appended_later_flows_at_once() -> None:
    async with linked() as rig:
        for number in range(20):
            fill(rig.edge.side.outbox, Lane.TASK, number, 1)
            await eventually(_has, rig.hub.side("north").inbox, number + 1, (Lane.TASK,))


async def test_a_backlog_from_before_the_link_flows() -> None:
    hub = Hub()
    sent = fill(hub.side("north").outbox, Lane.MESSAGE, 0, 3000)
    async with linked(hub) as rig:
        await eventually(lambda: rig.edge.side.inbox.entries[Lane.MESSAGE] == sent)


async def test_a_lane_whose_store_is_held_up_does_not_hold_up_the_other() -> None:
    async with linked() as rig:
        north = rig.hub.side("north")
        apply = north.inbox.apply
        held = asyncio.Event()

        async def slow(lane: Lane, *rest: object) -> object:
            if lane is Lane.TASK:
                await held.wait()
            return await apply(lane, *rest)  # type: ignore[arg-type]

        north.inbox.apply = slow  # type: ignore[method-assign,assignment]
        fill(rig.edge.side.outbox, Lane.TASK, 0, 100)
        sent = fill(rig.edge.side.outbox, Lane.MESSAGE, 0, 2000)
        await eventually(lambda: north.inbox.entries[Lane.MESSAGE] == sent)
        assert north.inbox.entries[Lane.TASK] == []
        assert rig.edge.side.outbox.logs[Lane.TASK].acked == 0
        held.set()
        await eventually(lambda: rig.edge.side.outbox.pending() == 0)
        assert len(north.inbox.entries[Lane.TASK]) == 100


async def test_no_acknowledgement_before_the_commit() -> None:
    async with linked() as rig:
        north = rig.hub.side("north")
        north.inbox.gate.clear()
        fill(rig.edge.side.outbox, Lane.TASK, 0, 10)
        await eventually(lambda: Lane.TASK in north.inbox.applying)
        rig.proxy.cut()
        await eventually(lambda: rig.edge.side.events.problems)
        assert rig.edge.side.outbox.logs[Lane.TASK].acked == 0
        north.inbox.gate.set()
        await eventually(lambda: rig.edge.side.outbox.pending() == 0)
        assert len(north.inbox.entries[Lane.TASK]) == 10


async def test_a_rejected_entry_is_told_and_the_lane_goes_on() -> None:
    hub = Hub()
    hub.side("north").inbox = MemoryInbox(frozenset({b"2:7", b"2:1234"}))
    async with linked(hub) as rig:
        fill(rig.edge.side.outbox, Lane.TASK, 0, 2000)
        await eventually(lambda: rig.edge.side.outbox.pending() == 0)
        assert rig.edge.side.outbox.rejections[Lane.TASK] == [8, 1235]
        assert len(hub.side("north").inbox.entries[Lane.TASK]) == 1998


async def test_a_store_that_fails_ends_the_session_and_the_next_one_goes_on() -> None:
    async with linked() as rig:
        north = rig.hub.side("north")
        north.inbox.failure = OSError("disk")
        fill(rig.edge.side.outbox, Lane.TASK, 0, 10)
        await eventually(lambda: north.events.problems)
        assert north.events.problems[0].reason == "LINK_DEFECT"
        assert rig.edge.side.outbox.logs[Lane.TASK].acked == 0
        north.inbox.failure = None
        await eventually(lambda: rig.edge.side.outbox.pending() == 0)


async def test_a_full_store_holds_up_its_lane_and_nothing_else() -> None:
    async with linked() as rig:
        north = rig.hub.side("north")
        apply = north.inbox.apply
        refusals: list[Lane] = []

        async def full(lane: Lane, *rest: object) -> object:
            if lane is Lane.MESSAGE and len(refusals) < 3:
                refusals.append(lane)
                raise ResourceExhausted("STORE_FULL", "full", retry_after=0.05)
            return await apply(lane, *rest)  # type: ignore[arg-type]

        north.inbox.apply = full  # type: ignore[method-assign,assignment]
        fill(rig.edge.side.outbox, Lane.MESSAGE, 0, 100)
        fill(rig.edge.side.outbox, Lane.TASK, 0, 100)
        await eventually(lambda: rig.edge.side.outbox.pending() == 0)
        assert (len(refusals), len(north.inbox.entries[Lane.MESSAGE])) == (3, 100)
        assert north.events.problems == rig.edge.side.events.problems == []


async def test_the_registry_travels_and_changes_follow() -> None:
    registry = RegistryLog("registry-epoch")
    registry.put("nodes/north/agents/early", 1, b"")
    async with linked(registry=registry) as rig:
        replica = rig.hub.replicas["north"]
        await eventually(lambda: set(replica.entries) == {"nodes/north/agents/early"})
        registry.put("nodes/north/agents/late", 1, b"")
        rig.edge.end.registry_changed()
        await eventually(lambda: "nodes/north/agents/late" in replica.entries)
        registry.remove("nodes/north/agents/early", 1)
        rig.edge.end.registry_changed()
        await eventually(lambda: set(replica.entries) == {"nodes/north/agents/late"})
        assert (replica.epoch, replica.version) == ("registry-epoch", 3)


async def test_loads_are_reported() -> None:
    async with linked() as rig:
        rig.edge.end.report_loads([AgentLoad("reader", 2, 5)])
        await eventually(lambda: AgentLoad("reader", 2, 5) in rig.hub.side("north").events.loads)


async def test_best_effort_frames_pass_both_ways_in_order() -> None:
    async with linked() as rig:
        north = rig.hub.side("north")
        up, down = rig.edge.end.connection, rig.hub.end.connections["north"]
        assert up is not None
        assert up.peer.node == "hub"
        assert (down.peer.node, down.peer.generation, down.peer.software) == ("north", 7, "edgenode/test")
        assert up.fence == down.fence == 1
        for number in range(50):
            frame = sync_pb2.Frame(calls=sync_pb2.CallBatch(cancel_call_ids=[number]))
            assert up.send(frame)
            assert down.send(frame)
        for side in (north, rig.edge.side):
            await eventually(lambda events: len(events.calls) == 50, side.events)
            assert [batch.cancel_call_ids[0] for batch in side.events.calls] == list(range(50))


async def test_best_effort_frames_are_refused_without_a_session_or_when_too_many_wait() -> None:
    async with linked() as rig:
        up = rig.edge.end.connection
        assert up is not None
        frame = sync_pb2.Frame(notices=sync_pb2.NoticeBatch())
        accepted = 0
        while up.send(frame):  # nothing is written before this task waits
            accepted += 1
            assert accepted <= 1024
        assert accepted == 1024
        assert rig.edge.side.events.rooms == 0
        await eventually(lambda: rig.edge.side.events.rooms == 1)  # once for all who were refused
        await eventually(lambda: len(rig.hub.side("north").events.notices) == 1024)
        await rig.hub.stop()
        await eventually(lambda: not up.established)
        assert not up.send(frame)
