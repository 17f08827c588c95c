"""Who may use a bridge: programs of this machine that know its token.

The token is one line in a file of the node's state directory that its owner alone can read; whoever starts a bridge makes it.
It says nothing to the node: a bridge speaks to it as itself, and hands nobody's credentials on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgenode.link.errors import FailedPrecondition, Unauthenticated

TOKEN_FILE = "bridge.token"
KEY_FILE = "bridge.key"
SCHEME = "Bearer"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request is from."""

    name: str


class Authenticator(Protocol):
    """Knows callers by what their requests carry."""

    def authenticate(self, authorization: str) -> Caller:
        """The caller by the value of its Authorization header, empty if it sent none. Raises Unauthenticated."""
        ...


class BearerToken:
    """Everybody who knows the token is the same caller."""

    def __init__(self, token: str, path: Path | None = None) -> None:
        self._token = token.encode()
        self._where = str(path) if path is not None else "the node's state directory"

    def authenticate(self, authorization: str) -> Caller:
        """See Authenticator."""
        scheme, _, given = authorization.strip().partition(" ")
        if not given or scheme.lower() != SCHEME.lower():
            raise Unauthenticated(
                "NO_TOKEN",
                "the request carries no bearer token",
                hint=f"send `Authorization: {SCHEME} TOKEN` with the line of {self._where}",
            )
        if not secrets.compare_digest(given.strip().encode(), self._token):
            raise Unauthenticated("BAD_TOKEN", "the bearer token is another one", hint=f"it stands in {self._where}")
        return Caller("owner")


def bridge_token(state: Path) -> BearerToken:
    """The token of a node's bridges, made if there is none. Raises FailedPrecondition (TOKEN_EXPOSED, TOKEN_EMPTY)."""
    path = state / TOKEN_FILE
    return BearerToken(_secret(path), path)


def state_key(state: Path) -> bytes:
    """The key that seals what a bridge has its callers carry, made if there is none. Raises as `bridge_token` does."""
    return _secret(state / KEY_FILE).encode()


def _secret(path: Path) -> str:
    if not path.exists():
        _make(path)
    if path.stat().st_mode & 0o077:
        raise FailedPrecondition(
            "TOKEN_EXPOSED", f"others can read {path}", hint=f"chmod 600 {path}, or remove it to get a new one"
        )
    secret = path.read_text().strip()
    if not secret:
        raise FailedPrecondition("TOKEN_EMPTY", f"{path} is empty", hint="remove it to get a new one")
    return secret


def _make(path: Path) -> None:
    """Two bridges may start at once: the file appears whole, and the first one's stays."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
