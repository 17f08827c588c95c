"""MCP servers that others wrote, mounted side by side: of both revisions, in two languages."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.sdk import Client, TaskState
from edgenode.sdk.testing import LocalNode
from tests.npm import NODE, installed

pytestmark = pytest.mark.timeout(240)

PEERS = Path(__file__).with_name("peers")
SKILLS = {"everything": 15, "files": 14, "memory": 9, "clock": 2, "git": 12}  # tools, with the packages that are locked


@pytest.fixture
def servers(tmp_path: Path) -> dict[str, list[str]]:
    packages = installed(PEERS) / "node_modules" / "@modelcontextprotocol"
    subprocess.run(["git", "init", "-q", str(tmp_path / "repository")], check=True)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "hello.txt").write_text("hello\n")

    def npm(name: str, *arguments: str) -> list[str]:
        return [NODE, str(packages / name / "dist" / "index.js"), *arguments]

    return {
        "everything": npm("server-everything"),
        "files": npm("server-filesystem", str(tmp_path / "files")),
        "memory": npm("server-memory"),
        "clock": [sys.executable, "-m", "mcp_server_time", "--local-timezone", "UTC"],
        "git": [sys.executable, "-m", "mcp_server_git", "--repository", str(tmp_path / "repository")],
    }


async def test_servers_of_others_are_agents(servers: dict[str, list[str]], tmp_path: Path) -> None:
    async with LocalNode() as node, node.client() as client:
        admin = admin_service_pb2_grpc.AdminServiceStub(client.channel)
        for name, arguments in servers.items():
            environment = {"MEMORY_FILE_PATH": str(tmp_path / "memory.json")} if name == "memory" else {}
            stdio = admin_pb2.McpStdioServer(arguments=arguments, environment=environment)
            mount = admin_pb2.Mount(name=name, mcp_stdio=stdio)
            mount.policy.start_timeout_duration.seconds = 120
            await admin.AddMount(admin_service_pb2.AddMountRequest(request_id=name, mount=mount))
        statuses = await _all_ready(admin)
        assert {name: status.skill_count for name, status in statuses.items()} == SKILLS
        assert all(not status.refused_tools for status in statuses.values())
        revisions = {name: status.protocol_version for name, status in statuses.items()}
        assert (revisions["everything"], revisions["clock"]) == ("2025-11-25", "2026-07-28")

        listed = await client.call("files.read_text_file", {"path": str(tmp_path / "files" / "hello.txt")}, timeout=60)
        assert listed == {"content": "hello\n"}
        person = {"name": "Ada", "entityType": "person", "observations": ["counts"]}
        await client.call("memory.create_entities", {"entities": [person]}, timeout=60)
        found = await client.call("memory.search_nodes", {"query": "Ada"}, timeout=60)
        assert found["entities"] == [person]
        now = await client.call("clock.get_current_time", {"timezone": "Europe/Berlin"}, timeout=60)
        assert "Europe/Berlin" in str(now)
        status = await client.call("git.git_status", {"repo_path": str(tmp_path / "repository")}, timeout=60)
        assert "No commits yet" in str(status)
        await _question_and_progress(client)


async def _question_and_progress(client: Client) -> None:
    """Of a server of the older revision, which asks by a request of its own."""
    steps = {"duration": 0.2, "steps": 2}
    handle = await client.submit("everything.trigger-long-running-operation", steps)
    updates = [update async for update in handle.watch()]
    assert any(update.fraction == 0.5 for update in updates)
    asking = await client.submit("everything.trigger-elicitation-request")
    async for update in asking.watch():
        if update.state is TaskState.INPUT_REQUIRED:
            question = (await client.get_task(asking.task_id)).input_request
            await client.provide_input(asking.task_id, question.key, {"name": "Ada", "check": True})
    assert "Ada" in str(await asking.result(60))


async def _all_ready(admin: admin_service_pb2_grpc.AdminServiceStub) -> dict[str, admin_pb2.MountStatus]:
    async with asyncio.timeout(180):
        while True:
            records = (await admin.ListMounts(admin_service_pb2.ListMountsRequest())).mounts
            if all(record.status.state == admin_pb2.MOUNT_STATE_READY for record in records):
                return {record.mount.name: record.status for record in records}
            await asyncio.sleep(0.05)
