"""What the layers above see of a link: a handle to the live session, and the events it tells them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import Unimplemented
from edgenode.link.model.frames import AgentLoad
from edgenode.link.model.lanes import Lane
from edgenode.link.model.problem import Problem
from edgenode.link.protocol.events import Peer
from edgenode.link.wire.values import problem_to_pb

_log = logging.getLogger(__name__)


class LinkConnection(Protocol):
    """A session that was established. It stays usable, and useless, after its end: `send` then says False."""

    @property
    def peer(self) -> Peer:
        """The other side."""
        ...

    @property
    def fence(self) -> int:
        """Outdates every earlier session of the same node."""
        ...

    @property
    def established(self) -> bool:
        """Whether it is still up."""
        ...

    def send(self, frame: sync_pb2.Frame) -> bool:
        """Sends calls, notices, find, admin, blobs, desired_state or desired_state_report, best effort and in order.

        False: not established, or too much waits already; nothing was sent, and `LinkEvents.room` or `closed` follows. True is
        no promise: what is under way is lost with the session, and `LinkEvents.closed` says so. Raises InvalidArgument
        (NOT_CARRIED) for other frames.
        """
        ...

    def set_weights(self, weights: Mapping[Lane, int]) -> None:
        """New shares of the link, 1-1,000; lanes not named keep theirs. Raises InvalidArgument (OUT_OF_RANGE)."""
        ...

    def set_pace(self, retry_after: float, bytes_per_second: int) -> bool:
        """Tells a child to wait `retry_after` seconds before it dials again and to send at most so much; 0: no bound."""
        ...

    def close(self, problem: Problem) -> None:
        """Ends the session; the other side is told why. Returns at once, `closed` follows."""
        ...


class LinkEvents:
    """Override what you need; the defaults refuse in a way that leaves nobody waiting.

    All run on the event loop. `established` and `closed` come in pairs and must not block. The handlers of one kind run one
    after the other, in the order of arrival; while many are waiting the link reads nothing more, so hand long work to a
    task of your own. What a handler raises is logged and goes no further.
    """

    def established(self, link: LinkConnection) -> None:
        """A session is up."""

    def answered(self, link: LinkConnection) -> None:
        """Its first frame came: whoever greeted lived still when it was let in, and was not only held up on the way."""

    def closed(self, link: LinkConnection, problem: Problem) -> None:
        """It ended, and with it what was sent best effort; every frame that came before was handled."""

    def room(self, link: LinkConnection) -> None:
        """There is room again where a `send` was refused. Once for all of them: who waits tries, in whatever order."""

    def refused(self, problem: Problem) -> None:
        """Dialing: an attempt ended before there was a session."""

    async def on_desired_state(self, link: LinkConnection, message: sync_pb2.DesiredState) -> None:
        """The parent wants this."""
        problem = problem_to_pb(_not_served("desired state"))
        report = sync_pb2.DesiredStateReport(refused_version=message.version, problem=problem)
        _send(link, sync_pb2.Frame(desired_state_report=report))

    async def on_desired_state_report(self, link: LinkConnection, message: sync_pb2.DesiredStateReport) -> None:
        """A child says what it did with a desired state."""

    async def on_calls(self, link: LinkConnection, message: sync_pb2.CallBatch) -> None:
        """Calls, answers and cancellations."""
        problem = problem_to_pb(_not_served("calls"))
        results = [sync_pb2.CallResult(call_id=call.call_id, problem=problem) for call in message.calls]
        if results:
            _send(link, sync_pb2.Frame(calls=sync_pb2.CallBatch(results=results)))

    async def on_notices(self, link: LinkConnection, message: sync_pb2.NoticeBatch) -> None:
        """Progress of tasks that came from here."""

    async def on_find(self, link: LinkConnection, message: sync_pb2.FindExchange) -> None:
        """A question to the registry here, or the answer to one asked from here."""
        if message.HasField("request") or message.HasField("list_request"):
            problem = problem_to_pb(_not_served("find"))
            _send(link, sync_pb2.Frame(find=sync_pb2.FindExchange(find_id=message.find_id, problem=problem)))

    async def on_admin(self, link: LinkConnection, message: sync_pb2.AdminExchange) -> None:
        """A question of the parent to the administration here, or a child's answer to one."""
        if message.WhichOneof("request") is not None:
            problem = problem_to_pb(_not_served("administration"))
            answer = sync_pb2.AdminExchange(exchange_id=message.exchange_id, problem=problem)
            _send(link, sync_pb2.Frame(admin=answer))

    async def on_blobs(self, link: LinkConnection, message: sync_pb2.BlobExchange) -> None:
        """A piece of a blob that is asked for, or the answer to such a question."""
        if message.HasField("request"):
            answer = sync_pb2.BlobExchange(exchange_id=message.exchange_id, problem=problem_to_pb(_not_served("blobs")))
            _send(link, sync_pb2.Frame(blobs=answer))

    async def on_heartbeat_loads(self, link: LinkConnection, loads: Sequence[AgentLoad]) -> None:
        """Loads of a child's agents, as far as they changed."""


def _not_served(what: str) -> Problem:
    return Unimplemented("NOT_SERVED", f"this node takes no {what} over the link", hint="ask another node").problem


def _send(link: LinkConnection, frame: sync_pb2.Frame) -> None:
    if not link.send(frame):
        _log.debug("a refusal to %s was not sent: its link is down or full", link.peer.node)
