"""`edgenode mcp add | list | remove | serve`."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import time
from pathlib import Path
from typing import Any

import click

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.cli.place import node_target
from edgenode.cli.state import state_option
from edgenode.link.config import LOG_LEVELS
from edgenode.link.errors import FailedPrecondition
from edgenode.link.model.names import make_id
from edgenode.link.telemetry import configure_logging
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.options import SECONDS, limit_option, output_option
from edgenode.link.terminal.output import Column, clean, emit, human_seconds, table
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.rpc import ask, channel_to, pages, run
from edgenode.link.terminal.signals import StopSignal
from edgenode.link.wire.values import duration_to_pb, problem_from_pb
from edgenode.node.config import load_node_config
from edgenode.sdk.client import Client

_LOOK = 0.2  # seconds between two looks at a mount that starts
_DEFAULT_WAIT = 30.0
_NODE_AWAY = 30.0  # seconds a request waits for a node that is restarting
_LEAVE = 5.0


@click.group(cls=DefaultGroup)
def mcp() -> None:
    """MCP servers as agents of this node, and the node as an MCP server. Without a word: list."""


@mcp.command()
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--url", help="A server that runs elsewhere: the URL of its streamable HTTP endpoint.")
@click.option(
    "--headers-file",
    type=click.Path(dir_okay=False, resolve_path=True),
    help="With --url: file of header lines, e.g. a token, that only its owner may read.",
)
@click.option(
    "--env", multiple=True, metavar="NAME[=VALUE]", help="Environment variable; without a value, as it is here."
)
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Where the server is started; this directory when not given.",
)
@click.option("--allow-repeat", is_flag=True, help="Also tools that do not say it is harmless may run again.")
@click.option("--attempt-timeout", type=SECONDS, help="How long one call may run; the node's default when not given.")
@click.option("--start-timeout", type=SECONDS, help="How long the server may take to list its tools; 30s if not given.")
@click.option("--concurrency", type=click.IntRange(1, 1000), help="Calls at once; 16 when not given.")
@click.option("--lease", type=SECONDS, help="How long the agent is believed once its server is lost; 15s if not given.")
@click.option("--no-wait", is_flag=True, help="Do not wait until its tools are there.")
@output_option
@state_option
def add(state: Path, output: str, name: str, no_wait: bool, **given: Any) -> None:
    """Make an MCP server an agent NAME, each tool a skill NAME.TOOL: `edgenode mcp add files -- npx -y PACKAGE DIR`.

    It is there after every restart of the node. Exit code 7 when it is mounted but its server does not start.
    """
    mount = _mount(name, given)

    async def work() -> admin_pb2.MountRecord:
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            request = admin_service_pb2.AddMountRequest(request_id=_request_id(), mount=mount)
            await ask(stub.AddMount, request)
            patience = 0.0 if no_wait else given["start_timeout"] or _DEFAULT_WAIT
            return await _settled(stub, name, patience)

    record = run(work())
    status = record.status
    emit(output, plain(record), lambda: _added(record))
    if not no_wait and status.state != admin_pb2.MOUNT_STATE_READY:
        problem = status.last_problem
        raise Exit(ExitCode.DEGRADED, problem_from_pb(problem) if status.HasField("last_problem") else None)


@mcp.command("list")
@limit_option(256)
@output_option
@state_option
def list_(state: Path, output: str, limit: int) -> None:
    """Mounted servers, how they are, and the last lines of those in trouble."""

    async def work() -> list[Any]:
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            return await pages(stub.ListMounts, admin_service_pb2.ListMountsRequest(), "mounts", limit)

    records = run(work())
    emit(output, [plain(record) for record in records], lambda: _listed(records))


@mcp.command()
@click.argument("name")
@state_option
def remove(state: Path, name: str) -> None:
    """End the server and remove its agent."""

    async def work() -> None:
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            await ask(stub.RemoveMount, admin_service_pb2.RemoveMountRequest(request_id=_request_id(), name=name))

    run(work())
    click.echo(f"removed {name}")


@mcp.command()
@click.option(
    "--http", metavar="HOST:PORT", help="Serve HTTP on loopback, or unix:PATH, instead of this process's pipes."
)
@click.option("--timeout", type=SECONDS, default=300.0, show_default="5min", help="How long a request may take.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="warning", show_default=True)
@state_option
def serve(state: Path, http: str | None, timeout: float, log_level: str) -> None:
    """The node as an MCP server: every skill of its agents, and of the fleet's, is a tool.

    Without --http it serves the program that started it, as desktop clients do. With it, it prints a line that begins with
    `ready` when it serves, and callers send the line of STATE/bridge.token as bearer token. Needs the extra mcp.
    """
    configure_logging(log_level)
    if importlib.util.find_spec("mcp") is None:
        raise FailedPrecondition(
            "BRIDGE_NOT_INSTALLED", "the MCP SDK is not installed", hint="pip install 'edgenode[mcp]'"
        )
    asyncio.run(_serve(state, http, timeout))


async def _serve(state: Path, http: str | None, timeout: float) -> None:
    # Heavy, and only this command needs it.
    from edgenode.bridges.access import TOKEN_FILE, bridge_token, state_key
    from edgenode.bridges.mcp.serving import Serving
    from edgenode.bridges.mcp.transports import over_http, over_pipes

    retention = load_node_config(state).config.task_retention_seconds
    client = Client(target=node_target(state), connect_timeout=_NODE_AWAY)
    async with client, Serving(client, key=state_key(state), timeout=timeout, retention=retention) as serving:
        with StopSignal() as stop:
            if http is None:
                ends = asyncio.create_task(over_pipes(serving))
                stopped = asyncio.create_task(stop.wait())
                await asyncio.wait([ends, stopped], return_when=asyncio.FIRST_COMPLETED)
                for task in (ends, stopped):
                    task.cancel()
                await asyncio.wait([ends, stopped], timeout=_LEAVE)
                return
            async with over_http(serving, http, bridge_token(state)) as place:
                where = f" socket={place.socket}" if place.socket else ""
                click.echo(f"ready http={place.url}{where} token={state / TOKEN_FILE}")
                await stop.wait()


def _mount(name: str, given: dict[str, Any]) -> admin_pb2.Mount:
    command: tuple[str, ...] = given["command"]
    if bool(command) == bool(given["url"]):
        raise click.UsageError("give the server's command after `--`, or its --url")
    mount = admin_pb2.Mount(name=name)
    if command:
        if given["headers_file"]:
            raise click.UsageError("--headers-file goes with --url")
        server = mount.mcp_stdio
        # As it is found from here: the node may have been started elsewhere, with another PATH.
        program = shutil.which(command[0])
        server.arguments.extend([os.path.abspath(program) if program else command[0], *command[1:]])
        server.environment.update(_variable(text) for text in given["env"])
        server.environment.setdefault("PATH", os.environ.get("PATH", os.defpath))
        server.working_directory = given["directory"] or os.getcwd()
    else:
        if given["env"] or given["directory"]:
            raise click.UsageError("--env and --directory go with a command")
        mount.mcp_http.url = given["url"]
        mount.mcp_http.headers_file = given["headers_file"] or ""
    policy = mount.policy
    policy.repeat_allowed = given["allow_repeat"]
    policy.concurrency_count = given["concurrency"] or 0
    for option, field in (
        ("attempt_timeout", policy.attempt_timeout_duration),
        ("start_timeout", policy.start_timeout_duration),
        ("lease", policy.lease_duration),
    ):
        if given[option] is not None:
            field.CopyFrom(duration_to_pb(given[option]))
    return mount


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        if name not in os.environ:
            raise click.UsageError(f"{name} is not set here; --env {name}=VALUE gives it one")
        value = os.environ[name]
    return name, value


async def _settled(stub: Any, name: str, patience: float) -> admin_pb2.MountRecord:
    """The mount once its server is there or failed, or after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        mounts = await pages(stub.ListMounts, admin_service_pb2.ListMountsRequest(), "mounts", 1000)
        found: list[admin_pb2.MountRecord] = [record for record in mounts if record.mount.name == name]
        record = found[0] if found else admin_pb2.MountRecord(mount=admin_pb2.Mount(name=name))
        settled = record.status.state in (admin_pb2.MOUNT_STATE_READY, admin_pb2.MOUNT_STATE_WAITING)
        if settled or not found or time.monotonic() >= deadline:
            return record
        await asyncio.sleep(_LOOK)


