"""Calls over the link where the link does not take what is to be said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.ports import SystemClock
from edgenode.node.link_calls import LinkCalls
from edgenode.node.task_state import LiveTask


class Link:
    """Takes frames while it has room, which pieces and allowances never find."""

    def __init__(self) -> None:
        self.room = True
        self.sent: list[sync_pb2.CallBatch] = []

    def send(self, frame: sync_pb2.Frame) -> bool:
        if not self.room or frame.calls.pieces or frame.calls.allowances:
            return False
        self.sent.append(frame.calls)
        return True


class Calls:
    """`ended` has the reasons that callers here were told."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.link = Link()
        engine = SimpleNamespace(dispatcher=SimpleNamespace(end_call=self._end))
        self.calls = LinkCalls(cast("Any", engine), "north", SystemClock(), lambda: None)

    def _end(self, live: LiveTask, *, problem: Any, **_: object) -> None:
        self.ended.append(problem.reason)

    def call(self) -> LiveTask:
        live = cast("LiveTask", SimpleLive())
        self.calls.send(live, 1.0)
        return live

    def flush(self) -> list[sync_pb2.CallBatch]:
        """What goes out."""
        self.link.sent.clear()
        self.calls.flush(cast("Any", self.link))
        return self.link.sent


class SimpleLive:
    """As much of a call as is looked at here."""

    spec = SimpleNamespace(wire=b"")
    on_pieces = None


def test_what_waits_for_a_session_goes_with_it() -> None:
    calls = Calls()
    calls.call()
    calls.calls._answer(7, cast("Any", SimpleNamespace(agent="", output=None, problem=None)))
    calls.calls.lost("NOT_BACK")
    assert calls.ended == ["LINK_LOST"]
    assert calls.flush() == [], "7 is another call now, if any"


def test_where_an_allowance_does_not_fit_the_other_end_hears_that_nobody_reads() -> None:
    calls = Calls()
    live = calls.call()
    assert [len(batch.calls) for batch in calls.flush()] == [1]
    calls.calls.allow(live, 9)
    calls.link.room = False
    assert calls.flush() == []
    assert calls.ended == ["LINK_LOST"]
    calls.link.room = True
    assert [list(batch.cancel_call_ids) for batch in calls.flush()] == [[1]]
    assert calls.flush() == []


def test_that_an_answer_does_not_fit_is_told_once_there_is_room() -> None:
    calls = Calls()
    calls.calls._give_pieces(7, [])
    calls.link.room = False
    assert calls.flush() == []
    calls.link.room = True
    (batch,) = calls.flush()
    assert [(result.call_id, result.problem.reason) for result in batch.results] == [(7, "LINK_FULL")]
    assert calls.flush() == []
