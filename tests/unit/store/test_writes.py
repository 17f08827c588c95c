"""The order of writes, and what a transaction takes of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgenode.link.model.lanes import Lane
from edgenode.link.store.writes import TRANSACTION_BYTES, TRANSACTION_ROWS, Write, WriteQueue


@pytest.fixture
async def queue() -> WriteQueue:
    return WriteQueue()


def write(name: str, size: int = 0, rows: int = 1) -> Write[Any]:
    made: Write[Any] = Write(lambda _: None, asyncio.get_running_loop().create_future(), size, rows, Lane.TASK)
    made.future.set_result(name)
    return made


def names(batch: list[Write[Any]]) -> str:
    return "".join(write.future.result() for write in batch)


async def test_in_order_and_urgent_ones_first(queue: WriteQueue) -> None:
    for name in "aBcD":
        queue.add(write(name), urgent=name.isupper())
    assert len(queue) == 4
    assert names(queue.take()) == "BDac"
    assert not queue


@pytest.mark.parametrize(("size", "rows"), [(TRANSACTION_BYTES // 2, 1), (0, TRANSACTION_ROWS // 2)])
async def test_a_transaction_is_bounded(queue: WriteQueue, size: int, rows: int) -> None:
    for name in "abcde":
        queue.add(write(name, size, rows), urgent=False)
    assert [names(queue.take()) for _ in range(3)] == ["ab", "cd", "e"]
    queue.add(write("x", 10 * TRANSACTION_BYTES, 10 * TRANSACTION_ROWS), urgent=False)
    assert names(queue.take()) == "x"


async def test_a_flood_of_urgent_ones_stops_nobody(queue: WriteQueue) -> None:
    for name in "ABCDE":
        queue.add(write(name, rows=TRANSACTION_ROWS), urgent=True)
    for name in "xyz":
        queue.add(write(name, rows=TRANSACTION_ROWS), urgent=False)
    assert [names(queue.take()) for _ in range(5)] == ["Ax", "By", "Cz", "D", "E"]


async def test_everything(queue: WriteQueue) -> None:
    for name in "aBc":
        queue.add(write(name), urgent=name.isupper())
    assert names(queue.take_all()) == "Bac"
    assert not queue


async def test_patient_ones_go_with_others_and_begin_nothing_until_their_patience_ends(queue: WriteQueue) -> None:
    over = asyncio.Event()
    queue.add_patient(write("p"), 3600, over.set)
    assert not queue
    queue.add(write("a"), urgent=False)
    assert names(queue.take()) == "ap"
    queue.end_patience()
    queue.add_patient(write("q"), 0.01, over.set)
    assert not queue  # an end of patience is of those that wait then
    async with asyncio.timeout(30):
        await over.wait()
    assert names(queue.take()) == "q"
    queue.add_patient(write("r"), 3600, over.set)
    queue.end_patience()
    assert len(queue) == 1
    assert names(queue.take_all()) == "r"
