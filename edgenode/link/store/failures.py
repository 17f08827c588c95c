"""SQLite's errors as ours."""

from __future__ import annotations

import sqlite3

from edgenode.link.errors import DataLoss, EdgenodeError, FailedPrecondition, Internal, ResourceExhausted, Unavailable
from edgenode.link.store.budget import RETRY_SECONDS, STORE_FULL

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_full(error: BaseException) -> bool:
    """Whether SQLite found no room, on the disk or within its limit."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def translated(error: BaseException) -> Exception:
    """A write's own error stays; SQLite's become ours."""
    if is_full(error):
        return ResourceExhausted(
            STORE_FULL,
            "the disk or the store's budget is full",
            hint="free space or raise store_bytes",
            retry_after=RETRY_SECONDS,
        )
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
        return DataLoss(
            "STATE_DAMAGED", f"the store is damaged: {error}", hint="start the node again, or restore a backup"
        )
    if isinstance(error, sqlite3.OperationalError):
        if "decode to UTF-8" in str(error):  # Python's own, without a code: a text that was not written so
            return DataLoss("STATE_DAMAGED", f"the store is damaged: {error}", hint="start the node again")
        return Unavailable("STORE_FAILED", f"the store failed: {error}", hint="check the disk; see the node's log")
    if isinstance(error, Exception):
        return error
    return Internal("STORE_FAILED", f"the store failed: {error!r}")


def open_error(path: str, error: sqlite3.Error) -> EdgenodeError:
    """What it means that a file cannot be opened or read: FailedPrecondition, DataLoss or Unavailable."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return FailedPrecondition(
            "STATE_IN_USE", f"{path} is open in another process", hint="stop it first, or use another --state"
        )
    if code in _DAMAGED:
        return DataLoss("STATE_DAMAGED", f"{path} is damaged: {error}", hint="restore a backup, or move the file away")
    return Unavailable("STORE_FAILED", f"cannot open {path}: {error}", hint="check the path, its owner and free space")
