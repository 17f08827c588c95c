import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgenode.link.errors import DataLoss, FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from edgenode.link.model.lanes import Lane
from edgenode.link.store import free_pages
from edgenode.link.store.database import PAGE_BYTES, Database
from edgenode.link.store.quarantine import Salvage
from edgenode.link.store.wal import LOG_BYTES, WriteAheadLog
from edgenode.link.store.writes import TRANSACTION_ROWS, Result, Write

SCHEMA = ["CREATE TABLE item (item_id INTEGER PRIMARY KEY, body BLOB) STRICT;\n"]


async def open_database(path: Path, **options: object) -> Database:
    return await Database.open(path, SCHEMA, application_id=7, **options)  # type: ignore[arg-type]


def insert(body: bytes):  # type: ignore[no-untyped-def]
    return lambda connection: connection.execute("INSERT INTO item (body) VALUES (?)", (body,)).lastrowid


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM item").fetchone()[0])


async def test_writes_at_once_share_commits(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "a.db")
    before = database.commits
    await asyncio.gather(*(database.write(insert(b"x")) for _ in range(1000)))
    assert await database.read(count) == 1000
    assert database.commits - before <= 1000 // TRANSACTION_ROWS + 2
    await database.close()
    again = await open_database(tmp_path / "a.db")
    assert await again.read(count) == 1000
    await again.close()


@pytest.mark.parametrize("good", [True, False])
async def test_what_is_urgent_goes_along_with_the_transaction_under_way(tmp_path: Path, good: bool) -> None:
    """And ends it: it waits neither for the rest of it nor for a commit more. If it fails, that harms only itself."""
    database = await open_database(tmp_path / "a.db")
    loop, begun, queued = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    commits: dict[str, int] = {}

    def write(name: str, *, works: bool = True) -> Callable[[sqlite3.Connection], None]:
        def run(connection: sqlite3.Connection) -> None:
            commits[name] = database.commits  # before the one that has it
            insert(name.encode())(connection)
            if name == "a":
                loop.call_soon_threadsafe(begun.set)
                assert queued.wait(10)
            if not works:
                raise NotFound("NOPE", "no")

        return run

    bulk = asyncio.gather(*(database.write(write(name)) for name in "abc"))
    await begun.wait()
    urgent = asyncio.ensure_future(database.write(write("U", works=good), urgent=True))
    await asyncio.sleep(0)  # it is queued
    queued.set()
    await asyncio.gather(bulk, urgent, return_exceptions=True)
    assert list(commits) == ["a", "U", "b", "c"]
    assert commits["U"] == commits["a"] + (0 if good else 1)  # one that fails runs again, alone
    assert commits["b"] == commits["c"] > commits["a"]
    assert (urgent.exception() is None) is good
    assert await database.read(count) == 3 + good
    await database.close()


async def test_the_thread_does_not_wait_for_the_event_loop_between_transactions(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "a.db")
    begun, queued = asyncio.Event(), threading.Event()
    loop, before = asyncio.get_running_loop(), database.commits

    def first(connection: sqlite3.Connection) -> None:
        insert(b"0")(connection)
        loop.call_soon_threadsafe(begun.set)
        assert queued.wait(30)

    def fail(connection: sqlite3.Connection) -> None:
        raise NotFound("NOPE", "no")

    writes = [asyncio.create_task(database.write(first, rows=TRANSACTION_ROWS))]
    await begun.wait()
    functions = [insert(b"1"), fail, insert(b"3")]
    writes += [asyncio.create_task(database.write(function, rows=TRANSACTION_ROWS)) for function in functions]
    await asyncio.sleep(0)
    queued.set()
    deadline = time.monotonic() + 30
    while database.commits < before + 3:  # nobody else has a turn of the loop meanwhile
        assert time.monotonic() < deadline
        time.sleep(0.001)  # noqa: ASYNC251
    results: list[Any] = await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(results.pop(2), NotFound)
    assert results == [None, 2, 3]
    assert await database.read(count) == 3
    await database.close()


