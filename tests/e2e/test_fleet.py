"""The main job with real processes: work crosses edges, links are cut, processes are killed, nothing is lost."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from a2a.types import a2a_pb2, a2a_pb2_grpc

from edgenode.bridges.a2a.serving import Bridge, Settings
from edgenode.bridges.access import BearerToken
from edgenode.cli.demo.fleet import EDGEHUB, EDGENODE, Fleet
from edgenode.link.errors import EdgenodeError
from edgenode.sdk import Client, Level, OnLost, RetryPolicy, Scope, TaskHandle, TaskState
from tests.e2e.conftest import Site

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

MCP_SERVER = Path(__file__).parents[1] / "integration/bridges/mcp_server.py"
QUICK = RetryPolicy(attempts=5, initial_backoff=0.05)


async def reason_of(work: Any) -> str:
    with pytest.raises(EdgenodeError) as caught:
        await work
    return caught.value.reason


async def eventually(client: Client, skill: str) -> None:
    """Wait until a call from `client` reaches the skill."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.call(skill, {"text": "there?"}, scope=Scope.FLEET, timeout=10)
                return
            except EdgenodeError:
                await asyncio.sleep(0.1)


async def at_work(client: Client, count: int) -> None:
    """Wait until so many tasks and calls run at the agent of tests/e2e/skills.py."""

    async def running() -> int:
        return sum(agent.runtime.in_flight_count for agent in await client.agents() if agent.card.name == "odd")

    async with asyncio.timeout(60):
        while await running() < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_every_kind_of_work_crosses_edges(site: Site) -> None:
    async with site.client("south") as south:
        await eventually(south, "odd.echo")
        assert await south.call("odd.echo", {"text": "hi"}, scope=Scope.FLEET) == "hi"
        found = await south.find("odd.echo", scope=Scope.FLEET)
        assert [candidate.agent.name for candidate in found.candidates] == ["nodes/north/agents/odd"]

        handle = await south.submit("odd.steps", {"count": 3}, scope=Scope.FLEET, wait_level=Level.DURABLE_HUB)
        assert handle.level >= Level.DURABLE_HUB
        updates = [update async for update in handle.watch()]
        assert updates[-1].state is TaskState.COMPLETED
        assert any(update.message.startswith("step") for update in updates)
        assert await handle.result(10) == 3

        spelled = await south.submit("odd.spell", {"word": "letters"}, scope=Scope.FLEET)
        assert [letter async for letter in spelled.stream(str)] == list("letters")
        assert await spelled.result(10) == "letters"

        asked = await south.submit("odd.ask", {"question": "why?"}, scope=Scope.FLEET)
        async for update in asked.watch():
            if update.state is TaskState.INPUT_REQUIRED:
                await south.provide_input(asked.task_id, "answer", "because")
        assert await asked.result(10) == "you said because"

        slow = await south.submit("odd.wait", {"seconds": 60}, scope=Scope.FLEET)
        async for update in slow.watch():
            if update.agent:
                break
        await slow.cancel("not needed")
        assert await reason_of(slow.result(15)) in ("CANCELLED", "CANCELED")


async def test_an_a2a_caller_of_one_edge_reaches_the_agents_of_another(site: Site, tmp_path: Path) -> None:
    async with site.client("south") as south:
        await eventually(south, "odd.echo")
        settings = Settings(listen_grpc="127.0.0.1:0", hooks=tmp_path, scope=Scope.FLEET)
        bridge = Bridge(south, settings, BearerToken("token"))
        await bridge.start()
        try:
            message = a2a_pb2.Message(message_id="over", role=a2a_pb2.ROLE_USER, parts=[a2a_pb2.Part(text="hi")])
            message.metadata["dev.edgenode/skill"] = "odd.echo"
            async with grpc.aio.insecure_channel(bridge.places.grpc) as channel:
                answer = await a2a_pb2_grpc.A2AServiceStub(channel).SendMessage(
                    a2a_pb2.SendMessageRequest(message=message), metadata=(("authorization", "Bearer token"),)
                )
        finally:
            await bridge.stop()
        assert answer.task.artifacts[0].parts[0].text == "hi"
        assert answer.task.metadata["dev.edgenode/agent"] == "nodes/north/agents/odd"


