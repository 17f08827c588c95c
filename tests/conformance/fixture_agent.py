"""The tools, prompts and resources the MCP conformance suite looks for, as skills of an ordinary agent.

What MCP has and skills have not is said as docs/agents.md says: a tag makes a skill a prompt or a resource, a Payload of the
type MCP_RESULT is a result of the protocol, and a schema with REQUESTS asks the client for more than a form.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import msgspec

from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.mcp.questions import REQUESTS
from edgenode.link.errors import FailedPrecondition, Internal
from edgenode.sdk import Agent, Context, Payload
from edgenode.sdk.agent import Skill
from edgenode.sdk.encoding import MCP_RESULT
from edgenode.sdk.signature import Signature

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAESsAABErAAABAAgAZGF0YQAAAAA="
PAUSE = 0.05

agent = Agent("conformance", description="What the MCP conformance suite looks for.", concurrency=64)


def result(**fields: Any) -> Payload:
    """A result of the protocol, whole."""
    return Payload(msgspec.json.encode(fields), MCP_RESULT)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image() -> dict[str, Any]:
    return {"type": "image", "data": PNG, "mimeType": "image/png"}


def embedded(uri: str, media_type: str, words: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": media_type, "text": words}}


async def ask(ctx: Context, prompt: str, **requests: dict[str, Any]) -> dict[str, Any]:
    """Responses of the client to requests of the protocol, by name."""
    schema = {"type": "object", "required": list(requests), REQUESTS: requests}
    answer: dict[str, Any] = await ctx.input(prompt, schema=json.dumps(schema))
    return answer


def form(message: str, required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def sampling(prompt: str) -> dict[str, Any]:
    message = {"role": "user", "content": text(prompt)}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 100}}


ROOTS: dict[str, Any] = {"method": "roots/list", "params": {}}
STRING = {"type": "string"}
CONFIRM = {"type": "boolean", "description": "Really?"}

# --- tools ---


@agent.skill(idempotent=True)
async def test_simple_text() -> str:
    """Gives a text."""
    return "This is a simple text response for testing."


@agent.skill()
async def test_image_content() -> Payload:
    """Gives a picture."""
    return result(content=[image()])


@agent.skill()
async def test_audio_content() -> Payload:
    """Gives a sound."""
    return result(content=[{"type": "audio", "data": WAV, "mimeType": "audio/wav"}])


@agent.skill()
async def test_embedded_resource() -> Payload:
    """Gives a resource."""
    return result(content=[embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")])


@agent.skill()
async def test_multiple_content_types() -> Payload:
    """Gives a text, a picture and a resource."""
    data = '{"test":"data","value":123}'
    resource = embedded("test://mixed-content-resource", "application/json", data)
    return result(content=[text("Multiple content types test:"), image(), resource])


@agent.skill()
async def test_tool_with_logging(ctx: Context) -> str:
    """Says thrice what it does."""
    ctx.progress(message="Tool execution started")
    await asyncio.sleep(PAUSE)
    ctx.progress(message="Tool processing data")
    await asyncio.sleep(PAUSE)
    ctx.progress(message="Tool execution completed")
    await asyncio.sleep(PAUSE)
    return "done"


@agent.skill()
async def test_logging_tool(ctx: Context) -> str:
    """Says what it does."""
    ctx.progress(message="at work")
    await asyncio.sleep(PAUSE)
    return "done"


@agent.skill()
async def test_tool_with_progress(ctx: Context) -> str:
    """Says how far it has come."""
    for fraction in (0.0, 0.5, 1.0):
        ctx.progress(fraction)
        await asyncio.sleep(PAUSE)
    return "done"


@agent.skill()
async def test_error_handling() -> str:
    """Fails."""
    raise ValueError("This tool intentionally returns an error for testing")


@agent.skill()
async def test_sampling(ctx: Context, prompt: str) -> str:
    """Asks the client's model."""
    answer = await ask(ctx, prompt, answer=sampling(prompt))
    return f"LLM response: {answer['answer']['content']['text']}"


@agent.skill()
async def test_elicitation(ctx: Context, message: str) -> str:
    """Asks the user."""
    fields = {"username": STRING | {"description": "User's response"}, "email": STRING | {"description": "E-mail"}}
    answer = await ask(ctx, message, answer=form(message, ("username", "email"), **fields))
    return f"User response: {json.dumps(answer['answer'])}"


