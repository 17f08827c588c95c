"""The publishing side of a client: numbers messages, keeps them until they are acknowledged, sends them again.

Messages go straight into the frame that is forming; a frame, once sent, never changes, so that sending it again on a new
stream is the same bytes under the same numbers and the node stores it once. Acknowledgements are cumulative.

When the node does not know the producer any more (its store is new), it answers SEQUENCE_GAP. What is unacknowledged is
then not in that store, and goes again under a fresh producer id. When publishing is given up, the outcome of what was in
flight is unknown to us: those callers get the error, and later messages start a fresh producer as well.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from edgenode.api.message.v1 import message_service_pb2 as pb
from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.link.errors import EdgenodeError, InvalidArgument, ResourceExhausted, from_problem
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import Level
from edgenode.link.wire.values import problem_from_pb
from edgenode.sdk.encoding import MAX_MESSAGE_BYTES
from edgenode.sdk.window import Window

MAX_FRAME_COUNT = 1024
MAX_FRAME_BYTES = 256 * 1024
OVERHEAD = 32  # bytes a message takes beside its texts and payload, roughly
_WINDOW_COUNT = 32 * 1024
_WINDOW_BYTES = 16 * 1024 * 1024


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """A message is stored. (producer, sequence) names it; `epoch` is that of the node's log that holds it."""

    level: Level
    producer: str
    sequence: int
    epoch: str


class Waiter(Protocol):
    """Who waits for the outcome of one message: a future, or a place in a group."""

    def done(self) -> bool:
        """Whether it has its outcome, or does not want it any more."""
        ...

    def set_result(self, receipt: Receipt, /) -> None:
        """The message is stored."""
        ...

    def set_exception(self, error: EdgenodeError, /) -> None:
        """It is not, or nobody knows."""
        ...


class Group:
    """Messages whose outcomes are awaited together: in their order, `outcomes` has the receipt or error of each."""

    __slots__ = ("_future", "_left", "outcomes")

    def __init__(self, count: int) -> None:
        self.outcomes: list[Receipt | EdgenodeError | None] = [None] * count
        self._left = count
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, index: int, outcome: Receipt | EdgenodeError) -> None:
        """The outcome of one of them; the first one counts."""
        self.outcomes[index] = outcome
        self._left -= 1
        if not self._left and not self._future.done():
            self._future.set_result(None)

    def wants(self, index: int) -> bool:
        """Whether somebody still waits for the outcome of this one."""
        return self.outcomes[index] is None and not self._future.cancelled()

    async def settled(self, timeout: float | None = None) -> bool:
        """Wait for all of them, up to `timeout` seconds; whether all have their outcome. Who gives up wants none."""
        try:
            if self._left:
                await asyncio.wait([self._future], timeout=timeout)
        except asyncio.CancelledError:
            self._future.cancel()
            raise
        return not self._left


class Place:
    """One message of a group."""

    __slots__ = ("_group", "_index")

    def __init__(self, group: Group, index: int) -> None:
        self._group = group
        self._index = index

    def done(self) -> bool:
        """See Waiter."""
        return not self._group.wants(self._index)

    def set_result(self, receipt: Receipt) -> None:
        """See Waiter."""
        self._group.settle(self._index, receipt)

    def set_exception(self, error: EdgenodeError) -> None:
        """See Waiter."""
        self._group.settle(self._index, error)


class _Frame:
    """Messages sent together; `first` is the number of the first, `done` how many were acknowledged."""

    __slots__ = ("add", "done", "first", "hub", "request", "sealed", "size", "waiters")

    def __init__(self, first: int) -> None:
        self.first = first
        self.request = pb.PublishRequest(first_sequence=first)
        self.add = self.request.batch.messages.add
        self.waiters: list[Waiter] = []
        self.hub: set[int] = set()
        self.size = 0
        self.done = 0
        self.sealed = False  # sent once: what of it is sent again never changes

    def forget_acknowledged(self) -> None:
        """Begin with what is not acknowledged."""
        if self.done:
            del self.request.batch.messages[: self.done]
            del self.waiters[: self.done]
            self.first += self.done
            self.request.first_sequence = self.first
            self.hub = {number for number in self.hub if number >= self.first}
            self.done = 0


