"""Counts of what was refused for want of room, by reason, in the ledger of the store."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from edgenode.link.errors import EdgenodeError
from edgenode.link.store import logs
from edgenode.link.store.database import Database

_log = logging.getLogger(__name__)


class Refusals:
    """Adds to the counter `name`. One write at a time: what is refused meanwhile goes with the next."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        self._counts: Counter[str] = Counter()
        self._writer: asyncio.Task[None] | None = None

    def note(self, reason: str, count: int) -> None:
        """So many were refused."""
        self._counts[reason] += count
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="refusals")

    async def _write(self) -> None:
        try:
            while self._counts:
                counts, self._counts = self._counts, Counter()
                changes = [(self._name, reason, count) for reason, count in counts.items()]
                try:
                    await self._database.write(lambda connection, c=changes: logs.count_many(connection, c))  # type: ignore[misc]
                except EdgenodeError as error:
                    self._counts += counts  # with the next refusal
                    _log.warning("refusals could not be counted: %s", error)
                    return
        finally:
            self._writer = None

    async def close(self) -> None:
        """Wait for what is being written. Safe to call twice."""
        while self._writer is not None:
            await asyncio.wait([self._writer])
