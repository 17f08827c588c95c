"""What `edgenode join` and `edgehub join` print."""

from __future__ import annotations

import time

from edgenode.link.parent.identity import NodeIdentity
from edgenode.link.terminal.output import emit, facts, human_seconds


def show_joined(identity: NodeIdentity, state: str, following: str, output: str) -> None:
    """Print the identity that was made; `following` is the command that comes next."""
    shown = {
        "node": identity.node,
        "identity": str(identity.name),
        "hub": identity.hub,
        "sync_address": identity.sync_address,
        "generation": identity.generation,
        "certificate_expire_time": identity.expire_time,
        "state": state,
    }
    ends = human_seconds(identity.expire_time - time.time())
    emit(
        output,
        shown,
        lambda: facts(
            [
                ("joined as", identity.node),
                ("identity", identity.name),
                ("hub", f"{identity.hub} at {identity.sync_address}"),
                ("certificate", f"ends in {ends}, renewed before by itself"),
                ("next", following),
            ]
        ),
    )
