"""One Publish stream: a reader that checks frames and hands them to the log, a writer that acknowledges what is durable.

The reader never waits for a commit; it waits when too much of its stream, or of all together, is on its way. The writer
wakes once for each commit and says how far the publisher has come: cumulative, so the newest state replaces what was not
yet sent.

Level DURABLE_HUB: each frame leaves a mark (position in the log, the publisher's number); when the hub has committed the
position, the number is acknowledged. Marks are bounded: when there are too many, every second one goes, which delays some
acknowledgements to the next mark and never makes one early. A node that has no hub, or cannot reach it, never raises that
level: how long to wait is the publisher's choice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from edgenode.api.message.v1 import message_pb2, message_service_pb2
from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.link.errors import EdgenodeError, InvalidArgument, Unavailable
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.lanes import Segment
from edgenode.link.model.names import check_token
from edgenode.link.model.problem import Problem
from edgenode.link.wire import checks
from edgenode.link.wire.status import Context
from edgenode.link.wire.values import problem_to_pb
from edgenode.node.message_log import Frame, MessageLog, Producer
from edgenode.node.message_rules import MAX_BATCH, MessageRules

MAX_FRAMES_IN_FLIGHT = 256
MAX_BYTES_IN_FLIGHT = 8 * 1024 * 1024
MAX_MARKS = 4096
MAX_REJECTIONS = 1024  # in one response
MAX_REJECTIONS_HELD = 16 * MAX_REJECTIONS

_LEVELS = {
    receipt_pb2.RECEIPT_LEVEL_UNSPECIFIED: False,
    receipt_pb2.RECEIPT_LEVEL_DURABLE_LOCAL: False,
    receipt_pb2.RECEIPT_LEVEL_DURABLE_HUB: True,
}
Request = message_service_pb2.PublishRequest
Response = message_service_pb2.PublishResponse


class HubMarks:
    """Positions in the log and the publisher's numbers that are settled once the hub has committed them."""

    def __init__(self, limit: int = MAX_MARKS) -> None:
        self._limit = limit
        self._marks: deque[tuple[int, int]] = deque()

    @property
    def count(self) -> int:
        """Marks held."""
        return len(self._marks)

    def add(self, position: int, number: int) -> None:
        """Up to `number` is settled with `position`; both rise."""
        if len(self._marks) >= self._limit:
            self._marks = deque(list(self._marks)[1::2])
        self._marks.append((position, number))

    def reached(self, position: int) -> int:
        """The highest number settled by `position`; 0 if none is that was not told before."""
        number = 0
        while self._marks and self._marks[0][0] <= position:
            number = self._marks.popleft()[1]
        return number


