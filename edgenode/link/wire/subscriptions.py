"""One Subscribe stream over any log of message segments; edges and hubs give it a `MessageSource`.

A reader takes credits and acknowledgements; a writer reads the log in bounded chunks, passes over what does not match, and
sends at most as many messages as there are credits. It is woken by appends, credits and acknowledgements; nothing polls.
A subscriber that has closed its side gets what there is, as far as its credits go, and then the end.

Acknowledgements of a durable subscription are committed one write at a time: those that come meanwhile are merged. When
everything that was sent is acknowledged, what was passed over after it counts as acknowledged, too, so that a subscription
whose topics are rare holds nothing back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import DecodeError

from edgenode.api.message.v1 import message_pb2, message_service_pb2
from edgenode.link.errors import AlreadyExists, EdgenodeError, InvalidArgument
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.lanes import Chunk, Segment
from edgenode.link.model.names import check_name, topic_matcher
from edgenode.link.wire import checks
from edgenode.link.wire.status import Context
from edgenode.link.wire.values import timestamp_to_pb

CHUNK_COUNT = 1024
CHUNK_BYTES = 1024 * 1024
FRAME_COUNT = 1024
FRAME_BYTES = 1024 * 1024
# How much may be passed over before a subscriber that gets nothing is told where it stands.
SCAN_NOTICE = 4096
MAX_TOPICS = 64
_MAX_KNOWN_TOPICS = 4096

_log = logging.getLogger(__name__)

Request = message_service_pb2.SubscribeRequest
Response = message_service_pb2.SubscribeResponse


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of a log; `last` is the newest position it had when read, `epoch` that of segments that name none.

    `gap_reason` says why entries before the chunk are not there.
    """

    chunk: Chunk
    last: int
    epoch: str
    gap_reason: str = "RETENTION"


