"""`edgehub backup | verify | restore`."""

from __future__ import annotations

from pathlib import Path

import click

from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.link.backup.making import make_backup
from edgenode.link.backup.restore import restore as put_back
from edgenode.link.errors import NotFound, Unavailable
from edgenode.link.ports import SystemClock, system_rng
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
from hub.ca.authority import Authority
from hub.cli.place import hub_target, state_option
from hub.config import load_hub_config
from hub.services.backup import SCOPE, check
from hub.store.backup import begin_anew
from hub.store.schema import open_database


@click.command()
@click.argument("target", type=TARGET, metavar="FILE|DIR")
@output_option
@state_option
def backup(state: Path, output: str, target: Path) -> None:
    """Back up store, authority and configuration to FILE, or to a new file in DIR, also while the hub runs.

    The root's key is left out: it belongs offline.
    """
    show_backup(run(_back_up(state, target)), output)


async def _back_up(state: Path, target: Path) -> admin_pb2.Backup:
    """By the running hub; where none runs, from its store, which a hub that starts meanwhile cannot open."""
    try:
        address = hub_target(state)
    except Unavailable:
        return await _back_up_store(state, target)
    async with channel_to(address) as channel:
        stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
        request = fleet_service_pb2.CreateBackupRequest(path=str(target))
        answer = await ask(stub.CreateBackup, request, BACKUP_TIMEOUT)
    made: admin_pb2.Backup = answer.backup
    return made


async def _back_up_store(state: Path, target: Path) -> admin_pb2.Backup:
    config, clock = load_hub_config(state).config, SystemClock()
    name = Authority.load(state, clock).hub
    if not config.store_path.exists():
        raise NotFound("NO_STATE", f"{state} holds no store", hint="give the --state of a hub that was served")
    database = await open_database(config.store_path, config.store_bytes)
    try:
        return await make_backup(database, SCOPE, state, name, target, clock)
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
    """Put a backup in place of a stopped hub's state. Its logs get new epochs; what it lacks comes from its edges."""
    clock, rng = SystemClock(), system_rng()

    def new_epoch() -> str:
        return f"{rng.getrandbits(64):016x}"

    done = put_back(
        file,
        state,
        SCOPE.kind,
        lambda connection: begin_anew(connection, clock.wall(), new_epoch),
        force=force,
        dry_run=dry_run,
        checks=[check],
    )
    hints = [
        "nodes that were revoked since the backup are let in again: revoke them anew",
        f"start it at the address its edges dial: edgehub serve --state {state}",
    ]
    show_restored(file, state, done, hints, dry_run, output)
