"""What a hub that is restored from a backup begins anew; `hub.services.restating` says what follows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from edgenode.link.model.task import OnLost
from edgenode.link.store import logs
from hub.store.records import IN_DOUBT_AT_HOLDER, IN_DOUBT_AT_ORIGIN
from hub.store.restating import HUB_FORGOT, raise_fences

REASON = "RESTORED: waits for what its origin and its holder say of it"


def begin_anew(connection: sqlite3.Connection, now_time: float, new_epoch: Callable[[], str]) -> list[str]:
    """Make the store of a backup one of its own; returns what was changed, for people. Runs in a transaction."""
    names = [name for (name,) in connection.execute("SELECT name FROM log ORDER BY name").fetchall()]
    for name in names:
        logs.renew_epoch(connection, name, new_epoch())
    base = raise_fences(connection, now_time)
    nodes = connection.execute(
        "UPDATE node SET restate_id = CASE WHEN hub = '' THEN ? ELSE '' END, registry_epoch = '', registry_version = 0,"
        " fence = max(fence, ?)",
        (HUB_FORGOT, base),
    ).rowcount
    changed = [f"new epochs for {len(names)} logs, fences above {base}, registries from {nodes} nodes"]
    # Hubs below this one are not asked: what they have goes on as the rows say.
    connection.execute(
        "UPDATE task SET doubt = CASE WHEN origin IN (SELECT node FROM node WHERE hub = '') THEN ? ELSE 0 END"
        " | CASE WHEN holder IN (SELECT node FROM node WHERE hub = '') OR (holder = '' AND on_lost <> ?"
        " AND EXISTS (SELECT 1 FROM node WHERE hub = '')) THEN ? ELSE 0 END"
        " WHERE state < 8",
        (IN_DOUBT_AT_ORIGIN, int(OnLost.RETRY), IN_DOUBT_AT_HOLDER),
    )
    tasks = connection.execute("UPDATE task SET state_reason = ? WHERE doubt > 0 AND state < 8", (REASON,)).rowcount
    if tasks:
        changed.append(f"{tasks} tasks wait until the nodes have said what they know of them")
    tokens = connection.execute(
        "UPDATE join_token SET expire_time = min(expire_time, ?) WHERE claimed_serial IS NULL", (now_time,)
    ).rowcount
    if tokens:
        changed.append(f"{tokens} join tokens are void: they may have been used since the backup")
    return changed
