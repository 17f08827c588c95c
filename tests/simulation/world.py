"""One run: hubs, edges, programs on them, and the faults of a seed; then quiet, and everything must have come to rest."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edgenode.api.registry.v1 import registry_service_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.model.task import OnLost
from edgenode.link.protocol.greeting import SessionConfig
from edgenode.link.wire.values import duration_to_pb, timestamp_to_pb
from tests.simulation import bounds, faults, skew, tree
from tests.simulation.clients import Agent, Publisher, Submitter
from tests.simulation.clones import Clones
from tests.simulation.damage import Damages
from tests.simulation.disk import close_marks
from tests.simulation.faults import Fault
from tests.simulation.fleet import EDGES, cheaply, scratch
from tests.simulation.loop import Loop, SimulationFailure
from tests.simulation.machines import Edge, Hub, Machine, remove
from tests.simulation.network import Road
from tests.simulation.oracle import Oracle
from tests.simulation.skew import has_skew
from tests.simulation.subscribers import Subscriber, has_subscribers
from tests.simulation.tree import ChildHub

STORMS = (15.0, 20.0, 25.0, 45.0)  # seconds with traffic and faults
PATIENCE = 400.0  # seconds to come to rest after them
# Seconds for fresh traffic; a frame lost within a stream, as wild roads do, is found at the session's stall timeout.
FRESH_PATIENCE = SessionConfig().stall_timeout + 30.0
AUDITS = 5
SKILLS = ("paint", "weld", "count")
PRIORITIES = (5, 9, 0, 8)  # half of the tasks are urgent
MAX_TASKS_LEFT = 60  # asyncio tasks of one process at rest

_SCRATCH = scratch()


@dataclass
class Report:
    """What a run went through."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    fates: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    entries: int = 0
    tasks: int = 0
    steps: int = 0
    seconds: float = 0.0


