"""One SQLite file, one connection, one thread, many writers.

Theory of operation. Every write is a function of a connection. Writes that arrive while a commit is on its way wait in a
list; when the commit returns, the whole list runs as the next transaction, in order: the database thread begins it by itself.
So nothing lingers when the node is idle, and when it is busy an fsync is shared. What is urgent goes first (`writes`).
A write's future resolves only after the commit (synchronous=FULL: after the fsync), never before.

At each step of SQLite the thread gives up the interpreter, and then waits for a busy event loop to have it again. So what runs
in a transaction executes few statements, however many rows they have, processes switch threads sooner than Python would
(`tune_interpreter`), and a loop that is always busy gives way (`gil`).

If one function of a transaction raises, the transaction is rolled back and every function runs again in a transaction of
its own, so that a bad write harms nobody else. Functions must therefore be free of effects outside the connection.

If the commit itself fails, nobody knows what is on disk (see the ATC'20 paper "Can Applications Recover from fsync
Failures?"). So the connection is closed, the file opened anew and what is in the WAL moved into it, synced; then a number
that every transaction raises says whether this one is there. Only then are its writers told, and told the truth: memory that
follows the store may rely on it. Until the file can be opened again they wait, new writes are refused, and `trouble`
says why. `disk` has what a full disk and one that does not sync ask for.

Between commits, when nobody waits, pages that are free go back to the file system (`free_pages`): what drained becomes small.

Damage that shows while running (SQLite's own checks, or a segment that does not match its checksum) is told once to
`on_damage`, and noted beside the file, so that the next opening does not trust it.

The connection holds the file exclusively: a second process is told so at once, and SQLite's WAL-reset defect, which needs
two connections, cannot occur. `connector` owns the thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edgenode.link.errors import DataLoss, EdgenodeError, Unavailable
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.lanes import Lane
from edgenode.link.store.budget import Budget, Measure, Measured
from edgenode.link.store.connector import Connect, Connection, connect_on_thread
from edgenode.link.store.disk import Ballast, Refill, settle
from edgenode.link.store.failures import is_full, open_error, translated
from edgenode.link.store.free_pages import FreePages
from edgenode.link.store.mark import Mark, Position, open_mark
from edgenode.link.store.migrating import migrate, set_up
from edgenode.link.store.quarantine import Settle, check_head, note_damage, note_path, noted_damage, rebuild
from edgenode.link.store.wal import WriteAheadLog
from edgenode.link.store.writes import Result, Unsure, Write, WriteQueue, roll_back, tell
from edgenode.link.store.writes import Statement as Statement

T = TypeVar("T")

IN_MEMORY = ":memory:"
PAGE_BYTES = 4096
REOPEN_SECONDS = 1.0  # between attempts to open a file that failed
_ROOM_PAGES = 256  # that close to its limit a store that finds no room has reached it

_log = logging.getLogger(__name__)
_MARK = "UPDATE store_mark SET commit_number = commit_number + 1"


class Database:
    """Opens with `await Database.open(...)`; `write` and `read` run functions of the connection; close it at the end."""

    def __init__(
        self,
        path: str,
        migrations: Sequence[str],
        application_id: int,
        budget: Budget,
        connect: Connect,
        measure: Measure | None,
    ) -> None:
        self._path = path
        self._open_connection = connect
        self._migrations = migrations
        self._application_id = application_id
        self._measure = measure
        self._connection: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._pending = WriteQueue()
        self._batch: list[Write[Any]] = []  # of the transaction under way
        self._readers = 0  # that wait for the thread
        self._committer: asyncio.Task[None] | None = None
        self._closing = False
        self._mark: Mark | None = None
        self._store_id = ""
        self._number = 0  # of the last transaction known to be in the file
        self._failed: Exception | None = None  # why the file cannot be opened, while what it holds is unknown
        self._log = WriteAheadLog(path, PAGE_BYTES)
        self._log_full = False  # it is to be moved into the file
        self._put_off = False  # that was put off once
        self._log_limit: int | None = None  # while the file stands still: how far the WAL may grow
        self._descriptor: int | None = None
        self._measured = (0, 0)  # bytes in use, and of messages; noted when what is on its way is taken off
        self._free = FreePages(self._commit_soon)
        self._doubtful = False  # something failed beside a transaction: the file is to be opened anew
        self._ballast = Ballast(path, budget.limit_bytes)
        self._refill = Refill(self._ballast, self._commit_soon)
        self.budget, self.commits = budget, 0
        self.quarantined: str | None = None
        self.damage: DataLoss | None = None
        self.on_damage: Callable[[DataLoss], None] | None = None

    @classmethod
    async def open(
        cls,
        path: Path | str,
        migrations: Sequence[str],
        *,
        application_id: int,
        limit_bytes: int = 1 << 30,
        shares: Mapping[Lane, float] | None = None,
        measure: Measure | None = None,
        settle: Settle | None = None,
        connect: Connect = connect_on_thread,
    ) -> Database:
        """Open or make the file and bring its schema up to date.

        `migrations[i]` is the script that leads from schema version i to i + 1; `application_id` tells edge files from hub
        files. `shares` are those of lanes of `limit_bytes`; `measure` says how many bytes of the file messages take, and
        where its logs stand. With `settle`, a damaged file is set aside and a new one made of what can be read, which
        `settle` makes consistent (see `quarantine`); `quarantined` then names the old one. `connect` opens the connection.
        Raises FailedPrecondition (STATE_IN_USE, WRONG_STATE), DataLoss (STATE_TOO_NEW, STATE_DAMAGED).
        """
        database = cls(str(path), migrations, application_id, Budget(limit_bytes, shares), connect, measure)
        opening = asyncio.ensure_future(database._open(Path(path), settle))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread that opens the file cannot be interrupted, and must not be left behind.
            await asyncio.wait([opening])
            await database.close()
            raise
        database._commit_soon()
        return database

    async def _open(self, path: Path, settle: Settle | None) -> None:
        if self._path == IN_MEMORY:
            return await self._connect()
        self._mark = open_mark(path)
        try:
            if cause := noted_damage(path):
                raise DataLoss(
                    "STATE_DAMAGED",
                    f"{path} was found damaged: {cause}",
                    hint=f"restore a backup, or remove {note_path(path)} to go on with what can be read",
                )
            check_head(path)
            await self._connect()
        except DataLoss as error:
            if settle is None or error.reason != "STATE_DAMAGED":
                raise
            self._close_mark()
            self.quarantined = str(rebuild(path, error.problem.message, self._migrate, settle))
            self._mark = open_mark(path)
            await self._connect()

    @property
    def path(self) -> str:
        """The file, or `:memory:`."""
        return self._path

    def file_bytes(self) -> int:
        """Bytes of the file and its write-ahead log."""
        if self._path == IN_MEMORY:
            return self.budget.used_bytes
        return sum(path.stat().st_size for path in (Path(self._path), Path(self._path + "-wal")) if path.exists())

    @property
    def limit_bytes(self) -> int:
        """Hard bound on the file."""
        return self.budget.limit_bytes

    @property
    def trouble(self) -> str:
        """Why nothing can be stored now, or nothing new; empty when all is well."""
        if self._failed is not None:
            return f"the store cannot be written: {translated(self._failed)}"
        return "the disk is full: new work is refused" if self._ballast.full else ""

    async def set_limit(self, limit_bytes: int) -> None:
        """Move the bound on the file. Below what is in use it stops growth and new work, and takes nothing away."""
        self.budget.limit_bytes = limit_bytes
        await self.read(
            lambda connection: connection.execute(f"PRAGMA max_page_count = {_page_limit(limit_bytes)}").fetchall()
        )

    def check_room(self, size: int, lane: Lane = Lane.TASK) -> None:
        """Refuse new work of `size` bytes that does not fit: ResourceExhausted (LANE_FULL, STORE_FULL)."""
        self._ballast.check()
        self.budget.check(lane, size)

    async def write(
        self,
        function: Statement[T],
        *,
        size: int = 0,
        rows: int = 1,
        urgent: bool = False,
        lane: Lane = Lane.TASK,
        patience: float = 0.0,
    ) -> T:
        """Run `function` in the next transaction; returns its result once that is durable.

        `size` is about what it brings, in bytes, and `lane` what that belongs to; `rows` about how many it changes. Writes run
        in order, but `urgent` ones before all others; one with `patience`, in seconds, goes with whatever comes next. A caller
        that is cancelled stops waiting; the write still happens. Raises what `function` raises, or ResourceExhausted
        (STORE_FULL), Unavailable (STORE_FAILED, STORE_CLOSED), DataLoss (STATE_DAMAGED).
        """
        self._check_usable()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        write = Write(function, future, size, rows, lane, urgent)
        if patience:
            self._pending.add_patient(write, patience, self._commit_soon)
        else:
            self._pending.add(write)
        if size:
            self.budget.admit(lane, size)
        self._commit_soon()
        return await future

    @property
    def _busy(self) -> bool:
        """Whether there is something to do: a file that stands still gives nothing back."""
        tidy = not self._free.due or self._closing or self.stands_still
        return bool(self._pending) or self._log_full or self._refill.due or not tidy

    def _commit_soon(self) -> None:
        if self._committer is None and self._busy:
            self._committer = asyncio.create_task(self._commit_pending(), name="group-commit")

    async def read(self, function: Statement[T]) -> T:
        """Run `function` between transactions. It sees every write that was acknowledged before.

        Raises what `function` raises, or as `write`.
        """
        if self.damage is not None:
            self._check_usable()
        if self._connection is None:  # only the committer opens the file: it is closed before it is opened again
            return await self.write(function)
        self._readers += 1
        try:
            return await self._hop(function)
        except sqlite3.Error as error:
            raise self._noted(translated(error)) from error
        except DataLoss as error:
            self._noted(error)
            raise
        finally:
            self._readers -= 1

    async def close(self) -> None:
        """Finish what is pending, then close. Safe to call twice."""
        self._closing = True
        self._refill.close()
        self._pending.end_patience()
        self._commit_soon()
        while self._committer is not None:
            await asyncio.wait([self._committer])
        self._free.stop()
        reach(Failpoint.STORE_CLOSING)
        await self._disconnect()
        self._close_mark()
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _close_mark(self) -> None:
        mark, self._mark = self._mark, None
        if mark is not None:
            mark.close()

    # --- for snapshots: see `edgenode.link.store.snapshot` ------------------------------------------------------------

    @property
    def stands_still(self) -> bool:
        """Whether nothing is moved from the write-ahead log into the file."""
        return self._log_limit is not None

    async def stand_still(self, settle: Statement[T], log_limit: int) -> T:
        """Run `settle` between commits; from then on the file stands still until `go_on`, or the WAL is over `log_limit`."""
        self._log_limit = log_limit
        try:
            return await self.read(settle)
        except BaseException:
            self._log_limit = None
            raise

    def go_on(self) -> None:
        """The file may be written again."""
        self._log_limit = None
        self._commit_soon()

    def keep_open(self) -> int:
        """A descriptor of the file, for reading; it lives as long as the database."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor

    async def _commit_pending(self) -> None:
        try:
            while self._busy:
                if self._log_full and (self._put_off or not self._pending.urgent):
                    await self._move_log()
                    continue
                self._put_off = self._log_full
                if not self._pending:
                    await (self._lay_ballast() if self._refill.due else self._tidy())
                    continue
                self._batch = self._pending.take()
                try:
                    if self._connection is None:
                        await self._connect()
                    results = await self._hop(self._run_pending)
                except Unsure as unsure:
                    results = await self._find_out(unsure, len(self._batch))
                except BaseException as error:
                    await self._fail(self._batch, error)
                    if not isinstance(error, Exception):
                        raise
                    continue
                finally:
                    self._pending.put_back()
                self._told(self._batch, results, self._measured)
                self._free.looked()
                self._refill.later()
                await self._clear_doubts()
        finally:
            self._committer = None

    def _told(self, batch: Sequence[Write[Any]], results: Sequence[Result], measured: tuple[int, int]) -> None:
        self.budget.note(*measured)
        for failure in tell(batch, results, self.budget):
            self._noted(failure)

    async def _move_log(self) -> None:
        """Move the log into the file: whoever waited for a commit has been told, what is urgent has gone before."""
        self._log_full = self._put_off = False
        await self._hop(lambda connection: self._tend(connection, self._checkpoint))
        await self._clear_doubts()

    async def _clear_doubts(self) -> None:
        if self._doubtful:
            await self._open_anew(Unavailable("STORE_FAILED", "it could not be tended", hint="check the disk"))

    async def _find_out(self, unsure: Unsure, count: int) -> list[Result]:
        """The results of `count` writes, one of whose commits failed; returns once it is known whether it is in the file."""
        failure = self._noted(translated(unsure.error))
        traceback.clear_frames(unsure.__traceback__)  # what stands there may keep the file open
        _log.error("commit failed, the file is opened anew: %s", failure)
        expected = self._number + 1
        damage = await self._open_anew(unsure.error) if self._path != IN_MEMORY else failure
        committed = damage is None and self._number == expected
        failure = damage or failure
        results = unsure.done + (unsure.unsure if committed else [(None, failure)] * len(unsure.unsure))
        return results + [(None, failure)] * (count - len(results))

    async def _open_anew(self, cause: Exception) -> Exception | None:
        """Open the file again and settle what is in it, however often it must be tried.

        Returns why it will never work: damage, or the store is closing. None when it is open.
        """
        while True:
            try:
                await self._disconnect()
                await self._connect()
                await self._hop(settle)
                break
            except (Unavailable, sqlite3.Error) as error:
                await self._disconnect()
                if self._closing:
                    return translated(cause)
                if is_full(error) and self._ballast.give_up():
                    continue
                _log.error("the store cannot be opened: %s", error)
                self._failed = cause
                waiting = self._pending.take_all()
                refusal = (None, translated(cause))  # they came before it was known, and have not run
                tell(waiting, [refusal] * len(waiting), self.budget)
                await asyncio.sleep(REOPEN_SECONDS)
            except EdgenodeError as error:  # damaged: whatever it was, it is gone
                self._failed = None
                return self._noted(error)
        if self._failed is not None:
            _log.warning("the store is open again")
            self._failed = None
        return None

    async def _lay_ballast(self) -> None:
        """See whether the disk has room again."""
        self._refill.due = False
        if self._connection is not None:
            await self._hop(lambda _connection: self._ballast.lay())
        self._refill.later()

    async def _fail(self, batch: Sequence[Write[Any]], error: BaseException) -> None:
        failure = self._noted(error if isinstance(error, EdgenodeError) else translated(error))
        _log.error("commit failed: %s", failure)
        tell(batch, [(None, failure)] * len(batch), self.budget)
        if self._path != IN_MEMORY:
            await self._disconnect()

    def _noted(self, error: Exception) -> Exception:
        """`error`; if it tells that the file is damaged, for the first time, that is noted and told."""
        if isinstance(error, DataLoss) and error.reason == "STATE_DAMAGED" and self.damage is None:
            self.damage = error
            _log.error("the store is damaged: %s", error)
            if self._path != IN_MEMORY:
                note_damage(self._path, error.problem.message)
            if self.on_damage is not None:
                self.on_damage(error)
        return error

    def _check_usable(self) -> None:
        if self._closing:
            raise Unavailable("STORE_CLOSED", "the store is closing", hint="try again once the node is up")
        if self._failed is not None:
            raise translated(self._failed)
        if self.damage is not None:
            raise Unavailable("STORE_FAILED", "the store is damaged and is set aside", hint="try again in a moment")

    def _run_pending(self, connection: sqlite3.Connection) -> list[Result]:
        """One transaction after the other, as long as writes wait and nobody wants to read, nor the log to be moved.

        Were each a hop of its own, the thread would stand still between them until the event loop has come by twice. Gives the
        results of the last, `_batch`; the writers of the others are told by then. Raises Unsure.
        """
        results = self._run(connection, self._batch)
        while self._pending and not (self._readers or self._log_full or self._doubtful):
            self._loop.call_soon_threadsafe(self._told, self._batch, results, self._measured)
            self._pending.put_back()
            self._batch = self._pending.take()
            results = self._run(connection, self._batch)
        return results

    def _run(self, connection: sqlite3.Connection, batch: list[Write[Any]], *, along: bool = True) -> list[Result]:
        """One transaction for all; on an error one for each. See WriteQueue.run for `along`. Raises Unsure."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = self._pending.run(connection, batch, along=along)
            connection.execute(_MARK)
        except Exception as error:
            roll_back(connection)
            if self._make_room(connection, error):
                return self._run(connection, batch, along=False)
            if len(batch) == 1:
                return [(None, translated(error))]
            return self._run_apart(connection, batch)
        reach(Failpoint.COMMIT_BEGUN)
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if is_full(error):
                roll_back(connection)
                if self._make_room(connection, error):
                    return self._run(connection, batch, along=False)
                return [(None, translated(error))] * len(batch)
            raise Unsure([], results, error) from error
        self._number += 1
        reach(Failpoint.COMMIT_DONE)
        self.commits += 1
        self._tend(connection, self._look)
        return results

    def _tend(self, connection: sqlite3.Connection, step: Statement[None]) -> None:
        """A step after commits: what was committed is durable, whatever goes wrong in it."""
        try:
            step(connection)
        except (sqlite3.Error, OSError) as error:
            if self._make_room(connection, error):
                return self._tend(connection, step)
            _log.error("the store could not be tended: %s", error)
            # Without room nothing is in doubt: the log is longer than it should be, and is moved once there is some.
            self._doubtful = not is_full(error)

    def _make_room(self, connection: sqlite3.Connection, error: BaseException) -> bool:
        """Whether there is room now that was not before: the disk is full, and the ballast was given up for it."""
        if not is_full(error) or self._path == IN_MEMORY:
            return False
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        if pages + _ROOM_PAGES >= _page_limit(self.limit_bytes):
            return False  # it is the store's own limit
        if self._ballast.give_up():
            return True
        self._ballast.lay()  # where that works, it was the limit all the same
        return False

    def _run_apart(self, connection: sqlite3.Connection, batch: Sequence[Write[Any]]) -> list[Result]:
        done: list[Result] = []
        for write in batch:
            try:
                done += self._run(connection, [write], along=False)
            except Unsure as unsure:
                raise Unsure(done, unsure.unsure, unsure.error) from unsure.error
        return done

    def _look(self, connection: sqlite3.Connection, *, given_back: bool = False) -> None:
        """Measure what is in use, and how far the log is."""
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        free = connection.execute("PRAGMA freelist_count").fetchone()[0]
        measured = self._measure(connection) if self._measure is not None else Measured()
        self._measured = (pages - free) * PAGE_BYTES, measured.message_bytes
        if self._mark is not None:
            self._mark.write(Position(self._store_id, self._number, measured.positions))
        if self._path == IN_MEMORY:
            return
        self._free.look(free, given_back=given_back)
        if self._log_limit is not None and self._log.size() > self._log_limit:
            self._log_limit = None
        self._log_full = self._log_limit is None and self._log.full()

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        if not self.stands_still:  # else it is from a moment ago on
            reach(Failpoint.CHECKPOINT_DUE)
            self._log.move(connection)
            reach(Failpoint.CHECKPOINT_DONE)

    async def _tidy(self) -> None:
        """Give back some free pages; the last step also gives back what the WAL takes."""
        try:
            if self._connection is None:
                await self._connect()
            await self._hop(self._give_back)
            self.budget.note(*self._measured)
        except Exception as error:
            self._free.give_up()
            _log.error("free space could not be given back: %s", self._noted(translated(error)))

    def _give_back(self, connection: sqlite3.Connection) -> None:
        # The pragma frees one page a step and `execute` steps once; `executescript` steps to the end.
        reach(Failpoint.VACUUM_DUE)
        connection.executescript(f"PRAGMA incremental_vacuum({self._free.step})")
        reach(Failpoint.VACUUM_DONE)
        self._look(connection, given_back=True)
        if not self._free.many:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._log_full = False

    async def _hop(self, function: Statement[T]) -> T:
        connection = self._connection
        if connection is None:
            raise Unavailable("STORE_CLOSED", "the store is closed", hint="start the node again")
        return await connection.run(function)

    async def _connect(self) -> None:
        if self._closing:
            raise Unavailable("STORE_CLOSED", "the store is closing", hint="start the node again")
        self._doubtful = False
        connection = await self._open_connection(self._path)
        try:
            try:
                await connection.run(self._prepare)
            except sqlite3.Error as error:
                if not is_full(error) or not self._ballast.give_up():
                    raise
                await connection.run(self._prepare)
        except BaseException as error:
            await connection.close()
            if isinstance(error, sqlite3.Error):
                raise open_error(self._path, error) from error
            raise
        self._connection = connection
        self.budget.note(*self._measured)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._log_limit = None  # closing moves the log into the file
        self._log_full = self._put_off = False
        if connection is not None:
            await connection.close()
        self._log.close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        reach(Failpoint.STORE_OPENED)
        set_up(connection)
        connection.execute(f"PRAGMA max_page_count = {_page_limit(self.limit_bytes)}").fetchall()
        roll_back(connection)
        connection.execute("BEGIN IMMEDIATE")
        self._log.write_again()  # not before the lock is ours
        self._migrate(connection)
        self._store_id, self._number = connection.execute("SELECT store_id, commit_number FROM store_mark").fetchone()
        if self._mark is not None:
            self._mark.check(self._store_id, self._number)
        reach(Failpoint.STORE_READY)
        self._tend(connection, self._look)
        if self._path != IN_MEMORY:
            self._ballast.lay()

    def _migrate(self, connection: sqlite3.Connection) -> None:
        migrate(connection, self._path, self._migrations, self._application_id)


def _page_limit(limit_bytes: int) -> int:
    return max(limit_bytes // PAGE_BYTES, 64)
