"""Calls that are read along: what a skill yields reaches its caller while it runs, and nothing of it is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.task.v1 import task_pb2, task_service_pb2_grpc
from edgenode.api.task.v1 import task_service_pb2 as pb
from edgenode.link.errors import DeadlineExceeded, Internal, NotFound, ResourceExhausted, Unavailable
from edgenode.link.wire import pieces
from edgenode.sdk import Agent, Client, Context
from edgenode.sdk.testing import LocalNode

PIECE = bytes(pieces.MAX_PIECE_BYTES)
MANY = 160  # pieces of so much: ten times what a result may have, and more than a connection holds (4 MiB)


async def _read(given: AsyncIterator[object]) -> list[object]:
    return [piece async for piece in given]


async def test_pieces_come_while_the_skill_runs(node: LocalNode, client: Client) -> None:
    agent, gate = Agent("talker"), asyncio.Event()

    @agent.skill()
    async def talk(words: list[str]) -> AsyncIterator[str]:
        for word in words:
            yield word
            await gate.wait()
            gate.clear()

    @agent.skill()
    async def nothing() -> AsyncIterator[str]:
        for word in list[str]():
            yield word

    @agent.skill()
    async def whole(ctx: Context) -> list[int]:
        return [number async for number in ctx.stream("count")]

    @agent.skill()
    def count() -> Iterator[int]:
        yield from range(3)

    await node.run(agent)
    got = []
    async for word in client.stream("talk", {"words": ["two ", "words"]}, type=str):
        got.append(word)
        gate.set()  # the next one is made only now
    assert got == ["two ", "words"]
    gate.set()
    assert [word async for word in client.skill("talk").stream(["one"])] == ["one"]
    assert [word async for word in client.stream("nothing")] == []
    assert [number async for number in client.stream("whole", type=int)] == [0, 1, 2]  # one that yields nothing
    assert await client.list_tasks() == []


async def test_a_slow_reader_slows_the_skill_and_misses_nothing(node: LocalNode, client: Client) -> None:
    agent, made = Agent("fast", concurrency=4), []

    @agent.skill()
    async def flood() -> AsyncIterator[bytes]:
        for number in range(MANY):
            made.append(number)
            yield bytes([number % 256]) + PIECE[1:]

    @agent.skill()
    def flood_in_a_thread() -> Iterator[bytes]:
        for number in range(MANY):
            made.append(number)
            yield bytes([number % 256]) + PIECE[1:]

    @agent.skill()
    async def echo(number: int) -> int:
        return number

    await node.run(agent)
    for skill in ("flood", "flood_in_a_thread"):
        made.clear()
        async with aclosing(client.stream(skill, type=bytes)) as given:
            first, before = await anext(given), 0
            while len(made) > before:  # until it stands still, while others are served
                before = len(made)
                for number in range(20):
                    assert await client.call("echo", {"number": number}) == number
            assert before < MANY
            assert [piece[0] for piece in [first, *[piece async for piece in given]]] == [n % 256 for n in range(MANY)]


async def test_who_stops_reading_ends_the_skill(node: LocalNode, client: Client) -> None:
    agent, ended = Agent("endless", concurrency=1), asyncio.Event()

    @agent.skill()
    async def count() -> AsyncIterator[int]:
        try:
            for number in range(1 << 62):
                yield number
        finally:
            ended.set()

    @agent.skill()
    def tick() -> Iterator[int]:
        try:
            yield from range(1 << 62)
        finally:
            asyncio.run_coroutine_threadsafe(_set(ended), loop)

    async def _set(event: asyncio.Event) -> None:
        event.set()

    loop = asyncio.get_running_loop()
    await node.run(agent)
    for skill in ("count", "tick", "count"):
        ended.clear()
        async with aclosing(client.stream(skill, timeout=60)) as given:
            async for number in given:
                if number == 5000:
                    break
        await asyncio.wait_for(ended.wait(), 20)


async def test_what_ends_it_comes_behind_what_was_given(node: LocalNode, client: Client) -> None:
    agent = Agent("bad")

    @agent.skill()
    async def raises() -> AsyncIterator[int]:
        yield 1
        raise ValueError("in the middle")

    @agent.skill()
    async def hangs() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    run = await node.run(agent)
    given = client.stream("raises")
    assert await anext(given) == 1
    with pytest.raises(Internal, match="in the middle"):
        await anext(given)
    with pytest.raises(DeadlineExceeded):
        await _read(client.stream("hangs", timeout=0.5))
    with pytest.raises(NotFound) as unknown:
        await anext(client.stream("juggle"))
    assert unknown.value.reason == "UNKNOWN_SKILL"
    given = client.stream("hangs")
    assert await anext(given) == 1
    await agent.stop(grace=0)
    with pytest.raises(Unavailable) as stopped:
        await anext(given)
    assert stopped.value.reason == "AGENT_STOPPED"
    await run


async def test_the_end_of_the_node_is_told(node: LocalNode) -> None:
    agent = Agent("hangs")

    @agent.skill()
    async def hangs() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    await node.run(agent)
    async with node.client(connect_timeout=0.5) as client:
        assert node.node is not None
        given = client.stream("hangs")
        assert await anext(given) == 1
        await node.node.stop()
        with pytest.raises(Unavailable) as gone:
            await anext(given)
        assert gone.value.reason in ("NODE_STOPPING", "NODE_LOST", "AGENT_LOST")
        with pytest.raises(Unavailable) as away:
            await anext(client.stream("hangs"))
        assert away.value.reason == "UNREACHABLE"
        await node.restart()


async def test_only_so_many_are_read_along(node: LocalNode, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent("hangs", concurrency=4)

    @agent.skill()
    async def hangs() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    await node.run(agent)
    monkeypatch.setattr(pieces, "MAX_STREAMS", 1)
    async with aclosing(client.stream("hangs")) as given:
        assert await anext(given) == 1
        with pytest.raises(ResourceExhausted) as full:
            await anext(client.stream("hangs"))
        assert (full.value.reason, full.value.problem.retry_after) == ("STREAMS_FULL", 1.0)


class _Stubs:
    """An agent that is written by hand."""

    def __init__(self, client: Client) -> None:
        self._registry = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
        self.stream = task_service_pb2_grpc.TaskServiceStub(client.channel).WorkTasks()

    async def attach(self) -> None:
        card = registry_pb2.AgentCard(name="raw", skills=[registry_pb2.Skill(id="raw")])
        await self._registry.RegisterAgent(
            registry_service_pb2.RegisterAgentRequest(request_id="1", card=card, instance_id="1", incarnation=1)
        )
        attach = pb.WorkAttach(agent="raw", instance_id="1")
        await self.stream.write(pb.WorkTasksRequest(attach=attach, credit_count=1))
        assert (await self._read()).HasField("attached")

    async def _read(self) -> pb.WorkTasksResponse:
        frame = await self.stream.read()
        assert isinstance(frame, pb.WorkTasksResponse)
        return frame

    async def assigned(self) -> pb.Assignment:
        while not (frame := await self._read()).assignments:
            pass
        return frame.assignments[0]

    async def allowed(self) -> int:
        while not (frame := await self._read()).piece_allowances:
            pass
        return frame.piece_allowances[0].room_bytes

    async def give(self, key: pb.AttemptKey, first: int, count: int) -> None:
        given = [task_pb2.TaskPiece(index=first + n, data=PIECE, content_type="a/b") for n in range(count)]
        update = pb.AttemptUpdate(key=key, progress=task_pb2.TaskProgress(pieces=given))
        await self.stream.write(pb.WorkTasksRequest(updates=[update]))


async def test_an_agent_is_allowed_what_was_read_and_ended_beyond(client: Client) -> None:
    stubs = _Stubs(client)
    await stubs.attach()
    given = client.stream("raw", type=bytes)
    first = asyncio.ensure_future(anext(given))
    work = await stubs.assigned()
    assert work.piece_room_bytes == pieces.ROOM_BYTES
    await stubs.give(work.key, 1, 1)
    assert await first == PIECE
    assert await stubs.allowed() == pieces.cost([task_pb2.TaskPiece(data=PIECE)])
    await stubs.give(work.key, 2, 3)
    with pytest.raises(ResourceExhausted) as ended:
        await _read(given)
    assert ended.value.reason == "PIECES_UNASKED"
    stubs.stream.cancel()


async def test_an_agent_that_goes_away_ends_the_call(client: Client) -> None:
    stubs = _Stubs(client)
    await stubs.attach()
    given = client.stream("raw", type=bytes)
    first = asyncio.ensure_future(anext(given))
    await stubs.give((await stubs.assigned()).key, 1, 1)
    assert await first == PIECE
    stubs.stream.cancel()
    with pytest.raises(Unavailable) as lost:
        await anext(given)
    assert lost.value.reason == "AGENT_LOST"


async def test_one_that_knows_no_allowances_is_read_as_a_whole(client: Client) -> None:
    stubs = _Stubs(client)
    await stubs.attach()
    given = client.stream("raw")
    first = asyncio.ensure_future(anext(given))
    work = await stubs.assigned()
    result = pb.AttemptResult(key=work.key, state=task_pb2.TASK_STATE_COMPLETED)
    result.output.data = b'["a", "b"]'
    await stubs.stream.write(pb.WorkTasksRequest(results=[result]))
    assert [await first, *[piece async for piece in given]] == ["a", "b"]
    stubs.stream.cancel()
