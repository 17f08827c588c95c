"""Poison, oversize, unknown type: that item is dead-lettered, the rest proceeds, on every hop.

The poison is laid into the stores of a stopped edge and a stopped hub, behind the backs of both, as a newer or broken peer
would have left it there; then they run.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from edgenode.api.message.v1 import message_pb2, message_service_pb2, message_service_pb2_grpc
from edgenode.api.registry.v1 import registry_service_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.cli.demo.fleet import EDGEHUB, EDGENODE
from edgenode.link.errors import EdgenodeError
from edgenode.link.model.lanes import Segment
from edgenode.link.store import logs
from edgenode.link.wire.channels import MAX_MESSAGE_BYTES, open_channel, unix_target
from edgenode.node import message_log
from edgenode.sdk import Agent, Level, TaskState
from tests.faults.fleet import Rig

pytestmark = pytest.mark.timeout(180)

UNREADABLE = b"\xff\xff\xff no protobuf"
NEWER_KIND = b"\xfa\x07\x02\x08\x01"  # field 127 of an entry, which nobody knows today


def entries(*kinds: sync_pb2.TaskEntry | bytes) -> Segment:
    """A segment of task entries; bytes are an entry as a newer version would write it."""
    batch = sync_pb2.TaskEntryBatch()
    for kind in kinds:
        batch.entries.add().MergeFromString(kind if isinstance(kind, bytes) else kind.SerializeToString())
    return Segment(len(kinds), batch.SerializeToString(), 1.0)


def lay(
    store: Path, name: str, segments: list[Segment], also: Callable[[sqlite3.Connection], None] | None = None
) -> None:
    """Append to a log of a store that nobody has open."""
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    logs.append(connection, logs.log_state(connection, name).log_id, segments)
    if also is not None:
        also(connection)
    connection.execute("COMMIT")
    connection.close()


async def letters(rig: Rig, command: list[str], node: str, *options: str) -> list[dict[str, Any]]:
    where = ["--state", str(rig.fleet.state(node)), "-o", "json"]
    return json.loads(await rig.fleet.run(command, "deadletters", "list", *where, *options))  # type: ignore[no-any-return]


async def verify(rig: Rig) -> None:
    """Every ledger must add up, on both sides of the link; raises when one does not."""
    await rig.fleet.run(EDGENODE, "ledger", "verify", "--state", str(rig.fleet.state("north")))
    await rig.fleet.run(EDGEHUB, "ledger", "verify", "--all", "--state", str(rig.fleet.state("hub")))


def echo() -> Agent:
    made = Agent("echo")

    @made.skill("echo")
    async def say(text: str) -> str:
        return text

    return made


async def flows(rig: Rig, within: float = 40.0) -> None:
    """New work goes up and down and comes back: a message to the hub, and a task from the hub to north and its end."""
    async with asyncio.timeout(within), rig.client("north") as north, rig.client("hub") as hub:
        serving = asyncio.create_task(echo().run(socket=rig.fleet.socket("north")))
        try:
            receipt = await north.publish("site.fresh", "x", level=Level.DURABLE_HUB, wait=within)
            if receipt.level is not Level.DURABLE_HUB:
                raise TimeoutError("the message lane is stuck")
            handle = await hub.submit("echo", {"text": "hi"})
            if await handle.result() != "hi":
                raise TimeoutError("the task lane brought another's result")
        finally:
            serving.cancel()
            await asyncio.wait([serving])


async def poisoned(rig: Rig) -> None:
    """A hub and north, both stopped, with poison in every log between them."""
    await rig.start("north")
    await flows(rig)
    for node in ("north", "hub"):
        await rig.fleet.children[node].stop()
    wrong_way = sync_pb2.TaskEntry(grant=sync_pb2.TaskGrant(task_id="t", fence=1))
    up = [Segment(2, UNREADABLE, 1.0), entries(NEWER_KIND, wrong_way), Segment(3, entries(NEWER_KIND).payload, 1.0)]
    lay(rig.fleet.state("north") / "node.db", "up/task", up)
    messages = [Segment(3, UNREADABLE, 1.0)]
    lay(
        rig.fleet.state("north") / "node.db",
        "messages",
        messages,
        lambda connection: logs.count(connection, message_log.PRODUCED, message_log.STORED, 3),
    )
    offered = sync_pb2.TaskEntry(offer=sync_pb2.TaskOffer(task_id="t"))
    absurd = sync_pb2.TaskEntry(grant=sync_pb2.TaskGrant(task_id="absurd", fence=1))
    absurd.grant.spec.skill = "echo"
    absurd.grant.submit_time.seconds = 1 << 60
    newer_state = sync_pb2.TaskEntry()
    newer_state.report.task.task_id = "t"
    newer_state.report.task.state = 99  # type: ignore[assignment]
    down = [Segment(2, UNREADABLE, 1.0), entries(NEWER_KIND, offered, absurd, newer_state)]
    lay(rig.fleet.state("hub") / "edgehub.db", "down/north/task", down)


async def test_poison_is_dead_lettered_and_every_lane_goes_on(rig: Rig) -> None:
    await poisoned(rig)
    await rig.start_hub()
    await rig.start_edge("north")
    await flows(rig)

    async with asyncio.timeout(60):
        while True:
            # Seven that went up, and five that came down: the grant among those went elsewhere by itself.
            if len(await letters(rig, EDGENODE, "north")) >= 7 and len(await letters(rig, EDGEHUB, "hub")) >= 5:
                break
            await asyncio.sleep(0.1)
    for letter in await letters(rig, EDGENODE, "north"):
        assert (letter["kind"], letter["lane"], letter["problem"]["reason"]) == ("entry", "task", "BAD_ENTRY")
    assert {letter["node"] for letter in await letters(rig, EDGEHUB, "hub")} == {"north"}
    assert len(await letters(rig, EDGEHUB, "hub", "--node", "north")) == 7
    await verify(rig)
    gaps: list[Any] = []
    async with (
        asyncio.timeout(20),
        rig.client("hub") as hub,
        hub.subscribe("site.>", position="start", on_gap=gaps.append) as subscription,
    ):
        topics = [(await anext(subscription)).topic for _ in range(2)]
    assert topics == ["site.fresh"] * 2
    assert [(gap.last - gap.first + 1, gap.reason) for gap in gaps] == [(3, "UNREADABLE")]


async def test_what_is_too_large_for_the_other_side_ends_by_itself(rig: Rig) -> None:
    """An input beyond the hub's bound fails its task at its origin; a frame as large as an edge takes one crosses the link."""
    await rig.make_hub()
    await rig.start_hub()
    await rig.join("north")
    await rig.start_edge("north", environment={"EDGENODE_MAX_INPUT_BYTES": str(4 << 20)})
    async with rig.client("north") as north:
        # The SDK has the usual bound of its own: this is a client without it.
        spec = task_pb2.TaskSpec(skill="nobody.has", input=b"x" * (2 << 20), scope=registry_service_pb2.SCOPE_FLEET)
        stub: Any = task_service_pb2_grpc.TaskServiceStub(north.channel)
        large = north.task((await stub.SubmitTask(task_service_pb2.SubmitTaskRequest(spec=spec))).task.task_id)
        with pytest.raises(EdgenodeError) as refused:
            await large.result(30)
        assert refused.value.reason == "INPUT_TOO_LARGE"
        assert TaskState((await north.get_task(large.task_id)).state) is TaskState.FAILED
    await publish_the_largest_frame(rig)
    await flows(rig)
    await verify(rig)


