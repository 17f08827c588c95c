"""The order of writes, and what a transaction takes of them."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from edgenode.link.model.lanes import Lane
from edgenode.link.store.writes import TRANSACTION_BYTES, TRANSACTION_ROWS, Write, WriteQueue


@pytest.fixture
async def queue() -> WriteQueue:
    return WriteQueue()


def write(name: str, size: int = 0, rows: int = 1) -> Write[Any]:
    """A write, urgent if its name is in capitals."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    made: Write[Any] = Write(lambda _: None, future, size, rows, Lane.TASK, urgent=name.isupper())
    made.future.set_result(name)
    return made


def names(batch: list[Write[Any]]) -> str:
    return "".join(write.future.result() for write in batch)


async def test_in_order_and_urgent_ones_first_and_alone(queue: WriteQueue) -> None:
    for name in "aBcD":
        queue.add(write(name))
    assert len(queue) == 4
    assert [names(queue.take()) for _ in range(2)] == ["BD", "ac"]
    assert not queue


async def test_what_is_urgent_goes_along_and_what_made_room_before_what_came_later(queue: WriteQueue) -> None:
    for name in "abcd":
        queue.add(write(name, rows=TRANSACTION_ROWS // 4))
    begun = queue.take()
    queue.add(write("e"))
    queue.add(write("F"))
    with closing(sqlite3.connect(":memory:")) as connection:
        assert len(queue.run(connection, begun, along=True)) == 2
    assert names(begun) == "aF"
    queue.put_back()
    assert names(queue.take()) == "bcde"


@pytest.mark.parametrize(("size", "rows"), [(TRANSACTION_BYTES // 2, 1), (0, TRANSACTION_ROWS // 2)])
async def test_a_transaction_is_bounded(queue: WriteQueue, size: int, rows: int) -> None:
    for name in "abcde":
        queue.add(write(name, size, rows))
    assert [names(queue.take()) for _ in range(3)] == ["ab", "cd", "e"]
    queue.add(write("x", 10 * TRANSACTION_BYTES, 10 * TRANSACTION_ROWS))
    assert names(queue.take()) == "x"


async def test_a_flood_of_urgent_ones_stops_nobody(queue: WriteQueue) -> None:
    for name in "ABCDE":
        queue.add(write(name, rows=TRANSACTION_ROWS))
    for name in "xyz":
        queue.add(write(name, rows=TRANSACTION_ROWS))
    assert [names(queue.take()) for _ in range(6)] == ["A", "Bx", "C", "Dy", "E", "z"]


async def test_everything(queue: WriteQueue) -> None:
    for name in "aBc":
        queue.add(write(name))
    assert names(queue.take_all()) == "Bac"
    assert not queue


async def test_patient_ones_go_with_others_and_begin_nothing_until_their_patience_ends(queue: WriteQueue) -> None:
    over = asyncio.Event()
    queue.add_patient(write("p"), 3600, over.set)
    assert not queue
    queue.add(write("a"))
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
