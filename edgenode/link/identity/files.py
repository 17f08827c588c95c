"""Writing keys and certificates so that a crash leaves the old file or the new one, and nobody else can read them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from edgenode.link.failpoints import Failpoint, reach

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
_SUFFIX_BYTES = 4  # of the name under which a file is written, twice as many hexadecimal digits


def make_private_directory(path: Path) -> None:
    """Make `path` (and its parents) with mode 0700, durably; one that is there is only closed to others."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    path.chmod(PRIVATE_DIRECTORY)
    for directory in reversed(missing):
        sync_directory(directory.parent)


def write_private_file(path: Path, data: bytes) -> None:
    """Replace `path` by a file of mode 0600 that holds `data`; on return it is on disk. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_SUFFIX_BYTES)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        reach(Failpoint.FILE_WRITTEN)
        os.replace(temporary, path)
        reach(Failpoint.FILE_RENAMED)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove_unfinished(directory: Path) -> None:
    """Remove what crashes left of files that were being written; nobody writes into the directory meanwhile."""
    for path in directory.glob(f".*.{'[0-9a-f]' * 2 * _SUFFIX_BYTES}"):
        path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make a directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
