"""A backlog that drains leaves room for those who work with the node meanwhile."""

from __future__ import annotations

from edgenode.link.model.frames import Credit
from edgenode.link.model.lanes import Chunk, Lane, LaneCursor
from edgenode.link.protocol.lanes import LaneSender
from edgenode.link.protocol.sending import MOST_REST, REST, Sending
from edgenode.link.protocol.sharing import LaneSharing
from tests.unit.protocol.pairs import head, segment

TOOK = 2**-10


def sending(lane: Lane, last: int = 100) -> Sending:
    made = Sending(LaneSharing(), 500, 1 << 18, 3.0, 0.0)
    sender = LaneSender(head(lane, last), LaneCursor(lane, "log-1", 0), Credit(lane, 1 << 20, 1000))
    made.senders[lane] = sender
    return made


def read(made: Sending, lane: Lane, now: float, count: int = 1) -> None:
    asked = made.next_read(now)
    assert asked is not None
    made.read_done(lane, Chunk(asked.after + 1, (segment(count),)), now + TOOK)


def test_while_others_append_it_rests_a_little_longer_than_until_all_that_was_sent_has_arrived() -> None:
    made = sending(Lane.MESSAGE)
    read(made, Lane.MESSAGE, 10.0)
    made.appended(Lane.MESSAGE, 101)
    read(made, Lane.MESSAGE, 10.0 + TOOK)
    assert made.next_read(10.0 + 2 * TOOK) is None
    made.acknowledged(Lane.MESSAGE, 1, 10.0 + 3 * TOOK)
    assert made.next_read(10.0 + 3 * TOOK) is None, "the second batch is under way"
    made.acknowledged(Lane.MESSAGE, 2, 10.0 + 4 * TOOK)
    rested = 10.0 + 4 * TOOK + REST
    assert made.next_deadline(10.0 + 4 * TOOK) == rested
    read(made, Lane.MESSAGE, rested)
    assert made.next_read(rested + TOOK) is not None, "nobody has appended since"


def test_no_rest_is_long() -> None:
    made = sending(Lane.MESSAGE)
    made.appended(Lane.MESSAGE, 101)
    read(made, Lane.MESSAGE, 10.0)
    rested = 10.0 + TOOK + MOST_REST
    assert made.next_deadline(10.0 + TOOK) == rested
    assert made.next_read(rested) is not None


def test_what_brings_nothing_to_send_gives_no_rest() -> None:
    made = sending(Lane.MESSAGE)
    made.appended(Lane.MESSAGE, 101)
    asked = made.next_read(10.0)
    assert asked is not None
    made.appended(Lane.MESSAGE, 102)
    made.read_done(Lane.MESSAGE, Chunk(102, ()), 10.0 + TOOK)  # all the others are gone
    assert made.next_read(10.0 + TOOK) is not None


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
