"""Frames on their way to an agent: what is in a hurry takes along what is not."""

import asyncio

from edgenode.api.task.v1 import task_service_pb2
from edgenode.node.work import FRAME_BYTES, FrameQueue


def confirm(queue: FrameQueue, task_id: str) -> None:
    queue.later(32).confirmations.add(task_id=task_id)


def ids(frame: task_service_pb2.WorkTasksResponse | None) -> list[str]:
    assert frame is not None
    return [key.task_id for key in frame.confirmations]


async def test_what_can_wait_goes_with_the_next_frame() -> None:
    queue = FrameQueue()
    taken = asyncio.ensure_future(queue.next())
    confirm(queue, "a")
    for _ in range(5):
        await asyncio.sleep(0)
    assert not taken.done()
    queue.open(64).cancels.add(task_id="b")
    frame = await taken
    assert ids(frame) == ["a"]
    assert frame is not None
    assert [key.task_id for key in frame.cancels] == ["b"]


async def test_alone_it_does_not_wait_long_and_nothing_follows() -> None:
    queue = FrameQueue()
    confirm(queue, "a")
    confirm(queue, "b")
    async with asyncio.timeout(5):
        assert ids(await queue.next()) == ["a", "b"]
    following = asyncio.ensure_future(queue.next())
    confirm(queue, "c")
    async with asyncio.timeout(5):
        assert ids(await following) == ["c"]


async def test_the_last_frame_takes_it_along() -> None:
    queue = FrameQueue()
    confirm(queue, "a")
    queue.close()
    assert ids(await queue.next()) == ["a"]
    assert await queue.next() is None


async def test_a_full_frame_is_followed_by_another() -> None:
    queue = FrameQueue()
    queue.open(FRAME_BYTES).confirmations.add(task_id="a")
    confirm(queue, "b")
    assert ids(await queue.next()) == ["a"]
    assert ids(await queue.next()) == ["b"]
