"""`edgehub init | token create | ca rotate`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.link.errors import FailedPrecondition, Unavailable
from edgenode.link.ports import SystemClock
from edgenode.link.terminal.options import SECONDS, output_option
from edgenode.link.terminal.output import emit, facts, human_seconds
from edgenode.link.terminal.rpc import ask, channel_to, run
from edgenode.link.wire.values import duration_to_pb, timestamp_from_pb
from hub.ca import rotation
from hub.ca.authority import Authority, init_authority
from hub.ca.rotation import EDGE_CA, HUB_CA
from hub.cli.place import hub_target, state_option
from hub.config import load_hub_config
from hub.services.enrollment import create_join_token
from hub.store.enrollment import SqliteEnrollmentStore
from hub.store.schema import open_database


@click.command()
@click.option("--domain", required=True, help="Trust domain of the fleet, e.g. fleet.example.")
@click.option("--name", default="hub", show_default=True, help="Name of the hub.")
@output_option
@state_option
def init(state: Path, output: str, domain: str, name: str) -> None:
    """Make a hub: its certificate authority (root, edge-ca, hub-ca) under --state."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    info = init_authority(state, domain, name, SystemClock())
    shown = {
        "hub": info.hub,
        "trust_domain": info.trust_domain,
        "root_hash": info.root_hash,
        "root_key": str(info.root_key),
        "root_certificate": str(info.root_certificate),
        "state": str(state),
    }
    emit(
        output,
        shown,
        lambda: facts(
            [
                ("hub", info.hub),
                ("domain", info.trust_domain),
                ("root hash", info.root_hash),
                ("root key", f"{info.root_key}: move it offline, the hub never reads it"),
                ("next", f"edgehub serve --state {state}"),
            ]
        ),
    )


@click.group()
def token() -> None:
    """Tokens with which edges join."""


@token.command()
@click.argument("name")
@click.option("--ttl", type=SECONDS, default=3600.0, show_default="1h", help="How long it is good for, 1 min to 30 d.")
@click.option("--rejoin", is_flag=True, help="Allow a name that joined before; its earlier certificates stop working.")
@output_option
@state_option
def create(state: Path, output: str, name: str, ttl: float, rejoin: bool) -> None:
    """Make a token with which one node may join as NAME. It is shown once and good for one use."""
    text, expire_time = run(_create(state, name, ttl, rejoin))
    left = human_seconds(expire_time - time.time())
    click.echo(f"good for {left} and one use; on the edge: edgenode join --hub HOST:PORT --token TOKEN", err=True)
    emit(output, {"token": text, "node": name, "expire_time": expire_time}, lambda: text)


@click.group()
def ca() -> None:
    """The fleet's certificate authorities."""


@ca.command()
@click.option(
    "--root-key",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Key of the root, from where it is kept offline; it is read and not kept.",
)
@click.option("--only", type=click.Choice([EDGE_CA, HUB_CA]), help="This one; both when not given.")
@output_option
@state_option
def rotate(state: Path, output: str, root_key: Path, only: str | None) -> None:
    """Put new CAs in place; the hub must be stopped. Nodes follow by themselves, also those that are away for long."""
    if _running(state):
        raise FailedPrecondition(
            "HUB_RUNNING",
            "the hub runs and has its CAs in memory",
            hint="stop it, rotate, start it; edges work on meanwhile",
        )
    made = rotation.rotate(state, root_key, [only] if only else [EDGE_CA, HUB_CA], SystemClock())
    shown = [{"ca": each.title, "expire_time": each.expire_time} for each in made]
    lines = [(each.title, f"new, ends in {human_seconds(each.expire_time - time.time())}") for each in made]
    emit(output, shown, lambda: facts([*lines, ("next", f"edgehub serve --state {state}")]))


def _running(state: Path) -> bool:
    try:
        hub_target(state)
    except Unavailable:
        return False
    return True


async def _create(state: Path, name: str, ttl: float, rejoin: bool) -> tuple[str, float]:
    """Through the running hub; where none runs, on its store, which a hub that starts meanwhile cannot open."""
    try:
        target = hub_target(state)
    except Unavailable:
        return await _create_on_store(state, name, ttl, rejoin)
    request = fleet_service_pb2.CreateJoinTokenRequest(node=name, ttl_duration=duration_to_pb(ttl), rejoin=rejoin)
    async with channel_to(target) as channel:
        answer = await ask(fleet_service_pb2_grpc.FleetServiceStub(channel).CreateJoinToken, request)
    return answer.token, timestamp_from_pb(answer.expire_time)


async def _create_on_store(state: Path, name: str, ttl: float, rejoin: bool) -> tuple[str, float]:
    config = load_hub_config(state).config
    clock = SystemClock()
    authority = Authority.load(state, clock)
    database = await open_database(config.store_path, config.store_bytes)
    try:
        store = SqliteEnrollmentStore(database)
        made, expire_time = await create_join_token(authority, store, clock, name, ttl, rejoin=rejoin)
    finally:
        await database.close()
    return made.text(), expire_time
