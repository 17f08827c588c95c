"""`edgehub status | nodes list | nodes show | nodes release`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.options import limit_option, output_option
from edgenode.link.terminal.output import Column, col, emit, facts, human_bytes, human_seconds, table
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.rpc import ask, channel_to, pages, run
from edgenode.link.terminal.views import Plain, age_from, counts_text, lanes_table, link_text, store_text
from hub.cli.place import hub_target, state_option


@click.command()
@output_option
@state_option
def status(state: Path, output: str) -> None:
    """How the hub is. Exit code 7 when it is not well."""

    async def work() -> fleet_service_pb2.GetHubStatusResponse:
        async with channel_to(hub_target(state)) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            return await ask(stub.GetHubStatus, fleet_service_pb2.GetHubStatusRequest())

    shown = plain(run(work()))
    emit(output, shown, lambda: _text(shown, time.time()))
    if shown["health"] != "ready":
        raise Exit(ExitCode.DEGRADED)


def _text(shown: Plain, now: float) -> str:
    connected = f"{shown['connected_count']} nodes"
    if shown["delayed_count"]:
        connected += f"; {shown['waiting_count']} told to come in a while, {shown['delayed_count']} so far"
    summary = facts(
        [
            ("hub", shown["hub"]),
            ("health", shown["health"]),
            ("because", "; ".join(shown["health_reasons"])),
            ("domain", shown["trust_domain"]),
            ("parent", link_text(shown["parent_link"], now) or None),
            ("known there as", shown["parent_identity"] or None),
            ("path", " > ".join(shown["hub_path"]) if shown["parent_identity"] else None),
            ("connected", connected),
            ("tasks", counts_text(shown["task_counts"])),
            ("messages", f"up to position {shown['message_sequence']}"),
            ("store", store_text(shown)),
            ("ports", f"sync {shown['sync_port']}, enrollment {shown['enrollment_port']}"),
            ("up", shown["start_time"] and human_seconds(now - shown["start_time"])),
            ("root hash", shown["root_hash"]),
            ("version", shown["version"]),
        ]
    )
    return f"{summary}\n\n{lanes_table(shown['parent_lanes'])}" if shown["parent_lanes"] else summary


@click.group(cls=DefaultGroup)
def nodes() -> None:
    """The nodes that ever joined. Without a word: list."""


@nodes.command("list")
@limit_option(1000)
@output_option
@state_option
def list_(state: Path, output: str, limit: int) -> None:
    """The nodes that ever joined, by name, with their backlog as the hub sees it."""

    async def work() -> list[fleet_service_pb2.Node]:
        async with channel_to(hub_target(state)) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            return await pages(stub.ListNodes, fleet_service_pb2.ListNodesRequest(), "nodes", limit)

    rows = [plain(node) for node in run(work())]
    emit(output, rows, lambda: table(rows, _node_columns(time.time()), empty="no node has joined"))


@nodes.command()
@click.argument("node")
@output_option
@state_option
def show(state: Path, output: str, node: str) -> None:
    """One node; exit code 7 while it is quarantined."""

    async def work() -> fleet_service_pb2.GetNodeResponse:
        async with channel_to(hub_target(state)) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            return await ask(stub.GetNode, fleet_service_pb2.GetNodeRequest(node=node))

    shown = plain(run(work()).node)
    emit(output, shown, lambda: _node_text(shown, time.time()))
    if shown["quarantine_time"]:
        raise Exit(ExitCode.DEGRADED)


def _node_text(shown: Plain, now: float) -> str:
    name, since, expiry = shown["node"], shown["quarantine_time"], shown["certificate_expire_time"]
    summary = facts(
        [
            ("node", name),
            ("kind", shown["kind"]),
            ("state", shown["state"]),
            ("because", since and f"two processes use its identity, found {human_seconds(now - since)} ago"),
            ("to do", since and f"end one, then: edgehub nodes release {name}"),
            ("or", since and f"join the one that stays anew, with: edgehub token create {name} --rejoin"),
            ("contact", shown["last_contact_time"] and f"{human_seconds(now - shown['last_contact_time'])} ago"),
            ("agents", shown["agent_count"]),
            ("desired state", _desired(shown)),
            ("generation", shown["generation"]),
            ("certificate", expiry and f"ends in {human_seconds(expiry - now)}"),
            ("software", shown["software"]),
        ]
    )
    return f"{summary}\n\n{lanes_table(shown['lanes'])}" if shown["lanes"] else summary


@nodes.command()
@click.argument("node")
@output_option
@state_option
def release(state: Path, output: str, node: str) -> None:
    """Let a quarantined NODE in again, whichever of its processes comes next. End the other one first."""

    async def work() -> fleet_service_pb2.ReleaseNodeResponse:
        async with channel_to(hub_target(state)) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            return await ask(stub.ReleaseNode, fleet_service_pb2.ReleaseNodeRequest(node=node))

    released = run(work()).released
    emit(output, {"node": node, "released": released}, lambda: "released" if released else "it was not quarantined")


def _node_columns(now: float) -> list[Column]:
    def waiting(direction: str, key: str) -> Column:
        def count(node: Plain) -> int:
            return sum(lane[key] for lane in node["lanes"] if lane["direction"] == direction)

        if key == "pending_bytes":
            return Column(f"{direction} bytes", lambda node: human_bytes(count(node)), True)
        return Column(direction, count, True)

    return [
        col("node"),
        col("kind"),
        col("state"),
        col("contact", "last_contact_time", age_from(now), True),
        col("agents", "agent_count", right=True),
        waiting("up", "pending_count"),
        waiting("down", "pending_count"),
        Column("desired", lambda node: _desired(node)),
        col("certificate", "certificate_expire_time", lambda end: human_seconds(end - now), True),
        col("software"),
    ]


def _desired(node: Plain) -> str:
    if not node["desired_version"]:
        return "-"
    if node["refused_version"] == node["desired_version"]:
        return f"{node['desired_version']} refused"
    if node["applied_version"] == node["desired_version"]:
        return f"{node['desired_version']} applied"
    return f"{node['desired_version']} pending"
