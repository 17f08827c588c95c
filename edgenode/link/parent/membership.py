"""Being a member of a parent's fleet: the identity in use, kept fresh, and the channels that are opened with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.errors import EdgenodeError
from edgenode.link.model.problem import Problem
from edgenode.link.parent.identity import NodeIdentity, Renewer
from edgenode.link.ports import Clock, Rng
from edgenode.link.wire.channels import MAX_LINK_MESSAGE_BYTES, ChannelSettings, OpenChannel, open_channel
from edgenode.link.wire.dialing import DialingStatus
from edgenode.link.wire.values import duration_to_pb, problem_to_pb, timestamp_to_pb

_log = logging.getLogger(__name__)


class Membership:
    """`start` to watch the certificate's age, `stop` at the end. `redial` moves the link once there is a new identity."""

    def __init__(
        self,
        state_dir: Path,
        identity: NodeIdentity,
        address: str,
        clock: Clock,
        rng: Rng,
        redial: Callable[[], Awaitable[None]],
        open_channel: OpenChannel = open_channel,
    ) -> None:
        """`address` is HOST:PORT of the parent; empty: as joined."""
        self.address = address or identity.sync_address
        self._renewer = Renewer(state_dir, identity, clock, rng, self._renewed, open_channel)
        self._redial = redial
        self._open = open_channel
        self._renewal: asyncio.Task[None] | None = None
        self._moves: set[asyncio.Task[None]] = set()

    @property
    def identity(self) -> NodeIdentity:
        """The identity in use."""
        return self._renewer.identity

    @property
    def refusal(self) -> Problem | None:
        """Why the parent will not renew the certificate, if it said so: only an operator can change that."""
        problem = self._renewer.problem
        return None if problem is None or problem.retryable else problem

    def start(self) -> None:
        """Begin to watch the certificate's age."""
        self._renewal = asyncio.create_task(self._renewer.run(), name="identity-renewal")
        self._renewal.add_done_callback(_tell_defect)

    async def stop(self) -> None:
        """End what runs. Safe to call twice."""
        tasks = [task for task in (self._renewal, *self._moves) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def open_channel(self) -> grpc.aio.Channel:
        """A fresh channel to the parent with the identity of this moment."""
        # Each dial is a good moment to see whether the clock was set: a device without one starts in the past.
        self._renewer.wake()
        settings = ChannelSettings(server_name=self.identity.server_name, max_message_bytes=MAX_LINK_MESSAGE_BYTES)
        return self._open(self.address, self.identity.channel_credentials(), settings=settings)

    def unreachable(self) -> None:
        """The parent could not be reached: see whether its CA was rotated, and dial again if that was it."""
        self._begin(self._refresh_trust(), "trust-refresh")

    async def _refresh_trust(self) -> None:
        if await self._renewer.refresh_trust():
            await self._move()

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    def _renewed(self, identity: NodeIdentity) -> None:
        self._begin(self._move(), "link-redial")

    async def _move(self) -> None:
        try:
            await self._redial()
        except EdgenodeError as error:
            # The session goes on with the old certificate; the next dial uses the new one.
            _log.warning("could not move the link to the renewed certificate: %s", error)


def _tell_defect(task: asyncio.Task[None]) -> None:
    """Nobody waits for the task: what ends it by itself would leave the certificate to expire in silence."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the identity is not renewed any more, restart the node: %r", error, exc_info=error)


def link_status(parent: str, status: DialingStatus, refusal: Problem | None) -> admin_pb2.LinkStatus:
    """How the link to `parent` (HOST:PORT) is.

    A certificate that has run out ends a dial in its handshake, which looks like a network that is down. So where the parent
    would not renew it (`refusal`), that is why the link is down.
    """
    message = admin_pb2.LinkStatus(
        parent=parent,
        state=status.state,
        state_time=timestamp_to_pb(status.since),
        session_count=status.session_count,
    )
    problem = status.last_problem if refusal is None or status.state == "established" else refusal
    if problem is not None:
        message.last_problem.CopyFrom(problem_to_pb(problem))
    if status.next_dial is not None:
        message.next_dial_duration.CopyFrom(duration_to_pb(status.next_dial))
    return message
