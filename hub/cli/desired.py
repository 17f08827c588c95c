"""`edgehub desired set | get`."""

from __future__ import annotations

from pathlib import Path

import click

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.link.config import LOG_LEVELS
from edgenode.link.model.lanes import Lane
from edgenode.link.terminal.options import ASSIGNMENT, output_option
from edgenode.link.terminal.output import emit, facts
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.rpc import ask, channel_to, run
from edgenode.link.terminal.views import Plain
from hub.cli.place import hub_target, state_option


@click.group()
def desired() -> None:
    """What the hub wants of a node, and what the node says it applied."""


@desired.command("set")
@click.argument("node")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="What the node logs.")
@click.option(
    "--weight", "weights", type=ASSIGNMENT, multiple=True, metavar="LANE=N", help="Share of the link, 1-1000."
)
@click.option("--limit", "limits", type=ASSIGNMENT, multiple=True, metavar="NAME=N", help="E.g. max_queued_tasks=1000.")
@output_option
@state_option
def set_(
    state: Path,
    output: str,
    node: str,
    log_level: str | None,
    weights: tuple[tuple[str, int], ...],
    limits: tuple[tuple[str, int], ...],
) -> None:
    """Change what the hub wants of NODE; what is not named stays. The node applies it when it is connected."""
    if not (log_level or weights or limits):
        raise click.UsageError("nothing to set: give --log-level, --weight or --limit")
    lanes = {lane.name.lower() for lane in Lane}
    for lane, _ in weights:
        if lane not in lanes:
            raise click.BadParameter(f"no lane {lane!r}; one of {', '.join(sorted(lanes))}", param_hint="--weight")

    async def work() -> int:
        async with channel_to(hub_target(state)) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            present = await ask(stub.GetDesiredState, fleet_service_pb2.GetDesiredStateRequest(node=node))
            document = present.document
            document.node = node
            if log_level:
                document.log_level = log_level
            document.lane_weights.update(dict(weights))
            document.limits.update(dict(limits))
            answer = await ask(
                stub.SetDesiredState, fleet_service_pb2.SetDesiredStateRequest(document=document), timeout=30.0
            )
            return int(answer.version)

    version = run(work())
    emit(output, {"node": node, "version": version}, lambda: f"version {version} for {node}")


@desired.command("get")
@click.argument("node")
@output_option
@state_option
def get(state: Path, output: str, node: str) -> None:
    """What the hub wants of NODE and what the node applied."""

    async def work() -> fleet_service_pb2.GetDesiredStateResponse:
        async with channel_to(hub_target(state)) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            return await ask(stub.GetDesiredState, fleet_service_pb2.GetDesiredStateRequest(node=node))

    shown = plain(run(work()))
    emit(output, shown, lambda: _text(node, shown))


def _text(node: str, shown: Plain) -> str:
    document = shown["document"] or {"version": 0, "log_level": "", "lane_weights": {}, "limits": {}}
    report = shown["report"] or {"applied_version": 0, "refused_version": 0, "problem": None}
    problem = report["problem"]
    return facts(
        [
            ("node", node),
            ("version", document["version"] or "none: nothing was set"),
            ("log level", document["log_level"]),
            ("lane weights", ", ".join(f"{lane}={weight}" for lane, weight in document["lane_weights"].items())),
            ("limits", ", ".join(f"{name}={limit}" for name, limit in document["limits"].items())),
            ("applied", report["applied_version"] or "none"),
            ("refused", report["refused_version"] or None),
            ("because", problem and f"{problem['reason']}: {problem['message']}"),
        ]
    )
