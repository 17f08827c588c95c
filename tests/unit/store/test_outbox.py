import asyncio
from pathlib import Path

import pytest

from edgenode.link.model.lanes import Lane, Rejection, Segment
from edgenode.link.model.problem import Code, Problem
from edgenode.link.store import logs
from edgenode.link.store import outbox as outboxes
from edgenode.link.store.database import Database
from edgenode.link.store.outbox import SqliteOutbox
from edgenode.link.store.retention import Retention


async def test_one_acknowledgement_gives_back_all_it_frees(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "a.db", [logs.SCHEMA], application_id=7)
    keep = {Lane.MESSAGE: Retention(keep_bytes=100)}
    outbox = SqliteOutbox(database, {Lane.MESSAGE: "log"}, "parent", lambda: "e", lambda *_: None, keep)
    await database.write(outbox.ensure)
    segments = [Segment(2, b"x" * 10, 1.0)] * 1700
    await database.write(lambda connection: logs.append(connection, logs.log_state(connection, "log").log_id, segments))
    await outbox.acknowledged(Lane.MESSAGE, "e", 3201, ())
    state = await database.read(lambda connection: logs.log_state(connection, "log"))
    assert (state.first, state.held_bytes) == (3201, 1000)  # a segment is freed with its last entry
    await outbox.acknowledged(Lane.MESSAGE, "e", 3400, ())
    state = await database.read(lambda connection: logs.log_state(connection, "log"))
    assert state.held_bytes == 100
    await database.close()


async def test_large_segments_take_one_commit(tmp_path: Path) -> None:
    """It is segments, not entries, of which so many go at a time."""
    database = await Database.open(tmp_path / "a.db", [logs.SCHEMA], application_id=7)
    outbox = SqliteOutbox(database, {Lane.MESSAGE: "log"}, "parent", lambda: "e", lambda *_: None)
    await database.write(outbox.ensure)
    segments = [Segment(1000, b"x" * 10, 1.0)] * 3
    await database.write(lambda connection: logs.append(connection, logs.log_state(connection, "log").log_id, segments))
    before = database.commits
    await outbox.acknowledged(Lane.MESSAGE, "e", 3000, ())
    assert database.commits == before + 1
    assert (await database.read(lambda connection: logs.log_state(connection, "log"))).held_bytes == 0
    await database.close()


async def test_an_acknowledgement_before_the_last_takes_no_commit_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "PATIENCE", 3600.0)
    database = await Database.open(tmp_path / "a.db", [logs.SCHEMA], application_id=7)
    outbox = SqliteOutbox(database, {Lane.MESSAGE: "log"}, "parent", lambda: "e", lambda *_: None)
    await database.write(outbox.ensure)
    segments = [Segment(1, b"x", 1.0)] * 9
    last = await database.write(
        lambda connection: logs.append(connection, logs.log_state(connection, "log").log_id, segments) + 8
    )
    outbox.appended(Lane.MESSAGE, last)
    before = database.commits
    patient = asyncio.create_task(outbox.acknowledged(Lane.MESSAGE, "e", 3, ()))
    await database.read(lambda connection: None)
    assert (patient.done(), database.commits) == (False, before)
    await database.write(lambda connection: None)
    await patient
    assert database.commits == before + 1
    refused = Rejection(5, Problem(Code.INVALID_ARGUMENT, "NO", "no"))
    await outbox.acknowledged(Lane.MESSAGE, "e", 6, (refused,))  # somebody waits to hear of those
    waiting = asyncio.create_task(outbox.acknowledged(Lane.MESSAGE, "e", 7, ()))
    await asyncio.sleep(0)
    await outbox.acknowledged(Lane.MESSAGE, "e", 9, ())  # nothing is left to come
    await waiting
    assert database.commits == before + 3
    late = asyncio.create_task(database.write(lambda connection: 1, patience=3600.0))
    await asyncio.sleep(0)
    await database.close()
    assert await late == 1


async def test_patience_ends(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "a.db", [logs.SCHEMA], application_id=7)
    async with asyncio.timeout(30):
        assert await database.write(lambda connection: 1, patience=0.01) == 1
    await database.close()
