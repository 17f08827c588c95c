"""Mosquitto by aiomqtt: messages of QoS 1, kept for a subscriber that is away, as without one they would be dropped."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from aiomqtt import Client, MqttError

from scripts.benchmarks.peers import run
from scripts.benchmarks.rounds import PAYLOAD, measure, role_and_folder, serve

MOST = 60_000  # messages under way; their numbers have 16 bits
PATIENCE = 20.0  # seconds for the server to listen
TOPIC = "bench/readings"


async def messages(path: str) -> None:
    """The client of messages."""
    logging.getLogger("mqtt").setLevel(logging.ERROR)  # it warns of many under way
    await _subscribe(path)
    async with Client(path, transport="unix", max_inflight_messages=MOST, timeout=60) as connection:

        async def publish() -> None:
            await connection.publish(TOPIC, PAYLOAD, qos=1)

        async def round_of(kind: str, count: int, at_once: int) -> dict[str, Any]:
            return await measure(publish, count, at_once)

        await serve(round_of)


async def _subscribe(path: str) -> None:
    """A subscription that outlives its connection. Raises TimeoutError when the server does not listen."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            async with Client(path, transport="unix", identifier="away", clean_session=False) as connection:
                await connection.subscribe(TOPIC, qos=1)
                return
        except MqttError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"mosquitto did not listen in {PATIENCE:g} s") from error
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    _, where = role_and_folder(("messages",))
    run(messages(str(where / "mosquitto.sock")))
