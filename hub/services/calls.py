"""Calls between edges: routed in memory, answered or refused before their deadline, never stored.

A call that nobody here fits goes on to the parent, if there is one; one that came from there does not go back.

A call gets a number of the hub's own on its way to a node that fits; the answer finds its way back by it. Whatever ends a
call ends it here at once: an answer, its deadline, the loss of the node that runs it (its caller is told AGENT_LOST), or the
loss of the caller or its change of mind (the node is told that nobody waits any more).

Pieces of an answer that is read along pass through towards the caller, allowances towards the node; nothing is held here but
in the links' own queues. Where one of them does not fit the call ends with LINK_FULL, as a hole would be worse.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import (
    DeadlineExceeded,
    EdgenodeError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from edgenode.link.model.task import TaskSpec
from edgenode.link.ports import Clock
from edgenode.link.protocol.scheduler import Demand
from edgenode.link.protocol.timers import Timer
from edgenode.link.wire import pieces
from edgenode.link.wire.call_batches import refused_answers
from edgenode.link.wire.tasks import TaskLimits, task_spec_from_proto
from edgenode.link.wire.values import duration_from_pb, duration_to_pb, problem_to_pb
from hub.services.alarm import Alarm
from hub.services.placement import Placement
from hub.services.view import FleetView
from hub.store.records import PARENT, WaitKey

MAX_CALLS = 10_000  # under way for one caller
MAX_TIMEOUT = 3600.0
DEFAULT_TIMEOUT = 30.0

Send = Callable[[str, sync_pb2.CallBatch], bool]
Deliver = Callable[[sync_pb2.CallResult], None]
Give = Callable[[sync_pb2.CallPieces], bool]  # False: they cannot be passed on


@dataclass(slots=True)
class _Call:
    """A call under way. `caller` is the node it came from, empty for the hub's own callers. `give`: it is read along."""

    caller: str
    caller_id: int
    node: str
    deliver: Deliver
    give: Give | None
    timer: Timer


