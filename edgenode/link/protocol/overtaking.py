"""Two queues on the way to one place: what is prompt overtakes the others, and they still get there."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Overtaking(Generic[T]):
    """What is in `prompt` goes first, but of two in a row one at least is of the `others`, if there are any."""

    __slots__ = ("_passed", "others", "prompt")

    def __init__(self) -> None:
        self.prompt: deque[T] = deque()
        self.others: deque[T] = deque()
        self._passed = False  # the last was prompt

    def __len__(self) -> int:
        return len(self.prompt) + len(self.others)

    def pop(self, *, others: bool = True) -> T | None:
        """The next, None for nothing. `others`: whether they may go at all."""
        others = others and bool(self.others)
        self._passed = bool(self.prompt) and not (self._passed and others)
        if self._passed:
            return self.prompt.popleft()
        return self.others.popleft() if others else None

    def clear(self) -> None:
        """Nothing waits any more."""
        self.prompt.clear()
        self.others.clear()
