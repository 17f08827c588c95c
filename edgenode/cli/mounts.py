"""What the commands for mounts of every kind have in common."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.bridges.mcp.oauth.kept import forget
from edgenode.cli.place import node_target
from edgenode.link.errors import NotFound, Unavailable
from edgenode.link.model.names import make_id
from edgenode.link.model.problem import Problem
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.terminal.options import SECONDS
from edgenode.link.terminal.output import Column, clean, emit, human_seconds, table
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.rpc import ask, channel_to, pages, run
from edgenode.link.wire.values import duration_to_pb, problem_from_pb

_LOOK = 0.2  # seconds between two looks at a mount that starts
_DEFAULT_WAIT = 30.0
_SAYING = 3.0  # seconds beyond the time a server has, for its bridge to say what became of it
_IN_TROUBLE = (admin_pb2.MOUNT_STATE_WAITING, admin_pb2.MOUNT_STATE_AUTH_REQUIRED)

F = TypeVar("F", bound=Callable[..., Any])


def policy_options(command: F) -> F:
    """How the agent of a mount works."""
    for option in (
        click.option("--no-wait", is_flag=True, help="Do not wait until its skills are there."),
        click.option(
            "--lease", type=SECONDS, help="How long the agent is believed once its server is lost; 15s if not given."
        ),
        click.option("--concurrency", type=click.IntRange(1, 1000), help="Calls at once; 16 when not given."),
        click.option("--start-timeout", type=SECONDS, help="How long the server may take to begin; 30s if not given."),
        click.option(
            "--attempt-timeout", type=SECONDS, help="How long one call may run; the node's default when not given."
        ),
        click.option("--allow-repeat", is_flag=True, help="Also what does not say that it is harmless may run again."),
    ):
        command = option(command)
    return command


def fill_policy(policy: admin_pb2.MountPolicy, given: dict[str, Any]) -> None:
    """Writes what `policy_options` were given."""
    policy.repeat_allowed = given["allow_repeat"]
    policy.concurrency_count = given["concurrency"] or 0
    for option, field in (
        ("attempt_timeout", policy.attempt_timeout_duration),
        ("start_timeout", policy.start_timeout_duration),
        ("lease", policy.lease_duration),
    ):
        if given[option] is not None:
            field.CopyFrom(duration_to_pb(given[option]))


def add_mount(
    state: Path, output: str, mount: admin_pb2.Mount, *, no_wait: bool, start_timeout: float | None = None
) -> None:
    """Adds it, waits until it is there or failed, and says so; exit code 7 where it is not there."""

    async def work() -> admin_pb2.MountRecord:
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            await ask(stub.AddMount, admin_service_pb2.AddMountRequest(request_id=_request_id(), mount=mount))
            wait = 0.0 if no_wait else (start_timeout or _DEFAULT_WAIT) + _SAYING
            return await _settled(stub, mount.name, wait, -1)

    say_mounted(output, run(work()), no_wait=no_wait)


def say_mounted(output: str, record: admin_pb2.MountRecord, *, no_wait: bool = False) -> None:
    """How it is; exit code 7 where it is not there, unless that was not waited for."""
    status = record.status
    emit(output, plain(record), lambda: _added(record))
    if not no_wait and status.state != admin_pb2.MOUNT_STATE_READY:
        problem = status.last_problem
        raise Exit(
            ExitCode.DEGRADED, problem_from_pb(problem) if status.HasField("last_problem") else _not_there(record)
        )


def list_mounts(state: Path, output: str, limit: int, kind: admin_pb2.MountKind) -> None:
    """Those of a kind, and how they are."""

    async def work() -> list[Any]:
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            return await pages(stub.ListMounts, admin_service_pb2.ListMountsRequest(kind=kind), "mounts", limit)

    records = run(work())
    emit(output, [plain(record) for record in records], lambda: _listed(records))


def remove_mount(state: Path, name: str) -> None:
    """Removes one, of whatever kind."""

    async def work() -> None:
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            await ask(stub.RemoveMount, admin_service_pb2.RemoveMountRequest(request_id=_request_id(), name=name))

    run(work())
    try:
        forget(state, name)  # a bridge that is down does not see that it goes
    except OSError as error:
        click.echo(f"the tokens of {name} are still there: {error}", err=True)
    click.echo(f"removed {name}")


def retry_mount(state: Path, output: str, name: str) -> None:
    """Has one tried now, waits until it is there or failed, and says so; exit code 7 where it is not there."""

    async def work() -> admin_pb2.MountRecord:
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            return await retried(stub, name)

    say_mounted(output, run(work()))


async def retried(stub: Any, name: str) -> admin_pb2.MountRecord:
    """Has it tried, and waits until that is over."""
    before = await find_mount(stub, name)
    await ask(stub.RetryMount, admin_service_pb2.RetryMountRequest(request_id=_request_id(), name=name))
    return await _settled(stub, name, _DEFAULT_WAIT, before.status.start_count)


async def find_mount(stub: Any, name: str) -> admin_pb2.MountRecord:
    """The mount of a name. Raises NotFound (UNKNOWN_MOUNT)."""
    mounts = await pages(stub.ListMounts, admin_service_pb2.ListMountsRequest(), "mounts", 1000)
    for record in mounts:
        if record.mount.name == name:
            found: admin_pb2.MountRecord = record
            return found
    raise NotFound("UNKNOWN_MOUNT", f"there is no mount {name}", hint="edgenode mcp list", name=name)


def _not_there(record: admin_pb2.MountRecord) -> Problem:
    program = "a2a" if record.mount.HasField("a2a") else "mcp"
    return Unavailable(
        "NOT_READY",
        f"{record.mount.name} is {_state(plain(record))}, and nothing is known against it",
        hint=f"it goes on; see: edgenode {program} list",
    ).problem


async def _settled(stub: Any, name: str, patience: float, starts: int) -> admin_pb2.MountRecord:
    """The mount once its server is there or failed after more than so many `starts`, or after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        mounts = await pages(stub.ListMounts, admin_service_pb2.ListMountsRequest(), "mounts", 1000)
        found: list[admin_pb2.MountRecord] = [record for record in mounts if record.mount.name == name]
        record = found[0] if found else admin_pb2.MountRecord(mount=admin_pb2.Mount(name=name))
        status = record.status
        failed = status.state in _IN_TROUBLE and status.start_count > starts
        settled = failed or status.state == admin_pb2.MOUNT_STATE_READY
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
        if record.status.state in _IN_TROUBLE:
            problem = record.status.last_problem
            parts.append(f"\n{record.mount.name}: {clean(problem.message)} ({problem.reason})")
            if problem.hint:
                parts.append(f"  hint: {clean(problem.hint)}")
            parts += _last_lines(record)
    return "\n".join(parts)


def _last_lines(record: admin_pb2.MountRecord) -> list[str]:
    if record.status.state not in _IN_TROUBLE:
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
    there = mount["mcp_http"] or mount["a2a"]
    return there["url"] if there else " ".join(mount["mcp_stdio"]["arguments"])


def _request_id() -> str:
    return make_id(time.time(), int.from_bytes(os.urandom(10), "big"))
