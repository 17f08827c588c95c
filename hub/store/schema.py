"""The hub's SQLite schema."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgenode.link.blobs import rows as blob_rows
from edgenode.link.model.lanes import Lane
from edgenode.link.store import dead_letters, logs, run_time
from edgenode.link.store.budget import Measured
from edgenode.link.store.connector import Connect, connect_on_thread
from edgenode.link.store.database import IN_MEMORY, Database
from hub.store import enrollment

APPLICATION_ID = 0x656E6875  # "enhu"
MESSAGE_LOG = "messages"

# A spec has a table of its own, since a row is written anew with every change and a spec may be a megabyte.
# A queue is a range of task_waiting: its tasks in the order they came. PARKED is not stored: it is a property of the queue.
TASKS = """
CREATE TABLE task (
    task_number INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL UNIQUE,
    origin TEXT NOT NULL,
    queue TEXT NOT NULL,
    submit_time REAL NOT NULL,
    deadline REAL NOT NULL,
    on_lost INTEGER NOT NULL,
    skill TEXT NOT NULL,
    context_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    request_id TEXT NOT NULL,
    replay_of TEXT NOT NULL,
    state INTEGER NOT NULL,
    state_reason TEXT NOT NULL,
    holder TEXT NOT NULL,
    fence INTEGER NOT NULL,
    attempt_count INTEGER NOT NULL,
    agent TEXT NOT NULL,
    outcome BLOB NOT NULL,
    answers BLOB NOT NULL,
    cancel_reason TEXT,
    avoid TEXT NOT NULL,
    avoid_until REAL NOT NULL,
    update_time REAL NOT NULL,
    sequence INTEGER NOT NULL,
    doubt INTEGER NOT NULL,
    upstream INTEGER NOT NULL,
    run_seconds REAL NOT NULL
) STRICT;
CREATE TABLE task_spec (
    task_number INTEGER PRIMARY KEY,
    spec BLOB NOT NULL
) STRICT;
CREATE INDEX task_waiting ON task (queue, task_number) WHERE holder = '' AND state < 8;
CREATE INDEX task_held ON task (holder, task_id) WHERE holder != '' AND state < 8;
CREATE INDEX task_deadline ON task (deadline) WHERE deadline > 0 AND state < 8;
CREATE INDEX task_doubt ON task (task_id) WHERE doubt > 0 AND state < 8;
CREATE INDEX task_ended ON task (run_seconds) WHERE state >= 8;
CREATE UNIQUE INDEX task_idempotency ON task (idempotency_key) WHERE idempotency_key != '';
CREATE UNIQUE INDEX task_request ON task (request_id) WHERE request_id != '';
"""

FLEET = """
CREATE TABLE node (
    node TEXT PRIMARY KEY,
    fence INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    software TEXT NOT NULL,
    last_contact REAL NOT NULL,
    registry_epoch TEXT NOT NULL DEFAULT '',
    registry_version INTEGER NOT NULL DEFAULT 0,
    hub TEXT NOT NULL DEFAULT '',
    restate_id TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE TABLE former_process (
    node TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    fence INTEGER NOT NULL,
    PRIMARY KEY (node, boot_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE agent (
    agent_number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    node TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    version INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE VIRTUAL TABLE agent_text USING fts5 (text, tokenize = "porter unicode61 tokenchars '-_'");
CREATE TABLE desired_state (
    node TEXT PRIMARY KEY,
    version INTEGER NOT NULL DEFAULT 0,
    document BLOB NOT NULL DEFAULT x'',
    signature BLOB NOT NULL DEFAULT x'',
    certificates BLOB NOT NULL DEFAULT x'',
    applied_version INTEGER NOT NULL DEFAULT 0,
    refused_version INTEGER NOT NULL DEFAULT 0,
    problem BLOB NOT NULL DEFAULT x''
) STRICT, WITHOUT ROWID;
CREATE TABLE known_origin (
    origin_number INTEGER PRIMARY KEY,
    node TEXT NOT NULL,
    origin_node TEXT NOT NULL,
    lane INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    sequence INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX known_origin_epoch ON known_origin (epoch, lane, node);
CREATE INDEX known_origin_age ON known_origin (node, origin_node, lane, origin_number);
CREATE TABLE hub (fence_base INTEGER NOT NULL) STRICT;
INSERT INTO hub VALUES (0);
"""


def migrations() -> tuple[str, ...]:
    """Scripts from one version to the next."""
    return (logs.SCHEMA + dead_letters.SCHEMA + run_time.SCHEMA + TASKS + FLEET + enrollment.SCHEMA + blob_rows.SCHEMA,)


async def open_database(
    path: Path | None,
    limit_bytes: int,
    connect: Connect = connect_on_thread,
    shares: Mapping[Lane, float] | None = None,
) -> Database:
    """Open or make the hub's file (None: in memory); `shares` are those of its lanes. Raises as Database.open."""
    return await Database.open(
        IN_MEMORY if path is None else path,
        migrations(),
        application_id=APPLICATION_ID,
        limit_bytes=limit_bytes,
        shares=shares,
        measure=lambda connection: Measured(logs.disk_bytes_of(connection, MESSAGE_LOG)),
        connect=connect,
    )
