import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from edgenode.api.sync.v1 import sync_pb2, sync_service_pb2
from edgenode.link.errors import Unavailable
from edgenode.link.model.lanes import Lane, Rejection
from edgenode.link.model.problem import Code, Problem
from edgenode.link.ports import Outbox
from edgenode.link.protocol.events import Acknowledge
from edgenode.link.wire.outgoing import Acknowledger, FrameQueue
from edgenode.link.wire.streams import Stream, joined

REJECTED = Problem(Code.INVALID_ARGUMENT, "NO", "no")


class Sink:
    """A stream that takes a message only when told to."""

    def __init__(self) -> None:
        self.messages: list[Sequence[bytes]] = []
        self.go = asyncio.Semaphore(0)

    async def write(self, frames: Sequence[bytes]) -> None:
        self.messages.append(frames)
        await self.go.acquire()


def ack(number: int, size: int = 0) -> sync_pb2.Frame:
    return sync_pb2.Frame(ack=sync_pb2.Ack(sequence=number, epoch="x" * size))


def notice() -> sync_pb2.Frame:
    return sync_pb2.Frame(notices=sync_pb2.NoticeBatch())


async def test_frames_that_wait_travel_together_up_to_the_bound() -> None:
    queue, sink = FrameQueue(1000), Sink()
    written: list[int] = []
    writer = asyncio.create_task(queue.write_to(cast("Stream", sink), written.append))
    queue.put(ack(1))
    await asyncio.sleep(0.01)
    assert [len(message) for message in sink.messages] == [1]
    for number in range(2, 6):
        queue.put(ack(number, 300))
    queue.put(ack(6, 5000))
    queue.put(ack(7))
    for _ in range(4):
        sink.go.release()
        await asyncio.sleep(0.01)
    sequences = [[sync_pb2.Frame.FromString(frame).ack.sequence for frame in message] for message in sink.messages]
    assert sequences == [[1], [2, 3, 4], [5], [6], [7]]
    assert written == [1, 3, 1, 1]
    assert len(queue) == 0
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer


def test_what_stands_around_frames_is_as_protobuf_writes_it() -> None:
    for sizes in ((), (0,), (1, 0, 200), (100_000, 3)):
        frames = [ack(number, size) for number, size in enumerate(sizes)]
        data = joined([frame.SerializeToString() for frame in frames])
        assert data == sync_service_pb2.SyncRequest(frames=frames).SerializeToString()
        assert data == sync_service_pb2.SyncResponse(frames=frames).SerializeToString()


async def test_best_effort_frames_are_counted_while_they_wait() -> None:
    queue, sink = FrameQueue(1000), Sink()
    for frame in (ack(1), notice(), notice()):
        queue.put(frame)
    assert (queue.carried, queue.carried_bytes) == (2, 2 * notice().ByteSize())
    writer = asyncio.create_task(queue.write_to(cast("Stream", sink), lambda count: None))
    await asyncio.sleep(0.01)
    assert (queue.carried, queue.carried_bytes) == (0, 0)
    writer.cancel()
    await asyncio.wait({writer})


class Log:
    """An outbox of which only `acknowledged` is used."""

    def __init__(self) -> None:
        self.calls: list[tuple[Lane, str, int, list[int]]] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def acknowledged(self, lane: Lane, epoch: str, sequence: int, rejections: Sequence[Rejection]) -> None:
        self.calls.append((lane, epoch, sequence, [rejection.sequence for rejection in rejections]))
        await self.go.wait()
        if self.error is not None:
            raise self.error


def acknowledge(sequence: int, *rejected: int, epoch: str = "e", lane: Lane = Lane.TASK) -> Acknowledge:
    return Acknowledge(lane, epoch, sequence, tuple(Rejection(number, REJECTED) for number in rejected))


async def test_acknowledgements_of_a_lane_are_stored_in_turn_and_keep_their_rejections() -> None:
    log = Log()
    acknowledger = Acknowledger(cast("Outbox", log))
    assert acknowledger.put(acknowledge(3, 2))
    storing = asyncio.create_task(acknowledger.store(Lane.TASK))
    await asyncio.sleep(0.01)
    for late in (acknowledge(5, 4), acknowledge(9, 7, 8), acknowledge(2, 1, epoch="f")):
        assert not acknowledger.put(late)
    assert acknowledger.put(acknowledge(1, lane=Lane.MESSAGE)), "another lane does not wait"
    log.go.set()
    await storing
    assert log.calls == [
        (Lane.TASK, "e", 3, [2]),
        (Lane.TASK, "e", 9, [4, 7, 8]),
        (Lane.TASK, "f", 2, [1]),
    ]
    assert acknowledger.put(acknowledge(10)), "nothing is being stored any more"


async def test_an_outbox_that_fails_is_told_to_the_caller() -> None:
    log = Log()
    log.error = cast("Any", Unavailable("STORE", "gone"))
    log.go.set()
    acknowledger = Acknowledger(cast("Outbox", log))
    acknowledger.put(acknowledge(3))
    with pytest.raises(Unavailable):
        await acknowledger.store(Lane.TASK)
    assert acknowledger.put(acknowledge(4))
