import asyncio
import math
from pathlib import Path

import pytest

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2
from edgenode.link.errors import Aborted, AlreadyExists, EdgenodeError, InvalidArgument, NotFound, Unavailable
from edgenode.link.model.agent import Health
from edgenode.link.wire.mounts import MOUNTED
from edgenode.node.registry import MAX_TOMBSTONES, LocalAgent, no_load
from tests.unit.node_registry.house import House, house, request


def agent(h: House, name: str = "device") -> LocalAgent:
    found = h.registry.get(name)
    assert found is not None
    return found


async def test_a_registered_agent_is_found_by_name_and_skill() -> None:
    async with house() as h:
        await h.registry.register(request(skills=("a", "b"), labels={"zone": "x"}, capacity_count=4, cost=1.5))
        found = agent(h)
        assert (found.resource, found.health, found.capacity, found.cost) == (
            "nodes/north/agents/device",
            Health.READY,
            4,
            1.5,
        )
        assert list(h.registry.with_skill("b")) == [found]
        assert list(h.registry.with_skill("c")) == []
        record = h.registry.record(found)
        assert record.runtime.labels == {"zone": "x"}
        assert record.runtime.lease_expire_time.seconds - record.runtime.observed_time.seconds == 15
        assert h.changes == ["device"]


async def test_attempt_timeouts_come_from_the_card() -> None:
    async with house() as h:
        message = request(skills=("a", "b"))
        message.card.skills[0].attempt_timeout_duration.seconds = 7
        await h.registry.register(message)
        assert agent(h).skill_timeouts == {"a": 7.0}


async def test_a_lease_that_runs_out_makes_unreachable_and_a_sign_of_life_brings_back() -> None:
    async with house() as h:
        message = request()
        message.lease_duration.seconds = 10
        await h.registry.register(message)
        h.pass_time(9)
        assert agent(h).health is Health.READY
        assert h.registry.touch("device", "i1")
        h.pass_time(9)
        assert agent(h).health is Health.READY
        h.pass_time(1)
        assert agent(h).health is Health.UNREACHABLE
        assert "10 s" in agent(h).health_reason
        assert h.changes == ["device", "device"]
        h.registry.renew("device", "i1", Health.DEGRADED, "hot")
        assert (agent(h).health, agent(h).health_reason) == (Health.DEGRADED, "hot")
        h.pass_time(10)
        assert agent(h).health is Health.UNREACHABLE
        h.registry.touch("device", "i1")
        assert (agent(h).health, agent(h).health_reason) == (Health.DEGRADED, "hot")
        assert len(h.changes) == 5


async def test_the_timer_waits_for_the_next_lease_and_for_nothing_else() -> None:
    async with house() as h:
        loop = asyncio.get_running_loop()
        before = loop.time()
        message = request()
        message.lease_duration.seconds = 60
        await h.registry.register(message)
        assert h.registry.timer_due is not None
        assert h.registry.timer_due - before == pytest.approx(60, abs=5)
        short = request("other")
        short.lease_duration.seconds = 5
        await h.registry.register(short)
        assert h.registry.timer_due - before == pytest.approx(5, abs=3)
        await h.registry.deregister("other")
        await h.registry.deregister("device")
        h.pass_time(100)
        assert h.registry.timer_due is None


async def test_a_mount_and_a_program_do_not_take_each_others_name() -> None:
    async with house() as h:
        program = await h.registry.register(request(instance="program", incarnation=5))
        mount = request(instance="mount", incarnation=6)
        mount.labels[MOUNTED] = "mcp"
        h.registry.hold("device", program.instance_id)
        with pytest.raises(AlreadyExists, match="an agent that runs here") as refused:
            await h.registry.register(mount)
        assert refused.value.reason == "NAME_IN_USE"
        h.registry.release("device", program.instance_id)
        await h.registry.register(mount)
        with pytest.raises(AlreadyExists, match="a mount here"):
            await h.registry.register(request(instance="again", incarnation=7))
        mount.instance_id, mount.incarnation = "next", 7  # its bridge was started anew
        await h.registry.register(mount)


async def test_the_higher_incarnation_wins_and_the_lower_is_told() -> None:
    async with house() as h:
        await h.registry.register(request(instance="old", incarnation=5))
        await h.registry.register(request(instance="old", incarnation=5))
        for instance, incarnation in (("late", 4), ("twin", 5)):
            with pytest.raises(AlreadyExists) as refused:
                await h.registry.register(request(instance=instance, incarnation=incarnation))
            assert refused.value.reason == "NAME_IN_USE"
        await h.registry.register(request(instance="new", incarnation=6, skills=("other",)))
        assert agent(h).instance_id == "new"
        assert list(h.registry.with_skill("code.metrics")) == []
        assert not h.registry.touch("device", "old")
        with pytest.raises(Aborted) as told:
            h.registry.renew("device", "old", Health.READY, "")
        assert told.value.reason == "SUPERSEDED"
        assert not await h.registry.deregister("device", "old")
        assert agent(h).instance_id == "new"


async def test_of_many_instances_at_once_the_highest_holds_the_name() -> None:
    async with house() as h:
        requests = [request(instance=f"i{number}", incarnation=number) for number in (3, 9, 1, 7, 5)]
        results = await asyncio.gather(*(h.registry.register(r) for r in requests), return_exceptions=True)
        assert agent(h).instance_id == "i9"
        refused = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(error, AlreadyExists) for error in refused)
        stored = await h.database.read(lambda c: c.execute("SELECT instance_id, incarnation FROM agent").fetchall())
        assert stored == [("i9", 9)]


