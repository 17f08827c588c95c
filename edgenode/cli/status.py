"""`edgenode status`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.cli.place import node_target
from edgenode.cli.state import state_option
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.terminal.options import output_option
from edgenode.link.terminal.output import emit, facts, human_bytes, human_seconds
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.rpc import ask, channel_to, run
from edgenode.link.terminal.views import Plain, counts_text, lanes_table, link_text, store_text


@click.command()
@output_option
@state_option
def status(state: Path, output: str) -> None:
    """How the node is: link, backlog, agents, tasks, store. Exit code 7 when it is not ready."""

    async def work() -> admin_service_pb2.GetStatusResponse:
        async with channel_to(node_target(state)) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            return await ask(stub.GetStatus, admin_service_pb2.GetStatusRequest())

    shown = plain(run(work()))
    emit(output, shown, lambda: _text(shown, time.time()))
    if shown["health"] != "ready":
        raise Exit(ExitCode.DEGRADED)


def _text(shown: Plain, now: float) -> str:
    expiry = shown["certificate_expire_time"]
    summary = facts(
        [
            ("node", shown["node"]),
            ("health", shown["health"]),
            ("because", "; ".join(shown["health_reasons"])),
            ("identity", shown["identity"]),
            ("link", link_text(shown["link"], now) or "none: this node has not joined a hub"),
            ("to do", _link_hint(shown["link"])),
            ("agents", counts_text(shown["agent_counts"])),
            ("tasks", counts_text(shown["task_counts"])),
            ("dead letters", shown["dead_letter_count"]),
            ("store", store_text(shown)),
            *(("damage", _damage_text(damage, now)) for damage in shown["damages"][:3]),
            ("given up", f"{shown['damaged_entry_count']} damaged entries" if shown["damaged_entry_count"] else None),
            ("memory", human_bytes(shown["resident_bytes"])),
            ("up", shown["start_time"] and human_seconds(now - shown["start_time"])),
            ("certificate", expiry and f"ends in {human_seconds(expiry - now)}"),
            ("desired state", f"version {shown['applied_version']}" if shown["applied_version"] else None),
            ("version", f"{shown['version']}, SQLite {shown['sqlite_version']}, process {shown['process_id']}"),
        ]
    )
    return f"{summary}\n\n{lanes_table(shown['lanes'])}" if shown["lanes"] else summary


def _link_hint(link: Plain | None) -> str:
    problem = None if link is None or link["state"] == "established" else link["last_problem"]
    return str(problem["hint"]) if problem else ""


def _damage_text(damage: Plain, now: float) -> str:
    lost = counts_text(damage["lost_counts"])
    when = human_seconds(max(0.0, now - damage["damage_time"]))
    return f"{when} ago: {damage['cause']}; lost: {lost}; the file is kept as {damage['file']}"
