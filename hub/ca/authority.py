"""The hub's authority: what `edgehub init` makes, and what a running hub signs with it.

Files under STATE/ca (directory 0700, files 0600):

    authority.json       trust domain and hub name
    root.key             the root's key: to be taken offline; the hub never reads it
    root.pem             the root's certificate
    edge-ca.pem          key and certificate that sign edges
    retired-edge-ca.pem  certificates of edge-cas that were rotated away, where there are any; their keys are gone
    hub-ca.pem           key and certificate that sign this hub's own
    documents.pem        key and certificate that sign desired states
    hub.pem              key and certificate of the hub's TLS listeners; made anew by `renew_hub_leaf`

A key and its certificate share a file, which is replaced whole, so no crash can part them. The directory itself is built
under another name and renamed: it is there complete or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgenode.link.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, Unauthenticated
from edgenode.link.identity.certificates import (
    CLIENT_AUTH,
    DOCUMENT_SIGNING,
    SERVER_AUTH,
    certificate_from_der,
    certificate_to_der,
    certificate_to_pem,
    certificates_from_pem,
    check_csr,
    damaged,
    issued_by,
    key_from_pem,
    key_to_pem,
    new_key,
    public_key_hash,
    verify_chain,
)
from edgenode.link.identity.credentials import KeyPair
from edgenode.link.identity.files import make_private_directory, sync_directory, write_private_file
from edgenode.link.identity.lifetime import CLOCK_SKEW, RENEW_SHARE
from edgenode.link.identity.names import Kind, SpiffeName, check_trust_domain, edge_name, hub_name
from edgenode.link.ports import Clock
from hub.ca.ports import IssuedCertificate
from hub.ca.profiles import (
    LEAF_LIFE,
    Issuer,
    build_document_signer,
    build_edge,
    build_hub,
    build_intermediate,
    build_root,
)

FORMAT = 1
RETIRED = "retired-edge-ca.pem"


@dataclass(frozen=True, slots=True)
class AuthorityInfo:
    """What `edgehub init` tells the operator."""

    trust_domain: str
    hub: str
    root_hash: str  # SHA-256 of the root's DER, hex
    root_key: Path  # to be taken offline
    root_certificate: Path


class Authority:
    """Signs edges, this hub's own certificate and documents. Works without the root's key."""

    def __init__(
        self,
        directory: Path,
        name: SpiffeName,
        root: x509.Certificate,
        edge_ca: Issuer,
        hub_ca: Issuer,
        documents: Issuer,
        hub: Issuer,
        clock: Clock,
        leaf_life: float,
        retired: Sequence[x509.Certificate] = (),
    ) -> None:
        self._directory = directory
        self._name = name
        self._root = root
        self._edge_ca = edge_ca
        self._hub_ca = hub_ca
        self._documents = documents
        self._hub = hub
        self._clock = clock
        self._leaf_life = leaf_life
        self._retired = tuple(retired)

    @classmethod
    def load(cls, state_dir: Path, clock: Clock, *, leaf_life: float = LEAF_LIFE) -> Authority:
        """The authority that `init_authority` made. `leaf_life` is how long what it signs lives, in seconds.

        Raises FailedPrecondition (NOT_INITIALISED), DataLoss (IDENTITY_DAMAGED, STATE_TOO_NEW) naming the file.
        """
        directory = state_dir / "ca"
        if not directory.is_dir():
            raise FailedPrecondition(
                "NOT_INITIALISED",
                f"{state_dir} holds no hub",
                hint=f"make one first: edgehub init --state {state_dir} --domain DOMAIN",
            )
        name = _read_facts(directory / "authority.json")
        root_file = directory / "root.pem"
        root = certificates_from_pem(_read(root_file), str(root_file))[0]
        edge_ca = read_pair(directory / "edge-ca.pem")
        return cls(
            directory,
            name,
            root,
            edge_ca=edge_ca,
            hub_ca=read_pair(directory / "hub-ca.pem"),
            documents=read_pair(directory / "documents.pem"),
            hub=read_pair(directory / "hub.pem"),
            clock=clock,
            leaf_life=leaf_life,
            # A rotation that was cut short has named the one in use already.
            retired=[retired for retired in read_retired(directory) if retired != edge_ca.certificate],
        )

    @property
    def trust_domain(self) -> str:
        """The fleet's domain."""
        return self._name.trust_domain

    @property
    def hub(self) -> str:
        """The hub's name."""
        return self._name.node

    @property
    def root_certificate(self) -> bytes:
        """The root, DER."""
        return certificate_to_der(self._root)

    @property
    def begin_time(self) -> float:
        """When the fleet was made, wall clock, seconds: no clock that says less is right."""
        return self._root.not_valid_before_utc.timestamp()

    @property
    def root_hash(self) -> bytes:
        """SHA-256 of the root's DER, 32 bytes: what join tokens carry."""
        return hashlib.sha256(self.root_certificate).digest()

    @property
    def edge_ca_certificate(self) -> bytes:
        """edge-ca, DER."""
        return certificate_to_der(self._edge_ca.certificate)

    @property
    def edge_ca_pem(self) -> bytes:
        """edge-ca and those before it, PEM: the anchors of listeners that members dial."""
        return certificate_to_pem(self._edge_ca.certificate, *self._retired)

    @property
    def hub_ca_certificate(self) -> bytes:
        """hub-ca, DER."""
        return certificate_to_der(self._hub_ca.certificate)

    def sign_edge(self, csr: bytes, node: str, generation: int) -> IssuedCertificate:
        """A certificate for `node` with the key that `csr` (PKCS#10, DER) proves; names in it are ignored.

        Raises InvalidArgument (BAD_CSR, BAD_NAME).
        """
        key = check_csr(csr)
        name = edge_name(self.trust_domain, node)
        # By a clock that is behind it would end before its CA began, and prove nothing for ever.
        now = max(self._clock.wall(), self._edge_ca.certificate.not_valid_before_utc.timestamp() + CLOCK_SKEW)
        return _issued(node, build_edge(name, generation, key, self._edge_ca, now, self._leaf_life), key)

    def read_edge(self, certificate: bytes) -> IssuedCertificate:
        """What a certificate (DER) that this authority signed says, whatever its dates; it may be from a retired edge-ca.

        Raises Unauthenticated (BAD_CERTIFICATE) for any other.
        """
        leaf = certificate_from_der(certificate)
        # Expired is forgiven, and so is not yet valid: it was signed here, when the clock was wrong.
        begin, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        at = min(max(self._clock.wall(), begin), end)
        issuer = next((retired for retired in self._retired if issued_by(leaf, retired)), self._edge_ca.certificate)
        name = verify_chain(leaf, issuer, self._root, CLIENT_AUTH, at)
        key = leaf.public_key()
        if (
            name.kind is not Kind.EDGE
            or name.trust_domain != self.trust_domain
            or not isinstance(key, ec.EllipticCurvePublicKey)
        ):
            raise Unauthenticated(
                "BAD_CERTIFICATE", f"{name} is no edge of {self.trust_domain}", hint="dial the hub of its own fleet"
            )
        return replace(_issued(name.node, leaf, key), retired=issuer in self._retired)

    def sign_document(self, document: bytes) -> tuple[bytes, tuple[bytes, bytes]]:
        """(signature, chain) for `edgenode.link.identity.documents.verify_document`; the chain is DER, signer first."""
        signature = self._documents.key.sign(document, ec.ECDSA(hashes.SHA256()))
        return signature, (certificate_to_der(self._documents.certificate), self.hub_ca_certificate)

    def hub_pair(self) -> KeyPair:
        """What the hub's listeners show: leaf and hub-ca."""
        chain = certificate_to_pem(self._hub.certificate, self._hub_ca.certificate)
        return KeyPair(key_to_pem(self._hub.key), chain)

    def hub_renewal_time(self) -> float:
        """When the hub's own certificate is to be made anew: at 60 % of its life, wall clock, seconds."""
        begin = self._hub.certificate.not_valid_before_utc.timestamp() + CLOCK_SKEW
        end = self._hub.certificate.not_valid_after_utc.timestamp()
        return begin + (end - begin) * RENEW_SHARE

    def renew_hub_leaf(self) -> bool:
        """Make the hub a new key and certificate if it is time; true if it did. Call at start and at `hub_renewal_time`.

        A new hub-ca signs both of its certificates anew, that of its listeners and that for documents. It waits for the disk.
        Raises OSError where that fails: the new pair is in use all the same, until the next start.
        """
        now = self._clock.wall()
        # A certificate that is not valid yet was made when the clock was wrong: as bad as an old one.
        begun = self._hub.certificate.not_valid_before_utc.timestamp() <= now
        if not issued_by(self._documents.certificate, self._hub_ca.certificate):
            self._documents = _issue(lambda key: build_document_signer(self._name, key, self._hub_ca, now))
            write_private_file(self._directory / "documents.pem", pair_pem(self._documents))
        known = issued_by(self._hub.certificate, self._hub_ca.certificate)
        if begun and known and now < self.hub_renewal_time():
            return False
        hub = _issue(lambda key: build_hub(self._name, key, self._hub_ca, now, self._leaf_life))
        self._hub = hub
        write_private_file(self._directory / "hub.pem", pair_pem(hub))
        return True


