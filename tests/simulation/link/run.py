"""One run: traffic and faults from one seed, then quiet, then everything must have arrived and fresh traffic must flow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from edgenode.link.model import frames as f
from edgenode.link.model.lanes import Lane
from edgenode.link.protocol import events as e
from edgenode.link.protocol.registry import RegistryReplica
from tests.simulation.link.network import Weather
from tests.simulation.link.side import Driver, Edge, Hub, Side
from tests.simulation.link.world import World

STORM = 25.0  # seconds with faults
PATIENCE = 300.0  # seconds to drain after them
FRESH = 30.0  # seconds for fresh traffic to pass in calm weather
NAMES = [f"nodes/edge/agents/agent-{number}" for number in range(12)]


@dataclass
class Report:
    """What a run went through."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    entry_count: int = 0
    step_count: int = 0


class Simulation:
    """Edge, hub, network and the hand of fate."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.weather = Weather()
        self.hub = Hub(self.world, self.weather)
        self.edge = Edge(self.world, self.weather)
        self.edge.other, self.edge.hub, self.hub.other = self.hub, self.hub, self.edge
        rng = self.world.rng
        # One run in three is wild throughout its storm; the others keep the stream's promise.
        self.wild = rng.random() < 0.34
        self._rate = rng.choice((5.0, 20.0, 60.0))
        self._fault_gap = rng.choice((0.5, 2.0, 6.0))
        self._faults: list[tuple[int, Callable[[], None]]] = [
            (4, self._cut),
            (2, self._half_open),
            (3, self._one_way),
            (3, self._outage),
            (3, lambda: self._crash(self.edge)),
            (3, lambda: self._crash(self.hub)),
            (2, self._slow),
            (3, self._lossy),
            (2, self._pace),
            (3, self._second_stream),
        ]

    def run(self) -> Report:
        """The whole course; raises SimulationFailure."""
        world = self.world
        self.weather.wild = self.wild
        self.weather.faithful = not self.wild
        self.edge.dial()
        self._traffic()
        self._fate()
        world.run(STORM)
        self._heal()
        calm = world.now
        world.check(world.run(calm + PATIENCE, self.drained), f"not drained: {self._standing()}")
        self.fresh_traffic()
        return self._report()

    def fresh_traffic(self) -> None:
        """Something new on every lane, both ways, must arrive soon."""
        for lane in Lane:
            self.edge.append(lane, 3, 0)
            self.hub.append(lane, 3, 0)
        self.edge.register(NAMES[0])
        self.world.run(self.world.now + 1.0)
        drained = self.world.run(self.world.now + FRESH, self.drained)
        self.world.check(drained, f"fresh traffic does not flow: {self._standing()}")

    def _report(self) -> Report:
        sides: tuple[Side, ...] = (self.edge, self.hub)
        produced = sum(len(log.produced) for side in sides for log in side.disk.logs.values())
        return Report(self.world.seed, self.world.faults, self.world.endings, produced, self.world.step_count)

    # --- what must hold -----------------------------------------------------------------------------------------------

    def drained(self) -> bool:
        return self._arrived(self.edge, self.hub) and self._arrived(self.hub, self.edge) and self._registry_equal()

    def _arrived(self, sender: Side, receiver: Side) -> bool:
        return all(
            log.acked == log.last and len(receiver.disk.inbox[lane].applied) == len(log.produced)
            for lane, log in sender.disk.logs.items()
        )

    def _registry_equal(self) -> bool:
        log, disk = self.edge.registry, self.hub.disk
        if (disk.registry_epoch, disk.registry_version) != (log.epoch, log.version):
            return False
        return disk.registry == {entry.name: entry for entry in log.entries()}

    def _standing(self) -> str:
        rows = [
            f"{side.name} {lane.name.lower()} {log.first}-{log.last} acked {log.acked}"
            f" there {len(side.other.disk.inbox[lane].applied)}"
            for side in (self.edge, self.hub)
            for lane, log in side.disk.logs.items()
        ]
        disk, log = self.hub.disk, self.edge.registry
        mine = RegistryReplica(log.epoch, log.version, log.entries())
        rows.append(f"registry {log.epoch}/{log.version} there {disk.registry_epoch}/{disk.registry_version}")
        rows.append(f"records {mine.records()} there {disk.replica().records()}")
        return "; ".join(rows)

    # --- traffic ------------------------------------------------------------------------------------------------------

    def _traffic(self) -> None:
        rng = self.world.rng
        if self.world.now >= STORM:
            return
        kind = rng.random()
        if kind < 0.75:
            side: Side = self.edge if rng.random() < 0.6 else self.hub
            # Now and then a segment larger than the whole window.
            padding = rng.choice((0, 0, 20, 100)) if rng.random() < 0.98 else 2000
            side.append(rng.choice(list(Lane)), rng.randint(1, 12), padding)
        elif kind < 0.9:
            self.edge.register(rng.choice(NAMES))
        elif kind < 0.97:
            self.edge.deregister(rng.choice(NAMES))
        else:
            self.edge.load(rng.choice(NAMES), rng.randint(0, 9))
        self.world.later(rng.expovariate(self._rate), self._traffic)

    # --- faults -------------------------------------------------------------------------------------------------------

    def _fate(self) -> None:
        rng = self.world.rng
        if self.world.now >= STORM:
            return
        weights = [weight for weight, _ in self._faults]
        rng.choices(self._faults, weights)[0][1]()
        self.world.later(rng.expovariate(1 / self._fault_gap), self._fate)

    def _connections(self) -> list[Driver]:
        return [driver for driver in self.edge.drivers if not driver.connection.closed]

    def _cut(self) -> None:
        for driver in self._connections():
            self.world.fault("cut")
            driver.connection.cut()

    def _half_open(self) -> None:
        for driver in self._connections():
            self.world.fault("half open")
            driver.connection.cut(silent=True)

    def _one_way(self) -> None:
        for driver in self._connections():
            pipe = self.world.rng.choice((driver.connection.up, driver.connection.down))
            self.world.fault(f"one way ({pipe.name} lost)")
            pipe.swallows = True

    def _outage(self) -> None:
        self.world.fault("outage")
        self.weather.up = False
        for driver in self._connections():
            driver.connection.cut()
        self.world.later(self.world.rng.uniform(0.2, 5.0), self._up)

    def _up(self) -> None:
        self.weather.up = True

    def _crash(self, side: Side) -> None:
        if side.running:
            self.world.fault(f"crash {side.name}")
            side.crash()
            if side is self.hub:
                self._rot()
            self.world.later(self.world.rng.uniform(0.05, 3.0), lambda: self._restart(side))

    def _restart(self, side: Side) -> None:
        if not side.running:
            self.world.note(side.name, "restarts")
            side.restart()

    def _rot(self) -> None:
        """The hub's rows were damaged while it was down; only the digest can tell."""
        rows = self.hub.disk.registry
        if rows and self.world.rng.random() < 0.5:
            name = self.world.rng.choice(sorted(rows))
            self.world.fault("registry row lost", name)
            del rows[name]

    def _slow(self) -> None:
        self.world.fault("delay")
        self.weather.delay = self.world.rng.uniform(0.1, 3.0)
        self.world.later(self.world.rng.uniform(0.5, 4.0), self._fast)

    def _fast(self) -> None:
        self.weather.delay = 0.0

    def _lossy(self) -> None:
        self.weather.drop = 0.02
        self.world.later(self.world.rng.uniform(0.5, 4.0), self._lossless)

    def _lossless(self) -> None:
        self.weather.drop = 0.0

    def _pace(self) -> None:
        for driver in self.hub.drivers:
            if driver.session.state is e.SessionState.ESTABLISHED:
                self.world.fault("pace")
                rate = self.world.rng.choice((0, 300, 3000))
                driver.post(e.Forward(f.Pace(self.world.rng.uniform(0.0, 1.0), rate)))

    def _second_stream(self) -> None:
        """The edge dials while its session is still up, as one that was paused, or cloned, would."""
        if self.edge.running:
            self.world.fault("second stream")
            # Slowly, so that the older session goes on while the newer one greets.
            self.weather.delay = self.world.rng.uniform(0.0, 0.5)
            self.world.later(1.0, self._fast)
            self.edge.dial(redials=False)

    def _heal(self) -> None:
        self.world.note("world", "calm")
        self.weather.clear()
        for side in (self.edge, self.hub):
            self._restart(side)
