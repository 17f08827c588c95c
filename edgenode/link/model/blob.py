"""Names of blobs: content too large for a payload, known by its SHA-256."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgenode.link.errors import InvalidArgument

PREFIX = "sha256:"
PIECE_BYTES = 256 * 1024  # what one frame carries at most, and what one checksum is of
MAX_REFERENCES = 64  # that one input or result may hold
MAX_NAME = 255
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,126}")
_LARGEST = 1 << 62


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A blob's name: `digest` (`sha256:` and 64 hexadecimal digits) and `size` in bytes say which content it is.

    `media_type` (empty: application/octet-stream) and `name` are what whoever refers to it calls it. A field of a dataclass, a
    msgspec struct or a pydantic model may be one. Raises InvalidArgument (BAD_BLOB_REF).
    """

    digest: str
    size: int
    media_type: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if _DIGEST.fullmatch(self.digest) is None:
            raise _bad(f"the digest is {self.digest[:100]!r}", "expected sha256: and 64 hexadecimal digits, lower case")
        if not 0 <= self.size <= _LARGEST:
            raise _bad(f"the size is {self.size}", "expected bytes, 0 or more")
        if self.media_type and _MEDIA_TYPE.fullmatch(self.media_type) is None:
            raise _bad(f"the media type is {self.media_type[:100]!r}", "e.g. image/png")
        if len(self.name) > MAX_NAME or "/" in self.name or not (self.name.isprintable()):
            raise _bad(f"the name is {self.name[:100]!r}", f"at most {MAX_NAME} printable characters, without /")

    @property
    def file_name(self) -> str:
        """What to call it in a directory: not hidden, whatever others call it, and nothing but a file in there."""
        return self.name.lstrip(".") or self.digest.removeprefix(PREFIX)


def check_digest(digest: str, field: str = "digest") -> str:
    """Raises InvalidArgument (BAD_DIGEST)."""
    if _DIGEST.fullmatch(digest) is None:
        raise InvalidArgument(
            "BAD_DIGEST",
            f"{field} is {digest[:100]!r}",
            hint="expected sha256: and 64 hexadecimal digits, lower case",
            field=field,
        )
    return digest


def _bad(what: str, hint: str) -> InvalidArgument:
    return InvalidArgument("BAD_BLOB_REF", what, hint=hint)
