"""What a thousand items cost a real node in system calls and fsyncs, as strace counts them.

Bounds stand at about twice what was counted, and one round of several has to keep to them: a busy machine cuts a burst into
more pieces, a cost that is in the code is there in every round.
"""

from __future__ import annotations

import asyncio
import operator
import shutil
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgenode.cli.demo.fleet import EDGENODE
from edgenode.sdk import Agent, Client
from tests.integration.hotpaths.test_batching import Traffic, call, publish, publish_many, task

SYNCS = frozenset({"fsync", "fdatasync"})
BOUNDS: dict[Traffic, tuple[int, int]] = {  # (fsyncs, system calls in all) of a thousand
    publish: (4, 700),
    publish_many: (4, 600),
    call: (0, 900),
    task: (18, 3_200),
}
ROUNDS = 6


@pytest.fixture
async def process(folder: Path) -> AsyncIterator[Process]:
    command = [*EDGENODE, "run", "--state", str(folder / "edge"), "--log-level", "warning"]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        assert process.stdout is not None
        assert (await asyncio.wait_for(process.stdout.readline(), 60)).startswith(b"ready")
        yield process
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture
async def client(process: Process, folder: Path) -> AsyncIterator[Client]:
    """A client, and an agent with the skill `echo`."""
    agent, attached = Agent("one", concurrency=512), asyncio.Event()

    @agent.skill()
    async def echo(data: bytes) -> bytes:
        return data

    socket = folder / "edge" / "edgenode.sock"
    running = asyncio.create_task(agent.run(socket=socket, on_attached=lambda _: attached.set()))
    async with Client(socket=socket) as client:
        await asyncio.wait_for(attached.wait(), 30)
        yield client
        await agent.stop()
    await running


async def counted(pid: int, traffic: Traffic, client: Client, report: Path) -> dict[str, int]:
    """System calls of a process while there is `traffic`, by name."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: apt-get install strace")
    tracer = await asyncio.create_subprocess_exec(
        strace, "-f", "-c", "-o", str(report), "-p", str(pid), stdout=PIPE, stderr=PIPE
    )
    assert tracer.stderr is not None
    said = b""
    while b" attached" not in said:
        said = await asyncio.wait_for(tracer.stderr.readline(), 30)
        if not said or b"not permitted" in said:
            await tracer.wait()
            pytest.skip(f"a process may not be traced here: {said.decode().strip()}")
    try:
        await traffic(client)
    finally:
        tracer.send_signal(signal.SIGINT)
        await tracer.communicate()
    rows = [line.split() for line in report.read_text().splitlines()]
    return {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"}


def within(cost: tuple[int, int], bounds: tuple[int, int]) -> bool:
    return all(map(operator.le, cost, bounds))


@pytest.mark.timeout(180)
async def test_a_thousand(process: Process, client: Client, folder: Path) -> None:
    over = {}
    for traffic, bounds in BOUNDS.items():
        await traffic(client)  # warm
        costs: list[tuple[int, int]] = []
        while len(costs) < ROUNDS and not (costs and within(costs[-1], bounds)):
            calls = await counted(process.pid, traffic, client, folder / "strace")
            costs.append((sum(calls.get(name, 0) for name in SYNCS), sum(calls.values())))
        if traffic is publish:
            assert costs[-1][0] > 0  # it is an fsync that is counted
        if not within(costs[-1], bounds):
            over[traffic.__name__] = costs
    assert not over, f"(fsyncs, system calls) of every round over their bounds: {over}"
