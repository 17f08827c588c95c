"""What a backup of a hub holds: store, configuration, authority. Not the root's key, which the hub never reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from edgenode.link.backup.archive import Kind
from edgenode.link.backup.checking import check_logs, has_logs
from edgenode.link.backup.making import Scope
from edgenode.link.blobs.files import FOLDER
from hub import config
from hub.services.ledger import ledger_lines
from hub.store import schema
from hub.store.link import ledger_facts

SCOPE = Scope(
    Kind("edgehub", config.STORE_NAME, schema.APPLICATION_ID, len(schema.migrations())),
    files=[config.FILE_NAME],
    directories=["ca", "parent/identity"],
    left_out=["ca/root.key"],
    blobs=FOLDER,
)


def check(connection: sqlite3.Connection) -> Sequence[str]:
    """What of a store's logs is not whole, and which hops do not add up."""
    lines = ledger_lines(ledger_facts(connection)) if has_logs(connection, schema.MESSAGE_LOG) else []
    return [
        *check_logs(connection),
        *(f"the ledger of {line.hop} {line.peer} does not add up" for line in lines if not line.balanced),
    ]
