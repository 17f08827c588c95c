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
from collections.abc import Callable, Mapping
from typing import NamedTuple

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
_OVERHEAD = 32  # bytes a message takes beside its texts and payload, roughly
_WINDOW_COUNT = 32 * 1024
_WINDOW_BYTES = 16 * 1024 * 1024


class Receipt(NamedTuple):
    """A message is stored. (producer, sequence) names it; `epoch` is that of the node's log that holds it."""

    level: Level
    producer: str
    sequence: int
    epoch: str


class _Frame:
    """Messages sent together; `first` is the number of the first, `done` how many were acknowledged."""

    __slots__ = ("add", "done", "first", "futures", "hub", "request", "sealed", "size")

    def __init__(self, first: int) -> None:
        self.first = first
        self.request = pb.PublishRequest(first_sequence=first)
        self.add = self.request.batch.messages.add
        self.futures: list[asyncio.Future[Receipt]] = []
        self.hub: set[int] = set()
        self.size = 0
        self.done = 0
        self.sealed = False  # sent once: what of it is sent again never changes

    def forget_acknowledged(self) -> None:
        """Begin with what is not acknowledged."""
        if self.done:
            del self.request.batch.messages[: self.done]
            del self.futures[: self.done]
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
        self._hub_waits: deque[tuple[int, asyncio.Future[Receipt]]] = deque()
        self._local_enough: set[asyncio.Future[Receipt]] = set()  # waited for the hub long enough
        self._problems: dict[int, Problem] = {}
        self._epoch = ""
        self.window = Window(_WINDOW_COUNT, _WINDOW_BYTES)
        self.wake: Callable[[], None] = lambda: None
        self.restart: Callable[[], None] = lambda: None

    def publish(
        self,
        topic: str,
        key: str,
        payload: bytes,
        content_type: str,
        headers: Mapping[str, str] | None,
        traceparent: str,
        hub: bool,
    ) -> asyncio.Future[Receipt]:
        """Adds a message for which room was taken in the window; the future ends with its receipt or error."""
        size = len(payload) + _OVERHEAD
        frames = self._frames
        frame = frames[-1] if self._unsent else None
        if (
            frame is None
            or frame.sealed
            or len(frame.futures) >= MAX_FRAME_COUNT
            or frame.size + size > MAX_FRAME_BYTES
        ):
            frame = _Frame(self._next)
            frames.append(frame)
            self._unsent += 1
        messages = frame.add
        try:
            if content_type or headers or traceparent:
                messages(
                    topic=topic,
                    key=key,
                    payload=payload,
                    content_type=content_type,
                    headers=headers,
                    traceparent=traceparent,
                )
            else:
                messages(topic=topic, key=key, payload=payload)
        except (TypeError, ValueError) as error:
            self._undo(frame)
            self.window.give(1, size)
            raise InvalidArgument("BAD_MESSAGE", str(error), hint="topic, key and headers are text") from error
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        frame.futures.append(future)
        frame.size += size
        if hub:
            frame.hub.add(self._next)
            if not self._wants_hub:
                self._wants_hub = True
                self.restart()
        self._next += 1
        if len(frame.futures) == 1:
            self.wake()
        return future

    async def hub_receipt(
        self,
        topic: str,
        key: str,
        payload: bytes,
        content_type: str,
        headers: Mapping[str, str] | None,
        traceparent: str,
        wait: float,
    ) -> Receipt:
        """Publishes and waits up to `wait` seconds for the hub, after that for the node alone."""
        future = self.publish(topic, key, payload, content_type, headers, traceparent, hub=True)
        try:
            await asyncio.wait([future], timeout=wait)
            if not future.done():
                self._settle_for_local(future)
            return await future
        except asyncio.CancelledError:
            future.cancel()
            raise
        finally:
            self._local_enough.discard(future)

    def _settle_for_local(self, future: asyncio.Future[Receipt]) -> None:
        for sequence, waiting in self._hub_waits:
            if waiting is future:
                future.set_result(Receipt(Level.DURABLE_LOCAL, self._producer, sequence, self._epoch))
                return
        self._local_enough.add(future)

    def _undo(self, frame: _Frame) -> None:
        messages = frame.request.batch.messages
        del messages[len(frame.futures) :]
        if not frame.futures:
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
            sequence, future = self._hub_waits.popleft()
            if not future.done():
                future.set_result(Receipt(Level.DURABLE_HUB, self._producer, sequence, self._epoch))

    def _acknowledge(self, acked: int) -> None:
        """Ends the futures of everything up to `acked`."""
        frames, producer, epoch, problems = self._frames, self._producer, self._epoch, self._problems
        level = Level.DURABLE_LOCAL
        count = size = 0
        while frames and frames[0].first + frames[0].done <= acked:
            frame = frames[0]
            futures = frame.futures
            end = min(len(futures), acked - frame.first + 1)
            sequence = frame.first + frame.done
            simple = not problems and not frame.hub
            for future in futures[frame.done : end] if frame.done or end < len(futures) else futures:
                if not future.done():
                    if simple:
                        future.set_result(Receipt(level, producer, sequence, epoch))
                    else:
                        self._settle(frame, sequence, future)
                sequence += 1
            count += end - frame.done
            if end < len(futures):
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

    def _settle(self, frame: _Frame, sequence: int, future: asyncio.Future[Receipt]) -> None:
        problem = self._problems.get(sequence)
        if problem is not None:
            future.set_exception(from_problem(problem))
        elif sequence in frame.hub and future not in self._local_enough:
            self._hub_waits.append((sequence, future))
        else:
            future.set_result(Receipt(Level.DURABLE_LOCAL, self._producer, sequence, self._epoch))

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
        for sequence, future in self._hub_waits:
            if not future.done():  # stored here once; whether the hub has it cannot be learnt any more
                future.set_result(Receipt(Level.DURABLE_LOCAL, self._producer, sequence, self._epoch))
        self._hub_waits.clear()
        self._problems.clear()
        self._producer = self._mint()
        self._acked, self._next = 0, 1
        for frame in self._frames:
            frame.forget_acknowledged()
            hub = {number - frame.first for number in frame.hub}
            frame.first = frame.request.first_sequence = self._next
            frame.hub = {index + self._next for index in hub}
            self._next += len(frame.futures)

    def failed(self, error: EdgenodeError) -> None:
        """See Conversation."""
        count = size = 0
        for frame in self._frames:
            for future in frame.futures[frame.done :]:
                if not future.done():
                    future.set_exception(from_problem(error.problem))
            count += len(frame.futures) - frame.done
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
