"""`scripts/flood`: an edge, and a hub, flooded by each way in, by clients that send without reading and faster than the disk.

The disk stands still where it is what should hold the flood up, so nothing hangs on how fast it is. A flood has come to its
end when all of it was taken, or when the node has answered STILL health checks without taking more of it. What is looked at
is the memory of the process: it may grow by COPIES times what the bounds of that way in add up to (what is held exists as it
came, as it is kept, and as SQLite or gRPC takes it on), and by SLACK; the allocator keeps large blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil

from edgenode.api.message.v1 import message_pb2, message_service_pb2
from edgenode.api.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.cli.demo.fleet import EDGENODE
from edgenode.link.wire import subscriptions, unread
from edgenode.link.wire.channels import open_channel, unix_target
from edgenode.node import dispatch, publishing, tasks
from edgenode.sdk.credentials import Issuer
from tests.faults.disk.control import Disk
from tests.faults.fleet import Rig, command_of

MIB = 1 << 20
COPIES = 3
SLACK = 40 * MIB
STILL = 100
OFFERED = 96 * MIB
PUBLISH = "/edgenode.api.message.v1.MessageService/Publish"
SUBSCRIBE = "/edgenode.api.message.v1.MessageService/Subscribe"
SUBMIT = "/edgenode.api.task.v1.TaskService/SubmitTasks"
WORK = "/edgenode.api.task.v1.TaskService/WorkTasks"
CHUNK = 512 << 10  # of an input or result
_SUBSCRIBERS = 4


@dataclass(slots=True)
class Memory:
    """Resident memory of a process, by the second, in bytes."""

    process: psutil.Process
    before: int = 0
    most: int = 0
    began: float = 0.0
    seconds: list[int] = field(default_factory=list)

    def begin(self) -> None:
        """What it is now is what it had before."""
        self.before = self.most = self._now()
        self.began = time.monotonic()
        self.seconds = []

    def look(self) -> None:
        """Note what it is now."""
        now = self._now()
        self.most = max(self.most, now)
        while len(self.seconds) <= time.monotonic() - self.began:
            self.seconds.append(now)
        self.seconds[-1] = max(self.seconds[-1], now)

    @property
    def growth(self) -> int:
        """The most it had beyond what it had before."""
        return self.most - self.before

    def _now(self) -> int:
        return int(self.process.memory_info().rss)


class Stream:
    """A raw stub's stream: it sends bytes; what comes back waits in the transport until `read`."""

    def __init__(self, node: Edge, method: str) -> None:
        self._channel = node.channel()
        self._call: Any = self._channel.stream_stream(method)()
        self.sent = 0  # bytes that the transport took
        self.over = False  # all was taken, or the node has ended the stream
        self.sending: asyncio.Task[None] | None = None

    async def send(self, frames: Iterable[Any]) -> None:
        """Send all, or until the node ends the stream."""
        try:
            for frame in frames:
                data = frame if isinstance(frame, bytes) else frame.SerializeToString()
                await self._call.write(data)
                self.sent += len(data)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return
        finally:
            self.over = True

    async def read(self, kind: Any) -> AsyncIterator[Any]:
        """What the node sends, as messages."""
        while (data := await self._call.read()) is not grpc.aio.EOF:
            yield kind.FromString(data)

    async def close(self) -> None:
        """Gone, without a word."""
        self._call.cancel()
        if self.sending is not None:
            await asyncio.wait([self.sending])
        await self._channel.close()


