"""The oracle notices when a protection is missing: real processes with one taken away, killed under load."""

from __future__ import annotations

import pytest

from tests.faults import mutants
from tests.faults.fleet import Rig
from tests.faults.load import Load
from tests.faults.oracle import judge

pytestmark = pytest.mark.timeout(180)


async def test_nothing_is_wrong_without_faults(rig: Rig) -> None:
    await rig.start("north", "south")
    load = Load(rig, ["north", "south"], rig.fleet.folder / "journal")
    await load.start()
    try:
        await load.reached(tasks=50, messages=500, within=60)
        assert await judge(load) == []
    finally:
        await load.close()


def test_every_mutant_has_a_reason() -> None:
    assert all(mutant.__doc__ for mutant in mutants.MUTANTS.values())
