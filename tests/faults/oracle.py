"""Judges what a load was promised against what is there: ids, checksums, outcomes, executions, ledgers.

Nothing but the public contract is asked. An empty list is the verdict hoped for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.cli.demo.totals import Verdict, ledgers
from edgenode.sdk import Client, TaskState
from tests.faults.load import Load, Producer, Seen

PATIENCE = 60.0  # seconds for everything under way to arrive
_LOOK_AGAIN = 0.2


async def judge(load: Load, patience: float = PATIENCE) -> list[str]:
    """Settle the load and say everything that is wrong."""
    await load.settle(patience)
    wrong = list(load.wrong)
    wrong += await _until_none(lambda: _ledgers(load), patience)
    wrong += await _until_none(lambda: _subscriptions(load), patience)
    wrong += await _until_none(lambda: _registry(load), patience)
    wrong += [problem for seen in load.seen.values() for problem in seen.wrong]
    wrong += await _log_of_the_hub(load)
    wrong += await _tasks(load)
    wrong += _executions(load)
    return wrong


def summary(load: Load) -> str:
    """The load in figures."""
    outcomes = Counter(job.outcome for job in load.jobs)
    tasks = ", ".join(f"{count:,} {state}" for state, count in sorted(outcomes.items()))
    calls = ", ".join(f"{count:,} {reason}" for reason, count in load.calls.most_common())
    return (
        f"{load.acked:,} messages acknowledged, {sum(len(p.at_hub) for p in load.producers):,} of them at DURABLE_HUB\n"
        f"{len(load.jobs):,} tasks accepted: {tasks}\n"
        f"{sum(load.calls.values()):,} calls: {calls}\n"
        f"{sum(load.flux.values()):,} registry changes"
    )


async def _until_none(look: Callable[[], Awaitable[list[str]]], patience: float) -> list[str]:
    """Look until nothing is wrong any more, or patience has run out."""
    give_up = asyncio.get_running_loop().time() + patience
    while True:
        wrong = await look()
        if not wrong or asyncio.get_running_loop().time() > give_up:
            return wrong
        await asyncio.sleep(_LOOK_AGAIN)


async def ledger_lines(client: Client, node: str) -> list[admin_pb2.LedgerLine]:
    """The ledger of an edge, or of the hub."""
    if node == "hub":
        fleet = fleet_service_pb2_grpc.FleetServiceStub(client.channel)
        return list((await client.unary(fleet.GetFleetLedger, fleet_service_pb2.GetFleetLedgerRequest())).lines)
    admin = admin_service_pb2_grpc.AdminServiceStub(client.channel)
    return list((await client.unary(admin.GetLedger, admin_service_pb2.GetLedgerRequest())).lines)


async def _ledgers(load: Load) -> list[str]:
    verdict = Verdict()
    for node in (*load.edges, "hub"):
        ledgers(verdict, node, await ledger_lines(load.client(node), node))
    return verdict.wrong


async def _subscriptions(load: Load) -> list[str]:
    """Durable subscriptions: every acknowledged message of their node exactly once."""
    wrong = []
    for seen in load.seen.values():
        for producer in load.producers:
            if seen.where in ("hub", producer.name.removesuffix("-pub")):
                wrong += _compare(producer, seen.messages, f"subscription at {seen.where}")
    return wrong


def _compare(producer: Producer, found: Counter[tuple[str, int]], where: str) -> list[str]:
    lost = [number for number in sorted(producer.acked) if not found[producer.name, number]]
    twice = [number for number in range(1, producer.sent + 1) if found[producer.name, number] > 1]
    wrong = []
    if lost:
        wrong.append(f"{where}: LOST {len(lost)} acknowledged of {producer.name}: {lost[:5]}...")
    if twice:
        wrong.append(f"{where}: TWICE {len(twice)} of {producer.name}: {twice[:5]}...")
    return wrong


async def _registry(load: Load) -> list[str]:
    """The hub's picture of each edge's agents is the edge's own."""
    wrong = []
    at_hub = {agent.name: dict(agent.runtime.labels) for agent in await load.client("hub").agents(limit=10_000)}
    for edge in load.edges:
        here = {agent.name: dict(agent.runtime.labels) for agent in await load.client(edge).agents()}
        there = {name: labels for name, labels in at_hub.items() if name.startswith(f"nodes/{edge}/")}
        if here != there:
            wrong.append(f"registry of {edge}: here {here}, at the hub {there}")
        if here.get(f"nodes/{edge}/agents/flux-{edge}", {}).get("turn") != str(load.flux[edge]):
            wrong.append(f"registry of {edge} is not what was acknowledged last: {here}")
    return wrong


async def _log_of_the_hub(load: Load) -> list[str]:
    """The whole log of the hub, read anew."""
    client = load.client("hub")
    fleet = fleet_service_pb2_grpc.FleetServiceStub(client.channel)
    status = await client.unary(fleet.GetHubStatus, fleet_service_pb2.GetHubStatusRequest())
    seen = Seen("the hub's log")
    if status.message_sequence:
        async with client.subscribe([">"], position="start") as messages, asyncio.timeout(PATIENCE):
            async for message in messages:
                if message.topic.startswith("load."):
                    seen.take(message)
                if message.sequence >= status.message_sequence:
                    break
    wrong = list(seen.wrong)
    for producer in load.producers:
        wrong += _compare(producer, seen.messages, seen.where)
    return wrong


async def _tasks(load: Load) -> list[str]:
    """Each accepted task ended, once, alike at its origin and at the hub, and with the right result."""
    wrong = []
    at_hub = await _states(load.client("hub"))
    for edge in load.edges:
        here = await _states(load.client(edge))
        for job in (job for job in load.jobs if job.origin == edge):
            state = here.get(job.task_id)
            if state is None:
                wrong.append(f"LOST task {job.name}")
            elif not state.terminal or state.name != job.outcome:
                wrong.append(f"task {job.name} is {state.name}, its submitter was told {job.outcome or 'nothing'}")
            if not job.right:
                wrong.append(f"task {job.name} has a wrong result")
            if not job.kind.once and not job.kind.cancelled and job.outcome != "COMPLETED":
                wrong.append(f"task {job.name}, to be tried until it works, is {job.outcome}")
            if job.kind.fleet and job.task_id in at_hub and at_hub[job.task_id] is not state:
                wrong.append(f"task {job.name} is {state and state.name} here, {at_hub[job.task_id].name} at the hub")
    return wrong


async def _states(client: Client) -> dict[str, TaskState]:
    return {task.task_id: TaskState(task.state) for task in await client.list_tasks(limit=1_000_000)}


def _executions(load: Load) -> list[str]:
    """By the agents' own journal: what may run once ran once at most, what completed ran."""
    runs: Counter[str] = Counter()
    for line in load.journal.read_text().splitlines():
        task_id, _, _ = line.partition(" ")
        runs[task_id] += 1
    wrong = []
    for job in load.jobs:
        if job.kind.once and runs[job.task_id] > 1:
            wrong.append(f"RAN TWICE: {job.name} ran {runs[job.task_id]} times")
        if job.outcome == "COMPLETED" and not runs[job.task_id]:
            wrong.append(f"{job.name} is COMPLETED and never ran")
    return wrong