async def test_who_reads_waits_for_one_transaction_alone(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "a.db")
    begun, queued = asyncio.Event(), threading.Event()
    loop, seen = asyncio.get_running_loop(), []

    def first(connection: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert queued.wait(30)

    writes = [asyncio.create_task(database.write(first, rows=TRANSACTION_ROWS))]
    await begun.wait()
    writes += [asyncio.create_task(database.write(insert(b"x"), rows=TRANSACTION_ROWS)) for _ in range(3)]
    reading = asyncio.create_task(database.read(count))
    await asyncio.sleep(0)
    queued.set()
    seen.append(await reading)
    await asyncio.gather(*writes)
    seen.append(await database.read(count))
    assert seen == [0, 3]
    await database.close()


async def test_a_failing_write_harms_only_itself(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "a.db")

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO item (body) VALUES (?)", (b"gone",))
        raise NotFound("NOPE", "no")

    results = await asyncio.gather(
        database.write(insert(b"1")), database.write(fail), database.write(insert(b"2")), return_exceptions=True
    )
    assert isinstance(results[1], NotFound)
    assert await database.read(count) == 2
    await database.close()


async def test_cancelled_writer_still_commits_and_closing_waits(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "a.db")
    task = asyncio.create_task(database.write(insert(b"x")))
    await asyncio.sleep(0)
    task.cancel()
    await database.close()
    with pytest.raises(Unavailable, match="STORE_CLOSED"):
        await database.write(insert(b"y"))
    again = await open_database(tmp_path / "a.db")
    assert await again.read(count) == 1
    await again.close()
    await again.close()


async def test_second_process_is_told(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "a.db")
    with pytest.raises(FailedPrecondition) as caught:
        await open_database(tmp_path / "a.db")
    assert caught.value.reason == "STATE_IN_USE"
    await database.close()


async def test_newer_and_foreign_state_is_refused(tmp_path: Path) -> None:
    await (await Database.open(tmp_path / "a.db", [*SCHEMA, "CREATE TABLE more (x)"], application_id=7)).close()
    with pytest.raises(DataLoss) as newer:
        await open_database(tmp_path / "a.db")
    assert newer.value.reason == "STATE_TOO_NEW"
    with pytest.raises(FailedPrecondition) as foreign:
        await Database.open(tmp_path / "a.db", [*SCHEMA, "CREATE TABLE more (x)"], application_id=8)
    assert foreign.value.reason == "WRONG_STATE"


async def test_damaged_file_is_refused_or_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(os.urandom(8192))
    with pytest.raises(DataLoss) as caught:
        await open_database(path)
    assert caught.value.reason == "STATE_DAMAGED"
    told: list[Salvage] = []
    database = await open_database(path, settle=lambda connection, salvage: told.append(salvage))
    assert database.quarantined is not None
    assert Path(database.quarantined).stat().st_size == 8192
    assert (told[0].copied.total(), str(told[0].aside)) == (0, database.quarantined)
    assert await database.write(insert(b"x")) == 1
    await database.close()


async def test_full_store_refuses_and_recovers(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "a.db", limit_bytes=1 << 20)
    with pytest.raises(ResourceExhausted) as early:
        database.check_room(1 << 20)
    assert early.value.reason == "STORE_FULL"
    results = [
        await asyncio.gather(database.write(insert(os.urandom(50_000))), return_exceptions=True) for _ in range(100)
    ]
    assert isinstance(results[-1][0], ResourceExhausted)
    kept = await database.read(count)
    assert 10 < kept < 100
    await database.write(lambda connection: connection.execute("DELETE FROM item"))
    await database.write(insert(b"room again"))
    database.check_room(1000)
    await database.close()


async def drain(database: Database) -> None:
    """Wait until the store has nothing more to do."""
    while database._committer is not None or database._free._rest is not None:
        await (asyncio.wait([database._committer]) if database._committer is not None else asyncio.sleep(0.001))


async def test_space_is_given_back_after_a_drain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_pages, "CALM_SECONDS", 0.01)
    database = await open_database(tmp_path / "a.db")
    for _ in range(40):
        await database.write(insert(os.urandom(1 << 20)))
    assert (tmp_path / "a.db").stat().st_size > 20 << 20
    await database.write(lambda connection: connection.execute("DELETE FROM item"))
    await drain(database)  # nobody asks for anything any more
    assert (tmp_path / "a.db").stat().st_size < 2 << 20
    assert (tmp_path / "a.db-wal").stat().st_size == 0
    await database.close()