class Edge:
    """An edge in a process of its own that joined a hub which is not there, on a disk under control."""

    def __init__(self, folder: Path, mutant: str, offered: int) -> None:
        self.offered = offered  # bytes of a flood, or a share or a multiple of it
        self.rig = Rig(folder)
        self.state = folder / "north"
        self.state.mkdir(mode=0o700)
        Issuer().join(self.state, "north", "hub", "127.0.0.1:1")
        self.disk = Disk(self.state, folder / "control")
        self.memory: Memory
        self._command = command_of(EDGENODE, mutant)
        self._streams: list[Stream] = []
        self._agents = 0

    async def start(self) -> None:
        """Run it."""
        environment = {
            "EDGENODE_LOG_LEVEL": "warning",
            "EDGENODE_RECONNECT_MIN_SECONDS": "300",
            "EDGENODE_STORE_BYTES": str(max(16 * self.offered, 1 << 30)),
        }
        child = await self.rig.fleet.spawn(
            "north",
            self._command,
            *("run", "--state", str(self.state)),
            environment={**self.rig.environment, **self.disk.environment, **environment},
        )
        await child.ready()
        self.memory = Memory(psutil.Process(child.process.pid))
        self._own = self.channel()
        self._health: Any = self._own.unary_unary("/grpc.health.v1.Health/Check")

    async def stop(self) -> None:
        """Kill it."""
        await self.calm()
        await self._own.close()
        await self.rig.stop()
        self.disk.close()

    def channel(self) -> grpc.aio.Channel:
        """A connection of its own."""
        return open_channel(unix_target(self.state / "edgenode.sock"))

    def stream(self, method: str) -> Stream:
        """Open until the flood is over."""
        stream = Stream(self, method)
        self._streams.append(stream)
        return stream

    async def calm(self) -> None:
        """The flood is over."""
        self.disk.stand_still(False)
        while self._streams:
            await self._streams.pop().close()

    async def flood(self, stream: Stream, frames: Iterable[Any]) -> None:
        """Send frames until all are taken, or no more are; what is left is sent on as soon as the node goes on."""
        stream.over = False
        stream.sending = asyncio.create_task(stream.send(frames))
        await self.until(lambda: stream.over, lambda: stream.sent)

    async def until(self, over: Callable[[], bool], come: Callable[[], int]) -> None:
        """Watch the memory until it is `over`, or the node has answered STILL times while what has `come` was the same."""
        still, last = 0, -1
        while not over() and still < STILL:
            await self._health(b"")
            self.memory.look()
            now = come()
            still, last = (still + 1, last) if now == last else (0, now)

    async def agent(self, credits: int = 10_000) -> tuple[str, Stream]:
        """(skill, stream) of an agent that attached and is not read."""
        self._agents += 1
        name = f"agent-{self._agents}"
        request = registry_service_pb2.RegisterAgentRequest(instance_id="i", incarnation=1)
        request.card.name = name
        request.card.skills.add(id=name, name=name)
        await registry_service_pb2_grpc.RegistryServiceStub(self._own).RegisterAgent(request)
        stream = self.stream(WORK)
        attach = task_service_pb2.WorkAttach(agent=name, instance_id="i")
        await stream.send([task_service_pb2.WorkTasksRequest(attach=attach, credit_count=credits)])
        return name, stream


# --- what is sent -----------------------------------------------------------------------------------------------------


