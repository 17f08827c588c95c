import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edgenode.api.message.v1 import message_pb2, message_service_pb2
from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.link.errors import ResourceExhausted
from edgenode.link.store import logs
from edgenode.node.message_log import LOG_NAME
from tests.integration.node.house import (
    Batch,
    House,
    Start,
    Stream,
    Subscribe,
    eventually,
    house,
    messages,
    payloads,
    publish,
    publishing,
    received,
    short_directory,
    stream,
)

NEW = message_service_pb2.START_POSITION_NEW
FROM_START = message_service_pb2.START_POSITION_START
CURSOR = message_service_pb2.START_POSITION_CURSOR
HUB = receipt_pb2.RECEIPT_LEVEL_DURABLE_HUB


def start(*topics: str, credits: int = 100, name: str = "", position: Any = FROM_START, after: int = 0) -> Any:
    begin = Start(topics=topics or ("device.>",), subscription=name, position=position, after_sequence=after)
    return Subscribe(start=begin, credit_count=credits)


async def read_all(h: House, count: int) -> list[str]:
    async with stream(h.messages.Subscribe, start(">", credits=count)) as subscriber:
        return payloads(await received(subscriber, count))


# --- publishing -------------------------------------------------------------------------------------------------------


async def test_published_messages_are_acknowledged_and_numbered() -> None:
    with short_directory() as directory:
        async with house(directory) as h, publishing(h, "p") as (publisher, resume):
            assert resume == 0
            await publisher.send(Batch(first_sequence=1, batch=messages("a", "b")))
            await publisher.send(Batch(first_sequence=3, batch=messages("c")))
            last = (await publisher.read_until(lambda frame: frame.durable_local_sequence == 3))[-1]
            assert (last.log_sequence, last.durable_hub_sequence, len(last.epoch)) == (3, 0, 26)
            await publisher.call.done_writing()
            assert await publisher.read() is None
            assert await read_all(h, 3) == ["a", "b", "c"]


async def test_what_is_sent_again_is_stored_once_also_across_a_restart() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await publish(h, "p", 1, "a", "b", "c")
            async with publishing(h, "p") as (publisher, resume):
                assert resume == 3
                await publisher.send(Batch(first_sequence=2, batch=messages("b", "c", "d")))
                await publisher.send(Batch(first_sequence=1, batch=messages("a")))
                await publisher.read_until(lambda frame: frame.durable_local_sequence == 4)
        async with house(directory) as h:
            async with publishing(h, "p") as (publisher, resume):
                assert resume == 4
                await publisher.send(Batch(first_sequence=4, batch=messages("d", "e")))
                await publisher.read_until(lambda frame: frame.durable_local_sequence == 5)
            assert await read_all(h, 5) == ["a", "b", "c", "d", "e"]


async def test_a_refused_message_is_named_and_the_rest_is_stored() -> None:
    with short_directory() as directory:
        async with house(directory, max_message_bytes=1024) as h, publishing(h, "p") as (publisher, _):
            batch = messages("a", "b", "c", "d")
            batch.messages[1].topic = "No Topic"
            batch.messages[2].payload = b"x" * 1025
            await publisher.send(Batch(first_sequence=1, batch=batch))
            (frame,) = await publisher.read_until(lambda frame: frame.durable_local_sequence == 4)
            assert [(r.sequence, r.problem.reason) for r in frame.rejections] == [
                (2, "BAD_TOPIC"),
                (3, "MESSAGE_TOO_LARGE"),
            ]
            assert all(r.problem.hint for r in frame.rejections)
            await publisher.send(Batch(first_sequence=1, batch=batch))
            again = (await publisher.read_until(lambda frame: frame.rejections))[-1]
            assert [r.sequence for r in again.rejections] == [2, 3]
            assert await read_all(h, 2) == ["a", "d"]


async def test_many_refusals_never_stand_behind_an_acknowledgement() -> None:
    with short_directory() as directory:
        async with house(directory) as h, publishing(h, "p") as (publisher, _):
            for number in range(4):
                batch = messages(*["x"] * 1024, topic="Bad")
                await publisher.send(Batch(first_sequence=number * 1024 + 1, batch=batch))
            named = 0
            while named < 4096:
                frame = await publisher.read()
                named += len(frame.rejections)
                assert frame.durable_local_sequence <= named
            if frame.durable_local_sequence < 4096:
                await publisher.read_until(lambda frame: frame.durable_local_sequence == 4096)


