"""What becomes of parts on their way into a skill and of payloads on their way out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from a2a.types import a2a_pb2
from google.protobuf import json_format

from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.a2a.parts import ARTIFACTS, PARTS, answer_of, content_of, input_of, parts_of
from edgenode.link.errors import EdgenodeError

JSON = "application/json"
Part = a2a_pb2.Part


def skill(schema: Any = None, *modes: str) -> registry_pb2.Skill:
    return registry_pb2.Skill(
        id="s", input_schema="" if schema is None else json.dumps(schema), input_modes=modes or [JSON]
    )


def data(value: Any) -> a2a_pb2.Part:
    part = Part()
    json_format.ParseDict(value, part.data)
    return part


ONE = {"type": "object", "properties": {"text": {"type": "string"}, "n": {"type": "integer"}}, "required": ["text"]}
TWO = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a", "b"]}
REFERRED = {"$ref": "#/$defs/P", "$defs": {"P": ONE}}


@pytest.mark.parametrize(
    ("parts", "of", "taken"),
    [
        ([data({"b": 2, "a": [1.5, None]})], skill(TWO), (b'{"a":[1.5,null],"b":2}', "")),
        ([Part(text='{"x": 9007199254740993}', media_type=JSON)], skill(TWO), (b'{"x": 9007199254740993}', "")),
        ([Part(text="hi")], skill(None, "text/plain"), (b"hi", "text/plain")),
        ([Part(text="# hi", media_type="text/markdown")], skill(None, "text/*"), (b"# hi", "text/markdown")),
        ([Part(text="hi")], skill({"type": "string"}), (b'"hi"', "")),
        ([Part(text="hi")], skill(), (b'"hi"', "")),
        ([Part(text="hi")], None, (b'"hi"', "")),
        ([Part(text="hi")], skill(ONE), (b'{"text":"hi"}', "")),
        ([Part(text="hi")], skill(REFERRED), (b'{"text":"hi"}', "")),
        ([Part(text='{"text": "x", "n": 1}')], skill(ONE), (b'{"text": "x", "n": 1}', "")),
        ([Part(text='{"other": 1}')], skill(ONE), (b'{"text":"{\\"other\\": 1}"}', "")),
        ([Part(text='{"a": "1", "b": "2"}')], skill(TWO), (b'{"a": "1", "b": "2"}', "")),
        ([Part(text="one"), Part(text="two")], skill(ONE), (b'{"text":"one\\ntwo"}', "")),
        ([Part(raw=b"\x00", media_type="image/png")], skill(None, "image/*"), (b"\x00", "image/png")),
        ([Part(raw=b"{}", media_type=JSON)], skill(ONE), (b"{}", "")),
    ],
)
def test_in(parts: list[a2a_pb2.Part], of: registry_pb2.Skill | None, taken: tuple[bytes, str]) -> None:
    assert input_of(parts, of) == taken


@pytest.mark.parametrize(
    ("parts", "of", "reason"),
    [
        ([Part(text="hi")], skill(TWO), "BAD_INPUT"),
        ([Part(text="hi"), data(1)], skill(ONE), "BAD_INPUT"),
        ([Part(raw=b"x", media_type="image/png")], skill(ONE), "UNSUPPORTED_MEDIA_TYPE"),
        ([Part(text="hi")], skill(None, "image/png"), "UNSUPPORTED_MEDIA_TYPE"),
        ([data(1)], skill(None, "text/plain"), "UNSUPPORTED_MEDIA_TYPE"),
        ([Part(url="http://169.254.169.254/")], skill(ONE), "UNSUPPORTED_MEDIA_TYPE"),
    ],
)
def test_refused(parts: list[a2a_pb2.Part], of: registry_pb2.Skill, reason: str) -> None:
    with pytest.raises(EdgenodeError) as refused:
        input_of(parts, of)
    assert (refused.value.reason, bool(refused.value.problem.hint)) == (reason, True)


def test_all_parts_as_they_are() -> None:
    given = [Part(text="a"), Part(url="https://x/y", filename="y"), data({"k": 1})]
    payload = input_of(given, skill(None, PARTS))
    assert payload[1] == PARTS
    assert parts_of(*payload) == given


@pytest.mark.parametrize(
    ("payload", "content_type"),
    [
        (b'"hi"', ""),
        (b'{"a":1,"b":[2.5,null,true,"x"]}', ""),
        (b"null", ""),
        (b"[9007199254740993]", ""),
        (b"hi", "text/plain"),
        (b"# hi", "text/markdown"),
        (b"\x00\xff", "image/png"),
        (b"\xff", "text/plain"),
    ],
)
def test_out_and_back(payload: bytes, content_type: str) -> None:
    assert content_of(parts_of(payload, content_type), content_type or JSON) == (payload, content_type)


def test_names_of_what_one_payload_cannot_say() -> None:
    assert {PARTS.partition("/")[0], ARTIFACTS.partition("/")[0]} == {"application"}
    assert content_of([Part(text="a"), Part(text="b")])[1] == PARTS


@pytest.mark.parametrize(
    ("text", "schema", "answer"),
    [
        ("true", '{"type": "boolean"}', b"true"),
        ("true", '{"type": "string"}', b'"true"'),
        ("true", "", b'"true"'),
        ("yes", '{"type": "boolean"}', b'"yes"'),
        ("7", '{"anyOf": [{"type": "integer"}, {"type": "null"}]}', b"7"),
    ],
)
def test_answers(text: str, schema: str, answer: bytes) -> None:
    assert answer_of([Part(text=text)], schema) == (answer, "")
