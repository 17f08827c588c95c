"""A TCP proxy whose cable can be pulled."""

from __future__ import annotations

import asyncio

from edgenode.link.wire.listening import Listener, relay


class Proxy:
    """Forwards 127.0.0.1:`port` to another port; `cut` closes everything and refuses, `restore` listens again."""

    def __init__(self, upstream_port: int) -> None:
        self.port = 0
        self._upstream_port = upstream_port
        self._listener = Listener(self._forward)

    @property
    def up(self) -> bool:
        """Whether it forwards."""
        return self._listener.is_open

    async def restore(self) -> None:
        """Listen, on the same port as before."""
        self.port = await self._listener.open(self.port)

    async def cut(self) -> None:
        """Close the listener and every connection, in the middle of whatever they carry."""
        await self._listener.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay(reader, writer, self._upstream_port)
