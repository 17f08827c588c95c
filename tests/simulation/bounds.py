"""What must stay small all along: files within their budget, what is kept of acknowledged entries, what is held in memory."""

from __future__ import annotations

import os
import random
import sqlite3
from typing import TYPE_CHECKING, Any

from edgenode.link.store import logs
from edgenode.link.store.budget import DISK_SLACK_BYTES
from edgenode.link.store.database import PAGE_BYTES, Database
from hub.services.links import MAX_WAITING

if TYPE_CHECKING:
    from tests.simulation.machines import Machine
    from tests.simulation.world import World

STORE_BYTES = 16 << 20
# Logs are trimmed by whole segments; the largest frame a publisher of the simulation sends has as many bytes, about.
SLACK = 20_000


def budgets(rng: random.Random) -> dict[str, Any]:
    """What machines of a world may take: settings that edges and hubs have in common."""
    return {"store_bytes": STORE_BYTES, "ack_retention_bytes": rng.choice((2_000, 20_000, 1 << 20))}


def check(world: World) -> None:
    """At any moment, of every store that can be looked at."""
    for machine in world.machines:
        sql = machine.disk.sql
        if sql is None or not machine.serving:
            continue
        _files(world, machine, sql)
        _logs(world, machine, sql)
    for hub in world.hubs:
        waiting = hub.core.links._waiting if hub.core is not None else {}
        for node, frames in waiting.items():
            world.check(len(frames) <= MAX_WAITING, f"{hub.name} keeps {len(frames)} frames for {node}")


def _files(world: World, machine: Machine, sql: sqlite3.Connection) -> None:
    size = sql.execute("PRAGMA page_count").fetchone()[0] * PAGE_BYTES
    limit: int = machine.config.store_bytes
    world.check(size <= limit, f"{machine.name} takes {size} bytes of {limit}")
    log = f"{machine.disk.path}-wal"
    written = os.stat(log).st_size if os.path.exists(log) else 0
    world.check(written <= DISK_SLACK_BYTES, f"the write-ahead log of {machine.name} has {written} bytes")


def _logs(world: World, machine: Machine, sql: sqlite3.Connection) -> None:
    """What everybody has acknowledged is kept for a while, within its bounds."""
    for log_id, name, held in sql.execute("SELECT log_id, name, held_bytes FROM log").fetchall():
        acked = logs.consumers(sql, log_id)
        if not acked:
            continue  # a hub's messages are kept for whoever subscribes
        kept = held - logs.payload_bytes(sql, log_id, min(acked.values()))
        keeps = machine.config.message_retention_bytes if name == "messages" else 0
        bound = max(keeps, machine.config.ack_retention_bytes) + SLACK
        world.check(kept <= bound, f"{machine.name} keeps {kept} bytes of {name} that everybody has, for {bound}")


def check_at_rest(world: World) -> None:
    """Nothing is counted as on its way into a store; that nothing is, is part of being at rest."""
    for machine in world.machines:
        on_its_way = sum(_database(machine).budget._admitted.values())
        world.check(not on_its_way, f"{machine.name} counts {on_its_way} bytes as on their way at rest")


def waiting(world: World) -> str:
    """Who has writes that wait for their commit, as the look for what has become too old is now and then; empty if nobody."""
    counts = ((machine.name, len(_database(machine)._pending)) for machine in world.machines)
    return next((f"{name} has {count} writes waiting" for name, count in counts if count), "")


def _database(machine: Any) -> Database:
    room = machine.node.rooms.database if machine in machine.world.edges else machine.core._database
    assert isinstance(room, Database)
    return room
