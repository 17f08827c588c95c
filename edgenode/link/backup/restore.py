"""Putting a backup in the place of a state directory.

A restored disk is older than what it sent, acknowledged and promised. So everything that others know it by begins anew
before it is used: the copy is changed by `renew` before it is put in place, in one transaction; what that has to do is each
side's own business.

Nothing is put in place before all of it was checked and changed; nothing that was there is deleted: with `force` it is moved
to `replaced-N` in the same directory.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edgenode.link.backup.archive import Check, Kind, Manifest, verify
from edgenode.link.blobs.files import FOLDER
from edgenode.link.errors import AlreadyExists, FailedPrecondition
from edgenode.link.identity.files import make_private_directory, sync_directory

Renew = Callable[[sqlite3.Connection], Sequence[str]]
"""Makes the copy one of its own; returns what it changed, for people. Runs in a transaction."""

_STAGE = ".restore"


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did, or would do: the backup, what was moved aside and where to, what began anew."""

    manifest: Manifest
    placed: tuple[str, ...]
    replaced: tuple[str, ...]
    aside: Path | None
    renewed: tuple[str, ...]


def restore(
    backup: Path,
    state: Path,
    kind: Kind,
    renew: Renew,
    *,
    force: bool = False,
    dry_run: bool = False,
    checks: Sequence[Check] = (),
    keep: Callable[[Path, Path], Sequence[str]] = lambda state, stage: (),
) -> Restored:
    """Check a backup, make it one of its own, and put it in place of what is in `state`.

    `keep(state, stage)` names parts of which what is in `state` is to stay. With `dry_run` everything is done but putting it
    in place.

    Raises FailedPrecondition (STATE_IN_USE), AlreadyExists (STATE_EXISTS), OSError, and as `archive.verify`.
    """
    if state.exists():
        check_unused(state / kind.store)
    there = _present(state, kind)
    if there and not force and not dry_run:
        raise AlreadyExists(
            "STATE_EXISTS",
            f"{state} holds a state already: {', '.join(there)}",
            hint="use another --state, or --force to move it aside",
        )
    make_private_directory(state)
    stage = state / _STAGE
    shutil.rmtree(stage, ignore_errors=True)  # of a restore that was interrupted; nothing in it was ever used
    try:
        manifest = verify(backup, kind, stage, checks)
        renewed = _renew(stage / kind.store, renew)
        kept = tuple(keep(state, stage))
        places = sorted({Path(part.name).parts[0] for part in manifest.parts} - set(kept))
        replaced = tuple(name for name in there if name not in kept)
        aside = _aside(state) if replaced else None
        if not dry_run:
            _put_in_place(state, stage, places, replaced, aside)
        return Restored(manifest, tuple(places), replaced, aside, tuple(renewed))
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def check_unused(store: Path) -> None:
    """Raises FailedPrecondition (STATE_IN_USE) if a process has the store open."""
    if not store.exists():
        return
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=rw", uri=True, timeout=0, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise FailedPrecondition(
                "STATE_IN_USE", f"{store} is open in another process", hint="stop it first, or use another --state"
            ) from error
    except sqlite3.DatabaseError:
        return  # damaged: that is what backups are for


def _present(state: Path, kind: Kind) -> list[str]:
    """What of a state is there: the store and all that SQLite and we keep beside it, keys, configuration."""
    if not state.is_dir():
        return []
    known = ("identity", "ca", "parent", FOLDER, f"{kind.program}.toml")
    return sorted(entry.name for entry in state.iterdir() if entry.name in known or entry.name.startswith(kind.store))


def _renew(store: Path, renew: Renew) -> list[str]:
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        changed = list(renew(connection))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return changed


def _aside(state: Path) -> Path:
    number = 1
    while (aside := state / f"replaced-{number}").exists():
        number += 1
    return aside


def _put_in_place(state: Path, stage: Path, places: Sequence[str], replaced: Sequence[str], aside: Path | None) -> None:
    if aside is not None:
        make_private_directory(aside)
        for name in replaced:
            (state / name).rename(aside / name)
        sync_directory(aside)
    for name in places:
        (stage / name).rename(state / name)
    sync_directory(state)
