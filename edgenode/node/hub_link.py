"""What a node that has joined a hub has on top: its identity and renewal, and the uplink, wired to the node's rooms."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import Unauthenticated
from edgenode.link.model.lanes import Lane, Rejection
from edgenode.link.parent.identity import NodeIdentity
from edgenode.link.parent.membership import Membership, link_status
from edgenode.link.ports import Clock, Rng
from edgenode.link.protocol.sharing import DEFAULT_WEIGHTS
from edgenode.link.store import dead_letters
from edgenode.link.wire.channels import OpenChannel, open_channel
from edgenode.link.wire.dead_letters import entry_content
from edgenode.link.wire.dialing import DialingSettings
from edgenode.link.wire.driver import DriverSettings
from edgenode.node import ledger
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
        self._config = config
        self._rooms = rooms
        self._clock = clock
        self._membership = Membership(
            config.state_dir, identity, config.hub, clock, rng, lambda: self.uplink.redial(), open_channel
        )
        # Every new session reads it, so that the shares of the moment count.
        self._weights = {**DEFAULT_WEIGHTS, **rooms.desired.settings.lane_weights}
        self.uplink = Uplink(
            node=identity.node,
            boot_id=boot_id,
            database=rooms.database,
            engine=rooms.engine,
            registry=rooms.registry,
            blobs=rooms.blobs,
            clock=clock,
            rng=rng,
            ports=UplinkPorts(
                open_channel=self._membership.open_channel,
                unreachable=self._membership.unreachable,
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
        return self._membership.identity

    async def prepare(self) -> None:
        """Make the link a consumer of the logs; before the engine starts."""

        def run(connection: sqlite3.Connection) -> None:
            self.uplink.prepare(connection)

        await self._rooms.database.write(run)

    async def start(self) -> None:
        """Begin to dial and to watch the certificate's age."""
        self._rooms.messages.on_append.append(self.uplink.message_appended)
        self._membership.start()
        await self.uplink.start()

    async def stop(self) -> None:
        """End the session in order, and everything of its own. Safe to call twice."""
        await self.uplink.stop()
        await self._membership.stop()

    def set_weights(self, weights: Mapping[Lane, int]) -> None:
        """Shares of the link by lane, 1-1,000, now and in later sessions; lanes not named have the default."""
        self._weights.update({**DEFAULT_WEIGHTS, **weights})
        connection = self.uplink.connection
        if connection is not None:
            connection.set_weights(self._weights)

    def status(self) -> admin_pb2.LinkStatus:
        """How the link is."""
        return link_status(self._membership.address, self.uplink.status(), self._membership.refusal)

    def _keep_rejected(self, connection: sqlite3.Connection, lane: Lane, rejections: Sequence[Rejection]) -> None:
        dead_letters.add_rejected(
            connection,
            lane,
            ledger.LANE_LOGS[lane],
            rejections,
            "",
            self._clock.wall(),
            self._config.dead_letter_bounds,
            entry_content,
        )


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
