"""`edgehub ledger show`."""

from __future__ import annotations

from pathlib import Path

import click

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.ledger import show_ledger
from edgenode.link.terminal.options import output_option
from edgenode.link.terminal.rpc import ask, channel_to, run
from hub.cli.place import hub_target, state_option


@click.group(cls=DefaultGroup, default="show")
def ledger() -> None:
    """The hub's counts of every hop. Without a word: show."""


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
