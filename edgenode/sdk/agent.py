"""An agent: a name and some skills. The types of a skill's function are its schema, the docstring its description.

agent = Agent("greeter")

@agent.skill()
async def greet(name: str) -> str:
    "Greets somebody."
    return f"Hello, {name}!"

agent.serve()
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from edgenode.api.registry.v1 import registry_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model.agent import Health
from edgenode.link.model.names import check_name, check_skill
from edgenode.link.wire.values import duration_to_pb
from edgenode.sdk.client import Client
from edgenode.sdk.encoding import OCTETS
from edgenode.sdk.signature import Signature
from edgenode.sdk.worker import Worker

if TYPE_CHECKING:
    from edgenode.sdk.testing import Bench

Function = TypeVar("Function", bound=Callable[..., Any])

ONLINE_ONLY_TAG = "online-only"


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill as its agent runs it. `timeout` in seconds; `retries` after the first attempt, None: as the task says.

    `entry` is what the card says of it, where that is not what its function's types do.
    """

    id: str
    signature: Signature
    timeout: float | None = None
    retries: int | None = None
    idempotent: bool = False
    tags: tuple[str, ...] = ()
    offline: str = "queue"
    entry: registry_pb2.Skill | None = None


class Agent:
    """A program that does work. `concurrency`: tasks at once; `cost`: price of one task; `labels`: what selectors match."""

    def __init__(
        self,
        name: str,
        *,
        description: str = "",
        version: str = "",
        labels: Mapping[str, str] | None = None,
        cost: float = 0.0,
        concurrency: int = 16,
        lease: float = 15.0,
    ) -> None:
        self.name = check_name(name, "name")
        self.description = description
        self.version = version
        self.labels = dict(labels or {})
        self.cost = cost
        self.concurrency = concurrency
        self.lease = lease
        self.skills: dict[str, Skill] = {}
        self._workers: set[Worker] = set()
        if not isinstance(concurrency, int) or concurrency < 1:
            raise InvalidArgument("BAD_CONCURRENCY", f"concurrency is {concurrency!r}", hint="at least 1")

    def __repr__(self) -> str:
        return f"Agent({self.name!r}, skills={sorted(self.skills)})"

    def skill(
        self,
        id: str | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        idempotent: bool = False,
        tags: Sequence[str] = (),
        offline: str = "queue",
    ) -> Callable[[Function], Function]:
        """Makes a function a skill; it stays what it is and can be called as before.

        `timeout`: seconds one attempt may run. `retries`: attempts after the first that a raising handler is worth; by default
        the task's own policy decides. `idempotent` tells callers that running it twice is harmless. `offline="fail"` tells
        them, by the tag `online-only`, that queued work is of no use to it. Raises TypeError for a function that cannot
        be a skill, InvalidArgument for a bad or taken id.
        """
        if offline not in ("queue", "fail"):
            raise InvalidArgument("BAD_OPTION", f"offline is {offline!r}", hint="expected queue or fail")

        def register(function: Function) -> Function:
            skill_id = check_skill(id or function.__name__.lower())
            if skill_id in self.skills:
                raise InvalidArgument(
                    "SKILL_TAKEN", f"agent {self.name} has skill {skill_id} already", hint="give an id"
                )
            self.skills[skill_id] = Skill(
                skill_id, Signature(function), timeout, retries, idempotent, tuple(tags), offline
            )
            return function

        return register

    def card(self) -> registry_pb2.AgentCard:
        """What the agent says of itself, as the contract has it."""
        card = registry_pb2.AgentCard(name=self.name, description=self.description, version=self.version)
        card.default_input_modes.append("application/json")
        card.default_output_modes.append("application/json")
        for skill in self.skills.values():
            if skill.entry is not None:
                card.skills.append(skill.entry)
                continue
            signature = skill.signature
            entry = card.skills.add(
                id=skill.id,
                name=skill.id,
                description=signature.description,
                tags=[*skill.tags, *((ONLINE_ONLY_TAG,) if skill.offline == "fail" else ())],
                input_schema=signature.input_schema,
                output_schema=signature.output_schema,
                input_modes=[OCTETS] if signature.raw else [],
                output_modes=[OCTETS] if signature.returns_raw else [],
            )
            entry.annotations.idempotent_hint = skill.idempotent
            if skill.timeout is not None:
                entry.attempt_timeout_duration.CopyFrom(duration_to_pb(skill.timeout))
        return card

    async def run(
        self,
        *,
        state: str | os.PathLike[str] | None = None,
        socket: str | os.PathLike[str] | None = None,
        target: str | None = None,
        on_attached: Callable[[str], None] | None = None,
    ) -> None:
        """Serves the node of this machine until `stop`; outlives restarts of the node.

        `on_attached(node)` is called whenever the agent is attached. Raises Aborted (SUPERSEDED) when a newer instance takes
        the name, AlreadyExists (NAME_IN_USE) when one has it, InvalidArgument for a card the node refuses.
        """
        async with Client(state=state, socket=socket, target=target) as client:
            await self.attach(client, on_attached)

    async def attach(self, client: Client, on_attached: Callable[[str], None] | None = None) -> None:
        """Like `run`, with an open client."""
        worker = Worker(self, client, on_attached)
        self._workers.add(worker)
        try:
            await worker.run()
        finally:
            self._workers.discard(worker)

    async def replace_skills(self, skills: Iterable[Skill]) -> None:
        """Does these from now on, and says so where it runs; attempts under way go on. Raises what registering does."""
        self.skills = {skill.id: skill for skill in skills}
        await asyncio.gather(*(worker.register_again() for worker in list(self._workers)))

    async def say(self, health: Health, reason: str = "") -> None:
        """Tells the node how the agent is: DRAINING takes nothing new and finishes what it has. It holds until another word,
        or until the agent is registered again, as after a restart of the node."""
        await asyncio.gather(*(worker.say(health, reason) for worker in list(self._workers)))

    async def detach(self, reason: str, grace: float = 10.0) -> None:
        """Like `stop`, but stays registered, for an agent that will be back: degraded for `reason`, and out of reach when its
        lease ends before that. Work for it waits meanwhile."""
        await asyncio.gather(*(worker.stop(grace, stay=reason) for worker in list(self._workers)))

    async def stop(self, grace: float = 10.0) -> None:
        """Takes nothing new, finishes what runs within `grace` seconds, hands back the rest, and leaves the node."""
        await asyncio.gather(*(worker.stop(grace) for worker in list(self._workers)))

    def serve(
        self,
        *,
        state: str | os.PathLike[str] | None = None,
        socket: str | os.PathLike[str] | None = None,
        target: str | None = None,
        grace: float = 10.0,
    ) -> None:
        """Runs the agent until SIGTERM or SIGINT, then stops it in order."""

        async def main() -> None:
            loop, stops = asyncio.get_running_loop(), set[asyncio.Task[None]]()

            def stop() -> None:
                stops.add(loop.create_task(self.stop(grace)))

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            await self.run(state=state, socket=socket, target=target)

        asyncio.run(main())

    def test(self, **options: Any) -> AbstractAsyncContextManager[Bench]:
        """For tests: an in-memory node with this agent attached and a client; see `edgenode.sdk.testing.Bench`."""
        # The node is heavy, and only tests need it in an agent's process.
        from edgenode.sdk.testing import bench

        made: AbstractAsyncContextManager[Bench] = bench(self, **options)
        return made
