"""Edge and hub of a run: the real cores, with drivers that live in the simulated world."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edgenode.link.model import frames as f
from edgenode.link.model.lanes import Gap, Lane
from edgenode.link.model.problem import Code, Problem
from edgenode.link.protocol import events as e
from edgenode.link.protocol.backoff import ReconnectBackoff
from edgenode.link.protocol.registry import RegistryLog
from edgenode.link.protocol.session import LinkSession, Local, SessionConfig
from tests.simulation.link.disk import Disk
from tests.simulation.link.network import Connection, Pipe, Weather
from tests.simulation.link.world import World

CONFIG = SessionConfig(
    heartbeat=2.0,
    lease=6.0,
    greeting_timeout=5.0,
    stall_timeout=15.0,
    closing_timeout=0.5,
    digest_interval=4.0,
    load_interval=0.5,
    window_bytes=1500,
    window_count=60,
    batch_bytes=400,
    batch_count=20,
    max_unwritten=3,
    registry_count=3,
    registry_bytes=400,
)
# A transport that keeps its promise never brings a session to these ends.
BROKEN_PROMISES = ("PROTOCOL_ERROR", "STALLED", "REGISTRY_EPOCH", "SHORT_COMMIT", "EPOCH_RENEWED")
LOST = Problem(Code.UNAVAILABLE, "STREAM_LOST", "the connection broke")
SUPERSEDED = Problem(Code.ABORTED, "SUPERSEDED", "a newer stream")


class Driver:
    """Runs one session over one connection, as the real one does over gRPC and SQLite."""

    def __init__(self, side: Side, session: LinkSession, connection: Connection, out: Pipe) -> None:
        self.side = side
        self.world = side.world
        self.session = session
        self.connection = connection
        self.closed = False
        self.problem: Problem | None = None
        self.redials = True
        self._out = out
        self._boot = side.boot
        self._timer_at: float | None = None
        self._ticks = (0.0, 0)

    @property
    def dead(self) -> bool:
        """Its process crashed."""
        return self._boot != self.side.boot

    def post(self, event: e.Event) -> None:
        """Give the session an event and do what it says."""
        if self.dead:
            return
        self.world.note(self.side.name, "event", event)
        effects = self.session.handle(event, self.world.now)
        self.world.check(not (self.closed and effects), f"{self.side.name} does something after Disconnect: {effects}")
        for effect in effects:
            self.world.note(self.side.name, "effect", effect)
            self._do(effect)
        self._arm()

    def _arm(self) -> None:
        deadline = self.session.next_deadline()
        if deadline is None or (self._timer_at is not None and self._timer_at <= deadline):
            return
        self._timer_at = deadline
        self.world.later(deadline - self.world.now, partial(self._tick, deadline))

    def _tick(self, armed: float) -> None:
        if self.dead or self._timer_at != armed:
            return
        self._timer_at = None
        deadline = self.session.next_deadline()
        if deadline is None:
            return
        if deadline > self.world.now:
            self._arm()
            return
        time, count = self._ticks
        self._ticks = (self.world.now, count + 1 if time == self.world.now else 1)
        self.world.check(self._ticks[1] < 20, f"{self.side.name} ticks without end")
        self.post(e.Tick())

    # --- effects ------------------------------------------------------------------------------------------------------

    def _do(self, effect: e.Effect) -> None:
        disk = self.side.disk
        match effect:
            case e.Send(frame):
                self._send(frame)
            case e.ReadLane(lane, after, count, size):
                disk.transact(
                    partial(disk.read, lane, after, count, size), lambda chunk: self.post(e.ReadDone(lane, chunk))
                )
            case e.Apply(lane, epoch, base, segments, gap):
                disk.transact(
                    lambda: self.side.apply(lane, epoch, base, segments, gap),
                    lambda result: self.post(e.Applied(lane, epoch, result)),
                )
            case e.Acknowledge(lane, epoch, sequence, _):
                self.side.check_acknowledged(lane, epoch, sequence)
                disk.transact(partial(disk.acknowledged, lane, epoch, sequence), lambda _: None)
            case e.ApplyRegistry(_, changes):
                done = e.RegistryApplied(changes.epoch, changes.version)
                disk.transact(partial(disk.apply_registry, changes), lambda _: self.post(done))
            case e.RenewEpoch(lane):
                disk.transact(partial(disk.renew_epoch, lane), lambda head: self.post(e.EpochRenewed(head)))
            case e.Established():
                self.side.established(self)
            case e.Admit():
                self.side.admit(self)
            case e.Disconnect(problem):
                self.closed = True
                self.problem = problem
                self.world.endings[problem.reason] += 1
                faithful = self.side.weather.faithful
                self.world.check(
                    not (faithful and problem.reason in BROKEN_PROMISES),
                    f"{self.side.name} over a faithful stream: {problem}",
                )
                self.connection.finish()
                self.side.ended(self)
            case e.PaceGiven(pace):
                self.side.paced(pace)
            case e.LoadsReported() | e.Deliver():
                pass
            case _:
                self.world.check(False, f"{self.side.name} has no answer to {effect}")

    def _send(self, frame: f.Frame) -> None:
        if isinstance(frame, f.Ack):
            durable = self.side.disk.cursor(frame.lane, frame.epoch)
            self.world.check(
                frame.sequence <= durable,
                f"{self.side.name} acknowledges {frame.sequence}, durable is {durable}: {frame}",
            )
        self._out.send(frame)
        self.world.later(self.world.rng.uniform(0.0, 0.004), lambda: None if self.closed else self.post(e.Writable(1)))


class Side:
    """What edge and hub have in common. A crash ends the process; `boot` tells one life from the next."""

    name = ""

    def __init__(self, world: World, weather: Weather) -> None:
        self.world = world
        self.weather = weather
        self.disk = Disk(world, self.name)
        self.boot = 1
        self.running = True
        self.drivers: list[Driver] = []
        self.other: Side

    def append(self, lane: Lane, count: int, padding: int) -> None:
        """Commit fresh entries, then tell the sessions."""
        if self.running:
            self.disk.transact(partial(self.disk.append, lane, count, padding), partial(self._appended, lane))

    def _appended(self, lane: Lane, last: int) -> None:
        for driver in list(self.drivers):
            driver.post(e.Appended(lane, last))

    def apply(self, lane: Lane, epoch: str, base: int, segments: object, gap: Gap | None) -> object:
        """Apply, and look whether what is there now is what the other side produced, once and in order."""
        result = self.disk.apply(lane, epoch, base, segments, gap)  # type: ignore[arg-type]
        applied, produced = self.disk.inbox[lane].applied, self.other.disk.logs[lane].produced
        recent = max(0, len(applied) - 60)
        self.world.check(
            len(applied) <= len(produced)
            and all(entry in (None, made) for entry, made in zip(applied[recent:], produced[recent:], strict=False)),
            f"{self.name} applied {applied[recent:]} of {lane.name}, produced were {produced[recent:]}",
        )
        self.world.check(result.sequence <= self.other.disk.logs[lane].last, f"{self.name} stands beyond the log's end")
        return result

    def check_acknowledged(self, lane: Lane, epoch: str, sequence: int) -> None:
        """Nobody may believe to be acknowledged what is not durable over there."""
        durable = self.other.disk.cursor(lane, epoch)
        self.world.check(
            sequence <= durable, f"{self.name} takes {sequence} of {lane.name} for acknowledged, {durable} is"
        )

    def crash(self) -> None:
        """The process is gone, and with it all that was not durable."""
        self.running = False
        self.boot += 1
        self.disk.crash()
        for driver in self.drivers:
            driver.connection.cut(silent=self.world.rng.random() < 0.2)
        self.drivers.clear()

    def restart(self) -> None:
        """The process is back."""
        self.running = True

    def lost(self, driver: Driver) -> None:
        """The transport tells that it broke."""
        if not driver.closed:
            driver.post(e.Lost(LOST))

    def received(self, driver: Driver, frame: f.Frame) -> None:
        """A frame arrived."""
        driver.post(e.Received(frame))

    def attach(self, driver: Driver, incoming: Pipe) -> None:
        """A connection is there."""
        self.drivers.append(driver)
        incoming.deliver = partial(self.received, driver)
        driver.connection.lost.append(partial(self.lost, driver))

    def established(self, driver: Driver) -> None:
        """A session came up."""

    def admit(self, driver: Driver) -> None:
        """A node wants in."""

    def ended(self, driver: Driver) -> None:
        """A session is over."""
        if driver in self.drivers:
            self.drivers.remove(driver)

    def paced(self, pace: f.Pace) -> None:
        """The parent set a pace."""


class Hub(Side):
    """The accepting side."""

    name = "hub"

    def __init__(self, world: World, weather: Weather) -> None:
        super().__init__(world, weather)
        self.fence = 0

    def accept(self, connection: Connection) -> None:
        """A stream was opened."""
        session = LinkSession(e.Role.ACCEPTING, Local("hub", f"hub-{self.boot}"), CONFIG)
        driver = Driver(self, session, connection, connection.down)
        self.attach(driver, connection.up)
        driver.post(e.Opened())

    def admit(self, driver: Driver) -> None:
        """End the older session; what it has begun stands before us in the store's line."""
        for older in list(self.drivers):
            if older is not driver:
                older.post(e.CloseRequested(SUPERSEDED))
        self.fence += 1
        fence = self.fence
        disk = self.disk
        disk.transact(
            lambda: e.Standing(disk.heads(), disk.cursors(), fence=fence, replica=disk.replica()),
            lambda standing: driver.post(e.Admitted(standing)),
        )


