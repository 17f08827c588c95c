import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgenode.link.errors import Aborted, ResourceExhausted, Unavailable
from edgenode.link.model.lanes import Segment
from edgenode.link.store import logs
from edgenode.link.store.database import IN_MEMORY, Database
from edgenode.link.store.retention import Retention
from edgenode.node import ledger, message_log
from edgenode.node.message_log import Frame, MessageLog, Producer
from edgenode.node.store import MIGRATIONS
from edgenode.node.task_book import TASK_LOG


class Log:
    def __init__(self, database: Database, log: MessageLog) -> None:
        self.database = database
        self.log = log
        self.settled: list[Frame] = []

    def submit(
        self, producer: Producer, count: int, payload: bytes = b"x", refused: dict[str, int] | None = None
    ) -> Frame:
        segment = Segment(count, payload, 1.0) if count else None
        total = count + sum((refused or {}).values())
        frame = Frame(producer, producer.submitted + total, segment, self.settled.append, refused or {})
        self.log.submit(frame)
        return frame

    async def publish_line(self) -> tuple[int, int, dict[str, int], int, bool]:
        duplicates = self.log.unwritten_duplicates
        (line, *_) = await self.database.read(lambda connection: ledger.lines(connection, "", duplicates))
        return (
            line.produced_count,
            line.delivered_count,
            dict(line.dropped_counts),
            line.duplicate_count,
            line.balanced,
        )


@asynccontextmanager
async def opened(path: Path | str = IN_MEMORY, retention: int = 1 << 20, limit: int = 1 << 30) -> AsyncIterator[Log]:
    database = await Database.open(path, MIGRATIONS, application_id=1, limit_bytes=limit)
    log = MessageLog(database, Retention(keep_bytes=retention))
    await log.open("epoch")
    await database.write(lambda connection: logs.ensure_log(connection, TASK_LOG, "epoch"))
    try:
        yield Log(database, log)
    finally:
        await log.close()
        await database.close()


async def test_frames_of_a_busy_moment_share_commits_and_keep_their_order() -> None:
    async with opened() as h:
        one, two = await h.log.attach("one"), await h.log.attach("two")
        appended: list[int] = []
        h.log.on_append.append(appended.append)
        before = h.database.commits
        frames = [h.submit(producer, 2) for _ in range(10) for producer in (one, two)]
        assert (one.committed, one.submitted) == (0, 20)
        await asyncio.gather(one.idle(), two.idle())
        assert h.database.commits - before <= 2
        assert h.settled == frames
        assert [frame.log_sequence for frame in frames] == list(range(2, 42, 2))
        assert (one.committed, one.log_sequence, two.log_sequence, h.log.last) == (20, 38, 40, 40)
        assert appended[-1] == 40


async def test_a_producer_stands_where_it_was_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    async with opened(path) as h:
        producer = await h.log.attach("p")
        h.submit(producer, 5)
        h.submit(producer, 3, refused={"BAD_TOPIC": 2})
        await producer.idle()
        epoch = h.log.epoch
    async with opened(path) as h:
        producer = await h.log.attach("p")
        assert (producer.committed, producer.submitted, producer.log_sequence) == (10, 10, 8)
        assert (h.log.last, h.log.epoch) == (8, epoch)
        assert (await h.log.attach("unknown")).committed == 0


async def test_a_takeover_waits_for_what_is_on_its_way_and_fails_the_older_stream() -> None:
    async with opened() as h:
        old = await h.log.attach("p")
        h.submit(old, 5)
        new = await h.log.attach("p")
        assert new.committed == 5
        with pytest.raises(Aborted) as refused:
            h.submit(old, 1)
        assert refused.value.reason == "PRODUCER_TAKEN_OVER"
        h.log.release(old)
        h.submit(new, 1)
        await new.idle()
        assert h.log.last == 6


