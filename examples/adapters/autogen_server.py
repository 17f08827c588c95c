"""An AutoGen agent as an MCP server: mounted, it is an agent of the node, and what other agents can do are its tools.

AutoGen's packages need an older protobuf than edgenode's, so the two speak MCP, each in an environment of its own. What it
gains is a queue that survives restarts, deadlines, agents on other devices, and a history.

    pip install autogen-agentchat "autogen-ext[mcp]"      # where this program runs
    edgenode mcp add assistant -- python autogen_server.py
    edgenode submit assistant.ask '{"question": "How is Oslo?"}' --wait

EDGENODE_TOOLS names the tools it may use, separated by blanks, so that it does not ask itself.
"""

from __future__ import annotations

import json
import os

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ChatCompletionClient
from autogen_core.tools import Workbench
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams
from mcp.server.fastmcp import FastMCP

server = FastMCP("assistant")


def make_model() -> ChatCompletionClient:
    """The model that thinks; `AUTOGEN_MODEL` is a component as AutoGen writes it, JSON."""
    return ChatCompletionClient.load_component(json.loads(os.environ["AUTOGEN_MODEL"]))


class Allowed(McpWorkbench):
    """Some of the tools of the node's MCP server."""

    async def list_tools(self):
        """Those of EDGENODE_TOOLS."""
        allowed = os.environ.get("EDGENODE_TOOLS", "").split()
        return [tool for tool in await super().list_tools() if tool["name"] in allowed]


def node_tools() -> Workbench:
    """What the agents of this node, and of its fleet, can do."""
    command = os.environ.get("EDGENODE_COMMAND", "edgenode")
    return Allowed(StdioServerParams(command=command, args=["mcp", "serve"], env=dict(os.environ)))


@server.tool()
async def ask(question: str) -> str:
    """Answers a question with the help of other agents."""
    async with node_tools() as tools:
        assistant = AssistantAgent("assistant", make_model(), workbench=tools, reflect_on_tool_use=True)
        answer = await assistant.run(task=question)
    return answer.messages[-1].to_text()


if __name__ == "__main__":
    server.run()
