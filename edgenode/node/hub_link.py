"""What a node that has joined a hub has on top: its identity and renewal, and the uplink, wired to the node's rooms."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import grpc

from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import EdgenodeError, Unauthenticated
from edgenode.link.model.lanes import Lane, Rejection
from edgenode.link.parent.identity import NodeIdentity, Renewer
from edgenode.link.ports import Clock, Rng
from edgenode.link.protocol.sharing import DEFAULT_WEIGHTS
from edgenode.link.wire.channels import ChannelSettings, OpenChannel, open_channel
from edgenode.link.wire.dialing import DialingSettings, DialingStatus
from edgenode.link.wire.driver import DriverSettings
from edgenode.link.wire.values import duration_to_pb, problem_to_pb, timestamp_to_pb
from edgenode.node import dead_letters, ledger
from edgenode.node.config import NodeConfig
from edgenode.node.rooms import Rooms
from edgenode.node.store import retention
from edgenode.node.uplink import Uplink, UplinkPorts

_log = logging.getLogger(__name__)


class HubLink:
    """`start` once the rooms work, `stop` before they close."""

    def __init__(
        self,
        config: NodeConfig,
        identity: NodeIdentity,
        boot_id: str,
        rooms: Rooms,
        clock: Clock,
        rng: Rng,
        new_epoch: Callable[[], str],
        open_channel: OpenChannel = open_channel,
    ) -> None:
        self._open = open_channel
        self._config = config
        self._rooms = rooms
        self._clock = clock
        self._address = config.hub or identity.sync_address
        self._renewer = Renewer(config.state_dir, identity, clock, rng, self._renewed, open_channel)
        self._renewal: asyncio.Task[None] | None = None
        self._moves: set[asyncio.Task[None]] = set()
        # Every new session reads it, so that the shares of the moment count.
        self._weights = {**DEFAULT_WEIGHTS, **rooms.desired.settings.lane_weights}
        self.uplink = Uplink(
            node=identity.node,
            boot_id=boot_id,
            database=rooms.database,
            engine=rooms.engine,
            registry=rooms.registry,
            clock=clock,
            rng=rng,
            ports=UplinkPorts(
                open_channel=self._open_channel,
                generation=lambda: self.identity.generation,
                on_rejected=self._keep_rejected,
                on_desired_state=rooms.desired.receive,
                applied_version=lambda: rooms.desired.applied_version,
                messages_acknowledged=rooms.messages.on_hub_acknowledged,
                new_epoch=new_epoch,
            ),
            settings=DialingSettings(
                driver=DriverSettings(weights=self._weights),
                initial_backoff=config.reconnect_min_seconds,
                max_backoff=config.reconnect_max_seconds,
            ),
            retention=retention(config, rooms.database, clock),
        )

    @property
    def identity(self) -> NodeIdentity:
        """The identity in use."""
        return self._renewer.identity

    async def prepare(self) -> None:
        """Make the link a consumer of the logs; before the engine starts."""

        def run(connection: sqlite3.Connection) -> None:
            for log_name in ledger.LANE_LOGS.values():
                ledger.note_join(connection, log_name)
            self.uplink.prepare(connection)

        await self._rooms.database.write(run)

    async def start(self) -> None:
        """Begin to dial and to watch the certificate's age."""
        self._rooms.messages.on_append.append(self.uplink.message_appended)
        self._renewal = asyncio.create_task(self._renewer.run(), name="identity-renewal")
        await self.uplink.start()

    async def stop(self) -> None:
        """End the session in order, and everything of its own. Safe to call twice."""
        await self.uplink.stop()
        tasks = [task for task in (self._renewal, *self._moves) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def set_weights(self, weights: Mapping[Lane, int]) -> None:
        """Shares of the link by lane, 1-1,000, now and in later sessions; lanes not named have the default."""
        self._weights.update({**DEFAULT_WEIGHTS, **weights})
        connection = self.uplink.connection
        if connection is not None:
            connection.set_weights(self._weights)

    def status(self) -> admin_pb2.LinkStatus:
        """How the link is."""
        status: DialingStatus = self.uplink.status()
        message = admin_pb2.LinkStatus(
            parent=self._address,
            state=status.state,
            state_time=timestamp_to_pb(status.since),
            session_count=status.session_count,
        )
        if status.last_problem is not None:
            message.last_problem.CopyFrom(problem_to_pb(status.last_problem))
        if status.next_dial is not None:
            message.next_dial_duration.CopyFrom(duration_to_pb(status.next_dial))
        return message

    async def _open_channel(self) -> grpc.aio.Channel:
        # Each dial is a good moment to see whether the clock was set: a device without one starts in the past.
        self._renewer.wake()
        settings = ChannelSettings(server_name=self.identity.server_name)
        return self._open(self._address, self.identity.channel_credentials(), settings=settings)

    def _keep_rejected(self, connection: sqlite3.Connection, lane: Lane, rejections: Sequence[Rejection]) -> None:
        dead_letters.add_rejected(
            connection,
            lane,
            ledger.LANE_LOGS[lane],
            rejections,
            self._clock.wall(),
            self._config.dead_letter_limit,
        )

    def _renewed(self, identity: NodeIdentity) -> None:
        move = asyncio.create_task(self._move(), name="link-redial")
        self._moves.add(move)
        move.add_done_callback(self._moves.discard)

    async def _move(self) -> None:
        try:
            await self.uplink.redial()
        except EdgenodeError as error:
            # The session goes on with the old certificate; the next dial uses the new one.
            _log.warning("could not move the link to the renewed certificate: %s", error)


class TrustRoot(Protocol):
    """What of an identity tells whom to believe: the fleet's root (PEM) and its domain."""

    @property
    def root(self) -> bytes:
        """PEM."""
        ...

    @property
    def trust_domain(self) -> str:
        """E.g. `fleet.example`."""
        ...


def verifier(identity: Callable[[], TrustRoot | None], clock: Clock) -> Callable[[sync_pb2.DesiredState], None]:
    """Checks that a hub of this node's fleet signed a desired state."""

    def verify(state: sync_pb2.DesiredState) -> None:
        from edgenode.link.identity.documents import verify_document  # loads cryptography, which most starts do without

        mine = identity()
        if mine is None:
            raise Unauthenticated("NO_IDENTITY", "the node has joined no fleet", hint="join one first")
        verify_document(
            state.document, state.signature, list(state.certificates), mine.root, mine.trust_domain, clock.wall()
        )

    return verify