class World:
    """`run` does it all; raises SimulationFailure."""

    reconnect_max = 5.0  # seconds edges wait at most before they dial again

    def __init__(self, seed: int, only: Sequence[Fault] | None = None, kinds: Sequence[str] = ()) -> None:
        """`only` stands in the place of the seed's own faults, `kinds` bounds what they are drawn from."""
        self.seed = seed
        self.tree = tree.is_tree(seed)
        self.failure: str | None = None
        self.struck: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()
        self.refused_starts: Counter[str] = Counter()
        self.history: deque[tuple[float, str, str, object]] = deque(maxlen=400)
        self.directory = _SCRATCH / "run"
        remove(self.directory)
        self.loop = Loop(self.random("threads"), self.defect)  # type: ignore[abstract]
        self.local_rng = self.random("local")
        self.oracle = Oracle(self)
        self.damages = Damages(self)
        self.clones = Clones(self)
        budgets = bounds.budgets(self.random("budgets"))
        rng = self.random("world")
        self._turns = itertools.count()
        self._traffic_rng = self.random("traffic")
        keep = rng.choice((0, 0, 2000, 1 << 20))
        heartbeat, lease = rng.choice(((5.0, 15.0), (1.0, 4.0)))
        self.hub = Hub(  # the root, where there are several
            self,
            reassign_after_seconds=rng.choice((1.0, 5.0, 30.0)),
            heartbeat_seconds=heartbeat,
            lease_seconds=lease,
            message_retention_bytes=bounds.STORE_BYTES // 2,
            **budgets,
        )
        self.hubs: list[Hub] = [self.hub]
        self.edges: list[Edge] = []
        settings: dict[str, Any] = {"reconnect_min_seconds": 0.3, "reconnect_max_seconds": self.reconnect_max}
        settings |= {"drain_seconds": 2.0, "message_retention_bytes": keep, **budgets}
        if self.tree:
            tree.plant(self, rng, settings)
        else:
            for name in EDGES[: rng.choice((1, 2, 2, 2, 3, 3, 4))]:
                self.edges.append(Edge(self, name, self.make_road(name), self.hub, **settings))
        self.storm = self.random("storm").choice(STORMS)
        self.faults = list(self._draw(kinds) if only is None else only)
        self._rate = rng.choice((1.0, 2.0, 4.0))
        self.publishers: list[Publisher] = []
        self.submitters: list[Submitter] = []
        self.agents: list[Agent] = []
        self.subscribers: list[Subscriber] = []
        self._rng = rng

    def random(self, what: str) -> random.Random:
        """Chance of its own for `what`, so that one thing more or less changes nothing for the others."""
        return random.Random(f"{self.seed}/{what}")

    def _features(self) -> list[str]:
        return ["tree"] * self.tree + ["subscribers"] * has_subscribers(self.seed) + ["skew"] * has_skew(self.seed)

    def make_road(self, name: str) -> Road:
        """The one from the node of this name to its hub."""
        return Road(self.loop, self.random(f"road {name}"), self.troubles)

    def _draw(self, kinds: Sequence[str]) -> list[Fault]:
        drawn = faults.draw(self.random("faults"), self.storm, kinds, self._features())
        # What is rare is only told apart from everything else where one hub has all.
        return drawn if self.tree else drawn + faults.draw_rare(self.random("rare faults"), self.storm, kinds)

    # --- the course ---------------------------------------------------------------------------------------------------

    def run(self) -> Report:
        """The whole course."""
        handler = _Listener(self)
        logging.getLogger().addHandler(handler)
        try:
            with cheaply():
                self._run()
        finally:
            logging.getLogger().removeHandler(handler)
            self._end()
        return self._report()

    def _run(self) -> None:
        loop = self.loop
        loop.soon(self._begin)
        for fault in self.faults:
            loop.later(fault.time, faults.strike, self, fault)
        for number in range(AUDITS):
            loop.later(self.storm * (number + self._rng.random()) / AUDITS, self.oracle.audit)
        loop.later(0.5, self._traffic)
        self._until(self.storm)
        loop.soon(self._heal)
        calm = loop.now
        if not self._until(calm + PATIENCE, self._at_rest):
            self._raise(f"does not come to rest: {self.oracle.unsettled()}")
        self._fresh_traffic()
        self.oracle.verdict()
        self._bounded()
        self._raise(None)

    def _begin(self) -> None:
        for machine in self.machines:
            machine.boot()
        for edge in self.edges:
            for number in (1, 2):
                self.publishers.append(Publisher(self, edge, f"{edge.name}-pub-{number}", wants_hub=number == 1))
            self.submitters.append(Submitter(self, edge, f"{edge.name}-sub"))
            skills = self._rng.sample(SKILLS, self._rng.choice((1, 1, 2)))
            for number in range(self._rng.choice((1, 1, 2))):
                name = f"{edge.name}-agent-{number}"
                self.agents.append(Agent(self, edge, name, skills, self._rng.choice((1, 3))))
            if has_subscribers(self.seed):
                self.subscribers += [Subscriber(self, edge, f"{edge.name}-reader-{number}") for number in (1, 2)]
        # Somebody can do everything.
        self.agents.append(Agent(self, self.edges[-1], f"{self.edges[-1].name}-jack", list(SKILLS), 4))

    @property
    def machines(self) -> list[Machine]:
        """The hubs, from the root, then the edges."""
        return [*self.hubs, *self.edges]

    @property
    def dialers(self) -> list[Edge | ChildHub]:
        """Whoever has a hub above: the edges, then the hubs but the root."""
        return [*self.edges, *(hub for hub in self.hubs if isinstance(hub, ChildHub))]

    def edge(self, name: str) -> Edge:
        """The one of this name."""
        return next(edge for edge in self.edges if edge.name == name)

    def _until(self, when: float, done: object = None) -> bool:
        result = self.loop.run(when, done)  # type: ignore[arg-type]
        self._raise(None)
        return result

    def _heal(self) -> None:
        self.note("world", "calm")
        self.calm = True
        for dialer in self.dialers:
            dialer.road.clear()
        for machine in self.machines:
            machine.clock.offset = 0.0
            disk = machine.disk
            disk.slow, disk.failing_commits, disk.page_limit, disk.trap = 1.0, 0, 0, None
            if machine.process is not None:
                machine.process.fuse = None
                if machine.process.paused:
                    machine.process.resume()
            if machine.version == skew.TOO_NEW:
                machine.crash(power=False, silent=False)
                machine.version = skew.NEWER
            machine.boot()
        for agent in self.agents:
            agent.come_back()

    def _at_rest(self) -> bool:
        if self.failure is not None:
            return True
        # Looked at now and then: it reads the stores.
        if self.loop.now < self._look_again:
            return False
        self._look_again = self.loop.now + 1.0
        return not self.oracle.unsettled()

    calm = False  # no faults any more
    _look_again = 0.0
    _over = False

    def _fresh_traffic(self) -> None:
        def begin() -> None:
            for publisher in self.publishers:
                publisher.publish(3, 10)
            for submitter in self.submitters:
                submitter.submit(self._spec(OnLost.RETRY))

        self.loop.soon(begin)
        self._look_again = self.loop.now + 0.5
        if not self._until(self.loop.now + FRESH_PATIENCE, self._at_rest):
            self._raise(f"fresh traffic does not flow: {self.oracle.unsettled()}")

    def _bounded(self) -> None:
        """At rest nothing has piled up."""
        bounds.check_at_rest(self)
        for machine in self.machines:
            assert machine.process is not None
            left = [task for task in machine.process.tasks if not task.done()]
            self.check(len(left) <= MAX_TASKS_LEFT, f"{machine.name} has {len(left)} tasks at rest")
        for edge in self.edges:
            assert edge.node is not None
            if self.oracle.excused_edges or self.clones.nodes:
                continue  # they do again, or wait for, what nobody knows any more
            live = edge.node.rooms.engine.book.live
            hanging = sum(self.oracle._may_hang(s) for s in self.oracle.submissions)
            self.check(len(live) <= hanging, f"{edge.name} holds {len(live)} tasks at rest")

    def _end(self) -> None:
        self._over = True
        self.clones.end()
        for program in (*self.publishers, *self.submitters, *self.agents, *self.subscribers):
            program.stop()
        for machine in self.machines:
            if machine.process is not None:
                machine.process.kill()
            machine.disk.crash(power=False)
        self.loop.end()
        close_marks(self.directory)

    # --- traffic ------------------------------------------------------------------------------------------------------

    def _traffic(self) -> None:
        rng = self._traffic_rng
        if self.loop.now >= self.storm:
            return
        if rng.random() < 0.65:
            size = rng.choice((5, 5, 50, 800))
            rng.choice(self.publishers).publish(rng.choice((1, 2, 5, 20)), size, rng.random() < 0.05)
        else:
            submitter = rng.choice(self.submitters)
            call = rng.random() < 0.3
            on_lost = rng.choice((OnLost.RETRY, OnLost.RETRY, OnLost.FAIL, OnLost.WAIT))
            submitter.submit(self._spec(OnLost.RETRY if call else on_lost), call=call)
        self.loop.later(rng.expovariate(self._rate), self._traffic)

    def _spec(self, on_lost: OnLost) -> task_pb2.TaskSpec:
        rng = self._traffic_rng
        spec = task_pb2.TaskSpec(skill=rng.choice(SKILLS), input=b"x" * rng.choice((0, 20, 500)))
        spec.scope = registry_service_pb2.SCOPE_FLEET
        spec.priority = PRIORITIES[next(self._turns) % len(PRIORITIES)]
        spec.on_lost = int(on_lost)  # type: ignore[assignment]
        spec.retry_policy.max_attempt_count = 1 if on_lost is not OnLost.RETRY else rng.choice((1, 3, 5))
        spec.retry_policy.initial_backoff_duration.CopyFrom(duration_to_pb(0.5))
        spec.attempt_timeout_duration.CopyFrom(duration_to_pb(rng.choice((20.0, 60.0))))
        if rng.random() < 0.15:
            spec.deadline_time.CopyFrom(timestamp_to_pb(self.hub.clock.wall() + rng.choice((3.0, 30.0))))
        if has_skew(self.seed):
            skew.add_unknown(spec)
        return spec

    # --- telling ------------------------------------------------------------------------------------------------------

    def note(self, who: str, what: str, detail: object = "") -> None:
        """Remember that this happened."""
        if not self._over:
            self.history.append((self.loop.now, who, what, detail))

    def check(self, holds: bool, broken: str) -> None:
        """Fail if something that must hold does not."""
        if not holds:
            self.fail(broken)

    def fail(self, broken: str) -> None:
        """The run has failed; it ends at the next chance."""
        self.note("world", "BROKEN", broken)
        if self.failure is None:
            self.failure = broken
            self.loop.stopped = True

    def defect(self, text: str) -> None:
        """Something was raised that nobody expected."""
        self.fail(f"a defect: {text}")

    def _raise(self, otherwise: str | None) -> None:
        broken = self.failure or otherwise
        if broken is not None:
            raise SimulationFailure(f"seed {self.seed}: {broken}\n{self.tail()}")

    def tail(self, lines: int = 80) -> str:
        """What happened last, a line each."""
        return "\n".join(
            f"{time:9.3f} {who:6} {what:18} {_short(detail)}" for time, who, what, detail in list(self.history)[-lines:]
        )

    def _report(self) -> Report:
        disks = sum((machine.disk.faults for machine in self.machines), Counter[str]())
        return Report(
            self.seed,
            self.struck + self.troubles + disks,
            self.fates,
            sum(dialer.road.connection_count for dialer in self.dialers),
            self.oracle.entry_count,
            len(self.oracle.submissions),
            self.loop.step_count,
            self.loop.now,
        )


class _Listener(logging.Handler):
    """What the product logs as an error becomes part of the history."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.note(record.name.rpartition(".")[2], record.levelname, record.getMessage())
        if (
            record.exc_info
            and record.exc_info[1] is not None
            and not isinstance(record.exc_info[1], asyncio.CancelledError)
        ):
            self._world.note("", "", repr(record.exc_info[1]))


def _short(detail: object) -> str:
    text = str(detail).replace("\n", " ")
    return text if len(text) <= 200 else text[:197] + "..."
