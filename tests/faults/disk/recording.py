"""A life of a service under load, written down by the disk: what it did and what was promised meanwhile.

The service starts several times on the same state, and is stopped or killed in between. What is under way when it is killed
was promised to nobody.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.cli.demo.fleet import EDGEHUB, EDGENODE
from edgenode.link.errors import EdgenodeError
from edgenode.link.identity.tokens import parse_join_token
from edgenode.sdk import Agent, Client, Level
from tests.faults.disk.control import Disk
from tests.faults.disk.promises import Promises, payload
from tests.faults.fleet import Rig, command_of

# The shortest that an edge may be given: it renews every six seconds.
LEAF_SECONDS = "10"
LARGE = 48 * 1024
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Recording:
    """What is left of it. The state directory was empty when the journal began."""

    journal: bytes
    promises: Promises


async def record_edge(
    folder: Path, size: int, *, lives: int = 3, renew: bool = True, mutant: str = "", seed: int = 1
) -> Recording:
    """An edge that joins, publishes and runs tasks until the journal holds `size` bytes, and has renewed its certificate."""
    device = folder / "north"
    device.mkdir(mode=0o700)
    rig = Rig(folder)
    disk = Disk(device, folder / "control", journal=True)
    promises = Promises(lambda: disk.journal_bytes)
    rng = random.Random(seed)
    try:
        await rig.start(hub={"EDGEHUB_LEAF_TTL_SECONDS": LEAF_SECONDS})
        await _join(rig, "north", {**rig.environment, **disk.environment}, mutant)
        promises.note("generation", "1")
        for life in range(1, lives + 1):
            await rig.start_edge("north", mutant=mutant, environment=disk.environment)
            wanted = {"2"} if renew and life == lives else set()
            watch = _generations(rig, promises) if wanted else _nothing()

            def lived(size: int = size * life // lives, wanted: set[str] = wanted) -> bool:
                return disk.journal_bytes >= size and wanted <= promises.told["generation"].keys()

            async with rig.client("north") as client, echoing(client):
                work = [some(client, promises, rng, life) for some in (_messages, _tasks, _registrations)]
                await _live(rig, "north", disk, life, lived, *work, watch)
        return Recording(disk.journal.read_bytes(), promises)
    finally:
        await rig.stop()
        if not mutant:
            _check_it_saw(disk)
        disk.close()


async def record_hub(folder: Path, size: int, *, lives: int = 3, mutant: str = "", seed: int = 1) -> Recording:
    """A hub that is made, takes in edges, messages and tasks, until the journal holds `size` bytes."""
    state = folder / "hub"
    state.mkdir(mode=0o700)
    rig = Rig(folder)
    disk = Disk(state, folder / "control", journal=True)
    promises = Promises(lambda: disk.journal_bytes)
    rng = random.Random(seed)
    try:
        await run(EDGEHUB, "init", "--state", str(state), "--domain", "faults.example", environment=disk.environment)
        promises.note("node", "hub")
        await rig.start_hub(mutant=mutant, environment=disk.environment)
        await _join(rig, "north", {})
        promises.note("node", "north")
        await rig.start_edge("north")
        async with rig.client("north") as edge, echoing(edge):
            for life in range(1, lives + 1):
                if life > 1:
                    await rig.start_hub(mutant=mutant, environment=disk.environment)

                def lived(size: int = size * life // lives) -> bool:
                    return disk.journal_bytes >= size

                async with rig.client("hub") as client:
                    at_hub = _messages(edge, promises, rng, life, Level.DURABLE_HUB)
                    work = [_tasks(client, promises, rng, life), _tokens(client, promises, life)]
                    await _live(rig, "hub", disk, life, lived, at_hub, *work)
        return Recording(disk.journal.read_bytes(), promises)
    finally:
        await rig.stop()
        if not mutant:
            _check_it_saw(disk)
        disk.close()


def _check_it_saw(disk: Disk) -> None:
    """A disk that saw nothing would prove anything."""
    assert disk.writes > 100, "the service's writes passed the library by"
    assert disk.syncs > 20, "the service's syncs passed the library by"
    assert disk.shared_maps == 0, "the service writes through a mapping"


async def run(command: list[str], *arguments: str, environment: Mapping[str, str]) -> str:
    """Run a command to its end; what it printed. Raises AssertionError with what it said when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{arguments[:2]}: {err.decode()}"
    return out.decode()


