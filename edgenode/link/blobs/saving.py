"""A blob that comes in pieces, written to a file of its reader's."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncIterable
from pathlib import Path

from edgenode.link.errors import DataLoss
from edgenode.link.gil import on_thread
from edgenode.link.model.blob import PREFIX


async def save_to(pieces: AsyncIterable[bytes], digest: str, target: Path) -> None:
    """Write what comes to the file `target`, which is there, and on disk, once it is whole.

    Raises DataLoss (BLOB_DAMAGED), OSError, and what `pieces` raises; then nothing is left behind.
    """
    partial = target.with_name(f".{secrets.token_hex(8)}.partial")
    seen = hashlib.sha256()

    def add(piece: bytes) -> None:
        seen.update(piece)
        file.write(piece)

    def complete() -> None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(partial, target)

    file = await on_thread(partial.open, "xb")
    try:
        async for piece in pieces:
            await on_thread(add, piece)
        compare(digest, PREFIX + seen.hexdigest())
        await on_thread(complete)
    finally:
        file.close()
        partial.unlink(missing_ok=True)


def compare(digest: str, came: str) -> None:
    """Raises DataLoss (BLOB_DAMAGED) if what came is something else."""
    if came != digest:
        raise DataLoss("BLOB_DAMAGED", f"what came is {came}, not {digest}", hint="get it again")
