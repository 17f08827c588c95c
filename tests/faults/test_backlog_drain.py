"""Backlog drain: a lane full of messages on a slow link holds up neither tasks nor calls; what is live goes in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgenode.link.protocol.sharing import LaneSharing
from edgenode.sdk import Client, Level, Scope
from tests.faults.filling import lanes_of, status_of
from tests.faults.pair import Pair, until
from tests.faults.proxy import FaultyProxy

pytestmark = pytest.mark.timeout(240)

MESSAGES = 300
BODY = b"x" * 10_000  # 3 MB, ten seconds of the link
RATE = 300_000  # bytes a second
TASKS = 2


async def _live_in_between(pair: Pair) -> int:
    """Messages of the backlog that still waited when TASKS tasks, one after the other, and a call had gone to the hub."""
    await pair.start()
    hub = pair.hub
    assert hub is not None
    await pair.stop_edge()
    cable = FaultyProxy(hub.sync_port)
    await cable.restore()
    try:
        await pair.start_edge(hub="127.0.0.1:1")  # nobody there: the backlog grows
        async with pair.client("edge") as client:
            await asyncio.gather(*(client.publish("drain.numbers", BODY) for _ in range(MESSAGES)))
        await pair.stop_edge()
        cable.up_way.rate = RATE
        await pair.start_edge(hub=f"127.0.0.1:{cable.port}")
        async with pair.client("edge") as client:

            async def draining() -> bool:
                return lanes_of(await status_of(client))["message"].acked_sequence > 0

            assert await until(draining, 60)
            for _ in range(TASKS):
                task = await client.submit("nobody.has.it", scope=Scope.FLEET, wait_level=Level.DURABLE_HUB, wait=100)
                assert task.level >= Level.DURABLE_HUB
            left = lanes_of(await status_of(client))["message"].pending_count
            assert await until(lambda: _drained(client), 100)
        return left
    finally:
        await cable.cut()


async def _drained(client: Client) -> bool:
    return not lanes_of(await status_of(client))["message"].pending_count


async def test_backlog_drain_is_interleaved_with_live_traffic(folder: Path) -> None:
    pair = Pair(folder)
    try:
        assert await _live_in_between(pair) > MESSAGES // 10
    finally:
        await pair.stop()


async def test_backlog_drain_without_shares_holds_up_what_is_live(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LaneSharing, "choose", lambda self, ready: max(ready, default=None))
    pair = Pair(folder)
    try:
        assert await _live_in_between(pair) <= MESSAGES // 10
    finally:
        await pair.stop()
