"""Join tokens: `enj1_<id>_<secret>_<root hash>_<checksum>`, one line that a person can paste.

    id          `<node>.<16 random characters>`: says whom it admits; the hub keeps it and is the one that decides
    secret      32 random bytes, base32; the hub stores their SHA-256 only
    root hash   SHA-256 of the fleet's root certificate (DER), hex: the joining node trusts a hub by it, and nothing else
    checksum    CRC-32 of all before it, hex: tells a slip of the hand from a wrong token

No part holds `_`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass, field

from edgenode.link.errors import InvalidArgument
from edgenode.link.model.names import check_name

PREFIX = "enj1"
SECRET_BYTES = 32

_ID = re.compile(r"(?P<node>[a-z0-9-]{1,63})\.[a-z2-7]{16}")
_SECRET = re.compile(r"[a-z2-7]{52}")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A join token taken apart. Its `repr` shows no secret."""

    token_id: str
    secret: bytes = field(repr=False)
    root_hash: bytes

    @property
    def node(self) -> str:
        """The node it admits."""
        return self.token_id.partition(".")[0]

    @property
    def secret_hash(self) -> bytes:
        """What the hub keeps of the secret."""
        return hash_secret(self.secret)

    def text(self) -> str:
        """The line a person pastes. Secret."""
        body = f"{PREFIX}_{self.token_id}_{_base32(self.secret)}_{self.root_hash.hex()}"
        return f"{body}_{_checksum(body)}"


def make_join_token(node: str, root_hash: bytes) -> JoinToken:
    """A fresh token for `node`; `root_hash` is the SHA-256 of the root's DER. Raises InvalidArgument (BAD_NAME)."""
    check_name(node, "node")
    return JoinToken(f"{node}.{_base32(secrets.token_bytes(10))}", secrets.token_bytes(SECRET_BYTES), root_hash)


def parse_join_token(text: str) -> JoinToken:
    """Take a pasted token apart; white space around it is forgiven. Raises InvalidArgument (BAD_TOKEN) saying why."""
    parts = text.strip().split("_")
    if parts[0] != PREFIX:
        raise _bad("prefix", "it does not begin with enj1_", "copy the whole line that `edgehub token create` printed")
    if len(parts) != 5:
        raise _bad("parts", f"it has {len(parts)} parts, not 5", "it was cut or run together: copy the whole line")
    if not secrets.compare_digest(parts[4].encode(), _checksum("_".join(parts[:4])).encode()):
        raise _bad("checksum", "its checksum does not match", "it was mistyped or altered: copy it again")
    # Past this point the token is as its maker wrote it, so the maker is at fault.
    hint = "it was not made by this software: create another with `edgehub token create`"
    match = _ID.fullmatch(parts[1])
    if match is None:
        raise _bad("id", "its id is malformed", hint)
    try:
        check_name(match["node"], "token")
    except InvalidArgument:
        raise _bad("id", "its id names no node", hint) from None
    if _SECRET.fullmatch(parts[2]) is None:
        raise _bad("secret", "its secret is malformed", hint)
    if _HASH.fullmatch(parts[3]) is None:
        raise _bad("root hash", "its root hash is malformed", hint)
    secret = base64.b32decode(parts[2].upper() + "====")
    if _base32(secret) != parts[2]:
        raise _bad("secret", "its secret is malformed", hint)
    return JoinToken(parts[1], secret, bytes.fromhex(parts[3]))


def hash_secret(secret: bytes) -> bytes:
    """What is stored of a secret. A plain hash is enough for 32 random bytes: there is nothing to guess from."""
    return hashlib.sha256(secret).digest()


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _bad(part: str, message: str, hint: str) -> InvalidArgument:
    # The token itself is never shown: what is wrong with it may be one character.
    return InvalidArgument("BAD_TOKEN", f"this is no join token: {message}", hint=hint, field="token", part=part)
