"""Options and types that commands of both command lines take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgenode.link.config import parse_seconds
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
