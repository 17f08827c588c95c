"""SyncService: the door for edges. Who comes in is decided by the certificate, not by what the greeting claims."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable

from edgenode.api.sync.v1 import sync_service_pb2
from edgenode.api.sync.v1 import sync_service_pb2_grpc as pb_grpc
from edgenode.link.errors import Unauthenticated, Unavailable
from edgenode.link.identity.names import Kind
from edgenode.link.identity.peers import peer_certificate, read_client_certificate
from edgenode.link.ports import Clock
from edgenode.link.protocol.admission import AdmissionGate
from edgenode.link.wire.accepting import AcceptingEnd
from edgenode.link.wire.connection import LinkConnection
from edgenode.link.wire.interceptors import Peer
from edgenode.link.wire.status import Context
from hub.ca.authority import Authority
from hub.ca.ports import EnrollmentStore
from hub.services.alarm import Alarm

_log = logging.getLogger(__name__)


class EdgesOnly:
    """The sync listener's Authoriser: edges of this fleet, by certificate."""

    def __init__(self, trust_domain: str) -> None:
        self._trust_domain = trust_domain

    def authorise(self, peer: Peer, method: str) -> None:
        """See edgenode.link.wire.interceptors.Authoriser."""
        name = read_client_certificate(peer.certificate).name
        if name.kind is not Kind.EDGE or name.trust_domain != self._trust_domain:
            raise Unauthenticated(
                "NOT_AN_EDGE", f"{name} is no edge of {self._trust_domain}", hint="dial the hub of your own fleet"
            )


class SyncService(pb_grpc.SyncServiceServicer):
    """Serves the link. `moving` says whether a node has announced that it changes its channel: it takes no new place."""

    def __init__(
        self,
        end: AcceptingEnd,
        authority: Authority,
        enrollment: EnrollmentStore,
        clock: Clock,
        alarm: Alarm,
        gate: AdmissionGate,
        moving: Callable[[str], bool],
    ) -> None:
        self._gate = gate
        self._moving = moving
        self._end = end
        self._authority = authority
        self._enrollment = enrollment
        self._clock = clock
        self._alarm = alarm

    async def Sync(self, request_iterator: AsyncIterator[sync_service_pb2.SyncRequest], context: Context) -> None:
        """One link.

        Raises Unavailable (ADMISSION_DELAYED), PermissionDenied (REVOKED, STALE_GENERATION, CLONED_IDENTITY) and what the
        accepting end raises.
        """
        certificate = peer_certificate(context.auth_context())
        node = certificate.name.node
        self._check_gate(node)
        issued = self._authority.read_edge(certificate.der)
        await self._enrollment.admit(issued, self._clock.wall())
        timers = []

        def opened(link: LinkConnection) -> None:
            # TLS looks at the dates once, at the handshake; a stream would outlive its certificate.
            left = max(certificate.expire_time - self._clock.wall(), 0.0)
            timers.append(self._alarm.after(left, lambda: _expired(node, link)))

        try:
            await self._end.serve(node, request_iterator, context, opened)
        finally:
            for timer in timers:
                timer.cancel()

    def _check_gate(self, node: str) -> None:
        """Before anything is read or written for the node."""
        if self._moving(node):
            return
        now = self._clock.monotonic()
        crowded = self._gate.waiting_count(now) > 0
        wait = self._gate.ask(node, now)
        if not wait:
            return
        if not crowded:
            _log.warning("many nodes come at once: some are told to come back later")
        raise Unavailable(
            "ADMISSION_DELAYED",
            f"many nodes come at once; {node} is let in after {wait:.1f} s",
            hint="it dials again by itself",
            retry_after=wait,
        )


def _expired(node: str, link: LinkConnection) -> None:
    _log.info("the certificate of %s has expired; its session ends", node)
    link.close(
        Unauthenticated(
            "CERTIFICATE_EXPIRED", f"the certificate of {node} has expired", hint="renew it and dial again"
        ).problem
    )
