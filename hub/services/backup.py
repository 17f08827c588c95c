"""What a backup of a hub holds: store, configuration, authority. Not the root's key, which the hub never reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from edgenode.link.backup.archive import Kind
from edgenode.link.backup.making import Scope
from hub import config
from hub.services.ledger import ledger_lines
from hub.store import schema
from hub.store.link import ledger_facts

SCOPE = Scope(
    Kind("edgehub", config.STORE_NAME, schema.APPLICATION_ID, len(schema.migrations())),
    files=[config.FILE_NAME],
    directories=["ca", "parent/identity"],
    left_out=["ca/root.key"],
)


def check_ledger(connection: sqlite3.Connection) -> Sequence[str]:
    """The hops of a store that do not add up."""
    return [
        f"the ledger of {line.hop} {line.peer} does not add up".replace("  ", " ")
        for line in ledger_lines(ledger_facts(connection))
        if not line.balanced
    ]
