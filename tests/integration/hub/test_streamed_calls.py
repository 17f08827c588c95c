"""Calls that are read along, from another edge: pieces come down, allowances go up, and whatever ends them is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.link.errors import EdgenodeError, Internal
from edgenode.link.wire import pieces
from edgenode.sdk import Agent, Client
from tests.integration.hub.edges import Edges, moves
from tests.integration.hub.fake_edge import until
from tests.integration.hub.forest import Forest, Grown

PIECE = bytes(pieces.MAX_PIECE_BYTES)
MANY = 160  # pieces of so much: more than links and connections hold together


class Talker:
    """An agent, and what became of what it gave."""

    def __init__(self) -> None:
        self.made = 0
        self.ended = asyncio.Event()
        self.agent = agent = Agent("talker")

        @agent.skill()
        async def flood() -> AsyncIterator[bytes]:
            try:
                for _ in range(MANY):
                    self.made += 1
                    yield PIECE
            finally:
                self.ended.set()

        @agent.skill()
        async def breaks() -> AsyncIterator[int]:
            yield 1
            raise ValueError("in the middle")

        @agent.skill()
        async def waits() -> AsyncIterator[int]:
            try:
                yield 1
                await asyncio.Event().wait()
            finally:
                self.ended.set()


async def _talks_in_the_north(forest: Forest, edges: Edges) -> tuple[Talker, Client]:
    """An agent on one edge of a hub, and a client on the other, "south"."""
    hub, talker = forest.plant("hub"), Talker()
    await hub.up()
    south, north = await edges.start(hub, "south"), await edges.start(hub, "north")
    await edges.work(talker.agent, north)
    await hub.knows(1)
    return talker, south


async def _read(given: AsyncIterator[object]) -> list[object]:
    return [piece async for piece in given]


async def test_a_call_is_read_along_over_two_hubs(forest: Forest, edges: Edges) -> None:
    root, child = forest.plant("root"), forest.plant("child")
    await root.up()
    await child.below(root, "child")
    await child.up()
    await child.linked()
    talker = Talker()
    south = await edges.start(root, "south")
    await edges.work(talker.agent, await edges.start(child, "north"))
    await root.knows(1)
    async with aclosing(south.stream("flood", scope="fleet", type=bytes)) as given:
        assert await anext(given) == PIECE
        before = -1
        while talker.made > before:  # it stands still where nobody reads
            before = talker.made
            for _ in range(5):
                with pytest.raises(Internal, match="in the middle"):
                    await _read(south.stream("breaks", scope="fleet"))
        assert talker.made < MANY
        rest = [piece async for piece in given]
    assert rest == [PIECE] * (MANY - 1)
    await _at_the_hub(root)


async def _at_the_hub(hub: Grown) -> None:
    """A hub serves its own callers as well."""
    stub = task_service_pb2_grpc.TaskServiceStub(hub.local())
    request = task_service_pb2.StreamCallRequest(spec=task_pb2.TaskSpec(skill="flood"))
    size, last = 0, task_service_pb2.StreamCallResponse()
    async for response in stub.StreamCall(request, timeout=20):
        size += sum(len(piece.data) for piece in response.pieces)
        last = response
    assert size == MANY * len(PIECE)
    assert last.HasField("output")
    assert last.agent.endswith("/agents/talker")


async def test_what_ends_it_is_told_on_both_sides(forest: Forest, edges: Edges) -> None:
    talker, south = await _talks_in_the_north(forest, edges)
    async with aclosing(south.stream("waits", scope="fleet")) as given:  # the caller goes away
        assert await anext(given) == 1
    await asyncio.wait_for(talker.ended.wait(), 20)
    talker.ended.clear()
    given = south.stream("waits", scope="fleet")
    assert await anext(given) == 1
    await edges.nodes["north"].stop()
    with pytest.raises(EdgenodeError) as ended:
        await anext(given)
    assert ended.value.reason == "AGENT_LOST"
    await until(talker.ended.is_set)


async def test_what_was_under_way_is_lost_with_a_hub_that_is_started_anew_while_an_edge_moves(
    forest: Forest, edges: Edges
) -> None:
    talker, south = await _talks_in_the_north(forest, edges)
    given = south.stream("waits", scope="fleet")
    assert await anext(given) == 1

    def moved(name: str, boot_id: str = "") -> None:
        link = edges.nodes[name]._link
        assert link is not None
        connection = link.uplink.connection
        assert connection is not None
        moves(link.uplink, connection, boot_id or connection.peer.boot_id)

    moved("north")
    assert not talker.ended.is_set()
    moved("north", "another")  # an answer would have a number that means another call there
    await until(talker.ended.is_set)
    moved("south", "another")
    with pytest.raises(EdgenodeError) as ended:
        await anext(given)
    assert ended.value.reason == "LINK_LOST"
