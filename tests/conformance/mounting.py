"""The side that mounts MCP servers, as the client of the official conformance suite.

A node and the bridge's own code are started once. For each scenario the suite serves an MCP server and starts knock.py, which
tells its address: the server is mounted under a name of its own, and an ordinary caller of the node uses what it finds. It
calls each tool it is told to call, else every one with arguments that its schema allows, all at once, and answers
questions with nothing but what their schema wants. Where a token is wanted, authorising.py is the operator and the person who
logs in. What is known to fail stands in mounting-failures.yaml.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.mcp.mounted import Mounted
from edgenode.link.errors import EdgenodeError
from edgenode.link.ports import system_rng
from edgenode.sdk import Client, TaskState
from edgenode.sdk.testing import LocalNode
from tests.conformance.authorising import Operator
from tests.conformance.official import run

HERE = Path(__file__).parent
BASELINE = HERE / "mounting-failures.yaml"
KNOWN = frozenset(re.findall(r"^  - (\S+)$", BASELINE.read_text(), re.MULTILINE))
REQUIRED = {"2026-07-28": 32, "2025-11-25": 18}  # client scenarios by revision
PATIENCE = 30.0  # seconds for one scenario
_SAMPLES: dict[str, Any] = {"string": "text", "integer": 3, "number": 1.5, "boolean": True, "object": {}, "array": []}


@asynccontextmanager
async def client_under_test() -> AsyncIterator[Path]:
    """Where knock.py finds it."""
    with tempfile.TemporaryDirectory(prefix="mcp-", dir="/tmp") as folder:
        place = Path(folder) / "client.sock"
        async with LocalNode() as node, node.client() as client:
            names = (f"suite-{number}" for number in itertools.count())

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                try:
                    told = json.loads(await reader.readline())
                    said = await _use(client, Path(folder), next(names), told["url"], told["context"])
                    writer.write(said.encode())
                finally:
                    writer.close()

            server = await asyncio.start_unix_server(serve, place)
            try:
                yield place
            finally:
                server.close()


async def judge(suite: Path, place: Path, revision: str, results: Path) -> tuple[int, dict[str, bool], str]:
    """(exit code, passed or not by scenario, output). `suite`: an installed folder; `results`: a folder for details."""
    command = shlex.join([sys.executable, "-S", str(HERE / "knock.py"), str(place)])
    return await run(
        suite,
        *("client", "--command", command, "--requirements", revision, "-o", str(results)),
        *("--expected-failures", str(BASELINE)),
    )


async def _use(client: Client, folder: Path, name: str, url: str, context: dict[str, Any]) -> str:
    """What one scenario is about; what came of it, for the suite's log."""
    said: list[str] = []
    ready, failed = asyncio.Event(), asyncio.Event()
    operator = Operator(folder, name, url)

    async def report(_name: str, status: admin_pb2.MountStatus) -> None:
        if status.state == admin_pb2.MOUNT_STATE_WAITING:
            said.append(status.last_problem.message)
            failed.set()
        elif status.state == admin_pb2.MOUNT_STATE_AUTH_REQUIRED:
            said.append(status.last_problem.message)
            operator.needed.set()
        elif status.state == admin_pb2.MOUNT_STATE_READY:
            ready.set()

    await operator.prepare(context)
    mount = admin_pb2.Mount(name=name, mcp_http=admin_pb2.McpHttpServer(url=url, oauth_file=str(operator.file)))
    mounted = Mounted(mount, client, report, system_rng(), state=folder)
    running = asyncio.create_task(mounted.run())
    helping = asyncio.create_task(operator.help(mounted, said, failed))
    using = asyncio.create_task(_use_tools(client, name, context, ready, said, operator))
    refused = asyncio.create_task(failed.wait())
    await asyncio.wait([using, refused], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    for task in (using, refused, helping):
        task.cancel()
    mounted.stop(leave=True)
    await asyncio.wait([using, refused, helping, running])
    return "\n".join(said) + "\n"


async def _use_tools(
    client: Client, name: str, context: dict[str, Any], ready: asyncio.Event, said: list[str], operator: Operator
) -> None:
    await ready.wait()
    (agent,) = [agent for agent in await client.agents() if agent.card.name == name]
    skills = {json.loads(skill.source_json)["name"]: skill for skill in agent.card.skills}
    calls = [(call["name"], call["arguments"]) for call in context.get("toolCalls", ())]
    calls = calls or [(tool, _sample(skill)) for tool, skill in skills.items()]
    uses = (_call(client, skills[tool].id, given, said, operator) for tool, given in calls if tool in skills)
    await asyncio.gather(*uses)
    if "json_schema_echo" in skills and "json_schema_2020_12_tool" in skills:
        # The schema of one tool, as the registry has it, for the other.
        schema = json.loads(skills["json_schema_2020_12_tool"].input_schema)
        await _call(client, skills["json_schema_echo"].id, {"schema": schema}, said, operator)


def _sample(skill: registry_pb2.Skill) -> dict[str, Any]:
    schema = json.loads(skill.input_schema)
    return {name: _value_of(part) for name, part in schema.get("properties", {}).items()}


def _value_of(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return "text"
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "string")
    return _SAMPLES.get(kind[0] if isinstance(kind, list) else kind)


async def _call(client: Client, skill: str, given: dict[str, Any], said: list[str], operator: Operator) -> None:
    handle = await client.submit(skill, given)
    async for update in handle.watch():
        if update.state in (TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED):
            asked = (await client.get_task(handle.task_id)).input_request
            if "edgenode mcp login" in asked.prompt:
                await operator.log_in(said)
            schema = json.loads(asked.schema or "{}")
            parts = schema.get("properties", {})
            wanted = [name for name in schema.get("required", ()) if "default" not in parts.get(name, {})]
            answer = {name: _value_of(parts.get(name)) for name in wanted}
            await client.provide_input(handle.task_id, asked.key, answer)
    try:
        said.append(f"{skill}: {await handle.result(PATIENCE)}")
    except EdgenodeError as error:
        said.append(f"{skill}: {error}")
