"""Dead letters on the command line, of an edge and of a hub: how they are named and shown."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from edgenode.api.admin.v1 import admin_service_pb2
from edgenode.link.terminal.output import Column, col, emit, facts, human_bytes, human_seconds, table
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.views import Plain, age_from, payload_text

F = TypeVar("F", bound=Callable[..., Any])


def which(command: F) -> F:
    """`[ID]... | --all`."""
    for option in (
        click.argument("ids", nargs=-1, type=click.IntRange(min=1), metavar="[ID]..."),
        click.option("--all", "every", is_flag=True, help="All of them."),
    ):
        command = option(command)
    return command


def reason_option(command: F) -> F:
    """`--reason REASON`."""
    option = click.option(
        "--reason",
        default="",
        metavar="REASON",
        help="Why, as the ledger counts it: up to 40 of A-Z, 0-9 and _  [default: DROPPED]",
    )
    return option(command)


def replay_request(ids: Sequence[int], every: bool) -> admin_service_pb2.ReplayDeadLettersRequest:
    """What names the letters to replay. Raises click.UsageError unless it is either ids or all."""
    _check(ids, every)
    return admin_service_pb2.ReplayDeadLettersRequest(request_id=uuid.uuid4().hex, dead_letter_ids=ids, all=every)


def drop_request(ids: Sequence[int], every: bool, reason: str) -> admin_service_pb2.DropDeadLettersRequest:
    """What names the letters to drop. Raises click.UsageError unless it is either ids or all."""
    _check(ids, every)
    return admin_service_pb2.DropDeadLettersRequest(
        request_id=uuid.uuid4().hex, dead_letter_ids=ids, all=every, reason=reason
    )


def _check(ids: Sequence[int], every: bool) -> None:
    if every == bool(ids):
        raise click.UsageError("give either ids or --all; `deadletters` shows them")


def show_letters(letters: Sequence[Any], output: str) -> None:
    """Print letters, one a line."""
    rows = [plain(letter) for letter in letters]
    columns = [
        col("id", "dead_letter_id", right=True),
        col("kind"),
        col("subject"),
        col("task", "task_id"),
        col("age", "dead_letter_time", age_from(time.time()), True),
        col("tries", "attempt_count", right=True),
        col("size", "size_bytes", human_bytes, True),
        Column("why", _why),
    ]
    if any(row["node"] for row in rows):
        columns.insert(2, col("node"))
    emit(output, rows, lambda: table(rows, columns, empty="no dead letters"))


def show_letter(answer: admin_service_pb2.GetDeadLetterResponse, output: str) -> None:
    """Print one letter with its content."""
    shown = plain(answer)
    emit(output, shown, lambda: _letter_text(shown, time.time()))


def _letter_text(shown: Plain, now: float) -> str:
    letter = shown["dead_letter"]
    content = payload_text(shown["content"])
    return facts(
        [
            ("dead letter", letter["dead_letter_id"]),
            ("kind", letter["kind"]),
            ("lane", letter["lane"]),
            ("node", letter["node"]),
            ("subject", letter["subject"]),
            ("task", letter["task_id"]),
            ("why", _why(letter)),
            ("hint", letter["problem"] and letter["problem"]["hint"]),
            ("age", human_seconds(max(0.0, now - letter["dead_letter_time"])) if letter["dead_letter_time"] else None),
            ("attempts", letter["attempt_count"] or None),
            ("size", human_bytes(letter["size_bytes"])),
            ("type", shown["content_type"] or None),
            ("content", f"{content}{' ...' if shown['truncated'] else ''}"),
        ]
    )


def show_replayed(answer: admin_service_pb2.ReplayDeadLettersResponse, output: str) -> None:
    """Print what came of a replay: the new tasks, and how many entries went to their log again."""
    task_ids = list(answer.task_ids)
    lines = [f"{len(task_ids)} submitted again"] if task_ids or not answer.entry_count else []
    if answer.entry_count:
        lines.append(f"{answer.entry_count} appended again")
    emit(output, plain(answer), lambda: "\n".join([*lines, *task_ids]))


def show_dropped(count: int, output: str) -> None:
    """Print how many were dropped."""
    emit(output, {"dropped_count": count}, lambda: f"{count} dropped")


def _why(row: Plain) -> str:
    return f"{row['problem']['reason']}: {row['problem']['message']}" if row["problem"] else "-"
