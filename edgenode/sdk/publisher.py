"""The publishing side of a client: numbers messages, keeps them until they are acknowledged, sends them again.

Messages go straight into the frame that is forming; a frame, once sent, never changes, so that sending it again on a new
stream is the same bytes under the same numbers and the node stores it once. Acknowledgements are cumulative.

When the node does not know the producer any more (its store is new), it answers SEQUENCE_GAP. What is unacknowledged is
then not in that store, and goes again under a fresh producer id. When publishing is given up, the outcome of what was in
flight is unknown to us: those callers get the error, and later messages start a fresh producer as well.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, repeat
from typing import cast

import msgspec

from edgenode.api.message.v1 import message_pb2
from edgenode.api.message.v1 import message_service_pb2 as pb
from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.link.errors import EdgenodeError, InvalidArgument, ResourceExhausted, from_problem
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import Level
from edgenode.link.wire.message_runs import MessageRun
from edgenode.link.wire.values import problem_from_pb
from edgenode.sdk.encoding import MAX_MESSAGE_BYTES
from edgenode.sdk.window import Window

MAX_FRAME_COUNT = 1024
MAX_FRAME_BYTES = 256 * 1024
OVERHEAD = 32  # bytes a message takes beside its texts and payload, roughly
TOLD_AT_ONCE = 128  # waiters in a turn of the event loop: see `Publisher._tell_more`
_WINDOW_COUNT = 32 * 1024
_WINDOW_BYTES = 16 * 1024 * 1024


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """A message is stored. (producer, sequence) names it; `epoch` is that of the node's log that holds it."""

    level: Level
    producer: str
    sequence: int
    epoch: str


