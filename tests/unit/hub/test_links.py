from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.model.problem import Code, Problem
from edgenode.link.ports import SystemClock
from edgenode.link.protocol.events import MOVED, Peer
from hub.services.alarm import Alarm
from hub.services.links import Links
from hub.services.view import FleetView
from hub.store.records import NodeRow

MOVE = Problem(Code.CANCELLED, MOVED, "moves")


@dataclass
class Session:
    """A session of a node."""

    boot_id: str
    established: bool = True
    sent: list[sync_pb2.Frame] = field(default_factory=list)

    @property
    def peer(self) -> Peer:
        return Peer("north", self.boot_id, 1, 1)

    def send(self, frame: sync_pb2.Frame) -> bool:
        self.sent.append(frame)
        return True

    def close(self, problem: Problem) -> None:
        self.sent.append(sync_pb2.Frame(go_away=sync_pb2.GoAway()))


class Handlers:
    """Who came and went."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def node_connected(self, node: str, applied_version: int) -> None:
        self.told.append(f"{node} up")

    def node_disconnected(self, node: str, problem: Problem) -> None:
        self.told.append(f"{node} down")

    def session_began(self, node: str) -> None:
        """What the exchange of blobs is told."""

    def session_ended(self, node: str) -> None:
        """What the exchange of blobs is told."""


def make() -> tuple[Links, Handlers]:
    handlers, clock, nothing = Handlers(), SystemClock(), cast("Any", None)
    view = FleetView(15.0)
    links = Links(
        nothing, nothing, view, clock, nothing, {}, cast("Any", handlers), 15.0, Alarm(clock), nothing, nothing
    )
    return links, handlers


@pytest.mark.parametrize(
    ("boot", "told"), [("a", ["north up", "north up"]), ("b", ["north up", "north down", "north up"])]
)
async def test_what_waits_for_a_node_that_moves_is_not_for_one_that_was_started_anew(
    boot: str, told: list[str]
) -> None:
    links, handlers = make()
    old, new = Session("a"), Session(boot)
    links.established("north", cast("Any", old))
    old.established = False
    links.closed("north", cast("Any", old), MOVE)
    frame = sync_pb2.Frame(calls=sync_pb2.CallBatch(results=[sync_pb2.CallResult(call_id=1)]))
    assert links.send("north", frame)
    links.established("north", cast("Any", new))
    await asyncio.sleep(0)
    assert handlers.told == told
    assert new.sent == ([frame] if boot == "a" else [])


async def test_a_node_that_is_kept_out_while_it_is_being_let_in_gets_no_session() -> None:
    """Nor does the other one that was on its way; once it is released it does."""
    kept_out = True

    class Fleet:
        async def open_session(self, *_: object) -> NodeRow:
            if kept_out:
                links.end("north", MOVE)
            return NodeRow("north", 1, "a", 1, "", 0.0, "", 0, "", "")

    nothing: Any = None
    clock = SystemClock()
    links = Links(
        cast("Any", Fleet()),
        nothing,
        FleetView(15.0),
        clock,
        lambda _node: nothing,
        {},
        cast("Any", Handlers()),
        15.0,
        Alarm(clock),
        nothing,
        nothing,
    )
    hello = cast("Any", SimpleNamespace(heads=(), cursors=(), boot_id="a", generation=1, software="", hub=""))
    first, second = await links.open_child("north"), await links.open_child("north")
    links.established("north", cast("Any", Session("before")))
    for child in (first, second):
        await child.admit(hello)
        session = Session("a")
        links.established("north", cast("Any", session))
        assert len(session.sent) == 1
    kept_out = False
    await (await links.open_child("north")).admit(hello)
    session = Session("a")
    links.established("north", cast("Any", session))
    assert session.sent == []


async def test_a_timer_that_raises_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    alarm = Alarm(SystemClock())
    fired = asyncio.Event()

    def bad() -> None:
        raise ValueError("a defect")

    alarm.after(0.0, bad)
    alarm.at(time.monotonic() + 0.001, fired.set)
    async with asyncio.timeout(10):
        await fired.wait()
    assert "a defect" in caplog.text
    alarm.close()