def batches(producer: str, offered: int, count: int, size: int, topic: str = "flood") -> Iterator[bytes]:
    """Frames of `count` messages of `size` bytes, `offered` bytes in all."""
    message = message_pb2.Message(topic=topic, payload=bytes(size))
    batch = message_service_pb2.PublishRequest(batch=message_pb2.MessageBatch(messages=[message] * count))
    body = batch.SerializeToString()
    for number in range(max(offered // len(body), 1)):
        first = message_service_pb2.PublishRequest(producer_id=producer, first_sequence=number * count + 1)
        yield first.SerializeToString() + body


def submissions(skill: str, offered: int, count: int, size: int, **fields: Any) -> Iterator[Any]:
    """Frames of `count` tasks or calls with inputs of `size` bytes, `offered` bytes in all, one frame at least."""
    spec = task_pb2.TaskSpec(skill=skill, input=bytes(size), content_type="application/octet-stream")
    for number in range(max(offered // (size * count), 1)):
        yield task_service_pb2.SubmitTasksRequest(
            submissions=[
                task_service_pb2.Submission(correlation_id=number * count + index + 1, spec=spec, **fields)
                for index in range(count)
            ]
        )


def giving_up(frames: Iterable[Any]) -> Iterator[Any]:
    """The same, each of them cancelled with the next frame."""
    for number, frame in enumerate(frames):
        if number:
            frame.cancel_correlation_ids.append(number)
        yield frame


def result(key: task_service_pb2.AttemptKey) -> task_service_pb2.WorkTasksRequest:
    """A large one."""
    frame = task_service_pb2.WorkTasksRequest()
    made = frame.results.add(key=key, state=task_pb2.TASK_STATE_COMPLETED)
    made.output.data, made.output.content_type = bytes(CHUNK), "application/octet-stream"
    return frame


# --- the ways in ------------------------------------------------------------------------------------------------------


async def _publish_one(edge: Edge) -> None:
    """Frames of one message, the disk stands still."""
    edge.disk.stand_still()
    await edge.flood(edge.stream(PUBLISH), batches("one", edge.offered, 1, 4096))


async def _publish_many(edge: Edge) -> None:
    """Full frames, the disk stands still; then it goes on, and all that was sent is acknowledged."""
    edge.disk.stand_still()
    stream, sent = edge.stream(PUBLISH), list(batches("many", edge.offered, 16, 60_000))
    await edge.flood(stream, sent)
    edge.disk.stand_still(False)
    async for response in stream.read(message_service_pb2.PublishResponse):
        edge.memory.look()
        if response.durable_local_sequence == 16 * len(sent):
            return
    raise AssertionError("the stream ended before all was acknowledged")


async def _publish_refused(edge: Edge) -> None:
    """Messages that are refused, and nobody reads why."""
    await edge.flood(edge.stream(PUBLISH), batches("refused", edge.offered // 32, 1024, 64, "no topic"))


async def _submit(edge: Edge) -> None:
    """Tasks, the disk stands still."""
    edge.disk.stand_still()
    await edge.flood(edge.stream(SUBMIT), submissions("nobody", edge.offered, 16, 60_000, want_outcome=True))


async def _call(edge: Edge) -> None:
    """Calls that are refused, and nobody reads why."""
    await edge.flood(edge.stream(SUBMIT), submissions("nobody", edge.offered // 128, 512, 16, call=True))


async def _deaf_agent(edge: Edge) -> None:
    """Calls that are given up at once, for an agent that never reads what it is sent, and has much credit."""
    skill, _ = await edge.agent()
    await edge.flood(edge.stream(SUBMIT), giving_up(submissions(skill, edge.offered, 1, CHUNK, call=True)))


async def _silent_agent(edge: Edge) -> None:
    """Calls to an agent that never answers."""
    skill, _ = await edge.agent(1)
    await edge.flood(edge.stream(SUBMIT), submissions(skill, 3 * edge.offered, 1, CHUNK, call=True))


async def _loud_agent(edge: Edge) -> None:
    """Large results, the disk stands still."""
    attempts = [attempt async for attempt in _attempts(edge, call=False)]
    edge.disk.stand_still()
    await edge.flood(attempts[0][1], (result(key) for key, _ in attempts))


async def _results_unread(edge: Edge) -> None:
    """Large results of tasks, for a submitter that never reads."""
    await _answer_all(edge, call=False)


async def _answers_unread(edge: Edge) -> None:
    """Large answers of calls, for a caller that never reads."""
    await _answer_all(edge, call=True)


async def _answer_all(edge: Edge, *, call: bool) -> None:
    async for key, agent in _attempts(edge, call=call):
        await agent.send([result(key)])
        edge.memory.look()
    await edge.until(lambda: False, lambda: edge.memory.most)


async def _attempts(edge: Edge, *, call: bool) -> AsyncIterator[tuple[Any, Stream]]:
    """What an agent is given of a submitter that never reads, with the agent's stream."""
    skill, agent = await edge.agent()
    wanted = (5 if call else 2) * edge.offered // (2 * CHUNK)
    frame = min(wanted, 512)
    left = wanted - wanted % frame
    await edge.stream(SUBMIT).send(submissions(skill, left, frame, 1, call=call, want_outcome=not call))
    async for response in agent.read(task_service_pb2.WorkTasksResponse):
        for assignment in response.assignments:
            yield assignment.key, agent
            left -= 1
        if not left:
            return


async def _subscribers(edge: Edge) -> None:
    """Subscribers that never read, with all the credit there is, while much is published."""
    for _ in range(_SUBSCRIBERS):
        request = message_service_pb2.SubscribeRequest(credit_count=(1 << 31) - 1)
        request.start.topics.append(">")
        await edge.stream(SUBSCRIBE).send([request])
    await edge.flood(edge.stream(PUBLISH), batches("for-the-deaf", edge.offered // 2, 16, 60_000))


@dataclass(frozen=True, slots=True)
class Way:
    """A way in: how it is flooded, and what the bounds of what is held there add up to, in bytes."""

    flood: Callable[[Edge], Awaitable[None]]
    bound: int

    @property
    def limit(self) -> int:
        """What the process may grow by."""
        return COPIES * self.bound + SLACK


WAYS = {
    "publish": Way(_publish_one, publishing.MAX_BYTES_IN_FLIGHT),
    "publish-many": Way(_publish_many, publishing.MAX_BYTES_IN_FLIGHT),
    "publish-refused": Way(_publish_refused, publishing.MAX_REJECTIONS_HELD * 512),
    "submit": Way(_submit, unread.UNCOMMITTED_BYTES),
    "call": Way(_call, unread.UNREAD_BYTES),
    "deaf-agent": Way(_deaf_agent, dispatch.UNSENT_BYTES),
    "silent-agent": Way(_silent_agent, tasks.MAX_CALL_BYTES + unread.UNREAD_BYTES),
    "loud-agent": Way(_loud_agent, unread.UNCOMMITTED_BYTES),
    "results-unread": Way(_results_unread, unread.UNCOMMITTED_BYTES + unread.UNREAD_BYTES),
    "answers-unread": Way(_answers_unread, unread.UNREAD_CALL_BYTES),
    "subscribers": Way(
        _subscribers,
        publishing.MAX_BYTES_IN_FLIGHT + _SUBSCRIBERS * (subscriptions.CHUNK_BYTES + subscriptions.FRAME_BYTES),
    ),
}


@contextlib.asynccontextmanager
async def flooded(folder: Path, mutant: str = "", offered: int = OFFERED) -> AsyncIterator[Edge]:
    """An edge that runs; `offered`: bytes of a flood, about."""
    edge = Edge(folder, mutant, offered)
    await edge.start()
    try:
        yield edge
    finally:
        await edge.stop()


async def flood(edge: Edge, name: str) -> Memory:
    """Flood it by one way in."""
    edge.memory.begin()
    try:
        await WAYS[name].flood(edge)
    finally:
        await edge.calm()
    return edge.memory
