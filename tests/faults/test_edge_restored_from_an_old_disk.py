"""An edge comes back with an older disk: by its command from a backup, or because somebody copied the files back."""

from __future__ import annotations

import shutil

import pytest

from edgenode.sdk import Level
from tests.faults.fleet import Rig
from tests.faults.restoring import at_hub, back_up, gaps, ledger, publish, restore

pytestmark = pytest.mark.timeout(120)


async def test_no_sequence_is_used_twice_and_everything_is_at_the_hub_once(rig: Rig) -> None:
    await rig.start("north")
    await publish(rig, "north", range(100))
    backup = await back_up(rig, "north")
    await publish(rig, "north", range(100, 200))
    await rig.kill("north")
    await restore(rig, "north", backup)
    await rig.start_edge("north")
    await publish(rig, "north", range(200, 300))
    assert await at_hub(rig, 300) == list(range(300))
    assert await gaps(rig, "hub", "message.uplink") == 0
    await ledger(rig, "north")


async def test_files_that_were_copied_back_are_found_out_whatever_happened_offline(rig: Rig) -> None:
    """More is published before the hub is back than the hub knew beyond the old disk: the numbers alone tell nothing."""
    await rig.start("north")
    await publish(rig, "north", range(50))
    await rig.kill("north")
    north = rig.fleet.state("north")
    shutil.copytree(north, rig.fleet.folder / "copy", ignore=shutil.ignore_patterns("*.sock"))
    await rig.start_edge("north")
    await publish(rig, "north", range(50, 100))
    await rig.kill("north")
    await rig.kill("hub")
    shutil.rmtree(north)
    (rig.fleet.folder / "copy").rename(north)
    await rig.start_edge("north")
    await publish(rig, "north", range(100, 300), Level.DURABLE_LOCAL)
    await rig.start_hub()
    await publish(rig, "north", range(300, 310))
    assert await at_hub(rig, 310) == list(range(310))
    await ledger(rig, "north")