def init_authority(
    state_dir: Path, trust_domain: str, hub: str, clock: Clock, *, leaf_life: float = LEAF_LIFE
) -> AuthorityInfo:
    """Make a fleet's authority under `state_dir`.

    Raises InvalidArgument (BAD_DOMAIN, BAD_NAME), AlreadyExists (STATE_EXISTS); OSError when it cannot be written.
    """
    name = hub_name(check_trust_domain(trust_domain, "domain"), hub)
    directory = state_dir / "ca"
    if directory.exists():
        raise AlreadyExists(
            "STATE_EXISTS",
            f"{directory} holds a hub already",
            hint="use another --state; removing it would cut off every node that joined",
        )
    now = clock.wall()
    root_key = new_key()
    root = Issuer(build_root(trust_domain, root_key, now), root_key)
    edge_ca = _issue(lambda key: build_intermediate(trust_domain, "edge-ca", [CLIENT_AUTH], key, root, now))
    hub_usages = [SERVER_AUTH, DOCUMENT_SIGNING]
    hub_ca = _issue(lambda key: build_intermediate(trust_domain, "hub-ca", hub_usages, key, root, now))
    files = {
        "root.key": key_to_pem(root.key),
        "root.pem": certificate_to_pem(root.certificate),
        "edge-ca.pem": pair_pem(edge_ca),
        "hub-ca.pem": pair_pem(hub_ca),
        "documents.pem": pair_pem(_issue(lambda key: build_document_signer(name, key, hub_ca, now))),
        "hub.pem": pair_pem(_issue(lambda key: build_hub(name, key, hub_ca, now, leaf_life))),
        "authority.json": _facts(name),
    }
    _write_directory(directory, files)
    return AuthorityInfo(
        trust_domain=trust_domain,
        hub=hub,
        root_hash=hashlib.sha256(certificate_to_der(root.certificate)).hexdigest(),
        root_key=directory / "root.key",
        root_certificate=directory / "root.pem",
    )


