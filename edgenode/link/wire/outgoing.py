"""What a session sends and stores on its way out: frames to the writer, acknowledgements to the outbox."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.failpoints import Failpoint, reach, watching
from edgenode.link.model.frames import Carried
from edgenode.link.model.lanes import Lane
from edgenode.link.ports import Outbox
from edgenode.link.protocol.events import Acknowledge
from edgenode.link.wire.streams import Stream

_CARRIED = frozenset(str(kind) for kind in Carried)
_SENT = ((Failpoint.BATCH_SENT, "batch"), (Failpoint.ACK_SENT, "ack"))


class FrameQueue:
    """Frames on their way to the stream. Those that wait travel together, up to `message_bytes` (one frame may be more).

    They are serialised once, as they come: to ask a message for its size protobuf serialises it as well.
    """

    def __init__(self, message_bytes: int) -> None:
        self._message_bytes = message_bytes
        self._frames: deque[tuple[str | None, bytes]] = deque()  # kind of each, serialised
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self.carried = self.carried_bytes = 0  # best-effort frames that wait

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: sync_pb2.Frame) -> None:
        """Queues `frame`."""
        kind, data = frame.WhichOneof("frame"), frame.SerializeToString()
        if kind in _CARRIED:
            self.carried += 1
            self.carried_bytes += len(data)
        self._frames.append((kind, data))
        self._filled.set()
        self._drained.clear()

    async def write_to(self, stream: Stream, written: Callable[[int], None]) -> None:
        """Writes for ever, calling `written(count)` after each message that the transport took."""
        while True:
            await self._filled.wait()
            frames = self._take()
            await stream.write([data for _, data in frames])
            _reach_sent([kind for kind, _ in frames])
            if not self._frames:
                self._drained.set()
            written(len(frames))

    async def drained(self, timeout: float) -> None:
        """Returns when everything was written, or `timeout` seconds have passed."""
        try:
            await asyncio.wait_for(self._drained.wait(), timeout)
        except TimeoutError:
            return

    def _take(self) -> list[tuple[str | None, bytes]]:
        frames: list[tuple[str | None, bytes]] = []
        room = self._message_bytes
        while self._frames and (not frames or len(self._frames[0][1]) <= room):
            kind, data = self._frames.popleft()
            room -= len(data)
            frames.append((kind, data))
            if kind in _CARRIED:
                self.carried -= 1
                self.carried_bytes -= len(data)
        if not self._frames:
            self._filled.clear()
        return frames


def _reach_sent(kinds: Sequence[str | None]) -> None:
    for point, kind in _SENT:
        if watching(point) and kind in kinds:
            reach(point)


class Acknowledger:
    """Stores acknowledgements lane by lane, one after the other: a later one would hide the rejections of an earlier.

    Those that come while one is being stored become one.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: dict[Lane, list[Acknowledge]] = {}

    def put(self, acknowledge: Acknowledge) -> bool:
        """Queues it; True asks the caller to run `store(lane)`."""
        waiting = self._waiting.get(acknowledge.lane)
        if waiting is not None:
            waiting.append(acknowledge)
            return False
        self._waiting[acknowledge.lane] = [acknowledge]
        return True

    async def store(self, lane: Lane) -> None:
        """Stores what waits for `lane` until nothing does. Raises what the outbox raises."""
        try:
            while waiting := self._waiting[lane]:
                epoch = waiting[0].epoch
                same = [item for item in waiting if item.epoch == epoch]
                self._waiting[lane] = [item for item in waiting if item.epoch != epoch]
                rejections = [rejection for item in same for rejection in item.rejections]
                await self._outbox.acknowledged(lane, epoch, max(item.sequence for item in same), rejections)
        finally:
            del self._waiting[lane]
