"""Files that only their owner may read: whoever else could is told before anything is made of them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgenode.link.errors import InvalidArgument

MAX_BYTES = 64 * 1024


def read_private(path: Path, reason: str, field: str, expected: str) -> str:
    """The text of a file of at most 64 KiB. Raises InvalidArgument (`reason`) also for one that others may read."""
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise InvalidArgument(
                    reason, f"{path}: others than its owner may read it", hint=f"chmod 600 {path}", field=field
                )
            return file.read(MAX_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(reason, f"{path}: {error}", hint=expected, field=field) from error
