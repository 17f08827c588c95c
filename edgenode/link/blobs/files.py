"""Blobs as files: `blobs/ab/abcdef...` for what is whole, `blobs/partial/` for what is being written.

A file gets its name once it holds the whole content, compared with its digest and synced; so whatever has a name is whole,
whenever the process or the machine stopped. What is being written is named by its digest where that is known, so that whoever
comes back goes on behind it: it may end in bytes that never reached the disk, and then it is found out at the end, by its
digest.

Everything here blocks for as long as the disk takes. Raises OSError unless it says otherwise.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.identity.files import PRIVATE_FILE, make_private_directory, sync_directory
from edgenode.link.model.blob import PIECE_BYTES, PREFIX

FOLDER = "blobs"  # below a state directory
_PARTIAL = "partial"
_HEX = frozenset("0123456789abcdef")


class Folder:
    """Where the blobs of one store are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, digest: str) -> Path:
        """The file of a whole blob."""
        name = digest.removeprefix(PREFIX)
        return self.path / name[:2] / name

    def partial(self, name: str) -> Path:
        """The file of one that is being written; `name` is its digest, or any other."""
        return self.path / _PARTIAL / name.removeprefix(PREFIX)

    def whole(self) -> dict[str, int]:
        """Sizes of the whole ones by digest; one that goes meanwhile may be among them or not."""
        if not self.path.is_dir():
            return {}
        entries = (
            entry
            for directory in os.scandir(self.path)
            if len(directory.name) == 2 and _HEX.issuperset(directory.name)
            for entry in os.scandir(directory)
            if len(entry.name) == 64 and _HEX.issuperset(entry.name)
        )
        found = {}
        for entry in entries:
            with suppress(FileNotFoundError):
                found[PREFIX + entry.name] = entry.stat().st_size
        return found

    def partials(self) -> Iterator[os.DirEntry[str]]:
        """What is or was being written."""
        place = self.path / _PARTIAL
        yield from os.scandir(place) if place.is_dir() else ()

    def prepare(self) -> None:
        """Make the folders that writing needs."""
        make_private_directory(self.path / _PARTIAL)

    def adopt(self, partial: Path, digest: str) -> None:
        """What was written is whole and synced: give it its name, durably."""
        place = self.place(digest)
        if not place.parent.is_dir():
            make_private_directory(place.parent)
        reach(Failpoint.BLOB_WRITTEN)
        os.replace(partial, place)
        reach(Failpoint.BLOB_RENAMED)
        sync_directory(place.parent)

    def remove(self, digest: str) -> None:
        """Remove a whole one; nothing where there is none."""
        self.place(digest).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """What the disk has left for us."""
        place = self.path if self.path.is_dir() else self.path.parent
        facts = os.statvfs(place)
        return facts.f_bavail * facts.f_frsize


class Incoming:
    """Content that is being written behind the first `offset` bytes of `path`, which are read again for their digest.

    `unsure`: a sync failed. What could not be written may still read well, and a later sync say nothing of it.
    """

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self.size = 0
        self.unsure = False
        self._hash = hashlib.sha256()
        self._checks = bytearray()
        self._check = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            os.ftruncate(self._descriptor, offset)
            while self.size < offset:
                piece = os.pread(self._descriptor, PIECE_BYTES, self.size)
                self._note(piece)
            os.lseek(self._descriptor, offset, os.SEEK_SET)
        except BaseException:
            os.close(self._descriptor)
            raise

    def write(self, data: bytes) -> None:
        """Add the next bytes."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._note(data)

    def _note(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            part = view[: PIECE_BYTES - self.size % PIECE_BYTES]
            self._check = zlib.crc32(part, self._check)
            self.size += len(part)
            if self.size % PIECE_BYTES == 0:
                self._end_piece()
            view = view[len(part) :]

    def _end_piece(self) -> None:
        self._checks += self._check.to_bytes(4, "big")
        self._check = 0

    def sync(self) -> tuple[str, bytes]:
        """It is complete: (digest, checks), once it is on the disk."""
        self.unsure = True
        os.fsync(self._descriptor)
        self.unsure = False
        checks = bytes(self._checks) + (self._check.to_bytes(4, "big") if self.size % PIECE_BYTES else b"")
        return PREFIX + self._hash.hexdigest(), checks

    def close(self) -> None:
        """Nothing more will be written. Safe to call twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def read_whole(path: Path) -> tuple[str, int, bytes]:
    """(digest, size, checks) of a file as it is."""
    digest, size, checks = hashlib.sha256(), 0, bytearray()
    with path.open("rb", buffering=0) as file:
        while piece := _piece(file.fileno(), size):
            digest.update(piece)
            checks += zlib.crc32(piece).to_bytes(4, "big")
            size += len(piece)
    return PREFIX + digest.hexdigest(), size, bytes(checks)


def read_piece(descriptor: int, number: int, checks: bytes) -> bytes | None:
    """Piece `number` of a whole blob; None if it is not what was stored."""
    piece = _piece(descriptor, number * PIECE_BYTES)
    return piece if zlib.crc32(piece).to_bytes(4, "big") == checks[number * 4 : number * 4 + 4] else None


def _piece(descriptor: int, offset: int) -> bytes:
    """The bytes of one piece; fewer only at the end."""
    piece = os.pread(descriptor, PIECE_BYTES, offset)
    while 0 < len(piece) < PIECE_BYTES and (
        more := os.pread(descriptor, PIECE_BYTES - len(piece), offset + len(piece))
    ):
        piece += more
    return piece
