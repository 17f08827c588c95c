"""Messages of a node as an async iterator that survives broken streams.

With automatic acknowledgement a message counts as dealt with when its consumer comes back for the next one; a consumer that
dies in between gets it again under its subscription's name. Acknowledgements are cumulative and carry returned credits;
they are written while nothing else is, so a fast consumer causes few.

After a reconnect a named subscription resumes behind its last acknowledgement, an unnamed one behind the last message handed
out. What the node sends a second time, because an acknowledgement was on its way, is recognised and not handed out again;
it is acknowledged again once it came, as a node refuses acknowledgements of what it has not sent on the stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgenode.api.message.v1 import message_service_pb2 as pb
from edgenode.api.message.v1.message_pb2 import ReceivedMessage
from edgenode.link.errors import EdgenodeError, InvalidArgument, from_problem
from edgenode.sdk.encoding import decode

CREDITS = 1024
_POSITIONS = {"new": pb.START_POSITION_NEW, "start": pb.START_POSITION_START}

_log = logging.getLogger(__name__)


class Received:
    """A message as a subscriber gets it."""

    __slots__ = ("_pb",)

    def __init__(self, message: ReceivedMessage) -> None:
        self._pb = message

    def __repr__(self) -> str:
        return f"Received({self.topic!r}, sequence={self.sequence}, {len(self.payload)} bytes)"

    @property
    def topic(self) -> str:
        """Where it was published."""
        return self._pb.message.topic

    @property
    def key(self) -> str:
        """Messages of one publisher with one key keep their order."""
        return self._pb.message.key

    @property
    def payload(self) -> bytes:
        """As published."""
        return self._pb.message.payload

    @property
    def content_type(self) -> str:
        """Media type; empty means JSON."""
        return self._pb.message.content_type

    @property
    def headers(self) -> dict[str, str]:
        """The publisher's own."""
        return dict(self._pb.message.headers)

    @property
    def traceparent(self) -> str:
        """Of the publisher."""
        return self._pb.message.traceparent

    @property
    def sequence(self) -> int:
        """Position in the answering node's log."""
        return self._pb.sequence

    @property
    def origin(self) -> tuple[str, str, int]:
        """(node, epoch, sequence): names the message for ever."""
        return self._pb.origin_node, self._pb.origin_epoch, self._pb.origin_sequence

    @property
    def accept_time(self) -> float:
        """When its node accepted it, wall-clock seconds."""
        return self._pb.accept_time.seconds + self._pb.accept_time.nanos / 1e9

    def value(self, type: Any = Any) -> Any:
        """The payload decoded as `type`. Raises InvalidArgument (BAD_PAYLOAD)."""
        return decode(self.payload, self.content_type, type)


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that are gone."""

    first: int
    last: int
    reason: str


class Subscription:
    """A conversation (see streams) for MessageService.Subscribe, and its consumer's end: `async for`, then `aclose`.

    `on_gap` is told of messages that are gone; by default they are logged.
    """

    def __init__(
        self,
        topics: Sequence[str],
        name: str = "",
        position: str = "new",
        after: int | None = None,
        auto_ack: bool = True,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> None:
        if position not in _POSITIONS:
            raise InvalidArgument("BAD_POSITION", f"position is {position!r}", hint="expected new or start")
        self._topics = tuple(topics)
        self._name = name
        self._position = position
        self._cursor = after  # where an unnamed subscription goes on
        self._auto_ack = auto_ack
        self._on_gap = on_gap or self._log_gap
        self._buffer: deque[ReceivedMessage] = deque()
        self._recent: dict[int, tuple[str, str, int]] = {}  # handed out lately: sequence -> origin
        self._handed = 0
        self._acked = 0
        self._ack_sent = 0
        self._reached = 0  # how far this stream has come
        self._credits = 0
        self._started = False
        self._established = False
        self._closed = False
        self._error: EdgenodeError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.wake: Callable[[], None] = lambda: None
        self.close_line: Callable[[], Any] | None = None

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Received:
        if self._handed and self._auto_ack:
            self.ack(self._handed)
        while not self._buffer:
            if self._error is not None:
                raise from_problem(self._error.problem)
            if self._closed:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("a subscription has one consumer at a time")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._buffer.popleft()
        self._handed = self._cursor = message.sequence
        recent = self._recent
        recent[message.sequence] = (message.origin_node, message.origin_epoch, message.origin_sequence)
        if len(recent) > 2 * CREDITS:
            del recent[next(iter(recent))]
        self._credits += 1
        if self._credits >= CREDITS // 4:
            self.wake()
        return Received(message)

    def ack(self, message: Received | int) -> None:
        """This message (or sequence) and all before it are dealt with."""
        sequence = message if isinstance(message, int) else message.sequence
        if sequence > self._acked:
            self._acked = sequence
            self.wake()

    async def aclose(self) -> None:
        """Ends it; the last message handed out stays unacknowledged unless its consumer acknowledged it."""
        self._closed = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self.close_line is not None:
            await self.close_line()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()

    # --- the conversation ---

    def opened(self) -> None:
        """See Conversation."""
        self._started = False
        self._buffer.clear()  # not handed out: the node sends it again

    def next_frame(self) -> pb.SubscribeRequest | None:
        """See Conversation."""
        if not self._started:
            return self._start()
        ack = min(self._acked, self._reached)
        if ack <= self._ack_sent and self._credits < CREDITS // 4:
            return None
        frame = pb.SubscribeRequest(ack_sequence=ack, credit_count=self._credits)
        self._ack_sent = ack
        self._credits = 0
        return frame

    def _start(self) -> pb.SubscribeRequest:
        self._started = True
        self._credits = self._ack_sent = self._reached = 0
        start = pb.SubscribeStart(topics=self._topics, subscription=self._name, position=_POSITIONS[self._position])
        if self._cursor is not None:
            start.position = pb.START_POSITION_CURSOR
            start.after_sequence = self._cursor
        return pb.SubscribeRequest(start=start, credit_count=CREDITS)

    def received(self, frame: pb.SubscribeResponse) -> None:
        """See Conversation."""
        if frame.HasField("gap"):
            self._on_gap(Gap(frame.gap.first_sequence, frame.gap.last_sequence, frame.gap.reason))
        self._established = True
        recent, buffer = self._recent, self._buffer
        for message in frame.messages:
            known = recent.get(message.sequence)
            if known and known == (message.origin_node, message.origin_epoch, message.origin_sequence):
                self._credits += 1
                continue
            if message.sequence <= self._acked:  # another log than the one those were in
                self._acked, self._handed = message.sequence - 1, 0
            buffer.append(message)
        if frame.messages:
            self._reached = max(self._reached, frame.messages[-1].sequence)
        self._reached = max(self._reached, frame.scanned_sequence)
        if self._ack_sent < min(self._acked, self._reached):
            self.wake()  # what was dealt with before the stream broke
        if not buffer and frame.scanned_sequence > (self._cursor or 0):
            self._cursor = frame.scanned_sequence
        if buffer and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def wanted(self) -> bool:
        """See Conversation."""
        return not self._closed and self._error is None

    def owed(self) -> bool:
        """See Conversation: a quiet topic is no fault."""
        return False

    def broken(self, error: EdgenodeError) -> None:
        """See Conversation."""

    def recovers(self, error: EdgenodeError) -> bool:
        """See Conversation: the node may not have noticed yet that our own earlier stream broke."""
        return error.reason == "SUBSCRIPTION_IN_USE" and self._established

    def failed(self, error: EdgenodeError) -> None:
        """See Conversation."""
        self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _log_gap(self, gap: Gap) -> None:
        _log.warning("messages %d to %d of %s are gone: %s", gap.first, gap.last, ", ".join(self._topics), gap.reason)
