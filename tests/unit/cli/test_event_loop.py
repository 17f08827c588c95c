from __future__ import annotations

import asyncio
import sys

import pytest

from edgenode.link.config import EVENT_LOOPS
from edgenode.link.errors import FailedPrecondition
from edgenode.link.terminal.event_loop import run_on


async def running() -> str:
    return type(asyncio.get_running_loop()).__module__


@pytest.mark.parametrize("event_loop", EVENT_LOOPS)
def test_it_runs_on_the_loop_that_was_asked_for(event_loop: str) -> None:
    assert run_on(event_loop, running).partition(".")[0] == event_loop


def test_a_loop_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(FailedPrecondition) as caught:
        run_on("uvloop", running)
    assert caught.value.reason == "EXTRA_MISSING"
    assert run_on("asyncio", running).startswith("asyncio")
