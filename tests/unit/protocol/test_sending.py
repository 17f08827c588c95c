"""A backlog that drains leaves room for those who work with the node meanwhile."""

from __future__ import annotations

import pytest

from edgenode.link.model.frames import Credit
from edgenode.link.model.lanes import Chunk, Lane, LaneCursor
from edgenode.link.protocol.lanes import LaneSender
from edgenode.link.protocol.sending import MOST_REST, Sending
from edgenode.link.protocol.sharing import LaneSharing
from tests.unit.protocol.pairs import head, segment

TOOK = 2**-10


def sending(lane: Lane, last: int = 100) -> Sending:
    made = Sending(LaneSharing(), 500, 1 << 18, 3.0, 0.0)
    sender = LaneSender(head(lane, last), LaneCursor(lane, "log-1", 0), Credit(lane, 1 << 20, 1000))
    made.senders[lane] = sender
    return made


def read(made: Sending, lane: Lane, now: float, count: int = 1, took: float = TOOK) -> None:
    asked = made.next_read(now)
    assert asked is not None
    made.read_done(lane, Chunk(asked.after + 1, (segment(count),)), now + took)


def test_it_rests_as_long_as_its_read_took_while_others_append() -> None:
    made = sending(Lane.MESSAGE)
    made.appended(Lane.MESSAGE, 101)
    read(made, Lane.MESSAGE, 10.0)
    assert made.next_read(10.0 + TOOK) is None
    assert made.next_deadline(10.0 + TOOK) == pytest.approx(10.0 + 2 * TOOK)
    read(made, Lane.MESSAGE, 10.0 + 2 * TOOK)
    assert made.next_read(10.0 + 3 * TOOK) is not None, "nobody has appended since"


def test_no_rest_is_long() -> None:
    made = sending(Lane.MESSAGE)
    made.appended(Lane.MESSAGE, 101)
    read(made, Lane.MESSAGE, 10.0, took=5.0)
    assert made.next_deadline(15.0) == 15.0 + MOST_REST


def test_tasks_do_not_rest_nor_does_what_has_caught_up() -> None:
    tasks = sending(Lane.TASK)
    tasks.appended(Lane.TASK, 101)
    read(tasks, Lane.TASK, 10.0)
    assert tasks.next_read(10.0 + TOOK) is not None
    caught_up = sending(Lane.MESSAGE, 1)
    caught_up.appended(Lane.MESSAGE, 2)
    read(caught_up, Lane.MESSAGE, 10.0, count=2)
    caught_up.appended(Lane.MESSAGE, 3)
    assert caught_up.next_read(10.0 + TOOK) is not None
