"""What a caller of a stream was told and has not read: while it is too much, nothing more is read of the caller."""

from __future__ import annotations

import asyncio

UNREAD_BYTES = 4 << 20
_ANSWER_BYTES = 64  # of an answer beside its contents, roughly


class Unread:
    """Counts bytes of answers from the moment they wait to the end of their writing."""

    def __init__(self) -> None:
        self.size = 0
        self._room = asyncio.Event()

    def add(self, contents: int = 0) -> None:
        """One more answer waits, with so many bytes of contents."""
        self.size += _ANSWER_BYTES + contents

    def written(self, size: int) -> None:
        """So many bytes of what waited were written."""
        self.size -= size
        self._room.set()

    async def room(self) -> None:
        """Returns once the caller may be read again."""
        while self.size > UNREAD_BYTES:
            self._room.clear()
            await self._room.wait()
