"""Frames on their way to an agent: what is in a hurry takes along what is not."""

import asyncio

from edgenode.api.task.v1 import task_service_pb2
from edgenode.node.turns import Turns
from edgenode.node.work import FRAME_BYTES, FrameQueue


def confirm(queue: FrameQueue, task_id: str) -> None:
    queue.later([task_service_pb2.AttemptKey(task_id=task_id)])


def ids(frame: task_service_pb2.WorkTasksResponse | None) -> list[str]:
    assert frame is not None
    return [key.task_id for key in frame.confirmations]


async def test_what_can_wait_goes_with_the_next_frame() -> None:
    queue = FrameQueue(Turns())
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
    queue = FrameQueue(Turns())
    confirm(queue, "a")
    confirm(queue, "b")
    async with asyncio.timeout(5):
        assert ids(await queue.next()) == ["a", "b"]
    following = asyncio.ensure_future(queue.next())
    confirm(queue, "c")
    async with asyncio.timeout(5):
        assert ids(await following) == ["c"]


async def test_the_last_frame_takes_it_along() -> None:
    queue = FrameQueue(Turns())
    confirm(queue, "a")
    queue.close()
    assert ids(await queue.next()) == ["a"]
    assert await queue.next() is None


async def test_a_full_frame_is_followed_by_another() -> None:
    queue = FrameQueue(Turns())
    queue.open(FRAME_BYTES).confirmations.add(task_id="a")
    queue.open(1).confirmations.add(task_id="b")
    assert ids(await queue.next()) == ["a"]
    assert ids(await queue.next()) == ["b"]


def cancel(queue: FrameQueue, task_id: str, *, prompt: bool = False) -> None:
    queue.open(64, prompt=prompt).cancels.add(task_id=task_id)


async def told(queue: FrameQueue) -> str:
    """What is cancelled in the next frame."""
    frame = await queue.next()
    assert frame is not None
    return "".join(key.task_id for key in frame.cancels)


async def test_what_is_prompt_goes_in_frames_of_its_own_before_the_others() -> None:
    queue = FrameQueue(Turns())
    queue.greet(task_service_pb2.WorkTasksResponse(attached=task_service_pb2.WorkAttached(node="n")))
    for name in "abc":
        cancel(queue, name)
    cancel(queue, "X", prompt=True)
    greeting = await queue.next()
    assert greeting is not None
    assert greeting.HasField("attached")
    assert [await told(queue) for _ in range(2)] == ["X", "abc"]


async def test_a_flood_of_prompt_ones_stops_nobody() -> None:
    queue = FrameQueue(Turns())
    cancel(queue, "a")
    for _ in range(3):  # it may leave now
        await asyncio.sleep(0)
    for name in "XYZ":
        queue.open(FRAME_BYTES, prompt=True).cancels.add(task_id=name)
    assert [await told(queue) for _ in range(4)] == ["X", "a", "Y", "Z"]


async def test_a_prompt_frame_does_not_take_gathering_ones_along() -> None:
    turns = Turns()
    queue = FrameQueue(turns)
    slices = [asyncio.create_task(turns.take(turns.size)) for _ in range(4)]
    await asyncio.sleep(0)
    cancel(queue, "a")
    cancel(queue, "X", prompt=True)
    assert await told(queue) == "X"
    following = asyncio.create_task(told(queue))
    await asyncio.sleep(0)
    cancel(queue, "b")
    await asyncio.gather(*slices)
    assert await following == "ab"
