import pytest
from google.protobuf.duration_pb2 import Duration

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2
from edgenode.link import errors
from edgenode.link.model.agent import AgentView, Health
from edgenode.link.wire.agents import Registration, agent_view, health_from_proto, registration_from_proto


def request(card: dict[str, object] | None = None, **fields: object) -> registry_service_pb2.RegisterAgentRequest:
    message = registry_pb2.AgentCard(**{"name": "reader", **(card or {})})  # type: ignore[arg-type]
    return registry_service_pb2.RegisterAgentRequest(card=message, **{"instance_id": "i-1", **fields})  # type: ignore[arg-type]


def skill(**fields: object) -> dict[str, object]:
    return {"skills": [registry_pb2.Skill(**{"id": "ocr", **fields})]}  # type: ignore[arg-type]


def test_defaults() -> None:
    message = request()
    assert registration_from_proto(message) == Registration(
        name="reader",
        skills=(),
        card=message.card.SerializeToString(),
        instance_id="i-1",
        incarnation=0,
        labels={},
        capacity=1,
        cost=0.0,
        lease=15.0,
        attempt_timeouts={},
    )


def test_everything_set() -> None:
    card = skill(input_schema='{"type":"object"}', output_schema="true", attempt_timeout_duration=Duration(seconds=3))
    message = request(
        {**card, "source_json": b'{"name": "reader"}'},
        request_id="r",
        incarnation=7,
        labels={"zone": "a"},
        capacity_count=4,
        cost=1.5,
        lease_duration=Duration(seconds=30),
    )
    registration = registration_from_proto(message)
    assert registration.skills == ("ocr",)
    assert registration.attempt_timeouts == {"ocr": 3.0}
    assert (registration.incarnation, registration.capacity, registration.cost, registration.lease) == (7, 4, 1.5, 30)
    assert registry_pb2.AgentCard.FromString(registration.card) == message.card


@pytest.mark.parametrize(
    ("message", "reason", "field"),
    [
        (request({"name": "Reader"}), "BAD_NAME", "card.name"),
        (request({"name": "a/../b"}), "BAD_NAME", "card.name"),
        (request(instance_id=""), "BAD_NAME", "instance_id"),
        (request(incarnation=-1), "OUT_OF_RANGE", "incarnation"),
        (request(capacity_count=10_001), "OUT_OF_RANGE", "capacity_count"),
        (request(cost=float("inf")), "OUT_OF_RANGE", "cost"),
        (request(lease_duration=Duration(nanos=1)), "OUT_OF_RANGE", "lease_duration"),
        (request(lease_duration=Duration(seconds=3601)), "OUT_OF_RANGE", "lease_duration"),
        (request(labels={"ü": "x"}), "BAD_LABEL", "labels key"),
        (request(labels={"x": ""}), "BAD_LABEL", "labels[x]"),
        (request(labels={f"k{n}": "v" for n in range(65)}), "TOO_MANY", "labels"),
        (request(skill(id="OCR")), "BAD_NAME", "card.skills[0].id"),
        (request(skill(input_schema="{")), "BAD_JSON", "card.skills[0].input_schema"),
        (request(skill(output_schema="3")), "BAD_JSON", "card.skills[0].output_schema"),
        (request(skill(input_schema="[" * 60_000)), "BAD_JSON", "card.skills[0].input_schema"),
        (request(skill(tags=["t"] * 33)), "TOO_MANY", "card.skills[0].tags"),
        (request({"source_json": b"nope"}), "BAD_JSON", "card.source_json"),
        (request({"source_json": b"[]"}), "BAD_JSON", "card.source_json"),
        (
            request({"skills": [registry_pb2.Skill(id="a"), registry_pb2.Skill(id="a")]}),
            "DUPLICATE_SKILL",
            "card.skills[1].id",
        ),
        (
            request({"skills": [registry_pb2.Skill(id=f"s{n}") for n in range(257)]}),
            "TOO_MANY",
            "card.skills",
        ),
    ],
)
def test_refusals_name_the_field(message: registry_service_pb2.RegisterAgentRequest, reason: str, field: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        registration_from_proto(message)
    assert (caught.value.reason, caught.value.problem.metadata["field"]) == (reason, field)


def test_an_oversized_card() -> None:
    with pytest.raises(errors.ResourceExhausted, match="TOO_LARGE") as caught:
        registration_from_proto(request({"source_json": b" " * (64 * 1024 + 1)}))
    assert not caught.value.problem.retryable


def test_agent_view() -> None:
    agent = registry_pb2.Agent(
        name="nodes/north/agents/reader",
        card=registry_pb2.AgentCard(skills=[registry_pb2.Skill(id="ocr"), registry_pb2.Skill(id="scan")]),
        runtime=registry_pb2.AgentRuntime(
            health=registry_pb2.HEALTH_DEGRADED,
            labels={"zone": "a"},
            capacity_count=4,
            in_flight_count=2,
            cost=0.5,
            latency_duration=Duration(seconds=2),
        ),
    )
    assert agent_view(agent, 1.5) == AgentView(
        name="nodes/north/agents/reader",
        skills=frozenset({"ocr", "scan"}),
        health=Health.DEGRADED,
        labels={"zone": "a"},
        capacity=4,
        in_flight=2,
        cost=0.5,
        latency=2.0,
        staleness=1.5,
    )


def test_health() -> None:
    assert health_from_proto(0) is Health.READY
    assert health_from_proto(3) is Health.DRAINING
    with pytest.raises(errors.InvalidArgument, match="UNKNOWN_VALUE"):
        health_from_proto(77)
    newer = registry_pb2.Agent(runtime=registry_pb2.AgentRuntime())
    newer.runtime.health = 77  # type: ignore[assignment]
    assert agent_view(newer).health is Health.UNREACHABLE
