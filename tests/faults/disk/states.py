"""What a state directory holds, read in this process by the service's own store."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.errors import FailedPrecondition
from edgenode.link.model.task import TaskState
from edgenode.link.parent.identity import load_identity
from edgenode.link.ports import SystemClock
from edgenode.link.store import logs
from edgenode.link.store.database import Database
from edgenode.node import ledger
from edgenode.node.config import NodeConfig
from edgenode.node.message_log import LOG_NAME
from edgenode.node.store import open_store
from hub.ca.authority import Authority
from hub.config import HubConfig
from hub.services.ledger import ledger_lines
from hub.store import messages as hub_messages
from hub.store.link import SqliteLinkStore
from hub.store.schema import open_database
from tests.faults.disk.promises import Found

Lines = Sequence[admin_pb2.LedgerLine]


async def read_edge(state: Path) -> tuple[Found, Lines, list[str]]:
    """What an edge's state holds, its ledger, and what is wrong with it. Opening it repairs what a start would."""
    found = Found()
    identity = load_identity(state)
    found.generation = identity.generation if identity is not None else 0
    database = await open_store(NodeConfig(state_dir=state))
    try:
        wrong = await _examine(database)

        def run(connection: sqlite3.Connection) -> Lines:
            _read_log(connection, LOG_NAME, found)
            found.agents = {name for (name,) in connection.execute("SELECT name FROM agent")}
            if not all(_has_log(connection, name) for name in ledger.LANE_LOGS.values()):
                return []  # the power went before the first start was over
            return ledger.lines(connection, "hub" if found.generation else "")

        return found, await database.read(run), wrong
    finally:
        await database.close()


async def read_hub(state: Path) -> tuple[Found, Lines, list[str]]:
    """What a hub's state holds, its ledger, and what is wrong with it."""
    found = Found()
    try:
        found.nodes.add(Authority.load(state, SystemClock()).hub)
    except FailedPrecondition as error:
        if error.reason != "NOT_INITIALISED":
            raise
        return found, [], []  # not made yet
    config = HubConfig(state_dir=state)
    database = await open_database(config.store_path, config.store_bytes)
    try:
        wrong = await _examine(database)

        def run(connection: sqlite3.Connection) -> bool:
            _read_log(connection, hub_messages.LOG, found)
            found.tokens = {token for (token,) in connection.execute("SELECT token_id FROM join_token")}
            found.nodes |= {node for (node,) in connection.execute("SELECT node FROM node_identity")}
            return _has_log(connection, hub_messages.LOG)

        complete = await database.read(run)
        return found, ledger_lines(await SqliteLinkStore(database).ledger()) if complete else [], wrong
    finally:
        await database.close()


async def _examine(database: Database) -> list[str]:
    """What SQLite and the store itself say."""
    if database.quarantined is not None:
        return [f"the store was put aside as {database.quarantined}"]
    rows = await database.read(lambda connection: connection.execute("PRAGMA integrity_check").fetchall())
    return [f"SQLite says: {text}" for (text,) in rows if text != "ok"]


def _has_log(connection: sqlite3.Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM log WHERE name = ?", (name,)).fetchone() is not None


def _read_log(connection: sqlite3.Connection, name: str, found: Found) -> None:
    found.tasks = {
        task_id: TaskState(state) for task_id, state in connection.execute("SELECT task_id, state FROM task")
    }
    if _has_log(connection, name):
        state = logs.log_state(connection, name)
        chunk = logs.read(connection, state.log_id, state.first - 1, 1 << 60, 1 << 60)
        found.take(segment.payload for segment in chunk.segments)
