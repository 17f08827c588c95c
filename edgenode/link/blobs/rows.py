"""What a store knows of its blobs. Functions here run inside a transaction of it.

A reference says that a task of this node refers to a blob, whether or not that is here, and from which peer it is to come if
it is not (`source`; empty for what was here when the task was accepted). It is void once the task's row is gone, so nothing
has to be done where tasks end or are forgotten. A blob's `peer` is who brought it. `used_seconds` is by the store's running
time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from edgenode.link.model.blob import BlobRef
from edgenode.link.store import run_time

SCHEMA = """
CREATE TABLE blob (
    digest TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    name TEXT NOT NULL,
    checks BLOB NOT NULL,
    damaged INTEGER NOT NULL,
    put_time REAL NOT NULL,
    used_seconds REAL NOT NULL,
    peer TEXT NOT NULL
) STRICT;
CREATE TABLE blob_reference (
    digest TEXT NOT NULL,
    task_id TEXT NOT NULL,
    size INTEGER NOT NULL,
    source TEXT NOT NULL,
    PRIMARY KEY (digest, task_id)
) STRICT, WITHOUT ROWID;
"""

_UNUSED = "NOT EXISTS (SELECT 1 FROM blob_reference WHERE blob_reference.digest = blob.digest)"
_VOID = "NOT EXISTS (SELECT 1 FROM task WHERE task.task_id = blob_reference.task_id)"


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob that is or was here. `checks`: CRC-32 of each of its pieces, 4 bytes each; empty: not compared with its digest
    since the store learned of it. `put_time` is wall clock, seconds. `peer`: who brought it; empty for what was put here."""

    ref: BlobRef
    checks: bytes
    damaged: bool
    put_time: float
    peer: str = ""


def load(connection: sqlite3.Connection) -> list[Stored]:
    """All of them."""
    rows = connection.execute(
        "SELECT digest, size, media_type, name, checks, damaged, put_time, peer FROM blob"
    ).fetchall()
    return [Stored(BlobRef(*row[:4]), row[4], bool(row[5]), *row[6:]) for row in rows]


def put(connection: sqlite3.Connection, stored: Iterable[Stored]) -> None:
    """They are here, as said; whatever was known of them before."""
    connection.executemany(
        f"INSERT OR REPLACE INTO blob VALUES (?, ?, ?, ?, ?, ?, ?, {run_time.NOW}, ?)",
        [
            (s.ref.digest, s.ref.size, s.ref.media_type, s.ref.name, s.checks, s.damaged, s.put_time, s.peer)
            for s in stored
        ],
    )  # fmt: skip


def touch(connection: sqlite3.Connection, digests: Iterable[str]) -> None:
    """They were used just now."""
    connection.executemany(
        f"UPDATE blob SET used_seconds = {run_time.NOW} WHERE digest = ?", [(digest,) for digest in digests]
    )


def refer(connection: sqlite3.Connection, pairs: Iterable[tuple[str, BlobRef]], source: str = "") -> None:
    """These tasks refer to these blobs, which come from a peer, the newest that is named, as far as they are not here."""
    connection.executemany(
        "INSERT OR REPLACE INTO blob_reference VALUES (?, ?, ?, ?)",
        [(ref.digest, task_id, ref.size, source) for task_id, ref in pairs],
    )


def wanted(connection: sqlite3.Connection) -> list[tuple[str, str, int]]:
    """(peer, digest, size) of what tasks refer to and is not here whole."""
    return connection.execute(
        "SELECT DISTINCT source, digest, size FROM blob_reference WHERE source <> '' AND NOT EXISTS"
        f" (SELECT 1 FROM blob WHERE blob.digest = blob_reference.digest AND NOT damaged) AND NOT {_VOID}"
    ).fetchall()


def source(connection: sqlite3.Connection, digest: str) -> str:
    """The peer a blob is to come from; empty where there is none."""
    row = connection.execute(
        "SELECT source FROM blob_reference WHERE digest = ? AND source <> '' LIMIT 1", (digest,)
    ).fetchone()
    return row[0] if row is not None else ""


def referred(connection: sqlite3.Connection, digest: str) -> tuple[int, int]:
    """(how many tasks refer to a blob, the size they say it has)."""
    count, size = connection.execute(
        f"SELECT count(*), coalesce(max(size), 0) FROM blob_reference WHERE digest = ? AND NOT {_VOID}", (digest,)
    ).fetchone()
    return count, size


def drop_void(connection: sqlite3.Connection) -> None:
    """Forget references of tasks that are forgotten."""
    connection.execute(f"DELETE FROM blob_reference WHERE {_VOID}")


def unused(connection: sqlite3.Connection, before: float) -> list[str]:
    """Blobs nobody refers to, last used before a running time."""
    rows = connection.execute(f"SELECT digest FROM blob WHERE used_seconds < ? AND {_UNUSED}", (before,)).fetchall()
    return [digest for (digest,) in rows]


def remove(connection: sqlite3.Connection, digests: Iterable[str]) -> list[str]:
    """Forget those that nobody refers to; which they were."""
    return [
        digest
        for digest in digests
        if connection.execute(f"DELETE FROM blob WHERE digest = ? AND {_UNUSED}", (digest,)).rowcount
    ]
