"""`edgenode ledger show | verify`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.cli.place import node_target
from edgenode.cli.state import state_option
from edgenode.link.errors import FailedPrecondition, Unavailable
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.ledger import VERIFY_TIMEOUT, show_ledger, show_verified
from edgenode.link.terminal.options import output_option
from edgenode.link.terminal.rpc import ask, channel_to, run


@click.group(cls=DefaultGroup, default="show")
def ledger() -> None:
    """The counts of every hop, and whether they are true. Without a word: show."""


@ledger.command()
@output_option
@state_option
def show(state: Path, output: str) -> None:
    """The counts: produced = delivered + pending + dead-lettered + dropped. Exit code 1 where that does not hold."""

    async def work() -> admin_service_pb2.GetLedgerResponse:
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            return await ask(stub.GetLedger, admin_service_pb2.GetLedgerRequest())

    show_ledger(run(work()).lines, output)


@ledger.command()
@output_option
@state_option
def verify(state: Path, output: str) -> None:
    """Look at everything the ledger counts: logs, cursors, tasks, dead letters.

    Exit code 0 only when all of it adds up; otherwise 1, and the ranges that do not are named. Works while the node runs, and
    while it is stopped.
    """

    async def work() -> admin_service_pb2.VerifyLedgerResponse:
        try:
            target = node_target(state)
        except Unavailable as nobody:
            from edgenode.node.ledger_audit import verify_stopped  # the node's rooms take a while to load

            try:
                return await verify_stopped(state, time.time())
            except FailedPrecondition as error:
                # Somebody has the store open and does not answer: that is what is to be said.
                raise nobody if error.reason == "STATE_IN_USE" else error from None
        async with channel_to(target) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            return await ask(stub.VerifyLedger, admin_service_pb2.VerifyLedgerRequest(), VERIFY_TIMEOUT)

    answer = run(work())
    show_verified(answer, answer.findings, answer.finding_count, answer.entry_count, output)