class PublishStream:
    """`run()` serves the stream to its end."""

    def __init__(
        self,
        log: MessageLog,
        rules: MessageRules,
        wall: Callable[[], float],
        requests: AsyncIterator[Request],
        context: Context,
    ) -> None:
        self._log = log
        self._rules = rules
        self._wall = wall
        self._requests = requests
        self._context = context
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._frames = 0
        self._bytes = 0
        self._read_all = False
        self._failure: Exception | None = None
        self._rejections: deque[tuple[int, Problem]] = deque()
        self._wants_hub = False
        self._marks = HubMarks()
        self._hub_sequence = 0
        self._told_local = 0

    async def run(self) -> None:
        """Raises what ends the stream."""
        first = await anext(aiter(self._requests), None)
        if first is None:
            return
        check_token(first.producer_id, "producer_id")
        if first.ack_level not in _LEVELS:
            raise InvalidArgument(
                "BAD_ACK_LEVEL",
                f"ack_level is {first.ack_level}",
                hint="expected DURABLE_LOCAL or DURABLE_HUB",
                field="ack_level",
            )
        self._wants_hub = _LEVELS[first.ack_level]
        producer = await self._log.attach(first.producer_id)
        self._log.on_hub_advance.add(self._hub_advanced)
        reader = asyncio.create_task(self._read(producer, first), name="publish-reader")
        try:
            if self._wants_hub:
                self._marks.add(producer.log_sequence, producer.committed)
                self._hub_advanced(self._log.hub_acknowledged)
            await self._write(producer)
        finally:
            self._log.on_hub_advance.discard(self._hub_advanced)
            self._log.release(producer)
            reader.cancel()
            await asyncio.wait([reader])

    def end(self, reason: EdgenodeError) -> None:
        """End the stream with `reason`; what was sent is still committed."""
        self._failure = self._failure or reason
        self._wake.set()

    # --- reader -------------------------------------------------------------------------------------------------------

    async def _read(self, producer: Producer, first: Request) -> None:
        try:
            self._take(producer, first)
            async for request in self._requests:
                if request.producer_id and request.producer_id != producer.producer_id:
                    raise InvalidArgument(
                        "BAD_PRODUCER",
                        f"producer_id changed from {producer.producer_id}",
                        hint="one stream, one producer: open another stream",
                        field="producer_id",
                    )
                self._take(producer, request)
                await self._room.wait()
                await self._log.uncommitted.room()
            self._read_all = True
        except Exception as error:
            self._failure = self._failure or error
        finally:
            self._wake.set()

    def _take(self, producer: Producer, request: Request) -> None:
        """Check a frame and hand what is new of it to the log."""
        batch = request.batch
        count = len(batch.messages)
        if not count:
            return
        checks.at_most(count, MAX_BATCH, "batch.messages")
        first = request.first_sequence
        last = first + count - 1
        if first < 1:
            raise InvalidArgument(
                "OUT_OF_RANGE", f"first_sequence is {first}", hint="number messages from 1", field="first_sequence"
            )
        known = producer.submitted
        if known and first > known + 1:
            raise InvalidArgument(
                "SEQUENCE_GAP",
                f"first_sequence is {first}, expected {known + 1}",
                hint="send every message in order; after a reconnect go on after resume_sequence",
                field="first_sequence",
                expected=known + 1,
            )
        payload = batch.SerializeToString()
        refused = self._rules.refusals(batch.messages, payload)
        self._rejections.extend((first + index, problem) for index, problem in refused)
        duplicates = min(max(known - first + 1, 0), count)
        if duplicates:
            self._log.count_duplicates(duplicates)
            if duplicates == count:
                self._update_room()
                self._wake.set()
                return
        fresh_refused = [(index, problem) for index, problem in refused if index >= duplicates]
        if duplicates or refused:
            dropped = {index for index, _ in fresh_refused}
            kept = [
                message for index, message in enumerate(batch.messages) if index >= duplicates and index not in dropped
            ]
            count = len(kept)
            payload = message_pb2.MessageBatch(messages=kept).SerializeToString()
        by_reason: dict[str, int] = {}
        for _, problem in fresh_refused:
            by_reason[problem.reason] = by_reason.get(problem.reason, 0) + 1
        segment = Segment(count, payload, self._wall()) if count else None
        frame = Frame(producer, last, segment, self._settled, by_reason)
        self._log.submit(frame)
        self._frames += 1
        self._bytes += frame.size
        self._update_room()

    def _update_room(self) -> None:
        """Let the reader go on unless too much is on its way."""
        if (
            self._frames < MAX_FRAMES_IN_FLIGHT
            and self._bytes < MAX_BYTES_IN_FLIGHT
            and len(self._rejections) < MAX_REJECTIONS_HELD
        ):
            self._room.set()
        else:
            self._room.clear()

    # --- writer -------------------------------------------------------------------------------------------------------

    async def _write(self, producer: Producer) -> None:
        response = Response(epoch=self._log.epoch, resume_sequence=producer.committed)
        told: tuple[int, int] | None = None
        while True:
            # What was taken before the stream failed is still acknowledged, or fails by itself, first.
            failed = self._failure is not None and not self._frames
            ended = self._done(producer)
            more = self._fill(response, producer)
            state = (response.durable_local_sequence, response.durable_hub_sequence)
            if state != told or response.rejections:
                await self._context.write(response)
                if response.durable_local_sequence:
                    reach(Failpoint.PUBLISH_ACKED)
                told = state
                self._told_local = response.durable_local_sequence
            if more:
                response = Response(epoch=self._log.epoch)
                continue
            if failed and self._failure is not None:
                raise self._failure
            if ended:
                return
            await self._wake.wait()
            self._wake.clear()
            response = Response(epoch=self._log.epoch)

    def _fill(self, response: Response, producer: Producer) -> bool:
        """Write the present state into `response`; True if there is more to tell than fits."""
        committed = producer.committed
        rejections = self._rejections
        while rejections and rejections[0][0] <= committed and len(response.rejections) < MAX_REJECTIONS:
            number, problem = rejections.popleft()
            response.rejections.add(sequence=number, problem=problem_to_pb(problem))
        self._update_room()
        if rejections and rejections[0][0] <= committed:
            # No acknowledgement covers a refused message before it was named.
            response.durable_local_sequence = self._told_local
            return True
        response.durable_local_sequence = committed
        response.log_sequence = producer.log_sequence
        response.durable_hub_sequence = self._hub_sequence
        return False

    def _done(self, producer: Producer) -> bool:
        if not self._read_all or self._frames:
            return False
        return not self._wants_hub or self._hub_sequence >= producer.committed

    # --- called by the log --------------------------------------------------------------------------------------------

    def _settled(self, frame: Frame) -> None:
        self._frames -= 1
        self._bytes -= frame.size
        self._update_room()
        if frame.failure is not None:
            self._failure = self._failure or frame.failure
        elif self._wants_hub:
            self._marks.add(frame.log_sequence, frame.last)
            self._hub_advanced(self._log.hub_acknowledged)
        self._wake.set()

    def _hub_advanced(self, position: int) -> None:
        if not self._wants_hub:
            return
        number = self._marks.reached(position)
        if number > self._hub_sequence:
            self._hub_sequence = number
            self._wake.set()


def stopping() -> Unavailable:
    """The node is on its way down."""
    return Unavailable("NODE_STOPPING", "the node is stopping", hint="connect again in a moment", retry_after=1.0)
