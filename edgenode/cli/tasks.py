"""`edgenode tasks get | list | watch | cancel | replay | answer`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edgenode.api.task.v1 import task_pb2
from edgenode.cli.outcome import finish
from edgenode.cli.payloads import read_bytes, typed_payload
from edgenode.cli.place import node_client, node_target
from edgenode.cli.state import state_option
from edgenode.link.errors import FailedPrecondition
from edgenode.link.model.task import TaskState
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.terminal.fleet import show_task, show_tasks
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.options import output_option, task_filter_options
from edgenode.link.terminal.output import JSON, clean, emit, json_text
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.rpc import run
from edgenode.link.terminal.views import short_agent, standing, task_text
from edgenode.sdk.handle import TaskUpdate


@click.group(cls=DefaultGroup)
def tasks() -> None:
    """Look at tasks, follow, cancel, replay, answer them. Without a word: list."""


@tasks.command("list")
@task_filter_options
@output_option
@state_option
def list_(state: Path, output: str, states: tuple[str, ...], skill: str, context: str, limit: int) -> None:
    """Tasks, newest first."""
    run(show_tasks(node_target(state), output, states=states, skill=skill, context_id=context, limit=limit))


@tasks.command()
@click.argument("task_id")
@output_option
@state_option
def get(state: Path, output: str, task_id: str) -> None:
    """One task with its outcome."""
    run(show_task(node_target(state), output, task_id))


@tasks.command()
@click.argument("task_id")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only changes after this sequence.")
@output_option
@state_option
def watch(state: Path, output: str, task_id: str, after: int) -> None:
    """A task's changes as they come, until it ends. Exit code 1 when it does not end well."""

    async def work() -> task_pb2.Task | None:
        task = None
        async with node_client(state) as client:
            async for update in client.watch_task(task_id, after):
                click.echo(_update_json(update) if output == JSON else _update_line(update))
                task = update.task or task
        return task

    task = run(work())
    if task is not None and TaskState(task.state).terminal:
        finish(task)


def _update_line(update: TaskUpdate) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(update.time))
    share = "" if update.fraction is None else f"{update.fraction:.0%}"
    pieces = [piece.data.decode(errors="replace") for piece in update.pieces if piece.data]
    notes = [
        *pieces,
        share,
        update.message,
        update.reason,
        short_agent(update.agent),
        "(earlier changes are gone)" * update.gap,
    ]
    return clean(f"{clock}  {update.sequence:>4}  {update.state.name:<14}  {'  '.join(filter(None, notes))}".rstrip())


def _update_json(update: TaskUpdate) -> str:
    facts = {
        "sequence": update.sequence,
        "time": update.time,
        "state": update.state.name,
        "reason": update.reason,
        "attempt": update.attempt,
        "agent": update.agent,
        "fraction": update.fraction,
        "message": update.message,
        "gap": update.gap,
        "pieces": [plain(piece) for piece in update.pieces],
    }
    return json_text(facts, indent=None)


@tasks.command()
@click.argument("task_id")
@click.option("--reason", default="", help="Why, for people.")
@output_option
@state_option
def cancel(state: Path, output: str, task_id: str, reason: str) -> None:
    """Ask for a task to end. Exit code 6 while the request is stored but the task goes on."""

    async def work() -> task_pb2.Task:
        async with node_client(state) as client:
            return await client.cancel_task(task_id, reason)

    task = run(work())
    facts = plain(task)
    emit(output, facts, lambda: f"task {task_id} {standing(facts)}")
    if not TaskState(task.state).terminal:
        raise Exit(ExitCode.PENDING)


@tasks.command()
@click.argument("task_id")
@output_option
@state_option
def replay(state: Path, output: str, task_id: str) -> None:
    """Submit a finished task's work again, as a new task."""

    async def work() -> task_pb2.Task:
        async with node_client(state) as client:
            handle = await client.replay_task(task_id)
            return await client.get_task(handle.task_id)

    facts = plain(run(work()))
    emit(output, facts, lambda: f"task {facts['task_id']} {standing(facts)}, replay of {task_id}")


@tasks.command()
@click.argument("task_id")
@click.argument("answer", metavar="ANSWER|@FILE|-")
@click.option("--key", help="Key of the question; the one that is open when not given.")
@click.option("--text", is_flag=True, help="ANSWER is text: send it as a JSON string.")
@click.option("--content-type", default="", help="Media type of ANSWER; any but JSON is sent as it is.")
@output_option
@state_option
def answer(state: Path, output: str, task_id: str, answer: str, key: str | None, text: bool, content_type: str) -> None:
    """Answer the question of a task's agent."""
    data, media = typed_payload(read_bytes(answer), text, content_type)

    async def work() -> task_pb2.Task:
        async with node_client(state) as client:
            question = key or _open_question(await client.get_task(task_id))
            return await client.provide_input(task_id, question, data, content_type=media)

    facts = plain(run(work()))
    emit(output, facts, lambda: task_text(facts, time.time()))


def _open_question(task: task_pb2.Task) -> str:
    if not task.HasField("input_request"):
        state = TaskState(task.state).name
        raise FailedPrecondition(
            "NO_INPUT_REQUESTED", f"task {task.task_id} asks nothing: it is {state}", hint="see `edgenode tasks get`"
        )
    return task.input_request.key
