"""Who is at the other end of a mutual-TLS connection, for servers.

grpc has verified the chain and the dates before a handler runs, but neither that the certificate names exactly one member
nor that it was made for clients: that is done here, on every rpc, from the certificate itself. Parsed certificates are
remembered by their bytes, so that a peer's second rpc costs a dictionary look-up.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography import x509

from edgenode.link.errors import Unauthenticated
from edgenode.link.identity.certificates import (
    CLIENT_AUTH,
    MAX_CERTIFICATE_BYTES,
    bad_certificate,
    certificate_to_der,
    check_usage,
    spiffe_name,
)
from edgenode.link.identity.names import SpiffeName


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a client's certificate says. `expire_time` is wall clock, seconds."""

    name: SpiffeName
    serial: int
    der: bytes
    expire_time: float


def peer_identity(auth_context: Mapping[str, Iterable[bytes]]) -> SpiffeName:
    """The name of the client, from `ServicerContext.auth_context()`. Raises as `peer_certificate`."""
    return peer_certificate(auth_context).name


def peer_certificate(auth_context: Mapping[str, Iterable[bytes]]) -> PeerCertificate:
    """The client's certificate. Raises Unauthenticated (NO_CERTIFICATE, BAD_CERTIFICATE)."""
    certificates = list(auth_context.get("x509_pem_cert", ()))
    if len(certificates) != 1:
        raise no_certificate()
    return read_client_certificate(certificates[0])


@functools.lru_cache(maxsize=4096)
def read_client_certificate(pem: bytes) -> PeerCertificate:
    """What a verified client certificate (PEM) says. Raises Unauthenticated (NO_CERTIFICATE, BAD_CERTIFICATE)."""
    if not pem:
        raise no_certificate()
    if len(pem) > 2 * MAX_CERTIFICATE_BYTES:
        raise bad_certificate("it is too large")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise bad_certificate(f"it cannot be read: {error}") from error
    check_usage(certificate, CLIENT_AUTH)
    return PeerCertificate(
        name=spiffe_name(certificate),
        serial=certificate.serial_number,
        der=certificate_to_der(certificate),
        expire_time=certificate.not_valid_after_utc.timestamp(),
    )


def no_certificate() -> Unauthenticated:
    """The error for a client that showed none."""
    return Unauthenticated(
        "NO_CERTIFICATE", "the caller showed no client certificate", hint="dial with the identity that `join` made"
    )
