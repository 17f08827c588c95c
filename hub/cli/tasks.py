"""`edgehub tasks list | get`."""

from __future__ import annotations

from pathlib import Path

import click

from edgenode.link.terminal.fleet import show_task, show_tasks
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.options import output_option, task_filter_options
from edgenode.link.terminal.rpc import run
from hub.cli.place import hub_target, state_option


@click.group(cls=DefaultGroup)
def tasks() -> None:
    """Tasks that came to the hub. Without a word: list."""


@tasks.command("list")
@task_filter_options
@output_option
@state_option
def list_(state: Path, output: str, states: tuple[str, ...], skill: str, context: str, limit: int) -> None:
    """Tasks, newest first."""
    run(show_tasks(hub_target(state), output, states=states, skill=skill, context_id=context, limit=limit))


@tasks.command()
@click.argument("task_id")
@output_option
@state_option
def get(state: Path, output: str, task_id: str) -> None:
    """One task with its outcome."""
    run(show_task(hub_target(state), output, task_id))
