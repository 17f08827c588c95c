"""How two sides of a link get to know each other: Hello up, Welcome down, and what must be put right before entries flow.

Hubs form a tree. A Welcome names the hubs from the root down to the accepting one, a Hello the hub that dials. Whichever
side sees first that the dialing hub is its own ancestor refuses with LOOP_IN_TREE. A hub passes its path on, so however
long a circle is, the path that runs around it comes back to a hub that is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from edgenode.link.errors import FailedPrecondition, InvalidArgument
from edgenode.link.model.frames import Credit, Hello, Welcome
from edgenode.link.model.lanes import Lane, LaneCursor, LaneHead
from edgenode.link.model.names import MAX_TREE_DEPTH
from edgenode.link.protocol.events import Peer, Role, Standing
from edgenode.link.protocol.lanes import ahead, protocol_error
from edgenode.link.protocol.registry import RegistryLog

LOOP_IN_TREE = "LOOP_IN_TREE"


@dataclass(frozen=True, slots=True)
class Local:
    """Who we are. `generation`, `software`, `hub` (our id, if we are a hub) and `challenge` are told by a dialing side only.

    `path` gives, on an accepting side, the ids of the hubs from the root of the tree down to ourselves.
    """

    node: str
    boot_id: str
    generation: int = 0
    software: str = ""
    hub: str = ""
    challenge: str = ""
    path: Callable[[], tuple[str, ...]] = tuple


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

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat < self.lease:
            raise InvalidArgument(
                "BAD_CONFIG",
                f"heartbeat is {self.heartbeat} s, lease {self.lease} s",
                hint="the lease must be longer than the heartbeat, best three times as long",
                field="heartbeat",
            )


class _OfLane(Protocol):
    @property
    def lane(self) -> Lane: ...


T = TypeVar("T", bound=_OfLane)


def by_lane(items: Iterable[T]) -> dict[Lane, T]:
    """Heads, cursors or credits by their lane."""
    return {item.lane: item for item in items}


class Greeting:
    """What was said by both sides so far."""

    def __init__(self, role: Role, local: Local, config: SessionConfig, registry: RegistryLog | None) -> None:
        self._role = role
        self._local = local
        self._config = config
        self._registry = registry
        self.standing: Standing | None = None
        self.theirs: Hello | Welcome | None = None
        self.appended: dict[Lane, int] = {}  # what the local logs gained since the session began
        self.renewing: set[Lane] = set()
        self.version = 0

    @property
    def complete(self) -> bool:
        """Both sides have spoken and no log waits for a new epoch."""
        return self.standing is not None and self.theirs is not None and not self.renewing

    def hello(self) -> Hello:
        """The dialing side's first frame; the standing is known."""
        assert self.standing is not None
        return Hello(
            node=self._local.node,
            boot_id=self._local.boot_id,
            generation=self._local.generation,
            heads=self.standing.heads,
            cursors=self.standing.cursors,
            credits=self._windows(),
            registry_epoch=self._registry.epoch if self._registry else "",
            registry_version=self._registry.version if self._registry else 0,
            applied_version=self.standing.applied_version,
            min_protocol_version=self._config.min_protocol_version,
            max_protocol_version=self._config.max_protocol_version,
            software=self._local.software,
            hub=self._local.hub,
            challenge=self._local.challenge,
        )

    def welcome(self) -> Welcome:
        """The accepting side's first frame; the greeting is complete."""
        assert self.standing is not None
        replica = self.standing.replica
        return Welcome(
            node=self._local.node,
            boot_id=self._local.boot_id,
            fence=self.standing.fence,
            heads=self.standing.heads,
            cursors=self.standing.cursors,
            credits=self._windows(),
            registry_epoch=replica.epoch if replica else "",
            registry_version=replica.version if replica else 0,
            protocol_version=self.version,
            heartbeat=self._config.heartbeat,
            lease=self._config.lease,
            path=self._local.path(),
        )

    def _windows(self) -> tuple[Credit, ...]:
        return tuple(Credit(lane, self._config.window_bytes, self._config.window_count) for lane in Lane)

    def hear(self, theirs: Hello | Welcome) -> None:
        """The other side's first frame.

        Raises FailedPrecondition (PROTOCOL_VERSION, PROTOCOL_ERROR, LOOP_IN_TREE, TREE_TOO_DEEP).
        """
        if self.theirs is not None:
            raise protocol_error(f"a second {type(theirs).__name__}")
        if isinstance(theirs, Hello):
            self.version = self._agree(theirs.min_protocol_version, theirs.max_protocol_version)
        else:
            self.version = self._agree(theirs.protocol_version, theirs.protocol_version)
            if not 0 < theirs.heartbeat < theirs.lease:
                raise protocol_error(f"heartbeat {theirs.heartbeat} s, lease {theirs.lease} s")
        if isinstance(theirs, Hello):
            check_tree(self._local.path(), theirs.hub)
        else:
            check_tree(theirs.path, self._local.hub)
        _check_logs(theirs.heads, theirs.cursors, theirs.credits)
        self.theirs = theirs
        self._compare()

    def admit(self, standing: Standing) -> None:
        """Our own standing is known; lanes that need a new epoch are then in `renewing`."""
        self.standing = standing
        self._compare()

    def _compare(self) -> None:
        if self.standing is not None and self.theirs is not None:
            heads, cursors = by_lane(self.standing.heads), by_lane(self.theirs.cursors)
            self.renewing = set(ahead(heads, self.appended, cursors))

    def renewed(self, head: LaneHead) -> None:
        """A lane that was in `renewing` has its new epoch."""
        assert self.standing is not None
        self.renewing.discard(head.lane)
        heads = tuple(head if known.lane is head.lane else known for known in self.standing.heads)
        self.standing = replace(self.standing, heads=heads)

    def _agree(self, lowest: int, highest: int) -> int:
        version = min(highest, self._config.max_protocol_version)
        if version < max(lowest, self._config.min_protocol_version):
            mine = f"{self._config.min_protocol_version}-{self._config.max_protocol_version}"
            raise FailedPrecondition(
                "PROTOCOL_VERSION",
                f"{self._local.node} speaks protocol versions {mine}, the other side {lowest}-{highest}",
                hint="upgrade the hub first, then the nodes",
            )
        return version

    def peer(self) -> Peer:
        """Who the other side is; the greeting is complete."""
        assert self.standing is not None
        theirs = self.theirs
        if isinstance(theirs, Welcome):
            return Peer(theirs.node, theirs.boot_id, theirs.fence, self.version, path=theirs.path, heads=theirs.heads)
        assert theirs is not None
        return Peer(
            theirs.node,
            theirs.boot_id,
            self.standing.fence,
            self.version,
            theirs.generation,
            theirs.applied_version,
            theirs.software,
            theirs.hub,
        )


