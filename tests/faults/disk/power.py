"""What a disk holds after the power went away.

Theory. A file has what was written (the kernel's view) and what is durable. A sync makes the one the other. Between two
syncs the disk may have taken any of the 512-byte sectors of any of the writes, in any order, and the new length or the old.
Names are entries of a directory: what was created, renamed or removed since the directory was last synced may be there
or not; where they are taken in order, as journaling file systems do, up to any point, else each by itself.

A sync that failed leaves what was written in memory and marks it clean: a later sync that succeeds says nothing about it
(that is what Linux does; see "Can Applications Recover from fsync Failures?", ATC'20). Such pages are doubtful, until
they are written again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.disk.journal import Kind, Record

SECTOR = 512
PAGE = 4096


@dataclass(slots=True, eq=False)
class File:
    """`cache` is what a reader sees, `durable` what is on the disk for sure."""

    cache: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data) or (new length, None)
    dirty: set[int] = field(default_factory=set)  # pages
    shortest: int | None = None  # length it was cut down to since the last sync
    doubtful: set[int] = field(default_factory=set)

    def write(self, offset: int, data: bytes) -> None:
        """Data reaches the cache."""
        end = offset + len(data)
        if end > len(self.cache):
            self.cache.extend(bytes(end - len(self.cache)))
        self.cache[offset:end] = data
        self.changes.append((offset, data))
        pages = range(offset // PAGE, (end - 1) // PAGE + 1)
        self.dirty.update(pages)
        self.doubtful.difference_update(pages)

    def truncate(self, length: int) -> None:
        """The file gets another length."""
        if length > len(self.cache):
            self.cache.extend(bytes(length - len(self.cache)))
        else:
            del self.cache[length:]
            self.shortest = min(length, length if self.shortest is None else self.shortest)
            last = -(-length // PAGE)
            self.dirty = {page for page in self.dirty if page < last}
            self.doubtful = {page for page in self.doubtful if page < last}
        self.changes.append((length, None))

    def sync(self) -> None:
        """What was written is durable, but for what an earlier sync lost."""
        length = len(self.cache)
        if self.shortest is not None:
            del self.durable[self.shortest :]
            self.shortest = None
        if length > len(self.durable):
            self.durable.extend(bytes(length - len(self.durable)))
        for page in self.dirty:
            start = page * PAGE
            self.durable[start : start + PAGE] = self.cache[start : start + PAGE]
        self.dirty.clear()
        self.changes.clear()

    def fail_sync(self) -> None:
        """What was written stays in memory and may never reach the disk."""
        self.doubtful |= self.dirty
        self.dirty.clear()
        self.changes = [change for change in self.changes if change[1] is None]

    def image(self, rng: random.Random, chance: float) -> bytes:
        """What the disk may hold now; each sector of each write got there with `chance`."""
        found = bytearray(self.durable)

        def put(start: int, sector: bytes | bytearray) -> None:
            if len(found) < start + len(sector):
                found.extend(bytes(start + len(sector) - len(found)))
            found[start : start + len(sector)] = sector

        for page in sorted(self.doubtful):
            start = page * PAGE
            for at in range(start, min(start + PAGE, len(self.cache)), SECTOR):
                if rng.random() < chance:
                    put(at, self.cache[at : at + SECTOR])
        for offset, data in self.changes:
            if data is None:
                if rng.random() < chance:
                    del found[offset:]
                    found.extend(bytes(offset - len(found)))
                continue
            at = offset
            while at < offset + len(data):
                following = min(at // SECTOR * SECTOR + SECTOR, offset + len(data))
                if rng.random() < chance:
                    put(at, data[at - offset : following - offset])
                at = following
        return bytes(found)


Names = dict[str, "File | None"]  # None: a directory


@dataclass(slots=True)
class PowerCut:
    """The directory as it would stand: bytes by path, and directories."""

    files: dict[str, bytes]
    directories: list[str]

    def write(self, target: Path) -> None:
        """Lay it out below `target`, which must not exist."""
        target.mkdir(mode=0o700)
        for directory in self.directories:
            (target / directory).mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, data in self.files.items():
            (target / path).write_bytes(data)
            (target / path).chmod(0o600)


class DiskModel:
    """Replays a journal. `apply` record after record; `cut` at any time says what a cut would leave then."""

    def __init__(self, before: Path | None = None) -> None:
        """`before` holds what was there, durably, when the journal began."""
        self._names: Names = {}
        self._inodes: dict[int, File] = {}
        if before is not None:
            for path in sorted(before.rglob("*")):
                if path.is_dir():
                    self._names[str(path.relative_to(before))] = None
                elif path.is_file():
                    data = path.read_bytes()
                    self._names[str(path.relative_to(before))] = File(bytearray(data), bytearray(data))
        self._durable: Names = dict(self._names)
        # By directory: what changed since its last sync, each a map from name to what stands there (absent: _GONE).
        self._entries: dict[str, list[dict[str, File | str | None]]] = {}

    def apply(self, record: Record) -> None:
        """Take the next record."""
        kind, path = record.kind, record.path
        if kind is Kind.CREATE:
            file = self._inodes[record.inode] = File()
            self._change(path, {path: file})
        elif kind is Kind.OPEN:
            known = self._names.get(path)
            if known is not None:
                self._inodes[record.inode] = known
        elif kind is Kind.MAKE_DIRECTORY:
            self._change(path, {path: None})
        elif kind is Kind.UNLINK:
            self._change(path, {path: _GONE})
        elif kind is Kind.RENAME:
            self._rename(path, record.to)
        elif kind is Kind.SYNC_DIRECTORY:
            for change in self._entries.pop(path, []):
                _take(self._durable, change)
        else:
            self._apply_to_file(self._inodes[record.inode], record)

    def _apply_to_file(self, file: File, record: Record) -> None:
        if record.kind is Kind.WRITE:
            file.write(record.offset, record.data)
        elif record.kind is Kind.TRUNCATE:
            file.truncate(record.offset)
        elif record.kind is Kind.SYNC:
            file.sync()
        else:
            file.fail_sync()

    def _rename(self, path: str, to: str) -> None:
        prefix = path + "/"
        moved = {name: self._names[name] for name in self._names if name == path or name.startswith(prefix)}
        change: dict[str, File | str | None] = dict.fromkeys(moved, _GONE)
        change.update({to + name[len(path) :]: entry for name, entry in moved.items()})
        self._change(to, change)

    def _change(self, path: str, change: dict[str, File | str | None]) -> None:
        _take(self._names, change)
        self._entries.setdefault(path.rpartition("/")[0], []).append(change)

    def cut(self, rng: random.Random) -> PowerCut:
        """What the disk may hold if the power goes away now."""
        chance = rng.choice((0.0, 1.0, 0.5, rng.random(), 0.02, 0.98))
        names = dict(self._durable)
        in_order = rng.random() < 0.7
        for changes in self._entries.values():
            if in_order:
                taken: Iterable[dict[str, File | str | None]] = changes[: rng.randint(0, len(changes))]
            else:
                taken = [change for change in changes if rng.random() < 0.5]
            for change in taken:
                _take(names, change)
        files: dict[str, bytes] = {}
        directories = [path for path, entry in names.items() if entry is None]
        for path, entry in names.items():
            if entry is not None and _reachable(path, names):
                files[path] = entry.image(rng, chance)
        return PowerCut(files, [path for path in directories if _reachable(path, names)])


_GONE = "gone"


def _take(names: Names, change: dict[str, File | str | None]) -> None:
    for name, entry in change.items():
        if isinstance(entry, str):
            names.pop(name, None)
        else:
            names[name] = entry


def _reachable(path: str, names: Names) -> bool:
    parent = path.rpartition("/")[0]
    return not parent or (parent in names and names[parent] is None and _reachable(parent, names))
