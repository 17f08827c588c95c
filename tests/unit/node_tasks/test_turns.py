"""Bulk work is done in slices, one in a turn of the event loop; what is urgent goes between two of them. Turns are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from edgenode.node.turns import GATHER, HOPS, QUIET, SLICE, WIDE, Turns

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


async def flooded(turns: Turns, loops: int, each: Callable[[], None]) -> str:
    """What so many turns of the loop do while bulk work always waits: B for a slice of it; `each()` is called in each."""
    done: list[str] = []

    async def flood() -> None:
        while True:
            await turns.take(turns.size)
            done[-1] = "B"

    floods = [asyncio.create_task(flood()) for _ in range(3)]
    for _ in range(loops):
        done.append(".")
        each()
        await asyncio.sleep(0)
    for task in floods:
        task.cancel()
    await asyncio.gather(*floods, return_exceptions=True)
    return "".join(done)


async def test_the_next_turns_are_left_to_what_is_urgent() -> None:
    turns = Turns()
    loop, came = asyncio.get_running_loop(), False

    def come() -> None:
        nonlocal came
        if not came:
            came = True
            loop.call_soon(turns.urgent)

    done = await flooded(turns, 8 * HOPS, come)
    assert "." * HOPS in done
    assert "." not in done[3 * HOPS :]


async def test_bulk_work_has_its_turns_however_much_is_urgent() -> None:
    turns = Turns()
    done = await flooded(turns, 40 * HOPS, turns.urgent)
    assert done.count("B") >= 18 * HOPS, done


async def test_bulk_work_waits_for_the_commit_of_what_is_urgent() -> None:
    turns = Turns()
    with turns.committing(urgent=True):
        bulk = asyncio.create_task(turns.take(1))
        for _ in range(4 * HOPS):
            await asyncio.sleep(0)
        assert not bulk.done()
        assert not turns.free(1)
    async with asyncio.timeout(5):
        await bulk


async def test_bulk_work_does_not_wait_long_for_a_commit() -> None:
    turns = Turns()
    async with asyncio.timeout(5):
        with turns.committing(urgent=True):
            await turns.take(turns.size)


async def test_bulk_work_does_not_wait_for_one_commit_after_the_other() -> None:
    turns = Turns()
    async with asyncio.timeout(30):
        while True:
            with turns.committing(urgent=True):
                for _ in range(2 * HOPS):
                    await asyncio.sleep(0)
                if turns.free(1):
                    return
                await turns.take(1)


@pytest.mark.parametrize("gap", range(1, 2 * HOPS + 2))
async def test_bulk_work_has_its_turns_between_commits_one_soon_after_the_other(gap: int) -> None:
    """Each as long as the time between them, which is as many turns."""
    turns = Turns()
    done = 0

    async def flood() -> None:
        nonlocal done
        while True:
            await turns.take(turns.size)
            done += 1

    floods = [asyncio.create_task(flood()) for _ in range(3)]
    for _ in range(100):
        for _ in range(gap):
            await asyncio.sleep(0)
        with turns.committing(urgent=True):
            for _ in range(gap):
                await asyncio.sleep(0)
    for task in floods:
        task.cancel()
    await asyncio.gather(*floods, return_exceptions=True)
    assert done >= 10 * gap


async def test_a_step_between_lets_nobody_pass_who_came_before() -> None:
    turns, order = Turns(), list[str]()

    async def step(name: str) -> None:
        await turns.step(1)
        order.append(name)

    turns.urgent()
    steps = [asyncio.create_task(step("first"))]
    await asyncio.sleep(0)
    turns.size = WIDE  # it is calm again
    steps.append(asyncio.create_task(step("second")))
    await asyncio.gather(*steps)
    assert order == ["first", "second"]


async def test_a_commit_that_ends_while_others_are_under_way_lets_nobody_go_on() -> None:
    turns = Turns()
    with turns.committing(urgent=True):
        with turns.committing(urgent=True):
            bulk = asyncio.create_task(turns.take(1))
        for _ in range(4 * HOPS):
            await asyncio.sleep(0)
        assert not bulk.done()
    await bulk


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
