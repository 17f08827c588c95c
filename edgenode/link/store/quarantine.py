"""What becomes of a damaged store: it is set aside, and what can still be read of it goes into a new one.

The steps may end anywhere (a kill, a power cut, a full disk) and are taken up by the next start:

1. Whoever finds damage writes a note beside the store (`note_damage`). A store with a note is not opened.
2. The files are moved aside, the main file last, so that where it stands says how far this has come.
3. The new store is made under another name, row by row, and is put in place by a rename once it is whole and synced.
4. The note goes.

A damaged page makes rows unreadable, not the table: reading goes on behind them. Rows of a log must match their checksums.
What was lost is told by `settle`, the owner's last word on the new store, in the transaction that ends it. Of files set
aside only the newest is kept, so that damage does not fill the disk.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgenode.link.errors import DataLoss
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.store import logs
from edgenode.link.store.mark import Mark, Position, mark_path

_SUFFIXES = ("-wal", "-shm", "")
_ROWS = 500  # copied in one transaction, at most
_MAGIC = b"SQLite format 3\x00"
# The parts of a file's head that are the same in every store, and what they are before it holds anything: page size 4096,
# WAL, the fixed fractions, the format, UTF-8.
_HEAD = (
    (0, (_MAGIC,)),
    (16, (b"\x10\x00\x02\x02\x00\x40\x20\x20", b"\x10\x00\x01\x01\x00\x40\x20\x20")),
    (44, (b"\x00\x00\x00\x04", bytes(4))),
    (56, (b"\x00\x00\x00\x01", bytes(4))),
)
_HIGHEST = (1 << 63) - 1

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Salvage:
    """What `settle` is told: why and as what the old file was set aside, how far it had come, rows copied by table."""

    cause: str
    aside: Path
    position: Position | None
    copied: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)  # stretches of a table that could not be read
    rejected: Counter[str] = field(default_factory=Counter)  # rows that were read and are not what was stored


Settle = Callable[[sqlite3.Connection, Salvage], None]
Make = Callable[[sqlite3.Connection], None]


def note_path(store: Path | str) -> Path:
    """Where the note of damage is."""
    return Path(f"{store}.damaged")


def note_damage(store: Path | str, cause: str) -> None:
    """The store must not be trusted any more."""
    try:
        if not note_path(store).exists():
            _write_note(store, {"cause": cause})
    except OSError as error:
        _log.error("damage could not be noted, it will be found again: %s", error)


def noted_damage(store: Path | str) -> str:
    """The cause in the note; empty where there is none."""
    return str(_read_note(store).get("cause", "")) if note_path(store).exists() else ""


def check_head(store: Path) -> None:
    """Raises DataLoss (STATE_DAMAGED) where the head of the file is not one of a store: SQLite has many words for that."""
    try:
        with store.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        head = b""
    except OSError:
        return  # whoever opens it will say
    if not head and _position(store) is not None and not Path(f"{store}-wal").exists():
        raise DataLoss(
            "STATE_DAMAGED", f"{store} is empty or gone", hint="restore a backup, or remove what is beside it"
        )
    if Path(f"{store}-journal").exists():
        return  # a making that was cut: SQLite takes back what there is of it, or says what is wrong
    if head and any(head[offset : offset + len(expected[0])] not in expected for offset, expected in _HEAD):
        raise DataLoss(
            "STATE_DAMAGED",
            f"{store} is damaged: its head is not that of a store",
            hint="restore a backup, or move the file away",
        )


def rebuild(store: Path, cause: str, make: Make, settle: Settle) -> Path:
    """Set a damaged store aside and make a new one of what can be read; returns what it is called now.

    `make` makes the schema in an empty file, and ends the transaction it is called in. Waits for the disk. Raises OSError,
    sqlite3.Error.
    """
    note = {"cause": cause} | _read_note(store)
    aside = Path(note["aside"]) if "aside" in note else _free_name(store)
    _write_note(store, note | {"aside": str(aside)})
    if not aside.exists():
        for suffix in _SUFFIXES:
            source = Path(str(store) + suffix)
            if source.exists():
                source.rename(str(aside) + suffix)
        _sync(store.parent)
        reach(Failpoint.STORE_QUARANTINED)
    if not store.exists():
        _log.error("the store is damaged (%s): set aside as %s, what can be read goes into a new one", cause, aside)
        _make_anew(store, aside, note["cause"], make, settle)
    _forget_older(store, aside)
    mark_path(store).unlink(missing_ok=True)
    note_path(store).unlink(missing_ok=True)
    _sync(store.parent)
    return aside


def _make_anew(store: Path, aside: Path, cause: str, make: Make, settle: Settle) -> None:
    fresh = Path(f"{store}.salvage")
    for suffix in (*_SUFFIXES, "-journal"):
        Path(str(fresh) + suffix).unlink(missing_ok=True)
    salvage = Salvage(cause, aside, _position(store))
    with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as new:
        for pragma in ("page_size = 4096", "auto_vacuum = INCREMENTAL", "synchronous = OFF", "foreign_keys = OFF"):
            new.execute(f"PRAGMA {pragma}")
        new.execute("BEGIN IMMEDIATE")
        make(new)
        with _opened(aside) as old:
            if old is not None:
                _copy(old, new, salvage)
        new.execute("BEGIN IMMEDIATE")
        settle(new, salvage)
        new.execute("COMMIT")
    descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.rename(store)
    _sync(store.parent)


# --- reading what is damaged ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection | None]:
    """The damaged file, with its WAL; None where nothing can be read of it at all."""
    if not path.exists():
        yield None
        return
    _mend_head(path)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # The mode first: read with a WAL it is otherwise refused to more than one, and there is nobody else.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA writable_schema = ON")  # reads a file that is shorter than its head says
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error as error:
            _log.error("nothing can be read of %s: %s", path, error)
            yield None
        else:
            yield connection
    finally:
        connection.close()


def _mend_head(path: Path) -> None:
    """Where only little of a file's head is wrong, put right what every store has there."""
    with path.open("r+b") as file:
        head = file.read(100)
        if len(head) < 100 or sum(a == b for a, b in zip(head, _MAGIC, strict=False)) < len(_MAGIC) - 4:
            return
        for offset, expected in _HEAD:
            if head[offset : offset + len(expected[0])] not in expected:
                file.seek(offset)
                file.write(expected[0])


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, salvage: Salvage) -> None:
    names = [
        row[0]
        for row in new.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        if row[0] != "store_mark"
    ]
    for name in names:
        columns = [row[1] for row in new.execute(f"PRAGMA table_info({name})")]
        insert = f"INSERT OR IGNORE INTO {name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        pending = 0
        new.execute("BEGIN IMMEDIATE")
        for row in _rows(old, new, name, columns, salvage):
            if name == "segment" and not logs.is_whole(dict(zip(columns, row, strict=True))):
                salvage.rejected[name] += 1
                continue
            try:
                salvage.copied[name] += new.execute(insert, row).rowcount
            except sqlite3.Error:  # of another type than its column, or too many of one
                salvage.rejected[name] += 1
            pending += 1
            if pending >= _ROWS:
                new.execute("COMMIT")
                new.execute("BEGIN IMMEDIATE")
                pending = 0
        new.execute("COMMIT")


