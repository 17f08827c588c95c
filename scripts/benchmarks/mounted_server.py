"""The MCP server of the case `mcp`: one tool, by the SDK's own server."""

from __future__ import annotations

from mcp.server import MCPServer
from mcp_types import ToolAnnotations

server = MCPServer("bench")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def echo(text: str) -> str:
    """Gives back its input."""
    return text


if __name__ == "__main__":
    server.run("stdio")
