"""Sessions brought into a state by hand, frame by frame, with time as a plain number."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from edgenode.link.model import frames as f
from edgenode.link.model.lanes import Lane, LaneCursor, LaneHead, Segment
from edgenode.link.model.problem import Code, Problem
from edgenode.link.protocol import events as e
from edgenode.link.protocol.registry import RegistryLog, RegistryReplica
from edgenode.link.protocol.session import LinkSession, Local, SessionConfig

T = TypeVar("T")
GONE = Problem(Code.UNAVAILABLE, "GONE", "gone")
CONFIG = SessionConfig(
    heartbeat=2.0, lease=6.0, greeting_timeout=5.0, stall_timeout=20.0, closing_timeout=1.0, window_bytes=1000
)


def head(lane: Lane, last: int, epoch: str = "log-1", first: int = 1) -> LaneHead:
    return LaneHead(lane, epoch, first, last)


def segment(count: int = 1, size: int = 10) -> Segment:
    return Segment(count, b"x" * size)


def standing(*heads: LaneHead, cursors: tuple[LaneCursor, ...] = (), fence: int = 0) -> e.Standing:
    return e.Standing(heads, cursors, fence=fence, replica=RegistryReplica())


def dialing(config: SessionConfig = CONFIG, registry: RegistryLog | None = None) -> LinkSession:
    return LinkSession(e.Role.DIALING, Local("north", "boot-a", 3, "edgenode/1"), config, registry=registry)


def accepting(config: SessionConfig = CONFIG) -> LinkSession:
    return LinkSession(e.Role.ACCEPTING, Local("hub", "boot-h"), config)


def welcome(*heads: LaneHead, cursors: tuple[LaneCursor, ...] = (), window: int = 1000, **changes: object) -> f.Welcome:
    credits = tuple(f.Credit(lane, window, window) for lane in Lane)
    plain = f.Welcome("hub", "boot-h", 7, heads, cursors, credits, "", 0, 1, 2.0, 6.0)
    return replace(plain, **changes)  # type: ignore[arg-type]


def hello(*heads: LaneHead, cursors: tuple[LaneCursor, ...] = (), **changes: object) -> f.Hello:
    credits = tuple(f.Credit(lane, 1000, 1000) for lane in Lane)
    return replace(f.Hello("north", "boot-a", 3, heads, cursors, credits), **changes)  # type: ignore[arg-type]


def sent(effects: list[e.Effect], kind: type[T]) -> list[T]:
    """The frames of one kind among the effects."""
    return [effect.frame for effect in effects if isinstance(effect, e.Send) and isinstance(effect.frame, kind)]


def only(effects: list[e.Effect], kind: type[T]) -> list[T]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def established_dialing(
    mine: e.Standing, theirs: f.Welcome, config: SessionConfig = CONFIG, registry: RegistryLog | None = None
) -> tuple[LinkSession, list[e.Effect]]:
    session = dialing(config, registry)
    session.handle(e.Opened(mine), 0.0)
    return session, session.handle(e.Received(theirs), 0.0)


def established_accepting(
    mine: e.Standing, theirs: f.Hello, config: SessionConfig = CONFIG
) -> tuple[LinkSession, list[e.Effect]]:
    session = accepting(config)
    session.handle(e.Opened(), 0.0)
    session.handle(e.Received(theirs), 0.0)
    return session, session.handle(e.Admitted(mine), 0.0)


def in_state(role: e.Role, state: e.SessionState) -> LinkSession:
    """A session of that role that has come to that state and no further."""
    session = dialing() if role is e.Role.DIALING else accepting()
    dials = role is e.Role.DIALING
    if state is e.SessionState.OPENING:
        return session
    session.handle(e.Opened(standing(head(Lane.TASK, 0)) if dials else None), 0.0)
    if state is e.SessionState.CLOSED:
        session.handle(e.Lost(GONE), 0.0)
        return session
    if not dials:
        session.handle(e.Received(hello(head(Lane.TASK, 0))), 0.0)
    if state is e.SessionState.GREETING:
        return session
    answer = e.Received(welcome(head(Lane.TASK, 0))) if dials else e.Admitted(standing(head(Lane.TASK, 0)))
    session.handle(answer, 0.0)
    if state is e.SessionState.CLOSING:
        session.handle(e.CloseRequested(GONE), 0.0)
    return session
