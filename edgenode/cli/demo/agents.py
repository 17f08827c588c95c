"""The demo's agents. `python -m edgenode.cli.demo.agents code|device --state DIR`, each a process of its own.

`code` measures Python source; `device` publishes this machine's own readings many times a second and, when it is stopped,
prints how many of each topic were acknowledged, for the demo to look for at the hub.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgenode.link.errors import FailedPrecondition
from edgenode.sdk import Agent, Client, errors

try:
    import psutil
except ModuleNotFoundError as error:
    raise FailedPrecondition(
        "EXTRA_MISSING", "the demo needs psutil, which is not installed", hint="pip install 'edgenode[demo]'"
    ) from error

READING_PAUSE = 0.02  # seconds between two rounds of readings


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is said of one source file. `longest` counts the lines of the longest function; `error` is empty if it parses."""

    lines: int
    functions: int = 0
    branches: int = 0
    longest: int = 0
    error: str = ""


def measure(source: bytes) -> Metrics:
    """Metrics of Python source by its syntax tree. Expressions inside f-strings are left out."""
    lines = source.count(b"\n") + (not source.endswith(b"\n") and bool(source))
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Metrics(lines, error=type(error).__name__)
    functions = branches = longest = 0
    for node in _walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions += 1
            longest = max(longest, (node.end_lineno or node.lineno) - node.lineno + 1)
        elif isinstance(node, ast.If | ast.IfExp | ast.While | ast.ExceptHandler):
            branches += 1
        elif isinstance(node, ast.comprehension):
            branches += len(node.ifs)
        elif isinstance(node, ast.match_case):
            branches += node.guard is not None
    return Metrics(lines, functions, branches, longest)


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.JoinedStr):
            waiting.extend(ast.iter_child_nodes(node))


def code_agent(name: str) -> Agent:
    """An agent that measures source files, one at a time."""
    agent = Agent(name, description="Measures Python source code", labels={"kind": "code"})

    @agent.skill("code.metrics", timeout=60, idempotent=True, tags=["python", "ast"])
    def metrics(source: bytes) -> Metrics:
        """Counts lines, functions and branches of a Python source file and finds its longest function."""
        return measure(source)

    return agent


def _cpu() -> object:
    return {"percent": psutil.cpu_percent(percpu=True), "load": psutil.getloadavg()}


def _memory() -> object:
    memory = psutil.virtual_memory()
    return {"used_bytes": memory.used, "available_bytes": memory.available, "percent": memory.percent}


def _disk() -> object:
    counters = psutil.disk_io_counters()
    return {"used_percent": psutil.disk_usage("/").percent, "io": counters._asdict() if counters else {}}


def _network() -> object:
    return psutil.net_io_counters()._asdict()


READINGS: dict[str, Callable[[], object]] = {
    "device.cpu": _cpu,
    "device.memory": _memory,
    "device.disk": _disk,
    "device.network": _network,
}


async def _publish_readings(state: str, stop: asyncio.Event) -> dict[str, int]:
    """Publish until stopped; how many of each topic were acknowledged. A node that is away for a while is waited for."""
    acked = dict.fromkeys(READINGS, 0)

    async def publish(client: Client, topic: str, read: Callable[[], object]) -> None:
        number = 1
        while not (stop.is_set() and acked[topic] == number - 1):
            payload = {"number": number, "reading": read()}
            # A number counts once it was acknowledged; until then the same number is tried again.
            while acked[topic] < number:
                try:
                    await client.publish(topic, payload, key=topic)
                    acked[topic] = number
                except errors.Unavailable:
                    await asyncio.sleep(READING_PAUSE)
            number += 1
            if stop.is_set():
                return
            await asyncio.sleep(READING_PAUSE)

    async with Client(state=state, connect_timeout=60) as client, asyncio.TaskGroup() as group:
        for topic, read in READINGS.items():
            group.create_task(publish(client, topic, read))
    return acked


async def _device(state: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    acked = await _publish_readings(state, stop)
    sys.stdout.write(json.dumps(acked) + "\n")


def main() -> None:
    """Run one of the agents until SIGTERM."""
    parser = argparse.ArgumentParser(prog="edgenode.cli.demo.agents")
    parser.add_argument("kind", choices=["code", "device"])
    parser.add_argument("--state", required=True)
    parser.add_argument("--name", default="code")
    arguments = parser.parse_args()
    if arguments.kind == "device":
        asyncio.run(_device(arguments.state))
    else:
        code_agent(arguments.name).serve(state=arguments.state)


if __name__ == "__main__":
    main()