@agent.skill()
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Asks with defaults."""
    fields: dict[str, Any] = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    answer = await ask(ctx, "Defaults", answer=form("Please check the defaults", **fields))
    return f"Elicitation completed: {json.dumps(answer['answer'])}"


@agent.skill()
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Asks with choices of every kind."""
    plain = ["option1", "option2", "option3"]
    titled = [{"const": f"value{n}", "title": f"Option {n}"} for n in (1, 2, 3)]
    fields: dict[str, Any] = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    answer = await ask(ctx, "Choices", answer=form("Please choose", **fields))
    return f"Elicitation completed: {json.dumps(answer['answer'])}"


# --- 2026-07-28: answers that ask ---


@agent.skill()
async def test_input_required_result_elicitation(ctx: Context) -> str:
    """Asks for a name."""
    answer = await ask(ctx, "name", user_name=form("What is your name?", ("name",), name=STRING))
    return f"Hello, {answer['user_name'].get('content', {}).get('name', 'nobody')}!"


@agent.skill()
async def test_streaming_elicitation(ctx: Context) -> str:
    """Says how far it has come, and asks."""
    ctx.progress(0.5)
    answer = await ask(ctx, "go on", go=form("Go on?", confirm=CONFIRM))
    return str(answer["go"]["action"])


@agent.skill()
async def test_input_required_result_sampling(ctx: Context) -> str:
    """Asks the client's model."""
    answer = await ask(ctx, "capital", capital_question=sampling("What is the capital of France?"))
    return f"It says: {answer['capital_question']['content']['text']}"


test_missing_capability = agent.skill("test_missing_capability")(test_input_required_result_sampling)


@agent.skill()
async def test_input_required_result_list_roots(ctx: Context) -> str:
    """Asks for the client's roots."""
    answer = await ask(ctx, "roots", client_roots=ROOTS)
    return f"{len(answer['client_roots']['roots'])} roots"


@agent.skill()
async def test_input_required_result_request_state(ctx: Context) -> str:
    """Asks for a confirmation."""
    answer = await ask(ctx, "confirm", confirm=form("Please confirm", ("ok",), ok={"type": "boolean"}))
    return f"state-ok: {answer['confirm']['action']}"


test_input_required_result_tampered_state = agent.skill("test_input_required_result_tampered_state")(
    test_input_required_result_request_state
)


@agent.skill()
async def test_input_required_result_multiple_inputs(ctx: Context) -> str:
    """Asks for a name, the model's opinion and the roots at once."""
    answer = await ask(
        ctx,
        "several things",
        user_name=form("What is your name?", ("name",), name=STRING),
        greeting=sampling("Generate a greeting"),
        client_roots=ROOTS,
    )
    return ", ".join(answer)


@agent.skill()
async def test_input_required_result_multi_round(ctx: Context) -> str:
    """Asks twice, one after the other."""
    first = await ask(ctx, "name", step1=form("Step 1: What is your name?", ("name",), name=STRING))
    second = await ask(ctx, "colour", step2=form("Step 2: What is your favorite color?", ("color",), color=STRING))
    return f"{first['step1']['content']['name']} likes {second['step2']['content']['color']}"


@agent.skill()
async def test_input_required_result_capabilities(ctx: Context) -> str:
    """Asks what the client can answer, the model."""
    answer = await ask(ctx, "opinion", opinion=sampling("What do you think?"))
    return str(answer["opinion"]["content"]["text"])


# --- schemas ---


@agent.skill()
async def test_header_parameter(
    region: Annotated[str, msgspec.Meta(extra_json_schema={"x-mcp-header": "Region"})], query: str | None
) -> str:
    """Has a parameter that travels in a header as well."""
    return f"{region}: {query}"


async def _any(input: bytes) -> str:
    return input.decode()


SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"street": STRING, "city": STRING}}},
    "properties": {
        "name": STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": STRING,
        "email": STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
agent.skills["json_schema_2020_12_tool"] = Skill(
    "json_schema_2020_12_tool",
    Signature(_any),
    entry=registry_pb2.Skill(
        id="json_schema_2020_12_tool", description="Has a rich schema.", input_schema=json.dumps(SCHEMA_2020_12)
    ),
)

# --- changes ---


@agent.skill()
async def test_trigger_tool_change(ctx: Context) -> str:
    """Has one tool more or less afterwards."""
    await _toggle("test_dynamic_tool", ())
    return "changed"


@agent.skill()
async def test_trigger_prompt_change(ctx: Context) -> str:
    """Has one prompt more or less afterwards."""
    await _toggle("test_dynamic_prompt", ("mcp:prompt",))
    return "changed"


async def _toggle(id: str, tags: tuple[str, ...]) -> None:
    if id in agent.skills:
        del agent.skills[id]
    else:

        @agent.skill(id, tags=tags)
        async def dynamic() -> str:
            """Comes and goes."""
            return "here"

    await agent.replace_skills(list(agent.skills.values()))


# --- prompts ---


@agent.skill(tags=["mcp:prompt"])
async def test_simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


@agent.skill(tags=["mcp:prompt"])
async def test_prompt_with_arguments(
    arg1: Annotated[str, msgspec.Meta(description="First test argument", examples=["test value", "testing"])],
    arg2: Annotated[str, msgspec.Meta(description="Second test argument")],
) -> str:
    """A prompt with arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@agent.skill(tags=["mcp:prompt"])
async def test_prompt_with_embedded_resource(resourceUri: str) -> Payload:
    """A prompt with a resource."""
    resource = embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    messages = [{"role": "user", "content": resource}, {"role": "user", "content": text("Please process it.")}]
    return result(messages=messages)


@agent.skill(tags=["mcp:prompt"])
async def test_prompt_with_image() -> Payload:
    """A prompt with a picture."""
    messages = [{"role": "user", "content": image()}, {"role": "user", "content": text("Please analyze it.")}]
    return result(messages=messages)


@agent.skill(tags=["mcp:prompt"])
async def test_input_required_result_prompt(ctx: Context) -> str:
    """A prompt that asks."""
    answer = await ask(ctx, "context", user_context=form("What context?", ("context",), context=STRING))
    return f"Use this context: {answer['user_context'].get('content', {}).get('context', '')}"


# --- resources ---


@agent.skill(tags=["mcp:resource=test://static-text"])
async def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


@agent.skill(tags=["mcp:resource=test://static-binary"])
async def static_binary() -> Payload:
    """A picture."""
    return result(contents=[{"uri": "test://static-binary", "mimeType": "image/png", "blob": PNG}])


@agent.skill(tags=["mcp:resource=test://watched-resource"])
async def watched_resource() -> str:
    """A text somebody watches."""
    return "Watched resource content"


@agent.skill(tags=["mcp:resource=test://template/{id}/data"])
async def template(id: str) -> dict[str, Any]:
    """Data by id."""
    return {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}


# --- the tasks extension ---


@agent.skill()
async def greet(name: str) -> str:
    """Greets."""
    return f"Hello, {name}!"


@agent.skill(timeout=120.0)
async def test_tool_with_task(ctx: Context) -> str:
    """Asks for a name, then takes its time."""
    answer = await ask(ctx, "name", user_name=form("What is your name?", ("name",), name=STRING))
    await asyncio.sleep(1.0)
    return f"Hello, {answer['user_name']['content']['name']}!"


@agent.skill(timeout=120.0)
async def slow_compute(seconds: float, label: str = "") -> str:
    """Takes its time."""
    await asyncio.sleep(seconds)
    return f"{label} after {seconds} s"


@agent.skill(tags=["mcp:task-only"])
async def failing_job() -> str:
    """Fails."""
    raise FailedPrecondition("JOB_FAILED", "the job fails as it should")


@agent.skill(tags=["mcp:task"])
async def protocol_error_job() -> str:
    """Ends in an error of the protocol."""
    raise Internal("MCP_ERROR", "an error of the protocol", mcp_code=-32603)


@agent.skill(tags=["mcp:task"])
async def confirm_delete(ctx: Context, filename: str) -> str:
    """Asks before it would delete something."""
    answer = await ask(ctx, "confirm", confirm=form(f"Delete {filename}?", confirm=CONFIRM))
    return f"{filename}: {answer['confirm']['action']}"


@agent.skill(tags=["mcp:task"])
async def multi_input(ctx: Context) -> str:
    """Asks two things at once."""
    answer = await ask(
        ctx, "two things", first=form("Name?", name=STRING), second=form("Really?", name=STRING, confirm=CONFIRM)
    )
    return ", ".join(answer)


if __name__ == "__main__":
    agent.serve()
