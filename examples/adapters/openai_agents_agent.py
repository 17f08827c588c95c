"""An agent of the OpenAI Agents SDK that uses the skills of this node and of the fleet as its tools.

Each skill becomes a function tool with the schema of its card. A tool call is a durable task. Its idempotency key is made of
what it asks for: a run that is repeated after a crash gets the results it had, and the same question is not run twice.

    pip install edgenode openai-agents
    OPENAI_API_KEY=... python openai_agents_agent.py  # EDGENODE_STATE says where the node is
    edgenode submit assistant.ask '{"question": "How warm is it in Oslo?"}' --wait
"""

from __future__ import annotations

import hashlib
from typing import Any

import agents
import msgspec
from agents.tool_context import ToolContext

from edgenode.api.registry.v1 import registry_pb2
from edgenode.link.errors import EdgenodeError
from edgenode.sdk import Agent, Client, Context

agent = Agent("assistant", description="Answers questions with the help of other agents.")
model: agents.Model | str | None = None  # None: the SDK's default


def tool_of(skill: registry_pb2.Skill, ctx: Context) -> agents.FunctionTool:
    """A skill as a tool."""

    async def invoke(_: ToolContext[Any], arguments: str) -> str:
        try:
            input = msgspec.json.decode(arguments or "{}")
            digest = hashlib.sha256(msgspec.json.encode(input, order="sorted")).hexdigest()[:32]
            handle = await ctx.submit(
                skill.id,
                input,
                scope="fleet",
                idempotency_key=f"{ctx.task_id}/{skill.id}/{digest}",
            )
            return msgspec.json.encode(await handle.result(ctx.time_left)).decode()
        except EdgenodeError as error:
            return f"error: {error}"  # the model may find another way

    return agents.FunctionTool(
        name=skill.id.replace(".", "_"),
        description=skill.description or skill.name,
        params_json_schema=msgspec.json.decode(skill.input_schema or '{"type": "object", "properties": {}}'),
        on_invoke_tool=invoke,
        strict_json_schema=False,
    )


async def tools(client: Client, ctx: Context) -> list[agents.Tool]:
    """A tool for each skill of this node's other agents that takes an object."""
    skills = {
        skill.id: skill
        for other in await client.agents()
        if other.card.name != ctx.agent
        for skill in other.card.skills
        if '"object"' in skill.input_schema
    }
    return [tool_of(skill, ctx) for skill in skills.values()]


@agent.skill("assistant.ask", timeout=600)
async def ask(ctx: Context, question: str) -> str:
    """Answers a question."""
    async with Client() as client:
        assistant: agents.Agent[None] = agents.Agent(
            name="assistant",
            instructions="Answer briefly. Use the tools for what you cannot know.",
            tools=await tools(client, ctx),
            model=model,
        )
    return str((await agents.Runner.run(assistant, question)).final_output)


if __name__ == "__main__":
    agent.serve()
