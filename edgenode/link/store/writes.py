"""What a transaction is made of: writes that wait for their commit, and what became of them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from edgenode.link.model.lanes import Lane
from edgenode.link.store.budget import Budget

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

    __slots__ = ("function", "future", "lane", "rows", "size", "urgent")

    def __init__(
        self,
        function: Statement[T],
        future: asyncio.Future[T],
        size: int,
        rows: int,
        lane: Lane,
        urgent: bool = False,
    ) -> None:
        self.function = function
        self.future = future
        self.size = size
        self.rows = rows
        self.lane = lane
        self.urgent = urgent


class WriteQueue:
    """Writes in the order they came, but for urgent ones, which go before all others, and patient ones, which go with the
    next transaction that somebody else begins, and begin one themselves when their patience ends.

    A transaction has so many bytes and rows at most. One that has begun takes urgent ones along that come meanwhile and ends
    with them: what it has not done then is put back. Urgent ones that come between two transactions have one for themselves,
    but never two in a row while others wait: the second takes one of those along, so that nothing waits for ever.

    The event loop adds, and between its transactions the database's thread takes and puts back; what it does at once with
    either end of a deque nobody can come between.
    """

    def __init__(self) -> None:
        self._urgent: deque[Write[Any]] = deque()
        self._others: deque[Write[Any]] = deque()
        self._passed = False  # the others had nothing of the last transaction
        self._aside: list[Write[Any]] = []  # the end of one that made room for urgent ones; none of it is urgent
        self._patient: deque[Write[Any]] = deque()
        self._due = False  # the patient ones have waited long enough
        self._patience: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many ask for a transaction."""
        return len(self._urgent) + len(self._others) + (len(self._patient) if self._due else 0)

    @property
    def urgent(self) -> bool:
        """Whether something urgent waits."""
        return bool(self._urgent)

    def add(self, write: Write[Any]) -> None:
        """At the end of its kind."""
        (self._urgent if write.urgent else self._others).append(write)

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
        batch = _first(self._urgent)
        if not batch:
            batch = _first(self._others)
        elif self._passed:
            batch.append(self._others.popleft())
        self._passed = bool(self._others) and all(write.urgent for write in batch)
        self._due = False
        while self._patient:
            batch.append(self._patient.popleft())
        return batch

    def run(self, connection: sqlite3.Connection, batch: list[Write[Any]], *, along: bool) -> list[Result]:
        """Call the functions of a transaction, on the database's thread.

        `along`: what is urgent and has come meanwhile is done after the first of them that is not; `batch` becomes what was
        done, the rest of it is put aside.
        """
        results: list[Result] = []
        for write in batch:
            results.append((value_of(write.function(connection)), None))
            if along and self._urgent and not batch[0].urgent:
                break
        if along:
            self._aside = batch[len(results) :]
            batch[len(results) :] = _first(self._urgent)
            results += [(value_of(write.function(connection)), None) for write in batch[len(results) :]]
        return results

    def put_back(self) -> None:
        """What was put aside is next."""
        self._others.extendleft(reversed(self._aside))
        self._aside = []

    def take_all(self) -> list[Write[Any]]:
        """Everything that waits."""
        batch = [*self._urgent, *self._others, *self._patient]
        self._urgent.clear()
        self._others.clear()
        self._patient.clear()
        self._passed = False
        return batch


def _first(writes: deque[Write[Any]]) -> list[Write[Any]]:
    """Takes the first, one at least, that keep to the bounds."""
    batch: list[Write[Any]] = []
    size = rows = 0
    while writes:
        size, rows = size + writes[0].size, rows + writes[0].rows
        if batch and (size > TRANSACTION_BYTES or rows > TRANSACTION_ROWS):
            break
        batch.append(writes.popleft())
    return batch


def tell(batch: Sequence[Write[Any]], results: Sequence[Result], budget: Budget) -> list[Exception]:
    """Tell the writers of a transaction what became of each; gives the failures."""
    for write, (value, failure) in zip(batch, results, strict=True):
        if write.size:
            budget.admit(write.lane, -write.size)
        if write.future.done():
            continue
        if failure is None:
            write.future.set_result(value)
        else:
            write.future.set_exception(failure)
    return [failure for _, failure in results if failure is not None]


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
