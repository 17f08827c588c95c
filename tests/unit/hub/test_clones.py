"""Two processes that live and say nothing but their greetings."""

from __future__ import annotations

from typing import Any, cast

import pytest

from edgenode.link.errors import Aborted, PermissionDenied
from edgenode.link.model.frames import Hello
from edgenode.link.model.problem import Problem
from edgenode.link.ports import SystemClock
from edgenode.link.protocol.events import CHALLENGE
from hub.services.clones import CloneWatch


class Hub:
    """What the watch did: who was quarantined, and who let in again."""

    def __init__(self) -> None:
        self.quarantined: list[str] = []
        self.again: list[str | None] = []
        self._challenges = 0
        store = cast("Any", self)
        self.watch = CloneWatch(store, store, SystemClock(), self._challenge, self._end)

    def _challenge(self) -> str:
        self._challenges += 1
        return f"challenge-{self._challenges}"

    def _end(self, node: str, problem: Problem) -> None:
        pass

    async def quarantine(self, node: str, now: float) -> None:
        self.quarantined.append(node)

    async def forget_processes(self, node: str, boot_id: str | None = None) -> None:
        self.again.append(boot_id)

    async def proves(self, boot_id: str, newest: str) -> None:
        """An outdated process dials, and repeats what it is asked to repeat."""
        with pytest.raises(Aborted) as caught:
            await self.watch.outdated("north", newest, Hello("north", boot_id, 1, (), (), ()))
        challenge = str(caught.value.problem.metadata[CHALLENGE])
        await self.watch.outdated("north", newest, Hello("north", boot_id, 1, (), (), (), challenge=challenge))


async def test_two_that_only_greet_change_places_once_and_are_found_out() -> None:
    hub = Hub()
    await hub.proves("first", newest="second")
    assert (hub.again, hub.quarantined) == (["first"], [])
    with pytest.raises(PermissionDenied, match="CLONED_IDENTITY"):
        await hub.proves("second", newest="first")
    assert (hub.again, hub.quarantined) == (["first"], ["north"])


async def test_a_release_forgets_who_was_heard() -> None:
    hub = Hub()
    hub.watch.answered("north", "second")
    cast("Any", hub).release = _released
    assert await hub.watch.release("north")
    await hub.proves("first", newest="second")
    assert hub.quarantined == []


async def _released(node: str) -> bool:
    return True
