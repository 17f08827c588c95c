"""The counts of every hop of an edge, from the store alone, and where the lanes of its link stand.

Each line's sum is put together from numbers that were written apart: what came in is counted where it was accepted, what went
on is the log's or the consumer's own position, and what was given up has counters by reason. So a line that does not
balance shows a defect or a loss; nothing is computed as a remainder of the others.
"""

from __future__ import annotations

import sqlite3

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.model.lanes import Lane
from edgenode.link.model.task import TaskState
from edgenode.link.store import dead_letters, inbox, logs
from edgenode.link.store.readers import readers
from edgenode.link.wire.ledger import dead_letter_line, ledger_line, reader_line
from edgenode.link.wire.values import duration_to_pb
from edgenode.node import message_log, task_store
from edgenode.node.message_log import LOG_NAME, PARENT
from edgenode.node.subscriptions import CONSUMER_PREFIX
from edgenode.node.task_book import TASK_LOG

BEFORE_JOIN = "BEFORE_JOIN"
LANE_LOGS = {Lane.TASK: TASK_LOG, Lane.MESSAGE: LOG_NAME}
_EXACT_ENTRIES = 10_000


def lines(connection: sqlite3.Connection, parent: str, unwritten_duplicates: int = 0) -> list[admin_pb2.LedgerLine]:
    """Every hop; `parent` names the other end of the link."""
    result = [_publish_line(connection, unwritten_duplicates), _task_line(connection)]
    for lane, log_name in LANE_LOGS.items():
        result.extend(_uplink_lines(connection, lane, log_name, parent))
    result.extend(_downlink_lines(connection, parent))
    result.extend(_subscription_lines(connection))
    result.append(dead_letter_line(dead_letters.counts(connection), dead_letters.count(connection)))
    return result


def _publish_line(connection: sqlite3.Connection, unwritten_duplicates: int) -> admin_pb2.LedgerLine:
    """From the publishers into the log: taken (counted with the producers' numbers) against the log's own position."""
    counts = logs.counters(connection, message_log.PRODUCED)
    duplicates = counts.pop(message_log.DUPLICATE, 0) + unwritten_duplicates
    produced = sum(counts.values())
    counts.pop(message_log.STORED, None)
    counts.pop(message_log.REPLAYED, None)
    state = logs.log_state(connection, LOG_NAME)
    return ledger_line(
        "message.publish",
        produced=produced,
        delivered=state.last,
        pending=0,
        dropped=counts,
        duplicates=duplicates,
        epoch=state.epoch,
    )


def _task_line(connection: sqlite3.Connection) -> admin_pb2.LedgerLine:
    """Tasks this node accepted or was granted: ended well, not ended, ended otherwise."""
    counts = logs.counters(connection, task_store.COUNTER)
    produced = counts.pop(task_store.ACCEPTED, 0) + sum(counts.get(reason, 0) for reason in task_store.NO_ROOM)
    delivered = counts.pop(TaskState.COMPLETED.name, 0)
    dead = counts.pop(TaskState.DEAD_LETTERED.name, 0)
    pending = connection.execute("SELECT count(*) FROM task INDEXED BY task_live WHERE state < 8").fetchone()[0]
    return ledger_line("tasks", produced, delivered, pending, counts, dead_lettered=dead)


def _uplink_lines(connection: sqlite3.Connection, lane: Lane, log_name: str, parent: str) -> list[admin_pb2.LedgerLine]:
    """The link's line for one of its logs: all that was ever appended, what went before the node had a hub apart."""
    state = logs.log_state(connection, log_name)
    return [
        reader_line(
            f"{lane.name.lower()}.uplink",
            parent,
            start=reader.start,
            last=state.last,
            acked=reader.acked,
            # What is not acknowledged must still be held: a hole between the two shows as an imbalance.
            held=reader.held,
            rejected=reader.rejected,
            skipped=reader.skipped,
            lost=reader.lost,
            lost_ahead=reader.lost_ahead,
            before=BEFORE_JOIN,
            epoch=state.epoch,
        )
        for reader in readers(connection, state.log_id)
        if reader.name == PARENT
    ]


