"""`edgehub deadletters list | show | replay | drop`: the hub's own, or those of a node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgenode.api.fleet.v1 import fleet_service_pb2 as pb
from edgenode.api.fleet.v1 import fleet_service_pb2_grpc
from edgenode.link.terminal import letters
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.options import limit_option, output_option
from edgenode.link.terminal.rpc import ask, channel_to, pages, run
from hub.cli.place import hub_target, state_option

F = TypeVar("F", bound=Callable[..., Any])


def _node_option(command: F) -> F:
    option = click.option(
        "--node", default="", help="Those this edge keeps, asked over its link; without: the hub's own."
    )
    return option(command)


@click.group(cls=DefaultGroup)
def deadletters() -> None:
    """Things that were given up and kept, by the hub or by an edge. Without a word: list."""


@deadletters.command("list")
@_node_option
@limit_option(100)
@output_option
@state_option
def list_(state: Path, output: str, limit: int, node: str) -> None:
    """Dead letters, newest first."""

    async def work() -> list[Any]:
        async with channel_to(hub_target(state)) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            request = pb.ListFleetDeadLettersRequest(node=node)
            return await pages(stub.ListFleetDeadLetters, request, "dead_letters", limit)

    letters.show_letters(run(work()), output)


@deadletters.command()
@click.argument("number", type=click.IntRange(min=1), metavar="ID")
@_node_option
@output_option
@state_option
def show(state: Path, output: str, number: int, node: str) -> None:
    """One dead letter with its content."""

    async def work() -> pb.GetFleetDeadLetterResponse:
        async with channel_to(hub_target(state)) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            return await ask(stub.GetFleetDeadLetter, pb.GetFleetDeadLetterRequest(node=node, dead_letter_id=number))

    letters.show_letter(run(work()).letter, output)


@deadletters.command()
@letters.which
@_node_option
@output_option
@state_option
def replay(state: Path, output: str, ids: tuple[int, ...], every: bool, node: str) -> None:
    """Give dead letters another chance: a task is submitted again where the letter is kept, an entry goes to its log again."""
    request = pb.ReplayFleetDeadLettersRequest(node=node, letters=letters.replay_request(ids, every))

    async def work() -> pb.ReplayFleetDeadLettersResponse:
        async with channel_to(hub_target(state)) as channel:
            return await ask(fleet_service_pb2_grpc.FleetServiceStub(channel).ReplayFleetDeadLetters, request)

    letters.show_replayed(run(work()).replayed, output)


@deadletters.command()
@letters.which
@letters.reason_option
@_node_option
@output_option
@state_option
def drop(state: Path, output: str, ids: tuple[int, ...], every: bool, reason: str, node: str) -> None:
    """Forget dead letters; the ledger counts them under the reason."""
    request = pb.DropFleetDeadLettersRequest(node=node, letters=letters.drop_request(ids, every, reason))

    async def work() -> int:
        async with channel_to(hub_target(state)) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            return int((await ask(stub.DropFleetDeadLetters, request)).dropped_count)

    letters.show_dropped(run(work()), output)
