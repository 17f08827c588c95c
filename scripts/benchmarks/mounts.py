"""The case `mcp`: a tool of an MCP server called through its mount, and by the SDK's client straight.

The two take turns call by call, each with a server of its own, so that what slows the machine slows both.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
from mcp import Client as McpClient
from mcp.client.stdio import StdioServerParameters

from edgenode.sdk import Client
from scripts.benchmarks.cases import Effort, scratch
from scripts.benchmarks.processes import EDGENODE, Bed, Failed
from scripts.benchmarks.results import Budget, Floor, Metric
from scripts.benchmarks.rounds import TEXT

SERVER = str(Path(__file__).with_name("mounted_server.py"))
CALLS = 500  # of each kind in a round
AT_ONCE = 16
DIRECT = "mcp client, same server"
START_TIME = 120.0  # seconds


def mcp(root: Path, effort: Effort) -> list[Metric]:
    """What a mount adds to a call, and how many calls go through it."""
    with scratch(root) as folder, Bed(folder) as bed:
        return asyncio.run(_measure(folder / "edge", bed.edge.process.pid, effort))


async def _measure(state: Path, edge: int, effort: Effort) -> list[Metric]:
    alone = Metric("mcp tool through its mount, one at a time: p50", "ms")
    added = Metric("mcp tool, what the mount adds: p50", "ms", budget=Budget(Floor(1.5, least=False)))
    many = Metric(f"mcp tool through its mount, {AT_ONCE} at once", "calls/s")
    await _mount(state)
    count = max(int(CALLS * effort.scale), 10)
    parameters = StdioServerParameters(command=sys.executable, args=[SERVER])
    async with Client(state=state) as client, McpClient(parameters, cache=None) as direct:
        await direct.list_tools()
        (bridge,) = psutil.Process(edge).children()
        processes = {"edge": psutil.Process(edge), "bridge": bridge, "server": bridge.children()[0]}
        await _turns(client, direct, count // 4)
        for _ in range(effort.rounds):
            before = {name: _cpu(process) for name, process in processes.items()}
            ours, theirs = await _turns(client, direct, count)
            spent = {f"{name} CPU us": (_cpu(p) - before[name]) / count * 1e6 for name, p in processes.items()}
            alone.add(statistics.median(ours) * 1e3, **spent)
            alone.against(DIRECT, statistics.median(theirs) * 1e3)
            added.add(statistics.median(a - b for a, b in zip(ours, theirs, strict=True)) * 1e3)
            many.add(await _rate(lambda: _through(client), count))
            many.against(DIRECT, await _rate(lambda: _straight(direct), count))
    return [alone, added, many]


async def _mount(state: Path) -> None:
    command = [EDGENODE, "mcp", "add", "bench", "--state", str(state), "--start-timeout", f"{START_TIME:g}s"]
    process = await asyncio.create_subprocess_exec(
        *command, "--", sys.executable, SERVER, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise Failed(f"the server cannot be mounted: {said.decode().strip()}")


async def _turns(client: Client, direct: McpClient, count: int) -> tuple[list[float], list[float]]:
    """(seconds of each call through the mount, of each straight one)."""
    ours, theirs = [], []
    clock = time.perf_counter
    for _ in range(count):
        began = clock()
        await _through(client)
        between = clock()
        await _straight(direct)
        ours.append(between - began)
        theirs.append(clock() - between)
    return ours, theirs


async def _through(client: Client) -> None:
    answer = await client.call("bench.echo", {"text": TEXT})
    if answer != {"result": TEXT}:
        raise Failed(f"the mount gave {answer!r}"[:200])


async def _straight(direct: McpClient) -> None:
    answer = await direct.call_tool("echo", {"text": TEXT})
    if answer.structured_content != {"result": TEXT}:
        raise Failed(f"the server gave {answer!r}"[:200])


async def _rate(call: Callable[[], Awaitable[None]], count: int) -> float:
    async def some(times: int) -> None:
        for _ in range(times):
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(some(count // AT_ONCE + 1) for _ in range(AT_ONCE)))
    return (count // AT_ONCE + 1) * AT_ONCE / (time.perf_counter() - began)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
