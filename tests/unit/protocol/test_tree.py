"""Hubs below hubs: who refuses whom when a circle would come about."""

from __future__ import annotations

import pytest

from edgenode.link.errors import FailedPrecondition, InvalidArgument
from edgenode.link.model import frames as f
from edgenode.link.model.lanes import Lane
from edgenode.link.model.names import MAX_TREE_DEPTH, below, parse_agent_resource, seen_from
from edgenode.link.protocol import events as e
from edgenode.link.protocol.events import Role, SessionState
from edgenode.link.protocol.greeting import check_tree
from edgenode.link.protocol.session import LinkSession, Local
from tests.unit.protocol.pairs import head, hello, only, sent, standing, welcome

ROOT, BERLIN, NORTH = "hub.fleet:1", "hub.berlin:2", "hub.north:3"


def _parent(*path: str) -> LinkSession:
    session = LinkSession(Role.ACCEPTING, Local("hub", "boot-h", path=lambda: path))
    session.handle(e.Opened(), 0.0)
    return session


def _child(hub: str) -> LinkSession:
    session = LinkSession(Role.DIALING, Local("berlin", "boot-b", 1, hub=hub))
    (frame,) = sent(session.handle(e.Opened(standing(head(Lane.TASK, 0))), 0.0), f.Hello)
    assert frame.hub == hub
    return session


def _refusal(effects: list[e.Effect]) -> str:
    (ending,) = sent(effects, f.GoAway)
    return ending.problem.reason


def test_a_hub_tells_its_path_and_learns_who_is_a_hub() -> None:
    parent = _parent(ROOT)
    parent.handle(e.Received(hello(hub=BERLIN)), 0.0)
    effects = parent.handle(e.Admitted(standing()), 0.0)
    (frame,) = sent(effects, f.Welcome)
    assert frame.path == (ROOT,)
    assert only(effects, e.Established)[0].peer.hub == BERLIN
    (up,) = only(_child(BERLIN).handle(e.Received(welcome(path=(ROOT,))), 0.0), e.Established)
    assert up.peer.path == (ROOT,)


def test_a_parent_refuses_its_own_ancestor() -> None:
    parent = _parent(ROOT, BERLIN)
    assert _refusal(parent.handle(e.Received(hello(hub=ROOT)), 0.0)) == "LOOP_IN_TREE"
    assert parent.state is SessionState.CLOSING


def test_a_hub_refuses_itself() -> None:
    assert _refusal(_parent(ROOT).handle(e.Received(hello(hub=ROOT)), 0.0)) == "LOOP_IN_TREE"


def test_a_child_refuses_a_parent_that_is_below_it() -> None:
    assert _refusal(_child(BERLIN).handle(e.Received(welcome(path=(ROOT, BERLIN, NORTH))), 0.0)) == "LOOP_IN_TREE"


def test_edges_are_in_nobody_s_way() -> None:
    parent = _parent(ROOT, BERLIN)
    assert only(parent.handle(e.Received(hello()), 0.0), e.Admit)


def test_a_tree_has_a_depth() -> None:
    deepest = tuple(f"hub-{number}" for number in range(MAX_TREE_DEPTH))
    check_tree(deepest[:-1], BERLIN)
    with pytest.raises(FailedPrecondition, match="TREE_TOO_DEEP") as refused:
        check_tree(deepest, BERLIN)
    assert refused.value.reason == "TREE_TOO_DEEP"
    check_tree(deepest, "")


def test_names_go_up_and_down_the_tree() -> None:
    mine = "nodes/north/agents/camera"
    theirs = below("berlin", mine)
    assert theirs == "nodes/berlin/north/agents/camera"
    assert parse_agent_resource(theirs, "") == ("berlin/north", "camera")
    assert seen_from("berlin", theirs) == mine
    assert seen_from("berlin", below("berlin", theirs)) == theirs


@pytest.mark.parametrize(
    "name", ["nodes/paris/south/agents/camera", "nodes/berlin/agents/camera", "nodes/berlins/north/agents/camera"]
)
def test_what_is_not_below_a_hub_keeps_its_name(name: str) -> None:
    assert seen_from("berlin", name) == name


@pytest.mark.parametrize("path", ["/".join(["a"] * (MAX_TREE_DEPTH + 1)), "berlin//north", "Berlin/north", ""])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_agent_resource(f"nodes/{path}/agents/camera", "")
