"""Tools of MCP servers as skills: names, what they say, what they give."""

from __future__ import annotations

import json
import random

import mcp_types as types
import pytest

from edgenode.bridges.mcp.skills import payload_of, skills_of
from edgenode.bridges.skill_ids import skill_ids
from edgenode.link.errors import FailedPrecondition
from edgenode.link.model.names import check_skill
from edgenode.sdk.encoding import MCP_RESULT, Payload, decode

NAMES = ["add", "Add", "ADD", "read file", "read/file", "read-file", "x" * 300, "x" * 301, "日本", "---", "a.b", "_"]


def test_ids_are_valid_distinct_and_do_not_depend_on_order() -> None:
    ids = skill_ids(NAMES, "files")
    assert len(set(ids.values())) == len(NAMES)
    for id in ids.values():
        check_skill(id)
    assert (ids["add"], ids["read-file"], ids["a.b"]) == ("files.add", "files.read-file", "files.a.b")
    shuffled = list(NAMES)
    random.Random(1).shuffle(shuffled)
    assert skill_ids(shuffled, "files") == ids


def read(result: types.CallToolResult) -> Payload:
    return payload_of(result.model_dump_json(by_alias=True, exclude_unset=True).encode(), result)


def tool(name: str = "t", **fields: object) -> types.Tool:
    return types.Tool.model_validate({"name": name, "inputSchema": {"type": "object"}, **fields})


@pytest.mark.parametrize(
    ("hints", "read_only", "destructive", "idempotent", "open_world"),
    [
        (None, False, True, False, True),
        ({"readOnlyHint": True}, True, False, False, True),
        ({"destructiveHint": False, "idempotentHint": True, "openWorldHint": False}, False, False, True, False),
    ],
)
def test_hints_that_are_not_given_are_as_mcp_has_them(
    hints: object, read_only: bool, destructive: bool, idempotent: bool, open_world: bool
) -> None:
    skills, refused = skills_of([tool(annotations=hints)], "m")
    said = skills["t"].annotations
    assert refused == []
    assert (said.read_only_hint, said.destructive_hint, said.idempotent_hint, said.open_world_hint) == (
        read_only,
        destructive,
        idempotent,
        open_world,
    )
    assert json.loads(skills["t"].source_json).get("annotations") == hints


def test_tools_that_no_card_can_hold_are_named_and_the_others_stay() -> None:
    large = {"type": "object", "description": "x" * 70_000}
    skills, refused = skills_of([tool("large", inputSchema=large), tool("long", description="x" * 5000), tool()], "m")
    assert list(skills) == ["t"]
    assert [text.partition(":")[0] for text in refused] == ["large", "long"]
    skills, refused = skills_of([tool(f"t{n}") for n in range(258)], "m")
    assert (len(skills), len(refused)) == (256, 2)


def test_results_keep_everything_and_read_as_their_structured_content() -> None:
    whole = {
        "content": [{"type": "text", "text": "3"}, {"type": "image", "data": "aGk=", "mimeType": "image/png"}],
        "structuredContent": {"sum": 3},
        "_meta": {"k": [1]},
    }
    payload = read(types.CallToolResult.model_validate(whole))
    assert payload.content_type == MCP_RESULT
    assert {key: value for key, value in json.loads(payload.data).items() if key in whole} == whole
    assert decode(payload.data, payload.content_type) == {"sum": 3}
    assert decode(payload.data, payload.content_type, dict[str, int]) == {"sum": 3}
    assert decode(payload.data, payload.content_type, bytes) == payload.data
    plain = read(types.CallToolResult(content=[types.TextContent(text="hi")]))
    assert decode(*plain)["content"][0]["text"] == "hi"
    null = read(types.CallToolResult.model_validate({"content": [], "structuredContent": None}))
    assert decode(*null) is None


def test_results_that_are_errors_are_failures_that_keep_their_content() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        read(types.CallToolResult(is_error=True, content=[types.TextContent(text="no disk")]))
    problem = caught.value.problem
    assert (problem.reason, problem.message, problem.retryable) == ("TOOL_ERROR", "no disk", False)
    assert json.loads(problem.metadata["mcp_result"])["isError"] is True