async def test_what_a_misbehaving_agent_gets_its_caller(site: Site) -> None:
    async with site.client("north") as north:
        await eventually(north, "odd.echo")
        assert await reason_of(north.call("odd.raise", {"text": "boom"})) == "HANDLER_ERROR"
        assert await reason_of(north.call("odd.wrong")) == "BAD_RESULT"
        assert await reason_of(north.call("odd.never", timeout=20)) == "ATTEMPT_TIMEOUT"
        assert await reason_of(north.call("odd.huge")) == "RESULT_TOO_LARGE"
        assert await reason_of(north.call("odd.echo", {"text": 5})) == "BAD_INPUT"
        assert await reason_of(north.call("odd.nothing")) == "UNKNOWN_SKILL"
        poison = await north.submit(
            "odd.raise", {"text": "poison"}, retry=RetryPolicy(attempts=2, initial_backoff=0.05)
        )
        after = await north.submit("odd.echo", {"text": "goes on"})
        assert await after.result(10) == "goes on"
        assert await reason_of(poison.result(20)) == "HANDLER_ERROR"
        assert TaskState((await north.get_task(poison.task_id)).state) is TaskState.DEAD_LETTERED


async def test_an_agent_that_dies_is_an_error_for_calls_and_another_try_for_tasks(site: Site) -> None:
    async with site.client("north") as north:
        await eventually(north, "odd.echo")
        once = await north.submit("odd.wait", {"seconds": 2}, on_lost=OnLost.FAIL)
        again = await north.submit("odd.wait", {"seconds": 2}, retry=QUICK)
        await at_work(north, 2)
        assert await reason_of(north.call("odd.die")) == "AGENT_LOST"
        await site.start_agent()
        assert await again.result(30) == "waited"
        assert await reason_of(once.result(40)) == "AGENT_LOST"


async def test_everything_survives_killing_everything(site: Site) -> None:
    """SIGKILL for the submitter's edge, the hub and the worker's edge, each in the middle of the work."""
    async with site.client("south") as south:
        await eventually(south, "odd.echo")
        handles = await asyncio.gather(
            *(
                south.submit("odd.echo", {"text": str(n)}, scope=Scope.FLEET, idempotency_key=f"k{n}")
                for n in range(300)
            )
        )
        await site.fleet.children["south"].kill()
        await site.start_edge("south")
        more = await asyncio.gather(
            *(south.submit("odd.echo", {"text": str(n)}, scope=Scope.FLEET) for n in range(300, 400))
        )
        await site.fleet.children["hub"].kill()
        await site.start_hub_again()
        await site.fleet.children["north"].kill()
        await site.start_edge("north")
        results = await asyncio.gather(*(south.task(handle.task_id).result(60) for handle in [*handles, *more]))
        assert results == [str(n) for n in range(400)]
        again = await south.submit("odd.echo", {"text": "7"}, scope=Scope.FLEET, idempotency_key="k7")
        assert again.task_id == handles[7].task_id
    for command, place in ((EDGENODE, "north"), (EDGENODE, "south"), (EDGEHUB, "hub")):
        where = ["--state", str(site.fleet.state(place))]
        await site.fleet.run(command, "ledger", *where)  # fails unless it adds up
        await site.fleet.run(command, "ledger", "verify", *where)  # and unless everything it counts is as it must be
    await site.fleet.run(EDGEHUB, "ledger", "verify", "--all", *where)  # on both sides of every link


async def test_edges_work_on_while_the_link_is_cut(site: Site) -> None:
    async with site.client("north") as north, site.client("south") as south:
        await eventually(south, "odd.echo")
        await site.proxy.cut()
        receipts = [await north.publish("site.temperature", {"n": n}, key="sensor") for n in range(50)]
        assert all(receipt.level is Level.DURABLE_LOCAL for receipt in receipts)
        assert await north.call("odd.echo", {"text": "local"}) == "local"
        stored = await south.submit("odd.echo", {"text": "later"}, scope=Scope.FLEET)
        assert await reason_of(south.call("odd.echo", {"text": "now"}, scope=Scope.FLEET, timeout=3)) in (
            "AGENT_LOST",
            "NO_AGENT",
            "LINK_LOST",
            "DEADLINE",
        )
        await site.proxy.restore()
        assert await stored.result(30) == "later"
        last = await north.publish("site.temperature", {"n": 50}, key="sensor", level=Level.DURABLE_HUB)
        assert last.level is Level.DURABLE_HUB
        async with site.client("hub") as hub, hub.subscribe(["site.>"], position="start") as messages:
            numbers = []
            async with asyncio.timeout(20):
                async for message in messages:
                    numbers.append(json.loads(message.payload)["n"])
                    if len(numbers) == 51:
                        break
        assert numbers == list(range(51))


