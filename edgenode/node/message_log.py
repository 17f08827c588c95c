"""What was published on this node: one log of segments, and how far each producer has come.

Theory of operation. Frames of all publishers wait in one list; when the commit under way returns, the list becomes the next
transaction: segments, the producers' last numbers and the ledger's counts together. So a frame that is sent again after any
crash is known by its numbers, and the counts agree with the log whatever happens. One future and one wake-up serve a whole
commit; nothing is awaited for a message or a frame.

A producer's numbers may only be stored in order. If a commit fails, what of that producer waits behind it must fail too: its
state here is marked, and the next stream begins from what the store says. A stream that takes a producer over waits until
nothing of the old one is under way.

What every consumer (the parent, durable subscriptions) has acknowledged is trimmed, but for the retention kept for those
who want to read from the start.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgenode.link.errors import Aborted, EdgenodeError, Internal, ResourceExhausted
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.lanes import Lane, Segment
from edgenode.link.store import logs
from edgenode.link.store.database import Database
from edgenode.link.store.reading import read_log
from edgenode.link.store.retention import Retention
from edgenode.link.store.writes import TRANSACTION_BYTES
from edgenode.link.wire.subscriptions import Stretch
from edgenode.link.wire.unread import Held
from edgenode.node.refusals import Refusals

SCHEMA = """
CREATE TABLE producer (
    producer_id TEXT PRIMARY KEY,
    last_sequence INTEGER NOT NULL,
    log_sequence INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX producer_age ON producer (log_sequence);
"""

LOG_NAME = "messages"
PARENT = "parent"  # the link's name among the log's consumers
PRODUCED = "message.publish"  # counter by outcome; reasons of refusals stand beside STORED
STORED = "STORED"
DUPLICATE = "DUPLICATE"
REPLAYED = "REPLAYED"  # dead letters that were appended again

MAX_COMMIT_BYTES = TRANSACTION_BYTES
MAX_WAITING_BYTES = 64 << 20  # of the frames of all publishers together that are not committed
# Producers are forgotten by age in the log, not by a clock that may jump.
MAX_PRODUCERS = 10_000
TRIM_SEGMENTS = 250
TRIM_BYTES = 1024 * 1024

_log = logging.getLogger(__name__)


class Producer:
    """A publisher with an open stream. Numbers are its own: `submitted` were taken, `committed` are durable."""

    __slots__ = (
        "_idle",
        "_pending",
        "broken",
        "committed",
        "failure",
        "log_sequence",
        "older",
        "producer_id",
        "submitted",
    )

    def __init__(self, producer_id: str, older: Producer | None) -> None:
        self.producer_id = producer_id
        self.older = older  # the one it takes over from, until nothing of that is on its way
        self.submitted = 0
        self.committed = 0
        self.log_sequence = 0  # position of its newest entry in the log
        self.failure: EdgenodeError | None = None  # takes no more frames
        self.broken = False  # a frame was not stored: those behind it must not be either
        self._pending = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pending(self) -> bool:
        """Whether anything is on its way."""
        return self._pending > 0 or (self.older is not None and self.older.pending)

    def begin(self, last: int) -> None:
        """A frame up to `last` is on its way."""
        self.submitted = last
        self._pending += 1
        self._idle.clear()

    def end(self) -> None:
        """A frame was committed or has failed."""
        self._pending -= 1
        if not self._pending:
            self._idle.set()

    async def idle(self) -> None:
        """Returns when nothing is on its way, of this one or of those before it."""
        if self.older is not None:
            await self.older.idle()
        await self._idle.wait()


@dataclass(slots=True)
class Frame:
    """Messages of one producer up to its number `last`. `segment` is None where none of them is stored.

    `settled(frame)` is called on the loop when the frame is committed (`log_sequence` then says where) or `failure` is set.
    """

    producer: Producer
    last: int
    segment: Segment | None
    settled: Callable[[Frame], None]
    refused: Mapping[str, int] = field(default_factory=dict)  # how many by reason
    log_sequence: int = 0
    failure: EdgenodeError | None = None

    @property
    def size(self) -> int:
        """Payload bytes."""
        return len(self.segment.payload) if self.segment is not None else 0

    @property
    def disk_bytes(self) -> int:
        """What it takes of the store."""
        return logs.disk_bytes(len(self.segment.payload)) if self.segment is not None else 0


class MessageLog:
    """The log "messages". Call `open` first; then everything from the event loop; `close` at the end."""

    def __init__(self, database: Database, retention: Retention) -> None:
        self.on_append: list[
            Callable[[int], None]
        ] = []  # called with the newest position after each commit that appended
        self.on_hub_advance: set[Callable[[int], None]] = set()  # called with the position the hub has committed
        self.hub_acknowledged = 0
        self.last = 0
        self.epoch = ""
        self._database = database
        self._retention = retention
        self._log_id = 0
        self._producers: dict[str, Producer] = {}
        self._pending: list[Frame] = []
        self._waiting_bytes = 0  # of the frames that wait for the next transaction, as the file will hold them
        self.uncommitted = Held(MAX_WAITING_BYTES)
        self._committer: asyncio.Task[None] | None = None
        self._room_maker: asyncio.Task[None] | None = None
        self._refusals = Refusals(database, PRODUCED)
        self._duplicates = 0
        self._untrimmed_segments = 0
        self._untrimmed_bytes = 0

    async def open(self, new_epoch: str) -> None:
        """Make the log if it is missing, and read where it stands."""

        def run(connection: sqlite3.Connection) -> tuple[logs.LogState, int]:
            state = logs.open_log(connection, LOG_NAME, new_epoch)
            return state, logs.consumers(connection, state.log_id).get(PARENT, 0)

        state, self.hub_acknowledged = await self._database.write(run)
        self._log_id, self.epoch, self.last = state.log_id, state.epoch, state.last

    @property
    def log_id(self) -> int:
        """Number of the log in the store."""
        return self._log_id

    # --- producers ----------------------------------------------------------------------------------------------------

    async def attach(self, producer_id: str) -> Producer:
        """Take a producer over: an older stream of it fails with Aborted (PRODUCER_TAKEN_OVER), what it sent is settled."""
        older = self._producers.get(producer_id)
        producer = self._producers[producer_id] = Producer(producer_id, older)
        try:
            if older is not None:
                older.failure = older.failure or _taken_over(producer_id)
                await older.idle()
            row = await self._database.read(
                lambda connection: connection.execute(
                    "SELECT last_sequence, log_sequence FROM producer WHERE producer_id = ?", (producer_id,)
                ).fetchone()
            )
        except BaseException:
            self._forget(producer)
            raise
        producer.older = None
        if row is not None:
            producer.submitted = producer.committed = row[0]
            producer.log_sequence = row[1]
        return producer

    def release(self, producer: Producer) -> None:
        """The stream is over. What it sent is still committed."""
        producer.failure = producer.failure or _taken_over(producer.producer_id)
        self._forget(producer)

    def _forget(self, producer: Producer) -> None:
        if not producer.pending and self._producers.get(producer.producer_id) is producer:
            del self._producers[producer.producer_id]

    def count_duplicates(self, count: int) -> None:
        """Messages came again and were discarded; written with the next commit."""
        self._duplicates += count

    @property
    def unwritten_duplicates(self) -> int:
        """Duplicates counted since the last commit."""
        return self._duplicates

    # --- appending ----------------------------------------------------------------------------------------------------

    def submit(self, frame: Frame) -> None:
        """Store a frame with the next commit.

        Raises ResourceExhausted (LANE_FULL, STORE_FULL), or what became of the producer.
        """
        producer = frame.producer
        if producer.failure is not None:
            raise producer.failure
        self._check_room(frame)
        producer.begin(frame.last)
        self._pending.append(frame)
        self.uncommitted.add(frame.size)
        self._waiting_bytes += frame.disk_bytes
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit_pending(), name="message-commit")

    def _check_room(self, frame: Frame) -> None:
        try:
            self._database.check_room(self._waiting_bytes + frame.disk_bytes, Lane.MESSAGE)
        except ResourceExhausted as error:
            self._refusals.note(error.reason, frame.segment.count if frame.segment is not None else 0)
            if self._room_maker is None:
                self._room_maker = asyncio.create_task(self._make_room(), name="message-room")
            raise

    async def _make_room(self) -> None:
        """Let go of what is kept although everybody has it."""
        try:
            while await self._database.write(lambda connection: self._retention.trim(connection, self._log_id)):
                pass
        except EdgenodeError as error:
            _log.warning("no room could be made for messages: %s", error)
        finally:
            self._room_maker = None

    async def _commit_pending(self) -> None:
        try:
            while self._pending:
                batch = self._take()
                if not batch:
                    continue
                duplicates, self._duplicates = self._duplicates, 0
                trim = self._trim_due(batch)
                try:
                    base, last, self.epoch = await self._database.write(
                        lambda connection, b=batch, d=duplicates, t=trim: self._store(connection, b, d, t),  # type: ignore[misc]
                        size=sum(frame.disk_bytes for frame in batch),
                        lane=Lane.MESSAGE,
                    )
                except Exception as error:
                    self._duplicates += duplicates
                    self._fail(batch, error)
                    continue
                reach(Failpoint.PUBLISH_COMMITTED)
                self._settle(batch, base, last)
        finally:
            self._committer = None

    def _take(self) -> list[Frame]:
        """The next transaction's frames, in order; those of failed producers fail here."""
        batch: list[Frame] = []
        size = taken = 0
        for frame in self._pending:
            if batch and size + frame.size > MAX_COMMIT_BYTES:
                break
            taken += 1
            self._waiting_bytes -= frame.disk_bytes
            failure = frame.producer.failure
            if failure is not None and frame.producer.broken:
                self._settle_failed(frame, failure)
                continue
            batch.append(frame)
            size += frame.size
        del self._pending[:taken]
        return batch

    def _store(
        self, connection: sqlite3.Connection, batch: Sequence[Frame], duplicates: int, trim: bool
    ) -> tuple[int, int, str]:
        """(position of the first new entry, position of the last, the log's epoch: the link may have renewed it)."""
        segments = [frame.segment for frame in batch if frame.segment is not None]
        base = logs.append(connection, self._log_id, segments)
        position = base - 1
        newest: dict[str, tuple[str, int, int]] = {}
        counts = {DUPLICATE: duplicates}
        for frame in batch:
            if frame.segment is not None:
                position += frame.segment.count
            newest[frame.producer.producer_id] = (frame.producer.producer_id, frame.last, position)
            for reason, count in frame.refused.items():
                counts[reason] = counts.get(reason, 0) + count
        counts[STORED] = position - base + 1
        connection.executemany(
            "INSERT INTO producer VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET"
            " last_sequence = excluded.last_sequence, log_sequence = excluded.log_sequence",
            newest.values(),
        )
        logs.count_many(connection, [(PRODUCED, reason, count) for reason, count in counts.items() if count])
        if trim:
            self._retention.trim(connection, self._log_id)
            connection.execute(
                "DELETE FROM producer WHERE log_sequence < (SELECT log_sequence FROM producer"
                " ORDER BY log_sequence DESC LIMIT 1 OFFSET ?)",
                (MAX_PRODUCERS,),
            )
        return base, position, logs.log_state(connection, LOG_NAME).epoch

    def _trim_due(self, batch: Sequence[Frame]) -> bool:
        self._untrimmed_segments += len(batch)
        self._untrimmed_bytes += sum(frame.size for frame in batch)
        if self._untrimmed_segments < TRIM_SEGMENTS and self._untrimmed_bytes < TRIM_BYTES:
            return False
        self._untrimmed_segments = self._untrimmed_bytes = 0
        return True

    def _settle(self, batch: Sequence[Frame], base: int, last: int) -> None:
        position = base - 1
        for frame in batch:
            if frame.segment is not None:
                position += frame.segment.count
            frame.log_sequence = position
            producer = frame.producer
            producer.committed, producer.log_sequence = frame.last, position
            self._end(frame)
        self._advance(last)

    def _fail(self, batch: Sequence[Frame], error: Exception) -> None:
        failure = error if isinstance(error, EdgenodeError) else _defect(error)
        for frame in batch:
            self._settle_failed(frame, failure)

    def _settle_failed(self, frame: Frame, failure: EdgenodeError) -> None:
        frame.producer.broken = True
        frame.producer.failure = failure
        frame.failure = failure
        self._end(frame)

    def _end(self, frame: Frame) -> None:
        self.uncommitted.remove(frame.size)
        frame.producer.end()
        if frame.producer.failure is not None:
            self._forget(frame.producer)
        frame.settled(frame)

    async def replay(self, work: Callable[[sqlite3.Connection], Sequence[Segment]]) -> None:
        """Append what `work` returns, in its transaction; counted as REPLAYED."""

        def run(connection: sqlite3.Connection) -> int:
            segments = work(connection)
            logs.append(connection, self._log_id, segments)
            logs.count(connection, PRODUCED, REPLAYED, sum(segment.count for segment in segments))
            return logs.log_state(connection, LOG_NAME).last

        self._advance(await self._database.write(run))

    def _advance(self, last: int) -> None:
        if last > self.last:
            self.last = last
            for notify in self.on_append:
                notify(last)

    # --- the hub ------------------------------------------------------------------------------------------------------

    def on_hub_acknowledged(self, sequence: int) -> None:
        """The parent has committed everything up to position `sequence`."""
        if sequence > self.hub_acknowledged:
            self.hub_acknowledged = sequence
            for notify in list(self.on_hub_advance):
                notify(sequence)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(self, after: int, max_count: int, max_bytes: int) -> Stretch:
        """Whole segments with entries past `after`, at least one if there is any."""
        reading = await read_log(self._database, LOG_NAME, after, max_count, max_bytes)
        return Stretch(reading.chunk, reading.state.last, reading.state.epoch, reading.gap_reason)

    async def close(self) -> None:
        """Wait until nothing is on its way. Safe to call twice."""
        while under_way := [task for task in (self._committer, self._room_maker) if task is not None]:
            await asyncio.wait(under_way)
        await self._refusals.close()


def _taken_over(producer_id: str) -> Aborted:
    return Aborted(
        "PRODUCER_TAKEN_OVER",
        f"another stream publishes as {producer_id}",
        hint="give each publisher a producer id of its own",
        producer_id=producer_id,
    )


def _defect(error: Exception) -> Internal:
    return Internal("STORE_FAILED", f"the messages could not be stored: {error!r}", hint="see the node's log")
