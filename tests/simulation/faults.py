"""What a seed does to its world: a list of faults, each by itself, so that a run can be repeated with fewer of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulation.machines import Hub, Machine
from tests.simulation.network import Road
from tests.simulation.skew import NEWER, PRESENT, TOO_NEW

if TYPE_CHECKING:
    from tests.simulation.world import World

YEAR = 365 * 86_400.0
RARE_SHARE = 0.25  # of the seeds
FIRST_RARE = 1000  # their numbers, behind those of the others


@dataclass(frozen=True)
class Fault:
    """`kind` names one of KINDS; `number` is its place in the seed's list, from which its own chance is drawn."""

    time: float
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.time:8.3f} s  {self.kind} (#{self.number})"


@dataclass(frozen=True)
class Kind:
    """How often a fault is drawn, against the others, and what it does."""

    weight: int
    strike: Callable[[World, random.Random], None]
    only_in: str = ""  # worlds that have it


def draw(rng: random.Random, seconds: float, kinds: Sequence[str] = (), worlds: Sequence[str] = ()) -> list[Fault]:
    """The faults of a seed, of these kinds only if any are named; `worlds` is what its world has that not every one has."""
    gap = rng.choice((1.0, 2.5, 6.0))
    names = [name for name, kind in KINDS.items() if not kind.only_in or kind.only_in in worlds]
    # Some seeds are about a few kinds only: what needs several of one kind in a row is then likely, too.
    if rng.random() < 0.4:
        names = rng.sample(names, 3)
    names = [name for name in kinds if name in KINDS] if kinds else names
    if not names:
        return []
    weights = [KINDS[name].weight for name in names]
    faults: list[Fault] = []
    time = rng.uniform(0.2, 3.0)
    while time < seconds:
        faults.append(Fault(round(time, 3), rng.choices(names, weights)[0], len(faults)))
        time += rng.expovariate(1 / gap)
    return faults


def draw_rare(rng: random.Random, seconds: float, kinds: Sequence[str] = ()) -> list[Fault]:
    """What most seeds have nothing of, and some have one or two of; beside what `draw` gives them."""
    names = [name for name in RARE if not kinds or name in kinds]
    if not names or (not kinds and rng.random() > RARE_SHARE):
        return []
    times = sorted(rng.uniform(3.0, 0.9 * seconds) for _ in range(rng.choice((1, 1, 2))))
    weights = [RARE[name].weight for name in names]
    return [
        Fault(round(time, 3), rng.choices(names, weights)[0], FIRST_RARE + place) for place, time in enumerate(times)
    ]


def strike(world: World, fault: Fault) -> None:
    """Let it happen."""
    world.note("world", f"FAULT {fault.kind}", f"#{fault.number}")
    world.struck[fault.kind] += 1
    kind = KINDS.get(fault.kind) or RARE[fault.kind]
    kind.strike(world, random.Random(f"{world.seed}/fault/{fault.number}"))


def _some_machine(world: World, rng: random.Random) -> Machine:
    return _some_hub(world, rng) if rng.random() < 0.4 else rng.choice(world.edges)


def _some_hub(world: World, rng: random.Random) -> Hub:
    return rng.choice(world.hubs) if world.tree else world.hub


def _some_road(world: World, rng: random.Random) -> Road:
    return rng.choice(world.dialers).road


def _down(world: World, rng: random.Random, machine: Machine, *, power: bool, silent: bool) -> None:
    machine.crash(power=power, silent=silent)
    world.loop.later(rng.choice((0.1, 1.0, 4.0, 20.0)) * rng.random(), machine.boot)


def _kill(world: World, rng: random.Random) -> None:
    _down(world, rng, _some_machine(world, rng), power=False, silent=False)


def _power_cut(world: World, rng: random.Random) -> None:
    _down(world, rng, _some_machine(world, rng), power=True, silent=True)


def _fuse(world: World, rng: random.Random) -> None:
    """Killed after so many steps: between any two."""
    machine = _some_machine(world, rng)
    power = rng.random() < 0.6
    if machine.process is not None and machine.up:
        steps = rng.randrange(rng.choice((20, 200, 1500)))
        process = machine.process

        def burn() -> None:
            world.loop.soon(_burnt, world, rng, machine, process, power)
            process.pause()

        process.fuse = (steps, burn)


def _burnt(world: World, rng: random.Random, machine: Machine, process: object, power: bool) -> None:
    if machine.process is process:
        _down(world, rng, machine, power=power, silent=power)


def _parent_down(world: World, rng: random.Random) -> None:
    """Long enough for what waits below to pile up, and for tasks to be taken back."""
    world.hub.crash(power=rng.random() < 0.5, silent=rng.random() < 0.5)
    world.loop.later(rng.uniform(10.0, 40.0), world.hub.boot)


def _in_a_commit(world: World, rng: random.Random, *, power: bool) -> None:
    machine = _some_machine(world, rng)
    process = machine.process
    machine.disk.trap = rng.choice((0, 3, 20)), lambda: _burnt(world, rng, machine, process, power)


def _kill_in_a_commit(world: World, rng: random.Random) -> None:
    _in_a_commit(world, rng, power=False)


def _power_cut_in_a_commit(world: World, rng: random.Random) -> None:
    _in_a_commit(world, rng, power=True)


def _restart(world: World, rng: random.Random) -> None:
    machine = _some_machine(world, rng)
    machine.stop()
    world.loop.later(rng.uniform(12.0, 16.0), machine.boot)


def _pause(world: World, rng: random.Random) -> None:
    process = _some_machine(world, rng).process
    if process is not None and process.alive and not process.paused:
        process.pause()
        world.loop.later(rng.choice((0.5, 5.0, 40.0)) * rng.random(), process.resume)


def _cut(world: World, rng: random.Random) -> None:
    _some_road(world, rng).cut()


def _outage(world: World, rng: random.Random) -> None:
    road = _some_road(world, rng)
    road.up = False
    road.cut()
    world.loop.later(rng.choice((2.0, 20.0)) * rng.random(), setattr, road, "up", True)


def _long_outage(world: World, rng: random.Random) -> None:
    """Long enough for the hub to give tasks to others."""
    road = _some_road(world, rng)
    road.up = False
    if rng.random() < 0.5:
        road.lame(up=True, down=True)
    else:
        road.cut()
    world.loop.later(rng.uniform(18.0, 35.0), setattr, road, "up", True)


def _half_open(world: World, rng: random.Random) -> None:
    _some_road(world, rng).lame(up=True, down=True)


def _one_way(world: World, rng: random.Random) -> None:
    up = rng.random() < 0.5
    road = _some_road(world, rng)
    if rng.random() < 0.5:
        road.lame(up=up, down=not up)
    else:
        road.swallows = [up, not up]
        world.loop.later(rng.uniform(1.0, 20.0), setattr, road, "swallows", [False, False])


def _slow(world: World, rng: random.Random) -> None:
    road = _some_road(world, rng)
    road.latency, road.jitter = rng.choice(((0.3, 0.1), (2.0, 1.0), (0.05, 5.0)))
    world.loop.later(rng.uniform(1.0, 10.0), _fast, road)


def _fast(road: object) -> None:
    road.latency, road.jitter = 0.005, 0.01  # type: ignore[attr-defined]


def _wild(world: World, rng: random.Random) -> None:
    road = _some_road(world, rng)
    road.wild = True
    road.trouble = rng.choice((0.01, 0.05, 0.2))
    world.loop.later(rng.uniform(1.0, 15.0), setattr, road, "wild", False)


def _fsync_error(world: World, rng: random.Random) -> None:
    _some_machine(world, rng).disk.failing_commits += rng.choice((1, 1, 3, 20))


def _disk_full(world: World, rng: random.Random) -> None:
    disk = _some_machine(world, rng).disk
    disk.page_limit = 1
    world.loop.later(rng.uniform(0.5, 10.0), setattr, disk, "page_limit", 0)


def _slow_disk(world: World, rng: random.Random) -> None:
    disk = _some_machine(world, rng).disk
    disk.slow = rng.choice((10.0, 100.0, 400.0))
    world.loop.later(rng.uniform(0.5, 8.0), setattr, disk, "slow", 1.0)


def _hub_restored(world: World, rng: random.Random) -> None:
    """From a backup, by its command: what it lacks comes again from the edges, which keep it for a while."""
    _restored(world, rng, _some_hub(world, rng), by_command=True)


def _edge_restored(world: World, rng: random.Random) -> None:
    """From a backup, or with an old copy of its disk that nobody told it of."""
    _restored(world, rng, rng.choice(world.edges), by_command=rng.random() < 0.5)


def _restored(world: World, rng: random.Random, machine: Machine, *, by_command: bool) -> None:
    files = machine.disk.files()
    downtime = rng.uniform(0.1, 5.0)

    def happen() -> None:
        if world.calm:
            return
        machine.restore(files, by_command=by_command)
        world.damages.old.add(machine.name)
        world.loop.later(downtime, machine.boot)

    world.loop.later(rng.uniform(0.5, 15.0), happen)


def _clock_jump(world: World, rng: random.Random) -> None:
    clock = _some_machine(world, rng).clock
    clock.offset += rng.choice((-YEAR, YEAR, -3600.0, 3600.0, 30.0, -30.0))
    world.loop.later(rng.uniform(1.0, 15.0), setattr, clock, "offset", 0.0)


def _agent_crash(world: World, rng: random.Random) -> None:
    rng.choice(world.agents).crash()


def _agent_leaves(world: World, rng: random.Random) -> None:
    agent = rng.choice(world.agents)
    agent.leave()
    if agent is not world.agents[-1] and rng.random() < 0.4:
        agent.gone = True  # for good
        return
    world.loop.later(rng.uniform(0.5, 20.0), agent.come_back)


def _flip_in_a_segment(world: World, rng: random.Random) -> None:
    world.damages.flip_in_a_segment(_some_machine(world, rng), rng)


def _flip_in_a_write_ahead_log(world: World, rng: random.Random) -> None:
    world.damages.flip_in_the_write_ahead_log(_some_machine(world, rng), rng)


def _clone(world: World, rng: random.Random) -> None:
    world.clones.copy(rng.choice(world.edges), rng)


def _other_version(world: World, rng: random.Random) -> None:
    """Stopped, and started as another version; one that is too new for its hub is known by that in time."""
    machine = _some_machine(world, rng)
    versions = (PRESENT, NEWER) if machine is world.hub else (PRESENT, NEWER, NEWER, TOO_NEW)
    machine.crash(power=False, silent=rng.random() < 0.3)
    machine.version = rng.choice(versions)
    world.loop.later(rng.uniform(0.1, 2.0), machine.boot)


def _subscriber_crash(world: World, rng: random.Random) -> None:
    if world.subscribers:
        rng.choice(world.subscribers).crash()


KINDS: dict[str, Kind] = {
    "kill": Kind(3, _kill),
    "power cut": Kind(3, _power_cut),
    "kill at a step": Kind(6, _fuse),
    "kill in a commit": Kind(4, _kill_in_a_commit),
    "power cut in a commit": Kind(6, _power_cut_in_a_commit),
    "restart": Kind(2, _restart),
    "pause": Kind(2, _pause),
    "cut": Kind(2, _cut),
    "outage": Kind(2, _outage),
    "long outage": Kind(1, _long_outage),
    "half-open": Kind(2, _half_open),
    "one-way cut": Kind(2, _one_way),
    "delay": Kind(2, _slow),
    "loss, duplication, reorder": Kind(2, _wild),
    "fsync error": Kind(2, _fsync_error),
    "disk full": Kind(2, _disk_full),
    "slow disk": Kind(2, _slow_disk),
    "hub restored": Kind(1, _hub_restored),
    "edge restored": Kind(1, _edge_restored),
    "clock jump": Kind(2, _clock_jump),
    "agent crash": Kind(2, _agent_crash),
    "agent leaves": Kind(2, _agent_leaves),
    "parent hub down": Kind(4, _parent_down, "tree"),
    "other version": Kind(6, _other_version, "skew"),
    "subscriber crash": Kind(3, _subscriber_crash, "subscribers"),
}

RARE: dict[str, Kind] = {
    "cloned edge": Kind(3, _clone),
    "bit flip in a segment": Kind(3, _flip_in_a_segment),
    "bit flip in a write-ahead log": Kind(2, _flip_in_a_write_ahead_log),
}
