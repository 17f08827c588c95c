"""A node's process is killed while publishers are at it: what was acknowledged is there, once, in order."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc

from edgenode.api.message.v1 import message_service_pb2
from edgenode.api.message.v1.message_service_pb2_grpc import MessageServiceStub
from tests.integration.node.house import Batch, Start, Subscribe, house, messages, received, short_directory, stream
from tests.integration.node_process import start_node

FRAME = 16


class Load:
    """What all publishers have had acknowledged; `reached` is set at the goal, `over` when the node is being killed."""

    def __init__(self, goal: int) -> None:
        self.left = goal
        self.reached = asyncio.Event()
        self.over = False

    def add(self, count: int) -> None:
        self.left -= count
        if self.left <= 0:
            self.reached.set()


class Publisher:
    """Sends numbered messages as fast as it can, until the node is gone; begins where the node says it stands."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.acked = 0

    async def run(self, stub: Any, load: Load) -> None:
        call = stub.Publish()
        try:
            await call.write(Batch(producer_id=self.name))
            resume = (await call.read()).resume_sequence
            assert resume >= self.acked
            self.acked = resume
            room = asyncio.Semaphore(64)
            writer = asyncio.create_task(self._write(call, resume + 1, room))
            try:
                await self._read(call, load, room)
            finally:
                writer.cancel()
                await asyncio.wait([writer])
        except grpc.aio.AioRpcError:
            # The code depends on what the kill cut short: UNAVAILABLE, or INTERNAL where it was a write.
            if not load.over:
                raise
        finally:
            call.cancel()

    async def _read(self, call: Any, load: Load, room: asyncio.Semaphore) -> None:
        while (frame := await call.read()) is not grpc.aio.EOF:
            new = frame.durable_local_sequence - self.acked
            if new > 0:
                self.acked += new
                load.add(new)
                for _ in range(new // FRAME):
                    room.release()

    async def _write(self, call: Any, first: int, room: asyncio.Semaphore) -> None:
        while True:
            await room.acquire()
            batch = messages(*[f"{self.name}:{number}" for number in range(first, first + FRAME)])
            await call.write(Batch(first_sequence=first, batch=batch))
            first += FRAME


async def test_what_was_acknowledged_survives_a_kill_once_and_in_order() -> None:
    rng = random.Random(7)
    publishers = [Publisher(f"p{number}") for number in range(3)]
    with short_directory() as directory:
        for _ in range(3):
            process = await start_node(directory)
            try:
                load = Load(rng.randint(200, 3000))
                async with grpc.aio.insecure_channel(f"unix:{directory}/edgenode.sock") as channel:
                    stub = MessageServiceStub(channel)
                    running = [asyncio.create_task(publisher.run(stub, load)) for publisher in publishers]
                    async with asyncio.timeout(30):
                        await load.reached.wait()
                    load.over = True
                    process.kill()
                    await asyncio.gather(*running)
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()
        async with house(directory) as h:
            start = Start(topics=[">"], position=message_service_pb2.START_POSITION_START)
            last = h.node.rooms.messages.last
            async with stream(h.messages.Subscribe, Subscribe(start=start, credit_count=last)) as subscriber:
                found = await received(subscriber, last)
    assert [item.sequence for item in found] == list(range(1, last + 1))
    numbers: dict[str, list[int]] = {}
    for item in found:
        name, _, number = item.message.payload.decode().partition(":")
        numbers.setdefault(name, []).append(int(number))
    for publisher in publishers:
        stored = numbers[publisher.name]
        assert stored == list(range(1, len(stored) + 1))
        assert len(stored) >= publisher.acked > 0
