"""What an edge offers to the hub is at the hub, ended, or here; also over restarts and refusals."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from edgenode.link.model.lanes import Lane, Rejection
from edgenode.link.model.task import Level, TaskState
from edgenode.link.store.outbox import SqliteOutbox
from edgenode.node import task_store
from edgenode.node.message_log import PARENT
from edgenode.node.task_book import TASK_LOG
from tests.unit.node_tasks.harness import FLAKY, House, Link, ended, house

FLEET = 2


async def outbox_of(h: House) -> SqliteOutbox:
    """The uplink's way through acknowledgements."""

    def reject(connection: sqlite3.Connection, lane: Lane, rejections: Sequence[Rejection]) -> None:
        task_store.fail_offers(connection, rejections)

    def acknowledged(lane: Lane, sequence: int, rejections: Sequence[Rejection]) -> None:
        h.engine.hub.rejected(rejections)
        h.engine.hub.acknowledged(sequence)

    outbox = SqliteOutbox(h.database, {Lane.TASK: TASK_LOG}, PARENT, lambda: "epoch", reject)
    outbox.on_acknowledged(acknowledged)
    await h.database.write(outbox.ensure)
    return outbox


async def test_a_task_offered_after_it_waited_here_can_be_rejected(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        outbox = await outbox_of(h)
        await h.turn(20)
        await h.agent("worker", "work", credit=0)
        live = await h.accepted(scope=FLEET)
        await h.registry.deregister("worker")
        await h.turn()
        assert live.offer_sequence == 1
        await outbox.acknowledged(Lane.TASK, "epoch", 1, [Rejection(1, FLAKY)])
        assert live.state is TaskState.FAILED
        assert await h.state(live.task_id) is TaskState.FAILED
        await h.restart()
        assert not h.engine.book.live


async def test_a_rejection_stands_over_an_end_that_is_not_stored(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        outbox = await outbox_of(h)
        live = await h.accepted(scope=FLEET)
        await h.turn()
        done = ended(live)
        refused = asyncio.ensure_future(outbox.acknowledged(Lane.TASK, "epoch", 1, [Rejection(1, FLAKY)]))
        await asyncio.sleep(0)
        h.engine.dispatcher.expire(live)
        await refused
        assert (await done).state is await h.state(live.task_id) is TaskState.FAILED


async def test_what_the_hub_had_before_a_restart_is_durable_there(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        outbox = await outbox_of(h)
        await h.turn(20)
        await h.agent("worker", "work", credit=0)
        waited = await h.accepted(scope=FLEET)
        first = await h.accepted("other", scope=FLEET)
        await h.registry.deregister("worker")
        await h.turn()
        last = await h.accepted("other", scope=FLEET)
        assert [live.offer_sequence for live in (first, waited, last)] == [1, 2, 3]
        await outbox.acknowledged(Lane.TASK, "epoch", 1, [])
        await h.restart()
        outbox = await outbox_of(h)

        def durable() -> list[bool]:
            return [h.engine.book.live[of.task_id].level is Level.DURABLE_HUB for of in (first, waited, last)]

        assert durable() == [True, False, False]
        await outbox.acknowledged(Lane.TASK, "epoch", 2, [])
        assert durable() == [True, True, False]
