"""A thousand awaited at once share frames, commits and hops. Counted, not timed: what costs is a gRPC message, an fsync or a
wake-up, and one of them for each item would make any of these paths ten times slower.

The bounds are for the whole thousand, client, node and agents together. They stand at about 1.6 times what was counted, the
most of many runs on busy machines, so that noise passes and what doubles a cost does not.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgenode.link.protocol.lanes import LaneSender
from edgenode.link.store.writes import WriteQueue
from edgenode.node.node import Node
from edgenode.node.work import FRAME_BYTES, FrameQueue
from edgenode.sdk import Client
from tests.faults.pair import Pair, until
from tests.integration.hotpaths.counting import (
    Bill,
    bill,
    count_hops,
    count_link_frames,
    count_turns,
    functions,
    memory,
)

COUNT = 1000
PAYLOAD = bytes(256)

Traffic = Callable[[Client], Awaitable[None]]


async def publish(client: Client) -> None:
    receipts = await asyncio.gather(*(client.publish("hot.path", PAYLOAD) for _ in range(COUNT)))
    assert len({receipt.sequence for receipt in receipts}) == COUNT


async def publish_topics(client: Client) -> None:
    receipts = await asyncio.gather(*(client.publish(f"hot.path-{number}", PAYLOAD) for number in range(COUNT)))
    assert len({receipt.sequence for receipt in receipts}) == COUNT


async def publish_many(client: Client) -> None:
    receipts = await client.publish_many("hot.path", [PAYLOAD] * COUNT)
    assert len({receipt.sequence for receipt in receipts}) == COUNT


async def call(client: Client) -> None:
    answers = await asyncio.gather(*(client.call("echo", PAYLOAD) for _ in range(COUNT)))
    assert answers == [PAYLOAD] * COUNT


async def task(client: Client) -> None:
    async def one() -> bytes:
        handle = await client.submit("echo", PAYLOAD)
        result: bytes = await handle.result()
        return result

    assert await asyncio.gather(*(one() for _ in range(COUNT))) == [PAYLOAD] * COUNT


async def deliver(client: Client) -> None:
    """What was published before the subscription, acknowledged one by one, as `async for` does."""
    async with client.subscribe("hot.path", name="reader", position="start") as messages:
        for _ in range(COUNT):
            assert (await anext(messages)).payload == PAYLOAD


BOUNDS: dict[Traffic, dict[str, int]] = {
    publish: {"frames": 7, "commits": 3, "hops": 3, "turns": 50},
    publish_many: {"frames": 7, "commits": 3, "hops": 3, "turns": 32},
    call: {"frames": 100, "turns": 260},
    task: {"frames": 80, "commits": 24, "hops": 24, "turns": 460},
    deliver: {"frames": 5, "commits": 3, "hops": 9, "turns": 80},
}
PEAKS: dict[Traffic, int] = {publish: 2_700_000, publish_many: 1_100_000, call: 6_000_000, task: 9_000_000}  # bytes
FUNCTIONS: dict[Traffic, int] = {call: 50, task: 76}  # of the node, for each
ALIKE: dict[Traffic, int] = {publish: 5_800, publish_topics: 5_800, publish_many: 500}  # with the program, for all
KEPT = COUNT // 2  # blocks that may stay: were a thing forgotten for each item, it would be a thousand at least

BACKLOG, SEGMENT = 8 * 1024, 64
DRAINED = {"frames": 80, "commits": 30, "hops": 140, "turns": 700}


async def count(traffic: Traffic, node: Node, client: Client, *counters: Counter[str]) -> Bill:
    """What a thousand cost once everything is warm."""
    await (publish_many if traffic is deliver else traffic)(client)
    with bill(*counters, commits=lambda: node.rooms.database.commits) as spent:
        await traffic(client)
    return spent


@pytest.mark.usefixtures("agents")
@pytest.mark.parametrize("traffic", BOUNDS, ids=lambda traffic: traffic.__name__)
async def test_a_thousand(
    traffic: Traffic, node: Node, client: Client, frames: Counter[str], counts: Counter[str]
) -> None:
    spent = await count(traffic, node, client, frames, counts)
    spent.within(BOUNDS[traffic])
    if traffic is call:
        assert spent.items["commits"] == spent.items["hops"] == 0


@pytest.mark.usefixtures("agents")
@pytest.mark.parametrize("traffic", FUNCTIONS, ids=lambda traffic: traffic.__name__)
async def test_functions_of_a_thousand(traffic: Traffic, client: Client) -> None:
    """How many functions of the node one passes through. Nearly the same on every machine, so the bounds are close."""
    await traffic(client)
    with functions(
        "edgenode/node/", "edgenode/link/protocol/", "edgenode/link/store/", "edgenode/link/wire/"
    ) as counted:
        await traffic(client)
    assert counted["WorkStream.assign"] == COUNT
    assert counted.total() <= FUNCTIONS[traffic] * COUNT, counted.most_common(20)


@pytest.mark.parametrize("traffic", ALIKE, ids=lambda traffic: traffic.__name__)
async def test_functions_of_a_thousand_alike(traffic: Traffic, client: Client) -> None:
    """Of messages alike but for topic and payload the node looks at none by itself; nor does a program that publishes many."""
    await traffic(client)
    with functions("edgenode/") as counted:
        await traffic(client)
    assert counted.total() <= ALIKE[traffic], counted.most_common(20)


@pytest.fixture
def deadlines_forgotten_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of deadlines that are over a program keeps up to a thousand, which is a bound, and hides a leak here."""
    monkeypatch.setattr("edgenode.sdk.deadlines._LEAST", 16)


