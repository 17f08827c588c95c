"""Reads of a log that go on where entries are damaged: those are given up, noted and told, and what follows is read."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from edgenode.link.model.lanes import Chunk
from edgenode.link.store import logs
from edgenode.link.store.database import Database

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read, where the log stood then, and why entries before the chunk are missing, if they are."""

    chunk: Chunk
    state: logs.LogState
    gap_reason: str


async def read_log(database: Database, name: str, after: int, max_count: int, max_bytes: int) -> Reading:
    """Whole segments of the log `name` with entries past `after`, as `logs.read`."""

    def run(connection: sqlite3.Connection) -> Reading:
        state = logs.log_state(connection, name)
        chunk = logs.read(connection, state.log_id, after, max_count, max_bytes)
        missing = chunk.base > after + 1 or (not chunk.segments and state.last > after)
        return Reading(chunk, state, logs.why_missing(connection, state.log_id, after + 1) if missing else "")

    while True:
        try:
            return await database.read(run)
        except logs.SegmentDamaged as damaged:
            _log.error("log %s: %s; the entries are given up", name, damaged)
            await database.write(_give_up(damaged))


def _give_up(damaged: logs.SegmentDamaged) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: logs.lose(connection, damaged)
