"""An agent whose input and result are too large for a payload: both travel as references.

edgenode run &
python examples/artifact_agent.py &
ref=$(edgenode blob put /etc/services -o json)
edgenode submit text.sort "{\"file\": $ref}" --wait
edgenode blob list
"""

from __future__ import annotations

from dataclasses import dataclass

from edgenode.sdk import Agent, BlobRef, Context

agent = Agent("sorter")


@dataclass
class Sorted:
    """What `text.sort` gives."""

    lines: int
    file: BlobRef


@agent.skill("text.sort", idempotent=True)
async def sort(ctx: Context, file: BlobRef) -> Sorted:
    """Sorts the lines of a text."""
    lines = sorted((await ctx.fetch(file)).splitlines(keepends=True))
    artifact = await ctx.artifact(f"sorted-{file.name or 'text'}", b"".join(lines), "text/plain")
    return Sorted(len(lines), artifact)


if __name__ == "__main__":
    agent.serve()
