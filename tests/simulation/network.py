"""The network between edges and hub: one road for each edge, that can be cut, slowed and made to lie.

A stream over TCP keeps its messages in order or breaks. On a `wild` road it may also lose, double and swap single messages:
TCP never does, but the link promises to notice it and to lose nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc

from tests.simulation.loop import Loop, Process
from tests.simulation.rpc import Rpc
from tests.simulation.skew import heard, spoken

READY = grpc.ChannelConnectivity.READY
CONNECTING = grpc.ChannelConnectivity.CONNECTING
FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE


class Road:
    """How it stands between one edge and the hub."""

    def __init__(self, loop: Loop, rng: random.Random, faults: Counter[str]) -> None:
        self.up = True  # whether it can be dialed
        self.swallows = [False, False]  # up, down: nothing arrives, and nobody is told
        self.latency = 0.005
        self.jitter = 0.01
        self.wild = False
        self.trouble = 0.02  # of a wild road: share of messages each trouble befalls
        self.connections: list[Channel] = []
        self.connection_count = 0
        self._loop = loop
        self._rng = rng
        self._faults = faults

    def clear(self) -> None:
        """Fair weather."""
        self.up = True
        self.swallows = [False, False]
        self.latency, self.jitter = 0.005, 0.01
        self.wild = False

    def delay(self) -> float:
        """Seconds a message takes."""
        return self.latency + self._rng.random() * self.jitter

    def direction(self, number: int, channel: Channel) -> Direction:
        """Up (0) or down (1), for one connection."""
        return Direction(self, number, channel)

    def fates(self, number: int) -> Sequence[float]:
        """See rpc.Path.arrivals."""
        if self.swallows[number]:
            return ()
        if not self.wild:
            return (self.delay(),)
        draw = self._rng.random()
        if draw < self.trouble:
            self._faults["message lost"] += 1
            return ()
        if draw < 2 * self.trouble:
            self._faults["message doubled"] += 1
            return self.delay(), self.delay()
        if draw < 3 * self.trouble:
            self._faults["message delayed past others"] += 1
            return (self.delay() + self._rng.random(),)
        return (self.delay(),)

    def cut(self) -> None:
        """Every connection breaks, and both ends notice."""
        for channel in self.connections[:]:
            channel.break_off()

    def lame(self, *, up: bool, down: bool) -> None:
        """Connections of now carry nothing any more in these directions, and nobody notices."""
        for channel in self.connections:
            channel.lame[0] |= up
            channel.lame[1] |= down


class Direction:
    """rpc.Path of one connection over a road."""

    def __init__(self, road: Road, number: int, channel: Channel) -> None:
        self._road = road
        self._number = number
        self._channel = channel

    def arrivals(self, size: int) -> Sequence[float]:
        """See Path."""
        if self._channel.lame[self._number]:
            return ()
        if not size:
            return () if self._road.swallows[self._number] else (self._road.delay(),)
        return self._road.fates(self._number)

    def in_order(self) -> bool:
        """See Path."""
        return not self._road.wild


class Listener(Protocol):
    """Who is dialed."""

    @property
    def process(self) -> Process | None:
        """The one that listens now."""
        ...

    def trusts(self, certificate: bytes) -> bool:
        """Whether the handshake succeeds; an empty certificate is for the listener that needs none."""
        ...

    def method(self, name: str) -> tuple[Callable[..., Any], Callable[[bytes], Any]]:
        """The servicer's method, and what reads its requests."""
        ...


class Channel:
    """grpc.aio.Channel over a road, as far as the product uses it."""

    def __init__(
        self,
        loop: Loop,
        road: Road,
        listener: Listener,
        certificate: bytes,
        trusts: Callable[[], bool],
        on_defect: Callable[[str], None],
        versions: Callable[[], tuple[int, int]],
    ) -> None:
        """`trusts` says whether the dialing side takes the listener's certificate; `versions` are what both sides speak."""
        self._versions = versions
        self.lame = [False, False]
        self.calls: list[Rpc] = []
        self._loop = loop
        self._road = road
        self._listener = listener
        self._certificate = certificate
        self._trusts = trusts
        self._on_defect = on_defect
        self._state = grpc.ChannelConnectivity.IDLE
        self._changed: Any = None
        self._process: Process | None = None

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See grpc.aio.Channel."""
        if self._state is grpc.ChannelConnectivity.IDLE and try_to_connect:
            self._state = CONNECTING
            if not any(self._road.swallows):
                self._loop.later(3 * self._road.delay(), self._connected)
        return self._state

    def _connected(self) -> None:
        if self._state is not CONNECTING or any(self._road.swallows):
            return
        process = self._listener.process
        good = (
            self._road.up
            and process is not None
            and process.alive
            and not process.paused
            and self._trusts()
            and self._listener.trusts(self._certificate)
        )
        if process is not None and process.paused:
            return  # the kernel takes the connection, nobody the handshake
        self._state = READY if good else FAILED
        if good:
            self._process = process
            self._road.connections.append(self)
            self._road.connection_count += 1
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)

    async def wait_for_state_change(self, last: grpc.ChannelConnectivity) -> None:
        """See grpc.aio.Channel."""
        while self._state is last:
            self._changed = self._loop.create_future()
            await self._changed

    def stream_stream(
        self, path: str, *, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> Callable[[], Rpc]:
        """See grpc.aio.Channel."""

        def call() -> Rpc:
            return self._call(path, response_deserializer, serialize=request_serializer)

        return call

    def unary_unary(
        self, path: str, *, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> Callable[..., Any]:
        """See grpc.aio.Channel."""

        async def call(request: Any, timeout: float | None = None) -> Any:
            state = self.get_state(try_to_connect=True)
            while state is CONNECTING:
                await self.wait_for_state_change(state)
                state = self._state
            rpc = self._call(path, response_deserializer, request)
            return await rpc.read()

        return call

    def _call(self, path: str, parse_response: Any, request: Any = None, *, serialize: Any = None) -> Rpc:
        name = path.rpartition("/")[2]
        process = self._process
        if self._state is not READY or process is None:
            dead = Process(self._loop, "nobody")
            rpc = Rpc(self._loop, dead, self._directions(), (bytes, parse_response))
            rpc.break_off()
            return rpc
        handler, parse_request = self._listener.method(name)
        if name == "Sync":
            mine, theirs = self._versions()
            parse_request = spoken(parse_request, mine)
            parse_response = heard(spoken(parse_response, theirs), mine, self._on_defect)
        rpc = Rpc(
            self._loop,
            process,
            self._directions(),
            (parse_request, parse_response),
            self._certificate,
            self._on_defect,
            serialize,
        )
        self.calls.append(rpc)
        if request is None:
            return rpc.serve(handler)

        async def unary(_: Any, context: Any) -> None:
            await context.write(await handler(request, context))

        return rpc.serve(unary)

    def _directions(self) -> tuple[Direction, Direction]:
        return self._road.direction(0, self), self._road.direction(1, self)

    def break_off(self, *, tell_server: bool = True) -> None:
        """The connection is gone; both ends are told, unless they are dead."""
        if self in self._road.connections:
            self._road.connections.remove(self)
        self._state = FAILED
        self._tell()
        for call in self.calls:
            call.break_off(tell_server=tell_server)

    async def close(self) -> None:
        """See grpc.aio.Channel."""
        for call in self.calls:
            call.cancel()
        if self in self._road.connections:
            self._road.connections.remove(self)
        self._state = grpc.ChannelConnectivity.SHUTDOWN
        self._tell()

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
