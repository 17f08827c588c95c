"""Parent hub down: children buffer, everything within their fleets goes on, the backlog drains when it is back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgenode.link.errors import EdgenodeError
from edgenode.sdk import Client, Level, Scope, TaskHandle
from tests.faults.tree import Tree, until

pytestmark = pytest.mark.timeout(180)

MESSAGES = 300
PATIENCE = 30.0


@pytest.fixture
async def tree(folder: Path) -> AsyncIterator[Tree]:
    tree = Tree(folder)
    try:
        yield tree
    finally:
        await tree.stop()


async def outcome(handle: TaskHandle, within: float) -> object:
    try:
        return await handle.result(within)
    except (EdgenodeError, TimeoutError) as error:
        return error


async def seen_at(tree: Tree, name: str, count: int, within: float) -> Counter[int]:
    """Numbers of the messages that a hub holds, once there are `count`, or the patience ends."""
    numbers: Counter[int] = Counter()
    async with tree.rigs[name].client("hub") as hub, hub.subscribe("tree.>", position="start") as messages:
        try:
            async with asyncio.timeout(within):
                async for message in messages:
                    numbers[message.value()["number"]] += 1
                    if len(numbers) >= count:
                        break
        except TimeoutError:
            pass
    return numbers


async def scenario(tree: Tree, mutant: str = "", patience: float = PATIENCE) -> list[str]:
    """The root goes away and comes back; what is wrong with what was seen."""
    wrong: list[str] = []
    root = await tree.plant("root", "south")
    # A durable subscriber that never acknowledges holds what the root was sent.
    async with root.client("hub") as hub, hub.subscribe("tree.>", "holder", "start", auto_ack=False):
        await tree.plant("berlin", "north", "east", below="root", mutant=mutant)
        if not await tree.linked("berlin"):
            return ["the link did not come up"]
        async with tree.rigs["berlin"].client("north") as north, tree.agent("root", "south", "far"):
            # Nobody has this skill anywhere: by now the root holds it.
            stray = await north.submit("near", scope=Scope.FLEET)
            if not await until(lambda: tree.holds("root", "near"), PATIENCE):
                wrong.append("a task that nobody in the fleet fits did not go to the parent")
            await root.kill("hub")
            wrong += await without_the_root(tree, north, stray, patience)
            distant = await north.submit("far", scope=Scope.FLEET)
            await root.start_hub()
            if not await tree.linked("berlin"):
                wrong.append("the link did not come back")
            if (answer := await outcome(distant, PATIENCE)) != "south":
                wrong.append(f"the task for another subtree ended with {answer!r}")
            numbers = await seen_at(tree, "root", MESSAGES, patience)
            if missing := MESSAGES - len(numbers):
                wrong.append(f"{missing} messages never came to the root")
            if twice := [number for number, count in numbers.items() if count > 1]:
                wrong.append(f"messages {twice[:5]} came twice")

    async def settled() -> bool:
        return not await tree.unbalanced()

    if not await until(settled, PATIENCE):
        wrong += await tree.unbalanced()
    return wrong


async def without_the_root(tree: Tree, north: Client, stray: TaskHandle, patience: float) -> list[str]:
    """The child's own fleet goes on: receipts at its hub, tasks and calls between its edges."""
    wrong = []
    receipts = await asyncio.gather(
        *(north.publish("tree.reading", {"number": number}, level=Level.DURABLE_HUB) for number in range(MESSAGES))
    )
    if local := sum(receipt.level < Level.DURABLE_HUB for receipt in receipts):
        wrong.append(f"{local} messages did not come to the hub")
    async with tree.agent("berlin", "east", "near"):
        fresh = await north.submit("near", scope=Scope.FLEET)
        if (answer := await outcome(fresh, PATIENCE)) != "east":
            wrong.append(f"a task within the fleet ended with {answer!r}")
        if (answer := await outcome(stray, patience)) != "east":
            wrong.append(f"a task that the parent had ended with {answer!r}")
    return wrong


async def test_children_buffer_and_their_fleets_go_on(tree: Tree) -> None:
    assert await scenario(tree) == []


async def test_what_is_not_kept_for_the_parent_or_left_to_it_is_noticed(tree: Tree) -> None:
    wrong = await scenario(tree, "let-go-of-what-the-parent-lacks+leave-everything-to-the-parent", 8.0)
    assert any("never came to the root" in line for line in wrong), wrong
    assert any("a task that the parent had ended" in line for line in wrong), wrong