def _write_directory(directory: Path, files: dict[str, bytes]) -> None:
    building = directory.with_name(f"{directory.name}.new")
    if building.exists():  # an init that was interrupted; nothing in it was ever used
        shutil.rmtree(building)
    make_private_directory(building)
    for file, data in files.items():
        write_private_file(building / file, data)
    building.rename(directory)
    sync_directory(directory.parent)


def _issue(build: Callable[[ec.EllipticCurvePublicKey], x509.Certificate]) -> Issuer:
    key = new_key()
    return Issuer(build(key.public_key()), key)


def _issued(node: str, certificate: x509.Certificate, key: ec.EllipticCurvePublicKey) -> IssuedCertificate:
    return IssuedCertificate(
        node=node,
        serial=certificate.serial_number,
        certificate=certificate_to_der(certificate),
        public_key_hash=public_key_hash(key),
        not_before=certificate.not_valid_before_utc.timestamp(),
        expire_time=certificate.not_valid_after_utc.timestamp(),
    )


def pair_pem(pair: Issuer) -> bytes:
    """Key and certificate as the files hold them."""
    return key_to_pem(pair.key) + certificate_to_pem(pair.certificate)


def read_pair(path: Path) -> Issuer:
    """What such a file holds. Raises DataLoss (IDENTITY_DAMAGED)."""
    pem = _read(path)
    key = key_from_pem(pem, str(path))
    certificate = certificates_from_pem(pem, str(path))[0]
    if certificate.public_key() != key.public_key():
        raise damaged(str(path), "key and certificate do not belong together")
    return Issuer(certificate, key)


def read_retired(directory: Path) -> list[x509.Certificate]:
    """The certificates of retired edge-cas."""
    path = directory / RETIRED
    return certificates_from_pem(path.read_bytes(), str(path)) if path.exists() else []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise damaged(str(path), "it is missing") from None


def _facts(name: SpiffeName) -> bytes:
    facts = {"format": FORMAT, "trust_domain": name.trust_domain, "hub": name.node}
    return json.dumps(facts, indent=2).encode() + b"\n"


def _read_facts(path: Path) -> SpiffeName:
    try:
        facts = json.loads(_read(path))
        if facts["format"] > FORMAT:
            raise DataLoss(
                "STATE_TOO_NEW", f"{path} was written by a newer version", hint="run the newer edgehub again", file=path
            )
        return hub_name(facts["trust_domain"], facts["hub"])
    except (ValueError, KeyError, TypeError, InvalidArgument) as error:
        raise damaged(str(path), f"it cannot be read: {error!r}") from error
