"""`edgehub`: the table of commands. A command's module is imported when it runs; its short help stands here."""

from __future__ import annotations

import click

from edgenode.link.terminal.lazy import App

_COMMANDS = {
    "init": ("hub.cli.authority:init", "Make a hub: its certificate authority and state directory."),
    "join": ("hub.cli.join:join", "Put this hub below another one."),
    "leave": ("hub.cli.join:leave", "Take this hub out from below its parent."),
    "serve": ("hub.cli.serve:serve", "Run the hub until SIGTERM or SIGINT."),
    "token": ("hub.cli.authority:token", "Tokens with which edges join."),
    "ca": ("hub.cli.authority:ca", "The fleet's certificate authorities: rotate them."),
    "status": ("hub.cli.fleet:status", "How the hub is."),
    "nodes": ("hub.cli.fleet:nodes", "The nodes that ever joined; letting a quarantined one in again."),
    "agents": ("hub.cli.registry:agents", "Agents of the whole fleet."),
    "find": ("hub.cli.registry:find", "Agents of the fleet fit for a job, best first, with reasons."),
    "tasks": ("hub.cli.tasks:tasks", "Tasks that came to the hub."),
    "blob": ("hub.cli.blob:blob", "Large content that the fleet's tasks refer to."),
    "subscribe": ("hub.cli.messages:subscribe", "Print messages of the whole fleet as they come."),
    "desired": ("hub.cli.desired:desired", "What the hub wants of a node: log level, lane weights, limits."),
    "backup": ("hub.cli.backup:backup", "Back up the hub, also while it runs."),
    "verify": ("hub.cli.backup:verify", "Check a backup of a hub."),
    "restore": ("hub.cli.backup:restore", "Put a backup in place of a stopped hub's state."),
    "deadletters": ("hub.cli.deadletters:deadletters", "Things that were given up and kept, by the hub or by an edge."),
    "ledger": ("hub.cli.ledger:ledger", "The hub's counts of every hop, and whether they are true."),
}


@click.group(
    cls=App, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="edgenode", prog_name="edgehub")
def main() -> None:
    """The hub of a fleet of edge nodes: sees every agent, moves work between edges, keeps their messages.

    Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 denied, 5 unavailable, 6 accepted but pending, 7 degraded.
    """
