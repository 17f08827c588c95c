"""kill -9 between every two steps of a put leaves nothing of it, or the whole."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgenode.link.blobs import rows
from edgenode.link.blobs.files import Folder
from edgenode.link.blobs.room import BlobLimits, Blobs
from edgenode.link.errors import NotFound
from edgenode.link.failpoints import VARIABLE, Failpoint
from edgenode.link.ports import SystemClock
from edgenode.link.store import run_time
from edgenode.link.store.database import Database

ROOT = Path(__file__).resolve().parents[3]
DATA = b"content " * 100_000
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
SCHEMA = f"{run_time.SCHEMA}{rows.SCHEMA}CREATE TABLE task (task_id TEXT PRIMARY KEY) STRICT;"
_PUT = """
import asyncio, sys
from pathlib import Path
from edgenode.link import failpoints
from tests.unit.blobs.test_kills import put
failpoints.arm_from_environment()
asyncio.run(put(Path(sys.argv[1])))
"""


async def put(state: Path) -> None:
    """In a process that dies on the way."""
    database, blobs = await opened(state)
    writer = await blobs.put(digest=DIGEST, size=len(DATA))
    await writer.write(DATA)
    await writer.finish()
    await blobs.close()
    await database.close()


async def opened(state: Path) -> tuple[Database, Blobs]:
    database = await Database.open(state / "x.db", [SCHEMA], application_id=7)
    blobs = Blobs(database, Folder(state / "blobs"), BlobLimits(1 << 30, 1 << 30, 0.9, 3600), SystemClock())
    await blobs.load()
    return database, blobs


@pytest.mark.parametrize("point", [Failpoint.BLOB_WRITTEN, Failpoint.BLOB_RENAMED, Failpoint.BLOB_COMMITTED])
def test_kill_9_leaves_nothing_or_the_whole(tmp_path: Path, point: Failpoint) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: point.value}
    done = subprocess.run(
        [sys.executable, "-c", _PUT, str(tmp_path)], env=environment, capture_output=True, timeout=50, check=False
    )
    assert f"failpoint {point.value} reached" in done.stderr.decode()
    asyncio.run(_look(tmp_path, whole=point is not Failpoint.BLOB_WRITTEN))


async def _look(state: Path, *, whole: bool) -> None:
    database, blobs = await opened(state)
    if whole:
        _, pieces = await blobs.read(DIGEST)
        assert b"".join([piece async for piece in pieces]) == DATA
    else:
        with pytest.raises(NotFound):
            await blobs.read(DIGEST)
        assert (await blobs.stand(DIGEST)).partial_bytes == len(DATA)
        writer = await blobs.put(digest=DIGEST, offset=len(DATA))
        assert (await writer.finish())[1] is False
    await blobs.close()
    await database.close()
