"""Backups of a state directory: one tar file with the store, the small files beside it, and a manifest that vouches for both.

The manifest comes last and holds the size and SHA-256 of every part, so a file that was cut, or changed anywhere, is known
for one. Parts are not encrypted yet: the manifest says so in `encryption`, and what says anything else is refused. A backup
holds private keys; its mode is 0600.

`verify` trusts nothing: checksums, SQLite's own integrity check, that the store is of this program and of a schema it knows,
and whatever the caller adds (the ledger's sums). A restore begins with the same, on the copy that it then puts in place.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol

from edgenode.link.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound
from edgenode.link.identity.files import PRIVATE_FILE, make_private_directory, sync_directory

FORMAT = 1
MANIFEST = "manifest.json"
NOT_ENCRYPTED = "none"
_PIECE_BYTES = 1024 * 1024
_MANIFEST_BYTES = 32 * 1024 * 1024

Check = Callable[[sqlite3.Connection], Sequence[str]]
"""Looks at a store and says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Whose backups these are: the program, its store's file, and how that is recognised."""

    program: str
    store: str
    application_id: int
    schema_version: int


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a backup; its name is its path below the state directory."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup says of itself. Times are wall clock, seconds; `epochs` are those of the logs, by name."""

    format: int
    program: str
    name: str
    software: str
    application_id: int
    schema_version: int
    create_time: float
    epochs: Mapping[str, str]
    encryption: str
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)


class Source(Protocol):
    """A store that can be copied; see `edgenode.link.store.snapshot`."""

    size: int

    def read(self, count: int = -1) -> bytes:
        """Bytes; fewer than asked for are no sign of the end."""
        ...

    def check(self) -> None:
        """Raises EdgenodeError if what was read is not to be trusted."""
        ...


