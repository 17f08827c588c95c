"""A2A agents mounted on a real node by the bridge it starts: one of the official SDK, and another node's."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import psutil
import pytest
import pytest_asyncio

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.registry.v1 import registry_pb2
from edgenode.link.errors import EdgenodeError, FailedPrecondition
from edgenode.sdk import Agent, Client, Context, TaskState
from edgenode.sdk.handle import TaskHandle
from edgenode.sdk.testing import LocalNode
from tests.integration.bridges.a2a_agent import Foreign
from tests.integration.bridges.a2a_rig import TOKEN, rig

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

PATIENCE = 60.0
DO = "foreign.do-things"


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@dataclass
class Site:
    """A node on which both are mounted."""

    node: LocalNode
    client: Client
    foreign: Foreign
    north: Client

    @property
    def admin(self) -> admin_service_pb2_grpc.AdminServiceStub:
        return admin_service_pb2_grpc.AdminServiceStub(self.client.channel)

    async def add(self, name: str, url: str, headers_file: str = "") -> None:
        mount = admin_pb2.Mount(name=name, a2a=admin_pb2.A2aAgent(url=url, headers_file=headers_file))
        await self.admin.AddMount(admin_service_pb2.AddMountRequest(request_id=name, mount=mount))

    async def record(self, name: str) -> admin_pb2.MountRecord:
        request = admin_service_pb2.ListMountsRequest(kind=admin_pb2.MOUNT_KIND_A2A)
        answer = await self.admin.ListMounts(request)
        found: list[admin_pb2.MountRecord] = [record for record in answer.mounts if record.mount.name == name]
        return found[0]

    async def reaches(self, name: str, state: int) -> None:
        async def there() -> bool:
            return (await self.record(name)).status.state == state

        await until(there)

    async def agent(self, name: str) -> registry_pb2.Agent:
        (agent,) = [agent for agent in await self.client.agents() if agent.card.name == name]
        return agent

    async def is_in(self, task: TaskHandle, state: TaskState) -> None:
        async def there() -> bool:
            return (await self.client.get_task(task.task_id)).state == int(state)

        await until(there)

    def bridge(self) -> psutil.Process:
        (process,) = [
            child
            for child in psutil.Process().children(recursive=True)
            if "edgenode.bridges.a2a" in child.cmdline() and str(self.node.socket) in child.cmdline()
        ]
        return process


def _hello() -> Agent:
    agent = Agent("hello")

    @agent.skill(idempotent=True)
    async def greet(name: str) -> str:
        return f"Hello, {name}!"

    @agent.skill()
    async def choose(ctx: Context) -> int:
        ctx.progress(0.5, "half way")
        return int(await ctx.input("How many?", int)) * 2

    @agent.skill()
    async def fail() -> None:
        raise FailedPrecondition("NO_GLUE", "the glue is gone", hint="buy some")

    return agent


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    headers = tmp_path_factory.mktemp("a2a") / "headers"
    headers.touch(mode=0o600)
    headers.write_text(f"Authorization: Bearer {TOKEN}\n")
    foreign = Foreign()
    await foreign.start()
    try:
        async with rig(_hello()) as north, LocalNode("south") as node, node.client() as client:
            made = Site(node, client, foreign, north.client)
            await made.add("foreign", foreign.url)
            await made.add("far", f"{north.bridge.places.http}/agents/hello", str(headers))
            for name in ("foreign", "far"):
                await made.reaches(name, admin_pb2.MOUNT_STATE_READY)
            yield made
    finally:
        foreign.executor.gate.set()
        await foreign.stop()


async def test_its_skills_are_the_agents_with_card_and_schemas(site: Site) -> None:
    foreign, far = await site.agent("foreign"), await site.agent("far")
    assert [skill.id for skill in foreign.card.skills] == [DO]
    assert b'"Does things"' in foreign.card.source_json
    assert {skill.id for skill in far.card.skills} == {"far.greet", "far.choose", "far.fail"}
    greet = next(skill for skill in far.card.skills if skill.id == "far.greet")
    assert '"name"' in greet.input_schema
    assert greet.annotations.idempotent_hint
    status = (await site.record("foreign")).status
    assert (status.server, status.protocol_version, status.skill_count) == ("foreign 7", "1.0 JSONRPC", 1)


async def test_tasks_and_calls_of_both(site: Site) -> None:
    assert await site.client.call("far.greet", {"name": "Ada"}) == "Hello, Ada!"
    task = await site.client.submit(DO, "this")
    assert await task.result(PATIENCE) == "did this"
    assert site.foreign.executor.runs["this"] == 1


async def test_trace_tenant_and_context_travel(site: Site) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    options = {"traceparent": trace, "tenant": "acme", "context_id": "job-7"}
    await (await site.client.submit("far.greet", {"name": "Ada"}, **options)).result(PATIENCE)  # type: ignore[arg-type]
    (there,) = await site.north.list_tasks(context_id="job-7")
    assert (there.spec.traceparent, there.spec.tenant, there.spec.skill) == (trace, "acme", "greet")


@pytest.mark.parametrize(("skill", "input", "prompt", "answer", "result"), [
    ("far.choose", {}, "How many?", 21, 42),
    (DO, "ask me", "Which?", "that", "did that"),
])  # fmt: skip
async def test_questions_of_both(
    site: Site, skill: str, input: object, prompt: str, answer: object, result: object
) -> None:
    task = await site.client.submit(skill, input)
    await site.is_in(task, TaskState.INPUT_REQUIRED)
    asked = (await site.client.get_task(task.task_id)).input_request
    assert asked.prompt == prompt
    await site.client.provide_input(task.task_id, asked.key, answer)
    assert await task.result(PATIENCE) == result


async def test_failures_keep_their_words(site: Site) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        await (await site.client.submit("far.fail", {})).result(PATIENCE)
    assert (refused.value.reason, refused.value.problem.hint) == ("NO_GLUE", "buy some")
    with pytest.raises(EdgenodeError, match="no glue left") as failed:
        await (await site.client.submit(DO, "fail")).result(PATIENCE)
    assert failed.value.reason == "A2A_FAILED"


async def test_a_cancel_here_is_a_cancel_there(site: Site) -> None:
    task = await site.client.submit(DO, "gated cancel")
    await site.is_in(task, TaskState.WORKING)
    await until(_ran(site, "gated cancel"))
    await task.cancel()

    async def cancelled() -> bool:
        return bool(site.foreign.executor.cancelled)

    await until(cancelled)
    await site.is_in(task, TaskState.CANCELED)


async def test_an_agent_that_is_away_gets_nothing_new_and_what_it_has_goes_on(site: Site) -> None:
    """Its process is another one after that, with the tasks it had and another card."""
    under_way = await site.client.submit(DO, "ask before")
    await site.is_in(under_way, TaskState.INPUT_REQUIRED)
    await site.foreign.stop()
    waiting = await site.client.submit(DO, "later", retry=20)

    async def draining() -> bool:
        return (await site.agent("foreign")).runtime.health == registry_pb2.HEALTH_DRAINING

    await until(draining)
    assert "out of reach" in (await site.agent("foreign")).runtime.health_reason
    assert not TaskState((await site.client.get_task(waiting.task_id)).state).terminal
    asked = (await site.client.get_task(under_way.task_id)).input_request
    await site.client.provide_input(under_way.task_id, asked.key, "answered")
    site.foreign.skills.append("more")
    await site.foreign.start()
    assert await under_way.result(PATIENCE) == "did answered"
    assert await waiting.result(PATIENCE) == "did later"
    assert site.foreign.executor.runs["later"] == 1

    async def more() -> bool:
        return {skill.id for skill in (await site.agent("foreign")).card.skills} == {DO, "foreign.more"}

    await until(more)


async def test_a_bridge_that_is_killed_runs_nothing_twice(site: Site) -> None:
    site.foreign.executor.gate.clear()
    task = await site.client.submit(DO, "gated once", retry=20)
    await until(_ran(site, "gated once"))
    os.kill(site.bridge().pid, signal.SIGKILL)
    site.foreign.executor.gate.set()
    assert await task.result(PATIENCE) == "did gated once"
    assert site.foreign.executor.runs["gated once"] == 1


async def test_a_mount_that_is_removed_is_gone(site: Site) -> None:
    await site.reaches("far", admin_pb2.MOUNT_STATE_READY)
    await site.admin.RemoveMount(admin_service_pb2.RemoveMountRequest(request_id="r", name="far"))
    assert [agent.card.name for agent in await site.client.agents()] == ["foreign"]


def _ran(site: Site, text: str) -> Callable[[], Awaitable[bool]]:
    async def ran() -> bool:
        return site.foreign.executor.runs[text] > 0

    return ran
