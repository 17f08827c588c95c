"""Imported by test_terminal's app, and only when its command runs."""

from __future__ import annotations

import click

from edgenode.link.errors import PermissionDenied
from edgenode.link.terminal.failures import Exit, ExitCode


@click.command()
@click.argument("how")
def loud(how: str) -> None:
    if how == "denied":
        raise PermissionDenied("FORBIDDEN", "no")
    if how == "file":
        open("/nonexistent/file").close()
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "exit":
        raise Exit(ExitCode.DEGRADED)
    if how == "usage":
        raise click.UsageError("wrong")
    if how == "fails":
        raise click.ClickException("failed")
    if how == "defect":
        raise ZeroDivisionError
