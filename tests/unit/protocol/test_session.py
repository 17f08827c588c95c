"""What a session does over its life: greeting, lanes, signs of life, the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgenode.link.errors import InvalidArgument
from edgenode.link.model import frames as f
from edgenode.link.model.lanes import Applied, Chunk, EpochEnd, Gap, Lane, LaneCursor
from edgenode.link.model.problem import Code, Problem
from edgenode.link.protocol import events as e
from edgenode.link.protocol.events import SessionState
from edgenode.link.protocol.registry import RegistryLog
from edgenode.link.protocol.session import LinkSession, SessionConfig
from tests.unit.protocol.pairs import (
    CONFIG,
    GONE,
    accepting,
    dialing,
    established_accepting,
    established_dialing,
    head,
    hello,
    only,
    segment,
    sent,
    standing,
    welcome,
)

TASK = Lane.TASK


def _reason(effects: list[e.Effect]) -> str:
    (ending,) = sent(effects, f.GoAway)
    return ending.problem.reason


# --- greeting ---------------------------------------------------------------------------------------------------------


def test_the_dialing_side_says_what_it_has_and_what_it_will_take() -> None:
    registry = RegistryLog("reg-1", 5)
    session = dialing(registry=registry)
    mine = e.Standing((head(TASK, 9),), (LaneCursor(TASK, "hub-log", 4),), applied_version=12)
    (frame,) = sent(session.handle(e.Opened(mine), 0.0), f.Hello)
    assert (frame.node, frame.generation, frame.heads, frame.cursors) == ("north", 3, mine.heads, mine.cursors)
    assert (frame.registry_epoch, frame.registry_version, frame.applied_version) == ("reg-1", 5, 12)
    assert {credit.lane: credit.added_bytes for credit in frame.credits} == dict.fromkeys(Lane, CONFIG.window_bytes)
    assert session.state is SessionState.GREETING


def test_the_accepting_side_shows_the_hello_and_welcomes_once_admitted() -> None:
    session = accepting()
    session.handle(e.Opened(), 0.0)
    greeting = hello(head(TASK, 3), software="edgenode/1")
    assert session.handle(e.Received(greeting), 0.0) == [e.Admit(greeting)]
    effects = session.handle(e.Admitted(standing(head(TASK, 0), fence=9)), 0.0)
    (answer,) = sent(effects, f.Welcome)
    assert (answer.fence, answer.protocol_version, answer.heartbeat, answer.lease) == (9, 1, 2.0, 6.0)
    (up,) = only(effects, e.Established)
    assert (up.peer.node, up.peer.boot_id, up.peer.fence, up.peer.generation, up.peer.software) == (
        "north",
        "boot-a",
        9,
        3,
        "edgenode/1",
    )


@pytest.mark.parametrize(("lowest", "highest", "agreed"), [(1, 1, 1), (1, 9, 2), (2, 2, 2), (3, 9, None), (0, 0, None)])
def test_the_highest_common_protocol_version_counts(lowest: int, highest: int, agreed: int | None) -> None:
    config = replace(CONFIG, max_protocol_version=2)
    session = accepting(config)
    session.handle(e.Opened(), 0.0)
    effects = session.handle(e.Received(hello(min_protocol_version=lowest, max_protocol_version=highest)), 0.0)
    if agreed is None:
        assert _reason(effects) == "PROTOCOL_VERSION"
    else:
        (answer,) = sent(session.handle(e.Admitted(standing()), 0.0), f.Welcome)
        assert answer.protocol_version == agreed


def test_a_welcome_in_a_version_we_do_not_speak_ends_the_session() -> None:
    _, effects = established_dialing(standing(), welcome(protocol_version=4))
    assert _reason(effects) == "PROTOCOL_VERSION"


@pytest.mark.parametrize(
    "broken",
    [
        welcome(heartbeat=6.0, lease=6.0),
        welcome(head(TASK, 3, first=5)),
        welcome(head(TASK, 3, epoch="")),
        welcome(cursors=(LaneCursor(TASK, "log-1", -1),)),
        welcome(credits=(f.Credit(TASK, -1, 0),)),
    ],
)
def test_a_welcome_that_makes_no_sense_ends_the_session(broken: f.Welcome) -> None:
    _, effects = established_dialing(standing(), broken)
    assert _reason(effects) == "PROTOCOL_ERROR"


@pytest.mark.parametrize("session", [dialing(), accepting()], ids=["dialing", "accepting"])
def test_a_greeting_that_does_not_come_is_given_up(session: LinkSession) -> None:
    session.handle(e.Opened(standing() if session.role is e.Role.DIALING else None), 1.0)
    assert session.next_deadline() == 6.0
    assert session.handle(e.Tick(), 5.9) == []
    assert _reason(session.handle(e.Tick(), 6.0)) == "GREETING_TIMEOUT"


def test_what_was_appended_during_the_greeting_is_sent() -> None:
    session = dialing()
    session.handle(e.Appended(TASK, 4), 0.0)
    session.handle(e.Opened(standing(head(TASK, 3))), 0.0)
    session.handle(e.Appended(TASK, 5), 0.0)
    effects = session.handle(e.Received(welcome(cursors=(LaneCursor(TASK, "log-1", 3),))), 0.0)
    assert only(effects, e.ReadLane)[0].after == 3
    batch = session.handle(e.ReadDone(TASK, Chunk(4, (segment(2),))), 0.0)
    assert [frame.end for frame in sent(batch, f.Batch)] == [5]


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cursor", "after"),
    [
        (LaneCursor(TASK, "log-1", 6), 6),  # known log: go on behind its cursor
        (LaneCursor(TASK, "other", 80), 4),  # another log: from the first entry held
        (LaneCursor(TASK, "", 0), 0),  # nothing ever seen: from the beginning
        (LaneCursor(TASK, "log-0", 7), 7),  # an earlier epoch of this log: behind its cursor
        (LaneCursor(TASK, "log-0", 30), 8),  # ... and what it knows beyond is another disk's
    ],
)
def test_the_peers_cursor_says_where_to_go_on(cursor: LaneCursor, after: int) -> None:
    log = replace(head(TASK, 9, first=5), earlier=(EpochEnd("log-0", 8),))
    _, effects = established_dialing(standing(log), welcome(cursors=(cursor,)))
    assert [(read.lane, read.after) for read in only(effects, e.ReadLane)] == [(TASK, after)]


def test_the_peers_cursor_counts_as_an_acknowledgement() -> None:
    cursors = (LaneCursor(TASK, "log-1", 6),)
    _, effects = established_dialing(standing(head(TASK, 9)), welcome(cursors=cursors))
    assert only(effects, e.Acknowledge) == [e.Acknowledge(TASK, "log-1", 6, ())]


def test_a_cursor_of_an_earlier_epoch_counts_as_an_acknowledgement_of_what_was_appended_under_it() -> None:
    log = replace(head(TASK, 9), earlier=(EpochEnd("log-0", 4),))
    _, effects = established_dialing(standing(log), welcome(cursors=(LaneCursor(TASK, "log-0", 6),)))
    assert only(effects, e.Acknowledge) == [e.Acknowledge(TASK, "log-1", 4, ())]


def test_both_sides_go_on_at_the_same_entry_of_a_log_that_a_new_process_opened() -> None:
    log = replace(head(TASK, 9, first=5), earlier=(EpochEnd("log-0", 8),))
    session, _ = established_accepting(standing(cursors=(LaneCursor(TASK, "log-0", 7),)), hello(log))
    batch = f.Batch(TASK, "log-1", 8, (segment(2),))
    (apply,) = only(session.handle(e.Received(batch), 0.0), e.Apply)
    assert (apply.base, apply.gap) == (8, None)


@pytest.mark.parametrize(
    ("cursor", "missing"), [(LaneCursor(TASK, "log-1", 2), 2), (LaneCursor(TASK, "", 0), 4), (None, 4)]
)
def test_entries_that_are_gone_are_stated_as_a_gap(cursor: LaneCursor | None, missing: int) -> None:
    cursors = () if cursor is None else (cursor,)
    session, _ = established_dialing(standing(head(TASK, 9, first=5)), welcome(cursors=cursors))
    (batch,) = sent(session.handle(e.ReadDone(TASK, Chunk(5, (segment(5),))), 0.0), f.Batch)
    assert (batch.base, batch.missing, batch.gap_reason) == (5, missing, "NOT_HELD")


def test_a_log_made_anew_has_no_gap_before_its_first_entry() -> None:
    cursors = (LaneCursor(TASK, "other", 80),)
    session, _ = established_dialing(standing(head(TASK, 9, first=5)), welcome(cursors=cursors))
    (batch,) = sent(session.handle(e.ReadDone(TASK, Chunk(5, (segment(5),))), 0.0), f.Batch)
    assert (batch.base, batch.missing) == (5, 0)


def test_a_gap_is_stated_even_if_the_whole_rest_was_gone_at_first() -> None:
    session, _ = established_dialing(standing(head(TASK, 9)), welcome(cursors=(LaneCursor(TASK, "log-1", 2),)))
    session.handle(e.ReadDone(TASK, Chunk(10, ())), 0.0)
    (read,) = only(session.handle(e.Appended(TASK, 12), 0.0), e.ReadLane)
    assert read.after == 9
    (batch,) = sent(session.handle(e.ReadDone(TASK, Chunk(10, (segment(3),))), 0.0), f.Batch)
    assert (batch.base, batch.missing) == (10, 7)


def test_a_dialing_side_that_knows_less_than_its_peer_renews_its_log_and_dials_again() -> None:
    mine = standing(head(TASK, 9), head(Lane.MESSAGE, 9))
    cursors = (LaneCursor(TASK, "log-1", 10), LaneCursor(Lane.MESSAGE, "log-1", 11))
    session, effects = established_dialing(mine, welcome(cursors=cursors))
    assert effects == [e.RenewEpoch(TASK), e.RenewEpoch(Lane.MESSAGE)]
    assert session.handle(e.EpochRenewed(head(TASK, 9, "log-2")), 0.0) == []
    assert _reason(session.handle(e.EpochRenewed(head(Lane.MESSAGE, 9, "log-2")), 0.0)) == "EPOCH_RENEWED"


def test_what_an_older_session_sent_during_the_greeting_is_no_reason_to_renew() -> None:
    session = dialing()
    session.handle(e.Opened(standing(head(TASK, 9))), 0.0)
    session.handle(e.Appended(TASK, 12), 0.0)
    effects = session.handle(e.Received(welcome(cursors=(LaneCursor(TASK, "log-1", 12),))), 0.0)
    assert session.state is SessionState.ESTABLISHED
    assert not only(effects, e.RenewEpoch)


def test_an_accepting_side_that_knows_less_renews_before_it_welcomes() -> None:
    theirs = hello(cursors=(LaneCursor(TASK, "log-1", 10),))
    session, effects = established_accepting(standing(head(TASK, 9)), theirs)
    assert effects == [e.RenewEpoch(TASK)]
    effects = session.handle(e.EpochRenewed(head(TASK, 9, "log-2")), 0.0)
    assert [answer.heads for answer in sent(effects, f.Welcome)] == [(head(TASK, 9, "log-2"),)]
    assert only(effects, e.ReadLane)[0].after == 0
    assert not only(effects, e.Acknowledge), "the cursor speaks of the old log"


def test_a_log_made_anew_under_way_ends_the_session() -> None:
    session, _ = established_dialing(standing(head(TASK, 9)), welcome())
    assert _reason(session.handle(e.EpochRenewed(head(TASK, 9, "log-2")), 0.0)) == "EPOCH_RENEWED"


# --- lanes ------------------------------------------------------------------------------------------------------------


def test_nothing_is_acknowledged_before_it_is_committed() -> None:
    session, _ = established_accepting(standing(), hello(head(TASK, 0)))
    batch = f.Batch(TASK, "log-1", 1, (segment(2), segment(3)))
    effects = session.handle(e.Received(batch), 0.0)
    assert effects == [e.Apply(TASK, "log-1", 1, batch.segments, None)]
    effects = session.handle(e.Applied(TASK, "log-1", Applied(5)), 0.0)
    assert effects == [e.Send(f.Ack(TASK, "log-1", 5, (), f.Credit(TASK, 20, 5)))]


def test_what_comes_during_an_apply_joins_the_next_one() -> None:
    session, _ = established_accepting(standing(), hello(head(TASK, 0)))
    for base in (1, 2, 3):
        effects = session.handle(e.Received(f.Batch(TASK, "log-1", base, (segment(),))), 0.0)
        assert len(only(effects, e.Apply)) == (1 if base == 1 else 0)
    effects = session.handle(e.Applied(TASK, "log-1", Applied(1)), 0.0)
    (apply,) = only(effects, e.Apply)
    assert (apply.base, len(apply.segments)) == (2, 2)
    session.handle(e.Received(f.Batch(TASK, "log-1", 9, (segment(),), 5, "TRIMMED")), 0.0)
    session.handle(e.Received(f.Batch(TASK, "log-1", 10, (segment(),))), 0.0)
    (apply,) = only(session.handle(e.Applied(TASK, "log-1", Applied(3)), 0.0), e.Apply)
    assert (apply.base, len(apply.segments), apply.gap) == (9, 2, Gap("TRIMMED", 3))


@pytest.mark.parametrize(("base", "missing"), [(9, 2), (9, -1), (9, 9), (2, 0)])
def test_what_the_sender_does_not_state_as_gone_is_a_hole(base: int, missing: int) -> None:
    """A batch that has overtaken others may state a gap of its own."""
    session, _ = established_accepting(standing(), hello(head(TASK, 0)))
    effects = session.handle(e.Received(f.Batch(TASK, "log-1", base, (segment(),), missing, "TRIMMED")), 0.0)
    assert _reason(effects) == "PROTOCOL_ERROR"


def test_a_commit_that_falls_short_ends_the_session_without_an_acknowledgement() -> None:
    session, _ = established_accepting(standing(), hello(head(TASK, 0)))
    session.handle(e.Received(f.Batch(TASK, "log-1", 1, (segment(5),))), 0.0)
    effects = session.handle(e.Applied(TASK, "log-1", Applied(4)), 0.0)
    assert _reason(effects) == "SHORT_COMMIT"
    assert not sent(effects, f.Ack)


def test_lanes_are_applied_side_by_side() -> None:
    session, _ = established_accepting(standing(), hello(head(TASK, 0), head(Lane.MESSAGE, 0)))
    for lane in (TASK, Lane.MESSAGE):
        effects = session.handle(e.Received(f.Batch(lane, "log-1", 1, (segment(),))), 0.0)
        assert [apply.lane for apply in only(effects, e.Apply)] == [lane]


@pytest.mark.parametrize(
    "batch",
    [
        f.Batch(TASK, "log-1", 2, (segment(),)),  # a hole
        f.Batch(TASK, "other", 1, (segment(),)),  # another log
        f.Batch(TASK, "log-1", 1, ()),  # nothing
        f.Batch(TASK, "log-1", 1, (segment(0),)),  # a segment of nothing
        f.Batch(TASK, "log-1", 0, (segment(),)),  # before the first
        f.Batch(Lane.BULK, "log-1", 1, (segment(),)),  # a lane nobody spoke of
        f.Batch(TASK, "log-1", 1, (segment(1, 600), segment(1, 600))),  # more than the window
    ],
)
def test_batches_that_must_not_be_end_the_session(batch: f.Batch) -> None:
    session, _ = established_accepting(standing(), hello(head(TASK, 0)))
    assert _reason(session.handle(e.Received(batch), 0.0)) == "PROTOCOL_ERROR"


def test_duplicates_go_to_the_store_which_knows_the_cursor() -> None:
    theirs = hello(head(TASK, 9))
    session, _ = established_accepting(standing(cursors=(LaneCursor(TASK, "log-1", 5),)), theirs)
    (apply,) = only(session.handle(e.Received(f.Batch(TASK, "log-1", 4, (segment(3),))), 0.0), e.Apply)
    assert apply.base == 4
    effects = session.handle(e.Received(f.Batch(TASK, "log-1", 7, (segment(),))), 0.0)
    assert not sent(effects, f.GoAway), "the overlap counts towards what is expected next"


def test_an_older_session_may_have_committed_more_than_this_one_received() -> None:
    hub, _ = established_accepting(standing(), hello(head(TASK, 9), cursors=(LaneCursor(TASK, "log-1", 0),)))
    hub.handle(e.Received(f.Batch(TASK, "log-1", 1, (segment(2),))), 0.0)
    (ack,) = sent(hub.handle(e.Applied(TASK, "log-1", Applied(8)), 0.0), f.Ack)
    edge, _ = established_dialing(standing(head(TASK, 9)), welcome())
    edge.handle(e.ReadDone(TASK, Chunk(1, (segment(2),))), 0.0)
    edge.handle(e.Received(ack), 0.0)
    batches = sent(edge.handle(e.ReadDone(TASK, Chunk(9, (segment(),))), 0.0), f.Batch)
    for batch in batches:
        assert not sent(hub.handle(e.Received(batch), 0.0), f.GoAway)


def test_one_read_at_a_time_and_none_while_the_writer_is_full() -> None:
    config = replace(CONFIG, max_unwritten=3)
    session, effects = established_dialing(standing(head(TASK, 9), head(Lane.BULK, 9)), welcome(), config)
    reads = only(effects, e.ReadLane)
    assert [read.lane for read in reads] == [TASK], "hello still lies at the writer, and one read is enough"
    effects = session.handle(e.ReadDone(TASK, Chunk(1, (segment(4),))), 0.0)
    assert len(only(effects, e.ReadLane)) == 1
    effects = session.handle(e.ReadDone(TASK, Chunk(5, (segment(5),))), 0.0)
    assert not only(effects, e.ReadLane), "three frames are unwritten"
    assert [read.lane for read in only(session.handle(e.Writable(1), 0.0), e.ReadLane)] == [Lane.BULK]


def test_credit_is_spent_and_given_back() -> None:
    session, effects = established_dialing(standing(head(TASK, 9)), welcome(window=100))
    (read,) = only(effects, e.ReadLane)
    assert (read.max_count, read.max_bytes) == (100, 100)
    effects = session.handle(e.ReadDone(TASK, Chunk(1, (segment(2, 60), segment(2, 60)))), 0.0)
    (batch,) = sent(effects, f.Batch)
    assert batch.end == 2, "the second segment does not fit"
    (read,) = only(effects, e.ReadLane)
    assert read.max_bytes == 40
    effects = session.handle(e.ReadDone(TASK, Chunk(3, (segment(2, 60),))), 0.0)
    assert not sent(effects, f.Batch)
    assert not only(effects, e.ReadLane), "it is known now how much room the next one needs"
    assert not only(session.handle(e.Received(f.Credit(TASK, 10, 0)), 0.0), e.ReadLane)
    (read,) = only(session.handle(e.Received(f.Credit(TASK, 10, 0)), 0.0), e.ReadLane)
    assert read.after == 2


def test_a_segment_beyond_the_window_goes_when_nothing_else_is_outstanding() -> None:
    session, _ = established_dialing(standing(head(TASK, 9)), welcome(window=100))
    (batch,) = sent(session.handle(e.ReadDone(TASK, Chunk(1, (segment(1, 50),))), 0.0), f.Batch)
    assert not sent(session.handle(e.ReadDone(TASK, Chunk(2, (segment(1, 500),))), 0.0), f.Batch)
    ack = f.Ack(TASK, "log-1", batch.end, (), f.Credit(TASK, batch.size, batch.count))
    effects = session.handle(e.Received(ack), 0.0)
    assert only(effects, e.Acknowledge) == [e.Acknowledge(TASK, "log-1", 1, ())]
    (big,) = sent(session.handle(e.ReadDone(TASK, Chunk(2, (segment(1, 500),))), 0.0), f.Batch)
    receiver, _ = established_accepting(
        standing(cursors=(LaneCursor(TASK, "log-1", 1),)), hello(head(TASK, 9)), replace(CONFIG, window_bytes=100)
    )
    assert only(receiver.handle(e.Received(big), 0.0), e.Apply)


def test_an_acknowledgement_of_what_never_was_ends_the_session() -> None:
    for lie in (f.Ack(TASK, "log-1", 10), f.Ack(TASK, "other", 1), f.Ack(Lane.BULK, "log-1", 1)):
        session, _ = established_dialing(standing(head(TASK, 9)), welcome())
        assert _reason(session.handle(e.Received(lie), 0.0)) == "PROTOCOL_ERROR"


# --- signs of life ----------------------------------------------------------------------------------------------------


def test_silence_is_broken_by_heartbeats_and_ends_with_the_lease() -> None:
    session, _ = established_dialing(standing(), welcome())
    beats = []
    while session.state is SessionState.ESTABLISHED:
        now = session.next_deadline()
        assert now is not None
        effects = session.handle(e.Tick(), now)
        beats += [(now, beat.number) for beat in sent(effects, f.Heartbeat)]
    assert beats == [(2.0, 1), (4.0, 2)]
    assert _reason(effects) == "LEASE_EXPIRED"
    assert now == 6.0


def test_hearing_something_renews_the_lease_and_sending_spares_the_heartbeat() -> None:
    session, _ = established_dialing(standing(), welcome())
    session.handle(e.Forward(f.Passthrough(f.Carried.CALLS, "call")), 1.5)
    assert session.next_deadline() == 3.5
    session.handle(e.Received(f.Heartbeat(1)), 5.0)
    assert session.handle(e.Tick(), 6.5) == []
    assert _reason(session.handle(e.Tick(), 11.0)) == "LEASE_EXPIRED"


def test_a_heartbeat_that_wants_a_reply_gets_its_number_back() -> None:
    session, _ = established_accepting(standing(), hello())
    assert session.handle(e.Received(f.Heartbeat(17, True)), 0.1) == [e.Send(f.Heartbeat(17))]


def test_loads_travel_together_and_not_too_often() -> None:
    session, _ = established_dialing(standing(), welcome())
    assert sent(session.handle(e.LoadsChanged((f.AgentLoad("a", 1, 0),)), 0.0), f.Heartbeat)[0].loads
    assert session.handle(e.LoadsChanged((f.AgentLoad("a", 2, 0), f.AgentLoad("b", 1, 0))), 0.2) == []
    assert session.handle(e.LoadsChanged((f.AgentLoad("a", 3, 1),)), 0.4) == []
    assert session.next_deadline() == 1.0
    (beat,) = sent(session.handle(e.Tick(), 1.0), f.Heartbeat)
    assert beat.loads == (f.AgentLoad("a", 3, 1), f.AgentLoad("b", 1, 0))
    hub, _ = established_accepting(standing(), hello())
    assert hub.handle(e.Received(beat), 0.1) == [e.LoadsReported(beat.loads)]


def test_a_peer_that_lives_but_acknowledges_nothing_is_given_up() -> None:
    session, _ = established_dialing(standing(head(TASK, 1)), welcome(heartbeat=100.0, lease=1000.0))
    session.handle(e.ReadDone(TASK, Chunk(1, (segment(),))), 1.0)
    assert session.next_deadline() == 21.0
    session.handle(e.Received(f.Heartbeat(1)), 15.0)
    assert _reason(session.handle(e.Tick(), 21.0)) == "STALLED"


def test_a_peer_that_gives_no_room_back_is_given_up() -> None:
    session, _ = established_dialing(standing(head(TASK, 9)), welcome(window=10, heartbeat=100.0, lease=1000.0))
    session.handle(e.ReadDone(TASK, Chunk(1, (segment(1, 10),))), 1.0)
    session.handle(e.Received(f.Ack(TASK, "log-1", 1)), 2.0)
    assert session.next_deadline() == 22.0
    assert _reason(session.handle(e.Tick(), 22.0)) == "STALLED"


def test_a_peer_whose_store_is_full_is_waited_for() -> None:
    parent, _ = established_accepting(standing(fence=1), hello(head(TASK, 1)))
    parent.handle(e.Received(f.Batch(TASK, "log-1", 1, (segment(),))), 1.0)
    (patience,) = sent(parent.handle(e.ApplyDelayed(TASK), 2.0), f.Credit)
    assert patience == f.Credit(TASK, 0, 0)
    session, _ = established_dialing(standing(head(TASK, 1)), welcome(heartbeat=100.0, lease=1000.0))
    session.handle(e.ReadDone(TASK, Chunk(1, (segment(),))), 1.0)
    assert session.next_deadline() == 21.0
    session.handle(e.Received(patience), 15.0)
    assert not sent(session.handle(e.Tick(), 21.0), f.GoAway)
    assert _reason(session.handle(e.Tick(), 35.0)) == "STALLED"


def test_the_pace_bounds_the_bytes_and_reaches_the_driver() -> None:
    session, _ = established_dialing(standing(head(TASK, 999)), welcome(window=10_000, heartbeat=100.0, lease=999.0))
    pace = f.Pace(3.0, 100)
    session.handle(e.ReadDone(TASK, Chunk(1, ())), 0.0)
    assert session.handle(e.Received(pace), 0.0) == [e.PaceGiven(pace)]
    now, size, position = 0.0, 0, 1
    reading = only(session.handle(e.Appended(TASK, 1000), now), e.ReadLane)
    while now < 60.0:
        if reading:
            chunk = Chunk(position, (segment(1, 70),))
            effects = session.handle(e.ReadDone(TASK, chunk), now)
            (batch,) = sent(effects, f.Batch)
            size, position = size + batch.size, position + 1
            reading = only(effects, e.ReadLane)
            ack = f.Ack(TASK, "log-1", batch.end, (), f.Credit(TASK, batch.size, batch.count))
            reading += only(session.handle(e.Received(ack), now), e.ReadLane)
            reading += only(session.handle(e.Writable(1), now), e.ReadLane)
        else:
            deadline = session.next_deadline()
            assert deadline is not None
            assert deadline > now
            now = deadline
            reading = only(session.handle(e.Tick(), now), e.ReadLane)
    assert 5800 <= size <= 6200


def test_weights_out_of_bounds_are_refused_and_change_nothing() -> None:
    session, _ = established_dialing(standing(), welcome())
    with pytest.raises(InvalidArgument) as caught:
        session.handle(e.WeightsChanged({Lane.BULK: 0}), 0.0)
    assert caught.value.reason == "BAD_WEIGHT"
    assert session.state is SessionState.ESTABLISHED


def test_a_config_whose_lease_is_not_longer_than_its_heartbeat_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        SessionConfig(heartbeat=5.0, lease=5.0)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_goaway_leaves_before_the_stream_is_closed() -> None:
    session, _ = established_dialing(standing(), welcome())
    assert session.handle(e.CloseRequested(GONE), 0.0) == [e.Send(f.GoAway(GONE))]
    assert session.handle(e.Writable(1), 0.0) == [], "that was the Hello"
    assert session.handle(e.Writable(1), 0.0) == [e.Disconnect(GONE)]
    assert session.next_deadline() is None


def test_goaway_that_does_not_leave_is_not_waited_for() -> None:
    session, _ = established_dialing(standing(), welcome())
    session.handle(e.CloseRequested(GONE), 3.0)
    assert session.next_deadline() == 4.0
    assert session.handle(e.Tick(), 3.5) == []
    assert session.handle(e.Tick(), 4.0) == [e.Disconnect(GONE)]


def test_our_own_reason_stands_when_the_stream_breaks_while_closing() -> None:
    session, _ = established_dialing(standing(), welcome())
    session.handle(e.CloseRequested(GONE), 0.0)
    assert session.handle(e.Lost(Problem(Code.UNAVAILABLE, "BROKEN", "broken")), 0.0) == [e.Disconnect(GONE)]


def test_a_goaway_may_set_the_pace() -> None:
    session, _ = established_dialing(standing(), welcome())
    problem = replace(GONE, retry_after=30.0)
    assert session.handle(e.Received(f.GoAway(problem)), 0.0) == [
        e.PaceGiven(f.Pace(retry_after=30.0)),
        e.Disconnect(problem),
    ]


def test_a_session_without_a_stream_ends_without_words() -> None:
    session = dialing()
    assert session.handle(e.CloseRequested(GONE), 0.0) == [e.Disconnect(GONE)]


def test_late_answers_of_the_store_do_nothing() -> None:
    session, _ = established_accepting(standing(), hello(head(TASK, 0)))
    session.handle(e.Received(f.Batch(TASK, "log-1", 1, (segment(),))), 0.0)
    session.handle(e.CloseRequested(GONE), 0.0)
    assert session.handle(e.Applied(TASK, "log-1", Applied(1)), 0.0) == [], "GoAway is the last word"
