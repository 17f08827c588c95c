"""Runs a program beside the node, such as a bridge: starts it, starts it again when it ends, ends it with the node.

When is decided in `link/protocol/supervision.py`. A program is a process group of its own, so that whatever it started ends
with it. Its standard input is a pipe that the node holds and never writes to: it reads the end of it when the node is gone,
however the node went, and is to end itself then. What it writes becomes lines of the node's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import msgspec

from edgenode.link import telemetry
from edgenode.link.ports import Clock, Rng
from edgenode.link.protocol.supervision import Action, Phase, Supervision

LINE_BYTES = 64 * 1024  # of output without an end of line that are taken for a line
END_GRACE = 10.0  # seconds from asking a program to end to killing it
AFTER_KILL = 2.0  # seconds a killed program may take to be gone
_LEVELS = ("debug", "info", "warning", "error")

_log = telemetry.logger("node.supervisor")


@dataclass(frozen=True, slots=True)
class Program:
    """What is to run; `name` is for the log."""

    name: str
    arguments: Sequence[str]


class Process(Protocol):
    """A program that was started."""

    async def wait(self) -> int:
        """Its exit code once it ended, negative for a signal."""
        ...

    def signal(self, number: int) -> None:
        """Send a signal to it and all it started; none is sent once they are gone."""
        ...

    def close(self) -> None:
        """Kill what it left running and let go of it."""
        ...


Spawn = Callable[[Program, Callable[[bytes], None]], Awaitable[Process]]


class Supervisor:
    """One program. `want` and `unwant` as often as one likes; `close` ends it for good."""

    def __init__(self, program: Program, clock: Clock, rng: Rng, spawn: Spawn, grace: float = END_GRACE) -> None:
        self._program = program
        self._clock = clock
        self._spawn = spawn
        self._grace = grace
        self._core = Supervision(rng, grace=grace)
        self._process: Process | None = None
        self._life: asyncio.Task[None] | None = None  # of the process that was started last
        self._alarm: asyncio.TimerHandle | None = None
        self._kill_at_once = False
        self._closed = False

    @property
    def phase(self) -> Phase:
        """Where the program stands."""
        return self._core.phase

    def want(self) -> None:
        """It is to run. Nothing is started any more after `close`."""
        if not self._closed:
            self._do(self._core.want(self._clock.monotonic()))

    def unwant(self) -> None:
        """It is not to run."""
        self._do(self._core.unwant(self._clock.monotonic()))

    async def close(self) -> None:
        """End it; returns when it is gone. Safe to call twice."""
        self._closed = True
        self.unwant()
        if self._life is not None:
            await asyncio.wait([self._life], timeout=self._grace + AFTER_KILL)
            self._life.cancel()
            await asyncio.wait([self._life])
        self._disarm()

    def _do(self, action: Action) -> None:
        if action is Action.START:
            self._life = asyncio.create_task(self._run(), name=f"program-{self._program.name}")
        elif action is Action.TERMINATE:
            self._kill_at_once = self._process is None
            self._signal(signal.SIGTERM)
        elif action is Action.KILL:
            self._signal(signal.SIGKILL)
        self._arm()

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.signal(number)

    async def _run(self) -> None:
        name = self._program.name
        try:
            process = self._process = await self._spawn(self._program, self._say)
            _log.info(telemetry.PROGRAM_STARTED, program=name, start=self._core.starts)
            if self._kill_at_once:  # it was no longer wanted before it was there
                self._kill_at_once = False
                process.signal(signal.SIGTERM)
            try:
                code = await process.wait()
            finally:
                process.close()
            wanted = self._core.phase is Phase.RUNNING
            (_log.warning if wanted else _log.info)(telemetry.PROGRAM_ENDED, program=name, code=code)
        except OSError as error:
            _log.error(telemetry.PROGRAM_ENDED, program=name, problem=f"it cannot be started: {error}")
        finally:
            self._process = None
        self._do(self._core.ended(self._clock.monotonic()))

    def _say(self, line: bytes) -> None:
        """A line of the program's output: of one that logs as we do its own level and fields, else the text."""
        try:
            fields = msgspec.json.decode(line, type=dict[str, object])
            level, event = str(fields.pop("level")), str(fields.pop("event"))
            fields.pop("time", None)
            getattr(_log, level if level in _LEVELS else "info")(event, program=self._program.name, **fields)
        except (msgspec.DecodeError, KeyError, TypeError):
            text = line.decode(errors="replace").rstrip()
            if text:
                _log.info(telemetry.PROGRAM_OUTPUT, program=self._program.name, line=text)

    def _arm(self) -> None:
        self._disarm()
        deadline = self._core.next_deadline()
        if deadline is not None:
            delay = max(deadline - self._clock.monotonic(), 0.0)
            self._alarm = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._do(self._core.due(self._clock.monotonic()))

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class _Child(asyncio.SubprocessProtocol):
    """A real process. As a protocol it is told of the end of the process itself, whoever still holds its pipes."""

    def __init__(self, say: Callable[[bytes], None]) -> None:
        self._say = say
        self._rest = b""
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._say(line)

    def process_exited(self) -> None:
        assert self._transport is not None
        if not self._code.done():
            self._code.set_result(self._transport.get_returncode() or 0)

    async def wait(self) -> int:
        return await asyncio.shield(self._code)

    def signal(self, number: int) -> None:
        if self._transport is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._transport.get_pid(), number)

    def close(self) -> None:
        self.signal(signal.SIGKILL)
        if self._transport is not None:
            self._transport.close()
        if self._rest:
            self._say(self._rest)
            self._rest = b""


async def spawn(program: Program, say: Callable[[bytes], None]) -> Process:
    """Start it for real. Raises OSError."""
    _, child = await asyncio.get_running_loop().subprocess_exec(
        lambda: _Child(say), *program.arguments, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )
    return child
