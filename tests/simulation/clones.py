"""A disk that is copied, identity and all, and a second machine that starts with it, while the first one is up as well.

The hub must find that out and keep both out, without letting in now the one and now the other. Then the operator ends the
copy and releases the node, or joins it anew if the copy has renewed its identity, and the fleet goes on: what the first one
acknowledged is there, and of what the copy did, all that it was told the hub has. Work that both had when they parted may run
on both.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import sqlite3
from typing import TYPE_CHECKING

from tests.simulation.clients import Publisher
from tests.simulation.disk import Files
from tests.simulation.fleet import join
from tests.simulation.machines import Edge, Machine

if TYPE_CHECKING:
    from tests.simulation.world import World

INTERVAL = 0.5  # seconds between two looks of the operator
OVER = 1.5  # seconds after which the session of a node that is kept out must have ended
FOUND_OUT = 90.0  # seconds of calm by which the copy must have been found out


class Twin(Edge):
    """A copy of an edge; nobody works on it but one publisher."""

    def __init__(self, original: Edge, files: Files) -> None:
        name = f"{original.name}-twin"
        Machine.__init__(self, original.world, name, "node.db", files[""])
        self.disk.put(files)
        shutil.copytree(original.directory / "identity", self.directory / "identity")
        self.road = original.world.make_road(name)
        self.hub = original.hub
        self.config = dataclasses.replace(original.config, state_dir=self.directory)
        self.node = None
        self.served = None


@dataclasses.dataclass
class _Affair:
    edge: Edge
    twin: Twin
    publisher: Publisher | None = None
    kept_out_time: float | None = None  # since when, as the operator saw it
    ended: bool = False
    released: bool = False
    joined_anew: bool = False


class Clones:
    """What was copied in a world, and the operator who deals with it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._affairs: dict[str, _Affair] = {}

    @property
    def nodes(self) -> set[str]:
        """Nodes that were copied."""
        return set(self._affairs)

    def copy(self, edge: Edge, rng: random.Random) -> None:
        """Copy the disk as it is, and start the copy."""
        if not edge.serving or edge.name in self._affairs:
            return
        affair = _Affair(edge, Twin(edge, edge.disk.files()))
        self._world.oracle.copied(edge)
        self._affairs[edge.name] = affair
        affair.twin.boot()
        affair.publisher = Publisher(self._world, affair.twin, f"{affair.twin.name}-pub", wants_hub=True)
        self._world.loop.later(INTERVAL, self._operate, affair, rng)

    def end(self) -> None:
        """The world is over."""
        for affair in self._affairs.values():
            if affair.publisher is not None:
                affair.publisher.stop()
            if affair.twin.process is not None:
                affair.twin.process.kill()
            affair.twin.disk.crash(power=False)

    # --- the operator -------------------------------------------------------------------------------------------------

    def _operate(self, affair: _Affair, rng: random.Random) -> None:
        world, hub = self._world, affair.edge.hub
        world.loop.later(INTERVAL, self._operate, affair, rng)
        if not affair.ended and affair.publisher is not None:
            affair.publisher.publish(rng.choice((1, 3)), 20)
        if not affair.ended and _outdated(affair.twin):
            world.note(affair.twin.name, "is outdated")
            self._end_twin(affair)
        if hub.core is None or not hub.serving or hub.disk.sql is None:
            return
        if world.calm and not affair.joined_anew and _outdated(affair.edge):
            self._join_anew(affair)
        if affair.edge.name not in quarantined(hub.disk.sql):
            affair.kept_out_time = None
            late = world.calm and world.loop.now > world.storm + FOUND_OUT
            world.check(affair.ended or not late, f"the copy of {affair.edge.name} is not found out")
            return
        if affair.kept_out_time is None:
            affair.kept_out_time = world.loop.now
            world.note(affair.edge.name, "is quarantined")
            again = affair.released and affair.edge.hub.name not in world.oracle.excused_hubs
            world.check(not again, f"{affair.edge.name} is quarantined although only one lives")
        if world.loop.now > affair.kept_out_time + OVER:
            connected = affair.edge.name in hub.core.links.connections
            world.check(not connected, f"{affair.edge.name} is quarantined and has a session")
        if world.loop.now > affair.kept_out_time + 6.0:
            self._resolve(affair)

    def _resolve(self, affair: _Affair) -> None:
        hub = affair.edge.hub
        if not affair.ended:
            self._end_twin(affair)
        elif hub.core is not None and hub.process is not None:
            self._world.note(affair.edge.name, "is released")
            affair.released = True
            hub.process.start(hub.core._clones.release(affair.edge.name))  # what `edgehub nodes release` asks for

    def _join_anew(self, affair: _Affair) -> None:
        """What `edgehub token create NAME --rejoin` and `edgenode join` do."""
        edge, hub = affair.edge, affair.edge.hub
        if not affair.ended:
            self._end_twin(affair)
        affair.joined_anew = True
        self._world.note(edge.name, "joins anew")
        edge.crash(power=False, silent=False)
        assert hub.core is not None
        assert hub.process is not None
        store = hub.core.enrollment
        joined = hub.process.start(
            join(edge.directory, edge.name, hub.fleet.authority, store, hub.fleet.clock, rejoin=True)
        )
        joined.add_done_callback(lambda _: self._world.loop.soon(edge.boot))

    def _end_twin(self, affair: _Affair) -> None:
        affair.ended = True
        affair.twin.crash(power=False, silent=False)
        if affair.publisher is not None:
            affair.publisher.stop()

    # --- what must hold -----------------------------------------------------------------------------------------------

    def unsettled(self) -> str:
        """What the operator has not dealt with; empty at rest."""
        for affair in self._affairs.values():
            if not affair.ended or affair.kept_out_time is not None:
                return f"the copy of {affair.edge.name} is not dealt with"
        return ""

    def check_quarantine(self, hub: sqlite3.Connection) -> None:
        """Only who was copied is kept out."""
        wrong = quarantined(hub) - self.nodes
        self._world.check(not wrong, f"quarantined, and never copied: {sorted(wrong)}")

    def check_messages(self, arrived: dict[str, list[int]]) -> None:
        """Take out of `arrived` what the copies published: once, in order, and all that was acknowledged by the hub."""
        for affair in self._affairs.values():
            for produced in self._world.oracle.producers.values():
                if produced.edge != affair.twin.name:
                    continue
                numbers = arrived.pop(produced.producer, [])
                name = produced.producer
                self._world.check(numbers == sorted(set(numbers)), f"{name}: not once and in order: {numbers}")
                missing = set(range(1, produced.hub_acked + 1)) - set(numbers)
                excused = self._world.oracle.hub_excused or self._world.damages.hub_was_hit
                self._world.check(not missing or excused, f"{name}: at the hub as it was told, and is not: {missing}")


def _outdated(edge: Edge) -> bool:
    """Whether it was told that the other one has renewed the identity meanwhile, as a clock that was set makes it do."""
    link = edge.node._link if edge.node is not None and edge.serving else None
    return link is not None and link.status().last_problem.reason == "STALE_GENERATION"


def quarantined(hub: sqlite3.Connection) -> set[str]:
    """The nodes that a hub keeps out."""
    return {node for (node,) in hub.execute("SELECT node FROM node_identity WHERE quarantine_time IS NOT NULL")}