def _downlink_lines(connection: sqlite3.Connection, parent: str) -> list[admin_pb2.LedgerLine]:
    """A line for each lane: every process of the hub has an epoch of its own, and the counts of all are summed."""
    rows = connection.execute(
        "SELECT lane, max(cursor_id), epoch, sum(sequence - start_sequence), sum(applied_count), sum(duplicate_count),"
        " sum(rejected_count), sum(gap_count), sum(known_count) FROM inbox_cursor WHERE peer = ? GROUP BY lane",
        (PARENT,),
    )
    return [
        ledger_line(
            f"{Lane(lane).name.lower()}.downlink",
            produced,
            applied,
            0,
            {"REJECTED": rejected, "GAP": gaps, "KNOWN_FROM_OLDER_EPOCH": known},
            peer=parent,
            duplicates=duplicates,
            epoch=epoch,
        )
        for lane, _, epoch, produced, applied, duplicates, rejected, gaps, known in rows
    ]


def _subscription_lines(connection: sqlite3.Connection) -> list[admin_pb2.LedgerLine]:
    """Durable subscriptions: what came since each began, and how much of it was acknowledged."""
    state = logs.log_state(connection, LOG_NAME)
    return [
        reader_line(
            "message.subscription",
            reader.name.removeprefix(CONSUMER_PREFIX),
            start=reader.start,
            last=state.last,
            acked=reader.acked,
            held=reader.held,
            skipped=reader.skipped,
            lost=reader.lost,
            lost_ahead=reader.lost_ahead,
            epoch=state.epoch,
        )
        for reader in readers(connection, state.log_id)
        if reader.name.startswith(CONSUMER_PREFIX)
    ]


def lane_statuses(connection: sqlite3.Connection, now_time: float) -> list[admin_pb2.LaneStatus]:
    """Where each lane of the link stands; `now_time` is the wall clock in seconds."""
    result = []
    for lane, log_name in LANE_LOGS.items():
        state = logs.log_state(connection, log_name)
        acked = logs.consumers(connection, state.log_id).get(PARENT, state.last)
        pending = state.last - acked - logs.lost(connection, state.log_id, acked)
        status = admin_pb2.LaneStatus(
            direction="up",
            lane=lane.name.lower(),
            epoch=state.epoch,
            last_sequence=state.last,
            acked_sequence=acked,
            pending_count=pending,
            pending_bytes=_pending_bytes(connection, state, acked),
        )
        oldest = logs.oldest(connection, state.log_id, acked) if pending else None
        if oldest is not None:
            status.oldest_age_duration.CopyFrom(duration_to_pb(now_time - oldest))
        result.append(status)
    result.extend(
        admin_pb2.LaneStatus(
            direction="down",
            lane=cursor.lane.name.lower(),
            epoch=cursor.epoch,
            last_sequence=cursor.sequence,
            acked_sequence=cursor.sequence,
        )
        for cursor in inbox.inbox_cursors(connection, PARENT)
    )
    return result


def lane_heads(connection: sqlite3.Connection, now_time: float) -> list[admin_pb2.LaneStatus]:
    """As `lane_statuses`, with what the other side needs to compare its own cursors: where earlier epochs ended."""
    statuses = lane_statuses(connection, now_time)
    for status in statuses:
        if status.direction == "up":
            lane = Lane[status.lane.upper()]
            head = logs.head(connection, LANE_LOGS[lane], lane)
            status.earlier.extend(admin_pb2.LaneEpoch(epoch=end.epoch, last_sequence=end.last) for end in head.earlier)
    return statuses


def _pending_bytes(connection: sqlite3.Connection, state: logs.LogState, acked: int) -> int:
    """Exact for a short backlog; for a long one in proportion to what the log holds, as reading it all would hold up work."""
    held = state.last - state.first + 1
    pending = state.last - max(acked, state.first - 1)
    if pending <= 0:
        return 0
    if pending <= _EXACT_ENTRIES:
        return logs.payload_bytes(connection, state.log_id, acked)
    return state.held_bytes * pending // held
