"""`edgehub agents | find`."""

from __future__ import annotations

from pathlib import Path

import click

from edgenode.link.terminal.fleet import show_agents, show_found
from edgenode.link.terminal.options import find_options, limit_option, output_option
from edgenode.link.terminal.rpc import run
from hub.cli.place import hub_target, state_option


@click.command()
@limit_option(1000)
@output_option
@state_option
def agents(state: Path, output: str, limit: int) -> None:
    """Agents of the whole fleet, by name."""
    run(show_agents(hub_target(state), output, limit))


@click.command()
@find_options
@output_option
@state_option
def find(
    state: Path,
    output: str,
    skill: str,
    selector: str,
    query: str,
    max_cost: float | None,
    max_staleness: float | None,
    explain: bool,
    limit: int,
) -> None:
    """Agents of the fleet fit for SKILL, best first, with reasons and staleness. Exit code 3 when there is none."""
    run(
        show_found(
            hub_target(state),
            output,
            skill=skill,
            selector=selector,
            query=query,
            scope="fleet",
            explain=explain,
            max_cost=max_cost,
            max_staleness=max_staleness,
            limit=min(limit, 1000),
        )
    )
