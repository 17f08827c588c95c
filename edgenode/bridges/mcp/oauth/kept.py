"""What is kept of a login: the tokens of one mount for one server, in a file that only its owner may read.

Two processes write it: the bridge when it has refreshed the token, `edgenode mcp login` when a person has logged in. Each
change is made of what the file holds at that moment, under a lock, and appears whole or not at all. A record names the server
it is for; one of another server, that an earlier mount of the name had, counts as none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgenode.link.errors import FailedPrecondition
from edgenode.link.identity.files import make_private_directory, write_private_file

DIRECTORY = Path("mcp") / "oauth"  # of the node's state directory


class Challenge(msgspec.Struct, frozen=True):
    """Why a server refused a request: the status, and its WWW-Authenticate header."""

    status: int
    header: str = ""


class Record(msgspec.Struct, frozen=True):
    """`tokens`, `client`, `authorization_server`, `resource`: as OAuth has them, None while there are none.

    `expires_at`: wall-clock seconds, 0 if the token does not say. `challenge`: what the server last wanted of a person.
    """

    server: str
    tokens: dict[str, Any] | None = None
    expires_at: float = 0.0
    client: dict[str, Any] | None = None
    authorization_server: dict[str, Any] | None = None
    resource: dict[str, Any] | None = None
    challenge: Challenge | None = None

    @property
    def access_token(self) -> str:
        """Empty if there is none."""
        return str(self.tokens["access_token"]) if self.tokens else ""

    @property
    def scope(self) -> str:
        """Scopes of the token, separated by spaces."""
        return str(self.tokens.get("scope") or "") if self.tokens else ""


class Kept:
    """The file of the mount `name` below the node's state directory, for the server at a URL."""

    def __init__(self, state: Path, name: str, server: str) -> None:
        self._path = _place(state, name)
        self._server = server

    def read(self) -> Record:
        """What there is. Raises FailedPrecondition (TOKENS_EXPOSED, TOKENS_UNREADABLE)."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return Record(self._server)
        except OSError as error:
            raise FailedPrecondition(
                "TOKENS_UNREADABLE", f"{self._path}: {error.strerror}", hint="its owner is to be the node's user"
            ) from error
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(descriptor).st_mode & 0o077:
                raise FailedPrecondition(
                    "TOKENS_EXPOSED", f"others can read {self._path}", hint="remove it, and log in again"
                )
            try:
                record = msgspec.json.decode(file.read(), type=Record)
            except msgspec.DecodeError as error:
                raise FailedPrecondition(
                    "TOKENS_UNREADABLE", f"{self._path} is not what was written", hint="remove it, and log in again"
                ) from error
        return record if record.server == self._server else Record(self._server)

    def change(self, change: Callable[[Record], Record]) -> Record:
        """Makes of what there is something else; what it returns is on disk. Raises as `read`, and OSError."""
        make_private_directory(self._path.parent)
        with self._locked():
            before = self.read()
            after = change(before)
            if after != before:
                write_private_file(self._path, msgspec.json.encode(after))
        return after

    def forget(self) -> None:
        """Removes the file."""
        self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._path.with_name(".lock"), "w", opener=_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def forget(state: Path, name: str) -> None:
    """Removes what is kept of one mount, for whatever server."""
    _place(state, name).unlink(missing_ok=True)


def forget_others(state: Path, names: Collection[str]) -> None:
    """Removes what is kept of mounts that are not among `names`: they were removed while nobody was there to see it."""
    for path in (state / DIRECTORY).glob("*.json"):
        if path.stem not in names:
            path.unlink(missing_ok=True)


def _place(state: Path, name: str) -> Path:
    return state / DIRECTORY / f"{name}.json"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
