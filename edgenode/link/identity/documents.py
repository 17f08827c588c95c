"""Documents that a hub signed, e.g. a desired state: checked by the edge before anything in them is believed.

Imports `cryptography`; an edge loads this module when the first document comes, not at start.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgenode.link.errors import Unauthenticated
from edgenode.link.identity.certificates import (
    DOCUMENT_SIGNING,
    certificate_from_der,
    certificates_from_pem,
    verify_chain,
)
from edgenode.link.identity.names import Kind, SpiffeName


def verify_document(
    document: bytes, signature: bytes, chain: Sequence[bytes], root: bytes, trust_domain: str, at: float
) -> SpiffeName:
    """The hub that signed `document`.

    `signature` is ECDSA P-256 with SHA-256 over the document, DER; `chain` the signer's certificate and its issuer's, DER;
    `root` the fleet's root, PEM; `at` wall clock, seconds. Raises Unauthenticated (BAD_CERTIFICATE, BAD_SIGNATURE).
    """
    if len(chain) != 2:
        raise _bad_signature(f"its chain has {len(chain)} certificates, not 2")
    leaf, intermediate = (certificate_from_der(der) for der in chain)
    name = verify_chain(leaf, intermediate, _load_root(root), DOCUMENT_SIGNING, at)
    if name.kind is not Kind.HUB or name.trust_domain != trust_domain:
        raise _bad_signature(f"its signer {name} is no hub of {trust_domain}")
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _bad_signature("its signer's key is not an elliptic curve's")
    try:
        key.verify(signature, document, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise _bad_signature("the signature is not over these bytes") from None
    return name


def _load_root(pem: bytes) -> x509.Certificate:
    return certificates_from_pem(pem, "root")[0]


def _bad_signature(what: str) -> Unauthenticated:
    return Unauthenticated(
        "BAD_SIGNATURE",
        f"the document is not the hub's: {what}",
        hint="the last good one stays in force; see the hub's log",
    )