def check_tree(path: tuple[str, ...], child: str) -> None:
    """Whether hub `child` (empty: an edge) may be below the hub that `path` leads to from the root.

    Raises FailedPrecondition (LOOP_IN_TREE, TREE_TOO_DEEP).
    """
    if not child:
        return
    if child in path:
        raise FailedPrecondition(
            LOOP_IN_TREE,
            f"hub {child} would be below itself: {' > '.join((*path, child))}",
            hint="hubs form a tree: one of these hubs must not have joined the one before it",
            path=" > ".join(path),
        )
    if len(path) >= MAX_TREE_DEPTH:
        raise FailedPrecondition(
            "TREE_TOO_DEEP",
            f"hub {child} would be number {len(path) + 1} from the root of its tree",
            hint=f"a tree has at most {MAX_TREE_DEPTH} hubs one below the other",
            limit=MAX_TREE_DEPTH,
        )


def _check_logs(heads: Iterable[LaneHead], cursors: Iterable[LaneCursor], credits: Iterable[Credit]) -> None:
    for head in heads:
        if not head.epoch or not 1 <= head.first <= head.last + 1:
            raise protocol_error(f"log {head.first}-{head.last} of epoch {head.epoch!r}", lane=head.lane)
        if any(not earlier.epoch or not 0 <= earlier.last <= head.last for earlier in head.earlier):
            raise protocol_error(f"an earlier epoch ended beyond the log, which ends at {head.last}", lane=head.lane)
    for cursor in cursors:
        if cursor.sequence < 0:
            raise protocol_error(f"cursor {cursor.sequence}", lane=cursor.lane)
    for credit in credits:
        if credit.added_bytes < 0 or credit.added_count < 0:
            raise protocol_error("negative credit", lane=credit.lane)