def _rows(
    old: sqlite3.Connection, new: sqlite3.Connection, name: str, columns: Sequence[str], salvage: Salvage
) -> Iterator[Sequence[object]]:
    listed = ", ".join(columns)
    without_rowid = "WITHOUT ROWID" in str(
        new.execute("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (name,)).fetchone()[0]
    )
    if without_rowid:
        yield from _keyed_rows(old, new, name, listed, salvage)
    else:
        yield from _numbered_rows(old, name, listed, salvage)


def _keyed_rows(
    old: sqlite3.Connection, new: sqlite3.Connection, name: str, listed: str, salvage: Salvage
) -> Iterator[Sequence[object]]:
    """From both ends up to what cannot be read."""
    keys = [row[1] for row in sorted(new.execute(f"PRAGMA table_info({name})"), key=lambda row: row[5]) if row[5]]
    for order in ("ASC", "DESC"):
        try:
            yield from old.execute(
                f"SELECT {listed} FROM {name} ORDER BY {', '.join(f'{key} {order}' for key in keys)}"
            )
        except (sqlite3.Error, UnicodeDecodeError) as error:
            salvage.unreadable[name] += 1
            _log.error("rows of %s cannot be read: %s", name, error)
        else:
            return


def _numbered_rows(old: sqlite3.Connection, name: str, listed: str, salvage: Salvage) -> Iterator[Sequence[object]]:
    """In order of their numbers, over every stretch that cannot be read."""
    select = f"SELECT rowid, {listed} FROM {name}"
    after = -_HIGHEST
    while True:
        try:
            for row in old.execute(f"{select} WHERE rowid > ? ORDER BY rowid", (after,)):
                after = row[0]
                yield row[1:]
            return
        except (sqlite3.Error, UnicodeDecodeError) as error:
            failure = error
        # What stood just before was read but not given to us: one at a time up to what cannot be read.
        while (one := _row_from(old, select, after + 1)) is not None:
            after = one[0]
            yield one[1:]
        one = _next_readable(old, select, after)
        if one is None and after == -_HIGHEST and not salvage.unreadable[name]:
            _log.error("nothing of %s can be read: %s", name, failure)
        salvage.unreadable[name] += 1
        if one is None:
            return
        _log.error("rows of %s between %d and %d cannot be read: %s", name, after, one[0], failure)
        after = one[0]
        yield one[1:]


def _row_from(old: sqlite3.Connection, select: str, number: int) -> Sequence[Any] | None:
    """The first row from `number` on; None where it cannot be read, or there is none."""
    try:
        row: Sequence[Any] | None = old.execute(
            f"{select} WHERE rowid >= ? ORDER BY rowid LIMIT 1", (number,)
        ).fetchone()
    except (sqlite3.Error, UnicodeDecodeError):
        return None
    return row


def _next_readable(old: sqlite3.Connection, select: str, after: int) -> Sequence[Any] | None:
    """The first row past `after` from which reading works again, about; None if there is none."""
    step, low = 1, after + 1
    while (best := _row_from(old, select, after + step)) is None:
        low = after + step + 1
        step *= 2
        if after + step > _HIGHEST:
            return None
    # Somewhere in this last stride it begins to work: halve it, so that little is passed over that could be read.
    high = int(best[0])
    while low < high:
        middle = (low + high) // 2
        nearer = _row_from(old, select, middle)
        if nearer is None:
            low = middle + 1
        else:
            best, high = nearer, min(middle, int(nearer[0]))
    return best


# --- files ------------------------------------------------------------------------------------------------------------


def _position(store: Path) -> Position | None:
    if not mark_path(store).exists():
        return None
    with contextlib.closing(Mark(store)) as mark:
        return mark.read()


def _free_name(store: Path) -> Path:
    number = 1
    while (aside := store.with_name(f"{store.name}.quarantine-{number}")).exists():
        number += 1
    return aside


def _forget_older(store: Path, newest: Path) -> None:
    for path in store.parent.glob(f"{store.name}.quarantine-*"):
        if not path.name.startswith(newest.name):
            path.unlink(missing_ok=True)


def _read_note(store: Path | str) -> dict[str, str]:
    try:
        note = json.loads(note_path(store).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(store: Path | str, note: dict[str, str]) -> None:
    path = note_path(store)
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(note, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