async def test_nothing_is_stored_over_a_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as h:
        producer, other = await h.log.attach("p"), await h.log.attach("q")
        real = logs.append

        def fail_for_small(connection: sqlite3.Connection, log_id: int, segments: list[Segment]) -> int:
            if any(segment.payload == b"bad" for segment in segments):
                raise sqlite3.OperationalError("disk I/O error")
            return real(connection, log_id, segments)

        monkeypatch.setattr(logs, "append", fail_for_small)
        monkeypatch.setattr(message_log, "MAX_COMMIT_BYTES", 1)  # a commit for each frame
        frames = [h.submit(producer, 1), h.submit(producer, 1, b"bad"), h.submit(producer, 1), h.submit(other, 1)]
        await asyncio.gather(producer.idle(), other.idle())
        assert [frame.failure is None for frame in frames] == [True, False, False, True]
        assert isinstance(frames[1].failure, Unavailable)
        with pytest.raises(Unavailable):
            h.submit(producer, 1)
        again = await h.log.attach("p")
        assert again.committed == 1
        assert (await h.publish_line())[:2] == (2, 2)


async def test_the_ledger_counts_what_was_stored_refused_and_sent_again() -> None:
    async with opened() as h:
        producer = await h.log.attach("p")
        h.submit(producer, 4, refused={"BAD_TOPIC": 1, "MESSAGE_TOO_LARGE": 2})
        h.submit(producer, 0, refused={"BAD_TOPIC": 1})
        h.log.count_duplicates(3)
        assert h.log.unwritten_duplicates == 3
        await producer.idle()
        h.log.count_duplicates(2)
        assert await h.publish_line() == (8, 4, {"BAD_TOPIC": 2, "MESSAGE_TOO_LARGE": 2}, 5, True)
        await h.database.write(
            lambda connection: connection.execute(
                "UPDATE log SET next_sequence = next_sequence - 1 WHERE name = 'messages'"
            )
        )
        assert (await h.publish_line())[4] is False


async def test_a_full_store_refuses_before_it_takes() -> None:
    async with opened(limit=1 << 20) as h:
        producer = await h.log.attach("p")

        async def fill() -> None:
            for _ in range(100):
                h.submit(producer, 1, b"x" * 50_000)
                await producer.idle()

        with pytest.raises(ResourceExhausted) as refused:
            await fill()
        assert refused.value.reason == "STORE_FULL"
        assert refused.value.problem.retry_after
        last = h.log.last
        assert producer.committed == producer.submitted == last > 5
        assert h.settled[-1].failure is None


async def test_what_all_consumers_have_is_trimmed_down_to_the_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_log, "TRIM_SEGMENTS", 1)
    async with opened(retention=300) as h:
        producer = await h.log.attach("p")

        async def publish(count: int) -> logs.LogState:
            for _ in range(count):
                h.submit(producer, 1, b"x" * 100)
                await producer.idle()
            return await h.database.read(lambda connection: logs.log_state(connection, "messages"))

        assert (await publish(10)).first >= 7
        state = await h.database.write(lambda connection: logs.log_state(connection, "messages"))
        await h.database.write(
            lambda connection: logs.ensure_consumer(connection, state.log_id, "sub/slow", state.last)
        )
        state = await publish(10)
        assert state.first == 11
        await h.database.write(lambda connection: logs.acknowledge(connection, state.log_id, "sub/slow", 20))
        assert (await publish(1)).first >= 18


async def test_forgotten_producers_are_the_oldest_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_log, "TRIM_SEGMENTS", 1)
    monkeypatch.setattr(message_log, "MAX_PRODUCERS", 3)
    async with opened() as h:
        for number in range(8):
            producer = await h.log.attach(f"p{number}")
            h.submit(producer, 1)
            await producer.idle()
            h.log.release(producer)
        kept = await h.database.read(
            lambda connection: [row[0] for row in connection.execute("SELECT producer_id FROM producer ORDER BY 1")]
        )
        assert kept == ["p4", "p5", "p6", "p7"]


async def test_the_hubs_acknowledgement_only_rises() -> None:
    async with opened() as h:
        told: list[int] = []
        h.log.on_hub_advance.add(told.append)
        for sequence in (3, 2, 3, 7):
            h.log.on_hub_acknowledged(sequence)
        assert told == [3, 7]
