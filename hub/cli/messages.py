"""`edgehub subscribe`."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import click
import grpc

from edgenode.api.message.v1 import message_pb2, message_service_pb2, message_service_pb2_grpc
from edgenode.link.terminal.messages import Shown, gap_line, message_json, message_line
from edgenode.link.terminal.options import output_option, subscribe_options
from edgenode.link.terminal.output import JSON
from edgenode.link.terminal.rpc import channel_to, run
from edgenode.link.wire.values import timestamp_from_pb
from hub.cli.place import hub_target, state_option

_CREDITS = 512
_END_SECONDS = 5.0


@click.command()
@subscribe_options
@output_option
@state_option
def subscribe(state: Path, output: str, topics: tuple[str, ...], name: str, position: str, count: int | None) -> None:
    """Print messages of TOPIC from the whole fleet; `*` stands for one word, a final `>` for the rest."""
    start = message_service_pb2.SubscribeStart(
        topics=topics, subscription=name, position=f"START_POSITION_{position.upper()}"
    )
    run(_print_messages(hub_target(state), start, output, count))


async def _print_messages(
    target: str, start: message_service_pb2.SubscribeStart, output: str, count: int | None
) -> None:
    """Read, print, acknowledge in turns: the terminal sets the pace, through the credits."""
    left = count
    async with channel_to(target) as channel:
        call = message_service_pb2_grpc.MessageServiceStub(channel).Subscribe()
        try:
            await call.write(message_service_pb2.SubscribeRequest(start=start, credit_count=_CREDITS))
            while isinstance(frame := await call.read(), message_service_pb2.SubscribeResponse):
                if frame.HasField("gap"):
                    gap = frame.gap
                    click.echo(gap_line(gap.first_sequence, gap.last_sequence, gap.reason), err=True)
                messages = frame.messages if left is None else frame.messages[:left]
                for message in messages:
                    shown = _shown(message)
                    click.echo(message_json(shown) if output == JSON else message_line(shown))
                if messages:
                    await call.write(
                        message_service_pb2.SubscribeRequest(
                            ack_sequence=messages[-1].sequence, credit_count=len(messages)
                        )
                    )
                if left is not None:
                    left -= len(messages)
                    if left == 0:
                        await _end(call)
                        return
        finally:
            call.cancel()


async def _end(call: Any) -> None:
    """Close our side and let the hub close its own, so that it has read the last acknowledgement."""
    await call.done_writing()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            while await call.read() is not grpc.aio.EOF:
                pass


def _shown(message: message_pb2.ReceivedMessage) -> Shown:
    return Shown(
        topic=message.message.topic,
        key=message.message.key,
        payload=message.message.payload,
        content_type=message.message.content_type,
        sequence=message.sequence,
        origin_node=message.origin_node,
        origin_epoch=message.origin_epoch,
        origin_sequence=message.origin_sequence,
        accept_time=timestamp_from_pb(message.accept_time),
    )
