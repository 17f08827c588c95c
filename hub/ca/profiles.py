"""The certificates of a fleet as they are built; `edgenode.link.identity.certificates` draws the tree and checks them."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from edgenode.link.identity.certificates import CLIENT_AUTH, DOCUMENT_SIGNING, SERVER_AUTH
from edgenode.link.identity.lifetime import CLOCK_SKEW
from edgenode.link.identity.names import SpiffeName, hub_host
from hub.ca.ports import SERIAL_RANDOM_BITS

DAY = 86_400.0
ROOT_LIFE = 3_652 * DAY
INTERMEDIATE_LIFE = 1_826 * DAY
LEAF_LIFE = 7 * DAY


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA's certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def build_root(trust_domain: str, key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    """The self-signed root."""
    name = _subject(trust_domain, "root")
    builder = _builder(name, name, key.public_key(), key.public_key(), now, now + ROOT_LIFE)
    return _as_ca(builder, path_length=1).sign(key, hashes.SHA256())


def build_intermediate(
    trust_domain: str,
    title: str,
    usages: Sequence[ObjectIdentifier],
    key: ec.EllipticCurvePublicKey,
    root: Issuer,
    now: float,
) -> x509.Certificate:
    """edge-ca or hub-ca, confined to `usages`."""
    end = min(now + INTERMEDIATE_LIFE, root.certificate.not_valid_after_utc.timestamp())
    builder = _builder(
        _subject(trust_domain, title), root.certificate.subject, key, root.key.public_key(), now, end
    ).add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return _as_ca(builder, path_length=0).sign(root.key, hashes.SHA256())


def build_edge(
    name: SpiffeName, generation: int, key: ec.EllipticCurvePublicKey, issuer: Issuer, now: float, life: float
) -> x509.Certificate:
    """An edge's certificate; its serial number begins with the generation."""
    serial = generation << SERIAL_RANDOM_BITS | secrets.randbits(SERIAL_RANDOM_BITS)
    return _leaf(name, CLIENT_AUTH, [], key, issuer, now, life, serial)


def build_hub(
    name: SpiffeName, key: ec.EllipticCurvePublicKey, issuer: Issuer, now: float, life: float
) -> x509.Certificate:
    """A hub's TLS certificate."""
    return _leaf(name, SERVER_AUTH, [x509.DNSName(hub_host(name.trust_domain))], key, issuer, now, life)


def build_document_signer(
    name: SpiffeName, key: ec.EllipticCurvePublicKey, issuer: Issuer, now: float
) -> x509.Certificate:
    """The certificate a hub signs documents with. It lives as long as its issuer: documents outlive a hub's TLS leaf."""
    return _leaf(name, DOCUMENT_SIGNING, [], key, issuer, now, INTERMEDIATE_LIFE)


def _leaf(
    name: SpiffeName,
    usage: ObjectIdentifier,
    other_names: Sequence[x509.GeneralName],
    key: ec.EllipticCurvePublicKey,
    issuer: Issuer,
    now: float,
    life: float,
    serial: int | None = None,
) -> x509.Certificate:
    end = min(now + life, issuer.certificate.not_valid_after_utc.timestamp())
    builder = _builder(
        _subject(name.trust_domain, name.node),
        issuer.certificate.subject,
        key,
        issuer.key.public_key(),
        now,
        end,
        serial,
    )
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name.uri), *other_names]), critical=False
        )
        .sign(issuer.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now: float,
    end: float,
    serial: int | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number() if serial is None else serial)
        .not_valid_before(_date(now - CLOCK_SKEW))
        .not_valid_after(_date(end))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _as_ca(builder: x509.CertificateBuilder, path_length: int) -> x509.CertificateBuilder:
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True).add_extension(
        _key_usage(ca=True), critical=True
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(trust_domain: str, title: str) -> x509.Name:
    # A common name holds at most 64 characters; nothing decides by it, so a long domain is cut.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, title),
        ]
    )


def _date(wall: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(wall), datetime.UTC)
