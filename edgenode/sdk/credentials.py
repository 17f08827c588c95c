"""Certificates for one node under test and its parent, made on the spot: the link under test is mutual TLS as on devices."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from edgenode.link.identity.certificates import CLIENT_AUTH, SERVER_AUTH, certificate_to_pem, key_to_pem, new_key
from edgenode.link.identity.credentials import KeyPair
from edgenode.link.identity.names import edge_name, hub_host, hub_name
from edgenode.node.identity import NodeIdentity

TRUST_DOMAIN = "test.invalid"
_LIFE = datetime.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class TestCredentials:
    """What the two ends show, and the one authority both trust (PEM)."""

    __test__ = False

    node: NodeIdentity
    parent: KeyPair
    authority: bytes


def make_credentials(node: str, parent: str, address: str) -> TestCredentials:
    """Credentials for `node` and its `parent`, which listens on `address` (HOST:PORT)."""
    issuer = _Issuer()
    authority = certificate_to_pem(issuer.certificate)
    edge = [x509.UniformResourceIdentifier(str(edge_name(TRUST_DOMAIN, node)))]
    hub = [x509.UniformResourceIdentifier(str(hub_name(TRUST_DOMAIN, parent))), x509.DNSName(hub_host(TRUST_DOMAIN))]
    identity = NodeIdentity(
        node=node,
        trust_domain=TRUST_DOMAIN,
        hub=parent,
        sync_address=address,
        enrollment_address=address,
        token_id="none",
        generation=1,
        not_before=issuer.not_before.timestamp(),
        expire_time=issuer.not_after.timestamp(),
        pair=issuer.issue(edge, CLIENT_AUTH),
        root=authority,
        hub_ca=authority,
        edge_ca=authority,
    )
    return TestCredentials(identity, issuer.issue(hub, SERVER_AUTH), authority)


class _Issuer:
    """A self-signed authority."""

    def __init__(self) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self.not_before, self.not_after = now - datetime.timedelta(minutes=5), now + _LIFE
        self._key = new_key()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgenode testing")])
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = builder.sign(self._key, hashes.SHA256())

    def issue(self, names: Sequence[x509.GeneralName], usage: ObjectIdentifier) -> KeyPair:
        """A fresh key with a certificate of these names for this usage."""
        key = new_key()
        builder = self._builder(x509.Name([]), key.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return KeyPair(key_to_pem(key), certificate_to_pem(builder.sign(self._key, hashes.SHA256())))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
        )
