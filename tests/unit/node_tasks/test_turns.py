"""Bulk work is done in slices, one in a turn of the event loop; what is urgent goes between two of them. Turns are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from edgenode.node.turns import GATHER, QUIET, SLICE, WIDE, Turns

Take = Callable[[Turns, int], Awaitable[None]]


async def turn_by_turn(turns: Turns, counts: list[int], take: Take = Turns.take) -> list[str]:
    """What each turn of the loop does for takers of so many items: a letter each."""
    turns.urgent()
    done: list[str] = [""]

    async def bulk(name: str, count: int) -> None:
        await take(turns, count)
        done[-1] += name

    takers = [asyncio.create_task(bulk(chr(97 + number), count)) for number, count in enumerate(counts)]
    for _ in range(3 * len(counts)):
        await asyncio.sleep(0)
        done.append("")
    await asyncio.gather(*takers)
    return [names for names in done if names]


async def at_once(_turns: Turns, _count: int) -> None:
    """A mutant: nobody waits."""


async def test_one_slice_in_a_turn_in_the_order_they_came() -> None:
    assert await turn_by_turn(Turns(), [SLICE] * 4) == ["a", "b", "c", "d"]
    assert await turn_by_turn(Turns(), [10 * SLICE, 1, SLICE, 1]) == ["a", "b", "c", "d"]
    assert await turn_by_turn(Turns(), [SLICE] * 4, at_once) == ["abcd"]


async def test_nobody_passes_one_who_was_let_go_on_and_has_not_gone_on_yet() -> None:
    turns, done = Turns(), list[str]()

    async def bulk(name: str, count: int, later: int = 0) -> None:
        for _ in range(later):
            await asyncio.sleep(0)
        await turns.take(count)
        done.append(name)

    leaving = asyncio.create_task(bulk("first", SLICE))
    waiting = asyncio.create_task(bulk("second", 1))
    await asyncio.gather(leaving, waiting, bulk("third", 1, later=1), bulk("fourth", 1, later=2))
    assert done == ["first", "second", "third", "fourth"]


async def test_whoever_gives_up_a_turn_holds_up_nobody() -> None:
    turns = Turns()
    await turns.take(turns.size)
    gone, going = asyncio.create_task(turns.take(turns.size)), asyncio.create_task(turns.take(turns.size))
    await asyncio.sleep(0)
    gone.cancel()  # before its turn
    await asyncio.sleep(0)
    going.cancel()  # with it, perhaps
    await asyncio.wait([gone, going])
    async with asyncio.timeout(5):
        await turns.take(turns.size)
        await turns.take(1)


async def test_small_pieces_share_a_turn() -> None:
    assert await turn_by_turn(Turns(), [SLICE // 4] * 6) == ["abcd", "ef"]


async def test_what_is_urgent_waits_for_one_slice_at_most() -> None:
    """It takes no turn: whatever comes by the loop itself runs behind the slice under way and before the next."""
    turns, done = Turns(), list[str]()

    async def bulk(number: int) -> None:
        await turns.take(turns.size)
        done.append(f"slice {number}")
        if number == 3:
            asyncio.get_running_loop().call_soon(done.append, "urgent")

    await asyncio.gather(*map(bulk, range(8)))
    assert done.index("urgent") <= done.index("slice 3") + 2


async def test_what_is_sent_waits_for_the_slices_that_are_waiting() -> None:
    turns, done, sent = Turns(), list[str](), asyncio.Event()

    def send() -> None:
        done.append("sent")
        sent.set()

    async def bulk(number: int) -> None:
        await turns.take(turns.size)
        if not number:
            turns.gathered(send)
        done.append("slice")

    await asyncio.gather(sent.wait(), *map(bulk, range(4)))
    assert done == ["slice"] * 4 + ["sent"]


async def test_what_is_sent_does_not_wait_for_ever() -> None:
    turns, sent, done = Turns(), asyncio.Event(), 0

    async def flood() -> None:
        nonlocal done
        while not sent.is_set():
            await turns.take(turns.size)
            done += 1

    floods = [asyncio.create_task(flood()) for _ in range(3)]
    await asyncio.sleep(0)
    turns.gathered(sent.set)
    await asyncio.gather(*floods)
    assert 2 < done <= GATHER + len(floods) + 2


async def test_whoever_is_gone_holds_up_nobody() -> None:
    turns = Turns()
    takers = [asyncio.create_task(turns.take(turns.size)) for _ in range(4)]
    await asyncio.sleep(0)
    takers[1].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*takers, return_exceptions=True)
    assert takers[1].cancelled()


async def test_slices_are_small_while_something_urgent_is_about() -> None:
    turns = Turns()
    assert [len(piece) for piece in turns.slices(range(2 * WIDE + 1))] == [WIDE, WIDE, 1]
    turns.urgent()
    assert len(next(turns.slices(range(WIDE)))) == SLICE
    for _ in range(2):
        for _ in range(QUIET - 2):
            await turns.take(turns.size)
        assert turns.size == SLICE
        turns.urgent()
    while turns.size == SLICE:
        await turns.take(turns.size)


async def test_what_becomes_urgent_makes_the_rest_small() -> None:
    turns = Turns()
    pieces = turns.slices(range(2 * WIDE))
    assert len(next(pieces)) == WIDE
    turns.urgent()
    assert {len(piece) for piece in pieces} == {SLICE}


@pytest.mark.parametrize("count", [0, 1, SLICE, SLICE + 1, WIDE + 1])
def test_slices_are_everything_in_order(count: int) -> None:
    made = list(Turns().slices(range(count)))
    assert [item for piece in made for item in piece] == list(range(count))
    assert all(0 < len(piece) <= WIDE for piece in made)
