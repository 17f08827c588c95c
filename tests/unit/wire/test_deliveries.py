import asyncio
import logging
from functools import partial

import pytest

from edgenode.link.wire.deliveries import Deliveries


async def test_one_kind_keeps_its_order_and_waits_for_itself_only() -> None:
    deliveries = Deliveries(100)
    held = asyncio.Event()
    seen: list[str] = []

    async def handler(text: str, wait: bool) -> None:
        if wait:
            await held.wait()
        seen.append(text)

    for number in range(3):
        deliveries.put("slow", partial(handler, f"slow{number}", wait=number == 0))
        deliveries.put("quick", partial(handler, f"quick{number}", wait=False))
    await asyncio.sleep(0.01)
    assert seen == ["quick0", "quick1", "quick2"]
    held.set()
    await deliveries.close(1.0)
    assert seen[3:] == ["slow0", "slow1", "slow2"]


async def test_a_handler_that_raises_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    deliveries = Deliveries(100)
    seen: list[int] = []

    async def fails() -> None:
        raise ValueError("broken")

    async def works() -> None:
        seen.append(1)

    with caplog.at_level(logging.ERROR):
        deliveries.put("calls", fails)
        deliveries.put("calls", works)
        await deliveries.close(1.0)
    assert seen == [1]
    assert "the handler of calls failed" in caplog.text
    assert "broken" in caplog.text


async def test_room_is_there_again_when_handlers_caught_up() -> None:
    deliveries = Deliveries(2)
    held = asyncio.Event()
    for _ in range(3):
        deliveries.put("calls", lambda: _wait_for(held))
    waiting = asyncio.create_task(deliveries.room())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    held.set()
    await asyncio.wait_for(waiting, 5)
    await deliveries.close(1.0)


async def test_a_handler_that_never_returns_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    deliveries = Deliveries(2)
    deliveries.put("calls", lambda: _wait_for(asyncio.Event()))
    # Its own logger: what another test set for the package is none of this one's concern.
    with caplog.at_level(logging.WARNING, logger="edgenode.link.wire.deliveries"):
        await asyncio.wait_for(deliveries.close(0.01), 5)
    assert "did not return" in caplog.text


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()
