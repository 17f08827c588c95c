"""The processes of a measurement: an edge node, agents and a client, each started by its own command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from edgenode.node.config import FILE_NAME

EDGENODE = str(Path(sysconfig.get_path("scripts")) / "edgenode")
PEER_PREFIX = "peer-"
STOP_TIMEOUT = 20.0
STORE_BYTES = 4 << 30
ANSWER_TIMEOUT = 120.0  # seconds until a process that says nothing is killed


_SETPRIV = shutil.which("setpriv") if sys.platform == "linux" else None


def tied(command: Sequence[str]) -> list[str]:
    """The command, ended (SIGTERM) when the thread that starts it is gone, by SIGKILL too; only on Linux, with setpriv."""
    return [_SETPRIV, "--pdeathsig", "TERM", "--", *command] if _SETPRIV else list(command)


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of a process so far; exact on Linux, where its clock can be read, else in steps of 10 ms."""
    if sys.platform == "linux":
        return time.clock_gettime((~process.pid << 3) | 2)  # CPUCLOCK_SCHED of the whole process
    times = process.cpu_times()
    return float(times.user + times.system)


class Failed(Exception):
    """A process of the measurement did not do its part; the text says which, and the end of its log."""


class Child:
    """A process that says `ready` on standard output. What it writes to standard error goes to `log`.

    It leads a process group of its own, which ends with it: workers it has started, and left, too.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, ready: str = "ready") -> None:
        """`ready`: how the line on standard output begins that says it serves."""
        self.name = name
        self._log = log
        started = time.perf_counter()
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                tied(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
                start_new_session=True,
            )
        self._stopped = False
        self.usage = psutil.Process(self.process.pid)
        try:
            self.greeting = self.expect(ready)
        except BaseException:  # an interrupt too
            self.stop()
            raise
        self.start_seconds = time.perf_counter() - started

    def expect(self, prefix: str) -> str:
        """The next line that begins with `prefix`. Raises Failed when the process ends or is killed before."""
        assert self.process.stdout is not None
        patience = threading.Timer(ANSWER_TIMEOUT, self.process.kill)
        patience.start()
        try:
            for line in self.process.stdout:
                if line.startswith(prefix):
                    return line
        finally:
            patience.cancel()
        tail = self._log.read_text(errors="replace").strip().splitlines()[-5:]
        raise Failed(f"{self.name} ended before it said {prefix!r}: {' | '.join(tail)}")

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a line of JSON, wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.expect("{"))
        return answer

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        return cpu_seconds(self.usage)

    def resident_bytes(self) -> int:
        """Resident set size now."""
        return int(self.usage.memory_info().rss)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough; SIGKILL for what is left of its group. Safe to repeat."""
        if self._stopped:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self._stopped = True
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Bed:
    """An edge node on a fresh state directory below `folder`, with what is started beside it. Use it with `with`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = folder / "edge"
        self._children: list[Child] = []
        self._bare: list[Child] = []
        self._state.mkdir(mode=0o700)
        (self._state / FILE_NAME).write_text(f"store_bytes = {STORE_BYTES}\n")  # ended tasks are kept a day
        self.edge = self._start("edge", [EDGENODE, "run", "--state", str(self._state), "--log-level", "warning"])

    def __enter__(self) -> Bed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            child.stop()

    def agents(self, count: int) -> list[Child]:
        """Worker agents, each in a process of its own."""
        return [self._module(f"worker-{number}", "worker") for number in range(1, count + 1)]

    def client(self, name: str = "client") -> Child:
        """An SDK client that does rounds of traffic on request."""
        return self._module(name, "traffic")

    def bare(self, agents: int) -> Child:
        """The client of the bare limit; behind it a bare node and at least so many agents, kept to the end."""
        wanted = ["node", "client", *["agent"] * agents]
        for role in wanted[len(self._bare) :]:
            self._bare.append(self._start_bare(role, f"bare-{role}-{len(self._bare)}"))
        return self._bare[1]

    def peer(self, commands: Sequence[PeerCommand]) -> Child:
        """The client of a peer, its last process, with the others before it."""
        folder = Path(tempfile.mkdtemp(dir=self._folder, prefix="p"))
        return [self._start(PEER_PREFIX + peer.name, peer.arguments(folder), peer.ready) for peer in commands][-1]

    def end(self, children: Iterable[Child]) -> None:
        """Stop some of the processes before the others."""
        for child in children:
            child.stop()
            self._children.remove(child)

    def end_peers(self) -> None:
        """Stop every process of a peer, newest first."""
        self.end([child for child in reversed(self._children) if child.name.startswith(PEER_PREFIX)])

    def _start_bare(self, role: str, name: str) -> Child:
        command = [sys.executable, "-m", "scripts.benchmarks.bare", role, "--folder", str(self._folder)]
        return self._start(name, command)

    def _module(self, name: str, module: str) -> Child:
        command = [sys.executable, "-m", f"scripts.benchmarks.{module}", "--state", str(self._state), "--name", name]
        return self._start(name, command)

    def _start(self, name: str, command: Sequence[str], ready: str = "ready") -> Child:
        child = Child(name, command, self._folder / f"{name}.log", ready)
        self._children.append(child)
        return child


@dataclass(frozen=True, slots=True)
class PeerCommand:
    """A process of a peer. `arguments` makes its command line for a folder; `ready` begins the line that says it serves."""

    name: str
    arguments: Callable[[Path], Sequence[str]]
    ready: str = "ready"


class CpuMeter:
    """CPU seconds of some processes and of everybody else, between its making and `read`."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._own = [child.cpu_seconds() for child in children]
        self._all = _busy_seconds()
        self._began = time.perf_counter()

    def read(self) -> tuple[dict[str, float], float]:
        """(CPU seconds by process name, cores kept busy by other processes on average)."""
        own = {
            child.name: child.cpu_seconds() - before for child, before in zip(self._children, self._own, strict=True)
        }
        others = _busy_seconds() - self._all - sum(own.values())
        return own, max(others / (time.perf_counter() - self._began), 0.0)


def _busy_seconds() -> float:
    """CPU time the whole machine was not idle."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
