"""`edgenode`: the table of commands. A command's module is imported when it runs; its short help stands here."""

from __future__ import annotations

import click

import edgenode
from edgenode.link.terminal.lazy import App

_COMMANDS = {
    "join": ("edgenode.cli.join:join", "Join a hub with a token."),
    "run": ("edgenode.cli.run:run", "Run the edge node until SIGTERM or SIGINT."),
    "status": ("edgenode.cli.status:status", "How the node is; exit code 7 when it is not ready."),
    "agents": ("edgenode.cli.registry:agents", "Agents of this node."),
    "find": ("edgenode.cli.registry:find", "Agents fit for a job, best first, with reasons."),
    "call": ("edgenode.cli.work:call", "Run a skill now, unstored, and print its result."),
    "blob": ("edgenode.cli.blob:blob", "Put large content, get, list and remove it."),
    "submit": ("edgenode.cli.work:submit", "Store a task; it runs when an agent can take it."),
    "tasks": ("edgenode.cli.tasks:tasks", "Look at tasks, follow, cancel, replay, answer them."),
    "publish": ("edgenode.cli.messages:publish", "Publish messages to a topic."),
    "subscribe": ("edgenode.cli.messages:subscribe", "Print messages of a topic as they come."),
    "deadletters": ("edgenode.cli.deadletters:deadletters", "Things that were given up and kept."),
    "ledger": ("edgenode.cli.ledger:ledger", "The counts of every hop, and whether they are true."),
    "backup": ("edgenode.cli.backup:backup", "Back up the node, also while it runs."),
    "verify": ("edgenode.cli.backup:verify", "Check a backup of a node."),
    "restore": ("edgenode.cli.backup:restore", "Put a backup in place of a stopped node's state."),
    "agent": ("edgenode.cli.agent:agent", "Run an agent written with edgenode.sdk."),
    "mcp": ("edgenode.cli.mcp:mcp", "MCP servers as agents of this node, and the node as an MCP server."),
    "a2a": ("edgenode.cli.a2a:a2a", "A2A agents as agents here, and ours for A2A callers."),
    "config": ("edgenode.cli.config:config", "The configuration and where it comes from."),
    "demo": ("edgenode.cli.demo:demo", "A hub, two edges and real agents on this machine, with a link that is cut."),
}


@click.group(
    cls=App, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(edgenode.__version__, prog_name="edgenode")
def main() -> None:
    """Agents on one device find each other, hand over work and publish, with or without a network.

    Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 denied, 5 unavailable, 6 accepted but pending, 7 degraded.
    """
