"""An MCP server mounted on a real node: its bridge is the process the node starts, its server a process of the bridge."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.registry.v1 import registry_pb2
from edgenode.cli.demo.fleet import free_port
from edgenode.link.errors import EdgenodeError
from edgenode.link.wire.status import from_rpc_error
from edgenode.sdk import Client, Payload, RetryPolicy, TaskState
from edgenode.sdk.encoding import MCP_RESULT
from edgenode.sdk.testing import LocalNode

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

SERVER = Path(__file__).with_name("mcp_server.py")
QUICK = RetryPolicy(attempts=5, initial_backoff=0.05, max_backoff=1.0)
PATIENCE = 60.0


class Site:
    """A node with the server mounted as `fix`."""

    def __init__(self, node: LocalNode, client: Client) -> None:
        self.node = node
        self.client = client
        self.admin = admin_service_pb2_grpc.AdminServiceStub(client.channel)

    async def add(self, name: str, *arguments: str) -> None:
        stdio = admin_pb2.McpStdioServer(arguments=[sys.executable, str(SERVER), *arguments])
        mount = admin_pb2.Mount(name=name, mcp_stdio=stdio)
        await self.admin.AddMount(admin_service_pb2.AddMountRequest(request_id=name, mount=mount))

    async def status(self, name: str = "fix") -> admin_pb2.MountStatus:
        answer = await self.admin.ListMounts(admin_service_pb2.ListMountsRequest())
        (record,) = [record for record in answer.mounts if record.mount.name == name]
        status: admin_pb2.MountStatus = record.status
        return status

    async def ready(self, starts: int = 1, name: str = "fix") -> admin_pb2.MountStatus:
        async def there() -> bool:
            status = await self.status(name)
            return status.state == admin_pb2.MOUNT_STATE_READY and status.start_count >= starts

        await until(there)
        return await self.status(name)

    async def skills(self, name: str = "fix") -> dict[str, registry_pb2.Skill]:
        for agent in await self.client.agents():
            if agent.card.name == name:
                return {skill.id: skill for skill in agent.card.skills}
        return {}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def written(file: Path) -> None:
    async def there() -> bool:
        return file.exists()

    await until(there)


async def failure(work: Awaitable[Any]) -> EdgenodeError:
    with pytest.raises(EdgenodeError) as caught:
        await work
    return caught.value


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[Site]:
    async with LocalNode() as node, node.client() as client:
        made = Site(node, client)
        await made.add("fix")
        await made.ready()
        yield made


async def test_tools_are_skills_with_all_they_say(site: Site) -> None:
    skills = await site.skills()
    add = skills["fix.add"]
    assert (add.name, add.description) == ("Adds numbers", "Adds two numbers.")
    assert json.loads(add.input_schema)["required"] == ["a", "b"]
    assert json.loads(add.output_schema)["properties"]["sum"]["type"] == "integer"
    assert (add.annotations.read_only_hint, add.annotations.destructive_hint) == (True, False)
    source = json.loads(add.source_json)
    assert (source["name"], source["icons"], source["_meta"]) == ("add", [{"src": "data:,+"}], {"x": 1})
    # What a tool does not say is as MCP has it; two names that make one id are two skills.
    assert skills["fix.fails"].annotations.destructive_hint
    names = {json.loads(skill.source_json)["name"]: id for id, skill in skills.items()}
    assert names["ask-me"] == "fix.ask-me"
    assert names["Ask-Me"].startswith("fix.ask-me-")
    status = await site.status()
    assert (status.server, status.protocol_version, status.skill_count) == ("fixture 1.0", "2026-07-28", len(skills))


async def test_results_are_whole_and_our_sdk_reads_them(site: Site) -> None:
    assert await site.client.call("fix.add", {"a": 1, "b": 2}) == {"sum": 3}
    whole = await site.client.call("fix.add", {"a": 1, "b": 2}, type=Payload)
    assert whole.content_type == MCP_RESULT
    assert json.loads(whole.data)["content"][0]["type"] == "text"
    picture = await site.client.call("fix.picture")
    assert [block["type"] for block in picture["content"]] == ["image", "text"]
    assert (await failure(site.client.call("fix.add", [1, 2]))).reason == "BAD_INPUT"


async def test_an_error_of_the_tool_fails_the_task_and_keeps_its_content(site: Site) -> None:
    handle = await site.client.submit("fix.fails")
    error = await failure(handle.result(PATIENCE))
    assert (error.reason, error.problem.message) == ("TOOL_ERROR", "the disk is full")
    assert json.loads(error.problem.metadata["mcp_result"])["structuredContent"] == {"code": 28}
    assert TaskState((await site.client.get_task(handle.task_id)).state) is TaskState.FAILED


async def test_progress_comes_and_cancelling_reaches_the_server(site: Site, tmp_path: Path) -> None:
    handle = await site.client.submit("fix.slow", {"steps": 5})
    updates = [update async for update in handle.watch()]
    assert any(update.fraction and update.message.startswith("step") for update in updates)
    notes = tmp_path / "notes"
    handle = await site.client.submit("fix.slow", {"steps": 100_000, "notes": str(notes)})
    await written(notes)
    await handle.cancel()

    async def told() -> bool:
        return notes.read_text() == "began\ncancelled\n"

    await until(told)


@pytest.mark.parametrize(("answer", "said"), [({"name": "Ada"}, "Hello, Ada!"), (None, "decline")])
async def test_questions_go_to_the_submitter(site: Site, answer: object, said: str) -> None:
    (skill,) = [id for id in await site.skills() if id.startswith("fix.ask-me-")]
    handle = await site.client.submit(skill)
    async for update in handle.watch():
        if update.state is TaskState.INPUT_REQUIRED:
            asked = (await site.client.get_task(handle.task_id)).input_request
            assert asked.prompt == "Who are you?"
            assert json.loads(asked.schema)["required"] == ["name"]
            await site.client.provide_input(handle.task_id, asked.key, answer)
    assert await handle.result(PATIENCE) == {"result": said}


async def test_changes_of_the_tools_update_the_registry(site: Site) -> None:
    assert "fix.learnt" not in await site.skills()
    await site.client.call("fix.learn")

    async def there() -> bool:
        return "fix.learnt" in await site.skills()

    await until(there)
    assert (await site.client.call("fix.learnt"))["content"][0]["text"] == "learnt"


async def test_a_lost_server_comes_back_and_only_what_may_runs_again(site: Site, tmp_path: Path) -> None:
    once, again = tmp_path / "once", tmp_path / "again"
    starts = (await site.status()).start_count
    handle = await site.client.submit("fix.crash", {"notes": str(once)}, retry=QUICK)
    error = await failure(handle.result(PATIENCE))
    assert (error.reason, error.problem.retryable) == ("MCP_SERVER_LOST", False)
    status = await site.ready(starts + 1)
    assert (status.last_problem.reason, list(status.error_lines)[-1]) == ("MCP_SERVER_LOST", "crashing as asked")

    handle = await site.client.submit("fix.crash_once", {"notes": str(again)}, retry=QUICK)
    waiting = await site.client.submit("fix.add", {"a": 20, "b": 1})  # comes while the server is away
    assert await handle.result(PATIENCE) == {"result": "survived"}
    assert await waiting.result(PATIENCE) == {"sum": 21}
    assert (once.read_text(), again.read_text()) == ("ran\n", "ran\nran\n")


async def test_a_killed_bridge_comes_back_and_runs_nothing_twice(site: Site, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    handle = await site.client.submit("fix.stuck", {"notes": str(notes)}, retry=QUICK)
    await written(notes)
    (bridge,) = _bridges()
    servers = bridge.children()
    os.kill(bridge.pid, signal.SIGKILL)
    assert (await failure(handle.result(PATIENCE))).reason == "MAY_HAVE_RUN"
    assert await site.client.call("fix.add", {"a": 2, "b": 2}, timeout=PATIENCE) == {"sum": 4}
    assert notes.read_text() == "ran\n"
    assert len(servers) == 1
    assert all(not server.is_running() or server.status() == psutil.STATUS_ZOMBIE for server in servers)


async def test_mounts_are_there_after_a_restart_and_gone_once_removed(site: Site) -> None:
    await site.node.restart()
    await site.ready()
    assert await site.client.call("fix.add", {"a": 3, "b": 3}, timeout=PATIENCE) == {"sum": 6}
    await site.admin.RemoveMount(admin_service_pb2.RemoveMountRequest(request_id="r", name="fix"))
    assert await site.skills() == {}

    async def ended() -> bool:
        return not _bridges()

    await until(ended)
    await site.add("fix")
    await site.ready()


async def test_a_server_that_does_not_start_says_why(site: Site) -> None:
    await site.add("bad", "--no-such-flag")
    brief = admin_pb2.Mount(name="brief", mcp_stdio=admin_pb2.McpStdioServer(arguments=[sys.executable, "-c", ""]))
    await site.admin.AddMount(admin_service_pb2.AddMountRequest(request_id="brief", mount=brief))
    mount = admin_pb2.Mount(name="none", mcp_stdio=admin_pb2.McpStdioServer(arguments=["/nowhere/program"]))
    await site.admin.AddMount(admin_service_pb2.AddMountRequest(request_id="none", mount=mount))

    async def failed() -> bool:
        return (await site.status("none")).state == admin_pb2.MOUNT_STATE_WAITING

    await until(failed)
    problem = (await site.status("none")).last_problem
    assert problem.reason == "MCP_SERVER_NOT_STARTED"
    assert "/nowhere/program" in problem.message
    assert problem.hint.endswith("at once by: edgenode mcp retry none")

    async def ended() -> bool:
        return "it ended, or does not speak MCP" in (await site.status("brief")).last_problem.message

    await until(ended)
    mount.mcp_stdio.arguments.append("more")
    with pytest.raises(Exception, match="mounted already") as caught:
        await site.admin.AddMount(admin_service_pb2.AddMountRequest(request_id="again", mount=mount))
    assert from_rpc_error(caught.value).reason == "MOUNT_EXISTS"  # type: ignore[arg-type]


async def test_a_server_over_http_carries_headers_and_comes_back(site: Site, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    headers.write_text("# of the test\nX-Token: secret\n")
    port = free_port()
    http = admin_pb2.McpHttpServer(url=f"http://127.0.0.1:{port}/mcp", headers_file=str(headers))
    mount = admin_pb2.Mount(name="web", mcp_http=http)

    async def waits() -> bool:
        return (await site.status("web")).state == admin_pb2.MOUNT_STATE_WAITING

    async def refused() -> bool:
        return (await site.status("web")).last_problem.reason == "BAD_HEADERS_FILE"

    async with _program("--http", str(port)):
        await _listening(port)
        await site.admin.AddMount(admin_service_pb2.AddMountRequest(request_id="web", mount=mount))
        await until(refused)  # others may read the file
        headers.chmod(0o600)
        await site.ready(name="web")
        assert await site.client.call("web.header", {"name": "x-token"}) == {"result": "secret"}
        handle = await site.client.submit("web.slow", {"steps": 3})
        assert any(update.message == "step 2" for update in [update async for update in handle.watch()])
    await until(waits)
    lost = await site.client.submit("web.add", {"a": 1, "b": 1})
    async with _program("--http", str(port)):
        assert await lost.result(PATIENCE) == {"sum": 2}
    await site.admin.RemoveMount(admin_service_pb2.RemoveMountRequest(request_id="r2", name="web"))


@asynccontextmanager
async def _program(*arguments: str) -> AsyncIterator[None]:
    devnull = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SERVER), *arguments, stdout=devnull, stderr=devnull
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def _listening(port: int) -> None:
    async def there() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    await until(there)


def _bridges() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        try:
            if "edgenode.bridges.mcp" in child.cmdline():
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found
