"""Cursors and the ledger in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from edgenode.link.model.lanes import Applied, Lane, LaneCursor, Rejection
from edgenode.link.model.problem import Code, Problem
from edgenode.link.store import logs
from edgenode.link.store.database import Database
from hub.store import messages, tasks
from hub.store.records import PARENT, DownlinkCounts, Intake, LedgerFacts, RejectedEntry, UplinkCounts
from hub.store.schema import MESSAGE_LOG


class SqliteLinkStore:
    """hub.store.ports.LinkStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cursors(self, node: str) -> Sequence[LaneCursor]:
        """See LinkStore."""
        return await self._database.read(lambda connection: logs.inbox_cursors(connection, node))

    async def refuse(self, intake: Intake, reason: str, message: str) -> Applied:
        """See LinkStore."""
        problem = Problem(Code.UNIMPLEMENTED, reason, message, hint="compare the versions of hub and edge")

        def run(connection: sqlite3.Connection) -> Applied:
            fresh = tasks.uplink_accept(connection, intake)
            count = sum(segment.count for segment in fresh.segments) - fresh.skip
            logs.count_rejected(connection, intake.node, intake.lane, intake.epoch, count)
            first = fresh.base + fresh.skip
            end = intake.base - 1 + sum(segment.count for segment in intake.segments)
            return Applied(end, tuple(Rejection(sequence, problem) for sequence in range(first, first + count)))

        return await self._database.write(run)

    async def rejected(self, node: str, limit: int) -> Sequence[RejectedEntry]:
        """See LinkStore."""
        query = (
            "SELECT rejected_number, node, lane, place, reason, message, payload FROM rejected_entry"
            " WHERE node = :node OR :node = '' ORDER BY rejected_number LIMIT :limit"
        )
        values = {"node": node, "limit": limit}
        rows = await self._database.read(lambda connection: connection.execute(query, values).fetchall())
        return [RejectedEntry(row[0], row[1], Lane(row[2]), *row[3:]) for row in rows]

    async def forget_rejected(self, numbers: Sequence[int]) -> None:
        """See LinkStore."""
        rows = [(number,) for number in numbers]
        await self._database.write(
            lambda connection: connection.executemany("DELETE FROM rejected_entry WHERE rejected_number = ?", rows)
        )

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
    )


def _range(log_id: int) -> tuple[int, int]:
    return logs._position(log_id, 0), logs._position(log_id + 1, 0)


def _uplinks(connection: sqlite3.Connection) -> list[UplinkCounts]:
    starts = logs.counters(connection, "uplink.start")
    known = logs.counters(connection, messages.KNOWN)
    rows = connection.execute(
        "SELECT peer, lane, epoch, sequence, applied_count, duplicate_count, rejected_count, gap_count"
        " FROM inbox_cursor ORDER BY peer, lane, cursor_id"
    )
    counts = []
    for node, number, epoch, sequence, applied, duplicates, rejected, gap in rows:
        lane = Lane(number)
        reason = tasks.uplink_reason(node, lane, epoch)
        counts.append(
            UplinkCounts(
                node,
                lane,
                epoch,
                sequence,
                starts.get(reason, 0),
                applied,
                duplicates,
                rejected,
                gap,
                known.get(reason, 0),
            )
        )
    return counts


def _downlinks(connection: sqlite3.Connection) -> list[DownlinkCounts]:
    rows = connection.execute(
        "SELECT log.log_id, log.name, epoch, next_sequence - 1, acked_sequence, rejected_count, lost_count"
        " FROM log JOIN consumer ON consumer.log_id = log.log_id WHERE log.name LIKE 'down/%' ORDER BY log.name"
    ).fetchall()
    lanes = {"task": Lane.TASK, "control": Lane.CONTROL}
    counts = []
    for log_id, name, epoch, last, acked, rejected, lost in rows:
        _, node, lane = name.split("/")
        held = _held(connection, log_id, acked)
        ahead = logs.lost(connection, log_id, acked)
        counts.append(DownlinkCounts(node, lanes[lane], epoch, last, acked, rejected, lost, ahead, *held))
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
        "SELECT log.log_id, log.name, epoch, next_sequence - 1, acked_sequence, rejected_count, lost_count"
        " FROM log JOIN consumer ON consumer.log_id = log.log_id WHERE consumer.name = ? ORDER BY log.name",
        (PARENT,),
    ).fetchall()
    before = logs.counters(connection, messages.BEFORE_JOIN)
    overtaken = logs.counters(connection, messages.OVERTAKEN)
    counts = []
    for log_id, name, epoch, last, acked, rejected, lost in rows:
        lane = Lane.TASK if name == tasks.UP_LOG else Lane.MESSAGE
        unread = overtaken.get("", 0) if lane is Lane.MESSAGE else 0
        held = _held(connection, log_id, acked)
        ahead = logs.lost(connection, log_id, acked)
        gone = before.get(lane.name, 0)
        counts.append(
            DownlinkCounts(
                PARENT, lane, epoch, last, acked, rejected, lost, ahead, *held, before=gone, overtaken=unread
            )
        )
    return counts
