"""What a transaction is made of: writes that wait for their commit, and what became of them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from edgenode.link.model.lanes import Lane

TRANSACTION_BYTES = 8 * 1024 * 1024
TRANSACTION_ROWS = 256

T = TypeVar("T")
Statement = Callable[[sqlite3.Connection], T]
Result = tuple[Any, Exception | None]


class Unsure(Exception):
    """A commit failed. `done` has the results of writes that were committed before, `unsure` those of the commit."""

    def __init__(self, done: list[Result], unsure: list[Result], error: sqlite3.Error) -> None:
        super().__init__(error)
        self.done = done
        self.unsure = unsure
        self.error = error


class Write(Generic[T]):
    """A write that waits for its commit."""

    __slots__ = ("function", "future", "lane", "rows", "size")

    def __init__(self, function: Statement[T], future: asyncio.Future[T], size: int, rows: int, lane: Lane) -> None:
        self.function = function
        self.future = future
        self.size = size
        self.rows = rows
        self.lane = lane


class WriteQueue:
    """Writes in the order they came, but for urgent ones, which go before all others, and patient ones, which go with the
    next transaction that somebody else begins, and begin one themselves when their patience ends.

    A transaction has so many bytes and rows at most, so that what is urgent never waits long for one that has begun; and one
    write at least that is not urgent, if there is any, so that nothing waits for ever.
    """

    def __init__(self) -> None:
        self._urgent: list[Write[Any]] = []
        self._others: list[Write[Any]] = []
        self._patient: list[Write[Any]] = []
        self._due = False  # the patient ones have waited long enough
        self._patience: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many ask for a transaction."""
        return len(self._urgent) + len(self._others) + (len(self._patient) if self._due else 0)

    def add(self, write: Write[Any], urgent: bool) -> None:
        """At the end of its kind."""
        (self._urgent if urgent else self._others).append(write)

    def add_patient(self, write: Write[Any], seconds: float, over: Callable[[], None]) -> None:
        """As one of those that wait for others to go with; `over()` is called when they have waited long enough."""
        self._patient.append(write)
        if self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(seconds, self._end_patience, over)

    def _end_patience(self, over: Callable[[], None]) -> None:
        self.end_patience()
        over()

    def end_patience(self) -> None:
        """They have waited long enough."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._due = bool(self._patient)

    def take(self) -> list[Write[Any]]:
        """The next transaction."""
        batch, self._urgent, size, rows = _first(self._urgent, 0, 0)
        more, self._others, _, _ = _first(self._others, size, rows)
        patient, self._patient, self._due = self._patient, [], False
        return batch + more + patient

    def take_all(self) -> list[Write[Any]]:
        """Everything that waits."""
        batch = self._urgent + self._others + self._patient
        self._urgent, self._others, self._patient = [], [], []
        return batch


def _first(writes: list[Write[Any]], size: int, rows: int) -> tuple[list[Write[Any]], list[Write[Any]], int, int]:
    """(the first, one at least, that keep to the bounds with `size` and `rows` there already; the others; both sums)."""
    for number, write in enumerate(writes):
        size, rows = size + write.size, rows + write.rows
        if number and (size > TRANSACTION_BYTES or rows > TRANSACTION_ROWS):
            return writes[:number], writes[number:], size, rows
    return writes, [], size, rows


def value_of(result: T) -> T | None:
    """What a write returned. A cursor that nobody closes keeps the file open, whoever closes the connection."""
    if isinstance(result, sqlite3.Cursor):
        result.close()
        return None
    return result


def roll_back(connection: sqlite3.Connection) -> None:
    """End a transaction that failed."""
    # Some errors (a full disk) roll back by themselves.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
