"""Messages in SQLite: one log, segments unread, every subscription a consumer of it.

Segments keep the key of their origin (node, epoch, sequence) over every hop; where they come through a hub below, its name
is put before the node's. An entry whose key came before is known, by whichever link it comes: so what a child stored anew
under another epoch is taken once, and nothing runs in a circle while hubs are being joined to one.

Messages of one epoch are in order, always. A process begins behind what the one before it stored, so those of a node are,
too; but where a hub was restored, and the disk that came first did not keep what it lacks, a copy of that disk or an older
one may bring it later. It is taken then, behind what followed it: it was stated as gone, and nobody else has it.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Sequence

from edgenode.link.errors import InvalidArgument
from edgenode.link.model.lanes import Applied, Lane, Rejection, Segment
from edgenode.link.model.names import check_node_path
from edgenode.link.store import inbox, logs
from edgenode.link.store.database import Database
from edgenode.link.store.reading import Reading, read_log
from hub.store.records import Intake
from hub.store.schema import MESSAGE_LOG
from hub.store.tasks import accept

LOG = MESSAGE_LOG
STORED = "message.stored"
DROPPED = "message.dropped"
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
        size = sum(logs.disk_bytes(len(segment.payload)) for segment in intake.segments)
        self._database.check_room(size, Lane.MESSAGE)

        def run(connection: sqlite3.Connection) -> tuple[Applied, int]:
            fresh = accept(connection, intake)
            segments, known, rejections = self._new_segments(connection, intake, fresh)
            if known:
                inbox.count_known(connection, intake.node, intake.lane, intake.epoch, known)
            if segments:
                logs.append(connection, self._log_id, segments)
                logs.count(connection, STORED, intake.node, sum(segment.count for segment in segments))
            if rejections:
                inbox.reject(connection, intake.node, intake.lane, intake.epoch, rejections)
            end = intake.base - 1 + sum(segment.count for segment in intake.segments)
            return Applied(end, tuple(rejections)), logs.log_state(connection, LOG).last

        return await self._database.write(run, size=size, lane=Lane.MESSAGE)

    def _new_segments(
        self, connection: sqlite3.Connection, intake: Intake, fresh: inbox.Fresh
    ) -> tuple[list[Segment], int, list[Rejection]]:
        """Segments to store, under their origin's key, how many entries were known by it, and what cannot be taken."""
        taken: list[Segment] = []
        known = 0
        rejections: list[Rejection] = []
        sequence = fresh.base
        for segment in fresh.segments:
            start, sequence = sequence, sequence + segment.count
            skip = fresh.skip if not taken and start == fresh.base else 0
            try:
                origin = dataclasses.replace(segment, origin_node=_origin_node(intake.node, segment.origin_node))
            except InvalidArgument as error:
                rejections += [Rejection(start + place, error.problem) for place in range(skip, segment.count)]
                continue
            if not segment.origin_epoch:
                origin = dataclasses.replace(origin, origin_epoch=intake.epoch, origin_sequence=start)
            old = _known_entries(connection, intake, origin)
            known += max(old - skip, 0)
            skip = max(skip, old)
            if skip < segment.count:
                taken.append(self._cut(origin, skip) if skip else origin)
        return taken, known, rejections

    async def read(self, after: int, max_count: int, max_bytes: int) -> Reading:
        """See MessageStore."""
        return await read_log(self._database, LOG, after, max_count, max_bytes)

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

    async def sweep(self, keep_bytes: int, drop_bytes: int) -> int:
        """See MessageStore."""
        keep = 0 if self._database.budget.scarce(Lane.MESSAGE) else keep_bytes

        def run(connection: sqlite3.Connection) -> int:
            deleted, _ = logs.trim(connection, self._log_id, keep, SWEEP_SEGMENTS)
            state = logs.log_state(connection, LOG)
            excess = state.disk_bytes - drop_bytes
            if deleted:
                logs.count(connection, DROPPED, "RETENTION", deleted)
            elif drop_bytes and excess > 0:
                deleted = _drop_oldest(connection, self._log_id, max(state.held_bytes - excess, 0))
                logs.count(connection, DROPPED, "UNREAD", deleted)
            return deleted

        return await self._database.write(run)


