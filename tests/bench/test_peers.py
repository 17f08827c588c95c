"""Peers that are not to be had are told as not run, with the reason, and leave the others."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.benchmarks import cases, peer_set
from scripts.benchmarks.peer_set import MOSQUITTO, PEERS, REQUIREMENTS, NotInstalled, Peer
from scripts.benchmarks.processes import Child, PeerCommand
from scripts.benchmarks.results import Metric

# It answers a round as asked for, and says so after `ready`.
PROGRAM = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    print('{"seconds": 0.5, "p50_seconds": 0.001, "p99_seconds": 0.002}', flush=True)
"""


# It leaves a process behind that does not heed its end and holds a lock as long as it lives.
WITH_A_WORKER = """
import fcntl, os, signal, sys
held = open(sys.argv[1], "w")
fcntl.flock(held, fcntl.LOCK_EX)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    while True:
        signal.pause()
signal.signal(signal.SIGTERM, signal.SIG_DFL)
print("ready", flush=True)
"""


class FewProcesses:
    """A bed whose node, client, agents and bare limit are all the same small program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Child] = []
        self.edge = self.start(PROGRAM)

    def start(self, program: str) -> Child:
        child = Child("edge", [sys.executable, "-c", program], self.folder / "log")
        self.started.append(child)
        return child

    def agents(self, _count: int) -> list[Child]:
        return []

    def client(self) -> Child:
        return self.edge

    def bare(self, _agents: int) -> Child:
        return self.edge

    def peer(self, commands: Sequence[PeerCommand]) -> Child:
        return self.start(commands[0].name)

    def end(self, _children: object) -> None:
        for child in self.started:
            child.stop()

    def end_peers(self) -> None:
        pass


def peer(name: str, program: str, packages: tuple[str, ...] = ()) -> Peer:
    return Peer(name, packages, lambda: [PeerCommand(program, lambda _folder: [])], 10, 1, 10)


def test_whoever_cannot_run_is_told_and_the_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(packages: Sequence[str]) -> None:
        if packages:
            raise NotInstalled(f"there is no {packages[0]}")

    monkeypatch.setattr(cases, "install", install)
    peers = [
        peer("absent", PROGRAM, ("nothing",)),
        peer("broken", "import sys; sys.exit('no such option')"),
        peer("short-lived", "print('ready', flush=True); input(); import sys; sys.exit('out of memory')"),
        peer("good", PROGRAM),
    ]
    bed = FewProcesses(tmp_path)
    many, alone = Metric("many", "1/s"), Metric("alone", "ms")
    rate = cases.Many(many, "call", 100, 1, frozenset(peer.name for peer in peers))
    cases.Case(bed, cases.Effort(2), "call", 0).run([rate], alone, 10, peers)  # type: ignore[arg-type]
    for metric in (many, alone):
        assert len(metric.samples) == len(metric.rivals["good"]) == 2
        assert set(metric.not_run) == {"absent", "broken", "short-lived"}
        assert metric.not_run["absent"] == "there is no nothing"
        assert "no such option" in metric.not_run["broken"]


def test_a_server_the_machine_lacks_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    (mosquitto,) = (peer for peer in PEERS["publish"] if peer.name == MOSQUITTO)
    with pytest.raises(NotInstalled, match="apt-get install mosquitto"):
        mosquitto.commands()


@pytest.mark.parametrize("ending", ["signal.pause()", "os._exit(1)"])
def test_what_a_process_started_ends_with_it(ending: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    Child("peer", [sys.executable, "-c", WITH_A_WORKER + ending, str(lock)], tmp_path / "log").stop()
    with lock.open() as free:
        fcntl.flock(free, fcntl.LOCK_EX)  # waits for as long as the worker lives


def test_a_failed_install_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_set, "ENVIRONMENT", tmp_path / "peers")
    monkeypatch.setattr(peer_set, "PYTHON", tmp_path / "peers" / "bin" / "python")
    monkeypatch.setattr(peer_set, "_run", lambda _command: (_ for _ in ()).throw(NotInstalled("no room")))
    with pytest.raises(NotInstalled, match="no room"):
        peer_set.install(("huey",))


def test_every_package_is_pinned() -> None:
    pins = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    for peers in PEERS.values():
        for one in peers:
            assert all(any(pin.startswith(package) for pin in pins) for package in one.packages)
