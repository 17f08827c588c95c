"""What the node's agents and the fleet's offer at the moment, as an MCP client sees it: tools, prompts and resources.

The node's own agents are watched, so a change is known at once. The fleet's are asked for: when somebody lists and what is
known is older than FLEET_FRESH, when a name is unknown, and every FLEET_PAUSE; as long as nothing changed the hub says just
that. Agents of the fleet that are out of reach stay on offer, since a task for them waits, and a file holds who was known,
for a bridge that starts while the hub is away. Where several agents have a skill, this node's say what it is.

A skill is a tool unless a tag says otherwise: `mcp:prompt` makes it a prompt, whose arguments are the parameters;
`mcp:resource=URI` a resource, or with `{names}` in the URI a template of resources, whose parameters those are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from google.protobuf.message import DecodeError

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2
from edgenode.bridges.mcp.offers import Offer, offer_of, tool_names
from edgenode.link.errors import EdgenodeError
from edgenode.link.gil import on_thread
from edgenode.link.ports import Clock
from edgenode.sdk.client import Client

PROMPT_TAG = "mcp:prompt"
RESOURCE_TAG = "mcp:resource="
FLEET_FRESH = 5.0  # seconds
FLEET_PAUSE = 30.0  # seconds
WATCH_PAUSE = 5.0  # seconds until a watch that was refused is tried again
PATIENCE = 5.0  # seconds a request waits for what is on offer
MOST_AGENTS = 10_000

_VARIABLE = re.compile(r"\\\{([A-Za-z0-9_]+)\\\}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resource:
    """A skill that gives a resource, or those of a template."""

    offer: Offer
    uri: str

    @property
    def template(self) -> bool:
        """Whether the URI has variables."""
        return "{" in self.uri

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        """None for a template whose variables have no names, or one twice: it is of no URI."""
        try:
            return re.compile(_VARIABLE.sub(r"(?P<\1>[^/?#]+)", re.escape(self.uri)))
        except re.error:
            return None

    def match(self, uri: str) -> dict[str, str] | None:
        """The variables' values where `uri` is of this template; None where it is not."""
        found = self._pattern.fullmatch(uri) if self._pattern is not None else None
        return found.groupdict() if found else None


@dataclass(frozen=True)
class Offers:
    """All that is on offer, in the order in which it is listed: this node's first, then by name."""

    tools: dict[str, Offer] = field(default_factory=dict)
    prompts: dict[str, Offer] = field(default_factory=dict)
    resources: tuple[Resource, ...] = ()

    def tool(self, name: str) -> Offer | None:
        """By its name, or its skill's id."""
        return self.tools.get(name) or _by_id(self.tools, name)

    def prompt(self, name: str) -> Offer | None:
        """By its name, or its skill's id."""
        return self.prompts.get(name) or _by_id(self.prompts, name)

    def resource(self, uri: str) -> tuple[Resource, dict[str, str]] | None:
        """The skill that gives it, and the variables of its template."""
        for resource in self.resources:
            values = resource.match(uri)
            if values is not None:
                return resource, values
        return None


def _by_id(offers: dict[str, Offer], id: str) -> Offer | None:
    return next((offer for offer in offers.values() if offer.skill.id == id), None)


