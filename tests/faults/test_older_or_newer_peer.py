"""Older or newer peer: the version is negotiated, what is not known is passed over or carried on, and refusals say why.

A newer peer says more than we know: other fields, other frames, higher versions. Fields of what we carry for others
(messages, tasks, cards) arrive where they were meant to; frames we do not know are ignored; of two ranges of versions the
highest common one counts. Where there is none, the hub is to be upgraded first, and the edge works on for its agents.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message as AnyMessage

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.message.v1 import message_pb2, message_service_pb2, message_service_pb2_grpc
from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.sync.v1 import sync_pb2, sync_service_pb2, sync_service_pb2_grpc
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.link.errors import InvalidArgument
from edgenode.link.parent.identity import load_identity
from edgenode.link.protocol.greeting import Greeting
from edgenode.link.protocol.session import SessionConfig
from edgenode.link.wire.channels import ChannelSettings, open_channel
from edgenode.link.wire.frames import frame_from_pb
from edgenode.sdk import Level
from hub.store.messages import SqliteMessageStore
from tests.faults.pair import Pair, until

pytestmark = pytest.mark.timeout(60)

FUTURE = b"from-the-future"
# Field 2000, length-delimited, as a newer version of any message might have it.
UNKNOWN_FIELD = bytes([0x82, 0x7D, len(FUTURE)]) + FUTURE

M = TypeVar("M", bound=AnyMessage)


def newer(message: M) -> M:
    """The message as a newer version would send it: with a field that is not known here."""
    made = type(message).FromString(message.SerializeToString() + UNKNOWN_FIELD)
    assert FUTURE in made.SerializeToString()
    return made


@pytest.fixture
async def pair(folder: Path) -> AsyncIterator[Pair]:
    made = Pair(folder)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


# --- a newer edge -----------------------------------------------------------------------------------------------------


class NewerEdge:
    """A stream to the hub, spoken by hand."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, frame: sync_pb2.Frame) -> None:
        await self._call.write(sync_service_pb2.SyncRequest(frames=[frame]))

    async def hear(self, kind: str) -> Any:
        """The next frame of a kind; None when the hub said goodbye or hung up first."""
        try:
            while isinstance(response := await self._call.read(), sync_service_pb2.SyncResponse):
                for frame in response.frames:
                    if frame.WhichOneof("frame") == kind:
                        return getattr(frame, kind)
        except Exception:  # the stream ended with a status, which `refusal` reads
            return None
        return None

    async def greet(self, lowest: int, highest: int) -> Any:
        head = sync_pb2.LaneHead(lane=sync_pb2.LANE_MESSAGE, epoch="newer", first_sequence=1, last_sequence=1)
        credit = sync_pb2.LaneCredit(lane=sync_pb2.LANE_TASK, added_bytes=1 << 20, added_count=100)
        hello = sync_pb2.Hello(
            node="north",
            boot_id="newer",
            generation=1,
            heads=[newer(head)],
            credits=[newer(credit)],
            min_protocol_version=lowest,
            max_protocol_version=highest,
        )
        await self.send(newer(sync_pb2.Frame(hello=newer(hello))))
        return await self.hear("welcome" if lowest <= 1 else "go_away")

    async def says_what_nobody_knows(self) -> bool:
        """Frames of another kind, and known ones with more in them; whether the hub still answers."""
        await self.send(sync_pb2.Frame.FromString(UNKNOWN_FIELD))
        message = newer(message_pb2.Message(topic="newer.topic", payload=b"{}"))
        payload = newer(message_pb2.MessageBatch(messages=[message])).SerializeToString()
        batch = sync_pb2.Batch(
            lane=sync_pb2.LANE_MESSAGE,
            epoch="newer",
            base_sequence=1,
            segments=[newer(sync_pb2.Segment(entry_count=1, payload=payload))],
        )
        await self.send(sync_pb2.Frame(batch=newer(batch)))
        ack = await self.hear("ack")
        return ack is not None and ack.sequence == 1


@asynccontextmanager
async def newer_edge(pair: Pair) -> AsyncIterator[NewerEdge]:
    """In place of the pair's edge."""
    await pair.stop_edge()
    identity = load_identity(pair.edge_state)
    assert identity is not None
    assert pair.hub is not None
    settings = ChannelSettings(server_name=identity.server_name)
    address = f"127.0.0.1:{pair.hub.sync_port}"
    async with open_channel(address, identity.channel_credentials(), settings=settings) as channel:
        call = sync_service_pb2_grpc.SyncServiceStub(channel).Sync()
        try:
            yield NewerEdge(call)
        finally:
            call.cancel()


async def at_hub(pair: Pair, topic: str) -> bytes:
    """The first message of a topic as a subscriber of the hub gets it, whatever is in it."""
    async with pair.client("hub") as client:
        call = message_service_pb2_grpc.MessageServiceStub(client.channel).Subscribe()
        start = message_service_pb2.SubscribeStart(topics=[topic], position="START_POSITION_START")
        await call.write(message_service_pb2.SubscribeRequest(start=start, credit_count=10))
        while not (response := await call.read()).messages:
            pass
        call.cancel()
        return bytes(response.messages[0].message.SerializeToString())


