"""`edgenode agents | find`."""

from __future__ import annotations

from pathlib import Path

import click

from edgenode.cli.place import node_target
from edgenode.cli.state import state_option
from edgenode.link.terminal.fleet import show_agents, show_found
from edgenode.link.terminal.options import find_options, limit_option, output_option
from edgenode.link.terminal.rpc import run

_scope_option = click.option(
    "--scope", type=click.Choice(["local", "fleet"]), default="local", show_default=True, help="Where to look."
)


@click.command()
@_scope_option
@limit_option(1000)
@output_option
@state_option
def agents(state: Path, output: str, scope: str, limit: int) -> None:
    """Agents of this node, by name; with --scope fleet all others as well. Exit code 7 where the hub cannot be asked."""
    run(show_agents(node_target(state), output, limit, scope))


@click.command()
@find_options
@_scope_option
@output_option
@state_option
def find(
    state: Path,
    output: str,
    skill: str,
    selector: str,
    query: str,
    scope: str,
    max_cost: float | None,
    max_staleness: float | None,
    explain: bool,
    limit: int,
) -> None:
    """Agents fit for SKILL, best first, with the reasons for each rank. Exit code 3 when there is none."""
    run(
        show_found(
            node_target(state),
            output,
            skill=skill,
            selector=selector,
            query=query,
            scope=scope,
            explain=explain,
            max_cost=max_cost,
            max_staleness=max_staleness,
            limit=min(limit, 1000),
        )
    )
