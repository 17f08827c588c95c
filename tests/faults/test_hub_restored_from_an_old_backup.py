"""The hub comes back from a backup: older than what it acknowledged, granted and told. Its edges fill it up again."""

from __future__ import annotations

import asyncio

import pytest

from edgenode.sdk import OnLost, TaskState
from tests.faults.fleet import Rig
from tests.faults.restoring import (
    NOTHING_RETAINED,
    Workers,
    at_hub,
    back_up,
    began,
    gaps,
    ledger,
    open_tasks_at_hub,
    publish,
    restore,
    settled_at_hub,
    submit,
)

pytestmark = pytest.mark.timeout(300)


async def test_what_was_not_retained_is_a_stated_gap_in_ledger_and_log(rig: Rig) -> None:
    rig.environment |= NOTHING_RETAINED
    await rig.start("north")
    await publish(rig, "north", range(100))
    backup = await back_up(rig, "hub")
    await publish(rig, "north", range(100, 200))
    await rig.kill("hub")
    await restore(rig, "hub", backup)
    await rig.start_hub()
    await publish(rig, "north", range(200, 300))
    assert await at_hub(rig, 200) == [*range(100), *range(200, 300)]
    assert await gaps(rig, "hub", "message.uplink") == 100
    assert "counted as a gap" in rig.log("hub")
    await ledger(rig, "north")


async def test_messages_come_again_and_tasks_that_ended_since_do_not_run_again(rig: Rig) -> None:
    """100 messages before the backup and 100 after it; the edge has kept those, and they come again, once each.

    `late` tasks wait in the backup and end after it, `new` ones came and ended after it, `held` ones run on.

    Of each kind one may run twice and one must not; none does. Afterwards fresh work flows and everything adds up.
    """
    await rig.start("north", "south")
    workers = Workers(rig)
    try:
        async with rig.client("south") as south:
            await workers.start("north", "held", held=True)
            await publish(rig, "north", range(100))
            late = [await submit(south, "late", f"late-{on.name}", on) for on in (OnLost.RETRY, OnLost.FAIL)]
            waits = await submit(south, "waits", "waits", OnLost.FAIL)
            backup = await back_up(rig, "hub")
            await publish(rig, "north", range(100, 200))
            await workers.start("north", "late")
            await workers.start("north", "new")
            new = [await submit(south, "new", f"new-{on.name}", on) for on in (OnLost.RETRY, OnLost.FAIL)]
            assert await asyncio.gather(*(task.result(60) for task in (*late, *new))) == [
                "done late-RETRY",
                "done late-FAIL",
                "done new-RETRY",
                "done new-FAIL",
            ]
            held = [await submit(south, "held", f"held-{on.name}", on) for on in (OnLost.RETRY, OnLost.FAIL)]
            await began(workers, ["held-RETRY", "held-FAIL"])
            await rig.kill("hub")
            await restore(rig, "hub", backup)
            await rig.start_hub()
            workers.gate.set()
            assert [await task.result(60) for task in held] == ["done held-RETRY", "done held-FAIL"]
            await settled_at_hub(rig, left=1)
            assert await open_tasks_at_hub(rig) == [waits.task_id]
            fresh = [await submit(south, "new", f"fresh-{number}") for number in range(5)]
            await workers.start("north", "waits")
            assert await waits.result(60) == "done waits"
            assert [await task.result(60) for task in fresh] == [f"done fresh-{number}" for number in range(5)]
            for task in (*late, *new, *held):
                assert TaskState((await south.get_task(task.task_id)).state) is TaskState.COMPLETED
        assert set(workers.runs.values()) == {1}, workers.runs
        await publish(rig, "north", range(200, 300))
        assert await at_hub(rig, 300) == list(range(300))
        assert await gaps(rig, "hub", "message.uplink") == 0
        for node in ("north", "south", "hub"):
            await ledger(rig, node)
    finally:
        await workers.close()
