"""Tables, human units and JSON for the command lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

Row = Mapping[str, Any]

TABLE = "table"
JSON = "json"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: title, what it shows of a row, and on which side numbers stand."""

    title: str
    show: Callable[[Row], object]
    right: bool = False


def col(title: str, key: str | None = None, form: Callable[[Any], str] | None = None, right: bool = False) -> Column:
    """A column that shows `row[key]` (by default the title in lower case) through `form`; `-` where there is nothing."""
    name = key or title.lower().replace(" ", "_")

    def show(row: Row) -> object:
        value = row[name]
        if value is None or value == "":
            return "-"
        return form(value) if form is not None else value

    return Column(title, show, right)


def table(rows: Iterable[Row], columns: Sequence[Column], empty: str = "nothing to show") -> str:
    """Aligned text: a line of titles, then one for each row; `empty` where there is none."""
    cells = [[clean(str(column.show(row))) for column in columns] for row in rows]
    if not cells:
        return empty
    lines = [[column.title.upper() for column in columns], *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Aligned `name  value` lines; pairs whose value is None or empty are left out."""
    shown = [(name, clean(str(value))) for name, value in pairs if value is not None and value != ""]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown)


def emit(output: str, data: object, text: Callable[[], str]) -> None:
    """Print `data` as JSON, or `text()`, as `output` asks."""
    click.echo(json_text(data) if output == JSON else text())


def json_text(data: object, indent: int | None = 2) -> str:
    """`data` as JSON for programs and people."""
    return json.dumps(data, indent=indent, ensure_ascii=False)


def clean(text: str) -> str:
    """`text` on one line and without control characters: names and messages come from others, the terminal is ours."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else ("\N{RETURN SYMBOL}" if char == "\n" else "\N{REPLACEMENT CHARACTER}")
        for char in text
    )


def human_bytes(count: float) -> str:
    """`512 B`, `1.5 KiB`, `64.0 MiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """`250ms`, `3.2s`, `45s`, `3m12s`, `2h05m`, `3d04h`; negative ones as `-45s`."""
    if seconds < 0:
        return "-" + human_seconds(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"
