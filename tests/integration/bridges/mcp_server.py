"""An MCP server for tests, started as a program: `mcp_server.py [--http PORT]`. Its tools do what a mount has to cope with."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Elicit, ElicitationResult, Resolve
from mcp_types import CallToolResult, ContentBlock, Icon, ImageContent, TextContent, ToolAnnotations
from pydantic import BaseModel

server = MCPServer("fixture", version="1.0", instructions="Does what tests need.")


class Sum(BaseModel):
    sum: int


class Name(BaseModel):
    name: str


def _note(notes: str, text: str = "ran") -> None:
    with Path(notes).open("a") as file:
        file.write(text + "\n")


@server.tool(
    annotations=ToolAnnotations(read_only_hint=True), title="Adds numbers", icons=[Icon(src="data:,+")], meta={"x": 1}
)
def add(a: int, b: int) -> Sum:
    """Adds two numbers."""
    return Sum(sum=a + b)


@server.tool(annotations=ToolAnnotations(idempotent_hint=True, destructive_hint=False))
async def slow(steps: int, ctx: Context, notes: str = "") -> str:
    """Takes steps and says so; notes that it began and that it was cancelled."""
    try:
        for step in range(steps):
            await ctx.report_progress(step + 1, steps, f"step {step + 1}")
            if step == 0 and notes:
                _note(notes, "began")
            await asyncio.sleep(0.02)
    except BaseException:
        if notes:
            _note(notes, "cancelled")
        raise
    return "done"


@server.tool()
def fails() -> CallToolResult:
    """Fails, and says why."""
    return CallToolResult(
        is_error=True, content=[TextContent(text="the disk is full")], structured_content={"code": 28}
    )


def _who() -> Elicit[Name]:
    return Elicit("Who are you?", Name)


@server.tool(name="Ask-Me")
async def ask(answer: Annotated[ElicitationResult[Name], Resolve(_who)]) -> str:
    """Asks for a name, in the way of either revision."""
    return f"Hello, {answer.data.name}!" if answer.action == "accept" else answer.action


@server.tool(name="ask-me")
def other() -> str:
    """Has nearly the name of another."""
    return "other"


@server.tool()
def crash(notes: str) -> str:
    """Notes that it ran, and takes the server down."""
    _note(notes)
    sys.stderr.write("crashing as asked\n")
    sys.stderr.flush()
    os._exit(3)


@server.tool(annotations=ToolAnnotations(idempotent_hint=True))
def crash_once(notes: str) -> str:
    """Takes the server down the first time."""
    first = not Path(notes).exists()
    _note(notes)
    if first:
        os._exit(3)
    return "survived"


@server.tool()
async def stuck(notes: str) -> str:
    """Notes that it ran, and does not end."""
    _note(notes)
    await asyncio.Event().wait()
    return "never"


@server.tool(structured_output=False)
def picture() -> list[ContentBlock]:
    """Content that is no text."""
    return [ImageContent(data="aGk=", mime_type="image/png"), TextContent(text="a picture")]


@server.tool()
async def learn(ctx: Context) -> str:
    """Becomes one tool richer."""
    server.add_tool(lambda: "learnt", name="learnt", description="A tool of later.", structured_output=False)
    await ctx.notify_tools_changed()
    return "yes"


@server.tool()
def header(name: str, ctx: Context) -> str:
    """A header of the request."""
    return (ctx.headers or {}).get(name, "")


@server.tool()
def note(notes: str, text: str) -> int:
    """Appends a line; says which process did."""
    _note(notes, text)
    return os.getpid()


if __name__ == "__main__":
    if "--http" in sys.argv:
        server.run("streamable-http", port=int(sys.argv[sys.argv.index("--http") + 1]))
    else:
        server.run("stdio")
