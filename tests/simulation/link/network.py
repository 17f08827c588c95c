"""Connections between two sides, and what may happen to them.

A stream keeps frames whole and in order or breaks, as TCP does; a frame that is lost takes the connection with it. A
wild connection loses, doubles, delays and reorders frames without telling: no transport we use does that, but the
cores must not apply anything wrongly even then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgenode.link.model.frames import Frame
from tests.simulation.link.world import World


@dataclass
class Weather:
    """What the network does now."""

    up: bool = True
    wild: bool = False
    faithful: bool = True  # whether the transport kept its promise so far, and every disk its memory
    drop: float = 0.0  # chance of each frame
    delay: float = 0.0  # seconds more, at most

    def clear(self) -> None:
        """No more faults."""
        self.up, self.wild, self.drop, self.delay = True, False, 0.0, 0.0


class Pipe:
    """One direction of a connection."""

    def __init__(self, world: World, weather: Weather, name: str, broken: Callable[[], None]) -> None:
        self.world = world
        self.name = name
        self.deliver: Callable[[Frame], None] = lambda frame: None
        self.swallows = False
        self.closed = False
        self._weather = weather
        self._broken = broken
        self._last = 0.0

    def send(self, frame: Frame) -> None:
        """Put a frame on its way."""
        if self.closed or self.swallows:
            return
        rng, weather = self.world.rng, self._weather
        delay = rng.uniform(0.0005, 0.01) + (rng.random() * weather.delay if weather.delay else 0.0)
        if weather.wild:
            self._send_wild(frame, delay)
            return
        if weather.drop and rng.random() < weather.drop:
            self.world.fault("drop", type(frame).__name__)
            self._broken()
            return
        self._last = max(self._last, self.world.now + delay)
        self._arrive(frame, self._last)

    def _send_wild(self, frame: Frame, delay: float) -> None:
        rng = self.world.rng
        chance = rng.random()
        if chance < 0.02:
            self.world.fault("wild drop", type(frame).__name__)
            return
        if chance < 0.06:
            self.world.fault("duplicate", type(frame).__name__)
            self._arrive(frame, self.world.now + delay + rng.uniform(0.0, 0.5))
        elif chance < 0.10:
            self.world.fault("reorder", type(frame).__name__)
            delay += rng.uniform(0.0, 0.5)
        self._arrive(frame, self.world.now + delay)

    def _arrive(self, frame: Frame, time: float) -> None:
        def arrive() -> None:
            if not self.closed:
                self.deliver(frame)

        self.world.at(time, arrive)


class Connection:
    """Two pipes that live and die together, if the ends hear of it."""

    def __init__(self, world: World, weather: Weather) -> None:
        self.world = world
        self.up = Pipe(world, weather, "up", self.cut)
        self.down = Pipe(world, weather, "down", self.cut)
        self.lost: list[Callable[[], None]] = []

    @property
    def closed(self) -> bool:
        """Whether it is gone."""
        return self.up.closed

    def cut(self, *, silent: bool = False) -> None:
        """Nothing passes any more; the ends hear of it soon, or never."""
        if self.closed:
            return
        self.up.closed = self.down.closed = True
        if not silent:
            for lost in self.lost:
                self.world.later(self.world.rng.uniform(0.0, 0.2), lost)

    def finish(self) -> None:
        """One end hung up: what it sent still arrives, then the other end hears of it."""
        self.world.later(0.6, self.cut)
