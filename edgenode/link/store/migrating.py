"""The schema of a store: which version it has, whose it is, and how it is brought up to date."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence

from edgenode.link.errors import DataLoss, FailedPrecondition
from edgenode.link.failpoints import Failpoint, reach

_MARK_TABLE = (
    "CREATE TABLE IF NOT EXISTS store_mark (store_id TEXT NOT NULL, commit_number INTEGER NOT NULL,"
    " schema_version INTEGER NOT NULL, application_id INTEGER NOT NULL) STRICT"
)


def migrate(connection: sqlite3.Connection, path: str, migrations: Sequence[str], application_id: int) -> None:
    """Make or bring up to date what is in the file; ends the transaction that was begun.

    Raises DataLoss, FailedPrecondition (WRONG_STATE), sqlite3.Error.
    """
    connection.execute(_MARK_TABLE)
    connection.execute(
        "INSERT INTO store_mark SELECT ?, 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM store_mark)",
        (secrets.token_hex(16),),
    )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    said = connection.execute("SELECT schema_version, application_id FROM store_mark").fetchone()
    # One bit of the head is another: that is damage, and no other version's or program's file.
    if 1 in ((version ^ said[0]).bit_count(), (owner ^ said[1]).bit_count()) and said[0]:
        raise DataLoss(
            "STATE_DAMAGED",
            f"the head of {path} does not say what the store was made as",
            hint="restore a backup, or move the file away",
        )
    if version > 0 and owner != application_id:
        raise FailedPrecondition(
            "WRONG_STATE", f"{path} was made by another program", hint="give edge and hub a --state each"
        )
    if version > len(migrations):
        raise DataLoss(
            "STATE_TOO_NEW",
            f"{path} has schema {version}; this version knows {len(migrations)}",
            hint="run the newer edgenode again, or restore a backup made by this one",
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        for statement in script.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number}")
    connection.execute(f"PRAGMA application_id = {application_id}")
    connection.execute(
        "UPDATE store_mark SET schema_version = ?, application_id = ?",
        (len(migrations), application_id),
    )
    reach(Failpoint.STORE_MIGRATING)
    connection.execute("COMMIT")


def set_up(connection: sqlite3.Connection) -> None:
    """How a store is opened."""
    connection.execute("PRAGMA busy_timeout = 0")
    # Before anything reads the file: then the WAL's index is in this process's memory, not in a shared mapping.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA page_size = 4096")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    connection.execute("PRAGMA journal_size_limit = 16777216").fetchall()
    connection.execute("PRAGMA temp_store = MEMORY")
    # Some builds of SQLite write zeros over every page that becomes free: what has drained would be written twice more.
    connection.execute("PRAGMA secure_delete = FAST").fetchall()
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA foreign_keys = ON")
