"""`edgenode backup | verify | restore`."""

from __future__ import annotations

from pathlib import Path

import click

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.cli.place import node_target
from edgenode.cli.state import state_option
from edgenode.link.backup.restore import restore as put_back
from edgenode.link.errors import NotFound, Unavailable
from edgenode.link.model.names import make_id
from edgenode.link.ports import SystemClock, system_rng
from edgenode.link.store.database import Database
from edgenode.link.terminal.backups import (
    BACKUP_TIMEOUT,
    FILE,
    TARGET,
    restore_options,
    show_backup,
    show_restored,
    show_verified,
)
from edgenode.link.terminal.options import output_option
from edgenode.link.terminal.rpc import ask, channel_to, run
from edgenode.node.backup import SCOPE, back_up, begin_anew, check, newer_identity
from edgenode.node.config import load_node_config
from edgenode.node.store import APPLICATION_ID, FILE_NAME, MIGRATIONS


@click.command()
@click.argument("target", type=TARGET, metavar="FILE|DIR")
@output_option
@state_option
def backup(state: Path, output: str, target: Path) -> None:
    """Back up store, identity and configuration to FILE, or to a new file in DIR, also while the node runs."""
    show_backup(run(_back_up(state, target)), output)


async def _back_up(state: Path, target: Path) -> admin_pb2.Backup:
    """By the running node; where none runs, from its store, which a node that starts meanwhile cannot open."""
    try:
        address = node_target(state)
    except Unavailable:
        return await _back_up_store(state, target)
    async with channel_to(address) as channel:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        request = admin_service_pb2.CreateBackupRequest(path=str(target))
        answer = await ask(stub.CreateBackup, request, BACKUP_TIMEOUT)
    made: admin_pb2.Backup = answer.backup
    return made


async def _back_up_store(state: Path, target: Path) -> admin_pb2.Backup:
    store = state / FILE_NAME
    if not store.exists():
        raise NotFound("NO_STATE", f"{state} holds no node", hint="give the --state of a node that was run")
    limit = load_node_config(state).config.store_bytes
    database = await Database.open(store, MIGRATIONS, application_id=APPLICATION_ID, limit_bytes=limit)
    try:
        return await back_up(database, state, target, SystemClock())
    finally:
        await database.close()


@click.command()
@click.argument("file", type=FILE)
@output_option
def verify(file: Path, output: str) -> None:
    """Check a backup: checksums, the store's integrity and schema, and that its ledger adds up."""
    show_verified(file, SCOPE.kind, [check], output)


@click.command()
@click.argument("file", type=FILE)
@restore_options
@output_option
@state_option
def restore(state: Path, output: str, file: Path, force: bool, dry_run: bool) -> None:
    """Put a backup in place of a stopped node's state. Its logs get new epochs; what it lacks comes from the hub."""
    clock, rng = SystemClock(), system_rng()

    def new_epoch() -> str:
        return make_id(clock.wall(), rng.getrandbits(80))

    done = put_back(
        file,
        state,
        SCOPE.kind,
        lambda connection: begin_anew(connection, clock.wall(), new_epoch),
        force=force,
        dry_run=dry_run,
        checks=[check],
        keep=newer_identity,
    )
    hints = [f"start it: edgenode run --state {state}"]
    if "identity" in done.placed:
        hints.append(
            "if the hub answers STALE_GENERATION its certificate was renewed since: edgehub token create"
            f" {done.manifest.name} --rejoin, then edgenode join"
        )
    show_restored(file, state, done, hints, dry_run, output)
