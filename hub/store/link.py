"""Cursors and the ledger in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from edgenode.link.model.lanes import Applied, Lane, LaneCursor, LaneHead, Rejection
from edgenode.link.model.problem import Code, Problem
from edgenode.link.store import dead_letters, inbox, logs
from edgenode.link.store.database import Database
from edgenode.link.store.readers import readers
from hub.store import messages, tasks
from hub.store.records import PARENT, DownlinkCounts, Intake, LedgerFacts, SubscriptionCounts, UplinkCounts
from hub.store.schema import MESSAGE_LOG
from hub.store.tasks import accept


class SqliteLinkStore:
    """hub.store.ports.LinkStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cursors(self, node: str, heads: Sequence[LaneHead]) -> Sequence[LaneCursor]:
        """See LinkStore."""
        return await self._database.read(lambda connection: inbox.inbox_cursors(connection, node, heads))

    async def refuse(self, intake: Intake, reason: str, message: str) -> Applied:
        """See LinkStore."""
        problem = Problem(Code.UNIMPLEMENTED, reason, message, hint="compare the versions of hub and edge")

        def run(connection: sqlite3.Connection) -> Applied:
            fresh = accept(connection, intake)
            count = sum(segment.count for segment in fresh.segments) - fresh.skip
            first = fresh.base + fresh.skip
            rejections = tuple(Rejection(sequence, problem) for sequence in range(first, first + count))
            inbox.reject(connection, intake.node, intake.lane, intake.epoch, rejections)
            end = intake.base - 1 + sum(segment.count for segment in intake.segments)
            return Applied(end, rejections)

        return await self._database.write(run)

    async def received(self, node: str) -> Sequence[UplinkCounts]:
        """See LinkStore."""
        return await self._database.read(lambda connection: _uplinks(connection, node))

    async def sent(self, node: str) -> Sequence[DownlinkCounts]:
        """See LinkStore."""
        if node == PARENT:
            return await self._database.read(_to_parent)
        return await self._database.read(lambda connection: _downlinks(connection, f"down/{node}/%"))

    async def ledger(self) -> LedgerFacts:
        """See LinkStore."""
        return await self._database.read(ledger_facts)


def ledger_facts(connection: sqlite3.Connection) -> LedgerFacts:
    """The counts of every hop."""
    log = logs.log_state(connection, MESSAGE_LOG)
    held = connection.execute(
        "SELECT coalesce(sum(entry_count), 0) FROM segment WHERE position >= ? AND position < ?", _range(log.log_id)
    ).fetchone()[0]
    pending = connection.execute("SELECT count(*) FROM task WHERE state < 8").fetchone()[0]
    intakes = _uplinks(connection)
    damaged = logs.lost(connection, log.log_id)
    return LedgerFacts(
        uplinks=tuple(up for up in intakes if up.node != PARENT),
        downlinks=tuple(_downlinks(connection)),
        to_parent=tuple(_to_parent(connection)),
        from_parent=tuple(up for up in intakes if up.node == PARENT),
        tasks_accepted=sum(logs.counters(connection, tasks.ACCEPTED).values()),
        tasks_ended=logs.counters(connection, tasks.ENDED),
        tasks_discarded=logs.counters(connection, tasks.DISCARDED),
        tasks_pending=pending,
        messages_last=log.last,
        messages_first=log.first,
        messages_held=held,
        messages_stored=sum(logs.counters(connection, messages.STORED).values()),
        messages_dropped=logs.counters(connection, messages.DROPPED) | ({logs.DAMAGED: damaged} if damaged else {}),
        subscriptions=tuple(
            SubscriptionCounts(
                reader.name,
                reader.start,
                reader.acked,
                reader.skipped,
                reader.lost,
                reader.lost_ahead,
                reader.held,
            )
            for reader in readers(connection, log.log_id)
        ),
        letters=dead_letters.counts(connection),
        letters_kept=dead_letters.count(connection),
    )


def _range(log_id: int) -> tuple[int, int]:
    return logs.row_at(log_id, 0), logs.row_at(log_id + 1, 0)


def _uplinks(connection: sqlite3.Connection, node: str = "") -> list[UplinkCounts]:
    rows = connection.execute(
        "SELECT peer, lane, epoch, sequence, start_sequence, applied_count, duplicate_count, rejected_count, gap_count,"
        " known_count FROM inbox_cursor WHERE peer = :node OR :node = '' ORDER BY peer, lane, cursor_id",
        {"node": node},
    )
    return [UplinkCounts(node, Lane(lane), *rest) for node, lane, *rest in rows]


def _downlinks(connection: sqlite3.Connection, names: str = "down/%") -> list[DownlinkCounts]:
    rows = connection.execute(
        "SELECT log.log_id, name, epoch, next_sequence - 1 FROM log WHERE name LIKE ? ORDER BY name", (names,)
    ).fetchall()
    lanes = {"task": Lane.TASK, "control": Lane.CONTROL}
    counts = []
    for log_id, name, epoch, last in rows:
        _, node, lane = name.split("/")
        counts += _sent(connection, log_id, node, lanes[lane], epoch, last)
    return counts


def _held(connection: sqlite3.Connection, log_id: int, acked: int) -> tuple[int, int, float]:
    """(entries, bytes, oldest) of a log past `acked`.

    Counted from what is there, not from the difference of two numbers: that is what makes the sum a check.
    """
    low, high = _range(log_id)
    row = connection.execute(
        "SELECT coalesce(sum(entry_count - max(:low + :acked - position + 1, 0)), 0), coalesce(sum(length(payload)), 0),"
        " coalesce(min(accept_time), 0) FROM segment WHERE position < :high AND position + entry_count - 1 > :low + :acked"
        " AND position >= coalesce("
        "(SELECT max(position) FROM segment WHERE position BETWEEN :low AND :low + :acked), :low)",
        {"low": low, "high": high, "acked": acked},
    ).fetchone()
    return row[0], row[1], row[2]


def _to_parent(connection: sqlite3.Connection) -> list[DownlinkCounts]:
    rows = connection.execute(
        "SELECT log.log_id, log.name, epoch, next_sequence - 1 FROM log JOIN consumer ON consumer.log_id = log.log_id"
        " WHERE consumer.name = ? ORDER BY log.name",
        (PARENT,),
    ).fetchall()
    counts = []
    for log_id, name, epoch, last in rows:
        lane = Lane.TASK if name == tasks.UP_LOG else Lane.MESSAGE
        counts += _sent(connection, log_id, PARENT, lane, epoch, last)
    return counts


def _sent(
    connection: sqlite3.Connection, log_id: int, node: str, lane: Lane, epoch: str, last: int
) -> list[DownlinkCounts]:
    """What became of a log's entries for the node (or the parent) that reads it."""
    return [
        DownlinkCounts(
            node,
            lane,
            epoch,
            last,
            reader.start,
            reader.acked,
            reader.rejected,
            reader.skipped,
            reader.lost,
            reader.lost_ahead,
            *_held(connection, log_id, reader.acked),
        )
        for reader in readers(connection, log_id)
        if reader.name == node
    ]
