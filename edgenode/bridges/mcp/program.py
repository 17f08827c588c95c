"""An MCP server as a program: started in a process group of its own, spoken to in lines, ended with all it started.

It is watched as an asyncio protocol, not through streams: a line is handed on in the turn of the loop that read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import cast

MAX_LINE_BYTES = 64 * 1024 * 1024  # of a message; a longer one ends the connection
MAX_ERROR_BYTES = 64 * 1024  # of standard error without an end of line that are taken for a line
END_TIME = 2.0  # seconds a program may take to end by itself, then once it was asked to
KILL_TIME = 2.0  # seconds a killed program may take to be gone
LAST_WORDS_TIME = 0.5  # seconds for what it wrote to standard error, which a program it left behind may hold for good

_INPUT, _OUTPUT, _ERRORS = range(3)


class Program(asyncio.SubprocessProtocol):
    """`start` makes one. Its lines, without their ends, go to `on_line` and `on_error_line`; the end of its output to
    `on_end`, once, with what was wrong."""

    def __init__(
        self, on_line: Callable[[bytes], None], on_error_line: Callable[[bytes], None], on_end: Callable[[str], None]
    ) -> None:
        self._on_end = on_end
        self._output = _Lines(on_line)
        self._errors = _Lines(on_error_line)
        self._transport: asyncio.SubprocessTransport | None = None
        self._input: asyncio.WriteTransport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._exited = asyncio.Event()
        self._silent = asyncio.Event()  # there is no more standard error
        self._over = False  # nothing is handed on any more

    async def write(self, line: bytes) -> None:
        """Write a line, its end included, once there is room. Raises ConnectionError, with nothing written of it."""
        await self._writable.wait()
        if not self.write_now(line):
            raise ConnectionResetError("its standard input is closed")

    def write_now(self, line: bytes) -> bool:
        """Write a line whatever waits before it; False when the input is closed."""
        if self._input is None or self._input.is_closing():
            return False
        self._input.write(line)
        return True

    def pause(self, *, reading: bool) -> None:
        """Read its output, or leave it until told otherwise."""
        assert self._transport is not None
        output = cast(asyncio.ReadTransport | None, self._transport.get_pipe_transport(_OUTPUT))
        if output is not None and not output.is_closing():
            (output.resume_reading if reading else output.pause_reading)()

    async def end(self) -> None:
        """Close its input, then ask it, then kill it and what it started. Returns when it is gone."""
        assert self._transport is not None
        self._over = True
        self.pause(reading=True)  # one that is stuck writing could not end
        if self._input is not None:
            self._input.close()
        try:
            if not await _set(self._exited, END_TIME):
                self._signal(signal.SIGTERM)
                await _set(self._exited, END_TIME)
                self._signal(signal.SIGKILL)
                await _set(self._exited, KILL_TIME)
            await _set(self._silent, LAST_WORDS_TIME)
        finally:
            if not self._exited.is_set():  # nobody waits for it any more
                self._signal(signal.SIGKILL)
            with contextlib.suppress(PermissionError):
                self._transport.close()

    def _signal(self, number: int) -> None:
        assert self._transport is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._transport.get_pid(), number)

    def _finish(self, why: str) -> None:
        if not self._over:
            self._over = True
            self._on_end(why)

    # --- as the loop tells it ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It runs."""
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._input = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(_INPUT))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """It wrote something."""
        if fd == _ERRORS:
            if self._errors.take(data) > MAX_ERROR_BYTES:
                self._errors.flush()
        elif not self._over and self._output.take(data) > MAX_LINE_BYTES:
            self._finish(f"it wrote a line of more than {MAX_LINE_BYTES} bytes")

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """One of its pipes is closed."""
        if fd == _OUTPUT:
            self._finish("its connection closed")
        elif fd == _ERRORS:
            self._errors.flush()
            self._silent.set()
        else:
            self._writable.set()  # whoever waits to write is to be told

    def pause_writing(self) -> None:
        """It does not read what is written."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self._writable.set()

    def process_exited(self) -> None:
        """It is gone, whoever still holds its pipes."""
        self._exited.set()


class _Lines:
    """Bytes as they come, handed on line by line."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self._on_line = on_line
        self._parts: list[bytes] = []
        self._size = 0

    def take(self, data: bytes) -> int:
        """How many bytes wait for the end of their line."""
        head, end, rest = data.partition(b"\n")
        if end:
            self._parts.append(head)
            self.flush()
            *lines, data = rest.split(b"\n")
            for line in lines:
                self._on_line(line)
        if data:
            self._parts.append(data)
            self._size += len(data)
        return self._size

    def flush(self) -> None:
        """What waits is a line."""
        line = b"".join(self._parts)
        self._parts, self._size = [], 0
        self._on_line(line)


async def _set(event: asyncio.Event, timeout: float) -> bool:
    """Whether it is, after `timeout` seconds at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await event.wait()
    return event.is_set()


async def start(program: Program, arguments: Sequence[str], environment: Mapping[str, str], directory: str) -> None:
    """Start it, in `directory` unless that is empty. Raises OSError, ValueError."""
    await asyncio.get_running_loop().subprocess_exec(
        lambda: program, *arguments, env=environment, cwd=directory or None, start_new_session=True
    )
