"""The processes of the demo: a hub, edges and agents, all real, all on loopback, started by the installed commands."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import signal
import socket
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from edgenode.link.errors import Internal

READY_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0
DOMAIN = "demo.edgenode"
_PORTS = range(20_000, 32_000)
_given: set[int] = set()
_SCRIPTS = Path(sysconfig.get_path("scripts"))
EDGENODE = [str(_SCRIPTS / "edgenode")]
EDGEHUB = [str(_SCRIPTS / "edgehub")]


def free_port() -> int:
    """A port of loopback that nobody listens on and that no process which lives has been given here, as whoever asked for one
    may not listen yet. It lies below those that connections get from the system, so that a server which is away for a while
    finds it free when it comes back."""
    claims = _claims()
    for port in random.SystemRandom().sample(_PORTS, 100):
        if port in _given:
            continue
        try:
            fcntl.lockf(claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            continue  # another process has it, and its lock for as long as it lives
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise Internal("NO_PORT", f"no port of {_PORTS} is free", hint="what listens on all of them? ss -ltn")


@cache
def _claims() -> int:
    """A file of which each byte is a port; open until the process ends, as its locks go with it."""
    return os.open(f"/tmp/edgenode-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _with_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{host}:{free_port()}" if port == "0" else address


@dataclass(slots=True)
class Child:
    """A process of the demo. What it writes to standard error goes to its log file."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    ready_timeout: float = READY_TIMEOUT
    lines: list[str] = field(default_factory=list)

    async def ready(self) -> dict[str, str]:
        """Wait for its `ready key=value ...` line; the pairs. Raises Internal (DEMO_PROCESS) if it never comes."""
        try:
            async with asyncio.timeout(self.ready_timeout):
                while line := (await self._read_line()):
                    if line.startswith("ready "):
                        return dict(pair.split("=", 1) for pair in line.split()[1:])
        except TimeoutError:
            pass
        tail = self.log.read_text(errors="replace").strip().splitlines()[-5:]
        raise Internal("DEMO_PROCESS", f"{self.name} did not become ready: {' | '.join(tail)}", hint=f"see {self.log}")

    async def _read_line(self) -> str:
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        self.lines.append(line)
        return line

    async def kill(self) -> None:
        """SIGKILL, now."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> str:
        """SIGTERM and wait; what it still printed. A process that does not end is killed and reported."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                rest = await self.process.stdout.read()
                await self.process.wait()
        except TimeoutError:
            await self.kill()
            raise Internal("DEMO_PROCESS", f"{self.name} did not stop within {STOP_TIMEOUT:g} s") from None
        return rest.decode()


class Fleet:
    """Starts and stops the processes below one folder."""

    def __init__(self, folder: Path, ready_timeout: float = READY_TIMEOUT) -> None:
        """`ready_timeout`: seconds a process has to become ready."""
        self.folder = folder
        self._ready_timeout = ready_timeout
        self.children: dict[str, Child] = {}
        self.enroll_address = ""

    def state(self, node: str) -> Path:
        """The state directory of the hub or of an edge."""
        return self.folder / node

    def socket(self, node: str) -> Path:
        """The socket of the hub or of an edge."""
        return self.state(node) / ("edgehub.sock" if node == "hub" else "edgenode.sock")

    async def start_hub(self) -> int:
        """Make a hub and serve it; the port of its sync listener."""
        await self.run(EDGEHUB, "init", "--state", str(self.state("hub")), "--domain", DOMAIN)
        return await self.serve_hub("127.0.0.1:0", "127.0.0.1:0")

    async def serve_hub(
        self,
        listen: str,
        enroll: str,
        *,
        command: Sequence[str] = EDGEHUB,
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Serve the hub that was made; the port of its sync listener. For port 0 a free one is chosen."""
        listen, enroll = _with_port(listen), _with_port(enroll)
        where = ["--state", str(self.state("hub")), "--listen", listen, "--enroll-listen", enroll]
        hub = await self.spawn("hub", command, "serve", *where, environment=environment)
        ready = await hub.ready()
        self.enroll_address = ready["enroll"]
        return int(ready["listen"].rpartition(":")[2])

    async def join(self, node: str) -> None:
        """Give an edge its identity."""
        made = await self.run(EDGEHUB, "token", "create", node, "--state", str(self.state("hub")), "-o", "json")
        token = json.loads(made)["token"]
        where = ["--state", str(self.state(node)), "--hub", self.enroll_address]
        await self.run(EDGENODE, "join", *where, "--token", token)

    async def start_edge(
        self,
        node: str,
        sync_port: int,
        *,
        command: Sequence[str] = EDGENODE,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run an edge that dials the hub at `sync_port`."""
        where = ["--state", str(self.state(node)), "--hub", f"127.0.0.1:{sync_port}"]
        # A demo has no patience for a field device's backoff.
        pace = {"EDGENODE_RECONNECT_MIN_SECONDS": "0.2", "EDGENODE_RECONNECT_MAX_SECONDS": "1"}
        edge = await self.spawn(node, command, "run", *where, environment={**pace, **(environment or {})})
        await edge.ready()

    async def start_agent(self, name: str, kind: str, node: str) -> None:
        """Run one of the demo's agents on an edge."""
        arguments = [kind, "--state", str(self.state(node)), "--name", name]
        await self.spawn(name, [sys.executable, "-m", "edgenode.cli.demo.agents"], *arguments)

    async def spawn(
        self, name: str, command: Sequence[str], *arguments: str, environment: Mapping[str, str] | None = None
    ) -> Child:
        """Start a process and remember it."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(environment or {})},
            )
        child = self.children[name] = Child(name, process, log, self._ready_timeout)
        return child

    async def run(self, command: Sequence[str], *arguments: str) -> str:
        """Run a command to its end; what it printed. Raises Internal (DEMO_COMMAND) with what it said when it fails."""
        process = await asyncio.create_subprocess_exec(
            *command,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        if process.returncode != 0:
            raise Internal("DEMO_COMMAND", f"{' '.join(arguments[:2])} failed: {err.decode().strip()}")
        return out.decode()

    async def stop(self) -> None:
        """End every process that still runs, newest first; whatever happens none is left."""
        for child in reversed(self.children.values()):
            if child.process.returncode is None:
                try:
                    await child.stop()
                except Internal:
                    continue