async def _join(rig: Rig, node: str, environment: Mapping[str, str], mutant: str = "") -> None:
    made = await run(
        EDGEHUB, "token", "create", node, "--state", str(rig.fleet.state("hub")), "-o", "json", environment={}
    )
    where = ["--state", str(rig.fleet.state(node)), "--hub", rig.fleet.enroll_address]
    await run(
        command_of(EDGENODE, mutant), "join", *where, "--token", json.loads(made)["token"], environment=environment
    )


async def _live(
    rig: Rig, node: str, disk: Disk, life: int, lived: Callable[[], bool], *work: Coroutine[Any, Any, None]
) -> None:
    """Let work go on until it has `lived`; then the life ends, every second one in order."""
    async with _running(*work) as tasks:
        await _until(lambda: lived() or any(task.done() and task.exception() is not None for task in tasks))
        for task in tasks:
            if task.done():
                task.result()
        if life % 2:
            disk.kill()
            await rig.died(node, within=PATIENCE)
            disk.heal()
    if rig.running(node):
        await rig.fleet.children[node].stop()


async def _until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not reached():
            await _breathe()


async def _breathe() -> None:
    await asyncio.sleep(0.02)


async def _nothing() -> None:
    return


@asynccontextmanager
async def _running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Work that goes on until the end of the block."""
    tasks = [asyncio.create_task(some) for some in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def echoing(client: Client) -> AsyncIterator[None]:
    """An agent on the client's node that answers what it is given."""
    agent = Agent("worker", concurrency=16)

    @agent.skill("echo", idempotent=True)
    async def echo(text: str) -> str:
        return text

    ready = asyncio.Event()
    serving = asyncio.create_task(agent.attach(client, lambda _node: ready.set()))
    try:
        async with asyncio.timeout(30):
            await ready.wait()
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _messages(
    client: Client, promises: Promises, rng: random.Random, life: int, level: Level = Level.DURABLE_LOCAL
) -> None:
    numbers = itertools.count(1)

    async def publish(size: int) -> None:
        name = f"message-{life}-{next(numbers)}"
        receipt = await client.publish(f"load.{life}", payload(name, size), level=level, wait=60)
        if receipt.level >= level:
            promises.note("message", name)

    while True:
        wave = [LARGE] * rng.choice((0, 1, 2)) + [rng.randint(100, 1000) for _ in range(rng.choice((1, 4, 16)))]
        await asyncio.gather(*(publish(size) for size in wave))


async def _tasks(client: Client, promises: Promises, rng: random.Random, life: int) -> None:
    async def ask(number: int) -> None:
        # Every third is for nobody: it is only kept.
        skill = "echo" if number % 3 else "nobody"
        handle = await client.submit(skill, {"text": f"{life}-{number}"})
        promises.note("task", handle.task_id)
        if number % 3:
            assert await handle.result() == f"{life}-{number}"
            promises.note("done", handle.task_id)

    for number in itertools.count(1):
        await asyncio.gather(*(ask(number * 10 + each) for each in range(rng.randint(1, 6))))
        await asyncio.sleep(0.02)


async def _registrations(client: Client, promises: Promises, rng: random.Random, life: int) -> None:
    stub = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
    for number in itertools.count(1):
        name = f"agent-{life}-{number}"
        request = registry_service_pb2.RegisterAgentRequest(
            request_id=client.new_id(),
            card=registry_pb2.AgentCard(name=name),
            instance_id=client.new_id(),
            incarnation=1,
            capacity_count=1,
        )
        await client.unary(stub.RegisterAgent, request)
        promises.note("agent", name)
        await asyncio.sleep(0.05 + rng.random() / 10)


async def _tokens(client: Client, promises: Promises, life: int) -> None:
    stub = fleet_service_pb2_grpc.FleetServiceStub(client.channel)
    for number in itertools.count(1):
        request = fleet_service_pb2.CreateJoinTokenRequest(node=f"edge-{life}-{number}")
        made = await client.unary(stub.CreateJoinToken, request)
        promises.note("token", parse_join_token(made.token).token_id)
        await asyncio.sleep(0.1)


async def _generations(rig: Rig, promises: Promises) -> None:
    """A certificate that the edge has shown to its hub must never be forgotten again."""
    async with rig.client("hub") as client:
        stub = fleet_service_pb2_grpc.FleetServiceStub(client.channel)
        while True:
            try:
                nodes = await client.unary(stub.ListNodes, fleet_service_pb2.ListNodesRequest())
            except EdgenodeError:
                return
            for node in nodes.nodes:
                for generation in range(1, node.generation + 1):
                    promises.note("generation", str(generation))
            await asyncio.sleep(0.1)
