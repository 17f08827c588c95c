"""Messages in SQLite: one log, segments unread, every subscription a consumer of it."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Sequence

from edgenode.link.model.lanes import Applied, Chunk, Segment
from edgenode.link.store import logs
from edgenode.link.store.database import Database
from hub.store.records import Intake
from hub.store.tasks import uplink_accept, uplink_reason

LOG = "messages"
STORED = "message.stored"
DROPPED = "message.dropped"
KNOWN = "uplink.known"
SWEEP_SEGMENTS = 500

Cut = Callable[[Segment, int], Segment]


class SqliteMessageStore:
    """hub.store.ports.MessageStore. `cut(segment, n)` is the segment without its first `n` entries; call `prepare` first."""

    def __init__(self, database: Database, cut: Cut, new_epoch: Callable[[], str]) -> None:
        self._database = database
        self._cut = cut
        self._new_epoch = new_epoch
        self._log_id = 0

    async def prepare(self) -> str:
        """Open the log for this process, made if it is missing; returns its epoch."""
        epoch = self._new_epoch()
        state = await self._database.write(lambda connection: logs.open_log(connection, LOG, epoch))
        self._log_id = state.log_id
        return state.epoch

    async def append(self, intake: Intake) -> tuple[Applied, int]:
        """See MessageStore."""
        self._database.check_room(sum(len(segment.payload) for segment in intake.segments))

        def run(connection: sqlite3.Connection) -> tuple[Applied, int]:
            fresh = uplink_accept(connection, intake)
            segments, known = self._new_segments(connection, intake, fresh)
            if known:
                reason = uplink_reason(intake.node, intake.lane, intake.epoch)
                logs.count(connection, KNOWN, reason, known)
                _uncount(connection, intake, known)
            if segments:
                logs.append(connection, self._log_id, segments)
                logs.count(connection, STORED, intake.node, sum(segment.count for segment in segments))
            end = intake.base - 1 + sum(segment.count for segment in intake.segments)
            return Applied(end), logs.log_state(connection, LOG).last

        return await self._database.write(run)

    def _new_segments(
        self, connection: sqlite3.Connection, intake: Intake, fresh: logs.Fresh
    ) -> tuple[list[Segment], int]:
        """Segments to store, under their origin's key, and how many entries were known under an earlier epoch."""
        taken: list[Segment] = []
        known = 0
        sequence = fresh.base
        for segment in fresh.segments:
            start, sequence = sequence, sequence + segment.count
            skip = fresh.skip if not taken and start == fresh.base else 0
            origin = segment
            if not segment.origin_node:
                origin = dataclasses.replace(segment, origin_node=intake.node)
            if not segment.origin_epoch:
                origin = dataclasses.replace(origin, origin_epoch=intake.epoch, origin_sequence=start)
            old = _known_entries(connection, intake, origin)
            known += max(old - skip, 0)
            skip = max(skip, old)
            if skip < segment.count:
                taken.append(self._cut(origin, skip) if skip else origin)
        return taken, known

    async def read(self, after: int, max_count: int, max_bytes: int) -> tuple[Chunk, int]:
        """See MessageStore."""

        def run(connection: sqlite3.Connection) -> tuple[Chunk, int]:
            chunk = logs.read(connection, self._log_id, after, max_count, max_bytes)
            return chunk, logs.log_state(connection, LOG).last

        return await self._database.read(run)

    async def bounds(self) -> tuple[int, int]:
        """See MessageStore."""
        state = await self._database.read(lambda connection: logs.log_state(connection, LOG))
        return state.first, state.last

    async def subscribed(self, name: str) -> int | None:
        """See MessageStore."""
        return await self._database.read(lambda connection: logs.consumers(connection, self._log_id).get(name))

    async def subscribe(self, name: str, after: int) -> int:
        """See MessageStore."""
        return await self._database.write(
            lambda connection: logs.ensure_consumer(connection, self._log_id, name, after)
        )

    async def acknowledge(self, name: str, sequence: int) -> None:
        """See MessageStore."""
        await self._database.write(lambda connection: logs.acknowledge(connection, self._log_id, name, sequence))

    async def sweep(self, keep_bytes: int, hard_bytes: int) -> int:
        """See MessageStore."""

        def run(connection: sqlite3.Connection) -> int:
            deleted = logs.trim(connection, self._log_id, keep_bytes, SWEEP_SEGMENTS)
            if deleted:
                logs.count(connection, DROPPED, "RETENTION", deleted)
            elif logs.log_state(connection, LOG).held_bytes > hard_bytes:
                deleted = _drop_oldest(connection, self._log_id, hard_bytes)
                logs.count(connection, DROPPED, "UNREAD", deleted)
            return deleted

        return await self._database.write(run)


def _known_entries(connection: sqlite3.Connection, intake: Intake, segment: Segment) -> int:
    """How many of a segment's entries came before under another epoch than this time.

    What comes under a later epoch than its own is noted apart from the cursors, for the copy of a disk may send it as well.
    """
    key = (intake.node, intake.lane, segment.origin_epoch)
    known = connection.execute(
        "SELECT sequence FROM known_origin WHERE node = ? AND lane = ? AND epoch = ?", key
    ).fetchone()
    if segment.origin_epoch != intake.epoch:
        cursor = connection.execute(
            "SELECT sequence FROM inbox_cursor WHERE peer = ? AND lane = ? AND epoch = ?", key
        ).fetchone()
        known = max((row for row in (known, cursor) if row is not None), default=None)
        connection.execute(
            "INSERT INTO known_origin VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET sequence = max(sequence, excluded.sequence)",
            (*key, segment.origin_sequence + segment.count - 1),
        )
    return 0 if known is None else int(min(max(known[0] - segment.origin_sequence + 1, 0), segment.count))


def _uncount(connection: sqlite3.Connection, intake: Intake, known: int) -> None:
    connection.execute(
        "UPDATE inbox_cursor SET applied_count = applied_count - ? WHERE peer = ? AND lane = ? AND epoch = ?",
        (known, intake.node, intake.lane, intake.epoch),
    )


def _drop_oldest(connection: sqlite3.Connection, log_id: int, keep_bytes: int) -> int:
    """Delete the oldest segments although somebody has not read them: the bound on the file is hard."""
    behind: Sequence[tuple[str, int]] = list(logs.consumers(connection, log_id).items())
    last = logs.log_state(connection, LOG).last
    # Whoever is behind is moved on past what goes; its subscriber is told of the gap when it reads.
    for name, _ in behind:
        logs.acknowledge(connection, log_id, name, last)
    deleted = logs.trim(connection, log_id, keep_bytes, SWEEP_SEGMENTS)
    first = logs.log_state(connection, LOG).first
    connection.executemany(
        "UPDATE consumer SET acked_sequence = ? WHERE log_id = ? AND name = ?",
        [(max(acked, first - 1), log_id, name) for name, acked in behind],
    )
    return deleted
