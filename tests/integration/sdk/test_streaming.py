"""Results that form piece by piece, from a skill that is a generator to whoever reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import Internal, ResourceExhausted, Unavailable
from edgenode.link.wire import pieces
from edgenode.sdk import Agent, Client, Context
from edgenode.sdk.testing import LocalNode

WORDS = ["two ", "words ", "more"]


async def test_pieces_come_while_the_skill_runs(node: LocalNode, client: Client) -> None:
    agent, gate = Agent("talker"), asyncio.Event()

    @agent.skill()
    async def talk(ctx: Context) -> AsyncIterator[str]:
        for word in WORDS:
            yield word
            await gate.wait()
            gate.clear()

    assert agent.skills["talk"].signature.output_schema == '{"type":"string"}'
    await node.run(agent)
    handle = await client.submit("talk")
    got = []
    async for piece in handle.stream(str):
        got.append(piece)
        gate.set()  # the next one is made only now
    assert got == WORDS
    assert await handle.result(10) == "".join(WORDS)
    assert [piece async for piece in client.task(handle.task_id).stream()] == ["".join(WORDS)]  # it is over


async def test_a_sync_generator_and_other_types(node: LocalNode, client: Client) -> None:
    agent = Agent("counter")

    @agent.skill()
    def count(to: int) -> Iterator[int]:
        yield from range(to)

    @agent.skill()
    def cut(data: bytes) -> Iterator[bytes]:
        for byte in data:
            yield bytes([byte])

    await node.run(agent)
    counted = await client.submit("count", {"to": 500})
    assert [piece async for piece in counted.stream(int)] == list(range(500))
    assert await counted.result(10) == list(range(500))
    assert await client.call("count", {"to": 3}) == [0, 1, 2]
    assert await client.call("cut", b"abc") == b"abc"


async def test_what_does_not_fit_fails_the_task(node: LocalNode, client: Client) -> None:
    agent = Agent("bad")

    @agent.skill(retries=0)
    async def wrong() -> AsyncIterator[int]:
        yield 1
        yield "x"  # type: ignore[misc]

    @agent.skill(retries=0)
    async def large() -> AsyncIterator[bytes]:
        yield bytes(pieces.MAX_PIECE_BYTES + 1)

    @agent.skill(retries=0)
    async def raises() -> AsyncIterator[int]:
        yield 1
        raise ValueError("in the middle")

    await node.run(agent)
    with pytest.raises(Internal, match="in the middle"):
        assert [piece async for piece in (await client.submit("raises")).stream()] == [1]
    with pytest.raises(ResourceExhausted) as refused:
        await client.call("large")
    assert refused.value.reason == "PIECE_TOO_LARGE"
    with pytest.raises(Exception, match="does not fit") as bad:
        await client.call("wrong")
    assert getattr(bad.value, "reason", "") == "BAD_RESULT"


async def test_another_attempt_interrupts_the_reader_and_the_result_is_whole(node: LocalNode, client: Client) -> None:
    agent, gate = Agent("again"), asyncio.Event()

    @agent.skill()
    async def twice(ctx: Context) -> AsyncIterator[int]:
        yield ctx.attempt
        if ctx.attempt == 1:
            await gate.wait()
            raise ValueError("the first time")

    await node.run(agent)
    handle = await client.submit("twice")
    reader = handle.stream(int)
    assert await anext(reader) == 1
    gate.set()
    with pytest.raises(Unavailable) as interrupted:
        await anext(reader)
    assert interrupted.value.reason == "STREAM_INTERRUPTED"
    assert await handle.result(20) == [2]


async def test_a_fast_generator_waits_for_its_node(node: LocalNode, client: Client) -> None:
    agent, made = Agent("fast"), []

    @agent.skill()
    async def flood() -> AsyncIterator[bytes]:
        for number in range(14):
            made.append(number)
            yield bytes(pieces.MAX_PIECE_BYTES)

    await node.run(agent)
    handle = await client.submit("flood")
    assert len(await handle.result(20)) == 14 * pieces.MAX_PIECE_BYTES
    assert len(made) == 14


def test_a_node_holds_the_newest_within_bounds() -> None:
    held: task_pb2.TaskProgress | None = None
    for index in range(1, 30):
        told = task_pb2.TaskProgress(pieces=[task_pb2.TaskPiece(index=index, data=bytes(30_000))])
        held = pieces.merge(held, told)
    assert held is not None
    assert held.ByteSize() <= pieces.MAX_HELD_BYTES
    assert pieces.newest(held) == 29
    assert [piece.index for piece in pieces.since(held, 27).pieces] == [28, 29]
    many = task_pb2.TaskProgress(pieces=[task_pb2.TaskPiece(index=n + 1) for n in range(9000)], fraction=0.5)
    assert [len(pieces.merge(None, many).pieces), pieces.newest(many)] == [pieces.MAX_HELD_COUNT, 9000]
    assert pieces.words(many) == task_pb2.TaskProgress(fraction=0.5)
