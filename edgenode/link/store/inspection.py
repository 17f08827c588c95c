"""A store that nobody has open, looked at and left as it is: for checks while the service is stopped."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from edgenode.link.errors import DataLoss, EdgenodeError, FailedPrecondition, NotFound
from edgenode.link.store.database import Statement
from edgenode.link.store.failures import open_error

T = TypeVar("T")


class Inspection:
    """Reads as `Database.read` does, on the caller's thread; use it with `with`.

    SQLite may fold the write-ahead log into the file, as whoever opens the store next would; nothing else is written.
    """

    def __init__(self, path: Path, application_id: int, schema_version: int) -> None:
        """Opens it.

        Raises NotFound (NO_STORE), FailedPrecondition (STATE_IN_USE, WRONG_STATE, OTHER_SCHEMA), DataLoss (STATE_DAMAGED),
        Unavailable (STORE_FAILED).
        """
        if not path.exists():
            raise NotFound(
                "NO_STORE", f"there is no {path}", hint="check --state; it is made when the service first runs"
            )
        self._path = str(path)
        try:
            self._connection = sqlite3.connect(self._path, isolation_level=None)
        except sqlite3.Error as error:
            raise open_error(self._path, error) from error
        try:
            self._prepare(application_id, schema_version)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, application_id: int, schema_version: int) -> None:
        connection = self._connection
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA query_only = ON")
            owner = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute("BEGIN")  # one instant for everything, and nobody else's from here on
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error as error:
            raise open_error(self._path, error) from error
        if owner != application_id:
            raise FailedPrecondition(
                "WRONG_STATE", f"{self._path} was made by another program", hint="give edge and hub a --state each"
            )
        if version != schema_version:
            raise FailedPrecondition(
                "OTHER_SCHEMA",
                f"{self._path} has schema {version}, this version looks at {schema_version}",
                hint="use the version that ran last, or start the service",
            )

    async def read(self, function: Statement[T]) -> T:
        """Run `function` of the connection. Raises what it raises, or DataLoss (STATE_DAMAGED)."""
        try:
            return function(self._connection)
        except sqlite3.Error as error:
            failure: EdgenodeError = open_error(self._path, error)
            if isinstance(failure, DataLoss):
                raise failure from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
