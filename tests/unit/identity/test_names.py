import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.link.errors import InvalidArgument
from edgenode.link.identity.names import (
    Kind,
    SpiffeName,
    agent_name,
    check_trust_domain,
    edge_name,
    hub_host,
    hub_name,
    parse_spiffe,
)

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


def test_names_of_members() -> None:
    assert edge_name("fleet.example", "north").uri == "spiffe://fleet.example/edge/north"
    assert hub_name("fleet.example", "main").uri == "spiffe://fleet.example/hub/main"
    assert agent_name("fleet.example", "north", "code").uri == "spiffe://fleet.example/edge/north/agent/code"
    assert parse_spiffe("spiffe://d/edge/north") == SpiffeName("d", Kind.EDGE, "north")
    assert parse_spiffe("spiffe://d/hub/edge") == SpiffeName("d", Kind.HUB, "edge")
    assert hub_host("fleet.example") == "hub.fleet.example"


@given(LABELS, LABELS, LABELS)
def test_what_is_made_is_read_back(domain: str, node: str, agent: str) -> None:
    for name in (edge_name(domain, node), hub_name(domain, node), agent_name(domain, node, agent)):
        assert parse_spiffe(name.uri) == name


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://",
        "spiffe://d",
        "spiffe://d/",
        "spiffe://d/edge",
        "spiffe://d/edge/",
        "spiffe://d/edge/north/",
        "spiffe://d//edge/north",
        "spiffe://d/edge//north",
        "spiffe://d/edge/../hub/main",
        "spiffe://d/edge/..",
        "spiffe://d/edge/.",
        "spiffe://d/edge/north/agent",
        "spiffe://d/edge/north/agent/",
        "spiffe://d/edge/north/agent/a/b",
        "spiffe://d/hub/main/agent/a",
        "spiffe://d/edge/north%2f",
        "spiffe://d/edge/%6eorth",
        "spiffe://d:80/edge/north",
        "spiffe://user@d/edge/north",
        "spiffe://D/edge/north",
        "SPIFFE://d/edge/north",
        "spiffe://d/Edge/north",
        "spiffe://d/edge/North",
        "spiffe://d/edge/north?x=1",
        "spiffe://d/edge/north#x",
        "spiffe://d/edge/north\n",
        " spiffe://d/edge/north",
        "spiffe://d/edge/north\x00",
        "spiffe://d/edge/n\u043erth",
        "spiffe://d./edge/north",
        "spiffe://.d/edge/north",
        "spiffe://d/edge/-north",
        "spiffe://d/edge/" + "a" * 64,
        "spiffe://" + "a." * 150 + "b/edge/north",
        "http://d/edge/north",
        "spiffe:/d/edge/north",
        "spiffe://d/agent/a",
    ],
)
def test_anything_else_is_refused(uri: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        parse_spiffe(uri)
    assert refusal.value.reason == "BAD_SPIFFE_ID"


@given(st.text(max_size=80))
def test_no_text_is_read_as_another_name(text: str) -> None:
    uri = "spiffe://" + text
    try:
        name = parse_spiffe(uri)
    except InvalidArgument:
        return
    assert name.uri == uri


@pytest.mark.parametrize("domain", ["", "Fleet.example", "fleet_example", "fleet..example", "-fleet", "a" * 201, "f/e"])
def test_trust_domains_that_are_none(domain: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        check_trust_domain(domain, "domain")
    assert refusal.value.reason == "BAD_DOMAIN"
    assert refusal.value.problem.metadata["field"] == "domain"
