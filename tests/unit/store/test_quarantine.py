"""What can be read of a damaged file goes into a new one, whatever was damaged and wherever the salvage was interrupted."""

from __future__ import annotations

import random
import sqlite3
import struct
from pathlib import Path

import pytest

from edgenode.link.model.lanes import Segment
from edgenode.link.store import logs, losses, quarantine
from edgenode.link.store.budget import Measured
from edgenode.link.store.database import Database
from edgenode.link.store.mark import Mark, Position
from edgenode.link.store.quarantine import Salvage

SCHEMA = [logs.SCHEMA + "CREATE TABLE named (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;\n"]
SEGMENTS = 400


def settle(connection: sqlite3.Connection, salvage: Salvage) -> None:
    positions = dict(salvage.position.logs) if salvage.position is not None else {}
    losses.mend(connection, {1: "log"}, positions)


def measure(connection: sqlite3.Connection) -> Measured:
    return Measured(0, dict(connection.execute("SELECT log_id, next_sequence FROM log").fetchall()))


async def opened(path: Path) -> Database:
    return await Database.open(path, SCHEMA, application_id=7, settle=settle, measure=measure)


async def filled(path: Path) -> None:
    """A log of SEGMENTS segments of a page or so, of which a consumer has ten; two hundred names."""
    database = await opened(path)

    def begin(connection: sqlite3.Connection) -> None:
        log_id = logs.ensure_log(connection, "log", "e").log_id
        logs.ensure_consumer(connection, log_id, "parent", 0)
        connection.executemany("INSERT INTO named VALUES (?, ?)", [(f"{n:03}", "x" * 200) for n in range(200)])

    await database.write(begin)
    for number in range(SEGMENTS):
        segment = Segment(1, bytes([number % 251]) * 3000, 1.0)
        await database.write(lambda connection, s=segment: logs.append(connection, 1, [s]))  # type: ignore[misc]
    await database.write(lambda connection: logs.acknowledge(connection, 1, "parent", 10))
    await database.close()


async def whole(path: Path, count: int = SEGMENTS) -> tuple[int, int]:
    """(entries that are there, entries noted as lost); fails unless each is one of them and is what was stored."""
    database = await opened(path)

    def look(connection: sqlite3.Connection) -> tuple[int, int]:
        state = logs.log_state(connection, "log")
        rows = connection.execute("SELECT position, payload FROM segment ORDER BY position").fetchall()
        for position, payload in rows:
            number = position - logs.row_at(1, 0) - 1
            assert payload == bytes([number % 251]) * 3000
        lost = logs.lost(connection, 1)
        assert state.last == count
        assert len(rows) + lost == count
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return len(rows), lost

    try:
        found = await database.read(look)
        await database.write(lambda connection: logs.append(connection, 1, [Segment(1, b"after", 1.0)]))
    finally:
        await database.close()
    return found


async def damaged_and_opened(path: Path) -> bool:
    """Whether opening it, or reading all of it, finds damage."""
    database = await opened(path)
    try:
        if database.quarantined is not None:
            return True
        await database.read(
            lambda connection: connection.execute("SELECT sum(length(payload)) FROM segment").fetchall()
        )
        await database.read(lambda connection: connection.execute("SELECT * FROM named").fetchall())
    except Exception:
        return True
    finally:
        await database.close()
    return False


