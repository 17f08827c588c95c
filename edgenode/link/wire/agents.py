"""Registrations and agents: messages -> checked model values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model.agent import AgentView, Health
from edgenode.link.model.names import check_label, check_name, check_skill, check_token
from edgenode.link.wire import checks
from edgenode.link.wire.values import duration_from_pb

MAX_SKILLS = 256
MAX_LABELS = 64
MAX_SCHEMA_BYTES = 64 * 1024
MAX_SOURCE_BYTES = 64 * 1024
DEFAULT_LEASE = 15.0
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Registration:
    """A checked request to register. `card` is the AgentCard message, serialised as it came; durations in seconds."""

    name: str
    skills: tuple[str, ...]
    card: bytes
    instance_id: str
    incarnation: int
    labels: Mapping[str, str]
    capacity: int
    cost: float
    lease: float
    attempt_timeouts: Mapping[str, float]  # by skill, where the skill states one
    request_id: str = ""
    attempts_stored: frozenset[str] = frozenset()  # skills whose attempts are stored before they are handed over


def registration_from_proto(message: registry_service_pb2.RegisterAgentRequest) -> Registration:
    """The checked registration with defaults applied. Raises InvalidArgument or ResourceExhausted naming the field."""
    check_card(message.card)
    check_token(message.instance_id, "instance_id")
    checks.in_range(message.incarnation, 0, math.inf, "incarnation")
    checks.in_range(message.capacity_count, 0, 10_000, "capacity_count")
    checks.in_range(message.cost, 0, 1e18, "cost")
    checks.short(message.request_id, 128, "request_id")
    lease = DEFAULT_LEASE
    if message.HasField("lease_duration"):
        lease = duration_from_pb(message.lease_duration, "lease_duration")
        checks.in_range(lease, 1, 3600, "lease_duration")
    return Registration(
        name=message.card.name,
        skills=tuple(skill.id for skill in message.card.skills),
        card=message.card.SerializeToString(),
        instance_id=message.instance_id,
        incarnation=message.incarnation,
        labels=check_labels(message.labels),
        capacity=message.capacity_count or 1,
        cost=message.cost,
        lease=lease,
        attempt_timeouts={
            skill.id: duration_from_pb(skill.attempt_timeout_duration)
            for skill in message.card.skills
            if skill.HasField("attempt_timeout_duration")
        },
        attempts_stored=frozenset(skill.id for skill in message.card.skills if skill.attempts_stored),
        request_id=message.request_id,
    )


def check_card(card: registry_pb2.AgentCard, field: str = "card") -> None:
    """Raises InvalidArgument or ResourceExhausted naming what is wrong with a card."""
    check_name(card.name, f"{field}.name")
    checks.short(card.description, 4096, f"{field}.description")
    checks.short(card.version, 128, f"{field}.version")
    checks.at_most(len(card.skills), MAX_SKILLS, f"{field}.skills")
    checks.fits(len(card.source_json), MAX_SOURCE_BYTES, f"{field}.source_json")
    if card.source_json:
        _check_json(card.source_json, f"{field}.source_json", "a JSON object")
    seen: set[str] = set()
    for index, skill in enumerate(card.skills):
        check_skill_entry(skill, f"{field}.skills[{index}]")
        if skill.id in seen:
            raise InvalidArgument(
                "DUPLICATE_SKILL",
                f"{field} names the skill {skill.id} twice",
                hint="give each skill an id of its own",
                field=f"{field}.skills[{index}].id",
            )
        seen.add(skill.id)


def check_labels(labels: Mapping[str, str], field: str = "labels") -> dict[str, str]:
    """A copy of `labels`. Raises InvalidArgument (TOO_MANY, BAD_LABEL)."""
    checks.at_most(len(labels), MAX_LABELS, field)
    for key, value in labels.items():
        check_label(key, f"{field} key")
        check_label(value, f"{field}[{key}]")
    return dict(labels)


def health_from_proto(number: int, field: str = "health") -> Health:
    """The health an agent states, READY if it states none. Raises InvalidArgument (UNKNOWN_VALUE)."""
    return checks.choice(Health, number, Health.READY, field)


def agent_view(agent: registry_pb2.Agent, staleness: float = 0.0) -> AgentView:
    """What finding and scheduling need of `agent`; `staleness` in seconds.

    The record was checked at its own node; health from a newer contract counts as UNREACHABLE, no work is sent on a guess.
    """
    runtime = agent.runtime
    try:
        health = Health(runtime.health or Health.READY)
    except ValueError:
        health = Health.UNREACHABLE
    return AgentView(
        name=agent.name,
        skills=frozenset(skill.id for skill in agent.card.skills),
        health=health,
        labels=dict(runtime.labels),
        capacity=max(1, runtime.capacity_count),
        in_flight=runtime.in_flight_count,
        cost=runtime.cost,
        latency=duration_from_pb(runtime.latency_duration) if runtime.HasField("latency_duration") else None,
        staleness=staleness,
    )


def check_skill_entry(skill: registry_pb2.Skill, field: str) -> None:
    """Raises InvalidArgument or ResourceExhausted naming the field."""
    check_skill(skill.id, f"{field}.id")
    checks.short(skill.name, 256, f"{field}.name")
    checks.short(skill.description, 4096, f"{field}.description")
    checks.at_most(len(skill.tags), 32, f"{field}.tags")
    checks.at_most(len(skill.examples), 32, f"{field}.examples")
    for mode in (*skill.input_modes, *skill.output_modes):
        checks.media_type(mode, f"{field}.input_modes or output_modes")
    for name, schema in (("input_schema", skill.input_schema), ("output_schema", skill.output_schema)):
        if schema:
            encoded = schema.encode()
            checks.fits(len(encoded), MAX_SCHEMA_BYTES, f"{field}.{name}")
            _check_json(encoded, f"{field}.{name}", "a JSON Schema: a JSON object, true or false")
    checks.fits(len(skill.source_json), MAX_SOURCE_BYTES, f"{field}.source_json")
    if skill.source_json:
        _check_json(skill.source_json, f"{field}.source_json", "a JSON object")
    if skill.HasField("attempt_timeout_duration"):
        timeout = duration_from_pb(skill.attempt_timeout_duration, f"{field}.attempt_timeout_duration")
        checks.in_range(timeout, 0.001, 30 * _DAY, f"{field}.attempt_timeout_duration")


def _check_json(text: bytes, field: str, expected: str) -> None:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidArgument(
            "BAD_JSON", f"{field} is not JSON: {error}", hint=f"expected {expected}", field=field
        ) from None
    allowed = (dict, bool) if "true" in expected else (dict,)
    if not isinstance(value, allowed):
        raise InvalidArgument(
            "BAD_JSON", f"{field} is {type(value).__name__}", hint=f"expected {expected}", field=field
        )
