"""Loop in the tree: the link that would close a circle is refused, and nothing circles while one is being made."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgenode.link.protocol import greeting
from edgenode.sdk import Level
from hub.store import messages
from tests.faults.tree import Tree, until
from tests.integration.hub.fake_edge import until_async
from tests.integration.hub.forest import Forest, Grown

UP = "established"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def tree(folder: Path) -> AsyncIterator[Tree]:
    tree = Tree(folder)
    try:
        yield tree
    finally:
        await tree.stop()


async def scenario(tree: Tree, mutant: str = "", patience: float = 30.0) -> list[str]:
    """Berlin is below the root; then the root is told to join berlin. What is wrong with what was seen."""
    wrong: list[str] = []
    root = await tree.plant("root")
    berlin = await tree.plant("berlin", "north", below="root", mutant=mutant)
    if not await tree.linked("berlin"):
        return ["the link did not come up"]
    await tree.join("root", "berlin")
    await root.kill("hub")
    await root.start_hub(mutant=mutant)

    async def refused() -> bool:
        return "LOOP_IN_TREE" in (await tree.link("root"), await tree.link("berlin"))

    if not await until(refused, patience):
        wrong.append("no link was refused")
    # One of the two stays; whichever it is, what is published comes to both hubs or to berlin alone, once.
    async with berlin.client("north") as north:
        await north.publish("tree.reading", {"number": 1}, level=Level.DURABLE_HUB)
    wrong += await tree.unbalanced()
    return wrong


async def test_a_circle_is_refused(tree: Tree) -> None:
    assert await scenario(tree) == []


async def test_a_circle_that_is_not_refused_is_noticed(tree: Tree) -> None:
    assert "no link was refused" in await scenario(tree, "join-whatever-comes", 5.0)


async def test_a_circle_of_three_that_is_made_at_once_breaks(folder: Path) -> None:
    forest = Forest(folder)
    names = ["one", "two", "three"]
    hubs = [forest.plant(name) for name in names]
    try:
        for hub in hubs:
            await hub.up()
        for child, parent in zip(hubs, [*hubs[1:], hubs[0]], strict=True):
            await child.below(parent, names[hubs.index(child)])
        await asyncio.gather(*(hub.stop() for hub in hubs))
        await asyncio.gather(*(hub.up() for hub in hubs))

        async def broken() -> bool:
            """Two links stand, the third is refused, and the lowest hub knows the way from the root."""
            statuses = [await hub.status() for hub in hubs]
            links = [status.parent_link for status in statuses]
            refused = [link for link in links if link.last_problem.reason == "LOOP_IN_TREE" and link.state != UP]
            depths = sorted(len(status.hub_path) for status in statuses)
            return len(refused) == 1 and sum(link.state == UP for link in links) == 2 and depths[-1] == 3

        await until_async(broken, 60)
    finally:
        await forest.close()


# --- what keeps things from circling while hubs are being joined to one: here the refusal is taken away ---------------


@pytest.fixture
async def circle(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Grown, Grown]]:
    """Two hubs, each below the other."""
    monkeypatch.setattr(greeting, "check_tree", lambda *_: None)
    folder = Path(tempfile.mkdtemp(prefix="circle-"))
    forest = Forest(folder)
    one, other = forest.plant("one"), forest.plant("other")
    try:
        for hub in (one, other):
            await hub.up()
        await one.below(other, "one")
        await other.below(one, "other")
        for hub in (one, other):
            await hub.stop()
            await hub.up()
        yield one, other
    finally:
        await forest.close()
        shutil.rmtree(folder)


async def test_messages_do_not_circle(circle: tuple[Grown, Grown]) -> None:
    one, other = circle
    edge = await one.edge("north")
    await edge.publish(*(f"reading-{number}" for number in range(10)))
    await other.messages(10)
    await known_again(one)
    assert [(await hub.status()).message_sequence for hub in circle] == [10, 10]


async def test_messages_that_nobody_knows_again_do_circle(
    circle: tuple[Grown, Grown], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_known_entries", lambda *_: 0)
    one, _ = circle
    edge = await one.edge("north")
    await edge.publish("reading")
    assert (await one.messages(2))[1].origin_node == "other/one/north"


async def test_a_task_does_not_circle(circle: tuple[Grown, Grown]) -> None:
    one, other = circle
    edge = await one.edge("north")
    await edge.offer("task-1", "nobody.can")

    async def come_round() -> bool:
        return bool((await one.ledger())["tasks", ""].duplicate_count)

    await until_async(come_round, 20)
    assert [(await hub.ledger())["tasks", ""].produced_count for hub in circle] == [1, 1]
    # The circle breaks and somebody comes who can: the task is still there to be done.
    edge.register("late", "nobody.can")
    await other.stop()
    assert (await edge.granted())[0].task_id == "task-1"


async def known_again(hub: Grown) -> None:
    """Wait until entries came back to the hub and were known."""

    async def seen() -> bool:
        lines = await hub.ledger()
        return sum(line.dropped_counts.get("KNOWN_FROM_OLDER_EPOCH", 0) for line in lines.values()) == 10

    await until_async(seen, 20)
