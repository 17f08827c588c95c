"""An agent of the end-to-end tests: each skill behaves, or misbehaves, in one way."""

import asyncio
import os
from collections.abc import AsyncIterator

from edgenode.sdk import Agent, Context

agent = Agent("odd", description="Does what tests need", concurrency=16)


@agent.skill("odd.echo", idempotent=True)
async def echo(text: str) -> str:
    """Says it again."""
    return text


@agent.skill("odd.steps")
async def steps(ctx: Context, count: int) -> int:
    """Counts, and says so."""
    for step in range(count):
        ctx.progress((step + 1) / count, f"step {step + 1}")
        await asyncio.sleep(0.05)
    return count


@agent.skill("odd.spell")
async def spell(word: str) -> AsyncIterator[str]:
    """A letter at a time."""
    for letter in word:
        yield letter
        await asyncio.sleep(0.02)


@agent.skill("odd.ask")
async def ask(ctx: Context, question: str) -> str:
    """Asks its submitter."""
    answer = await ctx.input(question, str, key="answer")
    return f"you said {answer}"


@agent.skill("odd.raise")
async def fail(text: str) -> str:
    """Raises."""
    raise ValueError(text)


@agent.skill("odd.wrong")
async def wrong() -> int:
    """Returns what it did not promise."""
    return "not a number"  # type: ignore[return-value]


@agent.skill("odd.never", timeout=1, retries=0)
async def never() -> None:
    """Never returns by itself."""
    await asyncio.Event().wait()


@agent.skill("odd.wait")
async def wait(seconds: float) -> str:
    """Takes its time."""
    await asyncio.sleep(seconds)
    return "waited"


@agent.skill("odd.huge")
async def huge() -> bytes:
    """Gives more than is taken."""
    return b"x" * (2 << 20)


@agent.skill("odd.die")
async def die() -> None:
    """Takes its process with it."""
    os._exit(9)
