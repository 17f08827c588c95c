"""Backups that are whole, and all the ways in which they may not be."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from edgenode.link.backup.archive import Kind, read_manifest, verify
from edgenode.link.backup.making import Scope, make_backup
from edgenode.link.backup.restore import restore
from edgenode.link.errors import EdgenodeError
from edgenode.link.model.lanes import Segment
from edgenode.link.ports import SystemClock
from edgenode.link.store import logs
from edgenode.link.store.database import Database
from edgenode.link.store.snapshot import snapshot

KIND = Kind("thing", "thing.db", 7, 1)
SCOPE = Scope(KIND, ["thing.toml"], ["identity"], left_out=["identity/root.key"])


async def open_store(state: Path) -> Database:
    database = await Database.open(state / "thing.db", [logs.SCHEMA], application_id=7)
    await database.write(lambda connection: logs.ensure_log(connection, "log", "e1"))
    return database


async def append(database: Database, count: int) -> None:
    segments = [Segment(1, b"x" * 100, 1.0)] * count
    await database.write(lambda connection: logs.append(connection, logs.log_state(connection, "log").log_id, segments))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    (state / "identity").mkdir(parents=True)
    (state / "identity" / "key.pem").write_text("secret")
    (state / "identity" / "root.key").write_text("more secret")
    (state / "thing.toml").write_text("a = 1\n")
    return state


@pytest.fixture
def backup(state: Path, tmp_path: Path) -> Path:
    async def make() -> Path:
        database = await open_store(state)
        try:
            await append(database, 50)
            made = await make_backup(database, SCOPE, state, "north", tmp_path, SystemClock())
            await append(database, 50)
        finally:
            await database.close()
        return Path(made.path)

    return asyncio.run(make())


def reason_of(work: Callable[[], object]) -> str:
    with pytest.raises(EdgenodeError) as caught:
        work()
    return caught.value.reason


def entries(store: Path) -> int:
    with closing(sqlite3.connect(store)) as connection:
        return int(connection.execute("SELECT count(*) FROM segment").fetchone()[0])


def renew(connection: sqlite3.Connection) -> list[str]:
    logs.renew_epoch(connection, "log", "e2")
    return ["everything"]


def test_a_backup_holds_what_was_there_at_its_moment_and_can_be_restored(backup: Path, tmp_path: Path) -> None:
    assert backup.stat().st_mode & 0o777 == 0o600
    manifest = read_manifest(backup, KIND)
    assert sorted(part.name for part in manifest.parts) == ["identity/key.pem", "thing.db", "thing.toml"]
    assert (manifest.name, manifest.epochs, manifest.encryption) == ("north", {"log": "e1"}, "none")
    target = tmp_path / "elsewhere"
    done = restore(backup, target, KIND, renew)
    assert (done.renewed, done.aside) == (("everything",), None)
    assert entries(target / "thing.db") == 50
    assert (target / "identity" / "key.pem").read_text() == "secret"
    assert (target / "identity" / "key.pem").stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(target / "thing.db")) as connection:
        assert logs.log_state(connection, "log").epoch == "e2"
    assert sorted(path.name for path in target.iterdir()) == ["identity", "thing.db", "thing.toml"]


def test_a_state_that_is_there_stays_unless_it_is_to_be_replaced(backup: Path, state: Path) -> None:
    assert reason_of(lambda: restore(backup, state, KIND, renew)) == "STATE_EXISTS"
    planned = restore(backup, state, KIND, renew, dry_run=True)
    assert planned.replaced
    assert planned.aside is not None
    assert not planned.aside.exists()
    assert entries(state / "thing.db") == 100
    done = restore(backup, state, KIND, renew, force=True)
    assert done.aside == planned.aside == state / "replaced-1"
    assert (entries(state / "thing.db"), entries(state / "replaced-1" / "thing.db")) == (50, 100)
    assert (state / "replaced-1" / "identity" / "root.key").exists()
    again = restore(backup, state, KIND, renew, force=True, keep=lambda state, stage: ["identity"])
    assert again.aside == state / "replaced-2"
    assert not (state / "replaced-2" / "identity").exists()
    assert (state / "identity" / "key.pem").exists()


def test_a_state_in_use_is_left_alone(backup: Path, state: Path) -> None:
    async def run() -> str:
        database = await open_store(state)
        try:
            return reason_of(lambda: restore(backup, state, KIND, renew, force=True))
        finally:
            await database.close()

    assert asyncio.run(run()) == "STATE_IN_USE"
    assert entries(state / "thing.db") == 100


def test_a_damaged_state_can_be_replaced(backup: Path, state: Path) -> None:
    (state / "thing.db").write_bytes(b"rubbish" * 1000)
    restore(backup, state, KIND, renew, force=True)
    assert entries(state / "thing.db") == 50


def change(backup: Path, name: str, new: Callable[[bytes], bytes]) -> None:
    """Put another part in the place of one, and leave the manifest as it is unless that is it."""
    with tarfile.open(backup) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(backup, "w") as tar:
        for member, data in members:
            data = new(data) if member == name else data
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))


def manifest_with(**facts: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({**json.loads(data), **facts}).encode()


@pytest.mark.parametrize(
    ("part", "new", "reason"),
    [
        ("thing.db", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "BACKUP_DAMAGED"),
        ("identity/key.pem", lambda data: b"public", "BACKUP_DAMAGED"),
        ("manifest.json", lambda data: b"{", "BACKUP_DAMAGED"),
        ("manifest.json", manifest_with(format=2), "BACKUP_TOO_NEW"),
        ("manifest.json", manifest_with(schema_version=2), "BACKUP_TOO_NEW"),
        ("manifest.json", manifest_with(program="other"), "WRONG_BACKUP"),
        ("manifest.json", manifest_with(encryption="age"), "BACKUP_ENCRYPTED"),
        (
            "manifest.json",
            manifest_with(parts=[{"name": "../evil", "size": 1, "sha256": ""}]),
            "BACKUP_DAMAGED",
        ),
    ],
)
def test_what_was_changed_or_is_not_ours_is_refused_with_its_reason(
    backup: Path, tmp_path: Path, part: str, new: Callable[[bytes], bytes], reason: str
) -> None:
    change(backup, part, new)
    target = tmp_path / "target"
    assert reason_of(lambda: restore(backup, target, KIND, renew)) == reason
    assert list(target.iterdir()) == []
    assert reason_of(lambda: verify(backup, KIND, tmp_path / "scratch")) == reason


def test_a_backup_that_was_cut_anywhere_is_found_out(backup: Path, tmp_path: Path) -> None:
    size = backup.stat().st_size
    for number, length in enumerate([0, 10, 600, size // 2, size - 30_000]):
        cut = tmp_path / f"cut-{number}.tar"
        cut.write_bytes(backup.read_bytes()[:length])
        assert reason_of(lambda cut=cut, number=number: verify(cut, KIND, tmp_path / f"s{number}")) == "BACKUP_DAMAGED"  # type: ignore[misc]
    assert reason_of(lambda: verify(tmp_path / "none", KIND, tmp_path / "s")) == "NO_BACKUP"


def test_a_store_that_does_not_add_up_is_not_verified(backup: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgenodeError) as caught:
        verify(backup, KIND, tmp_path / "s", [lambda connection: ["the sum is wrong"]])
    assert caught.value.reason == "BACKUP_DAMAGED"
    assert "the sum is wrong" in str(caught.value)
    assert verify(backup, KIND, tmp_path / "t", [lambda connection: []]).name == "north"


async def test_commits_go_on_while_a_copy_is_made_and_are_not_in_it(tmp_path: Path) -> None:
    database = await open_store(tmp_path)
    await append(database, 10)
    async with snapshot(database, lambda connection: logs.log_state(connection, "log").last) as (source, last):
        assert last == 10
        with pytest.raises(EdgenodeError):
            async with snapshot(database, lambda connection: None):
                pass
        first = source.read(4096)
        for _ in range(20):
            await append(database, 500)  # more than a checkpoint's worth
        pieces = [first]
        while piece := await asyncio.to_thread(source.read, 1 << 16):
            pieces.append(piece)
        source.check()
    (tmp_path / "copy.db").write_bytes(b"".join(pieces))
    assert entries(tmp_path / "copy.db") == 10
    await append(database, 1)
    await database.close()
    assert entries(tmp_path / "thing.db") == 10_011


async def test_a_copy_that_work_overtakes_fails_and_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgenode.link.store.snapshot.LOG_LIMIT_BYTES", 100_000)
    database = await open_store(tmp_path)
    async with snapshot(database, lambda connection: None) as (source, _):
        for _ in range(200):
            await append(database, 500)
        with pytest.raises(EdgenodeError) as caught:
            source.read(1)
        assert caught.value.reason == "BACKUP_FAILED"
    await database.close()
    assert entries(tmp_path / "thing.db") == 100_000


async def test_a_copy_leaves_the_lock_on_the_file_alone(tmp_path: Path) -> None:
    """Closing any descriptor of a file gives up all of the process's locks on it: the copy must not."""
    database = await open_store(tmp_path)
    async with snapshot(database, lambda connection: None) as (source, _):
        source.read(10)
    check = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    process = await asyncio.create_subprocess_exec(
        shutil.which("python") or "python", "-c", check, str(tmp_path / "thing.db"), stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert b"locked" in err
    await database.close()