async def test_a_mounted_server_is_reached_through_an_outage_and_ends_with_its_node(site: Site, tmp_path: Path) -> None:
    notes, where = tmp_path / "notes", ["--state", str(site.fleet.state("north"))]
    server = ["--", sys.executable, str(MCP_SERVER)]
    added = await site.fleet.run(EDGENODE, "mcp", "add", "tools", *where, "--start-timeout", "60s", *server)
    assert added.startswith("mounted tools: ready")
    async with site.client("south") as south:
        await site.proxy.cut()
        stored = await south.submit("tools.note", {"notes": str(notes), "text": "later"}, scope=Scope.FLEET)
        await asyncio.sleep(0.2)
        assert not notes.exists()
        await site.proxy.restore()
        process = psutil.Process((await stored.result(60))["result"])
        assert notes.read_text() == "later\n"
    bridge = process.parent()
    assert bridge is not None
    ran = tmp_path / "ran"
    async with site.client("north") as north:
        stuck = await north.submit("tools.stuck", {"notes": str(ran)}, retry=QUICK)
        while not ran.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await site.fleet.children["north"].kill()
    # Nobody is left to end them: they see that the node is gone.
    gone, _ = await asyncio.to_thread(psutil.wait_procs, [bridge, process], timeout=30)
    assert len(gone) == 2
    await site.start_edge("north")
    async with site.client("north") as north:  # the tool does not say that running it twice is harmless
        assert await reason_of(north.task(stuck.task_id).result(60)) == "MAY_HAVE_RUN"
        assert ran.read_text() == "ran\n"
    await site.fleet.run(EDGENODE, "mcp", "remove", "tools", *where)
    assert notes.read_text() == "later\n"


async def test_sigterm_drains(site: Site) -> None:
    async with site.client("north") as north:
        await eventually(north, "odd.echo")
        running = asyncio.create_task(north.call("odd.wait", {"seconds": 1}, timeout=30))
        await at_work(north, 1)
        site.fleet.children["north"].process.send_signal(signal.SIGTERM)
        assert await running == "waited"
        assert await asyncio.wait_for(site.fleet.children["north"].process.wait(), 60) == 0
    await site.start_edge("north")


async def test_certificates_are_renewed_without_dropping_work(folder: Path) -> None:
    """Leaves of a few seconds: every edge renews several times while tasks, calls and messages cross it."""
    site = Site(Fleet(folder))
    site.fleet.state("hub").mkdir()
    (site.fleet.state("hub") / "edgehub.toml").write_text("leaf_ttl_seconds = 10\n")
    try:
        await site.start()
        async with site.client("south") as south, site.client("north") as north:
            await eventually(south, "odd.echo")
            first = generation(site, "north")
            tasks: list[TaskHandle] = []
            published = 0
            while generation(site, "north") < first + 2:
                text = str(len(tasks))
                assert await south.call("odd.echo", {"text": text}, scope=Scope.FLEET, timeout=20) == text
                tasks.append(await south.submit("odd.echo", {"text": text}, scope=Scope.FLEET))
                receipt = await north.publish("renewal.tick", {"n": published}, level=Level.DURABLE_HUB)
                assert receipt.level is Level.DURABLE_HUB
                published += 1
            assert await asyncio.gather(*(task.result(30) for task in tasks)) == [str(n) for n in range(len(tasks))]
    finally:
        await site.proxy.cut()
        await site.fleet.stop()


def generation(site: Site, node: str) -> int:
    number = json.loads((site.fleet.state(node) / "identity" / "identity.json").read_text())["generation"]
    assert isinstance(number, int)
    return number
