from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.api.message.v1 import message_pb2
from edgenode.api.message.v1 import message_service_pb2 as pb
from edgenode.api.message.v1 import message_service_pb2_grpc as pb_grpc
from edgenode.link.wire.status import from_rpc_error
from tests.integration.hub.fake_edge import until_async
from tests.integration.hub.site import Site

START = pb.START_POSITION_START


class Subscriber:
    """One Subscribe stream."""

    def __init__(self, site: Site) -> None:
        self._call = pb_grpc.MessageServiceStub(site.local()).Subscribe()
        self.gaps: list[pb.MessageGap] = []

    async def start(self, *topics: str, credits: int = 1000, **start: object) -> Subscriber:
        request = pb.SubscribeRequest(start=pb.SubscribeStart(topics=topics, **start), credit_count=credits)  # type: ignore[arg-type]
        await self._call.write(request)
        return self

    async def ack(self, sequence: int, credits: int = 0) -> None:
        await self._call.write(pb.SubscribeRequest(ack_sequence=sequence, credit_count=credits))

    async def take(self, count: int) -> list[message_pb2.ReceivedMessage]:
        messages: list[message_pb2.ReceivedMessage] = []
        while len(messages) < count:
            response = await self._call.read()
            assert response is not grpc.aio.EOF
            if response.HasField("gap"):
                self.gaps.append(response.gap)
            messages += response.messages
        return messages

    async def close(self) -> None:
        await self._call.done_writing()
        assert await self._call.read() is grpc.aio.EOF

    async def refusal(self) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self._call.read()
        return from_rpc_error(caught.value).reason

    def cancel(self) -> None:
        self._call.cancel()


@pytest.fixture
async def subscribe(site: Site) -> AsyncIterator[Callable[[], Subscriber]]:
    subscribers: list[Subscriber] = []

    def make() -> Subscriber:
        subscribers.append(Subscriber(site))
        return subscribers[-1]

    yield make
    for subscriber in subscribers:
        subscriber.cancel()


async def test_messages_come_from_the_start_and_then_live(site: Site, subscribe: Callable[[], Subscriber]) -> None:
    await site.start()
    north = await site.edge("north")
    await north.publish("device.cpu", "code.done", "device.memory")
    live = subscribe()
    await live.start("device.>", position=START)
    first = await live.take(2)
    assert [(message.sequence, message.message.topic) for message in first] == [(1, "device.cpu"), (3, "device.memory")]
    assert [(message.origin_node, message.origin_sequence) for message in first] == [("north", 1), ("north", 3)]
    await north.publish("device.disk")
    (fourth,) = await live.take(1)
    assert fourth.sequence == 4
    await live.close()


async def test_each_message_is_stored_once_across_reconnects(site: Site, subscribe: Callable[[], Subscriber]) -> None:
    await site.start()
    north = await site.edge("north")
    for index in range(20):
        await north.publish("device.cpu", payload=b"%d" % index)
        if index % 5 == 0:
            await north.stop()
            await north.start()
    live = subscribe()
    await live.start(">", position=START)
    messages = await live.take(20)
    assert [message.message.payload for message in messages] == [b"%d" % index for index in range(20)]
    assert [message.sequence for message in messages] == list(range(1, 21))


async def test_a_named_subscription_resumes_after_its_acknowledgement(
    site: Site, subscribe: Callable[[], Subscriber]
) -> None:
    await site.start()
    north = await site.edge("north")
    await north.publish("a", "b", "c", "d")
    first = subscribe()
    await first.start(">", subscription="archive", position=START, credits=3)
    assert [message.sequence for message in await first.take(3)] == [1, 2, 3]
    second = subscribe()
    await second.start(">", subscription="archive")
    assert await second.refusal() == "SUBSCRIPTION_IN_USE"
    await first.ack(2)
    await first.close()
    third = subscribe()
    await third.start(">", subscription="archive")
    assert [message.sequence for message in await third.take(2)] == [3, 4]


async def test_a_segment_that_cannot_be_read_is_a_gap_and_no_more(
    site: Site, subscribe: Callable[[], Subscriber]
) -> None:
    await site.start()
    north = await site.edge("north")
    await north.publish("a")
    await north.publish_raw(3, b"\xff\xff\xff")
    await north.publish("b")
    live = subscribe()
    await live.start(">", position=START)
    assert [message.sequence for message in await live.take(2)] == [1, 5]
    assert [(gap.first_sequence, gap.last_sequence, gap.reason) for gap in live.gaps] == [(2, 4, "UNREADABLE")]


async def test_what_retention_deleted_is_a_stated_gap(site: Site, subscribe: Callable[[], Subscriber]) -> None:
    await site.start(message_retention_bytes=4096)
    north = await site.edge("north")
    for _ in range(40):
        await north.publish("a", payload=bytes(512))
    stub = fleet_service_pb2_grpc.FleetServiceStub(site.local())

    async def swept() -> bool:
        response = await stub.GetFleetLedger(fleet_service_pb2.GetFleetLedgerRequest())
        (line,) = [line for line in response.lines if line.hop == "message.log"]
        return bool(line.dropped_counts["RETENTION"])

    await until_async(swept)
    late = subscribe()
    await late.start(">", position=pb.START_POSITION_CURSOR, after_sequence=1)
    messages = await late.take(1)
    assert [(gap.first_sequence, gap.last_sequence, gap.reason) for gap in late.gaps] == [
        (2, messages[0].sequence - 1, "RETENTION")
    ]


async def test_bad_subscriptions_are_refused(site: Site, subscribe: Callable[[], Subscriber]) -> None:
    await site.start()
    for start, reason in (
        ({"topics": ()}, "BAD_TOPIC"),
        ({"topics": ("a..b",)}, "BAD_TOPIC"),
        ({"topics": (">",), "subscription": "A b"}, "BAD_NAME"),
        ({"topics": (">",), "position": pb.START_POSITION_CURSOR, "after_sequence": 7}, "BAD_CURSOR"),
    ):
        topics = start.pop("topics")
        live = subscribe()
        await live.start(*topics, **start)  # type: ignore[misc]
        assert await live.refusal() == reason


async def test_a_stopping_hub_ends_its_subscriptions(site: Site, subscribe: Callable[[], Subscriber]) -> None:
    hub = await site.start()
    north = await site.edge("north")
    await north.publish("a")
    live = subscribe()
    await live.start(">", position=START)
    await live.take(1)
    stopping = asyncio.create_task(hub.stop())
    assert await live.refusal() == "HUB_STOPPING"
    await stopping


async def test_bounds_that_were_narrowed_make_room_at_the_start(site: Site) -> None:
    async def stored(count: int) -> bool:
        stub = fleet_service_pb2_grpc.FleetServiceStub(site.local())
        return bool((await stub.GetHubStatus(fleet_service_pb2.GetHubStatusRequest())).message_sequence == count)

    await site.start()
    north = await site.edge("north")
    for _ in range(12):
        await north.publish("a", payload=bytes(1 << 20))
    await until_async(lambda: stored(12))
    await site.stop()
    await site.start(store_bytes=12 << 20, message_retention_bytes=1 << 20)
    await north.publish("b")
    await until_async(lambda: stored(13))


async def test_publishing_belongs_on_an_edge(site: Site) -> None:
    await site.start()
    call = pb_grpc.MessageServiceStub(site.local()).Publish()
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012 (whichever hears of it first)
        await call.write(pb.PublishRequest(producer_id="p", first_sequence=1))
        await call.read()
    assert from_rpc_error(caught.value).reason == "PUBLISH_ON_AN_EDGE"
