"""A disk for one process: real SQLite on real files, in simulated time, with the failures that disks have.

A function given to a connection takes its time; it is carried out, in one go, when that time is over, and only then its
caller is told. So at any moment everything carried out is written and (the product commits with synchronous=FULL) synced,
and at most one function is under way. When the process dies meanwhile, what becomes of that function is drawn:

    lost    nothing of it is on disk
    kept    all of it is, but nobody was told
    torn    some of the 512-byte sectors it changed are, others are not; barriers are kept: the WAL is synced before pages
            go to the database, and its header before frames under it

and the files are put as they then stand, for the next process to open and SQLite to recover. If the connection asked for
less than synchronous=FULL, nothing since it was opened is known to be synced, and a power cut may take all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from edgenode.link.store.connector import Connection
from tests.simulation.loop import Loop

T = TypeVar("T")

SECTOR = 512
_WAL_HEADER = 32
MARK = "-mark"  # the file beside the store that says how far it had come; written after the commit, never synced

Files = dict[str, bytes]  # suffix -> content; without the files that do not exist


class Disk:
    """The files of one store. `connect` is what the product is given."""

    def __init__(self, loop: Loop, path: Path, rng: random.Random) -> None:
        self.path = path
        self.faults: Counter[str] = Counter()
        self.slow = 1.0  # how many times longer everything takes
        self.ambiguous = True  # a commit that failed may be durable
        self.failing_commits = 0  # so many of the next commits fail with an I/O error
        self.page_limit = 0  # no more pages than that, while it is set
        self.trap: tuple[int, Callable[[], None]] | None = None  # so many functions on, in the middle of one
        self._loop = loop
        self._rng = rng
        self._connection: _Connection | None = None

    async def connect(self, path: str) -> Connection:
        """See edgenode.link.store.connector.Connect."""
        connection = _Connection(self._loop, self, path)
        await connection.run(connection.open)
        return connection

    def opened(self, connection: _Connection) -> None:
        """It is the one that has the files now."""
        self._connection = connection

    def delay(self) -> float:
        """Seconds the next function takes."""
        return self._rng.uniform(0.0003, 0.004) * self.slow

    def chance(self) -> float:
        """In [0, 1)."""
        return self._rng.random()

    @property
    def sql(self) -> sqlite3.Connection | None:
        """The open connection, for the oracle to look at what is committed; None while there is none."""
        connection = self._connection
        if connection is None or connection.sql is None or connection.sql.in_transaction:
            return None
        return connection.sql

    def crash(self, *, power: bool) -> str:
        """The process is dead. `power`: so is the machine. Returns what became of the function under way."""
        connection, self._connection = self._connection, None
        if connection is None:
            return "closed"
        fate, files = self._fate(connection, power=power)
        connection.abandon()
        self.put(files)
        return fate

    def _fate(self, connection: _Connection, *, power: bool) -> tuple[str, Files]:
        rng = self._rng
        before = self.files()
        if power and connection.unsynced() and rng.random() < 0.7:
            return "unsynced lost", connection.synced
        if not connection.jobs:
            return "idle", before
        draw = rng.random()
        if draw < 0.35:
            return "lost", before
        with contextlib.suppress(Exception):  # nobody is there to be told
            connection.carry_out()
        after = self.files()
        if draw < 0.65 or not power or not before.get("") or before == after:
            return "kept", _marked(after, rng.choice((before, after)) if power else after)
        return "torn", _marked(_torn(before, after, rng), before)

    def files(self) -> Files:
        """What is in the files now."""
        found = {}
        for suffix in ("", "-wal", MARK):
            try:
                found[suffix] = self._file(suffix).read_bytes()
            except FileNotFoundError:
                continue
        return found

    def put(self, files: Files) -> None:
        """Let the files be these; nobody has them open."""
        for suffix in ("", "-wal", MARK, "-shm", "-journal"):
            if suffix in files:
                self._file(suffix).write_bytes(files[suffix])
            else:
                self._file(suffix).unlink(missing_ok=True)

    def _file(self, suffix: str) -> Path:
        return Path(f"{self.path}{suffix}")


class _Connection:
    """See edgenode.link.store.connector.Connection."""

    def __init__(self, loop: Loop, disk: Disk, path: str) -> None:
        self.sql: sqlite3.Connection | None = None
        self.jobs: deque[tuple[Callable[..., Any], asyncio.Future[Any]]] = deque()
        self.synced: Files = {}
        self._loop = loop
        self._disk = disk
        self._path = path

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """See Connection."""
        future: asyncio.Future[T] = self._loop.create_future()
        self.jobs.append((function, future))
        if len(self.jobs) == 1:
            self._begin()
        return await future

    def _begin(self) -> None:
        delay = self._disk.delay()
        self._loop.call_later(delay, self._finish)
        if self._disk.trap is not None:
            left, spring = self._disk.trap
            self._disk.trap = (left - 1, spring) if left else None
            if not left:
                self._loop.later(delay * self._disk.chance(), spring)

    async def close(self) -> None:
        """See Connection."""
        if self.sql is not None:
            await self.run(self._close)

    def open(self, _: sqlite3.Connection | None) -> None:
        """The first function."""
        self.sql = sqlite3.connect(self._path, isolation_level=None, cached_statements=256, factory=_Sql)
        self.synced = self._disk.files()
        self._disk.opened(self)

    def _close(self, sql: sqlite3.Connection) -> None:
        sql.close()
        self.sql = None

    def _finish(self) -> None:
        _, future = self.jobs[0]
        try:
            result = self.carry_out()
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)
        if self.jobs:
            self._begin()

    def carry_out(self) -> Any:
        """Do what is under way."""
        function, _ = self.jobs.popleft()
        sql = self.sql
        if isinstance(sql, _Sql):
            sql.arm(self._disk)
        try:
            return function(sql)
        finally:
            if self.sql is not None and isinstance(sql, _Sql):
                sql.disarm(self._disk)

    def unsynced(self) -> bool:
        """Whether commits are not synced."""
        return self.sql is not None and self.sql.execute("PRAGMA synchronous").fetchone()[0] < 2

    def abandon(self) -> None:
        """The process is dead: give the files back."""
        if self.sql is not None:
            self.sql.close()
            self.sql = None
        self.jobs.clear()


class _Sql(sqlite3.Connection):
    """A connection whose commits can fail and whose file can be full."""

    limit = 0  # the product's own, while the disk is full

    def arm(self, disk: Disk) -> None:
        """Before a function: let it meet the faults of the moment."""
        if disk.failing_commits:
            self.execute = _failing(self, disk)  # type: ignore[method-assign]
        if disk.page_limit:
            self.limit = self.limit or super().execute("PRAGMA max_page_count").fetchone()[0]
            used = super().execute("PRAGMA page_count").fetchone()[0]
            super().execute(f"PRAGMA max_page_count = {max(disk.page_limit, used)}").fetchall()

    def disarm(self, disk: Disk) -> None:
        """After it."""
        self.__dict__.pop("execute", None)
        if self.limit and not disk.page_limit:
            super().execute(f"PRAGMA max_page_count = {self.limit}").fetchall()
            self.limit = 0


def _failing(sql: sqlite3.Connection, disk: Disk) -> Callable[..., sqlite3.Cursor]:
    def execute(statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "COMMIT" and disk.failing_commits:
            disk.failing_commits -= 1
            durable = disk.ambiguous and disk._rng.random() < 0.5
            disk.faults["fsync error, durable" if durable else "fsync error, lost"] += 1
            sqlite3.Connection.execute(sql, "COMMIT" if durable else "ROLLBACK")
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return sqlite3.Connection.execute(sql, statement, *values)

    return execute


def _torn(before: Files, after: Files, rng: random.Random) -> Files:
    """What may be on disk in the middle of going from `before` to `after`."""
    old, new = before.get("-wal", b""), after.get("-wal", b"")
    database = after.get("", b"")
    changed = before[""] != database
    if changed and rng.random() < 0.5:
        # The WAL is synced and pages are on their way to the database; what is in the WAL is not needed there twice.
        wal = new if new else old
        return {"": _mixed(before[""], database, rng), **({"-wal": wal} if wal else {})}
    files = {"": before[""]}
    if not new:
        return {**files, **({"-wal": old} if old else {})}
    if old[:_WAL_HEADER] != new[:_WAL_HEADER]:
        old = new[:_WAL_HEADER] + old[_WAL_HEADER:] if rng.random() < 0.8 else old
        if old[:_WAL_HEADER] != new[:_WAL_HEADER]:
            return {**files, **({"-wal": old} if old else {})}
    return {**files, "-wal": _mixed(old, new, rng)}


def _marked(files: Files, other: Files) -> Files:
    """`files` with the mark of `other`."""
    rest = {suffix: data for suffix, data in files.items() if suffix != MARK}
    return {**rest, MARK: other[MARK]} if MARK in other else rest


def close_marks(directory: Path) -> None:
    """Give back the descriptors that dead processes of the simulation had open."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(str(directory)) and MARK in target:
                os.close(int(name))


def _mixed(old: bytes, new: bytes, rng: random.Random) -> bytes:
    """Some of the sectors that differ are new; the file may have any size between."""
    size = max(len(old), len(new))
    parts = []
    share = rng.choice((0.1, 0.5, 0.9))
    for start in range(0, size, SECTOR):
        was, is_now = old[start : start + SECTOR], new[start : start + SECTOR]
        if was != is_now and rng.random() < share:
            parts.append(is_now)
        elif was:
            parts.append(was)
        else:
            parts.append(bytes(len(is_now)))
    mixed = b"".join(parts)
    if len(new) > len(old) and rng.random() < 0.5:
        mixed = mixed[: rng.randrange(len(old), len(new))]
    return mixed


def flip_bit(path: Path, rng: random.Random, suffix: str = "") -> bool:
    """Damage one bit of a file; False if there is none."""
    file = Path(f"{path}{suffix}")
    size = os.path.getsize(file) if file.exists() else 0
    if not size:
        return False
    with file.open("r+b") as handle:
        place = rng.randrange(size)
        handle.seek(place)
        byte = handle.read(1)[0]
        handle.seek(place)
        handle.write(bytes([byte ^ 1 << rng.randrange(8)]))
    return True
