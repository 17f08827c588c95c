import datetime
import hashlib
import stat
from pathlib import Path
from typing import Any, Protocol

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from edgenode.link.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, Unauthenticated
from edgenode.link.identity.certificates import (
    CLIENT_AUTH,
    DOCUMENT_SIGNING,
    SERVER_AUTH,
    certificate_from_der,
    certificates_from_pem,
    key_from_pem,
    make_csr,
    new_key,
    spiffe_name,
    verify_chain,
)
from edgenode.link.identity.documents import verify_document
from edgenode.link.identity.peers import peer_certificate, peer_identity
from edgenode.link.ports import Clock
from hub.ca.authority import Authority, init_authority
from hub.ca.profiles import Issuer, build_edge, build_intermediate

DAY = 86_400.0


class MovableClock(Clock, Protocol):
    now: float


def issuers(authority: Authority) -> tuple[Issuer, x509.Certificate]:
    """edge-ca with its key, and the root."""
    return authority._edge_ca, x509.load_der_x509_certificate(authority.root_certificate)


def der(csr: x509.CertificateSigningRequest) -> bytes:
    return csr.public_bytes(serialization.Encoding.DER)


def test_init_writes_private_files_and_refuses_a_second_time(tmp_path: Path, clock: MovableClock) -> None:
    info = init_authority(tmp_path / "hub", "fleet.example", "main", clock)
    directory = tmp_path / "hub" / "ca"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {path.name for path in directory.iterdir()} == {
        "authority.json", "root.key", "root.pem", "edge-ca.pem", "hub-ca.pem", "documents.pem", "hub.pem",
    }  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    root = certificates_from_pem(info.root_certificate.read_bytes(), "root")[0]
    assert info.root_hash == hashlib.sha256(root.public_bytes(serialization.Encoding.DER)).hexdigest()
    before = info.root_certificate.read_bytes()
    with pytest.raises(AlreadyExists) as refusal:
        init_authority(tmp_path / "hub", "fleet.example", "main", clock)
    assert refusal.value.reason == "STATE_EXISTS"
    assert info.root_certificate.read_bytes() == before


def test_an_interrupted_init_can_be_repeated(tmp_path: Path, clock: MovableClock) -> None:
    (tmp_path / "ca.new").mkdir()
    (tmp_path / "ca.new" / "root.key").write_bytes(b"half")
    init_authority(tmp_path, "fleet.example", "main", clock)
    assert Authority.load(tmp_path, clock).trust_domain == "fleet.example"
    assert not (tmp_path / "ca.new").exists()


@pytest.mark.parametrize(("domain", "hub", "reason"), [("Fleet", "main", "BAD_DOMAIN"), ("fleet", "Main", "BAD_NAME")])
def test_init_refuses_bad_names(tmp_path: Path, clock: MovableClock, domain: str, hub: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        init_authority(tmp_path / "hub", domain, hub, clock)
    assert refusal.value.reason == reason
    assert not (tmp_path / "hub").exists()


def test_the_hub_runs_without_the_root_key(hub_state: Path, clock: MovableClock) -> None:
    (hub_state / "ca" / "root.key").unlink()
    authority = Authority.load(hub_state, clock)
    assert authority.sign_edge(make_csr(new_key()), "north", 1).node == "north"


def test_loading_says_what_is_missing_or_damaged(tmp_path: Path, hub_state: Path, clock: MovableClock) -> None:
    with pytest.raises(FailedPrecondition) as absent:
        Authority.load(tmp_path / "nothing", clock)
    assert absent.value.reason == "NOT_INITIALISED"
    directory = hub_state / "ca"
    for name, content in [
        ("hub.pem", b"no key here"),
        ("hub.pem", (directory / "edge-ca.pem").read_bytes()[:300] + (directory / "hub.pem").read_bytes()[300:]),
        ("edge-ca.pem", (directory / "root.key").read_bytes() + (directory / "root.pem").read_bytes()[:-40]),
        ("root.pem", b""),
        ("authority.json", b"{"),
        ("authority.json", b'{"format": 1, "trust_domain": "UPPER", "hub": "main"}'),
    ]:
        good = (directory / name).read_bytes()
        (directory / name).write_bytes(content)
        with pytest.raises(DataLoss) as damage:
            Authority.load(hub_state, clock)
        assert damage.value.reason == "IDENTITY_DAMAGED"
        assert damage.value.problem.metadata["file"].endswith(name)
        (directory / name).write_bytes(good)
    (directory / "authority.json").write_bytes(b'{"format": 9}')
    with pytest.raises(DataLoss) as newer:
        Authority.load(hub_state, clock)
    assert newer.value.reason == "STATE_TOO_NEW"


def test_a_key_and_the_certificate_of_another_are_refused(hub_state: Path, clock: MovableClock) -> None:
    directory = hub_state / "ca"
    key = (directory / "hub.pem").read_bytes().split(b"-----BEGIN CERTIFICATE-----")[0]
    other = (directory / "documents.pem").read_bytes()
    (directory / "hub.pem").write_bytes(key + other[other.index(b"-----BEGIN CERTIFICATE-----") :])
    with pytest.raises(DataLoss) as damage:
        Authority.load(hub_state, clock)
    assert "belong together" in damage.value.problem.message


def test_an_edge_certificate(authority: Authority, clock: MovableClock) -> None:
    key = new_key()
    issued = authority.sign_edge(make_csr(key), "north", 3)
    certificate = certificate_from_der(issued.certificate)
    edge_ca, root = issuers(authority)
    name = verify_chain(certificate, edge_ca.certificate, root, CLIENT_AUTH, clock.now)
    assert name.uri == "spiffe://fleet.example/edge/north"
    assert certificate.public_key() == key.public_key()
    assert issued.generation == 3
    assert issued.not_before == int(clock.now - 300)
    assert issued.expire_time == int(clock.now + 7 * DAY)
    assert authority.read_edge(issued.certificate) == issued
    with pytest.raises(Unauthenticated):
        verify_chain(certificate, edge_ca.certificate, root, SERVER_AUTH, clock.now)


def test_what_a_request_says_of_itself_is_ignored(authority: Authority) -> None:
    key = new_key()
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "main")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([SERVER_AUTH, DOCUMENT_SIGNING]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.UniformResourceIdentifier("spiffe://fleet.example/hub/main"),
                    x509.DNSName("hub.fleet.example"),
                ]
            ),
            critical=False,
        )
    )
    issued = authority.sign_edge(der(builder.sign(key, hashes.SHA256())), "north", 1)
    certificate = certificate_from_der(issued.certificate)
    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://fleet.example/edge/north")]
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [CLIENT_AUTH]
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "north"


