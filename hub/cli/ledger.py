"""`edgehub ledger show | verify`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.link.errors import FailedPrecondition, Unavailable
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.ledger import VERIFY_TIMEOUT, show_ledger, show_verified
from edgenode.link.terminal.options import output_option
from edgenode.link.terminal.output import Column, col, human_seconds, table
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.rpc import ask, channel_to, run
from edgenode.link.terminal.views import Plain
from hub.cli.place import hub_target, state_option
from hub.config import load_hub_config


@click.group(cls=DefaultGroup, default="show")
def ledger() -> None:
    """The hub's counts of every hop, and whether they are true. Without a word: show."""


@ledger.command()
@click.option("--node", default="", help="This node's hops only.")
@output_option
@state_option
def show(state: Path, output: str, node: str) -> None:
    """The counts: produced = delivered + pending + dead-lettered + dropped. Exit code 1 where that does not hold."""

    async def work() -> fleet_service_pb2.GetFleetLedgerResponse:
        async with channel_to(hub_target(state)) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            return await ask(stub.GetFleetLedger, fleet_service_pb2.GetFleetLedgerRequest(node=node))

    show_ledger(run(work()).lines, output)


@ledger.command()
@click.option("--all", "everybody", is_flag=True, help="Ask every edge for its own ledger as well, and compare.")
@output_option
@state_option
def verify(state: Path, output: str, everybody: bool) -> None:
    """Look at everything the hub's ledger counts: logs, cursors, tasks, dead letters.

    Works while the hub runs, and without --all while it is stopped.

    Exit code 0 only when all of it adds up; 1 when something does not, and the ranges are named. With --all each edge looks
    at its own as well, and what both sides of a link say is compared; 7 when nothing is wrong but an edge could not be asked.
    """

    async def work() -> fleet_service_pb2.VerifyFleetLedgerResponse:
        request = fleet_service_pb2.VerifyFleetLedgerRequest(all=everybody)
        try:
            target = hub_target(state)
        except Unavailable as nobody:
            if everybody:
                raise  # the edges can only be asked by a hub that runs
            from hub.services.verify import verify_stopped  # the hub's services take a while to load

            try:
                return await verify_stopped(load_hub_config(state).config.store_path)
            except FailedPrecondition as error:
                # Somebody has the store open and does not answer: that is what is to be said.
                raise nobody if error.reason == "STATE_IN_USE" else error from None
        async with channel_to(target) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            return await ask(stub.VerifyFleetLedger, request, VERIFY_TIMEOUT)

    answer = run(work())
    nodes = [plain(node) for node in answer.nodes]
    more = _nodes_table(nodes, time.time()) if everybody else ""
    show_verified(answer, answer.findings, answer.finding_count, answer.entry_count, output, more)
    missing = [node["node"] for node in nodes if not node["compared"]]
    if missing:
        problem = Unavailable(
            "NOT_COMPARED",
            f"nothing is wrong here, but {', '.join(missing)} could not be asked",
            hint="ask again once they are connected; `edgehub nodes` shows them",
        ).problem
        raise Exit(ExitCode.DEGRADED, problem)


def _nodes_table(nodes: Sequence[Plain], now: float) -> str:
    columns = [
        col("node"),
        Column("compared", lambda node: "yes" if node["compared"] else "NO"),
        Column("contact", lambda node: human_seconds(max(0.0, now - node["last_contact_time"])), True),
        Column("why not", lambda node: _why(node["problem"])),
    ]
    return table(nodes, columns, empty="no node has ever been connected")


def _why(problem: Plain | None) -> str:
    return "-" if problem is None else f"{problem['reason']}: {problem['message']}"
