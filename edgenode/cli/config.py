"""`edgenode config show`."""

from __future__ import annotations

from pathlib import Path

import click

from edgenode.cli.state import state_option
from edgenode.link.terminal.options import output_option
from edgenode.link.terminal.output import col, emit, facts, table
from edgenode.node.config import load_node_config


@click.group()
def config() -> None:
    """The configuration and where it comes from."""


@config.command()
@click.option("--explain", is_flag=True, help="Also say where each value comes from and what it is.")
@output_option
@state_option
def show(state: Path, output: str, explain: bool) -> None:
    """What the node would start with; flags > environment > STATE/edgenode.toml > default."""
    rows = [
        {"key": key, "value": _shown(value), "origin": origin, "help": help}
        for key, value, origin, help in load_node_config(state).rows()
    ]
    columns = [col("key"), col("value", form=_text), col("origin"), col("help")]
    emit(
        output,
        rows if explain else {row["key"]: row["value"] for row in rows},
        lambda: table(rows, columns) if explain else facts((str(row["key"]), _text(row["value"])) for row in rows),
    )


def _shown(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
