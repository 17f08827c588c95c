"""Bits that changed on the disk: what a read finds, what is given up for it, and what the counts say."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgenode.link.model.lanes import Segment
from edgenode.link.store import logs
from edgenode.link.store.database import Database
from edgenode.link.store.reading import read_log

CHANGES = {
    "payload": "UPDATE segment SET payload = CAST(x'ff' || substr(payload, 2) AS BLOB) WHERE position = :position",
    "entry_count": "UPDATE segment SET entry_count = entry_count + 4 WHERE position = :position",
    "fewer entries": "UPDATE segment SET entry_count = 1 WHERE position = :position",
    "accept_time": "UPDATE segment SET accept_time = accept_time + 1 WHERE position = :position",
    "origin_node": "UPDATE segment SET origin_node = 'other' WHERE position = :position",
    "origin_epoch": "UPDATE segment SET origin_epoch = 'other' WHERE position = :position",
    "origin_sequence": "UPDATE segment SET origin_sequence = 9 WHERE position = :position",
    "checksum": "UPDATE segment SET checksum = checksum - 1 WHERE position = :position",
    "place": "UPDATE segment SET position = position + 1 WHERE position = :position",
    "gone": "DELETE FROM segment WHERE position = :position",
}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "a.db", [logs.SCHEMA], application_id=7)
    yield opened
    await opened.close()


def fill(connection: sqlite3.Connection) -> int:
    """A log of ten segments with two entries each, of which a consumer has the first two segments."""
    log_id = logs.ensure_log(connection, "log", "e").log_id
    logs.append(connection, log_id, [Segment(2, bytes([number]) * 100, 1.0) for number in range(10)])
    logs.ensure_consumer(connection, log_id, "parent", 4)
    return log_id


async def read_all(database: Database) -> dict[int, bytes]:
    """The payloads that can be read, by first sequence."""
    found: dict[int, bytes] = {}
    after = 0
    while True:
        reading = await read_log(database, "log", after, 100, 1 << 20)
        if not reading.chunk.segments:
            return found
        sequence = reading.chunk.base
        for segment in reading.chunk.segments:
            found[sequence] = segment.payload
            sequence += segment.count
        after = reading.chunk.end


@pytest.mark.parametrize("change", CHANGES)
async def test_a_segment_that_is_not_what_was_stored_is_given_up_and_the_rest_is_read(
    database: Database, change: str
) -> None:
    log_id = await database.write(fill)
    position = logs.row_at(log_id, 11)
    await database.write(lambda connection: connection.execute(CHANGES[change], {"position": position}))
    found = await read_all(database)
    assert list(found) == [1, 3, 5, 7, 9, 13, 15, 17, 19]
    assert all(payload == bytes([sequence // 2]) * 100 for sequence, payload in found.items())

    def counts(connection: sqlite3.Connection) -> tuple[int, int, int, int, str, str]:
        lost_count = connection.execute("SELECT lost_count FROM consumer").fetchone()[0]
        lost = logs.lost(connection, log_id)
        why = logs.why_missing(connection, log_id, 11), logs.why_missing(connection, log_id, 1)
        return lost, logs.lost(connection, log_id, 11), logs.lost(connection, log_id, 12), lost_count, *why

    assert await database.read(counts) == (2, 1, 0, 2, "DAMAGED", "RETENTION")
    state = await database.read(lambda connection: logs.log_state(connection, "log"))
    assert state.held_bytes == 900
    assert await read_all(database) == found


async def test_what_was_acknowledged_before_is_not_lost_to_that_consumer(database: Database) -> None:
    log_id = await database.write(fill)
    for first in (3, 19):
        position = logs.row_at(log_id, first)
        await database.write(lambda connection, p=position: connection.execute(CHANGES["payload"], {"position": p}))  # type: ignore[misc]
    assert list(await read_all(database)) == [1, 5, 7, 9, 11, 13, 15, 17]
    lost = await database.read(lambda connection: connection.execute("SELECT lost_count FROM consumer").fetchone()[0])
    assert lost == 2
    assert await database.read(lambda connection: logs.lost(connection, log_id)) == 4


async def test_an_end_that_is_gone_is_noticed(database: Database) -> None:
    log_id = await database.write(fill)
    end = logs.row_at(log_id, 17)
    await database.write(lambda connection: connection.execute("DELETE FROM segment WHERE position >= ?", (end,)))
    assert list(await read_all(database)) == [1, 3, 5, 7, 9, 11, 13, 15]
    reading = await read_log(database, "log", 16, 10, 1000)
    assert (reading.chunk.segments, reading.state.last, reading.gap_reason) == ((), 20, "DAMAGED")


async def test_trimmed_entries_are_no_damage(database: Database) -> None:
    log_id = await database.write(fill)
    assert await database.write(lambda connection: logs.trim(connection, log_id)) == (4, 2)
    reading = await read_log(database, "log", 0, 10, 1000)
    assert (reading.chunk.base, reading.gap_reason) == (5, "RETENTION")
    await database.write(lambda connection: logs.acknowledge(connection, log_id, "parent", 20))
    await database.write(lambda connection: logs.trim(connection, log_id))
    assert await database.read(lambda connection: logs.lost(connection, log_id)) == 0
    assert (await read_log(database, "log", 0, 10, 1000)).gap_reason == "RETENTION"


async def test_any_flipped_bit_of_a_payload_is_noticed(database: Database) -> None:
    """A mutant that does not compare checksums reads every one of these."""
    log_id = await database.write(fill)
    rng = random.Random(1)
    change = "UPDATE segment SET payload = ? WHERE position = ?"
    for first in range(1, 21, 2):
        flipped = bytearray([first // 2]) * 100
        flipped[rng.randrange(100)] ^= 1 << rng.randrange(8)
        values = (bytes(flipped), logs.row_at(log_id, first))
        await database.write(lambda connection, v=values: connection.execute(change, v))  # type: ignore[misc]
    assert await read_all(database) == {}
    assert await database.read(lambda connection: logs.lost(connection, log_id)) == 20


async def test_without_checksums_it_would_be_read_as_it_is(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "segment_checksum", lambda facts, payload: 0)
    log_id = await database.write(fill)
    position = logs.row_at(log_id, 11)
    await database.write(lambda connection: connection.execute(CHANGES["payload"], {"position": position}))
    assert (await read_all(database))[11] == b"\xff" + bytes([5]) * 99
