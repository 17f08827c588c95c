"""The edge's store: its schema, and what the node keeps of itself in it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from edgenode.link.blobs import rows as blob_rows
from edgenode.link.errors import FailedPrecondition
from edgenode.link.model.lanes import Lane
from edgenode.link.ports import Clock, SteadyClock
from edgenode.link.store import database, dead_letters, logs, run_time
from edgenode.link.store.budget import Measured
from edgenode.link.store.connector import Connect, connect_on_thread
from edgenode.link.store.database import Database
from edgenode.link.store.retention import Retention
from edgenode.node import desired, message_log, mounts, registry, salvage, task_store
from edgenode.node.config import NodeConfig

APPLICATION_ID = 0x45_44_47_45  # "EDGE"; a hub's store has another
FILE_NAME = "node.db"

_SCHEMA = """
CREATE TABLE node (
    name TEXT NOT NULL,
    boot_count INTEGER NOT NULL
) STRICT;
"""

# Migration i leads from schema version i to i + 1; one that was released never changes.
MIGRATIONS = [
    "\n".join(
        (
            _SCHEMA,
            logs.SCHEMA,
            run_time.SCHEMA,
            registry.SCHEMA,
            message_log.SCHEMA,
            task_store.SCHEMA,
            dead_letters.SCHEMA,
            desired.SCHEMA,
            mounts.SCHEMA,
            blob_rows.SCHEMA,
            salvage.SCHEMA,
        )
    ),
    task_store.CHANGES_SCHEMA,
]


@dataclass(frozen=True, slots=True)
class Boot:
    """Who the node is and how often it was started on this store, this time included."""

    name: str
    number: int


async def open_store(config: NodeConfig, connect: Connect = connect_on_thread) -> Database:
    """Open or make the store under the state directory; a damaged file is moved aside.

    Raises FailedPrecondition (STATE_IN_USE, WRONG_STATE), DataLoss (STATE_TOO_NEW), Unavailable (STORE_FAILED).
    """
    path = database.IN_MEMORY if config.in_memory else config.state_dir / FILE_NAME
    return await Database.open(
        path,
        MIGRATIONS,
        application_id=APPLICATION_ID,
        limit_bytes=config.store_bytes,
        shares={Lane.MESSAGE: config.message_share, Lane.TASK: config.task_share},
        measure=_measure,
        settle=salvage.settle(),
        connect=connect,
    )


def _measure(connection: sqlite3.Connection) -> Measured:
    rows = connection.execute("SELECT log_id, name, next_sequence, disk_bytes FROM log").fetchall()
    taken = sum(row[3] for row in rows if row[1] == message_log.LOG_NAME)
    return Measured(taken, {row[0]: row[2] for row in rows})


def retention(config: NodeConfig, database: Database, clock: Clock) -> dict[Lane, Retention]:
    """What each lane's log keeps of what everybody has."""

    steady = SteadyClock(clock)

    def rule(lane: Lane, keep_bytes: int) -> Retention:
        return Retention(
            keep_bytes,
            config.ack_retention_bytes,
            config.ack_retention_seconds,
            steady.wall,
            lambda: database.budget.scarce(lane),
        )

    return {Lane.TASK: rule(Lane.TASK, 0), Lane.MESSAGE: rule(Lane.MESSAGE, config.message_retention_bytes)}


def count_boot(connection: sqlite3.Connection, joined: str, configured: str, default: str) -> Boot:
    """Note a start and settle the node's name: as joined, as configured, as before, or `default`.

    Raises FailedPrecondition (STATE_OF_OTHER_NODE) when the configuration names another node than the store is of. A node
    that ran before it joined takes the joined name.
    """
    row = connection.execute("SELECT name, boot_count FROM node").fetchone()
    known, boots = row or ("", 0)
    if not joined and configured and known and configured != known:
        raise other_node(known, configured)
    name = joined or configured or known or default
    if row is None:
        connection.execute("INSERT INTO node VALUES (?, 1)", (name,))
    else:
        connection.execute("UPDATE node SET name = ?, boot_count = boot_count + 1", (name,))
    return Boot(name, boots + 1)


def other_node(here: str, asked: str) -> FailedPrecondition:
    """The state directory is another node's."""
    return FailedPrecondition(
        "STATE_OF_OTHER_NODE",
        f"the state directory is that of node {here}, not of {asked}",
        hint="use another --state for another node, or leave the name out",
        node=here,
    )
