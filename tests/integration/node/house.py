"""A real node on a short temporary directory, and stubs to it over its Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from edgenode.api.admin.v1.admin_service_pb2_grpc import AdminServiceStub
from edgenode.api.message.v1 import message_pb2, message_service_pb2
from edgenode.api.message.v1.message_service_pb2_grpc import MessageServiceStub
from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2
from edgenode.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from edgenode.link.errors import EdgenodeError
from edgenode.link.wire.status import from_rpc_error
from edgenode.node.config import NodeConfig
from edgenode.node.node import Node

Batch = message_service_pb2.PublishRequest
Subscribe = message_service_pb2.SubscribeRequest
Start = message_service_pb2.SubscribeStart


@contextlib.contextmanager
def short_directory() -> Any:
    """A directory whose sockets have short paths."""
    directory = Path(tempfile.mkdtemp(prefix="en"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class House:
    """A running node and its stubs."""

    def __init__(self, node: Node, channel: grpc.aio.Channel) -> None:
        self.node = node
        self.channel = channel
        self.registry: Any = RegistryServiceStub(channel)
        self.messages: Any = MessageServiceStub(channel)
        self.admin: Any = AdminServiceStub(channel)

    async def register(self, name: str = "device", **fields: Any) -> registry_pb2.Agent:
        fields = {"instance_id": "i1", "incarnation": 1, **fields}
        skills = [registry_pb2.Skill(id=skill) for skill in fields.pop("skills", ("code.metrics",))]
        card = registry_pb2.AgentCard(name=name, description=fields.pop("description", ""), skills=skills)
        request = registry_service_pb2.RegisterAgentRequest(card=card, **fields)
        response: registry_service_pb2.RegisterAgentResponse = await self.registry.RegisterAgent(request, timeout=10)
        return response.agent

    async def find(self, **fields: Any) -> registry_service_pb2.FindAgentsResponse:
        return await self.registry.FindAgents(registry_service_pb2.FindAgentsRequest(**fields), timeout=10)  # type: ignore[no-any-return]


@contextlib.asynccontextmanager
async def house(directory: Path, **settings: Any) -> AsyncIterator[House]:
    node = Node(NodeConfig(**{"state_dir": directory, "node": "north", "drain_seconds": 0.2, **settings}))
    await node.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{node.socket_path}") as channel:
            yield House(node, channel)
    finally:
        await node.stop()


def messages(*payloads: str, topic: str = "device.cpu") -> message_pb2.MessageBatch:
    return message_pb2.MessageBatch(
        messages=[message_pb2.Message(topic=topic, payload=payload.encode()) for payload in payloads]
    )


async def eventually(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; it must within 10 s."""
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


class Stream:
    """A client's bidi stream; every wait has an end."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, request: Any) -> None:
        async with asyncio.timeout(10):
            await self.call.write(request)

    async def read(self) -> Any:
        """The next frame; None at the end. Raises the error that ended the stream."""
        try:
            async with asyncio.timeout(10):
                frame = await self.call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return None if frame is grpc.aio.EOF else frame

    async def read_until(self, done: Callable[[Any], bool]) -> list[Any]:
        """Frames up to the first that is `done`."""
        frames = []
        while True:
            frame = await self.read()
            assert frame is not None, "the stream ended early"
            frames.append(frame)
            if done(frame):
                return frames

    async def error(self) -> EdgenodeError:
        """What ends the stream, after any frames."""
        try:
            while await self.read() is not None:
                pass
        except EdgenodeError as error:
            return error
        raise AssertionError("the stream ended well")


@contextlib.asynccontextmanager
async def stream(method: Any, *requests: Any) -> AsyncIterator[Stream]:
    call = method()
    try:
        opened = Stream(call)
        for request in requests:
            await opened.send(request)
        yield opened
    finally:
        call.cancel()


@contextlib.asynccontextmanager
async def publishing(h: House, producer: str, **fields: Any) -> AsyncIterator[tuple[Stream, int]]:
    """A publish stream and where its producer stands."""
    async with stream(h.messages.Publish, Batch(producer_id=producer, **fields)) as publisher:
        yield publisher, (await publisher.read()).resume_sequence


async def publish(h: House, producer: str, first: int, *payloads: str, topic: str = "device.cpu") -> None:
    """Publish one frame and wait until it is durable."""
    async with publishing(h, producer) as (publisher, _):
        await publisher.send(Batch(first_sequence=first, batch=messages(*payloads, topic=topic)))
        last = first + len(payloads) - 1
        await publisher.read_until(lambda frame: frame.durable_local_sequence >= last)


async def received(subscriber: Stream, count: int) -> list[message_pb2.ReceivedMessage]:
    """The next `count` messages."""
    found: list[message_pb2.ReceivedMessage] = []
    while len(found) < count:
        frame = await subscriber.read()
        assert frame is not None, "the stream ended early"
        found.extend(frame.messages)
    return found


def payloads(found: Sequence[message_pb2.ReceivedMessage]) -> list[str]:
    return [item.message.payload.decode() for item in found]