@pytest.mark.parametrize(
    ("first", "then", "reason"),
    [
        (Batch(), None, "BAD_NAME"),
        (Batch(producer_id="no spaces"), None, "BAD_NAME"),
        (Batch(producer_id="p", ack_level=receipt_pb2.RECEIPT_LEVEL_DONE), None, "BAD_ACK_LEVEL"),
        (Batch(producer_id="p"), Batch(producer_id="q", first_sequence=3, batch=messages("x")), "BAD_PRODUCER"),
        (Batch(producer_id="p"), Batch(first_sequence=4, batch=messages("x")), "SEQUENCE_GAP"),
        (Batch(producer_id="p"), Batch(first_sequence=0, batch=messages("x")), "OUT_OF_RANGE"),
        (Batch(producer_id="p"), Batch(first_sequence=3, batch=messages(*["x"] * 1025)), "TOO_MANY"),
    ],
)
async def test_a_wrong_stream_ends_and_changes_nothing(first: Any, then: Any, reason: str) -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await publish(h, "p", 1, "a", "b")
            async with stream(h.messages.Publish, first) as publisher:
                if then is not None:
                    await publisher.send(then)
                error = await publisher.error()
                assert error.reason == reason
                assert error.problem.hint
            await publish(h, "p", 3, "c")
            assert await read_all(h, 3) == ["a", "b", "c"]


async def test_what_came_before_a_mistake_is_stored_and_acknowledged() -> None:
    with short_directory() as directory:
        async with house(directory) as h, publishing(h, "p") as (publisher, _):
            await publisher.send(Batch(first_sequence=1, batch=messages("a")))
            await publisher.send(Batch(first_sequence=9, batch=messages("z")))
            assert (await publisher.read()).durable_local_sequence == 1
            assert (await publisher.error()).reason == "SEQUENCE_GAP"


async def test_two_streams_of_one_producer_the_newer_counts() -> None:
    with short_directory() as directory:
        async with house(directory) as h, publishing(h, "p") as (older, _):
            await older.send(Batch(first_sequence=1, batch=messages("a")))
            await older.read_until(lambda frame: frame.durable_local_sequence == 1)
            async with publishing(h, "p") as (newer, resume):
                assert resume == 1
                await older.send(Batch(first_sequence=2, batch=messages("b")))
                assert (await older.error()).reason == "PRODUCER_TAKEN_OVER"
                await newer.send(Batch(first_sequence=2, batch=messages("b")))
                await newer.read_until(lambda frame: frame.durable_local_sequence == 2)
            assert await read_all(h, 2) == ["a", "b"]


async def test_a_full_store_refuses_with_a_time_to_wait_and_keeps_what_it_has() -> None:
    with short_directory() as directory:
        async with house(directory, store_bytes=16 << 20, message_retention_bytes=15 << 20) as h:
            batch = messages(*["x" * 200_000] * 5)
            slow = stream(h.messages.Subscribe, start(credits=0, name="slow"))  # nothing goes before it was read
            async with slow, publishing(h, "p") as (publisher, _):
                with pytest.raises(ResourceExhausted) as refused:
                    await _until_refused(publisher, batch)
            assert (refused.value.reason, refused.value.problem.retry_after) == ("LANE_FULL", 5.0)
            async with publishing(h, "p") as (_, resume):
                assert resume >= 40
            assert len(await read_all(h, resume)) == resume


async def _until_refused(publisher: Stream, batch: message_pb2.MessageBatch) -> None:
    for first in range(1, 151, 5):
        await publisher.send(Batch(first_sequence=first, batch=batch))
        while (await publisher.read()).durable_local_sequence < first + 4:
            pass


