"""The hub comes back from a backup: older than what it acknowledged, granted and told. Its edges fill it up again."""

from __future__ import annotations

import pytest

from tests.faults.fleet import Rig
from tests.faults.restoring import NOTHING_RETAINED, at_hub, back_up, gaps, ledger, publish, restore

pytestmark = pytest.mark.timeout(120)


async def _set_back(rig: Rig) -> None:
    """100 messages before the backup, 100 after it, then the hub is killed, restored, and 100 more follow."""
    await publish(rig, "north", range(100))
    backup = await back_up(rig, "hub")
    await publish(rig, "north", range(100, 200))
    await rig.kill("hub")
    await restore(rig, "hub", backup)
    await rig.start_hub()
    await publish(rig, "north", range(200, 300))


async def test_what_edges_retained_comes_again_and_everything_is_there_once(rig: Rig) -> None:
    await rig.start("north")
    await _set_back(rig)
    assert await at_hub(rig, 300) == list(range(300))
    assert await gaps(rig, "hub", "message.uplink") == 0
    await ledger(rig, "north")


async def test_what_was_not_retained_is_a_stated_gap_in_ledger_and_log(rig: Rig) -> None:
    rig.environment |= NOTHING_RETAINED
    await rig.start("north")
    await _set_back(rig)
    assert await at_hub(rig, 200) == [*range(100), *range(200, 300)]
    assert await gaps(rig, "hub", "message.uplink") == 100
    assert "counted as a gap" in rig.log("hub")
    await ledger(rig, "north")
