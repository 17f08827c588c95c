"""Commands that edge and hub answer alike, as both serve RegistryService and TaskService."""

from __future__ import annotations

import time

from edgenode.api.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.task.v1 import task_service_pb2, task_service_pb2_grpc
from edgenode.link.errors import Unavailable
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.terminal.output import emit
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.rpc import ask, channel_to, pages
from edgenode.link.terminal.views import agents_table, find_text, task_text, tasks_table
from edgenode.link.wire.values import duration_to_pb


async def show_agents(target: str, output: str, limit: int, scope: str = "local") -> None:
    """Print all agents. Ends with exit code 7 where those of the fleet are wanted and the hub cannot be asked."""
    seen: list[registry_service_pb2.ListAgentsResponse] = []
    request = registry_service_pb2.ListAgentsRequest(scope=f"SCOPE_{scope.upper()}")
    async with channel_to(target) as channel:
        stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
        agents = await pages(stub.ListAgents, request, "agents", limit, seen.append)
    rows = [plain(agent) for agent in agents]
    emit(output, rows, lambda: agents_table(rows, time.time()))
    last = seen[-1]
    if scope == "fleet" and not last.next_page_token and not last.fleet_included:
        away = Unavailable("LINK_DOWN", "the hub cannot be asked: these are this node's alone", hint="edgenode status")
        raise Exit(ExitCode.DEGRADED, away.problem)


async def show_found(
    target: str,
    output: str,
    *,
    skill: str,
    selector: str,
    query: str,
    scope: str,
    explain: bool,
    max_cost: float | None,
    max_staleness: float | None,
    limit: int,
) -> None:
    """Print the agents fit for a job. Ends with exit code 3 when there is none."""
    request = registry_service_pb2.FindAgentsRequest(
        skill=skill,
        selector=selector,
        query=query,
        scope=f"SCOPE_{scope.upper()}",
        explain=explain,
        page_size=limit,
        max_cost=max_cost,
    )
    if max_staleness is not None:
        request.max_staleness_duration.CopyFrom(duration_to_pb(max_staleness))
    async with channel_to(target) as channel:
        answer = plain(await ask(registry_service_pb2_grpc.RegistryServiceStub(channel).FindAgents, request))
    emit(output, answer, lambda: find_text(answer, time.time()))
    if not answer["candidates"]:
        raise Exit(ExitCode.NOT_FOUND)


async def show_tasks(
    target: str, output: str, *, states: tuple[str, ...], skill: str, context_id: str, limit: int
) -> None:
    """Print tasks, newest first."""
    request = task_service_pb2.ListTasksRequest(
        states=[f"TASK_STATE_{state.upper()}" for state in states],
        skill=skill,
        context_id=context_id,
    )
    async with channel_to(target) as channel:
        tasks = await pages(task_service_pb2_grpc.TaskServiceStub(channel).ListTasks, request, "tasks", limit)
    rows = [plain(task) for task in tasks]
    emit(output, rows, lambda: tasks_table(rows, time.time()))


async def show_task(target: str, output: str, task_id: str) -> None:
    """Print one task."""
    async with channel_to(target) as channel:
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        answer = await ask(stub.GetTask, task_service_pb2.GetTaskRequest(task_id=task_id))
    task = plain(answer.task)
    emit(output, task, lambda: task_text(task, time.time()))
