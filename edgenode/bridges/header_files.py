"""Files of header lines, e.g. with a token, that requests to a mounted server carry."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TextIO

from edgenode.link.errors import InvalidArgument


def read_headers(path: Path) -> dict[str, str]:
    """The header lines of a file. Raises InvalidArgument (BAD_HEADERS_FILE) also for one that others may read."""
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise _bad_headers(path, "others than its owner may read it", f"chmod 600 {path}")
            lines = [line.strip() for line in _lines(file)]
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_headers(path, str(error), "write lines like `Authorization: Bearer TOKEN`") from error
    headers = {}
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        if not line or line.startswith("#"):
            continue
        if not colon or not name.strip().isascii() or not value.strip():
            raise _bad_headers(path, f"line {number} is no header", "write lines like `Authorization: Bearer TOKEN`")
        headers[name.strip()] = value.strip()
    return headers


def _lines(file: TextIO) -> list[str]:
    return file.read(64 * 1024).splitlines()


def _bad_headers(path: Path, what: str, hint: str) -> InvalidArgument:
    return InvalidArgument("BAD_HEADERS_FILE", f"{path}: {what}", hint=hint, field="headers_file")
