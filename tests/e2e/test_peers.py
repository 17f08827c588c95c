"""Programs that others wrote, at both ends of a fleet: MCP servers of both revisions and in two languages on the edge north;
at south the official client, and the MCP Inspector's command line, which know of nothing but `edgenode mcp serve`.

How often something ran is counted where it ran: by the lines that a hook of the repository and an edit of a file leave behind,
and by what the memory says that it added.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
import mcp_types as types
import pytest
import pytest_asyncio
from mcp import Client, MCPError
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.session import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client

from edgenode.bridges.mcp.tasking import EXTENSION
from edgenode.cli.demo.fleet import EDGENODE, free_port
from edgenode.sdk import TaskState
from tests.e2e.conftest import Site, short_folder
from tests.npm import NODE, installed

pytestmark = [pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

PACKAGES = Path(__file__).with_name("peers")
SKILLS = {"everything": 15, "files": 14, "memory": 9, "clock": 2, "git": 12}  # tools, with the packages that are locked
EDITED = {"stored": 1, "inspector": 1, "refused": 0, "late": 0}  # times that each file is to have been edited
HOOK = """#!/bin/sh
echo ran >> ../ran
while [ ! -e ../go ]; do sleep 0.1; done
"""


class Handle(types.Result):
    """Of a task: what a call is answered with, and what `tasks/get` tells."""

    result_type: Literal["task"] = "task"
    task_id: str = ""
    status: str = ""


class Stand(types.Result):
    """How a task stands."""

    status: str
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class TaskParams(types.RequestParams):
    task_id: str


class GetTask(types.Request[TaskParams, Literal["tasks/get"]]):
    method: Literal["tasks/get"] = "tasks/get"
    name_param = "taskId"


class Tasks(ClientExtension):
    """The tasks extension: a client that has it may be given a handle."""

    identifier = EXTENSION

    def claims(self) -> Sequence[ResultClaim[Any]]:
        async def hand_on(_handle: Handle, _context: ClaimContext) -> types.CallToolResult:
            raise AssertionError("this test follows its handles itself")

        return [ResultClaim(result_type="task", model=Handle, resolve=hand_on)]


@dataclass
class Place:
    """The five servers on north, and `edgenode mcp serve` at south."""

    site: Site
    folder: Path
    packages: Path
    ports: dict[str, int]  # where each node's MCP server listens

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(self.repository), *arguments], capture_output=True, text=True, check=False
        ).stdout

    def commits(self) -> list[str]:
        """Subjects of the commits there are."""
        return self.git("log", "--format=%s").splitlines()

    def file(self, name: str) -> Path:
        return self.folder / "files" / f"{name}.txt"

    def edit(self, name: str) -> dict[str, Any]:
        """Arguments of an edit that adds a line to a file, one more for each time it runs."""
        return {"path": str(self.file(name)), "edits": [{"oldText": "end", "newText": "edited\nend"}]}

    def ran(self) -> str:
        """A line for each commit that was begun."""
        return (self.folder / "ran").read_text() if (self.folder / "ran").exists() else ""

    def url(self, node: str) -> str:
        return f"http://127.0.0.1:{self.ports[node]}/mcp"

    def authorization(self, node: str) -> str:
        token = (self.site.fleet.state(node) / "bridge.token").read_text().strip()
        return f"Bearer {token}"

    async def start_bridge(self, node: str) -> None:
        """`edgenode mcp serve` of a node, over HTTP."""
        where = ["--http", f"127.0.0.1:{self.ports[node]}", "--state", str(self.site.fleet.state(node))]
        bridge = await self.site.fleet.spawn(f"{node}-bridge", EDGENODE, "mcp", "serve", *where)
        await bridge.ready()

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        """The official client, of south over HTTP."""
        async with httpx2.AsyncClient(headers={"Authorization": self.authorization("south")}, timeout=60.0) as http:
            transport = streamable_http_client(self.url("south"), http_client=http)
            async with Client(transport, cache=None, **options) as client:
                yield client

    async def inspector(self, *arguments: str) -> Any:
        """What the Inspector prints. It starts `edgenode mcp serve` itself, as a desktop client does."""
        server = {"command": EDGENODE[0], "args": ["mcp", "serve", "--state", str(self.site.fleet.state("south"))]}
        config = self.folder / "desktop.json"
        config.write_text(json.dumps({"mcpServers": {"edgenode": server}}))
        program = str(self.packages / "inspector" / "clients" / "cli" / "build" / "index.js")
        process = await asyncio.create_subprocess_exec(
            *(NODE, program, "--quiet", "--format", "json", "--config", str(config), "--server", "edgenode"),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HOME": str(self.folder)},
        )
        printed, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return json.loads(printed)["result"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(site: Site) -> AsyncIterator[Place]:
    packages = installed(PACKAGES) / "node_modules" / "@modelcontextprotocol"
    with short_folder() as folder:
        made = Place(site, folder, packages, {node: free_port() for node in ("north", "south")})
        (folder / "files").mkdir()
        for name in EDITED:
            made.file(name).write_text("end\n")
        made.repository.mkdir()
        made.git("init", "-q")
        yield made


def servers(place: Place) -> dict[str, list[str]]:
    """Commands by mount."""

    def npm(name: str, *arguments: str) -> list[str]:
        return [NODE, str(place.packages / name / "dist" / "index.js"), *arguments]

    return {
        "everything": npm("server-everything"),
        "files": npm("server-filesystem", str(place.folder / "files")),
        "memory": npm("server-memory"),
        "clock": [sys.executable, "-m", "mcp_server_time", "--local-timezone", "UTC"],
        "git": [sys.executable, "-m", "mcp_server_git", "--repository", str(place.repository)],
    }


async def test_servers_of_others_are_agents_of_an_edge_and_tools_on_another(place: Place) -> None:
    fleet = place.site.fleet
    north = ["--state", str(fleet.state("north")), "--start-timeout", "2min"]

    async def add(name: str, command: list[str]) -> str:
        memory = ["--env", f"MEMORY_FILE_PATH={place.folder / 'memory.json'}"] if name == "memory" else []
        return await fleet.run(EDGENODE, "mcp", "add", name, *north, *memory, "--", *command)

    added = await asyncio.gather(*(add(*server) for server in servers(place).items()))
    for name, text in zip(SKILLS, added, strict=True):
        assert text.startswith(f"mounted {name}: ready, {SKILLS[name]} skills of"), text
    await place.start_bridge("south")

    async def answer(_context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada", "check": True})

    fractions: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        fractions.append(progress)

    async with place.client(elicitation_callback=answer) as client:
        await all_listed(client)
        read = await client.call_tool("files__read_text_file", {"path": str(place.file("stored"))})
        assert read.structured_content == {"content": "end\n"}
        found = await client.call_tool("memory__create_entities", {"entities": [person("Ada")]})
        assert found.structured_content == {"entities": [person("Ada")]}
        now = await client.call_tool("clock__get_current_time", {"timezone": "Europe/Berlin"})
        assert "Europe/Berlin" in str(now.content)
        status = await client.call_tool("git__git_status", {"repo_path": str(place.repository)})
        assert "No commits yet" in str(status.content)
        steps = {"duration": 0.2, "steps": 2}
        await client.call_tool("everything__trigger-long-running-operation", steps, progress_callback=hear)
        assert 0.5 in fractions
        asked = await client.call_tool("everything__trigger-elicitation-request", {})  # asks by a request of its own
        assert "Ada" in str(asked.content)


async def test_what_was_under_way_and_asked_for_through_an_outage_arrives_and_ran_once(place: Place) -> None:
    repository, fleet = place.repository, place.site.fleet
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    (repository / "note.txt").write_text("a note\n")
    place.git("add", "note.txt")
    place.git("config", "user.name", "Ada")
    place.git("config", "user.email", "ada@example.com")

    async with place.client(extensions=[Tasks()]) as client:
        commit = await stored(client, "git__git_commit", {"repo_path": str(repository), "message": "one"})
        await until(lambda: place.ran() != "")
        await fleet.children["hub"].kill()  # while north works on it
        edit = await stored(client, "files__edit_file", place.edit("stored"))  # durable at south before it is told
        assert (await stand(client, edit)).status == "working"
    await fleet.children["south-bridge"].kill()
    await place.start_bridge("south")  # which knows the fleet's tools, and handles, though the hub is away

    async with place.client() as client:
        await all_listed(client)
        # Not stored: refused. Bounded: ends in time, and what it asked for is not done later either.
        at_once = await refusal(client, "files__edit_file", place.edit("refused"), mode="call")
        assert (at_once["reason"], at_once["retryable"]) == ("LINK_DOWN", True)
        in_time = await refusal(client, "files__edit_file", place.edit("late"), timeout=1)
        assert (in_time["reason"], in_time["state"]) == ("DEADLINE", "EXPIRED")
        observation = {"observations": [{"entityName": "Ada", "contents": ["waits"]}]}
        waiting = asyncio.create_task(client.call_tool("memory__add_observations", observation))
        looking = asyncio.create_task(
            place.inspector(
                *("--method", "tools/call", "--tool-name", "files__edit_file"),
                *("--tool-args-json", json.dumps(place.edit("inspector"))),
            )
        )
        await accepted(place, 4)  # both handles, and these two
        assert not waiting.done()
        assert not looking.done()
        (place.folder / "go").touch()
        await until(lambda: place.commits() == ["one"])  # north ends its work without the hub
        await place.site.start_hub_again()
        added = await asyncio.wait_for(waiting, 60)
        assert added.structured_content == {"results": [{"entityName": "Ada", "addedObservations": ["waits"]}]}
        assert "+edited" in json.dumps(await asyncio.wait_for(looking, 60))
    async with place.client(extensions=[Tasks()]) as client:  # by the handles of a bridge that is gone
        assert "Changes committed" in json.dumps(await ended(client, commit))
        assert "+edited" in json.dumps(await ended(client, edit))
    assert place.ran() == "ran\n"
    assert place.commits() == ["one"]
    assert {name: place.file(name).read_text().count("edited") for name in EDITED} == EDITED


async def test_nodes_that_mount_each_other_and_themselves_list_nothing_twice_over(place: Place) -> None:
    """Of one fleet, so that each lists what the other has anyway; see also tests/unit/bridges/test_relays.py."""
    fleet = place.site.fleet
    own: set[str] = set()
    await place.start_bridge("north")
    for node, name, mounted in (("north", "s", "south"), ("south", "n", "north"), ("north", "me", "north")):
        async with place.site.client(node) as client:
            if not own:
                own = {skill.id.replace(".", "__") for agent in await client.agents() for skill in agent.card.skills}
            headers = place.folder / mounted
            headers.touch(0o600)
            headers.write_text(f"Authorization: {place.authorization(mounted)}\n")
            where = ["--url", place.url(mounted), "--headers-file", str(headers), "--state", str(fleet.state(node))]
            added = await fleet.run(EDGENODE, "mcp", "add", name, *where)
            assert added.startswith(f"mounted {name}: ready, {len(own)} skills of edgenode"), added
            (agent,) = [agent for agent in await client.agents() if agent.card.name == name]
            assert {skill.id for skill in agent.card.skills} == {f"{name}.{tool}" for tool in own}
    arguments = {"timezone": "Europe/Rome"}
    async with place.client() as client:
        for tool in ("s__clock__get_current_time", "me__clock__get_current_time", "n__clock__get_current_time"):
            assert "Europe/Rome" in str((await client.call_tool(tool, arguments)).content)


def person(name: str) -> dict[str, Any]:
    return {"name": name, "entityType": "person", "observations": ["counts"]}


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def accepted(place: Place, count: int) -> None:
    """Until so many tasks have not ended at south."""
    async with place.site.client("south") as south, asyncio.timeout(60):
        while sum(not TaskState(task.state).terminal for task in await south.list_tasks()) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def listed(client: Client) -> list[str]:
    names: list[str] = []
    cursor = None
    while True:
        page = await client.list_tools(cursor=cursor)
        names += [tool.name for tool in page.tools]
        cursor = page.next_cursor
        if cursor is None:
            return names


async def all_listed(client: Client) -> None:
    """Until the tools of all five are listed."""
    async with asyncio.timeout(60):
        while await count(client) != SKILLS:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def count(client: Client) -> dict[str, int]:
    """Tools that are listed, by mount."""
    tools = await listed(client)
    return {name: sum(tool.startswith(f"{name}__") for tool in tools) for name in SKILLS}


async def stored(client: Client, tool: str, arguments: dict[str, Any]) -> str:
    """The handle of a call that takes long."""
    handle = await client.session.call_tool(tool, arguments, allow_claimed=True)
    assert isinstance(handle, Handle), handle
    return handle.task_id


async def stand(client: Client, task: str) -> Stand:
    return await client.session.send_request(GetTask(params=TaskParams(task_id=task)), Stand)


async def ended(client: Client, task: str) -> dict[str, Any]:
    """The result of a task by its handle."""
    async with asyncio.timeout(60):
        while (told := await stand(client, task)).status == "working":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert told.status == "completed", told
    assert told.result is not None
    return told.result


async def refusal(client: Client, tool: str, arguments: dict[str, Any], **wishes: Any) -> dict[str, Any]:
    """The data of the error that a call ends with."""
    meta: Any = {f"dev.edgenode/{key}": value for key, value in wishes.items()}
    with pytest.raises(MCPError) as refused:
        await client.call_tool(tool, arguments, meta=meta)
    return dict(refused.value.data)
