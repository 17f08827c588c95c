"""Cloned edge: two processes on copies of one state directory, with one identity and one history.

Both hold the same backlog when they part, and then accept work of their own. They must be found out, kept out without
flapping, work on for their agents, and be let in one after the other by the commands that the refusal names; and at the end
the hub must have everything that either of them acknowledged, once.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.cli.demo.fleet import EDGEHUB, EDGENODE
from edgenode.link.errors import Internal
from edgenode.link.store import logs
from edgenode.sdk import Client, Level
from tests.faults.fleet import Rig
from tests.faults.pair import Pair

pytestmark = pytest.mark.timeout(300)

COPIES = ("north", "twin")
WITHIN = 60.0


async def link(client: Client) -> admin_pb2.LinkStatus:
    stub = admin_service_pb2_grpc.AdminServiceStub(client.channel)
    answer: admin_service_pb2.GetStatusResponse = await stub.GetStatus(admin_service_pb2.GetStatusRequest())
    return answer.link


async def kept_out(rig: Rig, copies: tuple[str, ...]) -> list[str]:
    """Wait until every copy is refused as a clone, and so that it does not come back soon; what is wrong with that."""
    async with asyncio.timeout(WITHIN):
        while True:
            links = []
            for copy in copies:
                async with rig.client(copy) as client:
                    links.append(await link(client))
            sessions = sum(status.session_count for status in links)
            if sessions > 2 * len(copies):
                return [f"they flap: {sessions} sessions"]
            if all(
                status.last_problem.reason == "CLONED_IDENTITY" and status.next_dial_duration.seconds > 10
                for status in links
            ):
                return []
            await asyncio.sleep(0.05)


async def publish(rig: Rig, node: str, *topics: str, level: Level = Level.DURABLE_LOCAL) -> list[str]:
    return await publish_by(rig.client(node), *topics, level=level)


async def publish_to(pair: Pair, *topics: str, level: Level = Level.DURABLE_LOCAL) -> list[str]:
    return await publish_by(pair.client("edge"), *topics, level=level)


async def publish_by(opened: Client, *topics: str, level: Level) -> list[str]:
    async with opened as client:
        for topic in topics:
            await client.publish(f"clone.{topic}", {}, level=level, wait=WITHIN)
    return list(topics)


async def at_hub(opened: Client, last: str, within: float) -> Counter[str]:
    """What the hub has, up to `last`."""
    found: Counter[str] = Counter()
    async with opened as client, client.subscribe("clone.>", position="start") as messages:
        try:
            async with asyncio.timeout(within):
                async for message in messages:
                    topic = message.topic.removeprefix("clone.")
                    found[topic] += 1
                    if topic == last:
                        break
        except TimeoutError:
            pass
    return found


async def rejoin(rig: Rig, state: str) -> None:
    """What the refusal tells to do for the copy that is to stay."""
    hub = str(rig.fleet.state("hub"))
    made = await rig.fleet.run(EDGEHUB, "token", "create", "north", "--rejoin", "--state", hub, "-o", "json")
    where = ["--state", str(rig.fleet.state(state)), "--hub", rig.fleet.enroll_address]
    await rig.fleet.run(EDGENODE, "join", *where, "--token", json.loads(made)["token"])


async def refused(rig: Rig, node: str, reason: str) -> None:
    """Wait until the hub refuses an edge for that reason. Raises TimeoutError."""
    async with asyncio.timeout(WITHIN), rig.client(node) as client:
        while True:
            if (await link(client)).last_problem.reason == reason:
                return
            await asyncio.sleep(0.05)


async def part(rig: Rig) -> list[str]:
    """An edge with a backlog that the hub has not seen, and its copy, both up; what they acknowledged."""
    await rig.start("north")
    published = await publish(rig, "north", "first", level=Level.DURABLE_HUB)
    await rig.fleet.children["hub"].stop()
    published += await publish(rig, "north", "shared-1", "shared-2")
    await rig.fleet.children["north"].stop()
    shutil.copytree(rig.fleet.state("north"), rig.fleet.state("twin"))
    for copy in COPIES:
        await rig.start_edge(copy)
    published += await publish(rig, "north", *(f"north-{number}" for number in range(5)))
    published += await publish(rig, "twin", *(f"twin-{number}" for number in range(3)))
    await rig.start_hub()
    return published


async def drain(rig: Rig, published: list[str]) -> list[str]:
    """Let the copies in one after the other, as the refusal says; what is wrong at the end."""
    for copy in COPIES:
        await rig.fleet.children[copy].stop()
    for copy in COPIES:
        await rejoin(rig, copy)
        await rig.start_edge(copy)
        published += await publish(rig, copy, f"{copy}-end", level=Level.DURABLE_HUB)
        await rig.fleet.children[copy].stop()
    found = await at_hub(rig.client("hub"), published[-1], WITHIN / 3)
    lost = [topic for topic in published if not found[topic]]
    twice = [topic for topic, count in found.items() if count > 1]
    return [f"lost: {lost}"] * bool(lost) + [f"twice: {twice}"] * bool(twice)


async def test_cloned_edge(rig: Rig) -> None:
    published = await part(rig)
    assert await kept_out(rig, COPIES) == []
    hub = str(rig.fleet.state("hub"))
    with pytest.raises(Internal, match="failed"):  # exit code 7
        await rig.fleet.run(EDGEHUB, "nodes", "show", "north", "--state", hub)
    assert "quarantined" in await rig.fleet.run(EDGEHUB, "nodes", "--state", hub)
    for copy in COPIES:
        shown = await rig.fleet.run(EDGENODE, "status", "--state", str(rig.fleet.state(copy)))
        assert "CLONED_IDENTITY" in shown
        assert "edgehub nodes release north" in shown
        published += await publish(rig, copy, f"{copy}-meanwhile")
    assert await drain(rig, published) == []
    await rig.fleet.run(EDGEHUB, "ledger", "--state", hub)

    # The copy that was let in first is outdated by the other's certificate: refused, and working for its agents.
    await rig.start_edge("north")
    await publish(rig, "north", "local")
    await refused(rig, "north", "STALE_GENERATION")


@pytest.mark.parametrize("protected", [True, False])
async def test_copies_that_go_on_under_one_epoch_are_caught(
    folder: Path, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """Two copies that are up one after the other, so that nobody finds them out: only the keys of their entries differ."""
    if not protected:
        monkeypatch.setattr(logs, "open_log", logs.ensure_log)
    pair = Pair(folder)
    try:
        await pair.start()
        published = await publish_to(pair, "first", level=Level.DURABLE_HUB)
        await pair.stop_hub()
        published += await publish_to(pair, "shared")
        await pair.stop_edge()
        original, copy = pair.edge_state, folder / "twin"
        shutil.copytree(original, copy)
        for state, topics in ((original, ["north-1", "north-2", "north-3"]), (copy, ["twin-1", "twin-2"])):
            pair.edge_state = state
            await pair.start_edge()
            published += await publish_to(pair, *topics)
            await pair.stop_edge()
        await pair.start_hub()
        for state, topic in ((original, "north-end"), (copy, "twin-end")):
            pair.edge_state = state
            await pair.start_edge()
            published += await publish_to(pair, topic, level=Level.DURABLE_HUB)
            await pair.stop_edge()
        found = await at_hub(pair.client("hub"), "twin-end", within=10.0 if protected else 1.0)
        assert (found == Counter(published)) is protected
    finally:
        await pair.stop()