async def publish_the_largest_frame(rig: Rig) -> None:
    """One PublishRequest to the byte that the node's socket takes."""
    batch = message_pb2.MessageBatch()
    while batch.ByteSize() < MAX_MESSAGE_BYTES - (256 << 10):
        batch.messages.add(topic="site.large", payload=b"x" * (255 << 10))
    request = message_service_pb2.PublishRequest(producer_id="p", first_sequence=1, batch=batch)
    last = request.batch.messages.add(topic="site.large")
    last.payload = b"x" * (MAX_MESSAGE_BYTES - request.ByteSize() - 8)
    while request.ByteSize() > MAX_MESSAGE_BYTES:
        last.payload = last.payload[:-1]
    channel = open_channel(unix_target(rig.fleet.socket("north")))
    try:
        stream = message_service_pb2_grpc.MessageServiceStub(channel).Publish()
        await stream.write(request)
        count = len(request.batch.messages)
        async with asyncio.timeout(30):
            while (answer := await stream.read()) is not grpc.aio.EOF:
                if answer.durable_local_sequence == count:
                    break
        stream.cancel()
    finally:
        await channel.close()


async def test_without_room_for_its_envelope_the_largest_frame_stays(rig: Rig) -> None:
    await rig.make_hub()
    await rig.start_hub(mutant="one-bound-for-sockets-and-links")
    await rig.join("north")
    await rig.start_edge("north", mutant="one-bound-for-sockets-and-links")
    await publish_the_largest_frame(rig)
    with pytest.raises(TimeoutError):
        await flows(rig, within=4.0)


@pytest.mark.parametrize("side", ["hub", "north"])
async def test_without_isolation_the_lane_is_stuck(rig: Rig, side: str) -> None:
    mutant = "one-bad-entry-ends-the-batch"
    await poisoned(rig)
    await rig.start_hub(mutant=mutant if side == "hub" else "")
    await rig.start_edge("north", mutant=mutant if side == "north" else "")
    with pytest.raises(TimeoutError):
        await flows(rig, within=4.0)
