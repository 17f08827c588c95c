"""EnrollmentService: getting an identity from a join token, and renewing it.

Served on a listener of its own, because its callers have no certificate yet, or an expired one. What a caller claims is
proved by the request itself: the token's secret, the signature of the request by the new key, and for a renewal the
signature by the present key. Requests may be repeated: an answer that was lost is given again to the same key, and to no
other, so a replayed request gains its sender nothing without that key.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgenode.api.enrollment.v1 import enrollment_service_pb2 as pb
from edgenode.api.enrollment.v1 import enrollment_service_pb2_grpc as pb_grpc
from edgenode.link.errors import EdgenodeError, InvalidArgument, PermissionDenied, Unauthenticated
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.identity.certificates import check_csr, public_key_hash
from edgenode.link.identity.tokens import SECRET_BYTES, JoinToken, hash_secret, make_join_token
from edgenode.link.model.names import check_name
from edgenode.link.ports import Clock
from edgenode.link.wire.interceptors import Peer
from edgenode.link.wire.values import timestamp_to_pb
from hub.ca.authority import Authority
from hub.ca.ports import EnrollmentStore, IssuedCertificate, TokenRecord

Context = grpc.aio.ServicerContext[Any, Any]

TOKEN_LIFE = 3_600.0
MIN_TOKEN_LIFE = 60.0
MAX_TOKEN_LIFE = 30 * 86_400.0
MAX_TOKEN_ID_LENGTH = 128

_log = logging.getLogger(__name__)


class AnyCaller:
    """The enrollment listener's Authoriser: everybody may ask, each rpc demands its own proof."""

    def authorise(self, peer: Peer, method: str) -> None:
        """See edgenode.link.wire.interceptors.Authoriser."""


class EnrollmentService(pb_grpc.EnrollmentServiceServicer):
    """Serves joining and renewing. `sync_port` is the port of the hub's sync listener, once it is bound."""

    def __init__(self, authority: Authority, store: EnrollmentStore, clock: Clock, sync_port: int) -> None:
        self._authority = authority
        self._store = store
        self._clock = clock
        self._sync_port = sync_port

    async def GetTrustBundle(self, request: pb.GetTrustBundleRequest, context: Context) -> pb.GetTrustBundleResponse:
        """The public certificates of the fleet."""
        return pb.GetTrustBundleResponse(
            trust_domain=self._authority.trust_domain,
            root_certificate=self._authority.root_certificate,
            edge_ca_certificate=self._authority.edge_ca_certificate,
            hub_ca_certificate=self._authority.hub_ca_certificate,
        )

    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        """Trades a join token for a certificate; committed before it is answered."""
        _check_enroll(request)
        key = check_csr(request.csr)
        try:
            issued = await self._store.claim_token(
                request.token_id,
                hash_secret(request.secret),
                public_key_hash(key),
                self._clock.wall(),
                partial(self._authority.sign_edge, request.csr),
            )
        except (Unauthenticated, PermissionDenied) as refusal:
            _log_refusal("join", context, refusal, token=request.token_id)
            raise
        reach(Failpoint.JOIN_COMMITTED)
        _log.info("node %s joined: generation %d from %s", issued.node, issued.generation, context.peer())
        return pb.EnrollResponse(
            node=issued.node,
            certificate=issued.certificate,
            hub=self._authority.hub,
            generation=issued.generation,
            sync_port=self._sync_port,
            expire_time=timestamp_to_pb(issued.expire_time),
        )

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:
        """Trades a certificate for the next one; committed before it is answered."""
        try:
            issued = await self._renew(request)
        except (Unauthenticated, PermissionDenied) as refusal:
            _log_refusal("renewal", context, refusal)
            raise
        reach(Failpoint.RENEWAL_COMMITTED)
        _log.info("node %s renewed: generation %d", issued.node, issued.generation)
        return pb.RenewResponse(
            certificate=issued.certificate,
            generation=issued.generation,
            expire_time=timestamp_to_pb(issued.expire_time),
        )

    async def _renew(self, request: pb.RenewRequest) -> IssuedCertificate:
        presented = self._authority.read_edge(request.certificate)
        _check_proof(request)
        key = check_csr(request.csr)
        if request.generation != presented.generation:
            raise PermissionDenied(
                "STALE_GENERATION",
                f"{presented.node} says generation {request.generation}, its certificate {presented.generation}",
                hint=f"its state directory is not whole; join anew: edgehub token create {presented.node} --rejoin",
                node=presented.node,
            )
        return await self._store.renew(
            presented, public_key_hash(key), self._clock.wall(), partial(self._authority.sign_edge, request.csr)
        )


async def create_join_token(
    authority: Authority,
    store: EnrollmentStore,
    clock: Clock,
    node: str,
    life: float = TOKEN_LIFE,
    *,
    rejoin: bool = False,
) -> tuple[JoinToken, float]:
    """(token, its end) for `node`; `life` in seconds, 1 min to 30 days. Only the secret's hash is kept.

    Raises InvalidArgument (BAD_NAME, BAD_TTL), AlreadyExists (NODE_EXISTS).
    """
    check_name(node, "node")
    if not MIN_TOKEN_LIFE <= life <= MAX_TOKEN_LIFE:
        raise InvalidArgument(
            "BAD_TTL", f"a token cannot be good for {life:g} s", hint="1 minute to 30 days", field="ttl_duration"
        )
    now = clock.wall()
    token = make_join_token(node, authority.root_hash)
    await store.create_token(TokenRecord(token.token_id, node, token.secret_hash, now, now + life, rejoin))
    return token, now + life


def _check_enroll(request: pb.EnrollRequest) -> None:
    if not request.token_id or len(request.token_id) > MAX_TOKEN_ID_LENGTH:
        raise InvalidArgument(
            "BAD_TOKEN", "the token's id is missing or too long", hint="send the token's second part", field="token_id"
        )
    if len(request.secret) != SECRET_BYTES:
        raise InvalidArgument(
            "BAD_TOKEN",
            f"the secret has {len(request.secret)} bytes, not {SECRET_BYTES}",
            hint="send the token's third part, decoded",
            field="secret",
        )


def _check_proof(request: pb.RenewRequest) -> None:
    """That the holder of the present key asks. `request.certificate` was read before."""
    key = x509.load_der_x509_certificate(request.certificate).public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(request.proof, request.csr, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Unauthenticated(
            "BAD_PROOF",
            "the request is not signed by the key of the present certificate",
            hint="sign the bytes of the certificate request with the present key",
        ) from None


def _log_refusal(what: str, context: Context, refusal: EdgenodeError, **facts: str) -> None:
    # A used token or an outdated generation may mean that somebody else holds what only one should: worth a look.
    told = {**refusal.problem.metadata, **facts}
    _log.warning("%s refused: %s from %s %s", what, refusal.reason, context.peer(), told)
