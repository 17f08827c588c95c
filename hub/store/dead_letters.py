"""What the hub gave up and keeps, in SQLite: entries that nodes would not take, and tasks whose attempts are used up."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from edgenode.link.model.dead_letter import DeadLetter, LetterBounds
from edgenode.link.model.lanes import Lane, Rejection, Segment
from edgenode.link.store import dead_letters, logs
from edgenode.link.store.database import Database
from edgenode.link.store.seals import SEAL_BYTES
from hub.store.records import TaskRecord


@dataclasses.dataclass(frozen=True, slots=True)
class LetterKeeper:
    """Keeps letters inside the transactions of others.

    `extract` reads an entry of a segment, `describe` makes a task that was given up a letter without its size, `wall` is the
    wall clock in seconds.
    """

    bounds: LetterBounds
    extract: dead_letters.Extract
    describe: Callable[[TaskRecord], DeadLetter]
    wall: Callable[[], float]

    def keep_rejected(
        self, connection: sqlite3.Connection, node: str, lane: Lane, log_name: str, rejections: Sequence[Rejection]
    ) -> None:
        """The node would not take these entries of its log."""
        dead_letters.add_rejected(connection, lane, log_name, rejections, node, self.wall(), self.bounds, self.extract)

    def keep_tasks(self, connection: sqlite3.Connection, tasks: Sequence[TaskRecord]) -> None:
        """These tasks ended DEAD_LETTERED."""
        letters = []
        for task in tasks:
            size = connection.execute(
                "SELECT max(length(spec) - ?, 0) FROM task_spec JOIN task USING (task_number) WHERE task_id = ?",
                (SEAL_BYTES, task.task_id),
            ).fetchone()[0]
            letters.append(dataclasses.replace(self.describe(task), size=size))
        dead_letters.add(connection, letters, self.bounds)


class SqliteDeadLetterStore:
    """hub.store.ports.DeadLetterStore. `pack` makes segments of task entries."""

    def __init__(self, database: Database, pack: Callable[[Sequence[bytes]], Sequence[Segment]]) -> None:
        self._database = database
        self._pack = pack

    async def page(self, before: int, size: int) -> Sequence[DeadLetter]:
        """See DeadLetterStore."""
        return await self._database.read(lambda connection: dead_letters.page(connection, before, size))

    async def find(self, numbers: Sequence[int] | None) -> Sequence[DeadLetter]:
        """See DeadLetterStore."""
        return await self._database.read(lambda connection: dead_letters.find(connection, numbers))

    async def grants(self, node: str, limit: int) -> Sequence[DeadLetter]:
        """See DeadLetterStore."""
        return await self._database.read(lambda connection: dead_letters.grants(connection, node, limit))

    async def drop(self, numbers: Sequence[int] | None, reason: str) -> int:
        """See DeadLetterStore."""
        return await self._database.write(lambda connection: dead_letters.drop(connection, numbers, reason))

    async def replayed(self, numbers: Sequence[int]) -> None:
        """See DeadLetterStore."""
        await self.drop(numbers, dead_letters.REPLAYED)

    async def send_again(self, letters: Sequence[DeadLetter], log_of: Callable[[str], str]) -> Mapping[str, int]:
        """See DeadLetterStore."""

        def run(connection: sqlite3.Connection) -> dict[str, int]:
            by_node: dict[str, list[bytes]] = defaultdict(list)
            for letter in letters:
                if dead_letters.drop(connection, [letter.number], dead_letters.REPLAYED):
                    by_node[letter.node].append(letter.payload)
            last = {}
            for node, payloads in by_node.items():
                log = logs.log_state(connection, log_of(node))
                last[node] = logs.append(connection, log.log_id, self._pack(payloads)) + len(payloads) - 1
            return last

        return await self._database.write(run)
