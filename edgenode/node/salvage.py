"""The last word on a store that was made of what could be read of a damaged one: the counts agree, and the loss is stated.

What was accepted and is neither there nor known to have ended was lost, and is counted as DAMAGED: entries of the logs by
the holes they leave, tasks by what the counters say there should be. Where a counter itself is gone, it is made to fit what
is there. The logs go on behind every number they are known to have used, and under epochs of their own like after any start.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.store import logs, losses
from edgenode.link.store.quarantine import Salvage, Settle
from edgenode.link.wire.values import timestamp_to_pb
from edgenode.node import message_log, task_store
from edgenode.node.message_log import LOG_NAME
from edgenode.node.task_book import TASK_LOG

SCHEMA = """
CREATE TABLE damage (
    damage_id INTEGER PRIMARY KEY,
    damage_time REAL NOT NULL,
    cause TEXT NOT NULL,
    file TEXT NOT NULL,
    lost TEXT NOT NULL
) STRICT;
"""

# The logs of an edge in the order in which its first start makes them.
_LOGS = {1: LOG_NAME, 2: TASK_LOG}
_KEPT = 100


def settle(wall: Callable[[], float] = time.time) -> Settle:
    """See the module; `wall` is the clock in seconds."""

    def run(connection: sqlite3.Connection, salvage: Salvage) -> None:
        positions = dict(salvage.position.logs) if salvage.position is not None else {}
        counts = logs.counters(connection, message_log.PRODUCED)
        stored = counts.get(message_log.STORED, 0) + counts.get(message_log.REPLAYED, 0)
        newest = connection.execute("SELECT coalesce(max(log_sequence), 0) FROM producer").fetchone()[0]
        positions[1] = max(positions.get(1, 0), stored + 1, newest + 1)
        lost = losses.mend(connection, _LOGS, positions)
        _balance_messages(connection, stored)
        found = {
            "messages": lost.get(LOG_NAME, 0),
            "entries of tasks": lost.get(TASK_LOG, 0),
            "tasks": _balance_tasks(connection),
            "stretches that cannot be read": sum(salvage.unreadable.values()),
        }
        values = (wall(), salvage.cause, str(salvage.aside), json.dumps({k: n for k, n in found.items() if n}))
        connection.execute("INSERT INTO damage (damage_time, cause, file, lost) VALUES (?, ?, ?, ?)", values)
        connection.execute("DELETE FROM damage WHERE damage_id <= (SELECT max(damage_id) FROM damage) - ?", (_KEPT,))

    return run


def _balance_messages(connection: sqlite3.Connection, stored: int) -> None:
    missing = logs.log_state(connection, LOG_NAME).last - stored
    if missing:
        logs.count(connection, message_log.PRODUCED, message_log.STORED, missing)


def _balance_tasks(connection: sqlite3.Connection) -> int:
    """How many tasks were lost."""
    counts = logs.counters(connection, task_store.COUNTER)
    accepted = counts.pop(task_store.ACCEPTED, 0)
    for reason in task_store.NO_ROOM:
        counts.pop(reason, None)
    live = connection.execute("SELECT count(*) FROM task INDEXED BY task_live WHERE state < 8").fetchone()[0]
    lost: int = accepted - live - sum(counts.values())
    if lost < 0:  # the counter is older than the tasks
        logs.count(connection, task_store.COUNTER, task_store.ACCEPTED, -lost)
    elif lost:
        logs.count(connection, task_store.COUNTER, logs.DAMAGED, lost)
    return max(lost, 0)


def given_up(connection: sqlite3.Connection) -> int:
    """Entries of the logs that were given up in place, beside those told by `damages`."""
    told = 0
    for (lost,) in connection.execute("SELECT lost FROM damage"):
        counts: dict[str, int] = json.loads(lost)
        told += counts.get("messages", 0) + counts.get("entries of tasks", 0)
    total = connection.execute(
        "SELECT coalesce(sum(last_sequence - first_sequence + 1), 0) FROM lost_range"
    ).fetchone()[0]
    return int(max(total - told, 0))


def damages(connection: sqlite3.Connection) -> list[admin_pb2.StoreDamage]:
    """What happened to this node's store, newest first."""
    rows = connection.execute("SELECT damage_time, cause, file, lost FROM damage ORDER BY damage_id DESC")
    return [
        admin_pb2.StoreDamage(damage_time=timestamp_to_pb(when), cause=cause, file=file, lost_counts=json.loads(lost))
        for when, cause, file, lost in rows
    ]
