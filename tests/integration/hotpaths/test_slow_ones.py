"""Who does not read, or does not answer, costs the others nothing: a thousand of theirs take what they take alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from edgenode.api.message.v1 import message_service_pb2, message_service_pb2_grpc
from edgenode.api.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.link.wire.channels import open_channel, unix_target
from edgenode.link.wire.unread import UNREAD_BYTES
from edgenode.node.dispatch import UNSENT_BYTES
from edgenode.node.node import Node
from edgenode.sdk import Client
from tests.faults.pair import until
from tests.integration.hotpaths.test_batching import BOUNDS, Traffic, call, count, publish, task

DEAF = "deaf"
INPUT = 64 << 10
# The others' calls make slices small: each of bulk work has a write of its own.
SMALL_SLICES: dict[Traffic, dict[str, int]] = {publish: {}, call: {}, task: {"commits": 40, "hops": 40}}


def calls(skill: str, count: int) -> task_service_pb2.SubmitTasksRequest:
    spec = task_pb2.TaskSpec(skill=skill, input=bytes(INPUT), content_type="application/octet-stream")
    numbered = [task_service_pb2.Submission(correlation_id=number + 1, spec=spec, call=True) for number in range(count)]
    return task_service_pb2.SubmitTasksRequest(submissions=numbered)


@pytest.fixture
async def slow_ones(node: Node, client: Client, agents: None) -> AsyncIterator[None]:
    """A subscriber that never reads, an agent that neither reads nor answers, a caller of it, a caller that never reads."""
    async with AsyncExitStack() as open_channels:

        async def channel() -> grpc.aio.Channel:
            return await open_channels.enter_async_context(open_channel(unix_target(node.socket_path)))

        await client.publish_many("hot.path", [bytes(INPUT)] * 64)
        subscriber: Any = message_service_pb2_grpc.MessageServiceStub(await channel()).Subscribe()
        request = message_service_pb2.SubscribeRequest(credit_count=1 << 30)
        request.start.topics.append(">")
        request.start.position = message_service_pb2.START_POSITION_START
        await subscriber.write(request)
        own = await channel()
        registration = registry_service_pb2.RegisterAgentRequest(instance_id="i", incarnation=1)
        registration.card.name = DEAF
        registration.card.skills.add(id=DEAF, name=DEAF)
        await registry_service_pb2_grpc.RegistryServiceStub(own).RegisterAgent(registration)
        agent: Any = task_service_pb2_grpc.TaskServiceStub(own).WorkTasks()
        attach = task_service_pb2.WorkAttach(agent=DEAF, instance_id="i")
        await agent.write(task_service_pb2.WorkTasksRequest(attach=attach, credit_count=10_000))
        streams: list[Any] = []
        # For the deaf one more than its stream holds; of the other's answers more than may be unread.
        for skill in (DEAF, DEAF, "echo", "echo"):
            streams.append(task_service_pb2_grpc.TaskServiceStub(await channel()).SubmitTasks())
            await streams[-1].write(calls(skill, max(UNSENT_BYTES, UNREAD_BYTES) // INPUT))

        async def in_place() -> bool:
            in_flight, queued, _ = node.rooms.engine.dispatcher.load_of(DEAF)
            return in_flight > 0 and queued > 0 and len(node.rooms.engine.book.live) == in_flight + queued

        placed = await until(in_place)
        states = Counter((live.spec.skill, live.state.name) for live in node.rooms.engine.book.live.values())
        assert placed, (node.rooms.engine.dispatcher.load_of(DEAF), states)
        yield
        for stream in (subscriber, agent, *streams):
            stream.cancel()


@pytest.mark.usefixtures("slow_ones")
@pytest.mark.parametrize("traffic", [publish, call, task], ids=lambda traffic: traffic.__name__)
async def test_a_thousand_beside_slow_ones(
    traffic: Traffic, node: Node, client: Client, frames: Counter[str], counts: Counter[str]
) -> None:
    async with asyncio.timeout(60):
        (await count(traffic, node, client, frames, counts)).within(BOUNDS[traffic] | SMALL_SLICES[traffic])
    in_flight, queued, _ = node.rooms.engine.dispatcher.load_of(DEAF)
    assert in_flight > 0
    assert queued > 0
