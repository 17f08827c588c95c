"""The logs one side of a link sends from, kept in SQLite.

An acknowledgement that is lost in a crash costs a resend, which the other side discards. So while more of its lane is to be
acknowledged it waits, up to PATIENCE, for a commit that somebody else needs: a backlog that drains does not have those who
publish meanwhile wait for its commits beside their own. The last one of a lane goes at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence

from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.lanes import Chunk, Lane, LaneHead, Rejection, Segment
from edgenode.link.store import logs
from edgenode.link.store.database import Database
from edgenode.link.store.reading import read_log
from edgenode.link.store.retention import Retention

PATIENCE = 0.05  # seconds

OnRejected = Callable[[sqlite3.Connection, Lane, Sequence[Rejection]], None]
Tell = Callable[[sqlite3.Connection, Lane, Segment, int], Segment]
OnAcknowledged = Callable[[Lane, int, Sequence[Rejection]], None]


class SqliteOutbox:
    """`edgenode.link.ports.Outbox` over logs of one database.

    `lanes` names the log of each lane; `consumer` is the other side's name among their consumers. `on_rejected` runs in
    the transaction of an acknowledgement with rejections and dead-letters them. `retention` is what each lane keeps.
    `tell(connection, lane, segment, known)` is how a segment is told of which the other side acknowledged the first `known`
    entries before and has forgotten them; by default as it is.
    """

    def __init__(
        self,
        database: Database,
        lanes: Mapping[Lane, str],
        consumer: str,
        new_epoch: Callable[[], str],
        on_rejected: OnRejected,
        retention: Mapping[Lane, Retention] | None = None,
        tell: Tell | None = None,
    ) -> None:
        self._database = database
        self._lanes = lanes
        self._consumer = consumer
        self._new_epoch = new_epoch
        self._on_rejected = on_rejected
        self._retention = retention or {}
        self._tell = tell
        self._known: dict[Lane, int] = {}  # what the other side had acknowledged when the heads were read
        self._last: dict[Lane, int] = {}  # what each log holds, as far as it was told here
        self._notify: list[Callable[[Lane, int], None]] = []
        self._notify_acknowledged: list[OnAcknowledged] = []

    def ensure(self, connection: sqlite3.Connection) -> None:
        """Make the logs and the consumer if they are missing; call it once, in a transaction, before anything else."""
        for name in self._lanes.values():
            state = logs.ensure_log(connection, name, self._new_epoch())
            logs.ensure_consumer(connection, state.log_id, self._consumer, state.first - 1)

    async def heads(self) -> Sequence[LaneHead]:
        """Every lane's log."""

        def run(connection: sqlite3.Connection) -> list[LaneHead]:
            for lane, name in self._lanes.items():
                log_id = logs.log_state(connection, name).log_id
                self._known[lane] = logs.consumers(connection, log_id).get(self._consumer, 0)
            return [logs.head(connection, name, lane) for lane, name in self._lanes.items()]

        heads = await self._database.read(run)
        for head in heads:
            self._grown(head.lane, head.last)
        return heads

    def _grown(self, lane: Lane, last: int) -> None:
        self._last[lane] = max(self._last.get(lane, 0), last)

    async def read(self, lane: Lane, after: int, max_count: int, max_bytes: int) -> Chunk:
        """See Outbox."""
        name = self._lanes[lane]
        chunk = (await read_log(self._database, name, after, max_count, max_bytes)).chunk
        if self._tell is None or not chunk.segments or chunk.base > self._known.get(lane, 0):
            return chunk
        return await self._database.read(lambda connection: self._told_again(connection, lane, chunk))

    def _told_again(self, connection: sqlite3.Connection, lane: Lane, chunk: Chunk) -> Chunk:
        assert self._tell is not None
        acknowledged = self._known[lane]
        segments = []
        sequence = chunk.base
        for segment in chunk.segments:
            known = min(max(acknowledged - sequence + 1, 0), segment.count)
            segments.append(self._tell(connection, lane, segment, known) if known else segment)
            sequence += segment.count
        return Chunk(chunk.base, tuple(segments))

    async def acknowledged(self, lane: Lane, epoch: str, sequence: int, rejections: Sequence[Rejection]) -> None:
        """See Outbox."""
        name = self._lanes[lane]
        retention = self._retention.get(lane, Retention())

        def run(connection: sqlite3.Connection) -> tuple[int, Sequence[Rejection]] | None:
            """The log, if something was trimmed (0 if not), and the rejections that are new; None if nothing is."""
            state = logs.log_state(connection, name)
            known = logs.consumers(connection, state.log_id)[self._consumer]
            if state.epoch != epoch:
                return None
            # Named again by a cursor, or refused again by a side that was restored and refilled: kept the first time.
            fresh = [rejection for rejection in rejections if rejection.sequence > known]
            if fresh:
                self._on_rejected(connection, lane, fresh)
            if not logs.acknowledge(connection, state.log_id, self._consumer, sequence, len(fresh)):
                return None
            return state.log_id if retention.trim(connection, state.log_id) else 0, fresh

        more = sequence < self._last.get(lane, 0) and not rejections
        done = await self._database.write(run, patience=PATIENCE if more else 0.0)
        if done is None:
            return
        log_id, fresh = done
        reach(Failpoint.OUTBOX_ACKNOWLEDGED)
        for notify in self._notify_acknowledged:
            notify(lane, sequence, fresh)
        if log_id:
            # No other acknowledgement may follow: what this one frees goes now, in bounded steps.
            while await self._database.write(lambda connection: retention.trim(connection, log_id)):
                pass
            reach(Failpoint.OUTBOX_TRIMMED)

    async def renew_epoch(self, lane: Lane) -> LaneHead:
        """See Outbox."""
        name = self._lanes[lane]
        epoch = self._new_epoch()

        def run(connection: sqlite3.Connection) -> LaneHead:
            logs.renew_epoch(connection, name, epoch)
            return logs.head(connection, name, lane)

        return await self._database.write(run)

    async def trim(self) -> None:
        """Let go of what has become too old; call it now and then."""
        for lane, retention in self._retention.items():

            def run(connection: sqlite3.Connection, lane: Lane = lane, retention: Retention = retention) -> bool:
                return retention.trim(connection, logs.log_state(connection, self._lanes[lane]).log_id)

            while await self._database.write(run):
                pass

    def on_append(self, notify: Callable[[Lane, int], None]) -> None:
        """See Outbox."""
        self._notify.append(notify)

    def on_acknowledged(self, notify: OnAcknowledged) -> None:
        """Call `notify(lane, sequence, rejections)` on the event loop after an acknowledgement was committed."""
        self._notify_acknowledged.append(notify)

    def appended(self, lane: Lane, last: int) -> None:
        """Tell the link of a commit that appended up to `last`."""
        self._grown(lane, last)
        for notify in self._notify:
            notify(lane, last)
