"""How links come up, move and end."""

import asyncio
import gc

import pytest

from edgenode.link.errors import Aborted, FailedPrecondition, Unauthenticated, Unavailable
from edgenode.link.model.lanes import Lane
from edgenode.link.model.problem import Code
from tests.integration.link.rig import DIALING, Edge, Hub, eventually, fill, linked


async def test_a_newer_stream_of_the_same_node_supersedes_the_older() -> None:
    async with linked() as rig:
        first = rig.hub.end.connections["north"]
        other = Edge(lambda: f"127.0.0.1:{rig.hub.port}", seed=2)
        await rig.edge.end.stop()
        await eventually(lambda: not first.established)
        await rig.edge.end.start()
        await eventually(lambda: rig.edge.up)
        before = rig.hub.end.connections["north"]
        await other.end.start()
        try:
            await eventually(lambda: other.up)
            now = rig.hub.end.connections["north"]
            assert now is not before
            assert now.fence > before.fence
            await eventually(lambda: rig.edge.side.events.problems[-1].reason == "SUPERSEDED")
            assert any(problem.reason == "SUPERSEDED" for problem in rig.hub.side("north").events.problems)
        finally:
            await other.end.stop()


async def test_another_nodes_name_is_refused_and_disturbs_nobody() -> None:
    async with linked() as rig:
        thief = Edge(lambda: f"127.0.0.1:{rig.hub.port}", node="south")
        await thief.end.start()
        try:
            await eventually(lambda: thief.end.status().last_problem)
            problem = thief.end.status().last_problem
            assert problem is not None
            assert (problem.code, problem.reason) == (Code.PERMISSION_DENIED, "NAME_MISMATCH")
            assert rig.edge.up
            assert list(rig.hub.end.connections) == ["north"]
        finally:
            await thief.end.stop()


async def test_a_refused_clone_does_not_end_the_older_session() -> None:
    async with linked() as rig:
        rig.hub.refusal = FailedPrecondition("CLONE", "two of you", hint="enroll again")
        clone = Edge(lambda: f"127.0.0.1:{rig.hub.port}")
        await clone.end.start()
        try:
            await eventually(lambda: clone.end.status().last_problem)
            problem = clone.end.status().last_problem
            assert problem is not None
            assert (problem.reason, problem.hint) == ("CLONE", "enroll again")
            assert rig.edge.up
        finally:
            await clone.end.stop()


async def test_a_hub_that_refuses_is_asked_again_until_it_agrees() -> None:
    hub = Hub()
    hub.refusal = Unauthenticated("UNKNOWN_NODE", "who are you", hint="join first")
    await hub.start()
    edge = Edge(lambda: f"127.0.0.1:{hub.port}")
    await edge.end.start()
    try:
        await eventually(lambda: len(hub.hellos) >= 3)
        status = edge.end.status()
        assert status.last_problem is not None
        assert status.last_problem.reason == "UNKNOWN_NODE"
        assert status.session_count == 0
        assert edge.side.events.links == []
        hub.refusal = None
        await eventually(lambda: edge.up)
        assert edge.end.status().state == "established"
    finally:
        await edge.end.stop()
        await hub.stop()


async def test_hub_gone_and_back() -> None:
    async with linked() as rig:
        await rig.hub.stop()
        await eventually(lambda: not rig.edge.up)
        assert rig.edge.side.events.problems
        sent = fill(rig.edge.side.outbox, Lane.MESSAGE, 0, 500)
        await eventually(lambda: rig.edge.end.status().state == "waiting")
        status = rig.edge.end.status()
        assert status.last_problem is not None
        assert status.last_problem.retryable
        assert status.next_dial is not None
        assert 0 <= status.next_dial <= DIALING.max_backoff
        await rig.hub.start()
        await eventually(lambda: rig.hub.side("north").inbox.entries[Lane.MESSAGE] == sent)
        assert rig.edge.end.status().session_count == 2


async def test_a_connection_that_stays_open_and_silent_is_found_out_by_both_sides() -> None:
    async with linked() as rig:
        await asyncio.sleep(0)
        rig.proxy.passing.clear()
        started = asyncio.get_running_loop().time()
        await eventually(lambda: rig.edge.side.events.problems and rig.hub.side("north").events.problems, timeout=10)
        assert asyncio.get_running_loop().time() - started < 8
        assert not rig.hub.end.connections
        rig.proxy.passing.set()
        rig.proxy.cut()
        sent = fill(rig.edge.side.outbox, Lane.TASK, 0, 100)
        await eventually(lambda: rig.hub.side("north").inbox.entries[Lane.TASK] == sent)


async def test_a_quiet_link_stays_up() -> None:
    async with linked() as rig:
        lease = 2.0
        started = asyncio.get_running_loop().time()
        await eventually(lambda: asyncio.get_running_loop().time() - started > 1.5 * lease)
        assert rig.edge.up
        assert rig.edge.end.status().session_count == 1