@pytest.mark.parametrize("seed", range(12))
async def test_pages_overwritten_anywhere(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.db"
    await filled(path)
    rng = random.Random(seed)
    size = path.stat().st_size
    pages = sorted(rng.sample(range(3, size // 4096), rng.randint(1, 4)))
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * 4096)
            file.write(rng.randbytes(4096))
    quarantine.note_damage(path, "pages were overwritten")
    held, lost = await whole(path)
    assert lost < 3 * len(pages) + SEGMENTS * any(page < 8 for page in pages), pages
    assert held + lost == SEGMENTS
    assert not quarantine.note_path(path).exists()
    assert len(list(tmp_path.glob("*.quarantine-1"))) == 1


@pytest.mark.parametrize("seed", range(12))
async def test_a_write_ahead_log_cut_or_changed_anywhere_is_noticed(tmp_path: Path, seed: int) -> None:
    """SQLite itself takes it for one that was never written further."""
    path = tmp_path / "a.db"
    database = await opened(path)
    await database.write(lambda connection: logs.ensure_log(connection, "log", "e"))
    await database.close()  # that much is in the file
    database = await opened(path)
    for number in range(SEGMENTS // 10):
        segment = Segment(1, bytes([number % 251]) * 3000, 1.0)
        await database.write(lambda connection, s=segment: logs.append(connection, 1, [s]))  # type: ignore[misc]
    # As a kill leaves it: nothing was moved from the log into the file.
    copied = {suffix: Path(str(path) + suffix).read_bytes() for suffix in ("", "-wal", "-mark")}
    await database.close()
    for suffix, data in copied.items():
        Path(str(path) + suffix).write_bytes(data)
    wal = Path(f"{path}-wal")
    rng = random.Random(seed)
    place = rng.randrange(32, len(copied["-wal"]) - 5000)
    if seed % 2:
        wal.write_bytes(copied["-wal"][:place])
    else:
        changed = bytearray(copied["-wal"])
        changed[place] ^= 1 << rng.randrange(8)
        wal.write_bytes(changed)
    _, lost = await whole(path, SEGMENTS // 10)
    assert lost


async def test_without_the_mark_it_would_not_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mark, "read", lambda self: None)
    with pytest.raises(AssertionError):
        await test_a_write_ahead_log_cut_or_changed_anywhere_is_noticed(tmp_path, 1)


@pytest.mark.parametrize("offset", [0, 5, 16, 18, 20, 21, 44, 47, 56, 59, 60, 63, 68, 71])
@pytest.mark.parametrize("bit", [0, 7])
async def test_a_bit_of_the_head(tmp_path: Path, offset: int, bit: int) -> None:
    path = tmp_path / "a.db"
    await filled(path)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))
    if not await damaged_and_opened(path):
        return  # a part that SQLite does not look at, or mends
    held, lost = await whole(path)
    assert (held, lost) == (SEGMENTS, 0)


async def test_a_making_that_was_cut_is_no_damage(tmp_path: Path) -> None:
    """The first page on its way to the disk, torn, beside the journal that takes it back."""
    path = tmp_path / "x.db"
    database = await opened(path)
    await database.close()
    first = path.read_bytes()[:4096]
    for file in tmp_path.iterdir():
        file.unlink()
    path.write_bytes(bytes(512) + first[512:])
    journal = bytes.fromhex("d9d505f920a163d7") + struct.pack(">5I", 0, 7, 0, 512, 4096)
    Path(f"{path}-journal").write_bytes(journal.ljust(512, b"\0"))
    database = await opened(path)
    count = await database.read(lambda connection: connection.execute("SELECT count(*) FROM named").fetchone())
    await database.close()
    assert (database.quarantined, count) == (None, (0,))


@pytest.mark.parametrize("kept", [0, 1, 50, 100, 4095, 4096, 5000, 40_000, 400_000])
async def test_a_file_that_was_cut(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.db"
    await filled(path)
    data = path.read_bytes()
    path.write_bytes(data[:kept])
    quarantine.note_damage(path, "it was cut")
    held, lost = await whole(path)
    assert held + lost == SEGMENTS


async def test_an_interrupted_salvage_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    await filled(path)
    for step in ("_sync", "_make_anew", "_copy", "_forget_older"):
        quarantine.note_damage(path, "for a test")

        def die(*args: object, step: str = step) -> None:
            raise RuntimeError(step)

        with monkeypatch.context() as patch:
            patch.setattr(quarantine, step, die)
            with pytest.raises(RuntimeError):
                await opened(path)
    assert await whole(path) == (SEGMENTS, 0)
    assert [found.name for found in tmp_path.glob("*.quarantine-*")] == ["a.db.quarantine-1"]


async def test_only_the_newest_damaged_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await filled(path)
    for _ in range(3):
        quarantine.note_damage(path, "for a test")
        await (await opened(path)).close()
    assert len(list(tmp_path.glob("*.quarantine-*"))) == 1
    assert (await whole(path)) == (SEGMENTS, 0)


def test_a_mark_is_read_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    mark = Mark(tmp_path / "a.db")
    assert mark.read() is None
    position = Position("0" * 32, 1 << 40, {1: 5, 2: 1 << 50})
    mark.write(position)
    assert mark.read() == position
    mark.write(Position("0" * 32, 7))
    assert mark.read() == Position("0" * 32, 7)
    path = tmp_path / "a.db-mark"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    assert mark.read() is None
    mark.close()
