"""The session of one link connection, for both ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgenode.link.model.lanes import Lane
from edgenode.link.protocol.events import Effect, Event, Role, SessionState
from edgenode.link.protocol.registry import RegistryLog


@dataclass(frozen=True, slots=True)
class Local:
    """Who we are. `generation` and `software` are told by a dialing side only."""

    node: str
    boot_id: str
    generation: int = 0
    software: str = ""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Times in seconds. Heartbeat and lease are the accepting side's to choose; the dialing side takes them from Welcome."""

    heartbeat: float = 10.0
    lease: float = 30.0
    greeting_timeout: float = 15.0
    stall_timeout: float = 120.0  # entries sent and not acknowledged, or no credit, for this long: start over
    closing_timeout: float = 2.0  # how long a GoAway may take to leave
    digest_interval: float = 60.0
    load_interval: float = 1.0  # loads are sent at most this often
    window_bytes: int = 4 << 20  # per lane: credit we give the peer
    window_count: int = 32_768
    batch_bytes: int = 256 << 10
    batch_count: int = 500  # at least one segment goes, whatever it holds
    max_unwritten: int = 4  # frames at the writer before the next batch waits for Writable
    registry_count: int = 512  # entries and bytes of one registry delta
    registry_bytes: int = 1 << 20
    min_protocol_version: int = 1
    max_protocol_version: int = 1


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
        raise NotImplementedError

    @property
    def state(self) -> SessionState:
        """Where the session stands."""
        raise NotImplementedError

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What to do about `event`; `now` is monotonic seconds.

        Raises FailedPrecondition (SESSION_STATE or LINK_DOWN) for a local event that this state refuses.
        """
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """When to send Tick, monotonic seconds; None: no need."""
        raise NotImplementedError
