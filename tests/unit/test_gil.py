"""Who has the interpreter while a thread is waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edgenode.link.gil import EVERY, MOMENT, MOST_EVERY, GivingWay, giving_way, on_thread
from edgenode.link.store.connector import connect_on_thread


class Loop:
    """Clocks of a loop's thread, and the looks it has been asked for. A busy one uses all of its time."""

    def __init__(self) -> None:
        self.busy = True
        self.now = self.used = 0.0
        self.pauses: list[float] = []
        self.waits: list[float] = []
        self.way = GivingWay(lambda: self.now, lambda: self.used, self.pauses.append)

    def look(self) -> None:
        """When it is time to."""
        timer = self.way._timer
        assert timer is not None
        self.waits.append(self.way._every)
        self.now += self.waits[-1]
        self.used += self.waits[-1] * self.busy
        timer.cancel()
        self.way._look()


@pytest.fixture
def loop() -> Loop:
    return Loop()


async def test_a_busy_loop_pauses_as_long_as_somebody_waits(loop: Loop) -> None:
    with loop.way:
        for _ in range(3):
            loop.look()
        assert loop.pauses == [MOMENT] * 3
    loop.look()
    assert len(loop.pauses) == 3
    assert loop.way._timer is None


async def test_a_loop_that_is_idle_does_not_and_looks_less_often(loop: Loop) -> None:
    loop.busy = False
    with loop.way:
        for _ in range(8):
            loop.look()
        assert not loop.pauses
        assert loop.waits == [min(EVERY * 2**number, MOST_EVERY) for number in range(8)]
        assert loop.waits[-2:] == [MOST_EVERY] * 2
        loop.busy = True
        loop.look()
        loop.look()
    assert loop.waits[-1] == EVERY
    assert len(loop.pauses) == 2


async def test_many_who_wait_have_one_look(loop: Loop) -> None:
    with loop.way:
        timer = loop.way._timer
    with loop.way:
        with loop.way:
            assert loop.way._timer is timer
        loop.look()
    assert len(loop.pauses) == 1


Hop = Callable[[], Awaitable[int]]


async def beside_a_loop_that_never_rests(hop: Hop) -> None:
    """Without pauses a hop may take seconds, and these minutes."""

    async def hops() -> None:
        for _ in range(500):
            assert await hop() == 1

    async with asyncio.timeout(50):
        running = asyncio.create_task(hops())
        while not running.done():
            sum(range(3_000))
            await asyncio.sleep(0)
        await running


async def test_the_thread_of_a_store_comes_through_beside_a_busy_loop(tmp_path: Path) -> None:
    connection = await connect_on_thread(str(tmp_path / "file"))
    await beside_a_loop_that_never_rests(
        lambda: connection.run(lambda file: int(file.execute("SELECT 1").fetchone()[0]))
    )
    await connection.close()


async def test_any_thread_comes_through_beside_a_busy_loop() -> None:
    await beside_a_loop_that_never_rests(lambda: on_thread(abs, -1))


async def test_all_who_wait_on_a_loop_have_its_one_way() -> None:
    way = giving_way()
    both = asyncio.gather(on_thread(time.sleep, 0.01), on_thread(time.sleep, 0.01))
    await asyncio.sleep(0)
    assert way is giving_way()
    assert way._waiting == 2
    await both
    assert way._waiting == 0