class _Hashing:
    """A file object that hashes what is read from it."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.digest = hashlib.sha256()

    def read(self, count: int) -> bytes:
        pieces = []
        while count > 0 and (piece := self._read(count)):
            self.digest.update(piece)
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)


# --- making ---------------------------------------------------------------------------------------------------------------


def backup_path(target: Path, program: str, name: str, stamp: str) -> Path:
    """Where the backup goes: `target`, or a file in it that is named after program, node and time.

    Raises AlreadyExists (BACKUP_EXISTS), NotFound (NO_DIRECTORY).
    """
    path = target / f"{program}-{name}-{stamp}.tar" if target.is_dir() else target
    if path.exists():
        raise AlreadyExists("BACKUP_EXISTS", f"{path} is there already", hint="give another name, or a directory")
    if not path.parent.is_dir():
        raise NotFound("NO_DIRECTORY", f"there is no directory {path.parent}", hint="make it first")
    return path


def write_backup(
    path: Path,
    kind: Kind,
    source: Source,
    files: Mapping[str, bytes],
    *,
    large: Mapping[str, Path] | None = None,
    name: str,
    software: str,
    create_time: float,
    epochs: Mapping[str, str],
) -> Manifest:
    """Write a backup, durably; nothing is at `path` until it is complete. Blocks for as long as the disks take.

    `large` are files that never change, by their path below the state; one that is gone by now is left out. Raises OSError,
    and what `source` raises.
    """
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        with open(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                parts = [_add(tar, kind.store, source.size, source.read, create_time)]
                source.check()
                for part, data in files.items():
                    parts.append(_add(tar, part, len(data), BytesIO(data).read, create_time))
                for part, place in (large or {}).items():
                    parts += _add_large(tar, part, place, create_time)
                manifest = Manifest(
                    format=FORMAT,
                    program=kind.program,
                    name=name,
                    software=software,
                    application_id=kind.application_id,
                    schema_version=kind.schema_version,
                    create_time=create_time,
                    epochs=dict(epochs),
                    encryption=NOT_ENCRYPTED,
                    parts=tuple(parts),
                )
                data = json.dumps(asdict(manifest), indent=2).encode() + b"\n"
                _add(tar, MANIFEST, len(data), BytesIO(data).read, create_time)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return manifest


def _add_large(tar: tarfile.TarFile, name: str, place: Path, time: float) -> list[Part]:
    try:
        file = place.open("rb")
    except FileNotFoundError:
        return []
    with file:
        return [_add(tar, name, os.fstat(file.fileno()).st_size, file.read, time)]


def _add(tar: tarfile.TarFile, name: str, size: int, read: Callable[[int], bytes], time: float) -> Part:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, PRIVATE_FILE, time
    hashing = _Hashing(read)
    tar.addfile(info, hashing)  # type: ignore[arg-type]
    return Part(name, size, hashing.digest.hexdigest())


# --- reading --------------------------------------------------------------------------------------------------------------


def read_manifest(path: Path, kind: Kind) -> Manifest:
    """What the backup says of itself, if this program can restore it.

    Raises NotFound (NO_BACKUP), DataLoss (BACKUP_DAMAGED, BACKUP_TOO_NEW), FailedPrecondition (WRONG_BACKUP,
    BACKUP_ENCRYPTED).
    """
    with _opened(path) as tar:
        manifest = _manifest_of(path, tar)
    if manifest.program != kind.program or manifest.application_id != kind.application_id:
        raise FailedPrecondition(
            "WRONG_BACKUP",
            f"{path} is a backup of {manifest.program}, not of {kind.program}",
            hint=f"use {manifest.program} for it",
        )
    if manifest.schema_version > kind.schema_version:
        raise _too_new(path, f"schema {manifest.schema_version}; this version knows {kind.schema_version}")
    if manifest.encryption != NOT_ENCRYPTED:
        raise FailedPrecondition(
            "BACKUP_ENCRYPTED",
            f"{path} is encrypted ({manifest.encryption})",
            hint="use a version that can decrypt it",
        )
    return manifest


def _manifest_of(path: Path, tar: tarfile.TarFile) -> Manifest:
    # A cut file has no manifest: it is the last member.
    members = {member.name: member for member in tar}
    if MANIFEST not in members or members[MANIFEST].size > _MANIFEST_BYTES:
        raise _damaged(path, "it is not complete: it has no manifest")
    file = tar.extractfile(MANIFEST)
    try:
        facts: dict[str, Any] = json.loads(file.read()) if file is not None else {}
        if facts["format"] > FORMAT:
            raise _too_new(path, f"format {facts['format']}; this version knows {FORMAT}")
        parts = tuple(Part(**part) for part in facts.pop("parts"))
        manifest = Manifest(**facts, parts=parts)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"its manifest cannot be read: {error!r}") from error
    for part in parts:
        if part.name not in members or not _safe(part.name):
            raise _damaged(path, f"{part.name} is missing, or out of place")
    return manifest


def _safe(name: str) -> bool:
    place = Path(name)
    return not place.is_absolute() and ".." not in place.parts and name != MANIFEST


def extract(path: Path, manifest: Manifest, directory: Path) -> None:
    """Write the parts below `directory` (made, mode 0700; files 0600), each compared with its checksum, durably.

    Raises DataLoss (BACKUP_DAMAGED) naming the part; OSError.
    """
    make_private_directory(directory)
    with _opened(path) as tar:
        for part in manifest.parts:
            file = tar.extractfile(part.name)
            if file is None:
                raise _damaged(path, f"{part.name} is no file")
            target = directory / part.name
            make_private_directory(target.parent)
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE), "wb") as out:
                size, digest = _copy(file, out)
            if (size, digest) != (part.size, part.sha256):
                raise _damaged(path, f"{part.name} is not what was backed up: its checksum differs")
            sync_directory(target.parent)


def _copy(file: IO[bytes], out: IO[bytes]) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
        out.write(piece)
        size += len(piece)
    out.flush()
    os.fsync(out.fileno())
    return size, digest.hexdigest()


def check_store(path: Path, kind: Kind, checks: Sequence[Check] = ()) -> list[str]:
    """What is wrong with a store that nobody has open; nothing, if nothing is. It is not changed."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
            found = [row[0] for row in connection.execute("PRAGMA integrity_check(10)") if row[0] != "ok"]
            if found:
                return [f"SQLite: {what}" for what in found]
            owner = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if owner != kind.application_id:
                return [f"it is no store of {kind.program}: application id {owner:#x}"]
            if not 0 < version <= kind.schema_version:
                return [f"its schema is {version}; this version knows {kind.schema_version}"]
            return [what for check in checks for what in check(connection)]
    except sqlite3.Error as error:
        return [f"SQLite: {error}"]


def verify(path: Path, kind: Kind, scratch: Path, checks: Sequence[Check] = ()) -> Manifest:
    """Check everything a backup promises, with a copy of it below `scratch`. Raises as `read_manifest` and `extract`."""
    manifest = read_manifest(path, kind)
    extract(path, manifest, scratch)
    found = check_store(scratch / kind.store, kind, checks)
    if found:
        raise _damaged(path, f"the store in it is not sound: {'; '.join(found)}")
    return manifest


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    if not path.is_file():
        raise NotFound("NO_BACKUP", f"there is no file {path}", hint="give the file that the backup command named")
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(path, f"it is no backup, or was cut: {error}") from error


def _damaged(path: Path, what: str) -> DataLoss:
    return DataLoss("BACKUP_DAMAGED", f"{path}: {what}", hint="use another backup", file=path)


def _too_new(path: Path, what: str) -> DataLoss:
    return DataLoss(
        "BACKUP_TOO_NEW", f"{path} has {what}", hint="use the version that made it, or a newer one", file=path
    )
