"""Errors as people and scripts see them: an exit code, and three lines on standard error (cause, hint, reason)."""

from __future__ import annotations

import enum
import os
import sys
from typing import NoReturn

import click

from edgenode.link.errors import EdgenodeError
from edgenode.link.model.problem import Code, Problem
from edgenode.link.terminal.output import clean


class ExitCode(enum.IntEnum):
    """What a command's exit code means."""

    OK = 0
    FAILED = 1  # a task that failed, a ledger that does not add up, anything not below
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    UNAVAILABLE = 5
    PENDING = 6  # accepted, not there yet
    DEGRADED = 7


_BY_CODE = {
    Code.INVALID_ARGUMENT: ExitCode.USAGE,
    Code.OUT_OF_RANGE: ExitCode.USAGE,
    Code.NOT_FOUND: ExitCode.NOT_FOUND,
    Code.PERMISSION_DENIED: ExitCode.DENIED,
    Code.UNAUTHENTICATED: ExitCode.DENIED,
    Code.UNAVAILABLE: ExitCode.UNAVAILABLE,
}
# Codes that usually speak of the work, but not with these reasons: nobody answered.
_UNANSWERED = frozenset({"RPC_DEADLINE"})

_FALLBACK_HINTS = {
    ExitCode.USAGE: "see --help",
    ExitCode.NOT_FOUND: "check the name",
    ExitCode.DENIED: "check who you are and what you may do",
    ExitCode.UNAVAILABLE: "try again; `status` shows how the node is",
    ExitCode.FAILED: "the node's log may say more",
    ExitCode.PENDING: "ask again later",
    ExitCode.DEGRADED: "see the node's log",
}


class Exit(Exception):
    """Ends a command with `code`; with a problem, after its three lines."""

    def __init__(self, code: ExitCode, problem: Problem | None = None) -> None:
        super().__init__(code.name)
        self.code = code
        self.problem = problem


def exit_code(problem: Problem) -> ExitCode:
    """The exit code for a problem."""
    if problem.reason in _UNANSWERED:
        return ExitCode.UNAVAILABLE
    return _BY_CODE.get(problem.code, ExitCode.FAILED)


def three_lines(cause: str, hint: str, reason: str, code: ExitCode) -> str:
    """The lines, without a final newline."""
    hint = hint or _FALLBACK_HINTS[code]
    return f"error: {clean(cause)}\nhint: {clean(hint)}\nreason: {clean(reason)} (exit {int(code)})"


def run_command(command: click.Command, args: list[str] | None, prog_name: str | None) -> NoReturn:
    """Run a Click command to its exit code; errors end as three lines, defects of ours as a traceback."""
    try:
        # Click calls `main` again for nothing else; standalone mode off leaves errors and codes to us.
        result = click.Command.main(command, args=args, prog_name=prog_name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(int(ExitCode.USAGE))
    except click.ClickException as error:
        code = ExitCode.USAGE if error.exit_code == ExitCode.USAGE else ExitCode.FAILED
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path} --help" if context else ""
        _end(error.format_message(), hint, "USAGE" if code is ExitCode.USAGE else "FAILED", code)
    except Exit as exit_:
        if exit_.problem is not None:
            _end(exit_.problem.message, exit_.problem.hint, exit_.problem.reason, exit_.code)
        sys.exit(int(exit_.code))
    except EdgenodeError as error:
        problem = error.problem
        _end(problem.message, problem.hint, problem.reason, exit_code(problem))
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except BrokenPipeError:
        # The reader left, e.g. `| head`: not our failure, and nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        _end(f"{error.strerror or error}{where}", "check the path and its permissions", "OS_ERROR", ExitCode.FAILED)
    sys.exit(result if isinstance(result, int) else 0)


def _end(cause: str, hint: str, reason: str, code: ExitCode) -> NoReturn:
    click.echo(three_lines(cause, hint, reason, code), err=True)
    sys.exit(int(code))
