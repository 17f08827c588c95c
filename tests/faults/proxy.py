"""A cable with faults: it stalls in one direction or both, it is slow, it breaks in the middle of a frame.

TCP gives what it delivers once and in order, so a cable can delay and break a link, but not lose, double or reorder a
part of it; what the link makes of frames that are lost, doubled and reordered is shown by the simulation (tests/simulation).
"""

from __future__ import annotations

import asyncio

from edgenode.cli.demo.proxy import Proxy
from edgenode.link.wire.listening import relay


class Way:
    """One direction. `rate` in bytes a second, 0 without a bound; `break_after` bytes everything is reset."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.rate = 0
        self.break_after: int | None = None
        self.carried = 0

    def stall(self) -> None:
        """Take nothing more, and say nothing."""
        self._open.clear()

    def flow(self) -> None:
        """Go on."""
        self._open.set()

    async def take(self, reader: asyncio.StreamReader) -> bytes:
        """What goes through next; empty at the end."""
        if self.break_after == 0:
            self.break_after = None
            return b""  # in the middle of whatever it was
        await self._open.wait()
        data = await reader.read(max(self.rate // 20, 256) if self.rate else 1 << 16)
        if self.rate:
            await asyncio.sleep(len(data) / self.rate)
        await self._open.wait()
        if self.break_after is not None:
            data = data[: self.break_after]
            self.break_after -= len(data)
        self.carried += len(data)
        return data


class FaultyProxy(Proxy):
    """As Proxy, with faults: `up` is from the edge to the hub, `down` the other way."""

    def __init__(self, upstream_port: int) -> None:
        super().__init__(upstream_port)
        self.up_way = Way()
        self.down_way = Way()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay(reader, writer, self._upstream_port, self.up_way.take, self.down_way.take)
