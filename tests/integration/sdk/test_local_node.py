"""Client and agent against the real node, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from edgenode.link.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    EdgenodeError,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from edgenode.sdk import Agent, Client, Context, Level, TaskState
from edgenode.sdk.testing import LocalNode


@pytest.fixture
def agent() -> Agent:
    agent = Agent("worker", description="Does sums", labels={"zone": "a"}, concurrency=32)

    @agent.skill(idempotent=True)
    async def add(a: int, b: int = 1) -> int:
        """Adds two numbers."""
        return a + b

    @agent.skill()
    async def fail(message: str) -> None:
        raise ValueError(message)

    @agent.skill()
    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    @agent.skill()
    async def ask(ctx: Context) -> str:
        ctx.progress(0.25, "asking")
        answer: str = await ctx.input("Which?", str)
        return answer * 2

    @agent.skill()
    async def total(ctx: Context, numbers: list[int]) -> int:
        sums = await asyncio.gather(*(ctx.call("add", {"a": number}) for number in numbers))
        await ctx.publish("sums.done", {"count": len(sums)})
        return sum(sums)

    @agent.skill()
    async def reverse(data: bytes) -> bytes:
        return data[::-1]

    return agent


@pytest.fixture
async def node(agent: Agent) -> AsyncIterator[LocalNode]:
    async with LocalNode() as node:
        await node.run(agent)
        yield node


async def test_calls(client: Client) -> None:
    assert await client.call("add", {"a": 1, "b": 2}) == 3
    assert await client.call("reverse", b"\x00\x01") == b"\x01\x00"
    assert await asyncio.gather(*(client.call("add", {"a": n}) for n in range(500))) == list(range(1, 501))


async def test_tasks(client: Client) -> None:
    handles = await asyncio.gather(*(client.submit("add", {"a": n}) for n in range(200)))
    assert min(handle.level for handle in handles) >= Level.DURABLE_LOCAL
    assert await asyncio.gather(*(handle.result(20) for handle in handles)) == list(range(1, 201))
    task = await client.get_task(handles[0].task_id)
    assert TaskState(task.state) is TaskState.COMPLETED
    assert await client.task(handles[1].task_id).result(10) == 2
    listed = await client.list_tasks(skill="add", limit=150)
    assert len({task.task_id for task in listed}) == 150


async def test_a_task_may_be_waited_for_until_done(client: Client) -> None:
    handle = await client.submit("add", {"a": 1}, wait_level=Level.DONE, wait=20)
    assert handle.level is Level.DONE
    assert await handle.result(10) == 2


async def test_one_key_is_one_task(client: Client) -> None:
    first = await client.submit("add", {"a": 1}, idempotency_key="k")
    again = await client.submit("add", {"a": 1}, idempotency_key="k")
    assert first.task_id == again.task_id
    assert await again.result(10) == 2


async def test_failures_are_told(client: Client) -> None:
    with pytest.raises(InvalidArgument, match=r"\$\.a") as bad_input:
        await client.call("add", {"a": "x"})
    assert bad_input.value.reason == "BAD_INPUT"
    with pytest.raises(Internal, match="ValueError: oh no") as raised:
        await client.call("fail", {"message": "oh no"})
    assert raised.value.reason == "HANDLER_ERROR"
    with pytest.raises(NotFound) as unknown:
        await client.call("unheard-of")
    assert unknown.value.reason == "UNKNOWN_SKILL"
    with pytest.raises(DeadlineExceeded):
        await client.call("wait_for_ever", timeout=0.2)
    handle = await client.submit("fail", {"message": "again"}, retry=1)
    with pytest.raises(EdgenodeError):
        await handle.result(20)


async def test_a_question_is_answered(client: Client) -> None:
    handle = await client.submit("ask")
    async with asyncio.timeout(20):
        async for update in handle.watch():
            if update.state is TaskState.INPUT_REQUIRED:
                break
        task = await client.get_task(handle.task_id)
        assert task.input_request.prompt == "Which?"
        await client.provide_input(handle.task_id, task.input_request.key, "ha")
        assert await handle.result() == "haha"


async def test_a_watch_tells_progress_and_ends(client: Client) -> None:
    handle = await client.submit("ask")

    async def answer() -> None:
        async for update in handle.watch():
            if update.state is TaskState.INPUT_REQUIRED:
                await client.provide_input(handle.task_id, "input-1", "x")
                return

    async with asyncio.timeout(20):
        answering = asyncio.create_task(answer())
        updates = [update async for update in handle.watch()]
        await answering
    assert updates[-1].state is TaskState.COMPLETED
    assert updates[-1].task is not None
    sequences = [update.sequence for update in updates]
    assert sequences == sorted(sequences)


async def test_cancel_stops_the_handler(client: Client, agent: Agent) -> None:
    handle = await client.submit("wait_for_ever")
    async with asyncio.timeout(20):
        async for update in handle.watch():
            if update.state in (TaskState.ASSIGNED, TaskState.WORKING):
                break
        await handle.cancel("not needed")
        with pytest.raises(Cancelled):
            await handle.result()


async def test_a_call_that_nobody_waits_for_any_more_stops_the_handler(node: LocalNode, client: Client) -> None:
    agent, begun, stopped = Agent("patient"), asyncio.Event(), asyncio.Event()

    @agent.skill()
    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    await node.run(agent)
    for ends in ("cancelled", "over"):
        begun.clear()
        stopped.clear()
        call = asyncio.create_task(client.call("wait", timeout=60 if ends == "cancelled" else 0.5))
        await asyncio.wait_for(begun.wait(), 20)
        if ends == "cancelled":
            call.cancel()
        await asyncio.wait_for(stopped.wait(), 20)
        await asyncio.wait([call])


async def test_a_skill_calls_others_and_publishes(client: Client) -> None:
    async with client.subscribe("sums.>", position="start") as subscription:
        assert await client.call("total", {"numbers": [1, 2, 3]}) == 9
        message = await asyncio.wait_for(anext(subscription), 10)
    assert message.value() == {"count": 3}


async def test_messages_come_in_order_once(client: Client) -> None:
    async with client.subscribe("device.*", name="reader", position="start") as subscription:
        receipts = await asyncio.gather(*(client.publish("device.cpu", n, key="cpu") for n in range(3000)))
        assert [receipt.sequence for receipt in receipts] == list(range(1, 3001))
        async with asyncio.timeout(20):
            assert [(await anext(subscription)).value() for _ in range(1500)] == list(range(1500))
    async with client.subscribe("device.*", name="reader") as subscription, asyncio.timeout(20):
        # The 1,500th was handed out and never acknowledged.
        assert [(await anext(subscription)).value() for _ in range(1501)] == list(range(1499, 3000))


async def test_finding(client: Client) -> None:
    found = await client.find("add", explain=True)
    (candidate,) = found.candidates
    assert candidate.agent.card.description == "Does sums"
    assert candidate.agent.card.skills[0].description == "Adds two numbers."
    assert not (await client.find("add", selector="zone=b")).candidates
    assert [agent.card.name for agent in await client.agents()] == ["worker"]


async def test_hub_receipts_wait_for_the_link(node: LocalNode, client: Client) -> None:
    receipt = await client.publish("a", 1, level=Level.DURABLE_HUB, wait=20)
    assert receipt.level is Level.DURABLE_HUB
    with node.offline():
        receipt = await client.publish("a", 2, level=Level.DURABLE_HUB, wait=0.3)
        assert receipt.level is Level.DURABLE_LOCAL
        later = asyncio.create_task(client.publish("a", 3, level=Level.DURABLE_HUB, wait=30))
        assert await client.call("add", {"a": 1}) == 2
        assert not later.done()
    assert (await later).level is Level.DURABLE_HUB
    assert [message.payload for message in node.parent.messages] == [b"1", b"2", b"3"]


async def test_a_newer_instance_takes_the_name(node: LocalNode, client: Client, agent: Agent) -> None:
    (older,) = node._runs
    newer = Agent("worker")

    @newer.skill()
    async def add(a: int, b: int = 1) -> str:
        return "newer"

    await asyncio.sleep(0.002)  # the incarnation is the start time in milliseconds
    await node.run(newer)
    with pytest.raises(Aborted) as caught:
        await asyncio.wait_for(older, 10)
    assert caught.value.reason == "SUPERSEDED"
    del node._runs[older]
    assert await client.call("add", {"a": 1}) == "newer"


async def test_an_agent_that_stops_finishes_its_work_and_is_gone(node: LocalNode, client: Client, agent: Agent) -> None:
    (run,) = node._runs
    calls = [asyncio.create_task(client.call("total", {"numbers": list(range(20))})) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.gather(*calls)
    await agent.stop(grace=30)
    await asyncio.wait_for(run, 30)
    assert await client.agents() == []
    with pytest.raises(EdgenodeError):
        await client.call("add", {"a": 1}, timeout=2)


async def test_an_agent_that_dies_mid_call_gives_its_caller_an_error(node: LocalNode, client: Client) -> None:
    (run,) = node._runs
    call = asyncio.create_task(client.call("wait_for_ever", timeout=20))
    async with asyncio.timeout(10):
        while not next(iter(node._runs[run]._workers))._running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        run.cancel()
        with pytest.raises(Unavailable):
            await call
    await asyncio.wait([run])
    del node._runs[run]


async def test_a_restarted_node_has_its_state_and_gets_its_agent_back(node: LocalNode, client: Client) -> None:
    handle = await client.submit("add", {"a": 1})
    await node.restart()
    assert await handle.result(20) == 2
    assert await client.submit("add", {"a": 2}, wait_level=Level.DONE)
    await node.linked()


async def test_agent_test_gives_a_bench(agent: Agent) -> None:
    async with agent.test() as bench:
        assert await bench.client.call("add", {"a": 2}) == 3
        with bench.node.offline():
            assert await bench.client.call("add", {"a": 3}) == 4


async def test_a_skill_as_a_function(node: LocalNode, client: Client) -> None:
    add = client.skill("add")
    assert await add(1) == await add(a=1) == await add(1, b=1) == 2
    assert await (await add.submit(2, 3)).result(10) == 5
    assert await client.skill("reverse")(b"abc") == b"cba"
    for arguments, named, said in (
        ((), {}, "a is missing"),
        ((1,), {"c": 1}, "it has no c"),
        ((1, 2, 3), {}, "too many"),
        ((1,), {"a": 1}, "twice"),
    ):
        with pytest.raises(InvalidArgument, match=said) as refused:
            await add(*arguments, **named)
        assert refused.value.reason == "BAD_INPUT"
    with pytest.raises(InvalidArgument, match="one value"):
        await client.skill("reverse")(data=b"abc")


async def test_a_skill_that_nobody_has_yet(node: LocalNode, client: Client) -> None:
    later = client.skill("later")
    assert await later.card() is None
    with pytest.raises(NotFound):
        await later(a=1)
    with pytest.raises(InvalidArgument, match="by name"):
        await later.submit(1)
    handle = await later.submit(a=1)
    agent = Agent("late")

    @agent.skill(id="later")
    async def double(a: int) -> int:
        return 2 * a

    await node.run(agent)
    assert await handle.result(10) == 2
    assert await later(4) == 8