class MessageSource(Protocol):
    """A log of messages with durable subscriptions."""

    @property
    def node(self) -> str:
        """Origin of segments that name none."""
        ...

    async def attach(self, subscription: str, position: int, after: int) -> int:
        """The position to go on after; `subscription` empty for one that lives as long as the stream.

        Raises AlreadyExists (SUBSCRIPTION_IN_USE), InvalidArgument (BAD_CURSOR).
        """
        ...

    def detach(self, subscription: str) -> None:
        """The stream is over; another may take the subscription."""
        ...

    async def read(self, after: int, max_count: int, max_bytes: int) -> Stretch:
        """Whole segments with entries past `after`."""
        ...

    async def acknowledge(self, subscription: str, sequence: int) -> None:
        """Everything up to `sequence` is dealt with; returns once that is durable."""
        ...

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake()` on the loop after each append."""
        ...

    def unlisten(self, wake: Callable[[], None]) -> None:
        """Do not call it any more."""
        ...


@dataclass(slots=True)
class _Item:
    """What is to be sent: a message at `position`, or a gap up to there. `size` in bytes."""

    position: int
    size: int
    message: message_pb2.ReceivedMessage | None
    gap: message_service_pb2.MessageGap | None = None


def start_after(position: int, after: int, first: int, last: int) -> int:
    """Where a subscription that is not known yet begins in a log that holds `first` to `last`.

    Raises InvalidArgument (BAD_CURSOR).
    """
    if position == message_service_pb2.START_POSITION_START:
        return first - 1
    if position != message_service_pb2.START_POSITION_CURSOR:
        return last
    if after > last:
        raise InvalidArgument(
            "BAD_CURSOR",
            f"start.after_sequence is {after}, the log ends at {last}",
            hint="the log may have been made anew: begin with START",
            field="start.after_sequence",
            last_sequence=last,
        )
    return after


def subscription_in_use(subscription: str) -> AlreadyExists:
    """The error for a second stream."""
    return AlreadyExists(
        "SUBSCRIPTION_IN_USE",
        f"another stream holds the subscription {subscription}",
        hint="end it first, or choose another name",
        subscription=subscription,
    )


class SubscribeStream:
    """`run()` serves the stream to its end."""

    def __init__(self, source: MessageSource, requests: AsyncIterator[Request], context: Context) -> None:
        self._source = source
        self._requests = requests
        self._context = context
        self._wake = asyncio.Event()
        self._failure: Exception | None = None
        self._read_all = False
        self._name = ""
        self._matcher: re.Pattern[str] = re.compile("")
        self._topics: dict[str, bool] = {}
        self._credits = 0
        self._ready: deque[_Item] = deque()
        self._read_to = 0  # everything up to here was read from the log
        self._scanned = 0  # everything up to here was sent or passed over
        self._told = 0  # the scanned position the subscriber knows
        self._sent = 0  # position of the newest message sent
        self._acked = 0  # what the subscriber acknowledged
        self._stored = 0  # what of it is durable
        self._acker: asyncio.Task[None] | None = None
        self._caught_up = False

    async def run(self) -> None:
        """Raises what ends the stream."""
        first = await anext(aiter(self._requests), None)
        if first is None:
            return
        start = self._check_start(first)
        cursor = await self._source.attach(self._name, start.position, start.after_sequence)
        self._read_to = self._scanned = self._told = self._sent = self._acked = self._stored = cursor
        self._source.listen(self._wake.set)
        reader = asyncio.create_task(self._read(first), name="subscribe-reader")
        try:
            await self._write()
        finally:
            self._source.unlisten(self._wake.set)
            reader.cancel()
            try:
                await asyncio.wait([reader])
                await self._finish_acks()
            finally:
                self._source.detach(self._name)

    def end(self, reason: EdgenodeError) -> None:
        """End the stream with `reason`."""
        self._failure = self._failure or reason
        self._wake.set()

    def _check_start(self, first: Request) -> message_service_pb2.SubscribeStart:
        if not first.HasField("start"):
            raise InvalidArgument("NO_START", "the first frame has no start", hint="send start first", field="start")
        start = first.start
        checks.at_most(len(start.topics), MAX_TOPICS, "start.topics")
        self._matcher = topic_matcher(list(start.topics))
        if start.subscription:
            self._name = check_name(start.subscription, "start.subscription")
        if start.position not in message_service_pb2.StartPosition.values():
            raise InvalidArgument(
                "UNKNOWN_VALUE",
                f"start.position is {start.position}",
                hint="expected NEW, START or CURSOR",
                field="start.position",
            )
        checks.in_range(start.after_sequence, 0, math.inf, "start.after_sequence")
        return start

    # --- reader -------------------------------------------------------------------------------------------------------

    async def _read(self, first: Request) -> None:
        try:
            self._take(first)
            async for request in self._requests:
                if request.HasField("start"):
                    raise InvalidArgument(
                        "START_AGAIN", "start was sent twice", hint="open another stream", field="start"
                    )
                self._take(request)
            self._read_all = True
        except Exception as error:
            self._failure = self._failure or error
        finally:
            self._wake.set()

    def _take(self, request: Request) -> None:
        checks.in_range(request.credit_count, 0, math.inf, "credit_count")
        if request.credit_count:
            self._credits += request.credit_count
            self._wake.set()
        if request.ack_sequence > self._acked:
            if request.ack_sequence > self._scanned:
                raise InvalidArgument(
                    "BAD_ACK",
                    f"ack_sequence is {request.ack_sequence}, sent was {self._scanned}",
                    hint="acknowledge what was received",
                    field="ack_sequence",
                )
            self._acked = request.ack_sequence
            self._store_acks()

    def _store_acks(self) -> None:
        if self._name and self._acker is None and self._settled() > self._stored:
            self._acker = asyncio.create_task(self._acknowledge(), name="subscribe-acks")

    def _settled(self) -> int:
        """What counts as acknowledged: with everything sent, also what was passed over after it."""
        return self._scanned if self._acked >= self._sent else self._acked

    async def _acknowledge(self) -> None:
        try:
            while (settled := self._settled()) > self._stored:
                await self._source.acknowledge(self._name, settled)
                reach(Failpoint.SUBSCRIPTION_ACKED)
                self._stored = settled
        except Exception as error:
            self._failure = self._failure or error
            self._wake.set()
        finally:
            self._acker = None

    async def _finish_acks(self) -> None:
        """An acknowledgement that came before the end of the stream is kept."""
        if self._failure is None:
            self._store_acks()
        if self._acker is not None:
            await asyncio.wait([self._acker])

    # --- writer -------------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            if self._failure is not None:
                raise self._failure
            self._wake.clear()
            if self._credits > 0 and not self._ready:
                await self._refill()
            response = self._next_response()
            if response is not None:
                await self._context.write(response)
            elif self._credits <= 0 or self._caught_up:
                if self._read_all:
                    return  # no credit will come any more, nor an acknowledgement
                await self._wake.wait()

    async def _refill(self) -> None:
        """Read the next stretch of the log."""
        after = self._read_to
        stretch = await self._source.read(after, CHUNK_COUNT, CHUNK_BYTES)
        chunk = stretch.chunk
        if not chunk.segments:
            self._caught_up = True
            if stretch.last > after:
                self._ready.append(_gap(after + 1, stretch.last, stretch.gap_reason))
                self._read_to = stretch.last
            return
        self._caught_up = chunk.end >= stretch.last
        if chunk.base > after + 1:
            self._ready.append(_gap(after + 1, chunk.base - 1, stretch.gap_reason))
        position = chunk.base
        for segment in chunk.segments:
            self._ready.extend(self._matching(segment, stretch.epoch, position, after))
            position += segment.count
        self._read_to = chunk.end
        if not self._ready:
            self._scanned = self._read_to
            self._store_acks()

    def _matching(self, segment: Segment, epoch: str, base: int, after: int) -> Iterator[_Item]:
        try:
            messages = message_pb2.MessageBatch.FromString(segment.payload).messages
            if len(messages) != segment.count:
                raise DecodeError(f"{len(messages)} messages where {segment.count} were announced")
        except DecodeError as error:
            first, last = max(base, after + 1), base + segment.count - 1
            _log.warning("messages %d to %d cannot be read: %s", first, last, error)
            yield _gap(first, last, "UNREADABLE")
            return
        accepted = timestamp_to_pb(segment.accepted)
        node = segment.origin_node or self._source.node
        epoch = segment.origin_epoch or epoch
        origin = segment.origin_sequence or base
        size = len(segment.payload) // max(segment.count, 1)
        for index, message in enumerate(messages):
            position = base + index
            if position <= after or not self._matches(message.topic):
                continue
            if len(segment.payload) > FRAME_BYTES:
                size = message.ByteSize()
            received = message_pb2.ReceivedMessage(
                message=message,
                sequence=position,
                origin_node=node,
                origin_epoch=epoch,
                origin_sequence=origin + index,
                accept_time=accepted,
            )
            yield _Item(position, size, received)

    def _matches(self, topic: str) -> bool:
        known = self._topics.get(topic)
        if known is None:
            if len(self._topics) >= _MAX_KNOWN_TOPICS:
                self._topics.clear()
            known = self._topics[topic] = self._matcher.fullmatch(topic) is not None
        return known

    def _next_response(self) -> Response | None:
        """What can be sent now; None if there is nothing worth a frame."""
        response = Response()
        size = 0
        while self._ready and len(response.messages) < FRAME_COUNT:
            item = self._ready[0]
            if item.gap is not None:
                if response.messages or response.HasField("gap"):
                    break  # a frame has one gap, before its messages
                response.gap.CopyFrom(item.gap)
            elif item.message is not None:
                if self._credits <= 0 or (response.messages and size + item.size > FRAME_BYTES):
                    break
                response.messages.append(item.message)
                self._credits -= 1
                size += item.size
                self._sent = item.position
            self._ready.popleft()
            self._scanned = item.position
        if not self._ready:
            self._scanned = self._read_to
        if not response.messages and not response.HasField("gap") and self._scanned - self._told < SCAN_NOTICE:
            return None
        response.scanned_sequence = self._told = self._scanned
        return response


def _gap(first: int, last: int, reason: str) -> _Item:
    return _Item(last, 0, None, message_service_pb2.MessageGap(first_sequence=first, last_sequence=last, reason=reason))
