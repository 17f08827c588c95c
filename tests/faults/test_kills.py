"""kill -9 between every two steps: nothing acknowledged is lost, every effect happens once.

`scripts/kills --failpoints` goes through all of them; here a part that says most.
"""

from __future__ import annotations

import asyncio

import pytest

from edgenode.link.failpoints import Failpoint
from tests.faults.fleet import Rig
from tests.faults.load import Load
from tests.faults.oracle import judge
from tests.faults.points import EDGE, HUB, RARER, Death, die, revive

pytestmark = pytest.mark.timeout(240)

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
    assert {death.point for death in (*EDGE, *HUB, *RARER)} == set(Failpoint)


async def test_kill_9_between_every_two_steps(rig: Rig) -> None:
    await rig.start("north", "south")
    load = Load(rig, ["north", "south"], rig.fleet.folder / "journal")
    await load.start()

    async def chain(node: str, deaths: list[Death]) -> list[str]:
        await rig.kill(node)
        wrong = [await die(rig, node, death) for death in deaths]
        await revive(rig, node)
        return [problem for problem in wrong if problem]

    try:
        missed = await asyncio.gather(
            chain("north", [death for death in EDGE if death.point in EDGE_PART]),
            chain("hub", [death for death in HUB if death.point in HUB_PART]),
        )
        assert not [problem for problems in missed for problem in problems]
        assert await judge(load) == []
    finally:
        await load.close()
