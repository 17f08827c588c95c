"""Publishing and subscribing against a small node in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edgenode.api.message.v1 import message_pb2
from edgenode.api.message.v1 import message_service_pb2 as mpb
from edgenode.link.errors import InvalidArgument, ResourceExhausted, Unavailable
from edgenode.link.model.task import Level
from edgenode.sdk.client import Client
from edgenode.sdk.encoding import Payload
from edgenode.sdk.publisher import OVERHEAD, TOLD_AT_ONCE, Publisher, Receipt
from edgenode.sdk.subscription import Gap, Subscription
from tests.unit.sdk.fakes import FakeNode, fake_node, until


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    async with fake_node() as node:
        yield node


@pytest.fixture
async def client(node: FakeNode) -> AsyncIterator[Client]:
    async with Client(socket=node.socket, connect_timeout=2.0) as client:
        yield client


def stored(node: FakeNode) -> list[bytes]:
    return [message.payload for messages in node.messages.stored.values() for message in messages]


async def test_messages_are_numbered_in_order_and_share_frames(client: Client, node: FakeNode) -> None:
    receipts = await asyncio.gather(*(client.publish("a.b", number, key="k") for number in range(3000)))
    assert [receipt.sequence for receipt in receipts] == list(range(1, 3001))
    assert {receipt.level for receipt in receipts} == {Level.DURABLE_LOCAL}
    assert stored(node) == [b"%d" % number for number in range(3000)]
    assert 3 <= node.messages.frames < 30


async def test_all_fields_arrive(client: Client, node: FakeNode) -> None:
    await client.publish("a", b"raw", headers={"h": "v"}, key="k", traceparent="00-1-2-01")
    (message,) = next(iter(node.messages.stored.values()))
    assert (message.topic, message.key, message.payload) == ("a", "k", b"raw")
    assert (message.content_type, dict(message.headers)) == ("application/octet-stream", {"h": "v"})
    assert message.traceparent == "00-1-2-01"


async def test_a_rejected_message_fails_alone(client: Client, node: FakeNode) -> None:
    node.messages.reject["bad"] = InvalidArgument("BAD_TOPIC", "no")
    results = await asyncio.gather(
        client.publish("a", 1), client.publish("bad", 2), client.publish("a", 3), return_exceptions=True
    )
    assert isinstance(results[1], InvalidArgument)
    assert [result.sequence for result in results if isinstance(result, Receipt)] == [1, 3]


async def test_what_is_not_text_is_refused_and_changes_nothing(client: Client, node: FakeNode) -> None:
    results = await asyncio.gather(
        client.publish("a", 1), client.publish("\ud800", 2), client.publish("a", 3), return_exceptions=True
    )
    assert isinstance(results[1], InvalidArgument)
    assert stored(node) == [b"1", b"3"]


async def test_unacknowledged_messages_go_again_and_are_stored_once(client: Client, node: FakeNode) -> None:
    node.messages.hold.clear()
    publishes = [asyncio.create_task(client.publish("a", number)) for number in range(2000)]
    await until(lambda: len(stored(node)) >= 500)
    await node.stop()
    publishes += [asyncio.create_task(client.publish("a", number)) for number in range(2000, 2010)]
    node.messages.hold.set()
    await node.start()
    receipts = await asyncio.gather(*publishes)
    assert [receipt.sequence for receipt in receipts] == list(range(1, 2011))
    assert stored(node) == [b"%d" % number for number in range(2010)]
    assert node.messages.duplicates >= 500


async def test_a_refused_stream_fails_what_waits_and_the_next_message_starts_afresh(
    client: Client, node: FakeNode
) -> None:
    node.messages.refuse = ResourceExhausted("STORE_FULL", "full", retry_after=1.5)
    results = await asyncio.gather(*(client.publish("a", 1) for _ in range(3)), return_exceptions=True)
    for error in results:
        assert isinstance(error, ResourceExhausted)
        assert (error.reason, error.problem.retry_after) == ("STORE_FULL", 1.5)
    node.messages.refuse = None
    assert (await client.publish("a", 2)).sequence == 1


async def test_a_hub_receipt_waits_for_the_hub(client: Client, node: FakeNode) -> None:
    await client.publish("a", 0)
    node.messages.hub = 100
    receipt = await client.publish("a", 1, level=Level.DURABLE_HUB)
    assert receipt.level is Level.DURABLE_HUB
    node.messages.hub = 0
    receipt = await client.publish("a", 2, level=Level.DURABLE_HUB, wait=0.1)
    assert receipt.level is Level.DURABLE_LOCAL
    assert stored(node) == [b"0", b"1", b"2"]


def acknowledged(sequence: int) -> mpb.PublishResponse:
    return mpb.PublishResponse(durable_local_sequence=sequence, epoch="e")


async def test_messages_published_together_are_stored_in_order(client: Client, node: FakeNode) -> None:
    receipts = await client.publish_many("a", range(3000), key="k")
    assert [receipt.sequence for receipt in receipts] == list(range(1, 3001))
    assert {receipt.level for receipt in receipts} == {Level.DURABLE_LOCAL}
    assert stored(node) == [b"%d" % number for number in range(3000)]
    assert node.messages.frames == 3
    assert await client.publish_many("a", []) == []


async def test_payloads_of_several_kinds_keep_their_order(client: Client, node: FakeNode) -> None:
    payloads = [b"raw", 1, {"a": 2}, b"", b"more", Payload(b"<p>", "text/html")]
    receipts = await client.publish_many("a.b", payloads, key="k", headers={"h": "v"}, traceparent="00-1-2-01")
    assert [receipt.sequence for receipt in receipts] == [1, 2, 3, 4, 5, 6]
    (messages,) = node.messages.stored.values()
    octets = "application/octet-stream"
    assert [message.content_type for message in messages] == [octets, "", "", octets, octets, "text/html"]
    assert stored(node) == [b"raw", b"1", b'{"a":2}', b"", b"more", b"<p>"]
    assert {(message.topic, message.key, message.traceparent) for message in messages} == {("a.b", "k", "00-1-2-01")}
    assert all(dict(message.headers) == {"h": "v"} for message in messages)


async def test_more_than_the_window_holds_is_published_together(client: Client, node: FakeNode) -> None:
    payloads = [bytes([number]) * 200_000 for number in range(200)]  # the window holds about 83
    assert len(await client.publish_many("a", payloads)) == 200
    assert stored(node) == payloads
    assert (await client.publish("a", 1)).sequence == 201  # all room was given back


async def test_one_that_is_refused_among_many_is_told_when_the_rest_is_stored(client: Client, node: FakeNode) -> None:
    node.messages.reject["2"] = InvalidArgument("BAD_PAYLOAD", "no")
    with pytest.raises(InvalidArgument, match="BAD_PAYLOAD"):
        await client.publish_many("a", range(2000))
    assert len(stored(node)) == 2000
    with pytest.raises(ResourceExhausted, match="MESSAGE_TOO_LARGE"):
        await client.publish_many("a", [b"x", b"x" * 300_000])
    with pytest.raises(InvalidArgument, match="BAD_MESSAGE"):
        await client.publish_many("\ud800", [1, 2])
    assert len(stored(node)) == 2000
    assert client._publisher.window.take(16 * 1024 * 1024)


@pytest.mark.parametrize("key", [0, b"", None, 7])
async def test_a_key_that_is_no_text_is_refused(client: Client, node: FakeNode, key: Any) -> None:
    for level in (Level.DURABLE_LOCAL, Level.DURABLE_HUB):
        with pytest.raises(InvalidArgument, match="leave it out") as refused:
            await client.publish("a", 1, key=key, level=level)
        assert refused.value.reason == "BAD_MESSAGE"
    with pytest.raises(InvalidArgument, match="leave it out"):
        await client.publish_many("a", [1], key=key)
    assert not stored(node)


async def test_many_wait_for_the_hub_and_then_for_the_node_alone(client: Client, node: FakeNode) -> None:
    node.messages.hub = 100
    await client.publish("a", 0)
    receipts = await client.publish_many("a", range(200), level=Level.DURABLE_HUB, wait=0.5)
    assert [receipt.level for receipt in receipts] == [Level.DURABLE_HUB] * 99 + [Level.DURABLE_LOCAL] * 101
    assert [receipt.sequence for receipt in receipts] == list(range(2, 202))


async def test_many_survive_a_break(client: Client, node: FakeNode) -> None:
    node.messages.hold.clear()
    publishing = asyncio.create_task(client.publish_many("a", range(2000)))
    await until(lambda: len(stored(node)) >= 500)
    await node.stop()
    node.messages.hold.set()
    await node.start()
    assert len(await publishing) == 2000
    assert stored(node) == [b"%d" % number for number in range(2000)]


async def test_who_gives_up_on_many_leaves_no_trace(client: Client, node: FakeNode) -> None:
    node.messages.hold.clear()
    publishing = asyncio.create_task(client.publish_many("a", range(2000), level=Level.DURABLE_HUB))
    await until(lambda: len(stored(node)) >= 500)
    publishing.cancel()
    await asyncio.wait([publishing])
    node.messages.hold.set()
    assert (await client.publish("a", 1)).sequence == 2001
    assert not client._publisher.wanted()  # the hub never took them


def publish(publisher: Publisher, payload: bytes) -> asyncio.Future[Receipt]:
    assert publisher.window.take(len(payload) + OVERHEAD)
    future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    publisher.publish(future, "a", "", payload, "", None, "")
    return future


async def test_a_sent_frame_never_changes() -> None:
    publisher = Publisher(lambda: "p")
    publisher.opened()
    first = publish(publisher, b"1")
    frame = publisher.next_frame()
    assert frame is not None
    assert [message.payload for message in frame.batch.messages] == [b"1"]
    publisher.opened()  # a new stream before the acknowledgement
    publish(publisher, b"2")
    again, rest = publisher.next_frame(), publisher.next_frame()
    assert again == frame
    assert rest is not None
    assert (rest.first_sequence, [message.payload for message in rest.batch.messages]) == (2, [b"2"])
    publisher.received(acknowledged(1))
    assert first.done()
    assert publisher.owed()
    publisher.received(acknowledged(2))
    assert not publisher.owed()
    assert not publisher.wanted()


async def test_an_unknown_producer_starts_again_under_a_new_name() -> None:
    names = iter(["p1", "p2", "p3"])
    publisher = Publisher(lambda: next(names))
    publisher.opened()
    futures = [publish(publisher, b"%d" % number) for number in range(4)]
    publisher.next_frame()
    publisher.received(acknowledged(2))
    assert publisher.recovers(InvalidArgument("SEQUENCE_GAP", "who?"))
    publisher.opened()
    frame = publisher.next_frame()
    assert frame is not None
    assert (frame.producer_id, frame.first_sequence) == ("p2", 1)
    assert [message.payload for message in frame.batch.messages] == [b"2", b"3"]
    assert not publisher.recovers(InvalidArgument("SEQUENCE_GAP", "still?"))
    publisher.received(acknowledged(2))
    assert [future.done() for future in futures] == [True] * 4


async def test_a_frame_of_waiters_is_told_in_several_turns_and_the_next_frame_waits_for_all_of_them() -> None:
    publisher = Publisher(lambda: "p")
    publisher.opened()
    futures = [publish(publisher, b"%d" % number) for number in range(2 * TOLD_AT_ONCE + 1)]
    publisher.next_frame()
    woken: list[int] = []
    publisher.wake = lambda: woken.append(sum(future.done() for future in futures))
    publisher.received(acknowledged(len(futures)))
    assert sum(future.done() for future in futures) == TOLD_AT_ONCE
    again = publish(publisher, b"again")  # as the first who were told do
    assert publisher.next_frame() is None
    await futures[-1]
    assert woken == [TOLD_AT_ONCE, len(futures)]  # as the frame began, and once nobody adds to it any more
    assert publisher.next_frame() is not None
    assert [future.result().sequence for future in futures] == list(range(1, len(futures) + 1))
    publisher.received(acknowledged(len(futures) + 1))
    assert again.done()


async def test_who_is_still_to_be_told_has_his_receipt_when_publishing_is_given_up() -> None:
    names = iter(["p1", "p2"])
    publisher = Publisher(lambda: next(names))
    publisher.opened()
    futures = [publish(publisher, b"%d" % number) for number in range(2 * TOLD_AT_ONCE + 1)]
    publisher.next_frame()
    publisher.received(acknowledged(len(futures) - 1))
    publisher.failed(Unavailable("UNREACHABLE", "gone"))
    assert all(future.done() for future in futures)
    assert [future.result().sequence for future in futures[:-1]] == list(range(1, len(futures)))
    assert isinstance(futures[-1].exception(), Unavailable)
    assert {future.result().producer for future in futures[:-1]} == {"p1"}


async def test_a_full_window_makes_callers_wait_in_order(client: Client, node: FakeNode) -> None:
    node.messages.hold.clear()
    payload = b"x" * 200_000  # the window holds about 83
    publishes = [asyncio.create_task(client.publish("a", payload, key=str(n))) for n in range(200)]
    await until(lambda: node.messages.frames >= 1)
    assert not any(publish.done() for publish in publishes)
    node.messages.hold.set()
    receipts = await asyncio.gather(*publishes)
    assert [receipt.sequence for receipt in receipts] == list(range(1, 201))


# --- subscribing ---


def batch(*sequences: int, epoch: str = "e") -> mpb.SubscribeResponse:
    messages = [
        message_pb2.ReceivedMessage(
            message=message_pb2.Message(topic="a", payload=b"%d" % n),
            sequence=n,
            origin_node="n",
            origin_epoch=epoch,
            origin_sequence=n,
        )
        for n in sequences
    ]
    return mpb.SubscribeResponse(messages=messages)


async def test_a_message_is_acknowledged_when_its_consumer_comes_back(client: Client, node: FakeNode) -> None:
    node.messages.log = [batch(1, 2, 3)]
    async with client.subscribe("a.>", name="me", position="start") as subscription:
        assert (await anext(subscription)).value() == 1
        assert (await anext(subscription)).value() == 2
        await until(lambda: any(request.ack_sequence == 1 for request in node.messages.subscribe_requests))
        assert all(request.ack_sequence < 2 for request in node.messages.subscribe_requests)
    first = node.messages.subscribe_requests[0]
    assert (list(first.start.topics), first.start.subscription, first.start.position) == (["a.>"], "me", 2)
    assert first.credit_count == 1024


async def test_after_a_break_nothing_comes_twice_and_nothing_is_missed(client: Client, node: FakeNode) -> None:
    node.messages.log = [batch(1, 2, 3)]
    async with client.subscribe("a", name="me") as subscription:
        assert [(await anext(subscription)).sequence for _ in range(2)] == [1, 2]
        await node.stop()
        node.messages.log = [batch(2, 3), batch(4)]  # 2 was handed out, its acknowledgement lost
        await node.start()
        assert [(await anext(subscription)).sequence for _ in range(2)] == [3, 4]
        starts = [request for request in node.messages.subscribe_requests if request.HasField("start")]
        assert starts[1].start.after_sequence == 3
        assert starts[1].ack_sequence == 0  # the node refuses what it has not sent on this stream


async def test_a_lost_acknowledgement_is_given_again_once_the_message_came_again() -> None:
    subscription = Subscription(["a"], name="me")
    subscription.opened()
    subscription.next_frame()
    subscription.received(batch(1, 2, 3))
    for _ in range(3):
        await anext(subscription)
    subscription.ack(3)
    assert (frame := subscription.next_frame()) is not None
    assert frame.ack_sequence == 3
    subscription.opened()  # the node died before it stored that
    assert (frame := subscription.next_frame()) is not None
    assert frame.ack_sequence == 0
    assert subscription.next_frame() is None
    subscription.received(batch(1, 2))
    assert (frame := subscription.next_frame()) is not None
    assert frame.ack_sequence == 2
    subscription.received(batch(3, 4))
    assert (frame := subscription.next_frame()) is not None
    assert frame.ack_sequence == 3
    assert (await anext(subscription)).sequence == 4


async def test_what_was_acknowledged_of_another_log_is_not_acknowledged_of_this() -> None:
    subscription = Subscription(["a"], name="me", auto_ack=False)
    subscription.opened()
    subscription.next_frame()
    subscription.received(batch(1, 2, 3))
    for _ in range(3):
        await anext(subscription)
    subscription.ack(3)
    subscription.opened()
    subscription.next_frame()
    subscription.received(batch(1, 2, epoch="other"))
    assert subscription.next_frame() is None


async def test_a_new_log_with_low_numbers_is_not_taken_for_old() -> None:
    subscription = Subscription(["a"])
    subscription.opened()
    subscription.received(batch(1, 2))
    assert [(await anext(subscription)).sequence for _ in range(2)] == [1, 2]
    subscription.opened()
    subscription.received(batch(1, 2, epoch="other"))
    assert [(await anext(subscription)).sequence for _ in range(2)] == [1, 2]


async def test_gaps_are_told() -> None:
    gaps: list[Gap] = []
    subscription = Subscription(["a"], on_gap=gaps.append)
    subscription.opened()
    frame = batch(7)
    frame.gap.first_sequence, frame.gap.last_sequence, frame.gap.reason = 2, 6, "RETENTION"
    subscription.received(frame)
    assert (await anext(subscription)).sequence == 7
    assert gaps == [Gap(2, 6, "RETENTION")]


async def test_explicit_acknowledgement_is_left_to_the_consumer() -> None:
    subscription = Subscription(["a"], auto_ack=False)
    subscription.opened()
    subscription.next_frame()
    subscription.received(batch(1, 2, 3))
    first = await anext(subscription)
    await anext(subscription)
    assert subscription.next_frame() is None
    subscription.ack(first)
    frame = subscription.next_frame()
    assert frame is not None
    assert frame.ack_sequence == 1


async def test_a_closed_subscription_ends_its_consumer(client: Client) -> None:
    subscription = client.subscribe("a")

    async def consume() -> list[object]:
        return [message async for message in subscription]

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(0)
    await subscription.aclose()
    assert await asyncio.wait_for(consumer, 5) == []


async def test_a_bad_position_is_refused(client: Client) -> None:
    with pytest.raises(InvalidArgument):
        client.subscribe("a", position="middle")