async def test_the_hubs_acknowledgement_reaches_publishers_that_asked() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            async with publishing(h, "p", ack_level=HUB) as (publisher, _):
                await publisher.send(Batch(first_sequence=1, batch=messages("a", "b")))
                await publisher.send(Batch(first_sequence=3, batch=messages("c")))
                local = (await publisher.read_until(lambda frame: frame.durable_local_sequence == 3))[-1]
                assert local.durable_hub_sequence == 0
                h.node.rooms.messages.on_hub_acknowledged(2)
                await publisher.read_until(lambda frame: frame.durable_hub_sequence == 2)
                await publisher.call.done_writing()
                h.node.rooms.messages.on_hub_acknowledged(3)
                await publisher.read_until(lambda frame: frame.durable_hub_sequence == 3)
                assert await publisher.read() is None
            async with publishing(h, "p", ack_level=HUB) as (publisher, resume):
                await publisher.call.done_writing()
                assert (resume, await publisher.read()) == (3, None)


# --- subscribing ------------------------------------------------------------------------------------------------------


async def test_a_subscriber_gets_what_matches_in_order_with_its_origin() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await publish(h, "p", 1, "old")
            async with stream(h.messages.Subscribe, start("device.*", name="ui", position=NEW)) as subscriber:
                await _acked(h, "ui", 1)  # it stands at the end of what was there
                await publish(h, "p", 2, "other", topic="other")
                await publish(h, "p", 3, "m3", "m4")
                found = await received(subscriber, 2)
                assert payloads(found) == ["m3", "m4"]
                assert [item.sequence for item in found] == [3, 4]
                assert (found[0].origin_node, found[0].origin_sequence) == ("north", 3)
                assert found[0].origin_epoch == h.node.rooms.messages.epoch
                assert found[0].accept_time.seconds > 1_700_000_000


async def test_origins_stay_true_when_the_link_renews_the_epoch() -> None:
    with short_directory() as directory:
        async with house(directory) as h, publishing(h, "p") as (publisher, _):
            await publisher.send(Batch(first_sequence=1, batch=messages("a")))
            old = (await publisher.read_until(lambda frame: frame.durable_local_sequence == 1))[-1].epoch
            await h.node.rooms.database.write(lambda connection: logs.renew_epoch(connection, LOG_NAME, "renewed"))
            await publisher.send(Batch(first_sequence=2, batch=messages("b")))
            last = (await publisher.read_until(lambda frame: frame.durable_local_sequence == 2))[-1]
            assert (last.epoch, last.log_sequence) == ("renewed", 2)
            async with stream(h.messages.Subscribe, start()) as subscriber:
                found = await received(subscriber, 2)
                assert [(item.origin_epoch, item.origin_sequence) for item in found] == [(old, 1), ("renewed", 2)]


async def test_credits_bound_what_is_sent() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await publish(h, "p", 1, *[str(number) for number in range(10)])
            async with stream(h.messages.Subscribe, start(credits=3)) as subscriber:
                frame = await subscriber.read()
                assert payloads(frame.messages) == ["0", "1", "2"]
                await subscriber.send(Subscribe(credit_count=4))
                assert payloads((await subscriber.read()).messages) == ["3", "4", "5", "6"]
                await subscriber.call.done_writing()
                assert await subscriber.read() is None


async def test_a_durable_subscription_resumes_after_its_acknowledgement() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await publish(h, "p", 1, "a", "b", "c", "d")
            async with stream(h.messages.Subscribe, start(name="ui")) as subscriber:
                assert payloads(await received(subscriber, 4)) == ["a", "b", "c", "d"]
                await subscriber.send(Subscribe(ack_sequence=2))
                await _acked(h, "ui", 2)
            async with _attached(h, start(name="ui", position=NEW)) as subscriber:
                assert payloads(await received(subscriber, 2)) == ["c", "d"]
        async with house(directory) as h, stream(h.messages.Subscribe, start(name="ui")) as subscriber:
            assert payloads(await received(subscriber, 2)) == ["c", "d"]


@contextlib.asynccontextmanager
async def _attached(h: House, begin: Any) -> AsyncIterator[Stream]:
    """A subscription, once the stream before it is gone."""
    await eventually(lambda: not h.node.rooms.subscriptions.attached)
    async with stream(h.messages.Subscribe, begin) as subscriber:
        yield subscriber


