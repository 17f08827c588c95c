"""The state machine as a table: every pair of state and event, every frame in every state."""

from __future__ import annotations

from typing import get_args

import pytest

from edgenode.link.errors import FailedPrecondition
from edgenode.link.model import frames as f
from edgenode.link.model.lanes import Applied, Chunk, Lane
from edgenode.link.protocol import events as e
from edgenode.link.protocol.events import Role, SessionState
from tests.unit.protocol.pairs import GONE, head, hello, in_state, standing, welcome

S = SessionState
EVENTS: list[e.Event] = [
    e.Opened(),
    e.Admitted(standing(head(Lane.TASK, 0))),
    e.Received(f.Heartbeat(1)),
    e.Appended(Lane.TASK, 5),
    e.ReadDone(Lane.TASK, Chunk(1, ())),
    e.Applied(Lane.TASK, "log-1", Applied(1)),
    e.ApplyDelayed(Lane.TASK),
    e.EpochRenewed(head(Lane.TASK, 5, "log-2")),
    e.RegistryChanged(),
    e.RegistryApplied("r", 1),
    e.LoadsChanged((f.AgentLoad("a", 1, 0),)),
    e.WeightsChanged({Lane.BULK: 3}),
    e.Forward(f.Passthrough(f.Carried.CALLS, None)),
    e.Writable(0),
    e.Tick(),
    e.Lost(GONE),
    e.CloseRequested(GONE),
]
ANSWERS_NOTHING = {e.ReadDone, e.Applied, e.ApplyDelayed, e.RegistryApplied}  # nothing was asked for in these tests
DIALING_ONLY = {e.RegistryChanged, e.LoadsChanged}
REFUSED: dict[SessionState, set[type]] = {
    S.OPENING: {e.Admitted, e.Forward} | ANSWERS_NOTHING,
    S.GREETING: {e.Opened, e.Forward} | ANSWERS_NOTHING,
    S.ESTABLISHED: {e.Opened, e.Admitted} | ANSWERS_NOTHING,
    S.CLOSING: {e.Opened, e.Forward},
    S.CLOSED: {e.Opened, e.Forward},
}


def test_the_events_here_are_all_there_are() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(e.Event))


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_is_handled_or_refused(role: Role, state: SessionState, event: e.Event) -> None:
    refused = type(event) in REFUSED[state]
    if state in (S.OPENING, S.GREETING, S.ESTABLISHED) and role is Role.ACCEPTING:
        refused = refused or type(event) in DIALING_ONLY
    if role is Role.DIALING:
        refused = refused or (state, type(event)) in {(S.OPENING, e.Opened), (S.GREETING, e.Admitted)}
    session = in_state(role, state)
    if refused:
        before = session.next_deadline()
        with pytest.raises(FailedPrecondition) as caught:
            session.handle(event, 0.0)
        assert caught.value.reason in ("SESSION_STATE", "SESSION_ROLE", "LINK_DOWN")
        assert session.state is state, "a refusal changes nothing"
        assert session.next_deadline() == before
    else:
        effects = session.handle(event, 0.0)
        if state is S.CLOSED:
            assert effects == []
            assert session.state is S.CLOSED


FRAMES: list[f.Frame] = [
    hello(head(Lane.TASK, 0)),
    welcome(head(Lane.TASK, 0)),
    f.Batch(Lane.TASK, "log-1", 1, ()),
    f.Ack(Lane.TASK, "log-1", 0),
    f.Credit(Lane.TASK, 1, 1),
    f.RegistryDelta("r", 1, (), snapshot=True),
    f.RegistryAck("r", 1),
    f.RegistryDigest("r", 1, b"\0" * 16),
    f.RegistryDigestRequest(),
    f.Heartbeat(1),
    f.GoAway(GONE),
    f.Pace(1.0, 0),
    f.Passthrough(f.Carried.NOTICES, None),
]
UP = {f.RegistryDelta, f.RegistryDigest}
DOWN = {f.RegistryAck, f.RegistryDigestRequest, f.Pace}
BOTH = {f.Batch, f.Ack, f.Credit, f.Heartbeat, f.Passthrough, f.GoAway}
EXPECTED: dict[tuple[SessionState, Role], set[type]] = {
    (S.OPENING, Role.DIALING): {f.GoAway},
    (S.OPENING, Role.ACCEPTING): {f.GoAway, f.Hello},
    (S.GREETING, Role.DIALING): {f.GoAway, f.Welcome, f.Pace},
    (S.GREETING, Role.ACCEPTING): {f.GoAway},
    (S.ESTABLISHED, Role.DIALING): BOTH | DOWN,
    (S.ESTABLISHED, Role.ACCEPTING): BOTH | UP,
}
# These speak of things that are not so; they belong here all the same, and are told apart by their message.
UNTRUE = {f.Batch, f.RegistryAck, f.RegistryDigestRequest}


def test_the_frames_here_are_all_there_are() -> None:
    assert {type(frame) for frame in FRAMES} == set(get_args(f.Frame))


@pytest.mark.parametrize(("state", "role"), EXPECTED)
@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_every_frame_is_expected_or_ends_the_session(state: SessionState, role: Role, frame: f.Frame) -> None:
    session = in_state(role, state)
    if state is S.OPENING:
        session.handle(e.Opened(standing(head(Lane.TASK, 0)) if role is Role.DIALING else None), 0.0)
        state = session.state
    effects = session.handle(e.Received(frame), 0.0)
    endings = [
        effect.frame.problem for effect in effects if isinstance(effect, e.Send) and isinstance(effect.frame, f.GoAway)
    ]
    unexpected = [problem for problem in endings if "does not belong" in problem.message]
    if type(frame) in EXPECTED[state, role]:
        assert not unexpected
        assert bool(endings) is (type(frame) in UNTRUE)
    else:
        assert [problem.reason for problem in unexpected] == ["PROTOCOL_ERROR"]
        assert session.state is S.CLOSING


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_after_our_goaway_only_the_other_one_matters(role: Role, frame: f.Frame) -> None:
    session = in_state(role, S.CLOSING)
    effects = session.handle(e.Received(frame), 0.0)
    if isinstance(frame, f.GoAway):
        assert effects == [e.Disconnect(GONE)]
    else:
        assert effects == []
        assert session.state is S.CLOSING