class CallRouter:
    """`send(node, batch)` is best effort and says whether the batch left; `connected(node)`: it has a session."""

    def __init__(
        self,
        view: FleetView,
        placement: Placement,
        clock: Clock,
        alarm: Alarm,
        send: Send,
        connected: Callable[[str], bool],
        limits: TaskLimits | None = None,
        parent: Callable[[], bool] = lambda: False,
    ) -> None:
        """`parent` says whether calls can go to a parent, as to a node called PARENT."""
        self._parent = parent
        self._view = view
        self._placement = placement
        self._clock = clock
        self._alarm = alarm
        self._send = send
        self._connected = connected
        self._limits = limits or TaskLimits()
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        # Numbers by caller and its own number, and by the node that runs them.
        self._by_caller: dict[str, dict[int, int]] = {}
        self._by_node: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def receive(self, node: str, batch: sync_pb2.CallBatch) -> None:
        """A frame of calls from a node's session."""
        for given in batch.pieces:
            self._given(node, given)
        for result in batch.results:
            self._answered(node, result)
        self.cancel(node, batch.cancel_call_ids)
        for allowance in batch.allowances:
            self.allow(node, allowance.call_id, allowance.room_bytes)
        outgoing: dict[str, list[sync_pb2.Call]] = defaultdict(list)
        refused: list[sync_pb2.CallResult] = []
        for call in batch.calls:
            timeout = self._timeout(call)
            try:
                spec = task_spec_from_proto(
                    call.spec, limits=self._limits, now=self._clock.wall(), node=node, field="call.spec"
                )
                give = self._giver(node) if call.piece_room_bytes > 0 else None
                target, out = self._open(node, call.call_id, spec, timeout, self._replier(node), give)
                out.piece_room_bytes = call.piece_room_bytes
                outgoing[target].append(out)
            except EdgenodeError as error:
                refused.append(sync_pb2.CallResult(call_id=call.call_id, problem=problem_to_pb(error.problem)))
        for target, calls in outgoing.items():
            self._forward(target, calls)
        if refused:
            self._send(node, sync_pb2.CallBatch(results=refused))

    def call(self, spec: TaskSpec, timeout: float, deliver: Deliver, give: Give | None = None) -> int:
        """A call of the hub's own caller: `deliver` is called once. Returns its number, for `cancel` and `allow`.

        `give` gets pieces while it is read along, `pieces.ROOM_BYTES` of them before the first `allow`.

        Raises NotFound (UNKNOWN_SKILL), Unavailable (NO_AGENT), ResourceExhausted (QUEUE_FULL).
        """
        number = next(self._numbers)
        target, out = self._open("", number, spec, timeout, deliver, give)
        if give is not None:
            out.piece_room_bytes = pieces.ROOM_BYTES
        self._forward(target, [out])
        return number

    def cancel(self, caller: str, caller_ids: Iterable[int]) -> None:
        """Nobody waits for these any more."""
        gone: dict[str, list[int]] = defaultdict(list)
        for caller_id in caller_ids:
            number = self._by_caller.get(caller, {}).get(caller_id)
            if number is not None:
                gone[self._close(number).node].append(number)
        for node, numbers in gone.items():
            self._send(node, sync_pb2.CallBatch(cancel_call_ids=numbers))

    def allow(self, caller: str, caller_id: int, size: int) -> None:
        """Whoever reads along takes so many more bytes of pieces."""
        number = self._by_caller.get(caller, {}).get(caller_id)
        if number is not None:
            allowance = sync_pb2.CallAllowance(call_id=number, room_bytes=size)
            if not self._send(self._calls[number].node, sync_pb2.CallBatch(allowances=[allowance])):
                self._give_up(number)

    def lost(self, node: str) -> None:
        """The node's session ended: what it ran is lost, what it asked for is not wanted any more."""
        for number in sorted(self._by_node.get(node, ())):
            self._fail(number, _agent_lost(node))
        self.cancel(node, list(self._by_caller.get(node, ())))

    def close(self) -> None:
        """The hub stops: every caller is told."""
        for number in list(self._calls):
            self._fail(number, Unavailable("HUB_STOPPING", "the hub is stopping", hint="try again once it is up"))

    # --- inside ---

    def _open(
        self, caller: str, caller_id: int, spec: TaskSpec, timeout: float, deliver: Deliver, give: Give | None
    ) -> tuple[str, sync_pb2.Call]:
        under_way = self._by_caller.get(caller, {})
        if caller_id in under_way:
            raise InvalidArgument(
                "CALL_ID_IN_USE", f"call {caller_id} is under way", hint="number calls anew", field="call_id"
            )
        if len(under_way) >= MAX_CALLS:
            raise ResourceExhausted(
                "QUEUE_FULL", f"{MAX_CALLS} calls are under way", hint="wait for answers", retry_after=1.0
            )
        node = self._choose(caller, spec)
        number = next(self._numbers)
        timer = self._alarm.after(timeout, lambda: self._expired(number))
        self._calls[number] = _Call(caller, caller_id, node, deliver, give, timer)
        self._by_caller.setdefault(caller, {})[caller_id] = number
        self._by_node.setdefault(node, set()).add(number)
        out = sync_pb2.Call(call_id=number, timeout_duration=duration_to_pb(timeout))
        out.spec.ParseFromString(spec.wire)
        return node, out

    def _choose(self, caller: str, spec: TaskSpec) -> str:
        demand = Demand(spec.skill, spec.selector, spec.agent, spec.cost_limit)
        key = WaitKey(demand, spec.priority)
        node = self._placement.pick(key, lambda node: node != caller and self._connected(node))
        if node is not None:
            return node
        if caller != PARENT and self._parent() and not self._view.owns(spec.agent):
            return PARENT
        if next(self._view.with_skill(spec.skill), None) is None:
            raise NotFound(
                "UNKNOWN_SKILL",
                f"no agent of the fleet has skill {spec.skill}",
                hint="list the agents to see what they can do",
                skill=spec.skill,
            )
        reason = self._view.fit(demand).reason or "NO_AGENT: its node is not connected"
        raise Unavailable("NO_AGENT", reason.removeprefix("NO_AGENT: "), hint="try again, or submit a task that waits")

    def _forward(self, node: str, calls: list[sync_pb2.Call]) -> None:
        if not self._send(node, sync_pb2.CallBatch(calls=calls)):
            for call in calls:
                self._fail(
                    call.call_id, Unavailable("LINK_DOWN", f"the link to {node} is down or full", hint="try again")
                )

    def _replier(self, node: str) -> Deliver:
        def reply(result: sync_pb2.CallResult) -> None:
            batch = sync_pb2.CallBatch(results=[result])
            if not self._send(node, batch):
                self._send(node, refused_answers(batch))

        return reply

    def _giver(self, node: str) -> Give:
        return lambda given: self._send(node, sync_pb2.CallBatch(pieces=[given]))

    def _given(self, node: str, given: sync_pb2.CallPieces) -> None:
        number = given.call_id
        call = self._calls.get(number)
        if call is not None and call.node == node and call.give is not None:
            given.call_id = call.caller_id
            if not call.give(given):
                self._give_up(number)

    def _give_up(self, number: int) -> None:
        """Something of an answer that is read along cannot be passed on."""
        self._send(self._calls[number].node, sync_pb2.CallBatch(cancel_call_ids=[number]))
        self._fail(
            number,
            ResourceExhausted(
                "LINK_FULL",
                "too much waits on a link that the answer passes",
                hint="submit it, and read that along: its result is stored",
                retry_after=1.0,
            ),
        )

    def _timeout(self, call: sync_pb2.Call) -> float:
        if not call.HasField("timeout_duration"):
            return DEFAULT_TIMEOUT
        try:
            return min(duration_from_pb(call.timeout_duration), MAX_TIMEOUT)
        except EdgenodeError:
            return DEFAULT_TIMEOUT

    def _answered(self, node: str, result: sync_pb2.CallResult) -> None:
        call = self._calls.get(result.call_id)
        if call is not None and call.node == node:
            self._close(result.call_id)
            answer = sync_pb2.CallResult()
            answer.CopyFrom(result)
            answer.call_id = call.caller_id
            call.deliver(answer)

    def _expired(self, number: int) -> None:
        call = self._calls.get(number)
        if call is not None:
            self._send(call.node, sync_pb2.CallBatch(cancel_call_ids=[number]))
            self._fail(number, DeadlineExceeded("DEADLINE_PASSED", "no answer came in time", hint="allow more time"))

    def _fail(self, number: int, error: EdgenodeError) -> None:
        call = self._close(number)
        call.deliver(sync_pb2.CallResult(call_id=call.caller_id, problem=problem_to_pb(error.problem)))

    def _close(self, number: int) -> _Call:
        call = self._calls.pop(number)
        call.timer.cancel()
        theirs, running = self._by_caller[call.caller], self._by_node[call.node]
        del theirs[call.caller_id]
        if not theirs:
            del self._by_caller[call.caller]
        running.discard(number)
        if not running:
            del self._by_node[call.node]
        return call


def _agent_lost(node: str) -> Unavailable:
    return Unavailable(
        "AGENT_LOST",
        f"the link to {node} was lost while it ran the call",
        hint="it may have run; try again if it may twice",
    )
