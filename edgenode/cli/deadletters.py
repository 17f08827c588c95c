"""`edgenode deadletters list | show | replay | drop`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.cli.place import node_target
from edgenode.cli.state import state_option
from edgenode.link.terminal import letters
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.options import limit_option, output_option
from edgenode.link.terminal.rpc import ask, channel_to, pages, run


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

    letters.show_letters(run(work()), output)


@deadletters.command()
@click.argument("number", type=click.IntRange(min=1), metavar="ID")
@output_option
@state_option
def show(state: Path, output: str, number: int) -> None:
    """One dead letter with its content."""

    async def work() -> admin_service_pb2.GetDeadLetterResponse:
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            return await ask(stub.GetDeadLetter, admin_service_pb2.GetDeadLetterRequest(dead_letter_id=number))

    letters.show_letter(run(work()), output)


@deadletters.command()
@letters.which
@output_option
@state_option
def replay(state: Path, output: str, ids: tuple[int, ...], every: bool) -> None:
    """Give dead letters another chance: a task is submitted again as a new one, a message goes to the end of the log."""
    request = letters.replay_request(ids, every)

    async def work() -> admin_service_pb2.ReplayDeadLettersResponse:
        async with channel_to(node_target(state)) as channel:
            return await ask(admin_service_pb2_grpc.AdminServiceStub(channel).ReplayDeadLetters, request)

    letters.show_replayed(run(work()), output)


@deadletters.command()
@letters.which
@letters.reason_option
@output_option
@state_option
def drop(state: Path, output: str, ids: tuple[int, ...], every: bool, reason: str) -> None:
    """Forget dead letters; the ledger counts them under the reason."""
    request = letters.drop_request(ids, every, reason)

    async def work() -> int:
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            return int((await ask(stub.DropDeadLetters, request)).dropped_count)

    letters.show_dropped(run(work()), output)
