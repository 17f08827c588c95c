"""A skill as a function: its parameters are those of the card of an agent that has it.

    metrics = client.skill("code.metrics")
    assert await metrics(path="setup.py") == await metrics("setup.py")
    handle = await metrics.submit(path="setup.py")
    async for piece in metrics.stream(path="setup.py"): ...

The card is asked for once, and again when what is given does not fit it. Where no agent has the skill at the moment, keyword
arguments go unchecked: a task may be submitted long before somebody comes who can do it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from edgenode.api.registry.v1 import registry_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model.task import Scope
from edgenode.sdk.encoding import OCTETS

if TYPE_CHECKING:
    from edgenode.sdk.client import Client
    from edgenode.sdk.handle import TaskHandle
    from edgenode.sdk.spec import SpecOptions


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a skill takes: the properties of one JSON object, in their order, or one value as a whole."""

    names: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()
    whole: bool = False
    closed: bool = False  # nothing beside `names`

    @classmethod
    def of(cls, skill: registry_pb2.Skill) -> Parameters:
        """As the card says. A schema that is no object's, or none, means one value."""
        try:
            schema = msgspec.json.decode(skill.input_schema) if skill.input_schema else {}
        except msgspec.DecodeError:
            schema = {}
        if OCTETS in skill.input_modes or not isinstance(schema, dict) or schema.get("type") != "object":
            return cls(whole=True)
        names = tuple(schema.get("properties", {}))
        return cls(names, frozenset(schema.get("required", ())), closed=schema.get("additionalProperties") is False)

    def bind(self, skill: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The skill's input. Raises InvalidArgument (BAD_INPUT) that says what fits."""
        if self.whole:
            if named or len(arguments) != 1:
                raise _refused(skill, "it takes one value", "give it as the only argument")
            return arguments[0]
        takes = f"it takes {', '.join(self.names) or 'nothing'}"
        if len(arguments) > len(self.names):
            raise _refused(skill, f"{len(arguments)} arguments are too many", takes)
        given = dict(zip(self.names, arguments, strict=False))
        if twice := given.keys() & named.keys():
            raise _refused(skill, f"{', '.join(sorted(twice))} is given twice", takes)
        given |= named
        if self.closed and (unknown := given.keys() - set(self.names)):
            raise _refused(skill, f"it has no {', '.join(sorted(unknown))}", takes)
        if missing := self.required - given.keys():
            raise _refused(skill, f"{', '.join(sorted(missing))} is missing", takes)
        return given


class SkillClient:
    """Made by Client.skill. Calling it runs the skill now, `stream` reads along; `submit` stores a task."""

    def __init__(self, client: Client, skill: str, type: Any, timeout: float, options: SpecOptions) -> None:
        self.id = skill
        self._client = client
        self._type = type
        self._timeout = timeout
        self._options = options
        self._parameters: Parameters | None = None

    def __repr__(self) -> str:
        return f"SkillClient({self.id!r})"

    async def card(self) -> registry_pb2.Skill | None:
        """What the best agent for it says of it now: description, schemas, hints. None where nobody has it."""
        scope = self._options.get("scope", Scope.LOCAL)
        found = await self._client.find(
            self.id, scope=Scope[scope.upper()] if isinstance(scope, str) else scope, limit=1
        )
        skills = [skill for candidate in found.candidates for skill in candidate.agent.card.skills]
        card = next((skill for skill in skills if skill.id == self.id), None)
        self._parameters = None if card is None else Parameters.of(card)
        return card

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Like Client.call. Raises also InvalidArgument (BAD_INPUT) for arguments that do not fit the card."""
        input = await self._bind(arguments, named)
        return await self._client.call(self.id, input, timeout=self._timeout, type=self._type, **self._options)

    async def stream(self, *arguments: Any, **named: Any) -> AsyncGenerator[Any, None]:
        """Like Client.stream; raises as calling it does."""
        input = await self._bind(arguments, named)
        pieces = self._client.stream(self.id, input, timeout=self._timeout, type=self._type, **self._options)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def submit(self, *arguments: Any, **named: Any) -> TaskHandle:
        """Like Client.submit; the handle's `result` is decoded as the caller of it says."""
        return await self._client.submit(self.id, await self._bind(arguments, named), **self._options)

    async def _bind(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if self._parameters is not None:
            try:
                return self._parameters.bind(self.id, arguments, named)
            except InvalidArgument:
                self._parameters = None  # the agent may be another one by now
        await self.card()
        if self._parameters is not None:
            return self._parameters.bind(self.id, arguments, named)
        if arguments:
            raise _refused(self.id, "nobody has it who could say how its parameters are called", "give all by name")
        return named


def _refused(skill: str, what: str, hint: str) -> InvalidArgument:
    return InvalidArgument("BAD_INPUT", f"skill {skill}: {what}", hint=hint, skill=skill)
