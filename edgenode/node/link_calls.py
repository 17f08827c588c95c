"""Calls over the link: those of this node that went to the hub, and those that the hub has for agents here.

Nothing of them is stored and nothing outlives the session: what was not sent, and what was under way when it ends, is told to
whoever waits. Calls, answers, pieces and allowances of one turn of the event loop go in one frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import EdgenodeError, Unavailable
from edgenode.link.model.problem import Problem
from edgenode.link.ports import Clock
from edgenode.link.wire import call_batches, pieces
from edgenode.link.wire.connection import LinkConnection
from edgenode.link.wire.tasks import task_spec_from_proto
from edgenode.link.wire.values import duration_from_pb, duration_to_pb, problem_from_pb, problem_to_pb, timestamp_to_pb
from edgenode.node.call_stream import allow_pieces
from edgenode.node.task_state import LiveTask
from edgenode.node.tasks import TaskEngine


class LinkCalls:
    """`flush_soon` asks for a `flush` in the next turn: there is something to send."""

    def __init__(self, engine: TaskEngine, node: str, clock: Clock, flush_soon: Callable[[], None]) -> None:
        self._engine = engine
        self._node = node
        self._clock = clock
        self._flush_soon = flush_soon
        self._number = 0  # of the newest call from here
        self._up: dict[int, LiveTask] = {}
        self._numbers: dict[LiveTask, int] = {}  # of those
        self._down: dict[int, LiveTask] = {}  # by the hub's numbers
        self._outgoing = sync_pb2.CallBatch()

    # --- from here ----------------------------------------------------------------------------------------------------

    def send(self, live: LiveTask, timeout: float) -> None:
        """The hub is to find somebody for it, within `timeout` seconds."""
        self._number += 1
        call = self._outgoing.calls.add(call_id=self._number, timeout_duration=duration_to_pb(timeout))
        call.spec.ParseFromString(live.spec.wire)
        if live.on_pieces is not None:
            call.piece_room_bytes = live.piece_room
        self._up[self._number] = live
        self._numbers[live] = self._number
        self._flush_soon()

    def cancel(self, live: LiveTask) -> None:
        """Nobody here waits for it any more."""
        number = self._numbers.pop(live, None)
        if number is not None:
            del self._up[number]
            call_batches.cancel(self._outgoing, number)
            self._flush_soon()

    def allow(self, live: LiveTask, size: int) -> None:
        """Whoever runs it may give so many bytes more of its pieces."""
        number = self._numbers.get(live)
        if number is not None:
            self._outgoing.allowances.add(call_id=number, room_bytes=size)
            self._flush_soon()

    def _end(
        self, number: int, *, output: task_pb2.TaskOutput | None = None, problem: Problem | None = None, agent: str = ""
    ) -> None:
        live = self._up.pop(number, None)
        if live is not None:
            del self._numbers[live]
            self._engine.dispatcher.end_call(live, output=output, problem=problem, agent=agent)

    def _end_lost(self, numbers: Sequence[int], why: str) -> None:
        error = Unavailable("LINK_LOST", f"the call went to the hub and {why}", hint="submit it instead, or call again")
        for number in numbers:
            self._end(number, problem=error.problem)

    # --- for agents here ----------------------------------------------------------------------------------------------

    def _take(self, call: sync_pb2.Call) -> None:
        number = call.call_id
        try:
            timeout = duration_from_pb(call.timeout_duration, "timeout_duration")
            # The deadline is the caller's clock's; the time left is what counts here.
            call.spec.deadline_time.CopyFrom(timestamp_to_pb(self._clock.wall() + max(timeout, 0.001)))
            limits = self._engine.book.settings.limits
            spec = task_spec_from_proto(call.spec, limits=limits, now=self._clock.wall(), node=self._node)
            self._down[number] = self._engine.start_call(
                spec,
                partial(self._answer, number),
                forward=False,
                on_pieces=partial(self._give_pieces, number) if call.piece_room_bytes > 0 else None,
                piece_room=min(call.piece_room_bytes, pieces.ROOM_BYTES),
            )
        except EdgenodeError as error:
            self._outgoing.results.add(call_id=number, problem=problem_to_pb(error.problem))
            self._flush_soon()

    def _give_pieces(self, number: int, given: Sequence[task_pb2.TaskPiece]) -> None:
        self._outgoing.pieces.add(call_id=number, pieces=given)
        self._flush_soon()

    def _answer(self, number: int, live: LiveTask) -> None:
        self._down.pop(number, None)
        result = self._outgoing.results.add(call_id=number, agent=live.agent)
        if live.output is not None:
            result.output.CopyFrom(live.output)
        else:
            problem = live.problem or Unavailable("NO_RESULT", "the call ended without a result").problem
            result.problem.CopyFrom(problem_to_pb(problem))
        self._flush_soon()

    def _give_up(self, number: int) -> None:
        live = self._down.pop(number, None)
        if live is not None:
            self._engine.cancel_call(live)

    # --- the link -----------------------------------------------------------------------------------------------------

    def flush(self, connection: LinkConnection | None) -> None:
        """Send what there is; where the link is down or full, nobody waits for it any more."""
        batch, self._outgoing = self._outgoing, sync_pb2.CallBatch()
        for frame in call_batches.frames(batch):
            if connection is None or not connection.send(frame):
                self._not_sent(frame.calls, connection)

    def _not_sent(self, batch: sync_pb2.CallBatch, connection: LinkConnection | None) -> None:
        lost = [call.call_id for call in batch.calls] + [allowance.call_id for allowance in batch.allowances]
        self._end_lost(lost, "the link was down or full")
        for given in batch.pieces:
            self._give_up(given.call_id)
        if connection is None:
            return
        # The other end has others who wait, and work that nobody waits for now. These few bytes go as soon as there is room.
        told = call_batches.refused_answers(batch)
        told.cancel_call_ids.extend([*batch.cancel_call_ids, *(allowance.call_id for allowance in batch.allowances)])
        if told.ByteSize() and not connection.send(sync_pb2.Frame(calls=told)):
            self._outgoing.MergeFrom(told)

    def receive(self, message: sync_pb2.CallBatch) -> None:
        """Answers to calls from here, calls for agents here."""
        for given in message.pieces:
            live = self._up.get(given.call_id)
            if live is not None and live.on_pieces is not None and not live.finishing:
                live.on_pieces(given.pieces)
        for result in message.results:
            if result.HasField("problem"):
                self._end(result.call_id, problem=problem_from_pb(result.problem), agent=result.agent)
            else:
                self._end(result.call_id, output=result.output, agent=result.agent)
        for allowance in message.allowances:
            live = self._down.get(allowance.call_id)
            if live is not None:
                allow_pieces(self._engine.book, live, max(allowance.room_bytes, 0))
        for call in message.calls:
            self._take(call)
        for number in message.cancel_call_ids:
            self._give_up(number)

    def lost(self, reason: str) -> None:
        """The session ended, and no other follows at once; what waits for one goes with it, for numbers mean nothing then."""
        self._outgoing = sync_pb2.CallBatch()
        self._end_lost(list(self._up), f"the link ended: {reason}")
        for number in list(self._down):
            self._give_up(number)
