"""A client of the measurements: one SDK client in a process of its own.

Each line of JSON on standard input asks for one round, {"kind": ..., "count": items, "at_once": how many are awaited at the
same time}; its answer is a line with the seconds it took. A round counts only what has come back whole: the receipt of
each message, the answer of each call, the result of each task. Of kind "batches" the messages go 1,024 in a call.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edgenode.api.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from edgenode.link.model.task import Level
from edgenode.link.terminal.event_loop import run_on
from edgenode.node.config import load_node_config
from edgenode.sdk import Client
from edgenode.sdk.spec import SpecOptions
from scripts.benchmarks.rounds import PAYLOAD, Operation, measure, measure_batches, serve

BATCH = 1024
IDLER = "idler"


class Traffic:
    """One round at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def publish(self) -> None:
        """A message, durable on the node when this returns."""
        receipt = await self._client.publish("bench.readings", PAYLOAD)
        if receipt.level < Level.DURABLE_LOCAL:
            raise AssertionError(f"a receipt says {receipt.level}")

    async def batch(self) -> None:
        """Messages sent together, all durable on the node when this returns."""
        receipts = await self._client.publish_many("bench.readings", [PAYLOAD] * BATCH)
        if len(receipts) != BATCH or min(receipt.level for receipt in receipts) < Level.DURABLE_LOCAL:
            raise AssertionError("a receipt is missing")

    async def call(self) -> None:
        """A call, answered."""
        if await self._client.call("echo", PAYLOAD) != PAYLOAD:
            raise AssertionError("a call brought back something else")

    async def register(self) -> None:
        """An agent that does nothing but be there."""
        request = registry_service_pb2.RegisterAgentRequest(instance_id="i", incarnation=1)
        request.card.name = IDLER
        await self._client.unary(
            registry_service_pb2_grpc.RegistryServiceStub(self._client.channel).RegisterAgent, request
        )

    async def renew(self) -> None:
        """A sign of life of that agent."""
        stub = registry_service_pb2_grpc.RegistryServiceStub(self._client.channel)
        await self._client.unary(stub.RenewLease, registry_service_pb2.RenewLeaseRequest(agent=IDLER, instance_id="i"))

    async def task(self, priority: int | None = None) -> None:
        """A task: durable, run, its result here."""
        options: SpecOptions = {} if priority is None else {"priority": priority}
        handle = await self._client.submit("echo", PAYLOAD, **options)
        if await handle.result() != PAYLOAD:
            raise AssertionError("a task brought back something else")

    async def round(self, kind: str, count: int, at_once: int) -> dict[str, Any]:
        """Do `count` items, `at_once` awaited at any time."""
        if kind == "batches":
            return await measure_batches(self.batch, BATCH, count, at_once)
        operations: dict[str, Operation] = {
            "publish": self.publish,
            "call": self.call,
            "task": self.task,
            "bulk": lambda: self.task(0),
            "urgent": lambda: self.task(9),
            "renew": self.renew,
        }
        if kind == "renew":
            await self.register()
        return await measure(operations[kind], count, at_once)


async def _serve(state: str) -> None:
    async with Client(state=state) as client:
        await serve(Traffic(client).round)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", required=True)
    parser.add_argument("--name", required=True)
    state = parser.parse_args().state
    run_on(load_node_config(Path(state)).config.event_loop, lambda: _serve(state))