class Edge(Side):
    """The dialing side: dials again and again, and owns a registry that begins anew with every life."""

    name = "edge"

    def __init__(self, world: World, weather: Weather) -> None:
        super().__init__(world, weather)
        self.hub: Hub
        self._begin_life()

    def _begin_life(self) -> None:
        self.registry = RegistryLog(f"boot-{self.boot}")
        self.backoff = ReconnectBackoff(self.world.rng, initial=0.2, maximum=3.0, stable_after=5.0)
        self.incarnation = self.boot * 1000

    def restart(self) -> None:
        """Back again; agents come back one by one."""
        super().restart()
        self._begin_life()
        self.dial()

    def dial(self, *, redials: bool = True) -> None:
        """One attempt, and another one when it ends."""
        boot = self.boot
        if not self.running:
            return
        if not (self.weather.up and self.hub.running):
            if redials:
                self._redial(boot)
            return
        connection = Connection(self.world, self.weather)
        session = LinkSession(e.Role.DIALING, Local("edge", f"edge-{boot}"), CONFIG, registry=self.registry)
        driver = Driver(self, session, connection, connection.up)
        driver.redials = redials
        self.attach(driver, connection.down)
        disk = self.disk
        disk.transact(
            lambda: e.Standing(disk.heads(), disk.cursors()), lambda standing: self._open(driver, connection, standing)
        )

    def _open(self, driver: Driver, connection: Connection, standing: e.Standing) -> None:
        if self.hub.running and not connection.closed:
            self.hub.accept(connection)
            driver.post(e.Opened(standing))
        else:
            driver.post(e.Lost(LOST))

    def established(self, driver: Driver) -> None:
        """Count the session as up."""
        self.backoff.established(self.world.now)

    def ended(self, driver: Driver) -> None:
        """Dial again after a while."""
        super().ended(driver)
        if driver.redials:
            self._redial(self.boot)

    def _redial(self, boot: int) -> None:
        delay: float = self.backoff.next_delay(self.world.now)
        self.world.later(delay + 0.01, self._unless_crashed(boot, self.dial))

    def _unless_crashed(self, boot: int, action: Callable[[], None]) -> Callable[[], None]:
        return lambda: action() if boot == self.boot else None

    def paced(self, pace: f.Pace) -> None:
        """Wait as long as the hub asks."""
        self.backoff.pace(pace.retry_after)

    # --- registry -----------------------------------------------------------------------------------------------------

    def register(self, name: str) -> None:
        """An agent came, or changed."""
        if self.running:
            self.incarnation += 1
            self.registry.put(name, self.incarnation, f"{name} {self.incarnation}".encode())
            self._registry_changed()

    def deregister(self, name: str) -> None:
        """An agent left."""
        known = self.registry.get(name)
        if self.running and known is not None:
            self.registry.remove(name, known.incarnation)
            self._registry_changed()

    def load(self, name: str, in_flight: int) -> None:
        """An agent's load changed."""
        for driver in list(self.drivers):
            if driver.session.state is e.SessionState.ESTABLISHED:
                driver.post(e.LoadsChanged((f.AgentLoad(name, in_flight, 0),)))

    def _registry_changed(self) -> None:
        for driver in list(self.drivers):
            driver.post(e.RegistryChanged())
