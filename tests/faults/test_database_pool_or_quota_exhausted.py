"""Database pool or quota exhausted: a hub whose share for messages is full never counts one as delivered that it has not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edgenode.link.errors import ResourceExhausted
from edgenode.link.model.lanes import Applied
from edgenode.sdk import Client, Level, Scope
from hub.store.messages import SqliteMessageStore
from hub.store.records import Intake
from tests.faults.filling import lanes_of, status_of
from tests.faults.oracle import ledger_lines
from tests.faults.pair import Pair, until

pytestmark = pytest.mark.timeout(180)

TOPIC = "quota.numbers"
MESSAGES = 160
BODY = "x" * 100_000  # 16 MB, where the hub has room for 8


async def _exhausted(pair: Pair) -> set[int]:
    """More is published than the hub has room for, then room is made; the numbers that arrive."""
    await pair.start(store_bytes=128 << 20)
    found: set[int] = set()
    async with pair.client("hub") as hub, pair.client("edge") as edge:
        async with hub.subscribe([TOPIC], "slow", "start", auto_ack=False) as messages:
            await edge.publish(TOPIC, {"n": 0}, level=Level.DURABLE_HUB, wait=30)
            found.add((await anext(aiter(messages))).value()["n"])
        await asyncio.gather(*(edge.publish(TOPIC, {"n": number, "body": BODY}) for number in range(1, MESSAGES)))
        await _is_held_up(edge)
        # Other lanes go on meanwhile.
        task = await edge.submit("nobody.has.it", scope=Scope.FLEET, wait_level=Level.DURABLE_HUB, wait=30)
        assert task.level >= Level.DURABLE_HUB
        assert all(line.balanced for line in await ledger_lines(hub, "hub"))
        assert all(line.balanced for line in await ledger_lines(edge, "north"))
        async with hub.subscribe([TOPIC], "slow", "start") as messages, asyncio.timeout(60):
            async for message in messages:
                found.add(message.value()["n"])
                if len(found) == MESSAGES:
                    break
        assert all(line.balanced for line in await ledger_lines(hub, "hub"))
    return found


async def _is_held_up(edge: Client) -> None:
    """The hub has what it has room for, and the edge keeps the rest: it is neither gone nor called delivered."""

    async def full() -> bool:
        lane = lanes_of(await status_of(edge))["message"]
        return lane.acked_sequence > MESSAGES // 4

    assert await until(full, 60)
    await edge.publish(TOPIC + ".last", b"", level=Level.DURABLE_HUB, wait=2)
    lane = lanes_of(await status_of(edge))["message"]
    assert lane.pending_count > MESSAGES // 4, "the hub has room for everything: nothing was tried"


async def test_database_pool_or_quota_exhausted(folder: Path) -> None:
    pair = Pair(folder, store_bytes=16 << 20, message_retention_bytes=1 << 20)
    try:
        assert await _exhausted(pair) == set(range(MESSAGES))
    finally:
        await pair.stop()


async def test_database_quota_exhausted_and_counted_as_delivered_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = SqliteMessageStore.append

    async def careless(self: SqliteMessageStore, intake: Intake) -> Any:
        try:
            return await honest(self, intake)
        except ResourceExhausted:
            return Applied(intake.base - 1 + sum(segment.count for segment in intake.segments)), 0

    monkeypatch.setattr(SqliteMessageStore, "append", careless)
    pair = Pair(folder, store_bytes=16 << 20, message_retention_bytes=1 << 20)
    try:
        with pytest.raises((AssertionError, TimeoutError)):
            assert await _exhausted(pair) == set(range(MESSAGES))
    finally:
        await pair.stop()