async def test_what_is_deleted_is_not_written_over(tmp_path: Path) -> None:
    """Some builds of SQLite do so unless told otherwise: a backlog would be written twice more as it drains."""
    database = await open_database(tmp_path / "a.db")
    await database.write(insert(os.urandom(1 << 20)))
    log = WriteAheadLog(str(tmp_path / "a.db"), PAGE_BYTES)
    await database.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    await database.write(lambda connection: connection.execute("DELETE FROM item"))
    assert log.size() < 200_000
    log.close()
    await database.close()


async def test_no_space_is_given_back_while_much_becomes_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is moved to do so is mostly about to go as well, and whoever writes waits for it."""
    monkeypatch.setattr(free_pages, "CALM_SECONDS", 3600.0)
    database = await open_database(tmp_path / "a.db")
    numbers = [await database.write(insert(os.urandom(1 << 20))) for _ in range(40)]
    for number in numbers:
        await database.write(lambda connection, n=number: connection.execute("DELETE FROM item WHERE rowid = ?", (n,)))  # type: ignore[misc]
        assert database._free._rest is None or not database._free.due
    assert database._free.many
    while database._committer is not None:
        await asyncio.wait([database._committer])
    assert (tmp_path / "a.db").stat().st_size > 20 << 20
    rest = database._free._rest
    assert rest is not None
    rest.cancel()
    database._free._rested()  # it has been calm
    await drain(database)
    assert (tmp_path / "a.db").stat().st_size < 2 << 20
    await database.close()


async def test_space_is_given_back_in_steps_between_which_writers_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_pages, "CALM_SECONDS", 0.0)
    database = await open_database(tmp_path / "a.db")
    for _ in range(40):
        await database.write(insert(os.urandom(1 << 20)))
    steps: list[str] = []
    give_back, run = database._give_back, database._run

    def noted_step(connection: sqlite3.Connection) -> None:
        steps.append("step")
        give_back(connection)

    def noted_commit(*args: Any) -> Any:
        steps.append("commit")
        return run(*args)

    monkeypatch.setattr(database, "_give_back", noted_step)
    monkeypatch.setattr(database, "_run", noted_commit)
    await database.write(lambda connection: connection.execute("DELETE FROM item"))
    for _ in range(10):
        await database.write(insert(b"x"))
    await drain(database)
    assert steps.count("step") > 20
    assert max(len(part) for part in "".join(s[0] for s in steps[: steps.index("commit", 9)]).split("c")) <= 1
    await database.close()


async def test_space_left_by_an_earlier_run_is_given_back(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "a.db")
    for _ in range(20):
        await database.write(insert(os.urandom(1 << 20)))
    await database.write(lambda connection: connection.execute("DELETE FROM item"))
    await database.close()
    assert (tmp_path / "a.db").stat().st_size > 10 << 20
    again = await open_database(tmp_path / "a.db")
    await drain(again)
    assert (tmp_path / "a.db").stat().st_size < 2 << 20
    await again.close()


async def test_transactions_are_bounded(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "a.db")
    before = database.commits
    body = os.urandom(1 << 20)
    await asyncio.gather(*(database.write(insert(body), size=len(body)) for _ in range(64)))
    assert database.commits - before == 8
    assert (tmp_path / "a.db-wal").stat().st_size < 32 << 20
    assert database.budget._admitted == {Lane.MESSAGE: 0, Lane.TASK: 0}
    await database.close()


async def test_what_is_on_its_way_counts(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "a.db", limit_bytes=16 << 20)
    writes = []
    for _ in range(14):
        database.check_room(1 << 20)
        writes.append(asyncio.create_task(database.write(insert(os.urandom(1 << 20)), size=1 << 20)))
        await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="STORE_FULL"):
        database.check_room(1 << 20)
    await asyncio.gather(*writes)
    await database.close()


async def test_an_opening_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    cancelled = 0
    for turns in range(12):
        opening = asyncio.ensure_future(open_database(tmp_path / "a.db"))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        try:
            await (await opening).close()  # it was open by then
        except asyncio.CancelledError:
            cancelled += 1
    assert cancelled
    await (await open_database(tmp_path / "a.db")).close()


async def test_the_wal_is_bounded_and_used_again(tmp_path: Path) -> None:
    database = await open_database(tmp_path / "a.db")
    sizes = []
    for _ in range(64):
        await database.write(insert(os.urandom(1 << 20)))
        sizes.append((tmp_path / "a.db-wal").stat().st_size)
    assert max(sizes) < 24 << 20
    assert len(set(sizes[20:])) < 24  # most commits find room in it
    await database.close()
    again = await open_database(tmp_path / "a.db")
    assert await again.read(count) == 64
    await again.close()


async def test_the_log_is_moved_early_and_keeps_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = 0

    def counted(self: WriteAheadLog, connection: sqlite3.Connection) -> None:
        nonlocal moved
        moved += 1
        move(self, connection)

    move = WriteAheadLog.move
    monkeypatch.setattr(WriteAheadLog, "move", counted)
    database = await open_database(tmp_path / "a.db")
    for _ in range(100):
        await database.write(insert(os.urandom(100_000)))
        assert (tmp_path / "a.db-wal").stat().st_size < LOG_BYTES + 200_000
    assert 100 * 100_000 // (LOG_BYTES + 200_000) <= moved <= 100 * 130_000 // LOG_BYTES
    await database.close()
    assert not (tmp_path / "a.db-wal").exists()


async def test_the_log_is_moved_after_its_writers_were_told_and_after_what_is_urgent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await open_database(tmp_path / "a.db")
    loop, committed, queued = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    told: list[str] = []
    heard = {name: threading.Event() for name in ("large", "first", "second")}
    move, run = WriteAheadLog.move, database._run

    def noted_move(self: WriteAheadLog, connection: sqlite3.Connection) -> None:
        assert heard["first"].wait(10)  # the loop may be slower than this thread
        told.append("moved")
        move(self, connection)

    def noted_commit(connection: sqlite3.Connection, batch: list[Write[object]], **how: bool) -> list[Result]:
        results = run(connection, batch, **how)
        assert not told or heard["large"].wait(10)
        told.append("committed")
        loop.call_soon_threadsafe(committed.set)
        assert queued.wait(10)
        return results

    async def write(name: str, size: int = 1, then: str = "") -> None:
        await database.write(insert(bytes(size)), urgent=size == 1)
        told.append(name)
        heard[name].set()
        if then:
            await write(then)

    monkeypatch.setattr(WriteAheadLog, "move", noted_move)
    monkeypatch.setattr(database, "_run", noted_commit)
    large = asyncio.create_task(write("large", LOG_BYTES + 100_000))
    await committed.wait()
    first = asyncio.create_task(write("first", then="second"))
    await asyncio.sleep(0)
    assert database._pending.urgent
    queued.set()
    await asyncio.gather(large, first)
    await drain(database)
    assert told == ["committed", "large", "committed", "first", "moved", "committed", "second"]
    await database.close()


async def test_reads_while_the_file_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = await open_database(tmp_path / "a.db")
    await database.write(insert(b"kept"))
    run, failures = database._run, 5

    def fail(*args: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise sqlite3.OperationalError("disk I/O error")
        return run(*args)

    monkeypatch.setattr(database, "_run", fail)
    while failures:
        with pytest.raises(Unavailable, match="STORE_FAILED"):
            await database.write(insert(b"gone"))
        # The writer is told before the file is closed; nobody may open it a second time meanwhile.
        results = await asyncio.gather(*(database.read(count) for _ in range(10)), return_exceptions=True)
        assert {result if isinstance(result, int) else str(result)[:12] for result in results} <= {1, "STORE_FAILED"}
    await database.write(insert(b"more"))
    assert await database.read(count) == 2
    await database.close()


@pytest.mark.parametrize("durable", [True, False])
async def test_a_commit_that_failed_is_told_as_it_turned_out(tmp_path: Path, durable: bool) -> None:
    database = await open_database(tmp_path / "a.db", connect=lambda path: connect_failing(path, durable))
    assert await database.write(insert(b"first")) == 1
    FailingCommits.left = 1
    results = await asyncio.gather(
        database.write(insert(b"unsure")), database.write(insert(b"with it")), return_exceptions=True
    )
    if durable:
        assert list(results) == [2, 3]
    else:
        assert {type(result) for result in results} == {Unavailable}
    assert await database.read(count) == (3 if durable else 1)
    assert await database.write(insert(b"later")) == (4 if durable else 2)
    await database.close()


async def test_nobody_waits_for_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(path: str) -> Any:
        if gone.is_set():
            opening.set()
            await fails.wait()
            raise sqlite3.OperationalError("unable to open database file")
        return await connect_failing(path, durable=False)

    gone, opening, fails = asyncio.Event(), asyncio.Event(), asyncio.Event()
    monkeypatch.setattr("edgenode.link.store.database.REOPEN_SECONDS", 0.01)
    monkeypatch.setattr(FailingCommits, "left", 0)
    database = await open_database(tmp_path / "a.db", connect=connect)
    FailingCommits.left = 1
    gone.set()
    unsure = asyncio.create_task(database.write(insert(b"unsure")))
    await opening.wait()
    # They come while the file is being opened, when nobody knows yet that it cannot be.
    behind = [asyncio.create_task(ask) for ask in (database.read(count), database.write(insert(b"behind")))]
    await asyncio.sleep(0)
    fails.set()
    results = await asyncio.gather(*behind, return_exceptions=True)
    assert ["STORE_FAILED" in str(result) for result in results] == [True, True]
    assert not unsure.done(), "told before it is known"
    gone.clear()
    with pytest.raises(Unavailable, match="STORE_FAILED"):
        await unsure
    assert await database.write(insert(b"later")) == 1
    await database.close()


class FailingCommits(sqlite3.Connection):
    """Commits that fail as they do when fsync fails: what was to be committed is in the file, or is not."""

    left = 0
    durable = False

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql == "COMMIT" and FailingCommits.left:
            FailingCommits.left -= 1
            super().execute("COMMIT" if self.durable else "ROLLBACK")
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *values)


async def connect_failing(path: str, durable: bool) -> Any:
    class Thread:
        def __init__(self) -> None:
            self.sql = sqlite3.connect(path, isolation_level=None, factory=FailingCommits)
            self.sql.durable = durable

        async def run(self, function: Any) -> Any:
            await asyncio.sleep(0)
            return function(self.sql)

        async def close(self) -> None:
            self.sql.close()

    return Thread()


@pytest.mark.parametrize("writing", [False, True])
async def test_damage_found_while_running_is_told_as_such(tmp_path: Path, writing: bool) -> None:
    database = await open_database(tmp_path / "a.db")

    def damaged(connection: sqlite3.Connection) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    told: list[DataLoss] = []
    database.on_damage = told.append
    attempt = database.write if writing else database.read
    with pytest.raises(DataLoss, match="STATE_DAMAGED"):
        await attempt(damaged)
    assert [error.reason for error in told] == ["STATE_DAMAGED"]
    for again in (database.write, database.read):  # nothing is acknowledged, nor told, from it any more
        with pytest.raises(Unavailable, match="STORE_FAILED"):
            await again(count)
    await database.close()
    with pytest.raises(DataLoss, match="found damaged"):
        await open_database(tmp_path / "a.db")
