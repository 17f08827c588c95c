"""`edgenode call | submit`: giving work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import click

from edgenode.api.task.v1 import task_pb2
from edgenode.cli.outcome import finish
from edgenode.cli.payloads import read_bytes, typed_payload
from edgenode.cli.place import node_client
from edgenode.cli.state import state_option
from edgenode.link.errors import DeadlineExceeded
from edgenode.link.model.task import Level, TaskState
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.terminal.options import SECONDS, output_option
from edgenode.link.terminal.output import JSON, json_text
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.rpc import run
from edgenode.link.terminal.views import standing
from edgenode.sdk.encoding import Payload, content_of

F = TypeVar("F", bound=Callable[..., Any])

_MAX_WAIT = 3600.0
_LEVELS = {level.name.lower(): level for level in Level}


def _work_options(command: F) -> F:
    for option in (
        click.argument("input", required=False, metavar="[INPUT|@FILE|-]"),
        click.argument("skill"),
        click.option("--text", is_flag=True, help="INPUT is text: send it as a JSON string."),
        click.option("--content-type", default="", help="Media type of INPUT; any but JSON is sent as it is."),
        click.option("--scope", type=click.Choice(["local", "fleet"]), default="local", show_default=True),
        click.option("--priority", type=click.IntRange(0, 9), help="0 (last) to 9 (first); 5 when not given."),
        click.option("--selector", help="Labels the agent must have, as in `find`."),
        click.option("--agent", help="This agent only: a name, or nodes/NODE/agents/AGENT."),
        click.option("--max-cost", type=float, help="Only agents at or below this cost."),
    ):
        command = option(command)
    return command


@click.command()
@_work_options
@click.option("--timeout", type=SECONDS, default=30.0, show_default="30s", help="How long to wait for the answer.")
@click.option("--stream", is_flag=True, help="Print each piece of the result as it comes.")
@state_option
def call(
    state: Path,
    skill: str,
    input: str | None,
    text: bool,
    content_type: str,
    timeout: float,
    stream: bool,
    **options: Any,
) -> None:
    """Run SKILL now, without storing anything, and print its result."""
    payload = _payload(input, text, content_type)

    async def read_along() -> None:
        async with node_client(state) as client:
            data, media = payload
            given = client.stream(skill, data, type=Payload, content_type=media, timeout=timeout, **_spec(options))
            async with aclosing(given):
                async for piece in given:
                    _print_result(*piece)

    async def work() -> Payload:
        async with node_client(state) as client:
            data, media = payload
            given = _spec(options)
            answer: Payload = await client.call(skill, data, type=Payload, content_type=media, timeout=timeout, **given)
            return answer

    if stream:
        run(read_along())
    else:
        _print_result(*run(work()))


@click.command()
@_work_options
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option("--wait-level", type=click.Choice(list(_LEVELS)), help="Wait until this level is reached.")
@click.option(
    "--timeout",
    type=SECONDS,
    default=30.0,
    show_default="30s",
    help="Longest wait, at most 1 h; exit code 6 when over.",
)
@click.option("--deadline", type=SECONDS, help="After this time from now it is not run any more.")
@click.option("--attempts", type=click.IntRange(1, 100), help="Attempts in all; 3 when not given.")
@click.option("--attempt-timeout", type=SECONDS, help="How long one attempt may run.")
@click.option(
    "--on-lost", type=click.Choice(["retry", "wait", "fail"]), help="When its agent is lost; retry if not given."
)
@click.option("--key", help="Idempotency key: same key and same task, no second one.")
@click.option("--context", help="Groups tasks of one job.")
@output_option
@state_option
def submit(
    state: Path,
    output: str,
    skill: str,
    input: str | None,
    text: bool,
    content_type: str,
    wait: bool,
    wait_level: str | None,
    timeout: float,
    deadline: float | None,
    **options: Any,
) -> None:
    """Store a task for SKILL. It runs when an agent can take it, also after a restart or an outage."""
    if not 0 <= timeout <= _MAX_WAIT:
        raise click.UsageError("--timeout is at most 1h; `edgenode tasks watch` waits as long as it takes")
    level = Level.DONE if wait else _LEVELS[wait_level or "durable_local"]
    payload = _payload(input, text, content_type)

    async def work() -> tuple[Level, task_pb2.Task]:
        async with node_client(state) as client:
            data, media = payload
            handle = await client.submit(
                skill, data, content_type=media, wait_level=level, wait=timeout, deadline=deadline, **_spec(options)
            )
            return handle.level, await client.get_task(handle.task_id)

    reached, task = run(work())
    # A task that ended is past every level: there is nothing left to wait for.
    reached = Level.DONE if TaskState(task.state).terminal else max(reached, Level(task.level or reached))
    _report(task, reached, level, timeout, output)


def _report(task: task_pb2.Task, reached: Level, wanted: Level, waited: float, output: str) -> None:
    facts = plain(task)
    if output == JSON:
        click.echo(json_text({**facts, "level": reached.name}))
    elif wanted is not Level.DONE or reached is Level.DONE:
        # With --wait, standard output is for the result alone, and a wait that was in vain says all that follows here.
        click.echo(f"task {task.task_id} {standing(facts)}, {reached.name}", err=wanted is Level.DONE)
    if reached < wanted:
        why = f", {facts['state_reason']}" if facts["state_reason"] else ""
        raise Exit(
            ExitCode.PENDING,
            DeadlineExceeded(
                "WAIT_OVER",
                f"task {task.task_id} is accepted ({reached.name}) but after {waited:g} s stands at {standing(facts)}{why}",
                hint=f"follow it: edgenode tasks watch {task.task_id}",
            ).problem,
        )
    if wanted is Level.DONE:
        finish(task)
        if output != JSON:
            _print_result(task.output.data, task.output.content_type)


def _payload(input: str | None, text: bool, content_type: str) -> tuple[bytes, str]:
    if input is None:
        return (b'""' if text else b"{}"), content_type or "application/json"
    return typed_payload(read_bytes(input), text, content_type)


def _spec(options: dict[str, Any]) -> Any:
    """The SDK's options from the flags that were given."""
    names = {"max_cost": "cost_limit", "attempts": "retry", "key": "idempotency_key", "context": "context_id"}
    return {names.get(name, name): value for name, value in options.items() if value is not None}


def _print_result(data: bytes, content_type: str) -> None:
    """The bytes as they are, ended by a newline where there is none; of an MCP tool's result what programs read of it."""
    data = content_of(data, content_type)
    click.echo(data, nl=not data.endswith(b"\n"))