class Catalog:
    """Keeps `offers` up to date while `run` runs. `changed(kinds)` is told of "tools", "prompts" and "resources"."""

    def __init__(
        self, client: Client, clock: Clock, changed: Callable[[set[str]], None], memory: Path | None = None
    ) -> None:
        self._client = client
        self._clock = clock
        self._changed = changed
        self._memory = memory
        self._local: dict[str, registry_pb2.Agent] = {}
        self._fleet: dict[str, registry_pb2.Agent] = {}
        self._asked = float("-inf")
        self._state = ""  # of the fleet, as the hub calls it
        self._asking: asyncio.Task[None] | None = None
        self._known = asyncio.Event()
        self.offers = Offers()
        self.fleet_included = False
        """Whether the hub answered the last time."""

    async def run(self) -> None:
        """Until it is cancelled."""
        if self._memory is not None:
            self._fleet = await on_thread(recall, self._memory)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._look_again())

    async def known(self) -> Offers:
        """What is on offer as far as is known; at first it waits until something is."""
        if not self._known.is_set():
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._known.wait()
            except TimeoutError:
                _log.warning("the node has not said what agents it has")
        return self.offers

    async def current(self, *, fresh: bool = False) -> Offers:
        """The same, after the fleet was asked if that is long ago, with `fresh` in any case; at most PATIENCE is spent."""
        await self.known()
        if fresh or self._clock.monotonic() - self._asked > FLEET_FRESH:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.refresh()
            except TimeoutError:
                _log.warning("the node does not say what agents there are")
        return self.offers

    async def refresh(self) -> None:
        """Asks for the fleet's agents; several at once ask together."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(lambda _task: setattr(self, "_asking", None))
        await asyncio.shield(self._asking)

    async def _look_again(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(FLEET_PAUSE)

    async def _ask(self) -> None:
        try:
            found = await self._client.fleet(self._state, MOST_AGENTS)
        except EdgenodeError as error:
            _log.warning("the node does not say what agents there are: %s", error)
            return
        self._asked = self._clock.monotonic()
        self.fleet_included = found.fleet_included
        if not found.fleet_included or found.unchanged:
            return  # what was known of the fleet is still the best guess
        self._state = found.state
        if len(found.agents) >= MOST_AGENTS:
            _log.warning("the fleet has more than %d agents: tools of the others are not listed", MOST_AGENTS)
        before = self._fleet
        self._fleet = {agent.name: agent for agent in found.agents}
        if _cards(before) != _cards(self._fleet):
            self._compose()
            if self._memory is not None:
                await on_thread(remember, self._memory, list(self._fleet.values()))

    async def _watch(self) -> None:
        while True:
            try:
                async for frame in self._client.watch_agents():
                    before = self._local
                    local = {} if frame.snapshot else dict(before)
                    local |= {agent.name: agent for agent in frame.agents}
                    for gone in frame.removals:
                        local.pop(gone.name, None)
                    self._local = local
                    if not self._known.is_set() or _cards(before) != _cards(local):  # most changes are of load
                        self._compose()
                    self._known.set()
            except EdgenodeError as error:
                _log.warning("lost the node's registry, trying again: %s", error)
                await asyncio.sleep(WATCH_PAUSE)

    def _compose(self) -> None:
        before, self.offers = self.offers, compose(self._local.values(), self._fleet.values())
        kinds = set()
        for kind, old, new in (
            ("tools", before.tools, self.offers.tools),
            ("prompts", before.prompts, self.offers.prompts),
            ("resources", before.resources, self.offers.resources),
        ):
            if old != new:
                kinds.add(kind)
        if kinds:
            self._changed(kinds)


def remember(memory: Path, agents: Sequence[registry_pb2.Agent]) -> None:
    """Writes down who is known, whole or not at all; a bridge that cannot goes on without."""
    draft = memory.with_name(f"{memory.name}.{os.getpid()}")
    try:
        memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_bytes(registry_service_pb2.ListAgentsResponse(agents=agents).SerializeToString())
        draft.replace(memory)
    except OSError as error:
        _log.warning("cannot write down the fleet's agents: %s", error)


def recall(memory: Path) -> dict[str, registry_pb2.Agent]:
    """Who was known, by name; nobody where that is not to be read."""
    try:
        known = registry_service_pb2.ListAgentsResponse.FromString(memory.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, DecodeError) as error:
        _log.warning("who was known of the fleet is not to be read: %s", error)
        return {}
    return {agent.name: agent for agent in known.agents}


def _cards(agents: dict[str, registry_pb2.Agent]) -> dict[str, registry_pb2.AgentCard]:
    return {name: agent.card for name, agent in agents.items()}


def compose(local: Iterable[registry_pb2.Agent], fleet: Iterable[registry_pb2.Agent]) -> Offers:
    """What these agents offer together."""
    seen: dict[str, tuple[registry_pb2.Skill, list[str], bool, tuple[str, ...]]] = {}
    for agents, here in ((local, True), (fleet, False)):
        for agent in sorted(agents, key=lambda agent: agent.name):
            for skill in agent.card.skills:
                if skill.id in seen:
                    seen[skill.id][1].append(agent.name)
                else:
                    seen[skill.id] = (skill, [agent.name], here, tuple(agent.card.default_input_modes))
    names = tool_names(seen)
    offers = Offers()
    resources: list[Resource] = []
    for id, (skill, agents_, here, modes) in sorted(seen.items(), key=lambda item: (not item[1][2], item[0])):
        offer = offer_of(skill, names[id], agents_, here, modes)
        uris = [tag.removeprefix(RESOURCE_TAG) for tag in skill.tags if tag.startswith(RESOURCE_TAG)]
        resources += [Resource(offer, uri) for uri in uris]
        if PROMPT_TAG in skill.tags:
            offers.prompts[names[id]] = offer
        elif not uris:
            offers.tools[names[id]] = offer
    return Offers(offers.tools, offers.prompts, tuple(sorted(resources, key=lambda resource: resource.template)))
