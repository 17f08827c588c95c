"""Skills as tools, prompts and resources; questions as requests; what comes out of a task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.bridges.mcp.calling import ONCE, Caller
from edgenode.bridges.mcp.catalog import Catalog, compose
from edgenode.bridges.mcp.offers import Offer, input_of, offer_of, tool_names
from edgenode.bridges.mcp.outcomes import tool_result
from edgenode.bridges.mcp.questions import MISSING, REQUESTS, Question
from edgenode.bridges.mcp.serving import PAGE, _page
from edgenode.bridges.wishes import TASK_KEY, Wishes
from edgenode.link.errors import EdgenodeError, FailedPrecondition, InvalidArgument, Unavailable
from edgenode.link.model.task import OnLost, Scope, TaskState
from edgenode.link.ports import SystemClock
from edgenode.link.wire.values import problem_to_pb
from edgenode.sdk.client import Client as NodeClient
from edgenode.sdk.encoding import MCP_RESULT, OCTETS, Payload


def agent(name: str, node: str, *skills: registry_pb2.Skill) -> registry_pb2.Agent:
    card = registry_pb2.AgentCard(name=name, skills=skills, default_input_modes=["application/json"])
    return registry_pb2.Agent(name=f"nodes/{node}/agents/{name}", card=card)


def offer(skill: registry_pb2.Skill) -> Offer:
    return offer_of(skill, skill.id, ["nodes/n/agents/a"], True)


def test_names_are_for_models_and_stay_apart() -> None:
    assert tool_names(["code.metrics", "greet", "a_b"]) == {
        "code.metrics": "code__metrics",
        "greet": "greet",
        "a_b": "a_b",
    }
    assert tool_names(["a.b", "a__b"]) == {"a__b": "a__b", "a.b": "a.b"}
    names = tool_names(["a.b__c", "a__b.c"])
    assert len(set(names.values())) == 2
    long = f"{'a' * 60}.{'b' * 67}"
    assert tool_names([long]) == {long: long}


def test_schemas_that_are_no_objects_are_wrapped_and_unwrapped() -> None:
    listed = {"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"type": "integer"}}}
    made = offer(registry_pb2.Skill(id="s", input_schema=json.dumps(listed), output_schema='{"type":"integer"}'))
    schema = made.tool.input_schema
    assert (schema["type"], schema["required"], schema["$defs"]) == ("object", ["input"], listed["$defs"])
    assert input_of(made, {"input": [1, 2]}).data == b"[1,2]"
    with pytest.raises(InvalidArgument):
        input_of(made, {})
    task = task_pb2.Task(task_id="t", state=task_pb2.TASK_STATE_COMPLETED, output=task_pb2.TaskOutput(data=b"3"))
    result = tool_result(made, task)
    assert (result["content"][0]["text"], result["structuredContent"]) == ("3", {"result": 3})
    types.CallToolResult.model_validate(result)


def test_bytes_go_in_as_base64_and_come_out_as_what_they_are() -> None:
    made = offer(registry_pb2.Skill(id="s", input_modes=[OCTETS]))
    assert input_of(made, {"data": "aGk="}) == Payload(b"hi", OCTETS)
    with pytest.raises(InvalidArgument):
        input_of(made, {"data": "no base64!"})
    for media, kind in (("image/png", "image"), ("audio/wav", "audio"), ("text/csv", "text"), (OCTETS, "resource")):
        output = task_pb2.TaskOutput(data=b"hi", content_type=media)
        task = task_pb2.Task(task_id="t", state=task_pb2.TASK_STATE_COMPLETED, output=output)
        assert tool_result(made, task)["content"][0]["type"] == kind


def test_a_tool_of_a_mounted_server_is_what_it_was() -> None:
    source = {"name": "Add", "title": "Adds", "annotations": {"destructiveHint": False}, "icons": [{"src": "data:,+"}]}
    skill = registry_pb2.Skill(id="m.add", source_json=json.dumps(source).encode(), input_schema='{"type":"object"}')
    tool = offer(skill).tool
    assert (tool.title, tool.icons) == ("Adds", [types.Icon(src="data:,+")])
    assert tool.annotations is not None
    assert tool.annotations.destructive_hint is False
    whole: dict[str, Any] = {"content": [{"type": "text", "text": "x"}], "_meta": {"of": "server"}}
    whole["_meta"]["io.modelcontextprotocol/serverInfo"] = {"name": "the one behind", "version": "1"}
    output = task_pb2.TaskOutput(data=json.dumps(whole).encode(), content_type=MCP_RESULT)
    task = task_pb2.Task(task_id="t", state=task_pb2.TASK_STATE_COMPLETED, output=output)
    result = tool_result(offer(skill), task)
    assert (result["content"], result["_meta"]["of"]) == (whole["content"], "server")
    assert "io.modelcontextprotocol/serverInfo" not in result["_meta"]  # it is not who answers here


@pytest.mark.parametrize("source", [b'{"name": "x", "icons": 5}', b'{"_meta": 1}', b'{"annotations": "all"}', b"{}"])
def test_what_no_tool_may_say_is_left_out(source: bytes) -> None:
    tool = offer(registry_pb2.Skill(id="m.x", source_json=source, description="Does it.")).tool
    assert (tool.name, tool.description, tool.icons) == ("m.x", "Does it.", None)


@pytest.mark.parametrize(
    ("state", "error", "own"),
    [
        (TaskState.FAILED, FailedPrecondition("HANDLER_ERROR", "x"), True),
        (TaskState.DEAD_LETTERED, FailedPrecondition("TOO_HOT", "x"), True),
        (TaskState.REJECTED, InvalidArgument("BAD_INPUT", "x"), True),
        (TaskState.REJECTED, InvalidArgument("NOT_FOR_ME", "x"), False),
        (TaskState.FAILED, Unavailable("AGENT_LOST", "x"), False),
        (TaskState.EXPIRED, FailedPrecondition("DEADLINE_EXCEEDED", "x"), False),
        (TaskState.CANCELED, FailedPrecondition("CANCELLED", "x"), False),
    ],
)
def test_only_the_tools_own_failures_are_results(state: TaskState, error: EdgenodeError, own: bool) -> None:
    task = task_pb2.Task(task_id="t", problem=problem_to_pb(error.problem))
    task.state = int(state)  # type: ignore[assignment]
    made = offer(registry_pb2.Skill(id="s"))
    if own:
        result = tool_result(made, task)
        assert result["isError"]
        assert (result["_meta"]["dev.edgenode/state"], result["_meta"]["dev.edgenode/reason"]) == (
            state.name,
            error.reason,
        )
        return
    with pytest.raises(MCPError) as refused:
        tool_result(made, task)
    assert (refused.value.data["reason"], refused.value.data["state"]) == (error.reason, state.name)


def test_this_nodes_agents_come_first_and_tags_make_prompts_and_resources() -> None:
    both = registry_pb2.Skill(id="both", description="here")
    here = agent("a", "north", both, registry_pb2.Skill(id="z"))
    there = agent(
        "b",
        "south",
        registry_pb2.Skill(id="both", description="there"),
        registry_pb2.Skill(id="a"),
        registry_pb2.Skill(id="p", tags=["mcp:prompt"]),
        registry_pb2.Skill(id="r", tags=["mcp:resource=test://{id}/data", "mcp:resource=test://one"]),
    )
    offers = compose([here], [there])
    assert list(offers.tools) == ["both", "z", "a"]
    assert offers.tools["both"].tool.description == "here"
    assert offers.tools["both"].agents == (here.name, there.name)
    assert [offers.tools[name].local for name in ("both", "a")] == [True, False]
    assert list(offers.prompts) == ["p"]
    found = offers.resource("test://7/data")
    assert found is not None
    assert found[1] == {"id": "7"}
    assert offers.resource("test://one") is not None
    assert offers.resource("test://7/8/data") is None
    odd = registry_pb2.Skill(id="odd", tags=["mcp:resource=test://{1}/x", "mcp:resource=test://{a}/{a}"])
    assert compose([agent("c", "north", odd)], [there]).resource("test://7/data") is not None


class FakeNode:
    """A node of whose fleet somebody is known, or whose hub is away."""

    def __init__(self, *fleet: registry_pb2.Agent, hub: bool = True) -> None:
        self.answer = registry_service_pb2.ListAgentsResponse(
            agents=fleet, fleet_included=hub, state="s" if hub else ""
        )

    async def fleet(self, known_state: str, _limit: int) -> registry_service_pb2.ListAgentsResponse:
        if known_state and known_state == self.answer.state:
            return registry_service_pb2.ListAgentsResponse(fleet_included=True, state=known_state, unchanged=True)
        return self.answer

    async def watch_agents(self) -> AsyncIterator[registry_service_pb2.WatchAgentsResponse]:
        here = agent("a", "north", registry_pb2.Skill(id="here"))
        yield registry_service_pb2.WatchAgentsResponse(agents=[here], snapshot=True, version=1)
        await asyncio.Event().wait()


async def listed(node: FakeNode, memory: Path) -> list[str]:
    """What a bridge that starts now has to offer."""
    catalog = Catalog(node, SystemClock(), lambda _kinds: None, memory)  # type: ignore[arg-type]
    running = asyncio.create_task(catalog.run())
    try:
        return list((await catalog.current(fresh=True)).tools)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_tools_of_devices_out_of_reach_stay_also_for_a_bridge_that_starts(tmp_path: Path) -> None:
    memory = tmp_path / "mcp" / "fleet.agents"
    there = agent("b", "south", registry_pb2.Skill(id="there"))
    assert await listed(FakeNode(hub=False), memory) == ["here"]
    assert await listed(FakeNode(there), memory) == ["here", "there"]
    assert await listed(FakeNode(hub=False), memory) == ["here", "there"]
    assert await listed(FakeNode(), memory) == ["here"]  # the hub knows nobody of that name any more
    assert await listed(FakeNode(hub=False), memory) == ["here"]
    memory.write_bytes(b"\xff damaged")
    assert await listed(FakeNode(hub=False), memory) == ["here"]


def test_pages_hold_while_the_list_changes() -> None:
    items = [f"{number:04}" for number in range(2 * PAGE + 1)]
    page, cursor = _page(items, str, None)
    assert (len(page), page[-1]) == (PAGE, items[PAGE - 1])
    items.remove(page[-1])
    page, cursor = _page(items, str, types.PaginatedRequestParams(cursor=cursor))
    assert page[0] == f"{PAGE:04}"
    page, cursor = _page(items, str, types.PaginatedRequestParams(cursor=cursor))
    assert (len(page), cursor) == (1, None)
    for wrong in ("no cursor", "\xff"):
        with pytest.raises(MCPError):
            _page(items, str, types.PaginatedRequestParams(cursor=wrong))


def test_what_a_node_says_of_the_task_it_calls_for_is_no_wish() -> None:
    wishes = Wishes({TASK_KEY: "0" * 26, "dev.edgenode/tenant": "t", "dev.edgenode/timeout": 3})
    assert (wishes.options, wishes.timeout) == ({"tenant": "t"}, 3.0)
    with pytest.raises(InvalidArgument, match="not known"):
        Wishes({"dev.edgenode/priorty": 3})


def question(schema: Any = None, prompt: str = "What?", authorization: bool = False) -> Question:
    asked = task_pb2.InputRequest(key="k", prompt=prompt, authorization=authorization)
    if schema is not None:
        asked.schema = json.dumps(schema)
    return Question("task", asked)


def test_questions_are_forms_addresses_or_what_the_agent_says() -> None:
    plain = question({"type": "integer"})
    assert plain.requests["k"]["params"]["requestedSchema"]["properties"] == {"value": {"type": "integer"}}
    assert plain.answer({}) is MISSING
    assert plain.answer({"k": {"action": "accept", "content": {"value": 3}}}) == 3
    assert plain.answer({"k": {"action": "decline"}}) is None
    with pytest.raises(InvalidArgument):
        plain.answer({"k": {"action": "accept", "content": {"value": "three"}}})
    with pytest.raises(InvalidArgument):
        plain.answer({"k": 42})

    form = question({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]})
    assert form.answer({"k": {"action": "accept", "content": {"name": "Ada"}}}) == {"name": "Ada"}

    nested = question({"type": "object", "properties": {"point": {"$ref": "https://example.com/x"}}})
    assert "JSON that fits" in nested.requests["k"]["params"]["requestedSchema"]["properties"]["value"]["description"]
    assert nested.answer({"k": {"action": "accept", "content": {"value": '{"point": 1}'}}}) == {"point": 1}
    with pytest.raises(InvalidArgument):
        nested.answer({"k": {"action": "accept", "content": {"value": "{"}}})
    odds: list[Any] = [{REQUESTS: {"x": {"method": "nothing/known"}}}, {REQUESTS: {"x": 1}}, {REQUESTS: {}}, [1]]
    for odd in odds:
        assert set(question(odd).requests) == {"k"}
    away = {"type": "object", "properties": {"a": {"$ref": "https://example.com/x"}}}
    asked = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": away}}
    with pytest.raises(InvalidArgument):
        question({REQUESTS: {"x": asked}}).answer({"x": {"action": "accept", "content": {"a": "1"}}})

    visit = question(prompt="Log in at https://example.com/in please", authorization=True)
    assert visit.requests["k"]["params"]["url"] == "https://example.com/in"
    assert visit.needs().elicitation is not None
    assert visit.answer({"k": {"action": "accept"}}) is True

    sampling = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
    several = question({"type": "object", REQUESTS: {"model": sampling, "roots": {"method": "roots/list"}}})
    assert set(several.requests) == {"model", "roots"}
    assert several.needs().roots is not None
    roots = {"roots": [{"uri": "file:///x"}]}
    assert several.answer({"roots": roots}) is MISSING
    said = {"role": "assistant", "content": {"type": "text", "text": "hm"}, "model": "m"}
    assert several.answer({"roots": roots, "model": said})["model"]["content"]["text"] == "hm"


def test_what_may_not_run_twice_fails_with_its_agent_here_and_waits_for_its_device_elsewhere() -> None:
    caller = Caller(NodeClient(target="unix:/nowhere"))
    skill = registry_pb2.Skill(id="s")
    local, fleet = (offer_of(skill, "s", [], here) for here in (True, False))
    assert caller.options(local, Wishes({})) == {"retry": ONCE, "on_lost": OnLost.FAIL}
    assert caller.options(fleet, Wishes({})) == {"scope": Scope.FLEET, "retry": ONCE, "on_lost": OnLost.WAIT}
    assert caller.options(local, Wishes({"dev.edgenode/on-lost": "wait"}))["on_lost"] == "wait"
    assert caller.options(local, Wishes({"dev.edgenode/idempotency-key": "k"})) == {"idempotency_key": "k"}
    skill.annotations.read_only_hint = True
    assert caller.options(local, Wishes({})) == {}