async def test_redial_moves_to_a_new_channel_without_loss() -> None:
    async with linked() as rig:
        north = rig.hub.side("north")
        sent = fill(rig.edge.side.outbox, Lane.MESSAGE, 0, 4000)
        back = fill(north.outbox, Lane.MESSAGE, 0, 4000)
        await eventually(lambda: north.inbox.entries[Lane.MESSAGE])
        old = rig.edge.end.connection
        assert old is not None
        for number in range(3):
            await rig.edge.end.redial()
            sent += fill(rig.edge.side.outbox, Lane.MESSAGE, 4000 + number, 1)
            await eventually(lambda n: rig.edge.end.status().session_count == n + 2, number)
        await eventually(lambda: north.inbox.entries[Lane.MESSAGE] == sent)
        await eventually(lambda: rig.edge.side.inbox.entries[Lane.MESSAGE] == back)
        assert rig.edge.channels == 4
        assert not old.established
        assert [problem.reason for problem in rig.edge.side.events.problems] == ["MOVED"] * 3


async def test_redial_that_finds_nobody_leaves_the_old_session_alone() -> None:
    async with linked() as rig:
        target, rig.edge._target = rig.edge._target, lambda: "127.0.0.1:1"
        with pytest.raises(Unavailable, match="UNREACHABLE"):
            await rig.edge.end.redial()
        rig.edge._target = target
        assert rig.edge.up
        assert rig.edge.end.status().session_count == 1


async def test_redial_while_waiting_dials_at_once() -> None:
    hub = Hub()
    await hub.start()
    port, hub_target = hub.port, ["127.0.0.1:1"]
    edge = Edge(lambda: hub_target[0], settings=DIALING.__class__(initial_backoff=1000.0, max_backoff=1000.0))
    await edge.end.start()
    try:
        await eventually(lambda: edge.end.status().state == "waiting")
        problem = edge.end.status().last_problem
        assert problem is not None
        assert problem.reason == "UNREACHABLE"
        hub_target[0] = f"127.0.0.1:{port}"
        await edge.end.redial()
        await eventually(lambda: edge.up)
    finally:
        await edge.end.stop()
        await hub.stop()


async def test_close_all_says_why_and_lets_nobody_in() -> None:
    async with linked() as rig:
        await rig.hub.end.close_all(Unavailable("SHUTDOWN", "bye", retry_after=0.05).problem)
        assert not rig.hub.end.connections
        await eventually(lambda: rig.edge.side.events.problems)
        assert rig.edge.side.events.problems[0].reason == "SHUTDOWN"
        await eventually(lambda: rig.edge.end.status().state == "waiting")
        assert rig.edge.end.status().session_count == 1


async def test_a_hub_closes_one_link() -> None:
    async with linked() as rig:
        rig.hub.end.connections["north"].close(Aborted("REVOKED", "no more").problem)
        await eventually(lambda: rig.edge.side.events.problems)
        assert rig.edge.side.events.problems[0].reason == "REVOKED"


async def test_the_hub_sets_the_pace_of_coming_back() -> None:
    async with linked() as rig:
        assert rig.hub.end.connections["north"].set_pace(30.0, 0)
        await rig.hub.end.close_all(Unavailable("SHUTDOWN", "bye").problem)
        await eventually(lambda: rig.edge.end.status().state == "waiting")
        next_dial = rig.edge.end.status().next_dial
        assert next_dial is not None
        assert next_dial > 25


@pytest.mark.parametrize("up", [True, False])
async def test_start_and_stop_in_any_order(up: bool) -> None:
    hub = Hub()
    await hub.start()
    port = hub.port
    if not up:
        await hub.stop()
    edge = Edge(lambda: f"127.0.0.1:{port}")
    try:
        await edge.end.stop()
        assert edge.end.status().state == "stopped"
        await edge.end.start()
        await edge.end.stop()
        await asyncio.gather(edge.end.start(), edge.end.stop(), edge.end.stop(), edge.end.start(), edge.end.start())
        if up:
            await eventually(lambda: edge.up)
        await asyncio.gather(edge.end.stop(), edge.end.stop())
        await edge.end.stop()
        assert (edge.end.status().state, edge.end.connection) == ("stopped", None)
        await edge.end.redial()
    finally:
        await edge.end.stop()
        await hub.stop()


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21, 34])
async def test_stop_during_start(turns: int) -> None:
    hub = Hub()
    await hub.start()
    edge = Edge(lambda: f"127.0.0.1:{hub.port}")
    try:
        await edge.end.start()
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        async with asyncio.timeout(10):
            await edge.end.stop()
        assert edge.end.status().state == "stopped"
        async with asyncio.timeout(10):
            await edge.end.start()
            await eventually(lambda: edge.up)
    finally:
        await edge.end.stop()
        await hub.stop()


async def test_stop_while_the_channel_cannot_be_opened() -> None:
    edge = Edge(lambda: "127.0.0.1:1")

    async def never() -> None:
        await asyncio.Event().wait()

    edge.unready = never
    await edge.end.start()
    await eventually(lambda: edge.end.status().state == "dialing")
    async with asyncio.timeout(30):
        await edge.end.stop()


async def test_nothing_is_left_running_behind_many_sessions() -> None:
    async with linked() as rig:
        before = len(asyncio.all_tasks())
        for number in range(8):
            rig.proxy.cut()
            await eventually(lambda n: rig.edge.end.status().session_count >= n + 2 and rig.edge.up, number)
        await eventually(lambda: len(asyncio.all_tasks()) <= before + 2)
    gc.collect()
