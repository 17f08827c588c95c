"""What the line does when a node is silent, broken or wrong, and the window in front of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edgenode.api.task.v1 import task_service_pb2 as tpb
from edgenode.link.errors import EdgenodeError, Internal, PermissionDenied, Unavailable
from edgenode.link.wire.status import abort
from edgenode.sdk.client import Client
from edgenode.sdk.streams import pause
from edgenode.sdk.window import Window
from tests.unit.sdk.fakes import FakeNode, fake_node


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    async with fake_node() as node:
        yield node


async def test_a_node_that_owes_an_answer_for_too_long_is_left(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgenode.sdk.client.SILENCE_TIMEOUT", 0.1)
    node.tasks.mute = True
    async with Client(socket=node.socket, connect_timeout=0.3) as client:
        with pytest.raises(Unavailable) as caught:
            await client.submit("echo", 1)
        assert caught.value.reason == "UNREACHABLE"
        ids = {submission.request_id for submission in node.tasks.submissions}
        assert len(ids) == 1 < len(node.tasks.submissions)
        node.tasks.mute = False
        assert await client.call("echo", 2) == 2


async def broken_frames(node: FakeNode, error: Exception) -> list[int]:
    """Makes SubmitTasks fail on every frame; counts the frames."""
    frames: list[int] = []

    async def submit(request_iterator: Any, context: Any) -> AsyncIterator[tpb.SubmitTasksResponse]:
        async for _ in request_iterator:
            frames.append(1)
            if isinstance(error, EdgenodeError):
                await abort(context, error)
            raise error
        yield tpb.SubmitTasksResponse()

    await node.stop()
    node.tasks.SubmitTasks = submit  # type: ignore[method-assign]
    await node.start()
    return frames


async def test_a_refusal_of_the_stream_is_final(node: FakeNode) -> None:
    frames = await broken_frames(node, PermissionDenied("NOT_YOURS", "no"))
    async with Client(socket=node.socket) as client:
        with pytest.raises(PermissionDenied):
            await client.submit("echo", 1)
    assert len(frames) == 1


async def test_a_refusal_that_meets_a_write_is_still_the_refusal(node: FakeNode) -> None:
    """What is still being written then fails, for which grpc.aio puts INTERNAL in the place of the status."""
    frames = await broken_frames(node, PermissionDenied("NOT_YOURS", "no", hint="ask for it"))
    async with Client(socket=node.socket) as client:
        large = [
            client.submit("echo", bytes(250_000)) for _ in range(100)
        ]  # one a frame, more than a stream has room for
        errors = await asyncio.gather(*large, return_exceptions=True)
    assert {type(error) for error in errors} == {PermissionDenied}
    assert {error.problem.reason for error in errors if isinstance(error, EdgenodeError)} == {"NOT_YOURS"}
    assert {error.problem.hint for error in errors if isinstance(error, EdgenodeError)} == {"ask for it"}
    assert len(frames) == 1


async def test_a_frame_that_breaks_the_node_is_not_sent_for_ever(node: FakeNode) -> None:
    frames = await broken_frames(node, Internal("INTERNAL_ERROR", "a defect"))
    async with Client(socket=node.socket) as client:
        with pytest.raises(Internal):
            await client.submit("echo", 1)
    assert len(frames) == 3


def test_pauses_grow_and_stay_bounded() -> None:
    rng = random.Random(1)
    longest = [max(pause(attempt, rng) for _ in range(300)) for attempt in (0, 3, 10, 10_000)]
    assert 0.04 < longest[0] <= 0.05
    assert 0.3 < longest[1] <= 0.4
    assert 1.8 < longest[2] <= 2.0
    assert longest[3] <= 2.0


async def test_the_window_lets_in_by_order_of_arrival() -> None:
    window, order = Window(2, 100), []

    async def enter(name: str, size: int) -> None:
        await window.wait(size)
        order.append(name)

    await enter("a", 60)
    tasks = [asyncio.create_task(enter(name, size)) for name, size in (("b", 60), ("c", 1), ("d", 1))]
    await asyncio.sleep(0)
    assert not window.take(1)  # c would fit, but b was first
    assert order == ["a"]
    window.give(1, 60)
    await asyncio.wait(tasks[:2], timeout=5)
    assert order == ["a", "b", "c"]
    window.give(1, 60)
    await asyncio.wait(tasks, timeout=5)
    assert order == ["a", "b", "c", "d"]


async def test_a_waiter_who_gives_up_takes_no_room() -> None:
    window = Window(1, 100)
    assert window.take(1000)  # one large item fits into an empty window
    first, second = asyncio.create_task(window.wait(1)), asyncio.create_task(window.wait(1))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    window.give(1, 1000)
    await asyncio.wait_for(second, 5)
    third = asyncio.create_task(window.wait(1))
    await asyncio.sleep(0)
    window.give(1, 1)
    third.cancel()  # woken and cancelled in the same turn
    await asyncio.wait([third])
    assert window.take(1)