class Group:
    """Messages whose outcomes are awaited together. With `hub`, each is to reach the hub, as long as somebody waits."""

    __slots__ = ("_failed_at", "_failure", "_future", "_left", "_receipts", "hub")

    def __init__(self, count: int, *, hub: bool = False) -> None:
        self.hub = hub
        self._receipts: list[Receipt | None] = [None] * count
        self._failure: EdgenodeError | None = None
        self._failed_at = count
        self._left = count
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits any more."""
        return self._future.cancelled()

    def stored(self, start: int, receipts: Sequence[Receipt]) -> None:
        """Those from the `start`-th on are stored. An outcome is told once."""
        self._receipts[start : start + len(receipts)] = receipts
        self._told(len(receipts))

    def failed(self, start: int, count: int, error: EdgenodeError) -> None:
        """So many from the `start`-th on are not, or nobody knows."""
        if start < self._failed_at:
            self._failed_at, self._failure = start, error
        self._told(count)

    def _told(self, count: int) -> None:
        self._left -= count
        if not self._left and not self._future.done():
            self._future.set_result(None)

    async def settled(self, timeout: float | None = None) -> bool:
        """Wait for all of them, up to `timeout` seconds; whether all have their outcome. Who gives up wants none."""
        try:
            if self._left:
                await asyncio.wait([self._future], timeout=timeout)
        except asyncio.CancelledError:
            self._future.cancel()
            raise
        return not self._left

    def receipts(self) -> list[Receipt]:
        """Of all, in their order, once they are settled. Raises the error of the first that has one."""
        if self._failure is not None:
            raise self._failure
        return cast("list[Receipt]", self._receipts)


class _Singles:
    """Messages in a row of which each is awaited by itself, never for the hub."""

    __slots__ = ("waiters",)
    group = None

    def __init__(self, waiters: list[asyncio.Future[Receipt]]) -> None:
        self.waiters = waiters

    def __len__(self) -> int:
        return len(self.waiters)

    def take(self, count: int) -> _Singles:
        taken = _Singles(self.waiters[:count])
        del self.waiters[:count]
        return taken

    def stored(self, level: Level, producer: str, sequence: int, epoch: str) -> None:
        numbers = range(sequence, sequence + len(self.waiters))
        receipts = map(Receipt, repeat(level), repeat(producer), numbers, repeat(epoch))
        for waiter, receipt in zip(self.waiters, receipts, strict=True):
            if not waiter.done():
                waiter.set_result(receipt)

    def failed(self, problem: Problem) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(from_problem(problem))


class _Share:
    """Messages in a row that belong to a group: `count` from the `start`-th on."""

    __slots__ = ("count", "group", "start")

    def __init__(self, group: Group, start: int, count: int) -> None:
        self.group = group
        self.start = start
        self.count = count

    def __len__(self) -> int:
        return self.count

    def take(self, count: int) -> _Share:
        taken = _Share(self.group, self.start, count)
        self.start += count
        self.count -= count
        return taken

    def stored(self, level: Level, producer: str, sequence: int, epoch: str) -> None:
        numbers = range(sequence, sequence + self.count)
        self.group.stored(self.start, list(map(Receipt, repeat(level), repeat(producer), numbers, repeat(epoch))))

    def failed(self, problem: Problem) -> None:
        self.group.failed(self.start, self.count, from_problem(problem))


class _Frame:
    """Messages sent together; `first` is the number of the first, `done` how many were acknowledged."""

    __slots__ = ("add", "count", "done", "first", "request", "runs", "sealed", "size", "waiters")

    def __init__(self, first: int) -> None:
        self.first = first
        self.request = pb.PublishRequest(first_sequence=first)
        self.add = self.request.batch.messages.add
        self.runs: deque[_Singles | _Share] = deque()  # who waits for what is not acknowledged, in order
        self.waiters: list[asyncio.Future[Receipt]] = []  # of the last of them, when it is of singles
        self.count = 0
        self.size = 0
        self.done = 0
        self.sealed = False  # sent once: what of it is sent again never changes

    def add_share(self, batch: bytes, share: _Share) -> None:
        """Messages of a group, serialised."""
        self.request.batch.MergeFromString(batch)
        self.count += share.count
        self.runs.append(share)
        self.waiters = []

    def take(self, count: int) -> Iterator[_Singles | _Share]:
        """Who waits for the next so many, which are acknowledged."""
        self.done += count
        while count:
            run = self.runs.popleft()
            if len(run) > count:
                self.runs.appendleft(run)
                run = run.take(count)
            count -= len(run)
            if not self.runs:
                self.waiters = []
            yield run

    def forget_acknowledged(self) -> None:
        """Begin with what is not acknowledged."""
        if self.done:
            del self.request.batch.messages[: self.done]
            self.count -= self.done
            self.first += self.done
            self.request.first_sequence = self.first
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
        self._hub_waits: deque[tuple[int, _Share]] = deque()  # with the number of the first
        self._problems: dict[int, Problem] = {}
        self._epoch = ""
        self._telling: deque[tuple[_Singles, str, int, str]] = deque()  # stored, with producer, first number and epoch
        self._loop = asyncio.get_running_loop()
        self.window = Window(_WINDOW_COUNT, _WINDOW_BYTES)
        self.new_future = self._loop.create_future
        self.wake: Callable[[], None] = lambda: None
        self.restart: Callable[[], None] = lambda: None

    def publish(
        self,
        waiter: asyncio.Future[Receipt],
        topic: str,
        key: str,
        payload: bytes,
        content_type: str,
        headers: Mapping[str, str] | None,
        traceparent: str,
    ) -> None:
        """Adds a message for which room was taken in the window; `waiter` gets its receipt or error.

        Raises InvalidArgument (BAD_MESSAGE), after which its room is still to be given back.
        """
        size = len(payload) + OVERHEAD
        frame = self._frames[-1] if self._unsent else None
        if frame is None or frame.sealed or frame.count >= MAX_FRAME_COUNT or frame.size + size > MAX_FRAME_BYTES:
            frame = self._begin_frame()
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
            raise _bad_message(error) from error
        waiters = frame.waiters
        if not waiters:
            frame.runs.append(_Singles(waiters))
        waiters.append(waiter)
        frame.size += size
        frame.count += 1
        self._next += 1
        if frame.count == 1:
            self.wake()

    async def publish_run(self, group: Group, start: int, run: MessageRun, payloads: Sequence[bytes]) -> None:
        """Adds messages of a group, from its `start`-th on, as the window has room for them."""
        ends = list(accumulate(map(OVERHEAD.__add__, map(len, payloads)), initial=0))
        first = 0
        while first < len(payloads):
            last = max(_fitting(ends, first, MAX_FRAME_COUNT, MAX_FRAME_BYTES), first + 1)
            await self.window.wait(ends[last] - ends[first], last - first)
            if group.hub and not self._wants_hub:
                self._wants_hub = True
                self.restart()
            while first < last:
                frame = self._frames[-1] if self._unsent else None
                until = first
                if frame is not None and not frame.sealed:
                    until = _fitting(ends, first, MAX_FRAME_COUNT - frame.count, MAX_FRAME_BYTES - frame.size)
                if frame is None or until == first:
                    frame, until = self._begin_frame(), last
                until = min(until, last)
                frame.add_share(run.batch(payloads[first:until]), _Share(group, start + first, until - first))
                frame.size += ends[until] - ends[first]
                self._next += until - first
                if frame.count == until - first:
                    self.wake()
                first = until

    async def many(self, group: Group, wait: float) -> None:
        """Wait for messages sent for the hub: after `wait` seconds the node alone is enough."""
        if not await group.settled(wait):
            group.hub = False
            waits, self._hub_waits = self._hub_waits, deque()
            for sequence, share in waits:
                self._stored(sequence, share)
            await group.settled()

    def _begin_frame(self) -> _Frame:
        frame = _Frame(self._next)
        self._frames.append(frame)
        self._unsent += 1
        return frame

    def _undo(self, frame: _Frame) -> None:
        messages = frame.request.batch.messages
        del messages[frame.count :]
        if not frame.count:
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
        if self._telling and self._unsent == 1 and not frame.sealed:
            return None  # it is forming, and those who are being told add to it
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
            first, share = self._hub_waits.popleft()
            reached = min(len(share), hub - first + 1)
            if reached < len(share):
                self._hub_waits.appendleft((first + reached, share))
                share = share.take(reached)
            share.stored(Level.DURABLE_HUB, self._producer, first, self._epoch)

    def _acknowledge(self, acked: int) -> None:
        """Tells everybody who waits for a message up to `acked`."""
        frames = self._frames
        count = size = 0
        while frames and (number := frames[0].first + frames[0].done) <= acked:
            frame = frames[0]
            reached = min(frame.count - frame.done, acked - number + 1)
            count += reached
            for run in frame.take(reached):
                length = len(run)
                self._tell(number, run)
                number += length
            if frame.done < frame.count:
                break
            size += frame.size
            frames.popleft()
            if len(frames) < self._unsent:
                self._unsent = len(frames)
        self._acked = acked
        if self._problems:
            self._problems = {key: value for key, value in self._problems.items() if key > acked}
        self.window.give(count, size)

    def _tell(self, number: int, run: _Singles | _Share) -> None:
        """The node has those from `number` on, but for those that it refused."""
        if self._problems:
            for refused in sorted(key for key in self._problems if number <= key < number + len(run)):
                self._stored(number, run.take(refused - number))
                run.take(1).failed(self._problems[refused])
                number = refused + 1
        self._stored(number, run)

    def _stored(self, number: int, run: _Singles | _Share) -> None:
        if isinstance(run, _Share) and run.group.hub:
            if run.count:
                self._hub_waits.append((number, run))
        elif isinstance(run, _Singles) and (self._telling or len(run) > TOLD_AT_ONCE):
            self._telling.append((run, self._producer, number, self._epoch))
            if len(self._telling) == 1:
                self._tell_more()
        else:
            run.stored(Level.DURABLE_LOCAL, self._producer, number, self._epoch)

    def _tell_more(self) -> None:
        """Tells some of those whose messages are stored; more in the next turn of the event loop.

        A waiter that is told is a callback of the loop until that has come by, which the garbage collector counts: a frame's
        thousand at once make it look at thousands who wait, several times.
        """
        left = TOLD_AT_ONCE
        while self._telling and left:
            run, producer, number, epoch = self._telling.popleft()
            if len(run) > left:
                self._telling.appendleft((run, producer, number + left, epoch))
                run = run.take(left)
            left -= len(run)
            run.stored(Level.DURABLE_LOCAL, producer, number, epoch)
        if self._telling:
            self._loop.call_soon(self._tell_more)
        elif self._unsent:
            self.wake()

    def wanted(self) -> bool:
        """See Conversation."""
        while self._hub_waits and self._hub_waits[0][1].group.abandoned:
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
        for sequence, share in self._hub_waits:  # stored here once; whether the hub has it cannot be learnt any more
            share.stored(Level.DURABLE_LOCAL, self._producer, sequence, self._epoch)
        self._hub_waits.clear()
        self._problems.clear()
        self._producer = self._mint()
        self._acked, self._next = 0, 1
        for frame in self._frames:
            frame.forget_acknowledged()
            frame.first = frame.request.first_sequence = self._next
            self._next += frame.count

    def failed(self, error: EdgenodeError) -> None:
        """See Conversation."""
        while self._telling:
            self._tell_more()
        count = size = 0
        for frame in self._frames:
            left = frame.count - frame.done
            for run in frame.take(left):
                run.failed(error.problem)
            count += left
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


def _fitting(ends: Sequence[int], first: int, count: int, size: int) -> int:
    """Behind the last of the items from `first` on of which at most `count` have at most `size` bytes together."""
    return max(first, min(bisect_right(ends, ends[first] + size) - 1, first + count))


def _bad_message(error: Exception) -> InvalidArgument:
    return InvalidArgument("BAD_MESSAGE", str(error), hint="topic, key and headers are text")


def message_run(
    topic: str, key: str, content_type: str, headers: Mapping[str, str] | None, traceparent: str
) -> MessageRun:
    """What writes messages that have these in common. Raises InvalidArgument (BAD_MESSAGE)."""
    try:
        return MessageRun(
            message_pb2.Message(
                topic=topic, key=key, content_type=content_type, headers=headers, traceparent=traceparent
            )
        )
    except (TypeError, ValueError) as error:
        raise _bad_message(error) from error
