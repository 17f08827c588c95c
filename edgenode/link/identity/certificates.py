"""What both ends must agree on about keys, requests and certificates.

    root (offline)                    P-256, signs the two below, trusted by its hash in the join token
      edge-ca  usage: clientAuth      signs the edges; the only anchor of hubs
        edge   usage: clientAuth      one URI SAN, days of life
      hub-ca   usage: serverAuth,     signs the hubs; the only anchor of edges
               documentSigning
        hub    usage: serverAuth      one URI SAN and the DNS SAN hub.<trust domain>
        signer usage: documentSigning one URI SAN; signs desired states, cannot serve

The usages of the two middle certificates keep the branches apart: one that edge-ca signed can neither serve nor sign
documents, whatever it says of itself, and both grpc's TLS and `verify_chain` hold that.

This module needs `cryptography` (12 MB of memory, tens of milliseconds to load): a running edge does without until it
renews its certificate or is given a signed document, so nothing that it loads at start may import this module.
"""

from __future__ import annotations

import datetime
import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from edgenode.link.errors import DataLoss, InvalidArgument, Unauthenticated
from edgenode.link.identity.names import SpiffeName, parse_spiffe

CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")  # RFC 9336

MAX_CERTIFICATE_BYTES = 8 * 1024
MAX_CSR_BYTES = 8 * 1024


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_from_pem(pem: bytes, source: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in `pem`. Raises DataLoss (IDENTITY_DAMAGED) naming `source`."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise damaged(source, f"no private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise damaged(source, "the key is not P-256")
    return key


def certificates_from_pem(pem: bytes, source: str) -> list[x509.Certificate]:
    """The certificates in `pem`, at least one. Raises DataLoss (IDENTITY_DAMAGED) naming `source`."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise damaged(source, f"no certificate: {error}") from error


def certificate_from_der(der: bytes) -> x509.Certificate:
    """A certificate a peer sent. Raises Unauthenticated (BAD_CERTIFICATE)."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise bad_certificate(f"it has {len(der)} bytes, more than {MAX_CERTIFICATE_BYTES}")
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise bad_certificate(f"it cannot be read: {error}") from error


def certificate_to_pem(*certificates: x509.Certificate) -> bytes:
    """PEM, in order."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def certificate_to_der(certificate: x509.Certificate) -> bytes:
    """DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def public_key_hash(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of the key's SubjectPublicKeyInfo."""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).digest()


def make_csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A PKCS#10 request in DER that proves possession of `key`. It names nobody: the signer ignores names anyway."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def check_csr(der: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key that a request proves. All else in it (names, extensions) is ignored.

    Raises InvalidArgument (BAD_CSR): unreadable, not P-256, or not signed by the key it carries.
    """
    if len(der) > MAX_CSR_BYTES:
        raise _bad_csr(f"it has {len(der)} bytes, more than {MAX_CSR_BYTES}")
    try:
        csr = x509.load_der_x509_csr(der)
        key = csr.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad_csr(f"it cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad_csr("its key is not P-256")
    try:
        valid = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise _bad_csr(f"its signature cannot be checked: {error}") from error
    if not valid:
        raise _bad_csr("it is not signed by the key it carries")
    return key


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key signed a certificate; looks at nothing else."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def spiffe_name(certificate: x509.Certificate) -> SpiffeName:
    """The one member a leaf names: exactly one URI SAN, strictly parsed. Raises Unauthenticated (BAD_CERTIFICATE)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except ValueError as error:
        raise bad_certificate(f"its extensions cannot be read: {error}") from error
    if len(uris) != 1:
        raise bad_certificate(f"it has {len(uris)} URI names, not exactly one")
    try:
        return parse_spiffe(uris[0])
    except InvalidArgument as error:
        raise bad_certificate(error.problem.message) from error


def check_usage(certificate: x509.Certificate, usage: ObjectIdentifier) -> None:
    """That a leaf is for exactly `usage` and is no CA. Raises Unauthenticated (BAD_CERTIFICATE)."""
    try:
        extensions = certificate.extensions
        usages = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound as error:
        raise bad_certificate(f"it lacks the extension {error.oid._name}") from error
    except ValueError as error:
        raise bad_certificate(f"its extensions cannot be read: {error}") from error
    if is_ca:
        raise bad_certificate("it is a CA's")
    if usages != [usage]:
        raise bad_certificate(f"it is not for {usage._name if usage != DOCUMENT_SIGNING else 'documentSigning'} alone")


def verify_chain(
    leaf: x509.Certificate,
    intermediate: x509.Certificate,
    root: x509.Certificate,
    usage: ObjectIdentifier,
    at: float,
) -> SpiffeName:
    """The member that `leaf` names, once leaf, intermediate and root hold together for `usage` at `at` (wall, seconds).

    Raises Unauthenticated (BAD_CERTIFICATE).
    """

    def for_usage(_policy: object, _certificate: object, usages: x509.ExtendedKeyUsage | None) -> None:
        if usages is not None and usage not in usages:
            raise ValueError("its issuer may not sign such certificates")

    issuers = (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, verification.Criticality.CRITICAL, None)
        .require_present(x509.KeyUsage, verification.Criticality.CRITICAL, None)
        .may_be_present(x509.ExtendedKeyUsage, verification.Criticality.AGNOSTIC, for_usage)
    )
    leaves = verification.ExtensionPolicy.permit_all().require_present(
        x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None
    )
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store([root]))
        .time(datetime.datetime.fromtimestamp(at, datetime.UTC))
        .max_chain_depth(1)
        .extension_policies(ca_policy=issuers, ee_policy=leaves)
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, [intermediate])
    except (verification.VerificationError, ValueError) as error:
        raise bad_certificate(f"its chain does not hold: {error}") from error
    check_usage(leaf, usage)
    return spiffe_name(leaf)


def damaged(source: str, what: str) -> DataLoss:
    """The error for a file of ours that cannot be used."""
    return DataLoss(
        "IDENTITY_DAMAGED", f"{source}: {what}", hint="restore it from a backup, or make it anew", file=source
    )


def bad_certificate(what: str) -> Unauthenticated:
    """The error for a peer's certificate that proves nothing."""
    return Unauthenticated(
        "BAD_CERTIFICATE", f"the certificate proves nothing: {what}", hint="join the fleet again with a fresh token"
    )


def _bad_csr(what: str) -> InvalidArgument:
    return InvalidArgument(
        "BAD_CSR",
        f"the certificate request is not usable: {what}",
        hint="send a PKCS#10 request in DER for a P-256 key, signed by it",
        field="csr",
    )
