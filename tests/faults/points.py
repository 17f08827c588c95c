"""How each failpoint is come by: on which side, the how-manieth time, and what makes the process pass it."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from edgenode.link.errors import EdgenodeError, Internal
from edgenode.link.failpoints import Failpoint
from tests.faults.fleet import Rig

PATIENCE = 40.0  # seconds for a process to come by its failpoint


BULK_ROUNDS, BULK_BYTES = 20, 100_000


class By(Enum):
    """What leads a process to a point."""

    START = "start"  # it passes it before it serves
    LOAD = "load"  # the mixed load is enough
    BULK = "bulk"  # large messages
    RENEWAL = "renewal"  # a certificate that is due, its own or, for a hub, that of an edge
    STOP = "stop"  # SIGTERM
    JOIN = "join"  # `edgenode join`


@dataclass(frozen=True, slots=True)
class Death:
    """The `nth` time the process comes by `point`, it dies."""

    point: Failpoint
    by: By = By.LOAD
    nth: int = 1

    @property
    def armed(self) -> str:
        """For the environment."""
        return f"{self.point.value}:{self.nth}"


P = Failpoint
_BOTH = (
    Death(P.STORE_OPENED, By.START),
    Death(P.STORE_MIGRATING, By.START),
    Death(P.STORE_READY, By.START),
    Death(P.COMMIT_BEGUN, nth=30),
    Death(P.COMMIT_DONE, nth=30),
    Death(P.CHECKPOINT_DUE, By.BULK),
    Death(P.CHECKPOINT_DONE, By.BULK),
    Death(P.LINK_ESTABLISHED),
    Death(P.BATCH_READ),
    Death(P.BATCH_SENT),
    Death(P.BATCH_RECEIVED),
    Death(P.BATCH_COMMITTED),
    Death(P.ACK_DUE),
    Death(P.ACK_SENT),
    Death(P.ACK_RECEIVED),
    Death(P.OUTBOX_ACKNOWLEDGED),
    Death(P.SUBSCRIPTION_ACKED),
    Death(P.STORE_CLOSING, By.STOP),
)
EDGE = (
    *_BOTH,
    Death(P.VACUUM_DUE, By.BULK),
    Death(P.VACUUM_DONE, By.BULK),
    Death(P.BOOT_COUNTED, By.START),
    Death(P.ROOMS_MADE, By.START),
    Death(P.NODE_SERVING, By.START),
    Death(P.PUBLISH_COMMITTED),
    Death(P.PUBLISH_ACKED),
    Death(P.SUBMIT_COMMITTED),
    Death(P.OFFER_COMMITTED),
    Death(P.HANDOVER_NOTED),
    Death(P.ASSIGNMENT_SENT),
    Death(P.RESULT_RECEIVED),
    Death(P.OUTCOME_COMMITTED),
    Death(P.RESULT_CONFIRMED),
    Death(P.ENTRIES_COMMITTED),
    Death(P.RETURN_COMMITTED),
    Death(P.CANCEL_COMMITTED),
    Death(P.AGENT_COMMITTED),
    Death(P.PENDING_KEY_WRITTEN, By.RENEWAL),
    Death(P.RENEWAL_ANSWERED, By.RENEWAL),
    Death(P.FILE_WRITTEN, By.RENEWAL),
    Death(P.FILE_RENAMED, By.RENEWAL, nth=2),
    Death(P.CREDENTIAL_WRITTEN, By.RENEWAL),
    Death(P.IDENTITY_WRITTEN, By.RENEWAL),
    Death(P.NODE_DRAINED, By.STOP),
)
HUB = (
    *_BOTH,
    Death(P.LINK_ADMITTED),
    Death(P.REGISTRY_RECEIVED),
    Death(P.REGISTRY_COMMITTED),
    Death(P.HUB_RESTORED, By.START),
    Death(P.HUB_SERVING, By.START),
    Death(P.MESSAGES_COMMITTED),
    Death(P.TASKS_COMMITTED),
    Death(P.GRANT_COMMITTED),
    Death(P.RENEWAL_COMMITTED, By.RENEWAL),
    Death(P.HUB_DRAINED, By.STOP),
)
# tests/unit/blobs/test_kills.py leads there: content that is put.
BLOBS = (Death(P.BLOB_WRITTEN), Death(P.BLOB_RENAMED), Death(P.BLOB_COMMITTED))
# `test_kills_at_rarer_points` leads there: an edge that joins and the hub that lets it, a log of which much goes at once or
# that the hub knows more of than it holds, a store that is damaged.
RARER = (
    Death(P.FILE_WRITTEN, By.JOIN),
    Death(P.PENDING_KEY_WRITTEN, By.JOIN),
    Death(P.JOIN_COMMITTED),
    Death(P.FILE_RENAMED, By.JOIN),
    Death(P.OUTBOX_TRIMMED),
    Death(P.EPOCH_RENEWED),
    Death(P.STORE_QUARANTINED, By.START),
)


async def die(rig: Rig, node: str, death: Death) -> str:
    """Start `node`, which does not run, and see it die at the point. What is wrong if it does not; it is gone anyway."""
    before = deaths(rig, node, death)
    if death.by is By.RENEWAL and node != "hub":
        make_due(rig, node)
    try:
        await _start(rig, node, death.armed)
    except Internal:
        pass  # it closed its output and did not become ready: it is dead, or nearly
    else:
        bulk = asyncio.create_task(_bulk(rig, node)) if death.by is By.BULK else None
        if death.by is By.STOP:
            rig.fleet.children[node].process.send_signal(signal.SIGTERM)
        if death.by is By.RENEWAL and node == "hub":
            await _renew_an_edge(rig)
        if bulk is not None:
            with suppress(TimeoutError):
                await rig.died(node, PATIENCE)
            bulk.cancel()
            await asyncio.wait([bulk])
    return await died(rig, node, death, before)


async def died(rig: Rig, node: str, death: Death, before: int = 0) -> str:
    """What is wrong with the end of `node`, which was armed and died at the point `before` times until then; it is gone."""
    with suppress(TimeoutError):
        await rig.died(node, PATIENCE)
    if rig.running(node):
        await rig.kill(node)
        return f"{node} never came by {death.armed}"
    code = await rig.died(node, 1)
    if code != -signal.SIGKILL or deaths(rig, node, death) != before + 1:
        return f"{node} ended with {code}, not at {death.armed}: {rig.log(node)[-500:]}"
    return ""


def deaths(rig: Rig, node: str, death: Death) -> int:
    """How often it died at the point."""
    return rig.log(node).count(f"failpoint {death.point.value} reached")


def make_due(rig: Rig, edge: str) -> None:
    """Have the edge renew its certificate as soon as it runs: by what its files say, it has ended."""
    path = rig.fleet.state(edge) / "identity" / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"not_before": 0.0, "expire_time": 1.0}))


async def _renew_an_edge(rig: Rig) -> None:
    edge = [name for name in rig.fleet.children if name != "hub"][-1]
    await rig.kill(edge)
    make_due(rig, edge)
    await revive(rig, edge)


async def revive(rig: Rig, node: str) -> None:
    """Start it as it is."""
    await _start(rig, node, "")


async def _start(rig: Rig, node: str, failpoint: str) -> None:
    if node == "hub":
        await rig.start_hub(failpoint=failpoint)
    else:
        await rig.start_edge(node, failpoint=failpoint)


async def _bulk(rig: Rig, node: str) -> None:
    """Publish large messages; a hub gets them from an edge."""
    edge = next(name for name in rig.fleet.children if name != "hub") if node == "hub" else node
    async with rig.client(edge) as client:
        for _ in range(BULK_ROUNDS):
            with suppress(EdgenodeError):
                await asyncio.gather(*(client.publish("bulk", bytes(BULK_BYTES)) for _ in range(20)))
