"""The session of one link connection, for both ends.

Theory of operation. A session lives as long as one stream and remembers nothing beyond it: what was committed is the
stores' matter, and the greeting compares their cursors. So whatever goes wrong, the answer is the same: say GoAway if
the stream still bears it, disconnect, and greet anew. Nothing wrong is ever repaired within a session.

    dialing                                            accepting
    OPENING      --Opened-->  Hello                    OPENING      <-- Hello: Admit
    GREETING     <-- Welcome: Established              GREETING     --Admitted--> Welcome, Established
    ESTABLISHED  Batch, Ack, Credit, Heartbeat and what the layers above exchange, both ways;
                 RegistryDelta, RegistryDigest up; RegistryAck, RegistryDigestRequest, Pace down
    CLOSING      GoAway was given to the writer; waits until it left, the other side hung up, or a moment passed
    CLOSED       Disconnect was returned; nothing matters any more

What is trusted: the transport keeps frames in order and whole, or breaks. Lost or doubled frames are still noticed
(holes, credit, stalled acknowledgements) and end the session; they never make the store apply anything twice, because
the receiver's cursor decides, nor make the sender forget anything, because only an Ack sent after a commit does.

A link that is cut in one direction, or half open, keeps silent: each side sends at least a heartbeat in every heartbeat
time and gives up when it heard nothing for the lease. A receiver that lives but makes no progress is given up after the
stall timeout, unless it says that its store is full: a new session would find it no emptier, and end everything else that
goes over this one. Hence every wait ends, or is known to go on.

Before either side sends entries it looks whether the other knows more of its log than it has itself (a disk restored
from a backup). Such a log gets a fresh epoch first. The accepting side does that before its Welcome; the dialing side
learns it from the Welcome, renews, and dials again, since an epoch never changes within a session.

The tables at the end are the state machine: every pair of state and event is handled, ignored or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from edgenode.link.errors import Aborted, EdgenodeError, FailedPrecondition, Internal
from edgenode.link.model import frames as f
from edgenode.link.model.lanes import Lane
from edgenode.link.model.problem import Problem
from edgenode.link.protocol import events as e
from edgenode.link.protocol.events import Effect, Event, Role, SessionState
from edgenode.link.protocol.exchange import Exchange
from edgenode.link.protocol.greeting import Greeting, Local, SessionConfig
from edgenode.link.protocol.lanes import protocol_error
from edgenode.link.protocol.registry import RegistryLog
from edgenode.link.protocol.sharing import LaneSharing

__all__ = ["LinkSession", "Local", "SessionConfig"]


class LinkSession:
    """One per connection; see `events` for what goes in and out."""

    def __init__(
        self,
        role: Role,
        local: Local,
        config: SessionConfig | None = None,
        *,
        registry: RegistryLog | None = None,
        weights: Mapping[Lane, int] | None = None,
    ) -> None:
        """`registry` is the dialing side's log; `weights` the shares of the link by lane."""
        self._role = role
        self._config = config or SessionConfig()
        self._state = SessionState.OPENING
        self._registry = registry
        self._sharing = LaneSharing(weights)
        self._greeting = Greeting(role, local, self._config, registry)
        self._exchange: Exchange | None = None
        self._effects: list[Effect] = []
        self._now = 0.0
        self._due: float | None = None  # end of the greeting, or of closing
        self._deadline: float | None = None
        self._unwritten = 0
        self._loads: dict[str, f.AgentLoad] = {}
        self._problem: Problem | None = None  # why we are closing

    @property
    def role(self) -> Role:
        """Which end this is."""
        return self._role

    @property
    def state(self) -> SessionState:
        """Where the session stands."""
        return self._state

    def next_deadline(self) -> float | None:
        """When to send Tick, monotonic seconds; None: no need."""
        return self._deadline

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What to do about `event`; `now` is monotonic seconds.

        Raises FailedPrecondition (SESSION_STATE, SESSION_ROLE or LINK_DOWN) for a local event that does not belong here,
        InvalidArgument for weights out of bounds; the session is then as it was.
        """
        self._now = max(now, self._now)
        _EVENTS[self._state][type(event)](self, event)
        if self._state is SessionState.ESTABLISHED:
            self._attempt(lambda: self._open_exchange().pump(self._now, writable=self._has_room()))
        self._deadline = self._find_deadline()
        effects, self._effects = self._effects, []
        return effects

    def _attempt(self, step: Callable[[], None]) -> None:
        """What the other side did wrong, or failed to do, ends the session."""
        try:
            step()
        except EdgenodeError as error:
            self._close(error.problem)

    def _find_deadline(self) -> float | None:
        if self._state is SessionState.CLOSED:
            return None
        if self._state is SessionState.ESTABLISHED:
            return self._open_exchange().next_deadline(self._now, writable=self._has_room())
        return self._due

    def _has_room(self) -> bool:
        return self._unwritten < self._config.max_unwritten

    def _open_exchange(self) -> Exchange:
        assert self._exchange is not None
        return self._exchange

    # --- any state ----------------------------------------------------------------------------------------------------

    def _ignore(self, event: Event) -> None:
        """Comes too late to matter."""

    def _refuse(self, event: Event) -> None:
        raise FailedPrecondition(
            "SESSION_STATE",
            f"{type(event).__name__} does not belong in a session that is {self._state.value}",
            hint="a driver answers each effect once",
        )

    def _refuse_forward(self, event: e.Forward) -> None:
        raise FailedPrecondition(
            "LINK_DOWN", "the link is not established", hint="try again when it is", retryable=True
        )

    def _require(self, role: Role, event: Event) -> None:
        if self._role is not role:
            raise FailedPrecondition("SESSION_ROLE", f"{type(event).__name__} belongs to the {role.value} side")

    def _send(self, frame: f.Frame) -> None:
        self._unwritten += 1
        self._effects.append(e.Send(frame))
        if self._exchange is not None:
            self._exchange.sent(self._now)

    def _written(self, event: e.Writable) -> None:
        if not 0 <= event.frames <= self._unwritten:
            raise FailedPrecondition("SESSION_STATE", f"{event.frames} frames written, {self._unwritten} were sent")
        self._unwritten -= event.frames

    def _received(self, event: e.Received) -> None:
        frame = event.frame
        if self._exchange is not None:
            self._exchange.heard(self._now)
        self._attempt(lambda: _FRAMES[self._state, self._role].get(type(frame), LinkSession._unexpected)(self, frame))

    def _unexpected(self, frame: f.Frame) -> None:
        raise protocol_error(f"{type(frame).__name__} does not belong in a session that is {self._state.value}")

    def _weights_changed(self, event: e.WeightsChanged) -> None:
        self._sharing.set_weights(event.weights)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _close_requested(self, event: e.CloseRequested) -> None:
        self._close(event.problem)

    def _close(self, problem: Problem) -> None:
        if self._due is None and self._state is SessionState.OPENING:
            self._disconnect(problem)  # there is no stream to say it on
            return
        self._send(f.GoAway(problem))
        self._problem = problem
        self._state = SessionState.CLOSING
        self._due = self._now + self._config.closing_timeout

    def _disconnect(self, problem: Problem) -> None:
        self._state = SessionState.CLOSED
        self._effects.append(e.Disconnect(self._problem or problem))

    def _lost(self, event: e.Lost) -> None:
        self._disconnect(event.problem)

    def _on_go_away(self, frame: f.GoAway) -> None:
        if frame.problem.retry_after:
            self._effects.append(e.PaceGiven(f.Pace(retry_after=frame.problem.retry_after)))
        self._disconnect(frame.problem)

    def _on_too_late(self, frame: f.Frame) -> None:
        """After our GoAway nothing counts any more, but for answers to what was asked before a move."""
        if isinstance(frame, f.Passthrough) and self._problem is not None and self._problem.reason == e.MOVED:
            self._effects.append(e.Deliver(frame))

    def _closing_written(self, event: e.Writable) -> None:
        self._written(event)
        if not self._unwritten and self._problem is not None:
            self._disconnect(self._problem)

    def _closing_tick(self, event: e.Tick) -> None:
        if self._due is not None and self._now >= self._due and self._problem is not None:
            self._disconnect(self._problem)

    # --- greeting -----------------------------------------------------------------------------------------------------

    def _opened(self, event: e.Opened) -> None:
        if self._due is not None or (event.standing is None) is (self._role is Role.DIALING):
            self._refuse(event)
        self._due = self._now + self._config.greeting_timeout
        if event.standing is not None:
            self._greeting.admit(event.standing)
            self._send(self._greeting.hello())
            self._state = SessionState.GREETING

    def _on_hello(self, frame: f.Hello) -> None:
        self._greeting.hear(frame)
        self._state = SessionState.GREETING
        self._effects.append(e.Admit(frame))

    def _admitted(self, event: e.Admitted) -> None:
        self._require(Role.ACCEPTING, event)
        if self._greeting.standing is not None:
            self._refuse(event)
        self._greeting.admit(event.standing)
        self._renew_or_establish()

    def _on_welcome(self, frame: f.Welcome) -> None:
        self._greeting.hear(frame)
        self._renew_or_establish()

    def _renew_or_establish(self) -> None:
        if self._greeting.complete:
            self._establish()
        else:
            self._effects.extend(e.RenewEpoch(lane) for lane in sorted(self._greeting.renewing))

    def _epoch_renewed(self, event: e.EpochRenewed) -> None:
        """A renewal before our Welcome is part of it. Any other makes untrue what we said of our logs."""
        if event.head.lane in self._greeting.renewing:
            self._greeting.renewed(event.head)
            if self._greeting.renewing:
                return
            if self._role is Role.ACCEPTING:
                self._establish()
                return
        lane = event.head.lane.name.lower()
        error = Aborted("EPOCH_RENEWED", f"the log of lane {lane} was made anew", hint="dial again", retryable=True)
        self._close(error.problem)

    def _establish(self) -> None:
        exchange = Exchange(self._greeting, self._config, self._sharing, self._send, self._effects_append, self._now)
        if self._role is Role.ACCEPTING:
            self._send(self._greeting.welcome())
        self._state = SessionState.ESTABLISHED
        self._exchange = exchange
        self._effects.append(e.Established(self._greeting.peer()))
        exchange.begin(self._registry, self._now)
        exchange.loads_changed(self._loads.values())

    def _effects_append(self, effect: Effect) -> None:
        self._effects.append(effect)

    def _greeting_tick(self, event: e.Tick) -> None:
        if self._due is not None and self._now >= self._due:
            error = FailedPrecondition(
                "GREETING_TIMEOUT",
                f"no greeting within {self._config.greeting_timeout:g} s",
                hint="see whether the other side is an edgenode hub and its store answers",
                retryable=True,
            )
            self._close(error.problem)

    def _greeting_appended(self, event: e.Appended) -> None:
        self._greeting.appended[event.lane] = event.last

    def _greeting_loads(self, event: e.LoadsChanged) -> None:
        self._require(Role.DIALING, event)
        self._loads.update((load.agent, load) for load in event.loads)

    # --- established --------------------------------------------------------------------------------------------------

    def _appended_now(self, event: e.Appended) -> None:
        self._open_exchange().appended(event.lane, event.last)

    def _read_done(self, event: e.ReadDone) -> None:
        self._open_exchange().read_done(event, self._now)

    def _applied(self, event: e.Applied) -> None:
        try:
            self._open_exchange().applied(event)
        except Internal as error:
            self._close(error.problem)

    def _apply_delayed(self, event: e.ApplyDelayed) -> None:
        self._open_exchange().apply_delayed(event.lane)

    def _registry_changed(self, event: e.RegistryChanged) -> None:
        self._require(Role.DIALING, event)  # the pump finds what is new

    def _registry_applied(self, event: e.RegistryApplied) -> None:
        self._open_exchange().registry_applied(event)

    def _loads_changed(self, event: e.LoadsChanged) -> None:
        self._require(Role.DIALING, event)
        self._open_exchange().loads_changed(event.loads)

    def _forward(self, event: e.Forward) -> None:
        if isinstance(event.frame, f.Pace):
            self._require(Role.ACCEPTING, event)
        self._send(event.frame)

    def _tick(self, event: e.Tick) -> None:
        """The pump does it."""

    def _on_pace(self, frame: f.Pace) -> None:
        if self._exchange is not None:
            self._exchange.sending.bucket.set_rate(frame.bytes_per_second, self._now)
        self._effects.append(e.PaceGiven(frame))

    def _on_passthrough(self, frame: f.Passthrough) -> None:
        self._effects.append(e.Deliver(frame))


_Row = dict[type, Callable[[LinkSession, Any], None]]
_S = LinkSession


def _to_exchange(method: Callable[[Exchange, Any], None]) -> Callable[[LinkSession, Any], None]:
    return lambda session, frame: method(session._open_exchange(), frame)


_UNGREETED: _Row = {
    e.Opened: _S._refuse,
    e.Admitted: _S._refuse,
    e.Received: _S._received,
    e.Appended: _S._greeting_appended,
    e.ReadDone: _S._refuse,
    e.Applied: _S._refuse,
    e.ApplyDelayed: _S._refuse,
    e.EpochRenewed: _S._epoch_renewed,
    e.RegistryChanged: _S._registry_changed,
    e.RegistryApplied: _S._refuse,
    e.LoadsChanged: _S._greeting_loads,
    e.WeightsChanged: _S._weights_changed,
    e.Forward: _S._refuse_forward,
    e.Writable: _S._written,
    e.Tick: _S._greeting_tick,
    e.Lost: _S._lost,
    e.CloseRequested: _S._close_requested,
}
_OVER: _Row = dict.fromkeys(get_args(Event), _S._ignore) | {e.Opened: _S._refuse, e.Forward: _S._refuse_forward}
_EVENTS: dict[SessionState, _Row] = {
    SessionState.OPENING: _UNGREETED | {e.Opened: _S._opened},
    SessionState.GREETING: _UNGREETED | {e.Admitted: _S._admitted},
    SessionState.ESTABLISHED: {
        e.Opened: _S._refuse,
        e.Admitted: _S._refuse,
        e.Received: _S._received,
        e.Appended: _S._appended_now,
        e.ReadDone: _S._read_done,
        e.Applied: _S._applied,
        e.ApplyDelayed: _S._apply_delayed,
        e.EpochRenewed: _S._epoch_renewed,
        e.RegistryChanged: _S._registry_changed,
        e.RegistryApplied: _S._registry_applied,
        e.LoadsChanged: _S._loads_changed,
        e.WeightsChanged: _S._weights_changed,
        e.Forward: _S._forward,
        e.Writable: _S._written,
        e.Tick: _S._tick,
        e.Lost: _S._lost,
        e.CloseRequested: _S._close_requested,
    },
    SessionState.CLOSING: _OVER
    | {
        e.Received: _S._received,
        e.Writable: _S._closing_written,
        e.Tick: _S._closing_tick,
        e.Lost: _S._lost,
    },
    SessionState.CLOSED: _OVER,
}

# A frame that is not named ends the session with PROTOCOL_ERROR.
_BEFORE_HELLO: _Row = {f.GoAway: _S._on_go_away}
_BOTH_WAYS: _Row = {
    f.Batch: _to_exchange(Exchange.on_batch),
    f.Ack: _to_exchange(Exchange.on_ack),
    f.Credit: _to_exchange(Exchange.on_credit),
    f.Heartbeat: _to_exchange(Exchange.on_heartbeat),
    f.Passthrough: _S._on_passthrough,
    f.GoAway: _S._on_go_away,
}
_LAST_WORDS: _Row = dict.fromkeys(get_args(f.Frame), _S._on_too_late) | {f.GoAway: _S._on_go_away}
_FRAMES: dict[tuple[SessionState, Role], _Row] = {
    (SessionState.OPENING, Role.DIALING): _BEFORE_HELLO,
    (SessionState.OPENING, Role.ACCEPTING): _BEFORE_HELLO | {f.Hello: _S._on_hello},
    (SessionState.GREETING, Role.DIALING): _BEFORE_HELLO | {f.Welcome: _S._on_welcome, f.Pace: _S._on_pace},
    (SessionState.GREETING, Role.ACCEPTING): _BEFORE_HELLO,
    (SessionState.ESTABLISHED, Role.DIALING): _BOTH_WAYS
    | {
        f.Pace: _S._on_pace,
        f.RegistryAck: _to_exchange(Exchange.on_registry_ack),
        f.RegistryDigestRequest: _to_exchange(Exchange.on_registry_digest_request),
    },
    (SessionState.ESTABLISHED, Role.ACCEPTING): _BOTH_WAYS
    | {
        f.RegistryDelta: _to_exchange(Exchange.on_registry_delta),
        f.RegistryDigest: _to_exchange(Exchange.on_registry_digest),
    },
    (SessionState.CLOSING, Role.DIALING): _LAST_WORDS,
    (SessionState.CLOSING, Role.ACCEPTING): _LAST_WORDS,
}