@pytest.mark.usefixtures("deadlines_forgotten_soon", "agents")
@pytest.mark.parametrize("traffic", PEAKS, ids=lambda traffic: traffic.__name__)
async def test_memory_of_a_thousand(traffic: Traffic, node: Node, client: Client) -> None:
    await traffic(client)
    with memory() as measured:
        await traffic(client)
    assert measured.peak <= PEAKS[traffic]

    async def forgotten() -> bool:  # agents hear a little later that their results have arrived
        return measured.kept() <= KEPT

    assert await until(forgotten), measured.kept()


@pytest.mark.usefixtures("agents")
async def test_a_burst_of_calls_goes_in_parts(frames: Counter[str], client: Client) -> None:
    """So that client, node and agents work at the same time; a few calls stay together."""
    assert await client.call("echo", PAYLOAD) == PAYLOAD
    for some, sent in ((16, 1), (48, 3)):
        frames.clear()
        await asyncio.gather(*(client.call("echo", PAYLOAD) for _ in range(some)))
        assert frames["Submitter sent"] == sent


async def test_a_backlog_drains(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edge and hub in this process, mutual TLS between them; the hub's start is in it."""
    (await drain(folder, monkeypatch)).within(DRAINED)


async def drain(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bill:
    """What it costs that a backlog of BACKLOG messages goes to a hub."""
    counts, frames = Counter[str](), count_link_frames(monkeypatch)
    count_hops(monkeypatch, counts)
    count_turns(monkeypatch, counts)
    pair = Pair(folder)
    try:
        await pair.start()
        await pair.stop_hub()
        edge = pair.edge
        assert edge is not None
        drained = asyncio.Event()

        def advanced(position: int) -> None:
            if position >= BACKLOG:
                drained.set()

        async with pair.client("edge") as client:
            for _ in range(BACKLOG // SEGMENT):
                await client.publish_many("hot.path", [PAYLOAD] * SEGMENT)
        edge.rooms.messages.on_hub_advance.add(advanced)
        with bill(frames, counts, commits=lambda: edge.rooms.database.commits) as spent:
            await pair.start_hub()
            await asyncio.wait_for(drained.wait(), 60)
        return spent
    finally:
        await pair.stop()


# --- that the counting counts: each batch taken away, or made smaller, and the cost that tells -------------------------


def _one_assignment_a_frame(self: FrameQueue, assignment: bytes, load: int, *, prompt: bool) -> None:
    _assign(self, assignment, FRAME_BYTES, prompt=prompt)


_assign = FrameQueue.assign


MUTANTS: dict[str, tuple[Traffic, str, Any, str]] = {
    "smaller frames of messages": (publish, "edgenode.sdk.publisher.MAX_FRAME_COUNT", 125, "frames"),
    "smaller frames, many at once": (publish_many, "edgenode.sdk.publisher.MAX_FRAME_COUNT", 125, "frames"),
    "smaller frames of calls": (call, "edgenode.sdk.submitter.MAX_FRAME_COUNT", 16, "frames"),
    "smaller frames of tasks": (task, "edgenode.sdk.submitter.MAX_FRAME_COUNT", 8, "frames"),
    "a frame for each assignment": (task, "edgenode.node.work.FrameQueue.assign", _one_assignment_a_frame, "frames"),
    "smaller frames to a subscriber": (deliver, "edgenode.link.wire.subscriptions.FRAME_COUNT", 100, "frames"),
    "smaller credits of a subscriber": (deliver, "edgenode.sdk.subscription.CREDITS", 64, "frames"),
}


@pytest.mark.usefixtures("agents")
@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_lost_batch_shows(
    mutant: str,
    node: Node,
    client: Client,
    frames: Counter[str],
    counts: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traffic, target, value, cost = MUTANTS[mutant]
    monkeypatch.setattr(target, value)
    spent = await count(traffic, node, client, frames, counts)
    assert spent.items[cost] > BOUNDS[traffic][cost], spent.items


@pytest.mark.usefixtures("agents")
async def test_commits_that_take_one_write_show(
    node: Node, client: Client, frames: Counter[str], counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgenode.sdk.submitter.MAX_FRAME_COUNT", 32)  # there must be something to put together
    monkeypatch.setattr(WriteQueue, "take", lambda self: [self._others.popleft()])
    spent = await count(task, node, client, frames, counts)
    assert spent.items["commits"] > BOUNDS[task]["commits"], spent.items


async def test_a_link_that_sends_segment_by_segment_shows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LaneSender, "bounds", lambda self, count, size: (1, size))
    spent = await drain(folder, monkeypatch)
    assert spent.items["frames"] > DRAINED["frames"]
