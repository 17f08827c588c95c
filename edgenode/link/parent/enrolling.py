"""The edge's side of joining and renewing.

Joining begins with a hub that nothing vouches for but the root's hash in the token. The order of the steps is what keeps the
token's secret from a rogue hub:

    1. a TLS handshake that verifies nothing, only to see which certificate the hub presents;
    2. a channel that trusts exactly that certificate (grpc takes a leaf as its sole anchor), so that everything from here
       on is said to the holder of its key; the public trust bundle is fetched over it;
    3. the root's hash must be the token's, and the presented certificate must chain to that root by the bundle's hub-ca,
       be made for servers and name a hub of the fleet: now the peer is known;
    4. a new channel, anchored on hub-ca, that carries the secret. Only a hub of this fleet can take part in it.

Renewing needs none of this: the identity holds the anchor. It works with an expired certificate, because the certificate is
part of the request and the proof is a signature; TLS does not see it.

Where the fleet's CAs were rotated meanwhile, the identity's anchors are outdated and its root is not: the first three steps
are taken again, with the root that is held in the place of the token's hash (`refresh_trust`). A hub-ca that is no longer in
use is forgotten by that, and does not come back, although the root once signed it: a CA that is older than the one known is
not believed, for its key may be what was lost. The edge-ca follows when it has signed this node's next certificate.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import hmac
import logging
import socket
import ssl
from dataclasses import dataclass, replace

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgenode.api.enrollment.v1 import enrollment_service_pb2 as pb
from edgenode.api.enrollment.v1 import enrollment_service_pb2_grpc as pb_grpc
from edgenode.link.errors import (
    DataLoss,
    DeadlineExceeded,
    EdgenodeError,
    FailedPrecondition,
    InvalidArgument,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from edgenode.link.gil import on_thread
from edgenode.link.identity.certificates import (
    CLIENT_AUTH,
    SERVER_AUTH,
    certificate_from_der,
    certificate_to_der,
    certificate_to_pem,
    certificates_from_pem,
    issued_by,
    key_from_pem,
    key_to_pem,
    make_csr,
    new_key,
    verify_chain,
)
from edgenode.link.identity.credentials import client_credentials
from edgenode.link.identity.names import Kind, check_trust_domain, edge_name, hub_host
from edgenode.link.identity.tokens import parse_join_token
from edgenode.link.parent.identity import Facts, IdentityDirectory, NodeIdentity
from edgenode.link.ports import Clock
from edgenode.link.wire.channels import ChannelSettings, OpenChannel, open_channel, split_host_port
from edgenode.link.wire.status import from_rpc_error

CONNECT_SECONDS = 10.0
RPC_SECONDS = 10.0
# A hub's first HTTP/2 frame follows the handshake at once; a refusal for want of a client certificate comes in its place.
_GREETING_SECONDS = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Bundle:
    """A trust bundle whose root the token vouches for."""

    trust_domain: str
    hub: str
    root: x509.Certificate
    hub_ca: x509.Certificate
    edge_ca: x509.Certificate

    @property
    def pem(self) -> bytes:
        return certificate_to_pem(self.root, self.hub_ca, self.edge_ca)


async def join(directory: IdentityDirectory, hub_address: str, text: str, clock: Clock) -> NodeIdentity:
    """See edgenode.link.parent.identity.join."""
    token = parse_join_token(text)
    host, _ = split_host_port(hub_address)
    before = directory.facts()
    if before is not None and before.node != token.node:
        raise _other_node(before.node, token.node)
    if before is not None and before.token_id == token.token_id:
        joined = directory.load()
        if joined is not None:
            return joined
    presented = await _presented_certificate(hub_address, clock)
    bundle = await _verified_bundle(hub_address, presented, token.root_hash, clock)
    if before is not None and before.trust_domain != bundle.trust_domain:
        raise _other_node(f"{before.node} of {before.trust_domain}", f"{token.node} of {bundle.trust_domain}")

    key = await _pending_key(directory)
    request = pb.EnrollRequest(token_id=token.token_id, secret=token.secret, csr=make_csr(key))
    hub_ca = certificate_to_pem(bundle.hub_ca)
    async with _channel(hub_address, hub_ca, hub_host(bundle.trust_domain)) as channel:
        try:
            response = await pb_grpc.EnrollmentServiceStub(channel).Enroll(request, timeout=RPC_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _rpc_error(hub_address, from_rpc_error(error)) from error
    certificate = _own_certificate(response.certificate, key, bundle, token.node, clock)
    facts = Facts(
        node=token.node,
        trust_domain=bundle.trust_domain,
        hub=bundle.hub,
        sync_address=_join_host_port(host, response.sync_port),
        enrollment_address=hub_address,
        token_id=token.token_id,
        generation=response.generation,
        not_before=certificate.not_valid_before_utc.timestamp(),
        expire_time=certificate.not_valid_after_utc.timestamp(),
    )
    return await _save(directory, facts, key, certificate, bundle.pem)


async def renew(
    directory: IdentityDirectory, identity: NodeIdentity, clock: Clock, open_channel: OpenChannel = open_channel
) -> NodeIdentity:
    """Trade the identity for one with a new key and certificate; safe to repeat.

    Raises Unavailable (HUB_UNREACHABLE), PermissionDenied (REVOKED, STALE_GENERATION), Unauthenticated (BAD_CERTIFICATE),
    FailedPrecondition (STATE_NOT_WRITABLE).
    """
    present_key = key_from_pem(identity.pair.private_key, "credential")
    present = certificates_from_pem(identity.pair.certificate_chain, "credential")[0]
    key = await _pending_key(directory, identity.pair.private_key)
    csr = make_csr(key)
    request = pb.RenewRequest(
        certificate=certificate_to_der(present),
        csr=csr,
        proof=present_key.sign(csr, ec.ECDSA(hashes.SHA256())),
        generation=identity.generation,
    )
    address = identity.enrollment_address
    async with _channel(address, identity.hub_ca, identity.server_name, open_channel) as channel:
        try:
            response = await pb_grpc.EnrollmentServiceStub(channel).Renew(request, timeout=RPC_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _rpc_error(address, from_rpc_error(error)) from error
    bundle = _held_bundle(identity)
    if not issued_by(certificate_from_der(response.certificate), bundle.edge_ca):
        bundle = replace(bundle, edge_ca=await _present_edge_ca(identity, open_channel))
    certificate = _own_certificate(response.certificate, key, bundle, identity.node, clock)
    facts = Facts(
        node=identity.node,
        trust_domain=identity.trust_domain,
        hub=identity.hub,
        sync_address=identity.sync_address,
        enrollment_address=address,
        token_id=identity.token_id,
        generation=response.generation,
        not_before=certificate.not_valid_before_utc.timestamp(),
        expire_time=certificate.not_valid_after_utc.timestamp(),
    )
    return await _save(directory, facts, key, certificate, bundle.pem)


async def refresh_trust(directory: IdentityDirectory, identity: NodeIdentity, clock: Clock) -> NodeIdentity:
    """The identity with the hub-ca that signed the certificate which the hub presents, if the held root vouches for it.

    Raises Unavailable (HUB_UNREACHABLE), Unauthenticated (WRONG_CA), FailedPrecondition (CLOCK_WRONG, STATE_NOT_WRITABLE).
    """
    address, held = identity.enrollment_address, _held_bundle(identity)
    presented = await _presented_certificate(address, clock)
    root_hash = hashlib.sha256(certificate_to_der(held.root)).digest()
    found = await _verified_bundle(address, presented, root_hash, clock)
    if found.trust_domain != identity.trust_domain:
        raise _wrong_ca(f"the hub at {address} is of {found.trust_domain}, this node of {identity.trust_domain}")
    _check_newer(address, found.hub_ca, held.hub_ca)
    try:
        return await on_thread(directory.save_bundle, replace(held, hub_ca=found.hub_ca).pem)
    except OSError as error:
        raise _not_writable(error) from error


def _check_newer(address: str, found: x509.Certificate, held: x509.Certificate) -> None:
    if found.not_valid_before_utc < held.not_valid_before_utc:
        raise _wrong_ca(
            f"the hub at {address} shows a CA that is older than the one this node knows: it was rotated away"
        )


def _held_bundle(identity: NodeIdentity) -> _Bundle:
    root, hub_ca, edge_ca = (
        certificates_from_pem(pem, "bundle.pem")[0] for pem in (identity.root, identity.hub_ca, identity.edge_ca)
    )
    return _Bundle(identity.trust_domain, identity.hub, root, hub_ca, edge_ca)


async def _present_edge_ca(identity: NodeIdentity, open_channel: OpenChannel) -> x509.Certificate:
    """The edge-ca in use, as the hub says; whoever gets it checks it against the root."""
    address = identity.enrollment_address
    async with _channel(address, identity.hub_ca, identity.server_name, open_channel) as channel:
        try:
            stub = pb_grpc.EnrollmentServiceStub(channel)
            response = await stub.GetTrustBundle(pb.GetTrustBundleRequest(), timeout=RPC_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _rpc_error(address, from_rpc_error(error)) from error
    return certificate_from_der(response.edge_ca_certificate)


async def _presented_certificate(address: str, clock: Clock) -> x509.Certificate:
    """The certificate that the listener at `address` presents, unverified."""
    host, port = split_host_port(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # step 1: nothing is believed yet
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
    except TimeoutError as error:
        raise _unreachable(address, "timeout", f"no answer within {CONNECT_SECONDS:g} s") from error
    except socket.gaierror as error:
        raise _unreachable(address, "unresolved", f"the name is not known: {error.strerror}") from error
    except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError) as error:
        raise _unreachable(address, "tls", f"something listens there, but not with TLS: {error}") from error
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        what = "nothing listens there" if refused else f"{error.strerror or error}"
        raise _unreachable(address, "refused" if refused else "network", what) from error
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() != "h2" or der is None:
            raise _not_enrollment(address, "it does not speak gRPC")
        await _await_greeting(reader, address)
    finally:
        writer.transport.abort()
    certificate = certificate_from_der(der)
    _check_dates(certificate, clock.wall())
    return certificate


async def _await_greeting(reader: asyncio.StreamReader, address: str) -> None:
    """Tells a listener that demands a client certificate (the sync port) from one that does not."""
    try:
        async with asyncio.timeout(_GREETING_SECONDS):
            greeting = await reader.read(1)
    except TimeoutError:
        return  # slow, not wrong: the rpc has a deadline of its own
    except ssl.SSLError as error:
        raise _not_enrollment(address, "it demands a client certificate, as the sync listener does") from error
    except OSError as error:
        raise _unreachable(address, "network", f"the connection broke: {error}") from error
    if not greeting:
        raise _not_enrollment(address, "it closed the connection")


async def _verified_bundle(address: str, presented: x509.Certificate, root_hash: bytes, clock: Clock) -> _Bundle:
    """The fleet's certificates, once the root is the expected one (SHA-256 of its DER) and vouches for the peer."""
    dns_name = _dns_name(presented)
    if dns_name is None:
        raise _not_enrollment(address, "its certificate names no host")
    async with _channel(address, certificate_to_pem(presented), dns_name) as channel:
        try:
            stub = pb_grpc.EnrollmentServiceStub(channel)
            response = await stub.GetTrustBundle(pb.GetTrustBundleRequest(), timeout=RPC_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _rpc_error(address, from_rpc_error(error)) from error
    if not hmac.compare_digest(hashlib.sha256(response.root_certificate).digest(), root_hash):
        raise _wrong_ca(f"the hub at {address} is not of the expected fleet: its root has another hash")
    try:
        trust_domain = check_trust_domain(response.trust_domain)
        root = certificate_from_der(response.root_certificate)
        hub_ca = certificate_from_der(response.hub_ca_certificate)
        edge_ca = certificate_from_der(response.edge_ca_certificate)
        name = verify_chain(presented, hub_ca, root, SERVER_AUTH, clock.wall())
    except (Unauthenticated, InvalidArgument) as error:
        message = f"the hub at {address} shows the right root but does not belong to it: {error.problem.message}"
        raise _wrong_ca(message) from error
    if name.kind is not Kind.HUB or name.trust_domain != trust_domain or dns_name != hub_host(trust_domain):
        raise _wrong_ca(f"the hub at {address} calls itself {name} and {dns_name}, not a hub of {trust_domain}")
    return _Bundle(trust_domain, name.node, root, hub_ca, edge_ca)


def _own_certificate(
    der: bytes, key: ec.EllipticCurvePrivateKey, bundle: _Bundle, node: str, clock: Clock
) -> x509.Certificate:
    """The certificate the hub answered with, once it is this node's. Raises Unauthenticated (BAD_CERTIFICATE)."""
    certificate = certificate_from_der(der)
    # Judged at its own begin if the clock here runs behind: what counts is who signed it, for whom.
    at = min(
        max(clock.wall(), certificate.not_valid_before_utc.timestamp()), certificate.not_valid_after_utc.timestamp()
    )
    name = verify_chain(certificate, bundle.edge_ca, bundle.root, CLIENT_AUTH, at)
    if name != edge_name(bundle.trust_domain, node) or certificate.public_key() != key.public_key():
        raise Unauthenticated(
            "BAD_CERTIFICATE",
            f"the hub answered with a certificate of {name}, or for another key",
            hint="update hub and edge to versions that belong together",
        )
    return certificate


async def _pending_key(directory: IdentityDirectory, in_use: bytes = b"") -> ec.EllipticCurvePrivateKey:
    def read_or_make() -> ec.EllipticCurvePrivateKey:
        pem = directory.pending_key(lambda: key_to_pem(new_key()), in_use)
        try:
            return key_from_pem(pem, str(directory.pending_key_path))
        except DataLoss as error:
            # Nothing but a lost answer hung on it.
            _log.warning("making a new key: %s", error)
            fresh = new_key()
            directory.replace_pending_key(key_to_pem(fresh))
            return fresh

    try:
        return await on_thread(read_or_make)
    except OSError as error:
        raise _not_writable(error) from error


async def _save(
    directory: IdentityDirectory,
    facts: Facts,
    key: ec.EllipticCurvePrivateKey,
    certificate: x509.Certificate,
    bundle: bytes,
) -> NodeIdentity:
    # On a thread, as an fsync of a worn flash card may take a second, and agents are being served meanwhile.
    try:
        return await on_thread(directory.save, facts, key_to_pem(key), certificate_to_pem(certificate), bundle)
    except OSError as error:
        raise _not_writable(error) from error


def _channel(
    address: str, anchor: bytes, server_name: str, open_channel: OpenChannel = open_channel
) -> grpc.aio.Channel:
    settings = ChannelSettings(server_name=server_name, connect_timeout=CONNECT_SECONDS)
    return open_channel(address, client_credentials(None, anchor), settings=settings)


def _dns_name(certificate: x509.Certificate) -> str | None:
    """The one DNS name of a certificate that nothing vouches for yet."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    dns_names = names.get_values_for_type(x509.DNSName)
    return dns_names[0] if len(dns_names) == 1 else None


def _check_dates(certificate: x509.Certificate, now: float) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin.timestamp() <= now <= end.timestamp():
        here = datetime.datetime.fromtimestamp(now, datetime.UTC)
        raise FailedPrecondition(
            "CLOCK_WRONG",
            f"the hub's certificate is good from {begin:%F %T} to {end:%F %T} UTC; this device's clock says {here:%F %T}",
            hint="set this device's clock; if it is right, the hub's is wrong or the hub must be restarted",
        )


def _join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _rpc_error(address: str, error: EdgenodeError) -> EdgenodeError:
    """What an rpc's failure means to somebody who enrolls; a hub's own refusals stay as they are."""
    if isinstance(error, Unimplemented):
        return _not_enrollment(address, "it speaks gRPC but does not enroll")
    if isinstance(error, Unavailable | DeadlineExceeded) and error.reason in ("UNREACHABLE", "RPC_DEADLINE"):
        return _unreachable(address, "rpc", f"the connection failed: {error.problem.message}")
    return error


def _unreachable(address: str, cause: str, what: str) -> Unavailable:
    host, port = split_host_port(address)
    hints = {
        "refused": "check that the hub runs (`edgehub serve`) and that this is its enrollment port",
        "unresolved": "check the host's name, or give its IP address",
        "timeout": "check the address, and that no firewall is between",
        "tls": "give the hub's enrollment port; `edgehub serve` prints it",
    }
    hint = hints.get(cause, "check the network and the address; the same command may be repeated, nothing is lost")
    return Unavailable(
        "HUB_UNREACHABLE",
        f"the hub at {host}, port {port}, cannot be reached: {what}",
        hint=hint,
        host=host,
        port=port,
        cause=cause,
    )


def _not_enrollment(address: str, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        "NOT_ENROLLMENT_PORT",
        f"{address} is no enrollment listener: {what}",
        hint="give the hub's enrollment port; `edgehub serve` prints it",
        address=address,
    )


def _wrong_ca(message: str) -> Unauthenticated:
    return Unauthenticated(
        "WRONG_CA",
        message,
        hint="the token's secret was not sent; check the address, and that the token is from this hub",
    )


def _other_node(here: str, asked: str) -> FailedPrecondition:
    return FailedPrecondition(
        "STATE_OF_OTHER_NODE",
        f"the state directory belongs to {here}, the token to {asked}",
        hint="use another --state for another node",
        node=here,
    )


def _not_writable(error: OSError) -> FailedPrecondition:
    return FailedPrecondition(
        "STATE_NOT_WRITABLE",
        f"the identity cannot be written: {error}",
        hint="check owner and free space of the state directory; the same command may be repeated",
        retryable=True,
    )
