"""NATS by nats-py: request-reply for calls, JetStream for durable messages.

Durable messages go by their asynchronous publish, and in atomic batches of 1,000 (ADR-50), which nats-py has no call for yet:
three headers say batch, place in it and its end.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from pathlib import Path
from typing import Any

import nats
from nats.js.api import StreamConfig

from scripts.benchmarks.peers import run
from scripts.benchmarks.rounds import PAYLOAD, Operation, measure, measure_batches, role_and_folder, serve

BATCH = 1000  # the most a batch may have
PATIENCE = 20.0  # seconds for the server to write its ports
SUBJECT = "bench.readings"


async def connect(folder: Path) -> Any:
    """Connect to the server that writes its ports below `folder`. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for path in folder.glob("*.ports"):
            try:
                address = json.loads(path.read_text())["nats"][0]
            except ValueError:
                continue  # half written
            return await nats.connect(address, error_cb=_fail, pending_size=16 * 1024 * 1024)
        await asyncio.sleep(0.02)
    raise TimeoutError(f"nats-server wrote no ports file in {PATIENCE:g} s")


async def _fail(error: Exception) -> None:
    raise error


async def echo(folder: Path) -> None:
    """The agent of calls."""
    connection = await connect(folder)

    async def answer(message: Any) -> None:
        await connection.publish(message.reply, message.data)

    await connection.subscribe("echo", cb=answer)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def calls(folder: Path) -> None:
    """The client of calls."""
    connection = await connect(folder)

    async def call() -> None:
        if (await connection.request("echo", PAYLOAD, timeout=30)).data != PAYLOAD:
            raise AssertionError("a call brought back something else")

    await serve(_rounds(call, call))


async def messages(folder: Path) -> None:
    """The client of durable messages."""
    connection = await connect(folder)
    stream = connection.jetstream(publish_async_max_pending=100_000)
    await stream.add_stream(StreamConfig(name="bench", subjects=["bench.>"]))

    async def one() -> None:
        await stream.publish(SUBJECT, PAYLOAD, timeout=30)

    async def one_of_many() -> None:
        await (await stream.publish_async(SUBJECT, PAYLOAD))

    await serve(_rounds(one, one_of_many))


async def batches(folder: Path) -> None:
    """The client of durable messages in atomic batches."""
    connection = await connect(folder)
    await connection.jetstream().add_stream(StreamConfig(name="bench", subjects=["bench.>"], allow_atomic=True))

    async def batch() -> None:
        headers = {"Nats-Batch-Id": uuid.uuid4().hex}
        for number in range(1, BATCH):
            await connection.publish(SUBJECT, PAYLOAD, headers=headers | {"Nats-Batch-Sequence": str(number)})
        last = headers | {"Nats-Batch-Sequence": str(BATCH), "Nats-Batch-Commit": "1"}
        told = json.loads((await connection.request(SUBJECT, PAYLOAD, timeout=30, headers=last)).data)
        if told.get("count") != BATCH:
            raise AssertionError(f"a batch was refused: {told}")

    async def round_of(kind: str, count: int, at_once: int) -> dict[str, Any]:
        return await measure_batches(batch, BATCH, count, at_once)

    await serve(round_of)


def _rounds(alone: Operation, many: Operation) -> Any:
    async def round_of(kind: str, count: int, at_once: int) -> dict[str, Any]:
        return await measure(alone if at_once == 1 else many, count, at_once)

    return round_of


if __name__ == "__main__":
    roles = {"echo": echo, "calls": calls, "messages": messages, "batches": batches}
    role, where = role_and_folder(roles)
    run(roles[role](where))
