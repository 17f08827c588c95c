"""Certificates for one node under test and its parent, made on the spot: the link under test is mutual TLS as on devices."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from edgenode.link.identity.certificates import CLIENT_AUTH, SERVER_AUTH, certificate_to_pem, key_to_pem, new_key
from edgenode.link.identity.credentials import KeyPair
from edgenode.link.identity.names import edge_name, hub_host, hub_name
from edgenode.link.parent.identity import Facts, IdentityDirectory

TRUST_DOMAIN = "test.invalid"
_LIFE = datetime.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class ParentCredentials:
    """What a parent shows, and the authority that signed its child's certificate (PEM)."""

    pair: KeyPair
    authority: bytes


class Issuer:
    """A self-signed authority, root and both branches in one."""

    def __init__(self) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self._not_before, self._not_after = now - datetime.timedelta(minutes=5), now + _LIFE
        self._key = new_key()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgenode testing")])
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._authority = certificate_to_pem(builder.sign(self._key, hashes.SHA256()))

    def join(self, state_dir: Path, node: str, parent: str, address: str) -> None:
        """Makes `state_dir` that of a node which has joined the fleet of `parent` at `address` (HOST:PORT)."""
        facts = Facts(
            node=node,
            trust_domain=TRUST_DOMAIN,
            hub=parent,
            sync_address=address,
            enrollment_address=address,
            token_id="none",
            generation=1,
            not_before=self._not_before.timestamp(),
            expire_time=self._not_after.timestamp(),
        )
        pair = self._issue([x509.UniformResourceIdentifier(str(edge_name(TRUST_DOMAIN, node)))], CLIENT_AUTH)
        bundle = self._authority * 3  # root, hub-ca, edge-ca
        IdentityDirectory(state_dir).save(facts, pair.private_key, pair.certificate_chain, bundle)

    def parent(self, name: str) -> ParentCredentials:
        """For the parent's listener."""
        names = [
            x509.UniformResourceIdentifier(str(hub_name(TRUST_DOMAIN, name))),
            x509.DNSName(hub_host(TRUST_DOMAIN)),
        ]
        return ParentCredentials(self._issue(names, SERVER_AUTH), self._authority)

    def _issue(self, names: Sequence[x509.GeneralName], usage: ObjectIdentifier) -> KeyPair:
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
            .not_valid_before(self._not_before)
            .not_valid_after(self._not_after)
        )
