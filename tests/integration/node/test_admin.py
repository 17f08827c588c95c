import os
import sqlite3
from typing import Any

import grpc
import pytest

from edgenode.api.admin.v1 import admin_service_pb2
from edgenode.api.message.v1 import message_pb2
from edgenode.link.errors import EdgenodeError, Unavailable
from edgenode.link.model.dead_letter import LetterBounds
from edgenode.link.model.lanes import Lane, Rejection
from edgenode.link.store import dead_letters, logs
from edgenode.link.wire.dead_letters import entry_content
from edgenode.link.wire.status import from_rpc_error
from edgenode.node import ledger
from edgenode.node.message_log import LOG_NAME, PARENT
from tests.integration.node.house import Batch, House, house, messages, publish, publishing, short_directory

REFUSED = Unavailable("TOPIC_DENIED", "not allowed at the hub", hint="ask the operator").problem


async def status(h: House) -> admin_service_pb2.GetStatusResponse:
    return await h.admin.GetStatus(admin_service_pb2.GetStatusRequest(), timeout=10)  # type: ignore[no-any-return]


async def line(h: House, hop: str) -> Any:
    response = await h.admin.GetLedger(admin_service_pb2.GetLedgerRequest(), timeout=10)
    return {line.hop: line for line in response.lines}[hop]


async def refused(call: Any) -> EdgenodeError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return from_rpc_error(error.value)


async def test_status_says_what_is() -> None:
    with short_directory() as directory:
        async with house(directory, store_bytes=32 << 20) as h:
            await h.register("one")
            await h.register("two")
            now = await status(h)
            assert (now.node, now.identity, now.health, list(now.health_reasons)) == ("north", "", "ready", [])
            assert (now.process_id, now.sqlite_version) == (os.getpid(), sqlite3.sqlite_version)
            assert dict(now.agent_counts) == {"ready": 2}
            assert now.link.state == "disabled"
            assert 10 << 20 < now.resident_bytes < 1 << 30
            assert 0 < now.store_bytes < now.store_limit_bytes == 32 << 20
            assert not now.HasField("certificate_expire_time")


async def test_a_full_store_makes_the_node_degraded() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await h.node.rooms.database.set_limit(64 * 4096)
            assert (await status(h)).health == "ready"
            await h.node.rooms.database.set_limit(4096)
            now = await status(h)
            assert now.health == "degraded"
            assert "full" in now.health_reasons[0]


async def test_the_ledger_adds_up_over_resends_refusals_and_restarts() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await publish(h, "p", 1, "a", "b", "c")
            await publish(h, "p", 2, "b", "c", "d")
            async with publishing(h, "q") as (publisher, _):
                batch = messages("x", "y")
                batch.messages[0].topic = "Bad"
                await publisher.send(Batch(first_sequence=1, batch=batch))
                await publisher.read_until(lambda frame: frame.durable_local_sequence == 2)
        async with house(directory) as h:
            found = await line(h, "message.publish")
            assert (found.produced_count, found.delivered_count, found.pending_count) == (6, 5, 0)
            assert (dict(found.dropped_counts), found.duplicate_count, found.balanced) == ({"BAD_TOPIC": 1}, 2, True)
            assert found.epoch == h.node.rooms.messages.epoch
            assert (await line(h, "tasks")).balanced


async def test_the_uplinks_lines_follow_its_acknowledgements() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            database = h.node.rooms.database
            await publish(h, "p", 1, *"abcde")

            def join(connection: sqlite3.Connection) -> None:
                for name in ledger.LANE_LOGS.values():
                    state = logs.log_state(connection, name)
                    logs.ensure_consumer(connection, state.log_id, PARENT, state.first - 1)

            def read(connection: sqlite3.Connection) -> Any:
                lines = {line.hop: line for line in ledger.lines(connection, "hub:1")}
                lanes = {lane.lane: lane for lane in ledger.lane_statuses(connection, 2e9)}
                return lines["message.uplink"], lanes["message"]

            await database.write(join)
            await publish(h, "p", 6, *"fg")
            found, lane = await database.read(read)
            assert (found.produced_count, found.delivered_count, found.pending_count) == (7, 0, 7)
            assert (lane.pending_count, lane.last_sequence, lane.acked_sequence) == (7, 7, 0)
            assert lane.pending_bytes > 0
            assert lane.oldest_age_duration.seconds > 1000
            log_id = h.node.rooms.messages.log_id
            await database.write(lambda connection: logs.acknowledge(connection, log_id, PARENT, 6, rejected=1))
            found, lane = await database.read(read)
            assert (found.delivered_count, found.pending_count, found.dead_lettered_count) == (5, 1, 1)
            assert dict(found.dropped_counts) == {}
            assert found.balanced
            assert (lane.pending_count, lane.acked_sequence) == (1, 6)
            await database.write(
                lambda connection: connection.execute("UPDATE log SET first_sequence = 8 WHERE name = ?", (LOG_NAME,))
            )
            found, _ = await database.read(read)
            assert not found.balanced


