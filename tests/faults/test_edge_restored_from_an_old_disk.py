"""An edge comes back with an older disk: by its command from a backup, or because somebody copied the files back."""

from __future__ import annotations

import shutil

import pytest

from edgenode.link.errors import EdgenodeError
from edgenode.sdk import Level, OnLost, TaskState
from tests.faults.fleet import Rig
from tests.faults.restoring import (
    Workers,
    at_hub,
    back_up,
    began,
    gaps,
    ledger,
    publish,
    restore,
    settled_at_hub,
    submit,
)

pytestmark = pytest.mark.timeout(300)


async def test_no_sequence_is_used_twice_and_what_ended_since_runs_no_second_time(rig: Rig) -> None:
    """At the backup north waits for `asked` (its own, at the hub), works on `granted` (south's), and has `local` queued.

    All of them end after it. Restored, north is told the end of its own, has given back what it was granted, and fails what
    must not run twice and only it knows. Then fresh work flows both ways and everything adds up.
    """
    await rig.start("north", "south")
    workers = Workers(rig)
    try:
        async with rig.client("south") as south:
            await workers.start("north", "granted", held=True)
            await publish(rig, "north", range(100))
            granted = [await submit(south, "granted", f"granted-{on.name}", on) for on in (OnLost.RETRY, OnLost.FAIL)]
            await began(workers, ["granted-RETRY", "granted-FAIL"])
            async with rig.client("north") as north:
                asked = await submit(north, "asked", "asked")
                local = await north.submit("local", {"job": "local"}, on_lost=OnLost.FAIL)
                backup = await back_up(rig, "north")
                await publish(rig, "north", range(100, 200))
                workers.gate.set()
                await workers.start("south", "asked")
                await workers.start("north", "local")
                assert [await task.result(60) for task in granted] == ["done granted-RETRY", "done granted-FAIL"]
                assert [await asked.result(60), await local.result(60)] == ["done asked", "done local"]
                forgotten = await submit(north, "asked", "forgotten")
                assert await forgotten.result(60) == "done forgotten"
            await rig.kill("north")
            await restore(rig, "north", backup)
            await rig.start_edge("north")
            async with rig.client("north") as north:
                assert await north.task(asked.task_id).result(60) == "done asked"
                with pytest.raises(EdgenodeError) as failed:
                    await north.task(local.task_id).result(60)
                assert failed.value.reason == "RESTORED"
                fresh = await submit(north, "asked", "fresh-up")
                assert await fresh.result(60) == "done fresh-up"
            down = await submit(south, "granted", "fresh-down")
            assert await down.result(60) == "done fresh-down"
            await settled_at_hub(rig)
            for task in granted:
                assert TaskState((await south.get_task(task.task_id)).state) is TaskState.COMPLETED
        assert set(workers.runs.values()) == {1}, workers.runs
        await publish(rig, "north", range(200, 300))
        assert await at_hub(rig, 300) == list(range(300))
        assert await gaps(rig, "hub", "message.uplink") == 0
        for node in ("north", "south", "hub"):
            await ledger(rig, node)
    finally:
        await workers.close()


async def test_files_that_were_copied_back_are_found_out_whatever_happened_offline(rig: Rig) -> None:
    """By no command at all. More is published before the hub is back than it knew beyond the old disk: numbers tell nothing.

    Tasks that were granted after the copy was made, and were under way, are gone at north: they run anew, or fail.
    """
    await rig.start("north", "south")
    workers = Workers(rig)
    try:
        await publish(rig, "north", range(50))
        await rig.kill("north")
        shutil.copytree(rig.fleet.state("north"), rig.fleet.folder / "copy", ignore=shutil.ignore_patterns("*.sock"))
        await rig.start_edge("north")
        async with rig.client("south") as south:
            await workers.start("north", "held", held=True)
            tasks = {on: await submit(south, "held", f"held-{on.name}", on) for on in (OnLost.RETRY, OnLost.FAIL)}
            await began(workers, ["held-RETRY", "held-FAIL"])
            await publish(rig, "north", range(50, 100))
            await rig.kill("north")
            await rig.kill("hub")
            shutil.rmtree(rig.fleet.state("north"))
            (rig.fleet.folder / "copy").rename(rig.fleet.state("north"))
            await workers.close()
            workers = again = Workers(rig)
            again.gate.set()
            await rig.start_edge("north")
            await publish(rig, "north", range(100, 300), Level.DURABLE_LOCAL)
            await again.start("north", "held")
            await rig.start_hub()
            assert await tasks[OnLost.RETRY].result(60) == "done held-RETRY"
            with pytest.raises(EdgenodeError) as lost:
                await tasks[OnLost.FAIL].result(60)
            assert lost.value.reason == "NODE_LOST"
            assert again.runs == {"held-RETRY": 1}
        await publish(rig, "north", range(300, 310))
        assert await at_hub(rig, 310) == list(range(310))
        for node in ("north", "south", "hub"):
            await ledger(rig, node)
    finally:
        await workers.close()
