"""kill -9 between two steps that the mixed load of test_kills does not take: joining, renewing, trimming, a new epoch.

The process dies at the point, and whatever is started next goes on by itself from what is on disk. (One more, of a store that
is being set aside, is in test_bit_flip_truncated_file.)
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from edgenode.cli.demo.fleet import EDGENODE
from edgenode.link.errors import Unavailable
from edgenode.link.failpoints import VARIABLE, Failpoint
from edgenode.link.model.lanes import Lane
from edgenode.link.parent.identity import join, load_identity
from edgenode.sdk import Level
from tests.faults.fleet import Rig
from tests.faults.hub_log import numbers_at_the_hub
from tests.faults.oracle import ledger_lines
from tests.faults.points import RARER, By, Death, died, make_due
from tests.faults.restoring import NOTHING_RETAINED, TOPIC, publish, state

pytestmark = pytest.mark.timeout(240)

P = Failpoint
MANY = 1200  # segments: more than are trimmed at a time
AHEAD = 5


def rarer(point: Failpoint) -> Death:
    return next(death for death in RARER if death.point is point)


async def starts_and_dies(rig: Rig, death: Death) -> None:
    """North is started and dies at the point."""
    await rig.start_edge("north", failpoint=death.armed)
    assert not await died(rig, "north", death)


async def joins_and_dies(rig: Rig, token: str, point: Failpoint) -> None:
    """`edgenode join` dies at the point."""
    death = rarer(point)
    assert death.by is By.JOIN
    where = ["--state", state(rig, "north"), "--hub", rig.fleet.enroll_address, "--token", token]
    await rig.fleet.spawn("north", EDGENODE, "join", *where, environment={VARIABLE: death.armed})
    assert not await died(rig, "north", death)


async def test_kill_9_while_an_edge_joins_and_renews(rig: Rig) -> None:
    """It has one identity all along, by one token and one request for each certificate, and what it acknowledged arrives."""
    joined, renewed = rarer(P.JOIN_COMMITTED), Death(P.RENEWAL_COMMITTED)
    north = rig.fleet.state("north")
    await rig.make_hub()
    await rig.start_hub(failpoint=joined.armed)
    token = await rig.token("north")
    for point in (P.FILE_WRITTEN, P.PENDING_KEY_WRITTEN):
        await joins_and_dies(rig, token, point)
        assert load_identity(north) is None
    with pytest.raises(Unavailable) as refused:
        await join(north, rig.fleet.enroll_address, token)
    assert refused.value.reason == "HUB_UNREACHABLE"
    assert not await died(rig, "hub", joined)
    await rig.start_hub(failpoint=renewed.armed)
    await joins_and_dies(rig, token, P.FILE_RENAMED)
    first = await join(north, rig.fleet.enroll_address, token)
    assert first.generation == 1, "the token was used twice"
    names = {path.name for path in (north / "identity").iterdir()}
    assert names == {"identity.json", "bundle.pem", "credential-1.pem"}, "keys were left behind"

    make_due(rig, "north")
    answered = Death(P.RENEWAL_ANSWERED)
    await rig.start_edge("north", failpoint=answered.armed)
    assert not await died(rig, "hub", renewed)
    await publish(rig, "north", range(10), Level.DURABLE_LOCAL)
    await rig.start_hub()
    assert not await died(rig, "north", answered)
    for point, generation in ((P.CREDENTIAL_WRITTEN, 1), (P.IDENTITY_WRITTEN, 2)):
        await starts_and_dies(rig, Death(point))
        held = load_identity(north)
        assert held is not None
        assert held.generation == generation
    await rig.start_edge("north")
    await publish(rig, "north", range(10, 20))
    assert await numbers_at_the_hub(rig) == list(range(20))


async def test_kill_9_while_a_log_is_trimmed_and_while_its_epoch_is_renewed(rig: Rig) -> None:
    """Nothing is lost, nothing comes twice, and the ledger knows where everything is."""
    trimmed, renewed = rarer(P.OUTBOX_TRIMMED), rarer(P.EPOCH_RENEWED)
    rig.environment = {**rig.environment, **NOTHING_RETAINED}
    await rig.start()
    await rig.join("north")
    await rig.kill("hub")
    await rig.start_edge("north", failpoint=trimmed.armed)
    async with rig.client("north") as client:
        for number in range(MANY):  # each a segment
            await client.publish(TOPIC, number, key="n", level=Level.DURABLE_LOCAL)
    await rig.start_hub()
    assert not await died(rig, "north", trimmed)
    await rig.start_edge("north", failpoint=renewed.armed)
    await publish(rig, "north", range(MANY, MANY + 10))
    await rig.kill("hub")
    _put_ahead(rig)
    await rig.start_hub()
    assert not await died(rig, "north", renewed)
    await rig.start_edge("north")
    await publish(rig, "north", range(MANY + 10, MANY + 20))
    assert await numbers_at_the_hub(rig) == list(range(MANY + 20))
    for node in ("north", "hub"):
        async with rig.client(node) as client:
            lines = await ledger_lines(client, node)
        assert all(line.balanced for line in lines), lines
        assert [line.pending_count for line in lines if line.hop == "message.uplink"] == [0]


def _put_ahead(rig: Rig) -> None:
    """The hub has entries of the epoch in use that the edge's log never had, as if the edge's disk had been set back."""
    with closing(sqlite3.connect(rig.fleet.state("hub") / "edgehub.db")) as connection, connection:
        changed = connection.execute(
            "UPDATE inbox_cursor SET sequence = sequence + ?, gap_count = gap_count + ? WHERE cursor_id ="
            " (SELECT max(cursor_id) FROM inbox_cursor WHERE peer = 'north' AND lane = ?)",
            (AHEAD, AHEAD, int(Lane.MESSAGE)),
        ).rowcount
    assert changed == 1
