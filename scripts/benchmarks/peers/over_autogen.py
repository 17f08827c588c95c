"""AutoGen's gRPC runtime: a host, a worker runtime with an echo agent, a worker runtime that calls it; a Unix socket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from autogen_core import AgentId, MessageContext, RoutedAgent, message_handler, try_get_known_serializers_for_type
from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime, GrpcWorkerAgentRuntimeHost

from scripts.benchmarks.peers import run
from scripts.benchmarks.rounds import TEXT, measure, role_and_folder, serve


@dataclass
class Text:
    """A message: it goes as JSON, so its 256 bytes are ASCII."""

    content: str


ASKED = Text(TEXT)


class Echo(RoutedAgent):
    """Gives back what it gets."""

    @message_handler
    async def on_text(self, message: Text, ctx: MessageContext) -> Text:
        """A call."""
        return message


async def host(address: str) -> None:
    """The runtime's host."""
    runtime = GrpcWorkerAgentRuntimeHost(address)
    runtime.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def agent(address: str) -> None:
    """The agent of calls."""
    runtime = await _join(address)
    await Echo.register(runtime, "echo", lambda: Echo("echo"))
    print("ready", flush=True)
    await asyncio.Event().wait()


async def client(address: str) -> None:
    """The client of calls."""
    runtime = await _join(address)
    target = AgentId("echo", "bench")

    async def call() -> None:
        if (await runtime.send_message(ASKED, target)).content != TEXT:
            raise AssertionError("a call brought back something else")

    async def round_of(kind: str, count: int, at_once: int) -> dict[str, Any]:
        return await measure(call, count, at_once)

    await serve(round_of)


async def _join(address: str) -> Any:
    runtime = GrpcWorkerAgentRuntime(host_address=address)
    runtime.add_message_serializer(try_get_known_serializers_for_type(Text))
    await runtime.start()
    return runtime


if __name__ == "__main__":
    roles = {"host": host, "agent": agent, "client": client}
    role, where = role_and_folder(roles)
    run(roles[role](f"unix:{where / 'autogen.sock'}"))
