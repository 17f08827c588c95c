"""Command groups that import a command's module only when that command runs, so that `--help` and completion are fast."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from edgenode.link.terminal.failures import run_command


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Meanwhile it is as if `package` were not installed, unless it is loaded already.

    structlog loads rich where it finds it, for pictures of stack traces on a developer's terminal: 10 MB and 0.3 s that a
    service on a small device has no use for.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # what the import system reads as: there is none
    try:
        yield
    finally:
        del sys.modules[package]


class LazyGroup(click.Group):
    """A group of commands named by `module:attribute`, each with its short help, which stands here to spare the import.

    A command whose module is not installed (an extra left out) does not exist.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order they were given."""
        return [*super().list_commands(ctx), *(name for name in self._lazy if self._installed(name))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in self._lazy or not self._installed(cmd_name):
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        with _without("rich"):
            command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the help kept here."""
        rows = [(name, self._lazy[name][1]) for name in self.list_commands(ctx) if name in self._lazy]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def _installed(self, name: str) -> bool:
        module = self._lazy[name][0].partition(":")[0]
        return importlib.util.find_spec(module) is not None


class App(LazyGroup):
    """The outermost group: turns errors into exit codes and three lines."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run and exit; see failures."""
        # Its notes on every closed connection say nothing that our own log does not; read when grpc is first loaded.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        run_command(self, None if args is None else list(args), prog_name)


class DefaultGroup(click.Group):
    """A group whose command `default` runs when none is named: `tasks` is `tasks list`."""

    def __init__(self, *args: Any, default: str = "list", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the default in front where the first word is an option, but not a request for help."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = [self._default, *args]
        return super().parse_args(ctx, args)
