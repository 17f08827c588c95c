"""`scripts/kills`: SIGKILL for edges and hub, again and again, under mixed load; then every receipt is looked at.

Random kills: each process of the fleet lives for a random while, is killed, and is started again; one in five is killed
before it is up. With --failpoints the processes die at every failpoint that the load leads to instead, each of edge and hub
once, which takes all four edges; the few that are left have tests of their own (`points.RARER`).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edgenode.link.errors import Internal
from edgenode.link.failpoints import Failpoint
from tests.faults.fleet import Rig
from tests.faults.load import Load
from tests.faults.oracle import judge, summary
from tests.faults.points import EDGE, HUB, Death, die, revive

EDGES = ("north", "south", "west", "east")
LOAD_PAUSE = 0.1  # seconds: the processes that start all the time need the machine as well
EARLY_SHARE = 0.2  # of the kills come before the process is up
EARLY_SECONDS = 1.0
PATIENCE = 240.0
# Little is kept on an edge, so that trimming and giving space back are under way as well.
ENVIRONMENT = {"EDGENODE_MESSAGE_RETENTION_BYTES": "1000000"}


class Killer:
    """Kills until `count` processes have died, or `seconds` are over. `lifetime`: seconds one lives at most after it is up."""

    def __init__(self, rig: Rig, count: int, seconds: float, lifetime: float, rng: random.Random) -> None:
        self._give_up = time.monotonic() + seconds
        self._rig = rig
        self._left = count
        self._lifetime = lifetime
        self._rng = rng
        self.killed: Counter[str] = Counter()
        self.early = 0  # of them before they were up

    async def run(self, nodes: Sequence[str]) -> None:
        """Returns with every node up."""
        await asyncio.gather(*(self._haunt(node) for node in nodes))

    async def _haunt(self, node: str) -> None:
        while self._left > 0:
            await asyncio.sleep(self._rng.random() * self._lifetime)
            if not self._claim():
                break
            await self._rig.kill(node)
            self.killed[node] += 1
            while self._rng.random() < EARLY_SHARE and self._claim():
                await self._kill_early(node)
                self.killed[node] += 1
                self.early += 1
            await revive(self._rig, node)

    def _claim(self) -> bool:
        if self._left == 0 or time.monotonic() > self._give_up:
            return False
        self._left -= 1
        return True

    async def _kill_early(self, node: str) -> None:
        before = self._rig.fleet.children[node]
        starting = asyncio.create_task(revive(self._rig, node))
        await asyncio.wait([starting], timeout=self._rng.random() * EARLY_SECONDS)
        while self._rig.fleet.children[node] is before:  # a busy machine has not even begun
            await asyncio.wait([starting], timeout=0.01)
        await self._rig.kill(node)
        with suppress(Internal):  # it never became ready
            await starting


async def random_kills(rig: Rig, load: Load, count: int, seconds: float, lifetime: float, seed: int) -> list[str]:
    """Kill, then judge."""
    killer = Killer(rig, count, seconds, lifetime, random.Random(seed))
    began = time.monotonic()

    def report() -> str:
        by_node = ", ".join(f"{node} {number}" for node, number in sorted(killer.killed.items()))
        return f"{killer.killed.total():>5} killed ({killer.early} before they were up): {by_node}"

    async def watch() -> None:
        while True:
            await asyncio.sleep(10)
            _say(f"[{time.monotonic() - began:5.0f} s] {report()}")

    watching = asyncio.create_task(watch())
    try:
        await killer.run([*load.edges, "hub"])
    finally:
        watching.cancel()
    seconds = time.monotonic() - began
    _say(f"[{seconds:5.0f} s] {report()}")
    return await judge(load, PATIENCE)


async def every_failpoint(rig: Rig, load: Load) -> list[str]:
    """Die at each, then judge."""
    wrong: list[str] = []

    async def chain(node: str, deaths: Sequence[Death]) -> None:
        await rig.kill(node)
        for death in deaths:
            problem = await die(rig, node, death)
            _say(f"{node:<6} {death.armed:<26} {problem or 'died there'}")
            if problem:
                wrong.append(problem)
        await revive(rig, node)

    await chain("north", EDGE)
    await chain("hub", HUB)
    return wrong + await judge(load, PATIENCE)


async def campaign(arguments: argparse.Namespace) -> int:
    """The whole of it; the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    edges = EDGES[: arguments.edges]
    rig = Rig(folder, ENVIRONMENT)
    load = Load(rig, edges, folder / "journal", pause=LOAD_PAUSE)
    _say(f"a hub and {len(edges)} edges below {folder}, seed {arguments.seed}")
    try:
        await rig.start(*edges)
        await load.start()
        if arguments.failpoints:
            wrong = await every_failpoint(rig, load)
        else:
            wrong = await random_kills(
                rig, load, arguments.count, arguments.seconds, arguments.lifetime, arguments.seed
            )
        _say(summary(load))
    finally:
        await load.close()
        await rig.stop()
    for problem in wrong:
        _say(f"WRONG: {problem[:1000]}")
    if wrong:
        _say(f"FAILED; states and logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    _say("0 acknowledged things lost, 0 effects twice, every ledger adds up")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="scripts/kills",
        description="Kills edges and hub under mixed load and looks at every receipt. Exit code 1 if anything is lost.",
    )
    parser.add_argument("--count", type=int, default=100, help="how many processes to kill (100)")
    parser.add_argument("--edges", type=int, default=len(EDGES), choices=range(2, len(EDGES) + 1), help="edges (4)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no kill after so long (3600)")
    parser.add_argument("--lifetime", type=float, default=4.0, help="seconds a process lives at most (4)")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the times")
    parser.add_argument(
        "--failpoints", action="store_true", help="die at every failpoint that the load leads to instead"
    )
    arguments = parser.parse_args()
    if arguments.failpoints and arguments.edges < len(EDGES):
        # Of two nodes that fit, the hub takes the one with the worker, which stays. Only of three does it now and then draw
        # two whose agents come and go, and these give back what they were granted.
        parser.error(
            f"--failpoints takes {len(EDGES)} edges: with fewer, nobody comes by {Failpoint.RETURN_COMMITTED.value}"
        )
    logging.disable(logging.WARNING)  # of the SDK's agents, that lose their nodes all the time
    sys.exit(asyncio.run(campaign(arguments)))


if __name__ == "__main__":
    main()
