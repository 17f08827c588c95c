"""`edgenode publish | subscribe`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from edgenode.cli.payloads import line_chunks, read_bytes, typed_payload
from edgenode.cli.place import node_client
from edgenode.cli.state import state_option
from edgenode.link.errors import DeadlineExceeded
from edgenode.link.model.task import Level
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.terminal.messages import Shown, gap_line, message_json, message_line
from edgenode.link.terminal.options import SECONDS, output_option, subscribe_options
from edgenode.link.terminal.output import JSON, emit
from edgenode.link.terminal.rpc import run
from edgenode.sdk.client import Client
from edgenode.sdk.publisher import Receipt
from edgenode.sdk.subscription import Gap, Received

_LEVELS = {"durable_local": Level.DURABLE_LOCAL, "durable_hub": Level.DURABLE_HUB}


@dataclass(frozen=True)
class _Publishing:
    """What every message of one command has in common."""

    topic: str
    key: str
    text: bool
    content_type: str
    level: Level
    timeout: float

    async def send(self, client: Client, data: Sequence[bytes]) -> list[Receipt]:
        typed = [typed_payload(payload, self.text, self.content_type) for payload in data]
        return await client.publish_many(
            self.topic,
            [body for body, _ in typed],
            key=self.key,
            level=self.level,
            wait=self.timeout,
            content_type=typed[0][1],
        )

    async def send_one(self, state: Path, data: bytes) -> tuple[int, Level]:
        async with node_client(state) as client:
            return 1, (await self.send(client, [data]))[0].level

    async def send_lines(self, state: Path) -> tuple[int, Level]:
        """(how many, lowest level reached). Lines that arrive together are sent together."""
        count, reached = 0, self.level
        async with node_client(state) as client:
            async for lines in line_chunks(sys.stdin.buffer):
                receipts = await self.send(client, lines)
                count += len(receipts)
                reached = min(reached, *(receipt.level for receipt in receipts))
        return count, reached


@click.command()
@click.argument("topic")
@click.argument("payload", required=False, metavar="[PAYLOAD|@FILE|-]")
@click.option("--lines", is_flag=True, help="One message for each line of standard input.")
@click.option("--text", is_flag=True, help="Payloads are text: send them as JSON strings.")
@click.option("--content-type", default="", help="Media type of the payload; any but JSON is sent as it is.")
@click.option("--key", default="", help="Messages with one key keep their order.")
@click.option(
    "--level", type=click.Choice(list(_LEVELS)), default="durable_local", show_default=True, help="Wait for it."
)
@click.option("--timeout", type=SECONDS, default=30.0, show_default="30s", help="Longest wait for the hub.")
@output_option
@state_option
def publish(
    state: Path,
    output: str,
    topic: str,
    payload: str | None,
    lines: bool,
    text: bool,
    content_type: str,
    key: str,
    level: str,
    timeout: float,
) -> None:
    """Publish PAYLOAD to TOPIC; returns when it is stored. Exit code 6 when it is, but not yet at the level asked for."""
    if lines == (payload is not None):
        raise click.UsageError("give either PAYLOAD or --lines")
    wanted = _LEVELS[level]
    publishing = _Publishing(topic, key, text, content_type, wanted, timeout)
    work = publishing.send_lines(state) if payload is None else publishing.send_one(state, read_bytes(payload))
    count, reached = run(work)
    emit(
        output,
        {"topic": topic, "count": count, "level": reached.name},
        lambda: f"published {count} to {topic}: {reached.name}",
    )
    if reached < wanted:
        problem = DeadlineExceeded(
            "WAIT_OVER",
            f"stored here ({reached.name}), but not at the hub within {timeout:g} s",
            hint="they go on by themselves; `edgenode status` shows the backlog",
        ).problem
        raise Exit(ExitCode.PENDING, problem)


@click.command()
@subscribe_options
@output_option
@state_option
def subscribe(state: Path, output: str, topics: tuple[str, ...], name: str, position: str, count: int | None) -> None:
    """Print messages of TOPIC as they come; `*` stands for one word, a final `>` for the rest."""

    async def work() -> None:
        left = count
        async with (
            node_client(state) as client,
            client.subscribe(topics, name or None, position, auto_ack=False, on_gap=_say_gap) as subscription,
        ):
            async for message in subscription:
                shown = _shown(message)
                click.echo(message_json(shown) if output == JSON else message_line(shown))
                subscription.ack(message)  # after it was written: what was not seen comes again
                if left is not None:
                    left -= 1
                    if left == 0:
                        return

    run(work())


def _say_gap(gap: Gap) -> None:
    click.echo(gap_line(gap.first, gap.last, gap.reason), err=True)


def _shown(message: Received) -> Shown:
    node, epoch, sequence = message.origin
    return Shown(
        topic=message.topic,
        key=message.key,
        payload=message.payload,
        content_type=message.content_type,
        sequence=message.sequence,
        origin_node=node,
        origin_epoch=epoch,
        origin_sequence=sequence,
        accept_time=message.accept_time,
    )
