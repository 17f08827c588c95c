"""That what is in a store's logs and counters is what it says: the walk of `edgenode ledger verify`, on a copy."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from edgenode.link.store.audit import LogAudit, check_tables


def check_logs(connection: sqlite3.Connection) -> Sequence[str]:
    """What is wrong with the logs and counters of a store that nobody writes to."""
    findings = check_tables(connection)
    for (name,) in connection.execute("SELECT name FROM log ORDER BY log_id").fetchall():
        audit = LogAudit(name)
        while not audit.step(connection):
            pass
        findings += audit.findings
    return [f"{found.hop}: {found.reason}: {found.detail}" for found in findings]


def has_logs(connection: sqlite3.Connection, *names: str) -> bool:
    """Whether the store has these logs: one of a service that never ran has none, and no ledger."""
    known = {name for (name,) in connection.execute("SELECT name FROM log")}
    return known >= set(names)