def _origin_node(sender: str, origin: str) -> str:
    """Where a segment comes from, as seen here. Raises InvalidArgument (BAD_NAME)."""
    return check_node_path(f"{sender}/{origin}", "origin_node") if origin else sender


def _known_entries(connection: sqlite3.Connection, intake: Intake, segment: Segment) -> int:
    """How many of a segment's entries came before under another epoch than this time.

    What comes under a later epoch than its own, or through a hub, is noted apart from the cursors, for the copy of a disk may
    send it as well. An epoch is random and known to those on an entry's way only, so it is looked for on every link.
    """
    key = (segment.origin_epoch, intake.lane)
    known = connection.execute("SELECT max(sequence) FROM known_origin WHERE epoch = ? AND lane = ?", key).fetchone()[0]
    if segment.origin_epoch != intake.epoch:
        cursor = connection.execute(
            "SELECT max(sequence) FROM inbox_cursor WHERE epoch = ? AND lane = ?", key
        ).fetchone()[0]
        known = max((sequence for sequence in (known, cursor) if sequence is not None), default=None)
        _note_origin(connection, intake, segment)
    return 0 if known is None else int(min(max(known - segment.origin_sequence + 1, 0), segment.count))


def _note_origin(connection: sqlite3.Connection, intake: Intake, segment: Segment) -> None:
    """Remember how far the entries of an epoch came over a link under a later one.

    Of each origin the newest epochs are kept, as many as cursors of a lane and for the same reason: its log is read in order,
    so whoever sends has passed what is before them, and keeps nothing that old to fill up others.
    """
    last = segment.origin_sequence + segment.count - 1
    noted = connection.execute(
        "UPDATE known_origin SET sequence = max(sequence, ?) WHERE epoch = ? AND lane = ? AND node = ?",
        (last, segment.origin_epoch, intake.lane, intake.node),
    )
    if noted.rowcount:
        return
    of_origin = (intake.node, segment.origin_node, intake.lane)
    connection.execute(
        "INSERT INTO known_origin (node, origin_node, lane, epoch, sequence) VALUES (?, ?, ?, ?, ?)",
        (*of_origin, segment.origin_epoch, last),
    )
    connection.execute(
        "DELETE FROM known_origin WHERE node = :node AND origin_node = :origin AND lane = :lane AND origin_number <="
        " (SELECT origin_number FROM known_origin WHERE node = :node AND origin_node = :origin AND lane = :lane"
        " ORDER BY origin_number DESC LIMIT 1 OFFSET :kept)",
        {**dict(zip(("node", "origin", "lane"), of_origin, strict=True)), "kept": inbox.KEPT_CURSORS},
    )


def _drop_oldest(connection: sqlite3.Connection, log_id: int, keep_bytes: int) -> int:
    """Delete the oldest segments although somebody has not read them: the bound on the file is hard."""
    behind: Sequence[tuple[str, int]] = list(logs.consumers(connection, log_id).items())
    last = logs.log_state(connection, LOG).last
    # Whoever is behind is moved on past what goes; its subscriber is told of the gap when it reads.
    for name, _ in behind:
        logs.acknowledge(connection, log_id, name, last)
    deleted, _ = logs.trim(connection, log_id, keep_bytes, SWEEP_SEGMENTS)
    first = logs.log_state(connection, LOG).first
    connection.executemany(
        "UPDATE consumer SET acked_sequence = ?, skipped_count = skipped_count + ? WHERE log_id = ? AND name = ?",
        [(max(acked, first - 1), _skipped(connection, log_id, acked, first), log_id, name) for name, acked in behind],
    )
    return deleted


def _skipped(connection: sqlite3.Connection, log_id: int, acked: int, first: int) -> int:
    """How many entries between `acked` and `first` went unread; those that were lost before count as such."""
    if acked >= first - 1:
        return 0
    return first - 1 - acked - logs.lost(connection, log_id, acked) + logs.lost(connection, log_id, first - 1)
