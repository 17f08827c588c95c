"""`edgenode deadletters list | replay | drop`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.cli.place import node_target
from edgenode.cli.state import state_option
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.options import limit_option, output_option
from edgenode.link.terminal.output import Column, col, emit, human_bytes, table
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.rpc import ask, channel_to, pages, run
from edgenode.link.terminal.views import age_from

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=DefaultGroup)
def deadletters() -> None:
    """Things that were given up and kept: look at them, try again, forget them. Without a word: list."""


@deadletters.command("list")
@limit_option(100)
@output_option
@state_option
def list_(state: Path, output: str, limit: int) -> None:
    """Dead letters, newest first."""

    async def work() -> list[Any]:
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            return await pages(stub.ListDeadLetters, admin_service_pb2.ListDeadLettersRequest(), "dead_letters", limit)

    rows = [plain(letter) for letter in run(work())]
    columns = [
        col("id", "dead_letter_id", right=True),
        col("kind"),
        col("subject"),
        col("task", "task_id"),
        col("age", "dead_letter_time", age_from(time.time()), True),
        col("tries", "attempt_count", right=True),
        col("size", "size_bytes", human_bytes, True),
        Column(
            "why", lambda row: f"{row['problem']['reason']}: {row['problem']['message']}" if row["problem"] else "-"
        ),
    ]
    emit(output, rows, lambda: table(rows, columns, empty="no dead letters"))


def _which(command: F) -> F:
    for option in (
        click.argument("ids", nargs=-1, type=click.IntRange(min=1), metavar="[ID]..."),
        click.option("--all", "every", is_flag=True, help="All of them."),
    ):
        command = option(command)
    return command


def _check(ids: tuple[int, ...], every: bool) -> None:
    if every == bool(ids):
        raise click.UsageError("give either ids or --all; `edgenode deadletters` shows them")


@deadletters.command()
@_which
@output_option
@state_option
def replay(state: Path, output: str, ids: tuple[int, ...], every: bool) -> None:
    """Give dead letters another chance: each task is submitted again as a new task."""
    _check(ids, every)

    async def work() -> list[str]:
        request = admin_service_pb2.ReplayDeadLettersRequest(
            request_id=uuid.uuid4().hex, dead_letter_ids=ids, all=every
        )
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            return list((await ask(stub.ReplayDeadLetters, request)).task_ids)

    task_ids = run(work())
    emit(output, {"task_ids": task_ids}, lambda: "\n".join([f"{len(task_ids)} submitted again", *task_ids]))


@deadletters.command()
@_which
@output_option
@state_option
def drop(state: Path, output: str, ids: tuple[int, ...], every: bool) -> None:
    """Forget dead letters."""
    _check(ids, every)

    async def work() -> int:
        request = admin_service_pb2.DropDeadLettersRequest(request_id=uuid.uuid4().hex, dead_letter_ids=ids, all=every)
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            return int((await ask(stub.DropDeadLetters, request)).dropped_count)

    count = run(work())
    emit(output, {"dropped_count": count}, lambda: f"{count} dropped")
