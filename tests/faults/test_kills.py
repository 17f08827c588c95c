"""kill -9 between every two steps: nothing acknowledged is lost, every effect happens once.

`scripts/kills --failpoints` goes through all points that the mixed load leads to; here are those that say most.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edgenode.link.failpoints import Failpoint
from tests.faults.fleet import Rig
from tests.faults.kills import LOAD_PAUSE, random_kills
from tests.faults.load import Load
from tests.faults.oracle import judge
from tests.faults.points import BLOBS, EDGE, HUB, RARER, Death, die, revive

pytestmark = pytest.mark.timeout(240)

RANDOM_KILLS, RANDOM_SECONDS, LIFETIME = 6, 60.0, 1.0

P = Failpoint
EDGE_PART = {
    P.COMMIT_BEGUN,
    P.COMMIT_DONE,
    P.SUBMIT_COMMITTED,
    P.HANDOVER_NOTED,
    P.OUTCOME_COMMITTED,
    P.ENTRIES_COMMITTED,
}
HUB_PART = {P.STORE_READY, P.BATCH_RECEIVED, P.BATCH_COMMITTED, P.ACK_DUE, P.TASKS_COMMITTED, P.GRANT_COMMITTED}


def test_every_failpoint_is_come_by_somewhere() -> None:
    assert {death.point for death in (*EDGE, *HUB, *RARER, *BLOBS)} == set(Failpoint)


async def test_kill_9_between_every_two_steps(rig: Rig) -> None:
    """At the points, then at random times; `scripts/kills` does both at length."""
    await rig.start("north", "south")
    async with loaded(rig, "north", "south") as load:

        async def chain(node: str, deaths: list[Death]) -> list[str]:
            await rig.kill(node)
            wrong = [await die(rig, node, death) for death in deaths]
            await revive(rig, node)
            return [problem for problem in wrong if problem]

        missed = await asyncio.gather(
            chain("north", [death for death in EDGE if death.point in EDGE_PART]),
            chain("hub", [death for death in HUB if death.point in HUB_PART]),
        )
        assert not [problem for problems in missed for problem in problems]
        assert await random_kills(rig, load, RANDOM_KILLS, RANDOM_SECONDS, LIFETIME, random.randrange(1_000_000)) == []


async def test_kill_9_is_noticed_where_a_receipt_comes_before_its_commit(rig: Rig) -> None:
    await rig.start()
    await rig.join("north")
    await rig.start_edge("north", mutant="leave-commits-for-later")
    async with loaded(rig, "north") as load:
        await load.reached(tasks=10, messages=200, within=60)
        await rig.kill("north")
        await revive(rig, "north")
        wrong = await judge(load, 2)
    assert any(problem.startswith("LOST task") for problem in wrong), wrong


@asynccontextmanager
async def loaded(rig: Rig, *edges: str) -> AsyncIterator[Load]:
    """The mixed load on the edges."""
    load = Load(rig, edges, rig.fleet.folder / "journal", pause=LOAD_PAUSE)
    await load.start()
    try:
        yield load
    finally:
        await load.close()
