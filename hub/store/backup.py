"""What a hub that is restored from a backup begins anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from edgenode.link.store import logs


def begin_anew(connection: sqlite3.Connection, now_time: float, new_epoch: Callable[[], str]) -> list[str]:
    """Make the store of a backup one of its own; returns what was changed, for people. Runs in a transaction."""
    names = [name for (name,) in connection.execute("SELECT name FROM log ORDER BY name").fetchall()]
    for name in names:
        logs.renew_epoch(connection, name, new_epoch())
    connection.execute("UPDATE node SET registry_epoch = '', registry_version = 0")
    changed = [f"new epochs for {len(names)} logs; every node sends its registry anew"]
    tokens = connection.execute(
        "UPDATE join_token SET expire_time = min(expire_time, ?) WHERE claimed_serial IS NULL", (now_time,)
    ).rowcount
    if tokens:
        changed.append(f"{tokens} join tokens are void: they may have been used since the backup")
    return changed