def _tampered() -> bytes:
    csr = bytearray(make_csr(new_key()))
    csr[-1] ^= 1
    return bytes(csr)


def _swapped_key() -> bytes:
    """A request that carries one key and is signed by another."""
    one, other = new_key(), new_key()
    point = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    return make_csr(one).replace(one.public_key().public_bytes(*point), other.public_key().public_bytes(*point))


_EMPTY = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))


@pytest.mark.parametrize(
    ("csr", "said"),
    [
        (b"", "cannot be read"),
        (b"\x30\x00", "cannot be read"),
        (b"x" * 10_000, "bytes"),
        (der(_EMPTY.sign(rsa.generate_private_key(65537, 2048), hashes.SHA256())), "P-256"),
        (der(_EMPTY.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256())), "P-256"),
        (der(_EMPTY.sign(ec.generate_private_key(ec.SECP256K1()), hashes.SHA256())), "P-256"),
        (der(_EMPTY.sign(ed25519.Ed25519PrivateKey.generate(), None)), "P-256"),
        (_tampered(), "signed"),
        (_swapped_key(), "signed"),
    ],
    ids=["empty", "junk", "huge", "rsa", "p384", "k256", "ed25519", "tampered", "swapped-key"],
)
def test_requests_that_are_refused(authority: Authority, csr: bytes, said: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        authority.sign_edge(csr, "north", 1)
    assert refusal.value.reason == "BAD_CSR"
    assert said in refusal.value.problem.message


def test_a_certificate_is_read_whatever_its_dates_and_a_foreign_one_refused(
    tmp_path: Path, authority: Authority, clock: MovableClock
) -> None:
    issued = authority.sign_edge(make_csr(new_key()), "north", 1)
    clock.now += 400 * DAY
    assert authority.read_edge(issued.certificate) == issued
    clock.now -= 800 * DAY
    assert authority.read_edge(issued.certificate) == issued
    clock.now += 400 * DAY
    init_authority(tmp_path / "other", "fleet.example", "main", clock)
    other = Authority.load(tmp_path / "other", clock)
    with pytest.raises(Unauthenticated) as foreign:
        authority.read_edge(other.sign_edge(make_csr(new_key()), "north", 1).certificate)
    with pytest.raises(Unauthenticated) as hub:
        authority.read_edge(authority._hub.certificate.public_bytes(serialization.Encoding.DER))
    with pytest.raises(Unauthenticated) as junk:
        authority.read_edge(b"junk")
    assert {error.value.reason for error in (foreign, hub, junk)} == {"BAD_CERTIFICATE"}


def test_a_certificate_signed_with_a_clock_before_the_fleet_holds(authority: Authority, clock: MovableClock) -> None:
    clock.now -= 365 * DAY
    issued = authority.sign_edge(make_csr(new_key()), "north", 1)
    clock.now += 365 * DAY
    assert authority.read_edge(issued.certificate) == issued


def test_the_hub_renews_its_own_certificate(hub_state: Path, authority: Authority, clock: MovableClock) -> None:
    first = authority.hub_pair()
    assert authority.renew_hub_leaf() is False
    assert authority.hub_renewal_time() == pytest.approx(clock.now + 0.6 * 7 * DAY, abs=2)
    clock.now = authority.hub_renewal_time()
    assert authority.renew_hub_leaf() is True
    second = authority.hub_pair()
    assert second.private_key != first.private_key
    leaf, hub_ca = certificates_from_pem(second.certificate_chain, "hub")
    _, root = issuers(authority)
    name = verify_chain(leaf, hub_ca, root, SERVER_AUTH, clock.now)
    assert name.uri == "spiffe://fleet.example/hub/main"
    assert leaf.public_key() == key_from_pem(second.private_key, "hub").public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub.fleet.example"]
    assert Authority.load(hub_state, clock).hub_pair() == second
    assert "PRIVATE" not in repr(second)


def test_a_hub_certificate_from_the_future_is_made_anew(authority: Authority, clock: MovableClock) -> None:
    clock.now -= 30 * DAY
    assert authority.renew_hub_leaf() is True


class TestDocuments:
    def verify(self, authority: Authority, clock: MovableClock, **changed: Any) -> str:
        signature, chain = authority.sign_document(b"desired")
        arguments: dict[str, Any] = {
            "document": b"desired",
            "signature": signature,
            "chain": chain,
            "root": x509.load_der_x509_certificate(authority.root_certificate).public_bytes(serialization.Encoding.PEM),
            "trust_domain": "fleet.example",
            "at": clock.now,
        }
        return verify_document(**{**arguments, **changed}).uri

    def test_the_hub_s_own(self, authority: Authority, clock: MovableClock) -> None:
        assert self.verify(authority, clock) == "spiffe://fleet.example/hub/main"
        # An edge that was long away must still believe the last document.
        assert self.verify(authority, clock, at=clock.now + 300 * DAY) == "spiffe://fleet.example/hub/main"

    def test_anything_else(self, tmp_path: Path, authority: Authority, clock: MovableClock) -> None:
        signature, (signer, hub_ca) = authority.sign_document(b"desired")
        init_authority(tmp_path / "other", "fleet.example", "main", clock)
        foreign_signature, foreign_chain = Authority.load(tmp_path / "other", clock).sign_document(b"desired")
        edge_key = new_key()
        edge = authority.sign_edge(make_csr(edge_key), "north", 1).certificate
        tls = authority._hub.certificate.public_bytes(serialization.Encoding.DER)
        tls_signature = authority._hub.key.sign(b"desired", ec.ECDSA(hashes.SHA256()))
        edge_signature = edge_key.sign(b"desired", ec.ECDSA(hashes.SHA256()))
        cases: list[tuple[str, dict[str, Any]]] = [
            ("BAD_SIGNATURE", {"document": b"desired!"}),
            ("BAD_SIGNATURE", {"signature": signature[:-1]}),
            ("BAD_SIGNATURE", {"signature": b""}),
            ("BAD_SIGNATURE", {"chain": (signer,)}),
            ("BAD_SIGNATURE", {"chain": ()}),
            ("BAD_SIGNATURE", {"trust_domain": "other.example"}),
            ("BAD_CERTIFICATE", {"chain": (signer, signer)}),
            ("BAD_CERTIFICATE", {"chain": (b"junk", hub_ca)}),
            ("BAD_CERTIFICATE", {"signature": foreign_signature, "chain": foreign_chain}),
            ("BAD_CERTIFICATE", {"signature": edge_signature, "chain": (edge, authority.edge_ca_certificate)}),
            ("BAD_CERTIFICATE", {"signature": tls_signature, "chain": (tls, hub_ca)}),
            ("BAD_CERTIFICATE", {"at": clock.now + 6 * 365 * DAY}),
        ]
        for reason, changed in cases:
            with pytest.raises(Unauthenticated) as refusal:
                self.verify(authority, clock, **changed)
            assert refusal.value.reason == reason, changed

    def test_edge_ca_cannot_make_a_signer(self, authority: Authority, clock: MovableClock) -> None:
        edge_ca, _ = issuers(authority)
        key = new_key()
        forged = forge(
            edge_ca, key, [x509.UniformResourceIdentifier("spiffe://fleet.example/hub/main")], DOCUMENT_SIGNING
        )
        signature = key.sign(b"desired", ec.ECDSA(hashes.SHA256()))
        chain = (forged.public_bytes(serialization.Encoding.DER), authority.edge_ca_certificate)
        with pytest.raises(Unauthenticated) as refusal:
            self.verify(authority, clock, signature=signature, chain=chain)
        assert refusal.value.reason == "BAD_CERTIFICATE"


def forge(
    issuer: Issuer,
    key: ec.EllipticCurvePrivateKey,
    names: list[x509.GeneralName],
    usage: x509.ObjectIdentifier | None,
    *,
    ca: bool = False,
) -> x509.Certificate:
    """A certificate as no profile of ours makes it."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


NORTH = x509.UniformResourceIdentifier("spiffe://fleet.example/edge/north")


@pytest.mark.parametrize(
    ("names", "usage", "ca"),
    [
        ([], CLIENT_AUTH, False),
        ([x509.DNSName("north")], CLIENT_AUTH, False),
        ([NORTH, x509.UniformResourceIdentifier("spiffe://fleet.example/edge/south")], CLIENT_AUTH, False),
        ([x509.UniformResourceIdentifier("spiffe://fleet.example/edge/../hub/main")], CLIENT_AUTH, False),
        ([x509.UniformResourceIdentifier("spiffe://fleet.example//edge/north")], CLIENT_AUTH, False),
        ([x509.UniformResourceIdentifier("spiffe://fleet.example/edge/north%2f")], CLIENT_AUTH, False),
        ([x509.UniformResourceIdentifier("spiffe://fleet.example:80/edge/north")], CLIENT_AUTH, False),
        ([x509.UniformResourceIdentifier("spiffe://Fleet.example/edge/north")], CLIENT_AUTH, False),
        ([NORTH], None, False),
        ([NORTH], SERVER_AUTH, False),
        ([NORTH], CLIENT_AUTH, True),
    ],
    ids=["none", "dns", "two", "dots", "slashes", "percent", "port", "upper", "no-usage", "server", "ca"],
)
def test_client_certificates_that_prove_nothing(
    authority: Authority, names: list[x509.GeneralName], usage: x509.ObjectIdentifier | None, ca: bool
) -> None:
    edge_ca, _ = issuers(authority)
    pem = forge(edge_ca, new_key(), names, usage, ca=ca).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(Unauthenticated) as refusal:
        peer_identity({"x509_pem_cert": [pem]})
    assert refusal.value.reason == "BAD_CERTIFICATE"


def test_a_client_is_known_by_its_certificate(authority: Authority) -> None:
    issued = authority.sign_edge(make_csr(new_key()), "north", 2)
    certificate = certificate_from_der(issued.certificate)
    context = {"x509_pem_cert": [certificate.public_bytes(serialization.Encoding.PEM)]}
    assert peer_identity(context) == spiffe_name(certificate)
    peer = peer_certificate(context)
    assert (peer.serial, peer.der, peer.expire_time) == (issued.serial, issued.certificate, issued.expire_time)
    nothings: list[dict[str, list[bytes]]] = [{}, {"x509_pem_cert": []}, {"x509_pem_cert": [b""]}]
    for nothing in nothings:
        with pytest.raises(Unauthenticated) as refusal:
            peer_identity(nothing)
        assert refusal.value.reason == "NO_CERTIFICATE"
    with pytest.raises(Unauthenticated) as junk:
        peer_identity({"x509_pem_cert": [b"junk"]})
    assert junk.value.reason == "BAD_CERTIFICATE"


def test_an_intermediate_of_a_leaf_is_none(authority: Authority, clock: MovableClock) -> None:
    """An edge that signs a certificate with its own key gains nothing."""
    _, root = issuers(authority)
    key = new_key()
    name = authority.read_edge(authority.sign_edge(make_csr(key), "north", 1).certificate)
    leaf = certificate_from_der(name.certificate)
    forged = forge(Issuer(leaf, key), new_key(), [NORTH], CLIENT_AUTH)
    with pytest.raises(Unauthenticated):
        verify_chain(forged, leaf, root, CLIENT_AUTH, clock.now)


def test_certificates_end_with_their_issuer(clock: MovableClock, authority: Authority) -> None:
    edge_ca, root = issuers(authority)
    name = spiffe_name(certificate_from_der(authority.sign_edge(make_csr(new_key()), "north", 1).certificate))
    leaf = build_edge(name, 1, new_key().public_key(), edge_ca, clock.now, 100 * 365 * DAY)
    assert leaf.not_valid_after_utc == edge_ca.certificate.not_valid_after_utc
    late_now = clock.now + 3_000 * DAY
    late = build_intermediate("d", "edge-ca", [CLIENT_AUTH], new_key().public_key(), Issuer(root, new_key()), late_now)
    assert late.not_valid_after_utc == root.not_valid_after_utc
