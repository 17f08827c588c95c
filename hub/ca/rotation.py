"""Putting new CAs in the place of a hub's edge-ca and hub-ca, signed by the offline root.

Works on the state of a hub that is not running. Each file is replaced whole, and what is left to do after a crash is done by
the next start, which signs the hub's own certificates anew where another hub-ca signed them (`Authority.renew_hub_leaf`).

Edges. A retired edge-ca's certificate is kept until it expires, so that edges which have one of its certificates get in and
renew; but only with exactly the certificate that the hub knows of them, for its key may be what was lost. Edges trust the
hub-ca they know; one that is shown another asks for the fleet's certificates and believes them if its root vouches for them,
whenever that is (`edgenode.link.parent`). The root itself cannot be rotated: it is what a fleet is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgenode.link.errors import FailedPrecondition
from edgenode.link.identity.certificates import (
    CLIENT_AUTH,
    DOCUMENT_SIGNING,
    SERVER_AUTH,
    certificate_to_pem,
    certificates_from_pem,
    key_from_pem,
    new_key,
)
from edgenode.link.identity.files import write_private_file
from edgenode.link.identity.lifetime import CLOCK_SKEW
from edgenode.link.ports import Clock
from hub.ca.authority import RETIRED, Authority, pair_pem, read_pair, read_retired
from hub.ca.profiles import Issuer, build_intermediate

EDGE_CA = "edge-ca"
HUB_CA = "hub-ca"
USAGES = {EDGE_CA: [CLIENT_AUTH], HUB_CA: [SERVER_AUTH, DOCUMENT_SIGNING]}


@dataclass(frozen=True, slots=True)
class Rotated:
    """A CA that was put in place; `expire_time` is wall clock, seconds."""

    title: str
    expire_time: float


def rotate(state_dir: Path, root_key: Path, titles: list[str], clock: Clock) -> list[Rotated]:
    """Put new CAs in the place of those named (EDGE_CA, HUB_CA).

    Raises FailedPrecondition (NOT_INITIALISED, ROOT_KEY_UNREADABLE, WRONG_ROOT_KEY, CLOCK_WRONG), DataLoss (IDENTITY_DAMAGED).
    """
    authority = Authority.load(state_dir, clock)
    directory = state_dir / "ca"
    root = certificates_from_pem((directory / "root.pem").read_bytes(), "root.pem")[0]
    key = _read_key(root_key)
    if key.public_key() != root.public_key():
        raise FailedPrecondition(
            "WRONG_ROOT_KEY",
            f"{root_key} is not the key of this fleet's root",
            hint=f"give the key that `edgehub init` made together with {directory / 'root.pem'}",
            file=root_key,
        )
    made = []
    for title in titles:
        path = directory / f"{title}.pem"
        before = read_pair(path).certificate
        _check_clock(title, before, clock.wall())
        if title == EDGE_CA:
            _retire(directory, before, clock.wall())
        new = new_key()
        certificate = build_intermediate(
            authority.trust_domain, title, USAGES[title], new.public_key(), Issuer(root, key), clock.wall()
        )
        write_private_file(path, pair_pem(Issuer(certificate, new)))
        made.append(Rotated(title, certificate.not_valid_after_utc.timestamp()))
    return made


def _check_clock(title: str, before: x509.Certificate, now: float) -> None:
    # Nodes believe no CA that is older than the one they know.
    if now - CLOCK_SKEW < before.not_valid_before_utc.timestamp():
        raise FailedPrecondition(
            "CLOCK_WRONG",
            f"the present {title} was made later than the clock of this machine says it is",
            hint="set the clock, then rotate",
        )


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        return key_from_pem(path.read_bytes(), str(path))
    except OSError as error:
        raise FailedPrecondition(
            "ROOT_KEY_UNREADABLE",
            f"{path} cannot be read: {error.strerror}",
            hint="give the file in which the root's key is kept offline",
            file=path,
        ) from error


def _retire(directory: Path, certificate: x509.Certificate, now: float) -> None:
    """Keep a certificate, and let go of those that have expired. Before the new one is in place, so that none gets lost."""
    kept = [retired for retired in read_retired(directory) if retired.not_valid_after_utc.timestamp() > now]
    if certificate not in kept:
        kept.append(certificate)
    write_private_file(directory / RETIRED, certificate_to_pem(*kept))
