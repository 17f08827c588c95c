"""Options and types that commands of both command lines take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgenode.link.config import parse_seconds
from edgenode.link.model.task import TaskState
from edgenode.link.terminal.output import JSON, TABLE

F = TypeVar("F", bound=Callable[..., Any])


class Seconds(click.ParamType[float]):
    """A time with or without a unit: `90`, `500ms`, `5min`, `1h`, `7d`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_seconds(value)
        except ValueError as error:
            self.fail(f"{value!r}; expected {error}", param, ctx)


SECONDS = Seconds()


class Assignment(click.ParamType[tuple[str, int]]):
    """`name=number`."""

    name = "name=number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """(name, number)."""
        if isinstance(value, tuple):
            return value
        name, equals, number = value.partition("=")
        if not equals or not name or not number.lstrip("-").isdecimal():
            self.fail(f"{value!r}; expected NAME=NUMBER", param, ctx)
        return name, int(number)


ASSIGNMENT = Assignment()


def output_option(command: F) -> F:
    """`-o table|json`."""
    option = click.option(
        "-o", "--output", type=click.Choice([TABLE, JSON]), default=TABLE, show_default=True, help="Form of the output."
    )
    return option(command)


def limit_option(default: int) -> Callable[[F], F]:
    """`--limit N`."""
    return click.option(
        "--limit", type=click.IntRange(1, 100_000), default=default, show_default=True, help="Show at most this many."
    )


def _together(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Options that come together, in this order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


find_options = _together(
    click.argument("skill", default=""),
    click.option(
        "--selector", default="", help="Labels: key=value, key!=value, key in (a,b), key, !key, joined by commas."
    ),
    click.option("--query", default="", help="Free text over names, descriptions and tags."),
    click.option("--max-cost", type=float, help="At most this cost."),
    click.option("--max-staleness", type=SECONDS, help="Not older knowledge than this."),
    click.option("--explain", is_flag=True, help="Also say who was left out and why."),
    limit_option(20),
)

task_filter_options = _together(
    click.option(
        "--status",
        "states",
        multiple=True,
        type=click.Choice([state.name for state in TaskState], case_sensitive=False),
        help="In this state; may be given again.",
    ),
    click.option("--skill", default="", help="For this skill."),
    click.option("--context", default="", help="Of this job."),
    limit_option(50),
)

subscribe_options = _together(
    click.argument("topics", nargs=-1, required=True, metavar="TOPIC..."),
    click.option("--name", default="", help="Name of a durable subscription: it goes on where it stopped."),
    click.option(
        "--from",
        "position",
        type=click.Choice(["start", "new"]),
        default="new",
        show_default=True,
        help="Where a subscription begins that is not known yet.",
    ),
    click.option("--count", type=click.IntRange(min=1), help="End after this many."),
)
