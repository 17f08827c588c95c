"""What is held in memory for one stream: while it is too much, nothing more is read of whoever is at its other end."""

from __future__ import annotations

import asyncio

from edgenode.link.errors import ResourceExhausted

UNREAD_BYTES = 4 << 20  # of answers that a submitter has not read
UNREAD_CALL_BYTES = 64 << 20  # beyond that even the answers of calls are not kept for it, though nobody else has them
UNCOMMITTED_BYTES = 8 << 20  # of what came by a stream and is not stored yet
_ANSWER_BYTES = 64  # of an answer beside its contents, roughly


class Held:
    """Counts bytes, `most` of which may be held. One thing is always taken whole."""

    def __init__(self, most: int) -> None:
        self.size = 0
        self._most = most
        self._room = asyncio.Event()

    def add(self, size: int) -> None:
        """So many more."""
        self.size += size

    def remove(self, size: int) -> None:
        """So many less."""
        self.size -= size
        self._room.set()

    @property
    def full(self) -> bool:
        """Whether there is more than may be."""
        return self.size > self._most

    async def room(self) -> None:
        """Returns once the other end may be read again."""
        while self.full:
            self._room.clear()
            await self._room.wait()


class Unread(Held):
    """Answers, from the moment they wait to the end of their writing."""

    def __init__(self) -> None:
        super().__init__(UNREAD_BYTES)

    def answer(self, contents: int = 0) -> None:
        """One more waits, with so many bytes of contents."""
        self.size += _ANSWER_BYTES + contents

    @property
    def overfull(self) -> bool:
        """Whether there is so much that not even what cannot be had again is kept."""
        return self.size > UNREAD_CALL_BYTES


def answers_unread(size: int) -> ResourceExhausted:
    """The error of a call whose answer came while its caller had `size` bytes of answers to read."""
    return ResourceExhausted(
        "ANSWERS_UNREAD",
        f"{size} bytes of answers wait to be read, so that of this call was not kept",
        hint="read answers while you call, or submit: results of tasks wait in the store",
    )