async def test_a_removed_agent_is_gone_and_the_same_incarnation_does_not_come_back() -> None:
    async with house() as h:
        await h.registry.register(request(incarnation=3))
        assert await h.registry.deregister("device")
        assert not await h.registry.deregister("device")
        assert h.registry.get("device") is None
        with pytest.raises(NotFound) as unknown:
            h.registry.renew("device", "i1", Health.READY, "")
        assert unknown.value.reason == "UNKNOWN_AGENT"
        with pytest.raises(Aborted) as outdated:
            await h.registry.register(request(incarnation=3))
        assert outdated.value.reason == "INCARNATION_OUTDATED"
        await h.registry.register(request(incarnation=4))
        assert agent(h).incarnation == 4


async def test_registrations_survive_a_restart_as_unreachable(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    async with house(path) as h:
        await h.registry.register(request("kept", skills=("a",), labels={"zone": "x"}, capacity_count=3))
        await h.registry.register(request("gone"))
        await h.registry.deregister("gone")
        last = h.registry.log.version
    async with house(path, boot=2) as h:
        assert [found.name for found in h.registry.all()] == ["kept"]
        kept = agent(h, "kept")
        assert (kept.health, kept.capacity, kept.labels) == (Health.UNREACHABLE, 3, {"zone": "x"})
        assert list(h.registry.with_skill("a")) == [kept]
        assert h.registry.log.version > last
        assert h.registry.log.needs_snapshot(last)
        h.pass_time(10_000)
        assert h.registry.touch("kept", "i1")
        assert kept.health is Health.READY


async def test_a_caller_that_goes_away_does_not_tear_row_and_memory_apart() -> None:
    async with house() as h:
        waiting = asyncio.create_task(h.registry.register(request()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await h.registry.close()
        assert agent(h).health is Health.READY
        assert await h.database.read(lambda c: c.execute("SELECT count(*) FROM agent").fetchone()[0]) == 1


async def test_what_is_refused_changes_nothing() -> None:
    async with house() as h:
        bad: list[registry_service_pb2.RegisterAgentRequest] = [
            request("Device"),
            request(instance=""),
            request(incarnation=-1),
            request(cost=math.nan),
            request(cost=-1.0),
            request(capacity_count=10_001),
            request(labels={"zone": "no spaces"}),
            request(labels={f"k{number}": "v" for number in range(65)}),
            request(skills=("a", "a")),
            request(skills=("Not.A.Skill",)),
            request(skills=tuple(f"s{number}" for number in range(257))),
        ]
        long_lease = request()
        long_lease.lease_duration.seconds = 3601
        bad.append(long_lease)
        for message in bad:
            with pytest.raises(EdgenodeError) as refused:
                await h.registry.register(message)
            assert refused.value.problem.metadata["field"], message
        with pytest.raises(InvalidArgument):
            await h.registry.register(registry_service_pb2.RegisterAgentRequest())
        assert list(h.registry.all()) == []
        assert h.registry.log.version == 1 << 32
        assert h.changes == []
        await h.registry.register(request())
        with pytest.raises(InvalidArgument) as unhealthy:
            h.registry.renew("device", "i1", Health.UNREACHABLE, "")
        assert unhealthy.value.reason == "BAD_HEALTH"


async def test_the_log_has_lasting_facts_only_and_a_version_for_each_change() -> None:
    async with house() as h:
        h.registry.load_of = lambda name: (7, 3, 0.25)
        await h.registry.register(request())
        h.registry.touch("device", "i1")
        (entry,) = h.registry.log.entries()
        assert entry.payload is not None
        record = registry_pb2.Agent.FromString(entry.payload)
        assert record.version == entry.version == (1 << 32) + 1
        assert not record.runtime.HasField("lease_expire_time")
        assert not record.runtime.HasField("latency_duration")
        assert record.runtime.in_flight_count == 0
        full = h.registry.record(agent(h))
        assert (full.runtime.in_flight_count, full.runtime.queue_depth_count) == (7, 3)
        assert full.runtime.latency_duration.nanos == 250_000_000
        assert no_load("device") == (0, 0, None)


async def test_tombstones_do_not_pile_up_without_a_parent() -> None:
    async with house() as h:
        for number in range(MAX_TOMBSTONES + 1):
            h.registry.log.put(f"nodes/north/agents/a{number}", 1, b"x")
            h.registry.log.remove(f"nodes/north/agents/a{number}", 1)
            h.registry.note_removed(f"a{number}", 1)
        assert len(h.registry.log.delta(0, MAX_TOMBSTONES * 2, 1 << 30).entries) == 0


async def test_a_store_that_fails_registers_nobody() -> None:
    async with house() as h:
        await h.database.close()
        with pytest.raises(Unavailable):
            await h.registry.register(request())
        assert h.registry.get("device") is None


async def test_an_open_work_stream_is_a_sign_of_life() -> None:
    async with house() as h:
        await h.registry.register(request())
        assert h.registry.hold("device", "i1")
        h.pass_time(3600)
        assert agent(h).health is Health.READY
        h.registry.release("device", "i1")
        h.pass_time(14)
        assert agent(h).health is Health.READY
        h.pass_time(1)
        assert agent(h).health is Health.UNREACHABLE
        assert not h.registry.hold("device", "another")