class Publisher:
    """A conversation (see streams) for MessageService.Publish. `mint` makes producer ids."""

    def __init__(self, mint: Callable[[], str]) -> None:
        self._mint = mint
        self._producer = mint()
        self._frames: deque[_Frame] = deque()  # unacknowledged, the forming one last
        self._unsent = 0  # how many of the last frames this stream has not seen
        self._next = 1
        self._acked = 0
        self._greeted = False
        self._wants_hub = False
        self._stream_has_hub = False
        self._answered_gap = False
        self._hub_waits: deque[tuple[int, Waiter]] = deque()
        self._local_enough: set[Waiter] = set()  # waited for the hub long enough
        self._problems: dict[int, Problem] = {}
        self._epoch = ""
        self.window = Window(_WINDOW_COUNT, _WINDOW_BYTES)
        self.new_future = asyncio.get_running_loop().create_future
        self.wake: Callable[[], None] = lambda: None
        self.restart: Callable[[], None] = lambda: None

    def publish(
        self,
        waiter: Waiter,
        topic: str,
        key: str,
        payload: bytes,
        content_type: str,
        headers: Mapping[str, str] | None,
        traceparent: str,
        hub: bool,
    ) -> None:
        """Adds a message for which room was taken in the window; `waiter` gets its receipt or error.

        Raises InvalidArgument (BAD_MESSAGE), after which its room is still to be given back.
        """
        size = len(payload) + OVERHEAD
        frames = self._frames
        frame = frames[-1] if self._unsent else None
        if (
            frame is None
            or frame.sealed
            or len(frame.waiters) >= MAX_FRAME_COUNT
            or frame.size + size > MAX_FRAME_BYTES
        ):
            frame = _Frame(self._next)
            frames.append(frame)
            self._unsent += 1
        message = frame.add()
        try:
            message.topic = topic
            message.payload = payload
            if key:
                message.key = key
            if content_type:
                message.content_type = content_type
            if headers:
                message.headers.update(headers)
            if traceparent:
                message.traceparent = traceparent
        except (TypeError, ValueError) as error:
            self._undo(frame)
            raise InvalidArgument("BAD_MESSAGE", str(error), hint="topic, key and headers are text") from error
        waiters = frame.waiters
        waiters.append(waiter)
        frame.size += size
        if hub:
            frame.hub.add(self._next)
            if not self._wants_hub:
                self._wants_hub = True
                self.restart()
        self._next += 1
        if len(waiters) == 1:
            self.wake()

    async def many(self, group: Group, places: Collection[Place], wait: float) -> None:
        """Wait for messages sent for the hub: after `wait` seconds the node alone is enough."""
        try:
            if not await group.settled(wait):
                self._settle_for_local([place for place in places if not place.done()])
                await group.settled()
        finally:
            self._local_enough.difference_update(places)

    def _settle_for_local(self, waiters: Sequence[Waiter]) -> None:
        left = set(waiters)
        for sequence, waiting in self._hub_waits:
            if waiting in left:
                left.discard(waiting)
                waiting.set_result(Receipt(Level.DURABLE_LOCAL, self._producer, sequence, self._epoch))
        self._local_enough |= left

    def _undo(self, frame: _Frame) -> None:
        messages = frame.request.batch.messages
        del messages[len(frame.waiters) :]
        if not frame.waiters:
            self._frames.pop()
            self._unsent -= 1

    # --- the conversation ---

    def opened(self) -> None:
        """See Conversation."""
        if self._frames:
            # What is acknowledged must not come first again: a node with a new store would take it for new.
            self._frames[0].forget_acknowledged()
        self._unsent = len(self._frames)
        self._greeted = False
        self._stream_has_hub = False

    def next_frame(self) -> pb.PublishRequest | None:
        """See Conversation."""
        if self._wants_hub and self._greeted and not self._stream_has_hub:
            return None  # about to be opened again
        if not self._unsent:
            return None if self._greeted or not self._hub_waits else self._greet(pb.PublishRequest())
        frame = self._frames[-self._unsent]
        self._unsent -= 1
        frame.sealed = True
        return frame.request if self._greeted else self._greet(frame.request)

    def _greet(self, request: pb.PublishRequest) -> pb.PublishRequest:
        self._greeted = True
        self._stream_has_hub = self._wants_hub
        first = pb.PublishRequest()
        first.CopyFrom(request)
        first.producer_id = self._producer
        first.first_sequence = request.first_sequence or self._next
        first.ack_level = (
            receipt_pb2.RECEIPT_LEVEL_DURABLE_HUB if self._wants_hub else receipt_pb2.RECEIPT_LEVEL_DURABLE_LOCAL
        )
        return first

    def received(self, frame: pb.PublishResponse) -> None:
        """See Conversation."""
        if frame.epoch:
            self._epoch = frame.epoch
        for rejection in frame.rejections:
            self._problems[rejection.sequence] = problem_from_pb(rejection.problem)
        if frame.durable_local_sequence > self._acked:
            self._answered_gap = False
            self._acknowledge(frame.durable_local_sequence)
        hub = frame.durable_hub_sequence
        while self._hub_waits and self._hub_waits[0][0] <= hub:
            sequence, waiter = self._hub_waits.popleft()
            if not waiter.done():
                waiter.set_result(Receipt(Level.DURABLE_HUB, self._producer, sequence, self._epoch))

    def _acknowledge(self, acked: int) -> None:
        """Tells everybody who waits for a message up to `acked`."""
        frames, producer, epoch, problems = self._frames, self._producer, self._epoch, self._problems
        level = Level.DURABLE_LOCAL
        count = size = 0
        while frames and frames[0].first + frames[0].done <= acked:
            frame = frames[0]
            waiters = frame.waiters
            end = min(len(waiters), acked - frame.first + 1)
            sequence = frame.first + frame.done
            simple = not problems and not frame.hub
            for waiter in waiters[frame.done : end] if frame.done or end < len(waiters) else waiters:
                if not waiter.done():
                    if simple:
                        waiter.set_result(Receipt(level, producer, sequence, epoch))
                    else:
                        self._settle(frame, sequence, waiter)
                sequence += 1
            count += end - frame.done
            if end < len(waiters):
                frame.done = end
                break
            size += frame.size
            frames.popleft()
            if len(frames) < self._unsent:
                self._unsent = len(frames)
        self._acked = acked
        if problems:
            self._problems = {key: value for key, value in problems.items() if key > acked}
        self.window.give(count, size)

    def _settle(self, frame: _Frame, sequence: int, waiter: Waiter) -> None:
        problem = self._problems.get(sequence)
        if problem is not None:
            waiter.set_exception(from_problem(problem))
        elif sequence in frame.hub and waiter not in self._local_enough:
            self._hub_waits.append((sequence, waiter))
        else:
            waiter.set_result(Receipt(Level.DURABLE_LOCAL, self._producer, sequence, self._epoch))

    def wanted(self) -> bool:
        """See Conversation."""
        while self._hub_waits and self._hub_waits[0][1].done():
            self._hub_waits.popleft()
        return bool(self._frames or self._hub_waits)

    def owed(self) -> bool:
        """See Conversation."""
        return len(self._frames) > self._unsent

    def broken(self, error: EdgenodeError) -> None:
        """See Conversation: everything unacknowledged goes again."""

    def recovers(self, error: EdgenodeError) -> bool:
        """See Conversation."""
        if error.reason != "SEQUENCE_GAP" or self._answered_gap:
            return False
        self._answered_gap = True
        self._restart_numbers()
        return True

    def _restart_numbers(self) -> None:
        """A fresh producer: what is unacknowledged is numbered from 1 again."""
        for sequence, waiter in self._hub_waits:
            if not waiter.done():  # stored here once; whether the hub has it cannot be learnt any more
                waiter.set_result(Receipt(Level.DURABLE_LOCAL, self._producer, sequence, self._epoch))
        self._hub_waits.clear()
        self._problems.clear()
        self._producer = self._mint()
        self._acked, self._next = 0, 1
        for frame in self._frames:
            frame.forget_acknowledged()
            hub = {number - frame.first for number in frame.hub}
            frame.first = frame.request.first_sequence = self._next
            frame.hub = {index + self._next for index in hub}
            self._next += len(frame.waiters)

    def failed(self, error: EdgenodeError) -> None:
        """See Conversation."""
        count = size = 0
        for frame in self._frames:
            for waiter in frame.waiters[frame.done :]:
                if not waiter.done():
                    waiter.set_exception(from_problem(error.problem))
            count += len(frame.waiters) - frame.done
            size += frame.size
        self._frames.clear()
        self._unsent = 0
        self._restart_numbers()
        self.window.give(count, size)

    def too_large(self, size: int) -> ResourceExhausted:
        """The refusal of a payload over the limit."""
        return ResourceExhausted(
            "MESSAGE_TOO_LARGE",
            f"the payload has {size} bytes",
            hint=f"at most {MAX_MESSAGE_BYTES}: publish a reference to the data instead",
            retryable=False,
            limit=MAX_MESSAGE_BYTES,
        )