async def kill(h: House, *sequences: int, limit: int = 1000, size: int = 1 << 20) -> None:
    rejections = [Rejection(sequence, REFUSED) for sequence in sequences]
    await h.node.rooms.database.write(
        lambda connection: dead_letters.add_rejected(
            connection, Lane.MESSAGE, LOG_NAME, rejections, "", 1_700_000_000, LetterBounds(limit, size), entry_content
        )
    )


async def letters(h: House, **fields: Any) -> Any:
    return await h.admin.ListDeadLetters(admin_service_pb2.ListDeadLettersRequest(**fields), timeout=10)


async def test_rejected_messages_are_kept_listed_in_pages_and_dropped() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await publish(h, "p", 1, "a", "b", "c")
            await kill(h, 1, 2, 3)
            assert (await status(h)).dead_letter_count == 3
            first = await letters(h, page_size=2)
            second = await letters(h, page_size=2, page_token=first.next_page_token)
            assert [letter.dead_letter_id for page in (first, second) for letter in page.dead_letters] == [3, 2, 1]
            assert second.next_page_token == ""
            letter = first.dead_letters[0]
            assert (letter.kind, letter.subject, letter.problem.reason) == ("entry", "device.cpu", "TOPIC_DENIED")
            assert letter.dead_letter_time.seconds == 1_700_000_000
            assert letter.size_bytes == message_pb2.Message(topic="device.cpu", payload=b"c").ByteSize()
            drop = admin_service_pb2.DropDeadLettersRequest(request_id="r", dead_letter_ids=[1, 3, 99])
            assert (await h.admin.DropDeadLetters(drop)).dropped_count == 2
            assert (await h.admin.DropDeadLetters(drop)).dropped_count == 2
            everything = admin_service_pb2.DropDeadLettersRequest(all=True)
            assert (await h.admin.DropDeadLetters(everything)).dropped_count == 1
            assert (await h.admin.DropDeadLetters(everything)).dropped_count == 0


async def test_the_oldest_dead_letters_go_first_and_numbers_are_not_used_again() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await publish(h, "p", 1, *"abcde")
            await kill(h, 1, 2, 3, 4, limit=2)
            assert [letter.dead_letter_id for letter in (await letters(h)).dead_letters] == [4, 3]
            await h.admin.DropDeadLetters(admin_service_pb2.DropDeadLettersRequest(all=True))
            await kill(h, 5)
            assert [letter.dead_letter_id for letter in (await letters(h)).dead_letters] == [5]


async def test_a_replayed_message_is_published_again_once() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await publish(h, "p", 1, "a", "b")
            await kill(h, 2)
            replay = admin_service_pb2.ReplayDeadLettersRequest(request_id="r", dead_letter_ids=[1])
            for _ in range(2):
                assert list((await h.admin.ReplayDeadLetters(replay)).task_ids) == []
            held = await h.node.rooms.messages.read(2, 10, 1000)
            assert held.last == 3
            (again,) = message_pb2.MessageBatch.FromString(held.chunk.segments[0].payload).messages
            assert again.payload == b"b"
            assert (await letters(h)).dead_letters == []
            found = await line(h, "message.publish")
            assert (found.produced_count, found.delivered_count, found.balanced) == (3, 3, True)


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        (
            "ListDeadLetters",
            admin_service_pb2.ListDeadLettersRequest(page_size=1001),
            "INVALID_ARGUMENT",
            "OUT_OF_RANGE",
        ),
        (
            "ListDeadLetters",
            admin_service_pb2.ListDeadLettersRequest(page_token="1 OR 1"),
            "INVALID_ARGUMENT",
            "BAD_PAGE_TOKEN",
        ),
        ("ReplayDeadLetters", admin_service_pb2.ReplayDeadLettersRequest(), "INVALID_ARGUMENT", "BAD_SELECTION"),
        (
            "ReplayDeadLetters",
            admin_service_pb2.ReplayDeadLettersRequest(dead_letter_ids=[7]),
            "NOT_FOUND",
            "UNKNOWN_DEAD_LETTER",
        ),
        (
            "DropDeadLetters",
            admin_service_pb2.DropDeadLettersRequest(dead_letter_ids=[1], all=True),
            "INVALID_ARGUMENT",
            "BAD_SELECTION",
        ),
        (
            "DropDeadLetters",
            admin_service_pb2.DropDeadLettersRequest(dead_letter_ids=range(1, 1002)),
            "INVALID_ARGUMENT",
            "TOO_MANY",
        ),
    ],
)
async def test_bad_requests_are_refused(method: str, request_: Any, code: str, reason: str) -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            error = await refused(getattr(h.admin, method)(request_, timeout=10))
            assert (error.problem.code.name, error.reason) == (code, reason)
            assert error.problem.hint
