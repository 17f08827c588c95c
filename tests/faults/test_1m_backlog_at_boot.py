"""1 M backlog at boot: what a start reads does not depend on how much waits. Counted in steps of SQLite, not in seconds."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from edgenode.link.model.lanes import Segment
from edgenode.link.store import connector, logs
from edgenode.link.store.connector import Connection
from edgenode.node import node
from edgenode.node.host import Host
from edgenode.node.message_log import LOG_NAME
from hub.store.messages import LOG
from hub.store.schema import open_database
from tests.faults.pair import Pair

pytestmark = pytest.mark.timeout(240)

ENTRIES = 1_000_000
IN_A_SEGMENT = 10
MOST_STEPS = 20_000  # a look at each of the 100,000 segments takes many times as many


class Counting:
    """Makes connections whose steps are counted, by hundreds."""

    def __init__(self) -> None:
        self.steps = 0

    def _tick(self) -> int:
        self.steps += 100
        return 0

    async def connect(self, path: str) -> Connection:
        connection = await connector.connect_on_thread(path)
        await connection.run(lambda sql: sql.set_progress_handler(self._tick, 100))
        return connection


def _fill(store: Path, log_name: str) -> None:
    """A million entries, as a long time offline leaves them."""
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    log_id = logs.log_state(connection, log_name).log_id
    segment = Segment(IN_A_SEGMENT, b"x" * 300, 1.0)
    for _ in range(ENTRIES // IN_A_SEGMENT // 1000):
        logs.append(connection, log_id, [segment] * 1000)
    connection.execute("COMMIT")
    connection.close()


async def _steps_to_start(folder: Path, side: str, patch: pytest.MonkeyPatch) -> int:
    """Steps of SQLite that a start takes with a million entries in the log of messages."""
    pair = Pair(folder)
    counting = Counting()
    try:
        await pair.start()
        await pair.stop()
        if side == "edge":
            _fill(pair.edge_state / "node.db", LOG_NAME)
            patch.setattr(node, "Host", lambda: Host(connect=counting.connect))
            await pair.start_edge(hub="127.0.0.1:1")
            assert pair.edge is not None
            assert pair.edge.rooms.messages.last == ENTRIES
        else:
            _fill(replace(pair._config, state_dir=pair.hub_state).store_path, LOG)
            patch.setattr("hub.app.open_database", partial(open_database, connect=counting.connect))
            await pair.start_hub()
    finally:
        await pair.stop()
    assert counting.steps
    return counting.steps


@pytest.mark.parametrize("side", ["edge", "hub"])
async def test_1m_backlog_at_boot(folder: Path, monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    assert await _steps_to_start(folder, side, monkeypatch) < MOST_STEPS


@pytest.mark.parametrize("side", ["edge", "hub"])
async def test_1m_backlog_looked_through_at_boot_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    honest = logs.open_log

    def thorough(connection: sqlite3.Connection, name: str, new_epoch: str) -> logs.LogState:
        state = honest(connection, name, new_epoch)
        logs.weigh(connection, state.log_id)
        return state

    monkeypatch.setattr(logs, "open_log", thorough)
    assert await _steps_to_start(folder, side, monkeypatch) > MOST_STEPS
