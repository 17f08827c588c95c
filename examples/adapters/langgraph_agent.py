"""A LangGraph graph as a skill: its nodes hand work to other agents, its steps are the task's progress.

The graph is LangGraph's own; what it gains is a queue that survives restarts, deadlines and retries, agents on other devices,
and a history. Each step that hands work on does it under a key of the task's, so that a second attempt finds what the first
one had done instead of doing it again.

    pip install edgenode langgraph
    python langgraph_agent.py                        # EDGENODE_STATE says where the node is
    edgenode submit report.write '{"topic": "pumps"}' --wait
"""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from edgenode.sdk import Agent, Context

agent = Agent("reporter", description="Writes reports of what other agents know.")


class Report(TypedDict, total=False):
    """What passes from step to step."""

    topic: str
    facts: list[str]
    text: str


def graph_of(ctx: Context) -> Any:
    """The graph, with this task's means of handing work on."""

    async def gather(report: Report) -> Report:
        asked = [
            await ctx.submit(
                "facts.find",
                {"topic": report["topic"], "part": part},
                scope="fleet",
                idempotency_key=f"{ctx.task_id}/facts/{part}",
            )
            for part in ("pumps", "valves")
        ]
        return {"facts": await asyncio.gather(*(handle.result(type=str) for handle in asked))}

    async def write(report: Report) -> Report:
        return {"text": f"{report['topic']}: " + "; ".join(report["facts"])}

    graph = StateGraph(Report)
    graph.add_node("gather", gather)
    graph.add_node("write", write)
    graph.add_edge(START, "gather")
    graph.add_edge("gather", "write")
    graph.add_edge("write", END)
    return graph.compile()


@agent.skill("report.write", timeout=600)
async def write_report(ctx: Context, topic: str) -> str:
    """Writes a report on a topic."""
    text = ""
    async for step in graph_of(ctx).astream({"topic": topic}, stream_mode="updates"):
        for name, change in step.items():
            ctx.progress(message=f"{name} is done")
            text = change.get("text", text)
    return text


if __name__ == "__main__":
    agent.serve()
