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
from edgenode.link.store import logs
from edgenode.link.store.budget import LANE_FULL, STORE_FULL
from edgenode.link.wire.ledger import ledger_line
from edgenode.link.wire.values import duration_to_pb
from edgenode.node import message_log, task_store
from edgenode.node.message_log import LOG_NAME, PARENT
from edgenode.node.task_book import TASK_LOG

BEFORE_JOIN = "BEFORE_JOIN"
LANE_LOGS = {Lane.TASK: TASK_LOG, Lane.MESSAGE: LOG_NAME}
UPLINK_COUNTER = "uplink/"
NO_ROOM = ("QUEUE_FULL", LANE_FULL, STORE_FULL)  # of tasks that were not accepted
_EXACT_ENTRIES = 10_000


def note_join(connection: sqlite3.Connection, log_name: str) -> None:
    """Count what a log held and lost before the link became its consumer; call it in the transaction that makes it one."""
    state = logs.log_state(connection, log_name)
    if PARENT not in logs.consumers(connection, state.log_id):
        logs.count(connection, UPLINK_COUNTER + log_name, BEFORE_JOIN, state.first - 1)


def lines(connection: sqlite3.Connection, parent: str, unwritten_duplicates: int = 0) -> list[admin_pb2.LedgerLine]:
    """Every hop. `parent` names the other end of the link, empty without one."""
    result = [_publish_line(connection, unwritten_duplicates), _task_line(connection)]
    if parent:
        for lane, log_name in LANE_LOGS.items():
            result.append(_uplink_line(connection, lane, log_name, parent))
        result.extend(_downlink_lines(connection, parent))
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
    produced = counts.pop(task_store.ACCEPTED, 0) + sum(counts.get(reason, 0) for reason in NO_ROOM)
    delivered = counts.pop(TaskState.COMPLETED.name, 0)
    pending = connection.execute("SELECT count(*) FROM task INDEXED BY task_live WHERE state < 8").fetchone()[0]
    return ledger_line("tasks", produced=produced, delivered=delivered, pending=pending, dropped=counts)


def _uplink_line(connection: sqlite3.Connection, lane: Lane, log_name: str, parent: str) -> admin_pb2.LedgerLine:
    state = logs.log_state(connection, log_name)
    acked, rejected, lost = _consumer(connection, state)
    before = logs.counters(connection, UPLINK_COUNTER + log_name).get(BEFORE_JOIN, 0)
    # What is not acknowledged must still be held: a hole between the two shows as an imbalance.
    lost_ahead = logs.lost(connection, state.log_id, acked)
    pending = state.last - max(acked, state.first - 1) - lost_ahead
    return ledger_line(
        f"{lane.name.lower()}.uplink",
        peer=parent,
        produced=state.last,
        delivered=acked - rejected - before - (lost - lost_ahead),
        pending=pending,
        dropped={"REJECTED": rejected, BEFORE_JOIN: before, logs.DAMAGED: lost},
        epoch=state.epoch,
    )


def _downlink_lines(connection: sqlite3.Connection, parent: str) -> list[admin_pb2.LedgerLine]:
    rows = connection.execute(
        "SELECT lane, epoch, applied_count, duplicate_count, rejected_count, gap_count FROM inbox_cursor"
        " WHERE peer = ? ORDER BY cursor_id",
        (PARENT,),
    )
    return [
        ledger_line(
            f"{Lane(lane).name.lower()}.downlink",
            peer=parent,
            produced=applied + rejected + gaps,
            delivered=applied,
            pending=0,
            dropped={"REJECTED": rejected, "GAP": gaps},
            duplicates=duplicates,
            epoch=epoch,
        )
        for lane, epoch, applied, duplicates, rejected, gaps in rows
    ]


def lane_statuses(connection: sqlite3.Connection, now_time: float) -> list[admin_pb2.LaneStatus]:
    """Where each lane of the link stands; `now_time` is the wall clock in seconds."""
    result = []
    for lane, log_name in LANE_LOGS.items():
        state = logs.log_state(connection, log_name)
        acked, _, _ = _consumer(connection, state)
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
        for cursor in logs.inbox_cursors(connection, PARENT)
    )
    return result


def _consumer(connection: sqlite3.Connection, state: logs.LogState) -> tuple[int, int, int]:
    """(acknowledged, rejected, lost) of the link; everything counts as acknowledged where it is no consumer."""
    row = connection.execute(
        "SELECT acked_sequence, rejected_count, lost_count FROM consumer WHERE log_id = ? AND name = ?",
        (state.log_id, PARENT),
    ).fetchone()
    return row or (state.last, 0, 0)


def _pending_bytes(connection: sqlite3.Connection, state: logs.LogState, acked: int) -> int:
    """Exact for a short backlog; for a long one in proportion to what the log holds, as reading it all would hold up work."""
    held = state.last - state.first + 1
    pending = state.last - max(acked, state.first - 1)
    if pending <= 0:
        return 0
    if pending <= _EXACT_ENTRIES:
        return logs.payload_bytes(connection, state.log_id, acked)
    return state.held_bytes * pending // held
