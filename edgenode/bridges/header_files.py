"""Files of header lines, e.g. with a token, that requests to a mounted server carry."""

from __future__ import annotations

from pathlib import Path

from edgenode.bridges.private_files import read_private
from edgenode.link.errors import InvalidArgument

_EXPECTED = "write lines like `Authorization: Bearer TOKEN`"


def read_headers(path: Path) -> dict[str, str]:
    """The header lines of a file. Raises InvalidArgument (BAD_HEADERS_FILE) also for one that others may read."""
    text = read_private(path, "BAD_HEADERS_FILE", "headers_file", _EXPECTED)
    headers = {}
    for number, line in enumerate((line.strip() for line in text.splitlines()), 1):
        name, colon, value = line.partition(":")
        if not line or line.startswith("#"):
            continue
        if not colon or not name.strip().isascii() or not value.strip():
            raise InvalidArgument(
                "BAD_HEADERS_FILE", f"{path}: line {number} is no header", hint=_EXPECTED, field="headers_file"
            )
        headers[name.strip()] = value.strip()
    return headers