def _added(record: admin_pb2.MountRecord) -> str:
    status = record.status
    lines = [f"mounted {record.mount.name}: {_state(plain(record))}"]
    if status.state == admin_pb2.MOUNT_STATE_READY:
        lines[0] += f", {status.skill_count} skills of {clean(status.server) or 'its server'}"
    lines += [f"  no skill: {clean(text)}" for text in status.refused_tools]
    return "\n".join(lines + _last_lines(record))


def _listed(records: list[admin_pb2.MountRecord]) -> str:
    columns = [
        Column("mount", lambda row: row["mount"]["name"]),
        Column("state", _state),
        Column("skills", lambda row: row["status"]["skill_count"], True),
        Column("starts", lambda row: row["status"]["start_count"], True),
        Column("server", lambda row: row["status"]["server"] or "-"),
        Column("runs", _what),
    ]
    parts = [table([plain(record) for record in records], columns, empty="no mounts")]
    for record in records:
        if record.status.state == admin_pb2.MOUNT_STATE_WAITING:
            problem = record.status.last_problem
            parts.append(f"\n{record.mount.name}: {clean(problem.message)} ({problem.reason})")
            parts += _last_lines(record)
    return "\n".join(parts)


def _last_lines(record: admin_pb2.MountRecord) -> list[str]:
    if record.status.state != admin_pb2.MOUNT_STATE_WAITING:
        return []
    return [f"  | {clean(line)}" for line in record.status.error_lines]


def _state(row: Any) -> str:
    status = row["status"]
    name = str(status["state"] or "PENDING").lower()
    if status["next_start_time"]:
        name += f" ({human_seconds(max(0.0, status['next_start_time'] - time.time()))})"
    return name


def _what(row: Any) -> str:
    mount = row["mount"]
    return mount["mcp_http"]["url"] if mount["mcp_http"] else " ".join(mount["mcp_stdio"]["arguments"])


def _request_id() -> str:
    return make_id(time.time(), int.from_bytes(os.urandom(10), "big"))
