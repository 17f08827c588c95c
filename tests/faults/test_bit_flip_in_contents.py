"""Bits that flip within what is stored, where SQLite does not notice: in tasks of edge and hub, and in the hub's message log.

Nothing of it is handed out as if it were right: no agent gets such a task, whoever waits for one is told TASK_DAMAGED, and the
hub's readers are told of a gap. Everything else goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgenode.link.errors import EdgenodeError
from edgenode.link.store.seals import TASK_DAMAGED
from edgenode.sdk import Agent, Client, Level, Scope, TaskHandle
from edgenode.sdk.subscription import Gap
from tests.faults.fleet import Rig
from tests.faults.oracle import ledger_lines

pytestmark = pytest.mark.timeout(150)

COUNT = 4
HIT = 2  # the number of what is hit of each kind
TOPIC = "flip.numbers"
FILLING = "filling"
FLIPPED = "fillinf"  # with another last bit


def text(kind: str, number: int) -> str:
    """What only one message, input or result holds."""
    return f"{kind}-{number}-{FILLING}"


@dataclass
class Seen:
    """What agents were given, what became of each job, and what the hub's log holds."""

    given: list[str] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)  # the result or the reason, by job
    messages: list[str] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)


async def what_is_seen_after_flips(rig: Rig, mutant: str = "") -> Seen:
    """An edge and its hub are stopped, one bit of one of each kind of contents flips, and they go on."""
    seen = Seen()
    await rig.make_hub()
    await rig.start_hub(mutant=mutant)
    await rig.join("north")
    await rig.start_edge("north", mutant=mutant)
    jobs: dict[str, str] = {}
    async with rig.client("north") as north:
        async with agents(north, seen, "now"):
            for number in range(COUNT):
                handle = await north.submit("now", {"job": f"result-{number}"})
                assert await handle.result(30) == text("result", number)
                jobs[text("result", number)] = handle.task_id
        for number in range(COUNT):
            await north.publish(TOPIC, text("message", number), level=Level.DURABLE_HUB, wait=30)
            for skill, scope in (("local", Scope.LOCAL), ("fleet", Scope.FLEET)):
                level = Level.DURABLE_HUB if scope is Scope.FLEET else Level.DURABLE_LOCAL
                job = text(skill, number)
                handle = await north.submit(skill, {"job": job}, scope=scope, wait_level=level, wait=30)
                assert handle.level >= level
                jobs[job] = handle.task_id
    seen.given.clear()
    await asyncio.gather(*(rig.fleet.children[node].stop() for node in ("north", "hub")))
    flip(rig.fleet.state("north") / "node.db", "local", "result")
    flip(rig.fleet.state("hub") / "edgehub.db", "fleet", "message")
    await asyncio.gather(rig.start_hub(mutant=mutant), rig.start_edge("north", mutant=mutant))
    async with rig.client("north") as north, agents(north, seen, "local", "fleet"):
        await asyncio.gather(*(outcome(seen, job, north.task(task_id)) for job, task_id in jobs.items()))
    await read_the_hubs_log(rig, seen)
    for node in ("north", "hub"):
        async with rig.client(node) as client:
            assert all(line.balanced for line in await ledger_lines(client, node))
    return seen


def flip(store: Path, *kinds: str) -> None:
    """Flip one bit in each copy of the contents that are hit; pages that were moved leave copies that nobody reads."""
    data = store.read_bytes()
    for kind in kinds:
        whole = text(kind, HIT).encode()
        assert whole in data
        data = data.replace(whole, whole.replace(FILLING.encode(), FLIPPED.encode()))
    store.write_bytes(data)


@asynccontextmanager
async def agents(client: Client, seen: Seen, *skills: str) -> AsyncIterator[None]:
    """An agent for the skills, which says what it was given."""
    agent = Agent("worker", concurrency=16)

    async def work(job: str) -> str:
        seen.given.append(job)
        return f"{job}-{FILLING}" if job.startswith("result") else job

    for skill in skills:
        agent.skill(skill)(work)
    attached = asyncio.Event()
    running = asyncio.create_task(agent.attach(client, lambda _node: attached.set()))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.wait, [running])
        stack.callback(running.cancel)
        stack.push_async_callback(agent.stop, grace=0)
        await asyncio.wait_for(attached.wait(), 30)
        yield


async def outcome(seen: Seen, job: str, task: TaskHandle) -> None:
    try:
        seen.ended[job] = str(await task.result(60))
    except EdgenodeError as error:
        seen.ended[job] = error.reason if error.problem.hint else f"{error.reason} without a hint"


async def read_the_hubs_log(rig: Rig, seen: Seen) -> None:
    def missing() -> int:
        return sum(gap.last - gap.first + 1 for gap in seen.gaps)

    async with (
        rig.client("hub") as client,
        client.subscribe([TOPIC], position="start", on_gap=seen.gaps.append) as messages,
        asyncio.timeout(30),
    ):
        async for message in messages:
            seen.messages.append(message.value())
            if len(seen.messages) + missing() >= COUNT:
                break


async def test_bits_flipped_in_tasks_and_in_the_hubs_messages(rig: Rig) -> None:
    seen = await what_is_seen_after_flips(rig)
    hit = {text(kind, HIT) for kind in ("local", "fleet", "result")}
    assert {job: ended for job, ended in seen.ended.items() if job in hit} == dict.fromkeys(hit, TASK_DAMAGED)
    assert all(ended == job for job, ended in seen.ended.items() if job not in hit)
    rest = [number for number in range(COUNT) if number != HIT]
    assert sorted(seen.given) == sorted(text(kind, number) for kind in ("local", "fleet") for number in rest)
    assert seen.messages == [text("message", number) for number in rest]
    assert [(gap.last - gap.first + 1, gap.reason) for gap in seen.gaps] == [(1, "DAMAGED")]


async def test_without_checksums_flipped_bits_are_handed_out(rig: Rig) -> None:
    seen = await what_is_seen_after_flips(rig, "trust-segments+trust-tasks")
    flipped = {kind: text(kind, HIT).replace(FILLING, FLIPPED) for kind in ("local", "fleet", "result", "message")}
    assert {flipped["local"], flipped["fleet"]} < set(seen.given)
    assert seen.ended[text("result", HIT)] == flipped["result"]
    assert flipped["message"] in seen.messages
