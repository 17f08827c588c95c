"""Making a backup of the state of a service, by the service itself while it runs, or by a command while it does not."""

from __future__ import annotations

import asyncio
import datetime
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenode import __version__
from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.backup.archive import Kind, Manifest, backup_path, write_backup
from edgenode.link.blobs.files import Folder
from edgenode.link.errors import FailedPrecondition, Unavailable
from edgenode.link.gil import on_thread
from edgenode.link.ports import Clock
from edgenode.link.store.database import Database
from edgenode.link.store.snapshot import Snapshot, snapshot
from edgenode.link.wire.values import timestamp_to_pb

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a state directory belongs to a backup beside the store: files, directories (one level), what is not taken of
    these, and the folder of blobs."""

    kind: Kind
    files: Sequence[str]
    directories: Sequence[str]
    left_out: Sequence[str] = ()
    blobs: str = ""

    def read(self, state: Path) -> dict[str, bytes]:
        """The small files as they stand at one moment, by their path below `state`.

        Raises FailedPrecondition (STATE_NOT_READABLE), Unavailable (BACKUP_FAILED) while they keep changing.
        """
        for _ in range(_TRIES):
            before = self._read(state)
            if before == self._read(state):
                return before
        raise Unavailable("BACKUP_FAILED", f"the files in {state} keep changing", hint="try again")

    def large(self, state: Path) -> dict[str, Path]:
        """The blobs that are there, by their path below `state`."""
        folder = Folder(state / self.blobs)
        places = [folder.place(digest) for digest in sorted(folder.whole())] if self.blobs else []
        return {str(place.relative_to(state)): place for place in places}

    def _read(self, state: Path) -> dict[str, bytes]:
        paths = [state / name for name in self.files]
        for directory in self.directories:
            paths += sorted(path for path in (state / directory).glob("*") if not path.name.startswith("."))
        found = {}
        for path in paths:
            name = str(path.relative_to(state))
            if name in self.left_out:
                continue
            try:
                found[name] = path.read_bytes()
            except (FileNotFoundError, IsADirectoryError):
                continue
            except OSError as error:
                raise FailedPrecondition(
                    "STATE_NOT_READABLE", f"{path} cannot be read: {error.strerror}", hint="run as the state's owner"
                ) from error
        return found


async def make_backup(
    database: Database, scope: Scope, state: Path, name: str, target: Path, clock: Clock
) -> admin_pb2.Backup:
    """Back up the state of `name` to `target`, a file or a directory. Everything acknowledged before the call is in it.

    Raises AlreadyExists (BACKUP_EXISTS), NotFound (NO_DIRECTORY), FailedPrecondition (BACKUP_UNDER_WAY, NOT_DURABLE,
    BACKUP_NOT_WRITABLE), Unavailable (BACKUP_FAILED).
    """
    create_time = clock.wall()
    stamp = datetime.datetime.fromtimestamp(create_time, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    path = backup_path(target, scope.kind.program, name, stamp)

    def write(source: Snapshot, epochs: dict[str, str]) -> Manifest:
        return write_backup(
            path,
            scope.kind,
            source,
            scope.read(state),
            large=scope.large(state),
            name=name,
            software=f"{scope.kind.program}/{__version__}",
            create_time=create_time,
            epochs=epochs,
        )

    async with snapshot(database, _epochs) as (source, epochs):
        writing = asyncio.ensure_future(on_thread(write, source, epochs))
        try:
            manifest = await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # the thread reads the file: it must stand still until that is over
            raise
        except OSError as error:
            raise FailedPrecondition(
                "BACKUP_NOT_WRITABLE", f"{path} cannot be written: {error}", hint="check the path and its free space"
            ) from error
    return admin_pb2.Backup(
        path=str(path),
        name=name,
        create_time=timestamp_to_pb(create_time),
        size_bytes=manifest.size,
        parts=[part.name for part in manifest.parts if not (scope.blobs and part.name.startswith(f"{scope.blobs}/"))],
        blob_count=sum(1 for part in manifest.parts if scope.blobs and part.name.startswith(f"{scope.blobs}/")),
    )


def _epochs(connection: sqlite3.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT name, epoch FROM log ORDER BY name"))