async def test_a_subscription_has_one_stream_at_a_time() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await publish(h, "p", 1, "a")
            async with stream(h.messages.Subscribe, start(name="ui")) as holder:
                await received(holder, 1)
                async with stream(h.messages.Subscribe, start(name="ui")) as second:
                    assert (await second.error()).reason == "SUBSCRIPTION_IN_USE"
                holder.call.cancel()
            async with _attached(h, start(name="ui")) as third:
                assert payloads(await received(third, 1)) == ["a"]


async def test_what_is_passed_over_does_not_hold_the_log() -> None:
    with short_directory() as directory:
        async with house(directory) as h, stream(h.messages.Subscribe, start("rare", name="ui")) as subscriber:
            await publish(h, "p", 1, *["x"] * 1000)
            await publish(h, "p", 1001, "seen", topic="rare")
            (found,) = await received(subscriber, 1)
            assert await _acked(h, "ui", 1000) == 1000
            await subscriber.send(Subscribe(ack_sequence=found.sequence))
            assert await _acked(h, "ui", 1001) == 1001


async def _acked(h: House, name: str, at_least: int) -> int:
    async with asyncio.timeout(10):
        while True:
            found = await h.node.rooms.database.read(
                lambda connection: logs.consumers(connection, h.node.rooms.messages.log_id).get(f"sub/{name}", 0)
            )
            if found >= at_least:
                return found
            await asyncio.sleep(0.005)


async def test_a_gap_is_stated() -> None:
    with short_directory() as directory:
        async with house(directory, message_retention_bytes=100_000) as h:
            payload = "x" * 1000
            for number in range(0, 2000, 100):
                await publish(h, "p", number + 1, *[payload] * 100)
            async with stream(h.messages.Subscribe, start(position=CURSOR, after=10, credits=10_000)) as subscriber:
                frame = await subscriber.read()
                assert (frame.gap.first_sequence, frame.gap.reason) == (11, "RETENTION")
                assert frame.messages[0].sequence == frame.gap.last_sequence + 1
                found = [*frame.messages, *await received(subscriber, 2000 - frame.messages[-1].sequence)]
                assert [item.sequence for item in found] == list(range(frame.gap.last_sequence + 1, 2001))


@pytest.mark.parametrize(
    ("first", "then", "reason"),
    [
        (Subscribe(credit_count=1), None, "NO_START"),
        (Subscribe(start=Start()), None, "BAD_TOPIC"),
        (Subscribe(start=Start(topics=["a.>.b"])), None, "BAD_TOPIC"),
        (Subscribe(start=Start(topics=["a"] * 65)), None, "TOO_MANY"),
        (Subscribe(start=Start(topics=["a"], subscription="No")), None, "BAD_NAME"),
        (Subscribe(start=Start(topics=["a"], position=CURSOR, after_sequence=99)), None, "BAD_CURSOR"),
        (Subscribe(start=Start(topics=["a"], position=CURSOR, after_sequence=-1)), None, "OUT_OF_RANGE"),
        (Subscribe(start=Start(topics=["a"]), credit_count=-1), None, "OUT_OF_RANGE"),
        (Subscribe(start=Start(topics=["a"])), Subscribe(start=Start(topics=["a"])), "START_AGAIN"),
        (Subscribe(start=Start(topics=["a"])), Subscribe(ack_sequence=99), "BAD_ACK"),
    ],
)
async def test_a_wrong_subscriber_is_told(first: Any, then: Any, reason: str) -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await publish(h, "p", 1, "a", "b")
            async with stream(h.messages.Subscribe, first) as subscriber:
                if then is not None:
                    await subscriber.send(then)
                error = await subscriber.error()
                assert error.reason == reason
                assert error.problem.hint


async def test_a_stopping_node_acknowledges_what_it_took_and_ends_streams() -> None:
    with short_directory() as directory:
        async with (
            house(directory) as h,
            publishing(h, "p") as (publisher, _),
            stream(h.messages.Subscribe, start(name="ui")) as subscriber,
        ):
            await publisher.send(Batch(first_sequence=1, batch=messages("a")))
            await received(subscriber, 1)
            stopping = asyncio.create_task(h.node.stop())
            assert (await publisher.error()).reason == "NODE_STOPPING"
            assert (await subscriber.error()).reason == "NODE_STOPPING"
            await stopping
        async with house(directory) as h:
            assert await read_all(h, 1) == ["a"]