async def test_older_or_newer_peer(pair: Pair) -> None:
    async with newer_edge(pair) as edge:
        welcome = await edge.greet(1, 9)
        assert welcome.protocol_version == 1
        assert await edge.says_what_nobody_knows()
    assert FUTURE in await at_hub(pair, "newer.topic")


async def test_a_peer_of_another_version_range_is_told_why(pair: Pair) -> None:
    async with newer_edge(pair) as edge:
        refusal = await edge.greet(2, 9)
    assert refusal.problem.reason == "PROTOCOL_VERSION"
    assert "1-1" in refusal.problem.message
    assert "2-9" in refusal.problem.message
    assert "hub first" in refusal.problem.hint


async def test_unknown_kinds_that_end_the_session_are_caught(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def strict(message: sync_pb2.Frame) -> Any:
        if message.WhichOneof("frame") is None:
            raise InvalidArgument("UNKNOWN_FRAME", "a frame of no kind that is known here")
        return frame_from_pb(message)

    monkeypatch.setattr("edgenode.link.wire.driver.frame_from_pb", strict)
    async with newer_edge(pair) as edge:
        await edge.greet(1, 9)
        assert not await edge.says_what_nobody_knows()


async def test_payloads_that_are_read_and_written_anew_are_caught(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SqliteMessageStore._new_segments

    def meddling(self: SqliteMessageStore, *arguments: Any) -> Any:
        segments, *rest = honest(self, *arguments)
        for segment in segments:
            batch = message_pb2.MessageBatch.FromString(segment.payload)
            batch.DiscardUnknownFields()
            object.__setattr__(segment, "payload", batch.SerializeToString())
        return segments, *rest

    monkeypatch.setattr(SqliteMessageStore, "_new_segments", meddling)
    async with newer_edge(pair) as edge:
        await edge.greet(1, 9)
        assert await edge.says_what_nobody_knows()
    assert FUTURE not in await at_hub(pair, "newer.topic")


async def test_versions_that_are_not_compared_are_caught(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Greeting, "_agree", lambda _self, _lowest, highest: highest)
    async with newer_edge(pair) as edge:
        welcome = await edge.greet(1, 9)
        assert welcome.protocol_version == 9, "which nobody here speaks"


# --- a newer agent, through an edge and a hub that know less ----------------------------------------------------------


async def test_what_an_agent_says_beyond_what_is_known_arrives(pair: Pair) -> None:
    async with pair.client("edge") as client:
        call = message_service_pb2_grpc.MessageServiceStub(client.channel).Publish()
        message = newer(message_pb2.Message(topic="agent.topic", payload=b"{}"))
        batch = message_pb2.MessageBatch(messages=[message])
        await call.write(message_service_pb2.PublishRequest(producer_id="p", first_sequence=1, batch=batch))
        while (await call.read()).durable_local_sequence < 1:
            pass
        call.cancel()
        card = newer(registry_pb2.AgentCard(name="new", skills=[newer(registry_pb2.Skill(id="work"))]))
        registry = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
        await registry.RegisterAgent(
            registry_service_pb2.RegisterAgentRequest(request_id="r", card=card, instance_id="i", incarnation=1)
        )
        tasks = task_service_pb2_grpc.TaskServiceStub(client.channel)
        spec = newer(task_pb2.TaskSpec(skill="nobody.can", input=b"{}", scope="SCOPE_FLEET"))
        task = (await tasks.SubmitTask(task_service_pb2.SubmitTaskRequest(request_id="t", spec=spec))).task
    assert FUTURE in await at_hub(pair, "agent.topic")
    async with pair.client("hub") as client:
        registry = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
        tasks = task_service_pb2_grpc.TaskServiceStub(client.channel)

        async def listed() -> bool:
            answer = await registry.ListAgents(registry_service_pb2.ListAgentsRequest())
            return [agent.card.SerializeToString().count(FUTURE) for agent in answer.agents] == [2]

        async def offered() -> bool:
            answer = await tasks.ListTasks(task_service_pb2.ListTasksRequest())
            if [each.task_id for each in answer.tasks] != [task.task_id]:
                return False
            found = await tasks.GetTask(task_service_pb2.GetTaskRequest(task_id=task.task_id))
            return FUTURE in found.task.spec.SerializeToString()

        assert await until(listed)
        assert await until(offered)


# --- a newer hub ------------------------------------------------------------------------------------------------------


async def test_the_hub_is_upgraded_first_and_an_edge_that_is_too_old_works_on(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused() -> bool:
        async with pair.client("edge") as client:
            stub = admin_service_pb2_grpc.AdminServiceStub(client.channel)
            status = await stub.GetStatus(admin_service_pb2.GetStatusRequest())
            return str(status.link.last_problem.reason) == "PROTOCOL_VERSION"

    async def hub_speaks(lowest: int, highest: int) -> None:
        await pair.stop_hub()
        speaks = partial(SessionConfig, min_protocol_version=lowest, max_protocol_version=highest)
        monkeypatch.setattr("hub.services.core.SessionConfig", speaks)
        await pair.start_hub()

    await hub_speaks(1, 3)
    assert await until(pair.connected)
    await hub_speaks(2, 3)
    assert await until(refused)
    async with pair.client("edge") as client:
        receipt = await client.publish("meanwhile.here", {})
        assert receipt.level == Level.DURABLE_LOCAL
    await hub_speaks(1, 3)
    assert await until(pair.connected)
    assert await at_hub(pair, "meanwhile.here")
