"""Skills from functions, and the worker against a small node in this process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest

from edgenode.api.task.v1 import task_pb2
from edgenode.api.task.v1 import task_service_pb2 as tpb
from edgenode.link.errors import Aborted, AlreadyExists, InvalidArgument, NotFound, PermissionDenied
from edgenode.link.wire.values import duration_to_pb
from edgenode.sdk import Agent, Context
from edgenode.sdk.client import Client
from edgenode.sdk.signature import Signature
from tests.unit.sdk.fakes import FakeNode, fake_node, until


@dataclass
class Point:
    x: int
    y: float = 0.5


class Tree(msgspec.Struct):
    children: list[Tree] = []


class Options(TypedDict):
    fast: bool


# --- signatures ---


def schema(text: str) -> Any:
    return msgspec.json.decode(text)


def test_parameters_are_the_properties_of_an_object() -> None:
    async def inspect(
        ctx: Context,
        point: Point,
        options: Options,
        names: list[str] = [],  # noqa: B006
        limit: int | None = None,
    ) -> Point:
        """Looks at it.

        Not in the description.
        """
        return point

    signature = Signature(inspect)
    told = schema(signature.input_schema)
    assert told["type"] == "object"
    assert told["required"] == ["point", "options"]
    assert set(told["properties"]) == {"point", "options", "names", "limit"}
    assert told["additionalProperties"] is False
    assert schema(signature.output_schema)["properties"]["y"] == {"type": "number", "default": 0.5}
    assert signature.description == "Looks at it."
    assert signature.wants_context
    arguments = signature.arguments(b'{"point": {"x": 1}, "options": {"fast": true}}', "")
    assert arguments == {"point": Point(1), "options": {"fast": True}, "names": [], "limit": None}


def test_a_recursive_type_keeps_its_reference() -> None:
    def grow() -> Tree:
        return Tree()

    told = schema(Signature(grow).output_schema)
    assert told["$defs"]["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}


def test_bytes_go_as_they_are() -> None:
    def shrink(image: bytes) -> bytes:
        return image[:1]

    signature = Signature(shrink)
    assert (signature.input_schema, signature.output_schema) == ("", "")
    assert signature.arguments(b"\x00\x01", "image/png") == {"image": b"\x00\x01"}
    assert signature.output(b"\x00") == (b"\x00", "application/octet-stream")


def test_what_cannot_be_a_skill_is_refused_where_it_is_defined() -> None:
    agent = Agent("a")
    with pytest.raises(TypeError, match="rest"):

        @agent.skill()
        def many(*rest: int) -> None: ...

    with pytest.raises(TypeError, match="odd: Thread has no form in JSON; use"):

        @agent.skill()
        def odd(thing: threading.Thread) -> None: ...

    with pytest.raises(InvalidArgument):

        @agent.skill("Not A Skill")
        def fine() -> None: ...

    with pytest.raises(InvalidArgument):
        Agent("Not a name")
    assert agent.skills == {}


def test_the_card_says_it_all() -> None:
    agent = Agent("a", description="d", version="1")

    @agent.skill("code.metrics", timeout=2.5, idempotent=True, tags=("code",), offline="fail")
    def metrics(source: bytes) -> dict[str, int]:
        """Counts."""
        return {}

    card = agent.card()
    (skill,) = card.skills
    assert (card.name, card.description, card.version) == ("a", "d", "1")
    assert (skill.id, skill.description, list(skill.tags)) == ("code.metrics", "Counts.", ["code", "online-only"])
    assert skill.annotations.idempotent_hint
    assert skill.attempt_timeout_duration.ToTimedelta().total_seconds() == 2.5
    assert list(skill.input_modes) == ["application/octet-stream"]
    assert metrics(b"") == {}


# --- the worker ---


@asynccontextmanager
async def running(node: FakeNode, agent: Agent) -> AsyncIterator[asyncio.Task[None]]:
    """The agent attached to the node, credits received."""
    async with Client(socket=node.socket, connect_timeout=2.0) as client:
        run = asyncio.create_task(agent.attach(client))
        try:
            await greet(node)
            yield run
        finally:
            if not run.done():
                run.cancel()
            await asyncio.wait([run])


async def greet(node: FakeNode) -> tpb.WorkAttach:
    first = await asyncio.wait_for(node.tasks.from_agent.get(), 5)
    assert first.HasField("attach")
    node.tasks.to_agent.put_nowait(
        tpb.WorkTasksResponse(attached=tpb.WorkAttached(node="north", lease_duration=duration_to_pb(15)))
    )
    return first.attach


def assignment(
    skill: str, data: bytes = b"{}", task: str = "t1", attempt: int = 1, timeout: float = 5
) -> tpb.Assignment:
    return tpb.Assignment(
        key=tpb.AttemptKey(task_id=task, attempt_number=attempt, fence=1),
        spec=task_pb2.TaskSpec(skill=skill, input=data, traceparent="00-trace"),
        timeout_duration=duration_to_pb(timeout),
    )


async def frame_with(node: FakeNode, wanted: Callable[[tpb.WorkTasksRequest], Any]) -> tpb.WorkTasksRequest:
    """The next frame that satisfies; those before it are dropped."""
    async with asyncio.timeout(5):
        while not wanted(frame := await node.tasks.from_agent.get()):
            pass
    return frame


async def result_of(node: FakeNode, *assignments: tpb.Assignment) -> tpb.AttemptResult:
    node.tasks.to_agent.put_nowait(tpb.WorkTasksResponse(assignments=assignments))
    return (await frame_with(node, lambda frame: frame.results)).results[0]


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    async with fake_node() as node:
        yield node


@pytest.fixture
def agent() -> Agent:
    agent = Agent("worker", concurrency=4, labels={"zone": "a"}, cost=0.25)

    @agent.skill()
    async def add(a: int, b: int = 1) -> int:
        return a + b

    @agent.skill()
    def add_in_thread(a: int) -> str:
        return f"{a + 1} {threading.current_thread().name}"

    @agent.skill()
    async def wrong() -> int:
        return "one"  # type: ignore[return-value]

    @agent.skill(retries=1)
    async def bad() -> None:
        raise ValueError("secret file missing")

    @agent.skill()
    async def refuse() -> None:
        raise PermissionDenied("NOT_TODAY", "closed", hint="come back")

    @agent.skill()
    async def large() -> bytes:
        return bytes(1024 * 1024 + 1)

    @agent.skill()
    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    @agent.skill()
    async def ask(ctx: Context) -> str:
        ctx.progress(0.5, "half way")
        answer: str = await ctx.input("Which?", str)
        return "told " + answer

    return agent


async def test_an_agent_registers_attaches_and_gives_credits(node: FakeNode, agent: Agent) -> None:
    async with running(node, agent):
        frame = await frame_with(node, lambda frame: frame.credit_count)
        assert frame.credit_count == 4
        (registration,) = node.registry.registrations
        assert registration.card == agent.card()
        assert (dict(registration.labels), registration.cost, registration.capacity_count) == ({"zone": "a"}, 0.25, 4)
        assert registration.incarnation > 1_600_000_000_000
        assert registration.instance_id


async def test_results_carry_their_key_and_return_the_credit(node: FakeNode, agent: Agent) -> None:
    async with running(node, agent):
        await frame_with(node, lambda frame: frame.credit_count)
        node.tasks.to_agent.put_nowait(
            tpb.WorkTasksResponse(assignments=[assignment("add", b'{"a": 1}'), assignment("add", b'{"a": 2}', "t2")])
        )
        frame = await frame_with(node, lambda frame: frame.results)
        assert [(r.key.task_id, r.state, r.output.data) for r in frame.results] == [
            ("t1", task_pb2.TASK_STATE_COMPLETED, b"2"),
            ("t2", task_pb2.TASK_STATE_COMPLETED, b"3"),
        ]
        assert frame.credit_count == 2


async def test_a_sync_skill_runs_in_a_thread(node: FakeNode, agent: Agent) -> None:
    async with running(node, agent):
        result = await result_of(node, assignment("add_in_thread", b'{"a": 1}'))
        assert result.output.data == b'"2 skill-add_in_thread"'


@pytest.mark.parametrize(
    ("skill", "data", "state", "reason", "retryable", "text"),
    [
        ("add", b'{"a": "x"}', task_pb2.TASK_STATE_REJECTED, "BAD_INPUT", False, "$.a"),
        ("add", b"nonsense", task_pb2.TASK_STATE_REJECTED, "BAD_INPUT", False, "malformed"),
        ("add", b'{"a": 1, "c": 2}', task_pb2.TASK_STATE_REJECTED, "BAD_INPUT", False, "`c`"),
        ("unheard-of", b"{}", task_pb2.TASK_STATE_REJECTED, "UNKNOWN_SKILL", False, "unheard-of"),
        ("wrong", b"{}", task_pb2.TASK_STATE_FAILED, "BAD_RESULT", False, "Expected `int`"),
        ("bad", b"{}", task_pb2.TASK_STATE_FAILED, "HANDLER_ERROR", True, "ValueError: secret file missing"),
        ("refuse", b"{}", task_pb2.TASK_STATE_FAILED, "NOT_TODAY", False, "closed"),
        ("large", b"{}", task_pb2.TASK_STATE_FAILED, "RESULT_TOO_LARGE", False, "1048577"),
    ],
)
async def test_every_failure_is_told(
    node: FakeNode, agent: Agent, skill: str, data: bytes, state: int, reason: str, retryable: bool, text: str
) -> None:
    async with running(node, agent):
        result = await result_of(node, assignment(skill, data))
        problem = result.problem
        assert (result.state, problem.reason, problem.retryable) == (state, reason, retryable)
        assert text in problem.message
        assert "Traceback" not in str(problem)
        assert (await result_of(node, assignment("add", b'{"a": 1}', "t2"))).output.data == b"2"


async def test_retries_of_a_skill_bound_the_tasks_own(node: FakeNode, agent: Agent) -> None:
    async with running(node, agent):
        assert (await result_of(node, assignment("bad", attempt=1))).problem.retryable
        assert not (await result_of(node, assignment("bad", attempt=2))).problem.retryable


async def test_an_attempt_ends_at_its_timeout(node: FakeNode, agent: Agent) -> None:
    async with running(node, agent):
        result = await result_of(node, assignment("wait_for_ever", timeout=0.05))
        assert (result.problem.reason, result.problem.retryable) == ("HANDLER_TIMEOUT", True)


async def test_a_stuck_thread_is_reported_at_once_and_keeps_its_slot(node: FakeNode) -> None:
    agent, release = Agent("worker", concurrency=2), threading.Event()

    @agent.skill()
    def stuck(ctx: Context) -> None:
        release.wait(10)

    async with running(node, agent):
        await frame_with(node, lambda frame: frame.credit_count == 2)
        node.tasks.to_agent.put_nowait(tpb.WorkTasksResponse(assignments=[assignment("stuck", timeout=0.05)]))
        frame = await frame_with(node, lambda frame: frame.results)
        assert (frame.results[0].problem.reason, frame.credit_count) == ("HANDLER_TIMEOUT", 0)
        release.set()
        assert (await frame_with(node, lambda frame: frame.credit_count)).credit_count == 1


async def test_a_cancel_stops_the_handler(node: FakeNode, agent: Agent) -> None:
    async with running(node, agent):
        work = assignment("wait_for_ever")
        node.tasks.to_agent.put_nowait(tpb.WorkTasksResponse(assignments=[work]))
        node.tasks.to_agent.put_nowait(tpb.WorkTasksResponse(cancels=[work.key]))
        frame = await frame_with(node, lambda frame: frame.results)
        assert frame.results[0].problem.reason == "CANCELED"


async def test_a_question_waits_for_its_answer_and_is_asked_again_after_a_break(node: FakeNode, agent: Agent) -> None:
    async with running(node, agent):
        work = assignment("ask")
        node.tasks.to_agent.put_nowait(tpb.WorkTasksResponse(assignments=[work]))
        frame = await frame_with(node, lambda frame: frame.updates)
        updates = list(frame.updates)
        if len(updates) < 2:
            updates += (await frame_with(node, lambda frame: frame.updates)).updates
        assert {update.progress.message for update in updates} == {"half way", ""}
        await node.stop()
        await node.start()
        attach = await greet(node)
        assert [key.task_id for key in attach.attempts] == ["t1"]
        frame = await frame_with(node, lambda frame: frame.updates)
        (question,) = (update.input_request for update in frame.updates if update.HasField("input_request"))
        assert (question.key, question.prompt, question.schema) == ("input-1", "Which?", '{"type":"string"}')
        answer = tpb.AttemptAnswer(key=work.key, input_key="input-1", answer=task_pb2.TaskOutput(data=b'"this"'))
        node.tasks.to_agent.put_nowait(tpb.WorkTasksResponse(answers=[answer]))
        frame = await frame_with(node, lambda frame: frame.results)
        assert frame.results[0].output.data == b'"told this"'
        again = assignment("ask", task="t2", attempt=2)
        again.answers["input-1"].data = b'"earlier"'
        assert (await result_of(node, again)).output.data == b'"told earlier"'


async def test_unconfirmed_results_are_delivered_after_a_break(node: FakeNode, agent: Agent) -> None:
    async with running(node, agent):
        first, second = assignment("add", b'{"a": 1}'), assignment("add", b'{"a": 2}', "t2")
        await result_of(node, first)
        await result_of(node, second)
        node.tasks.to_agent.put_nowait(tpb.WorkTasksResponse(confirmations=[first.key]))
        await result_of(node, assignment("add", b'{"a": 3}', "t3"))
        await node.stop()
        await node.start()
        attach = await greet(node)
        assert [key.task_id for key in attach.attempts] == ["t2", "t3"]
        frame = await frame_with(node, lambda frame: frame.results)
        assert [result.key.task_id for result in frame.results] == ["t2", "t3"]
        assert frame.credit_count == 4
        assert len(node.registry.registrations) == 1


async def test_a_node_that_forgot_the_agent_gets_it_registered_again(node: FakeNode, agent: Agent) -> None:
    async with running(node, agent):
        node.tasks.to_agent.put_nowait(NotFound("UNKNOWN_AGENT", "who?"))
        await greet(node)
        first, second = node.registry.registrations
        assert (first.instance_id, first.incarnation) == (second.instance_id, second.incarnation)


async def test_a_newer_instance_ends_this_one(node: FakeNode, agent: Agent) -> None:
    async with running(node, agent) as run:
        node.tasks.to_agent.put_nowait(Aborted("SUPERSEDED", "a newer one came"))
        with pytest.raises(Aborted) as caught:
            await asyncio.wait_for(asyncio.shield(run), 5)
        assert caught.value.reason == "SUPERSEDED"


async def test_a_newer_instance_met_when_registering_again_ends_this_one(node: FakeNode, agent: Agent) -> None:
    async with running(node, agent) as run:
        node.registry.refuse = AlreadyExists("NAME_IN_USE", "a newer one is here")
        node.tasks.to_agent.put_nowait(NotFound("UNKNOWN_AGENT", "who?"))
        with pytest.raises(Aborted):
            await asyncio.wait_for(asyncio.shield(run), 5)


@pytest.mark.parametrize(("kind", "reason"), [(AlreadyExists, "NAME_IN_USE"), (Aborted, "INCARNATION_OUTDATED")])
async def test_a_name_held_from_the_future_is_taken_over(node: FakeNode, agent: Agent, kind: Any, reason: str) -> None:
    # The clock went back a year since somebody registered under this name.
    ahead = int(time.time() * 1000) + 365 * 86_400_000
    node.registry.refuse = kind(reason, "in use", incarnation=ahead)
    node.registry.refuse_below = ahead + 1
    async with running(node, agent):
        assert [registration.incarnation for registration in node.registry.registrations] == [ahead + 1]


async def test_a_name_held_by_a_newer_instance_is_left_alone(node: FakeNode, agent: Agent) -> None:
    node.registry.refuse = AlreadyExists("NAME_IN_USE", "in use", incarnation=int(time.time() * 1000) + 60_000)
    with pytest.raises(AlreadyExists):
        await asyncio.wait_for(agent.run(socket=node.socket), 5)


async def test_a_refused_card_ends_run(node: FakeNode, agent: Agent) -> None:
    node.registry.refuse = InvalidArgument("BAD_CARD", "no", field="card")
    with pytest.raises(InvalidArgument):
        await asyncio.wait_for(agent.run(socket=node.socket), 5)


async def test_stop_finishes_what_runs_then_leaves(node: FakeNode) -> None:
    agent, go = Agent("worker"), asyncio.Event()

    @agent.skill()
    async def wait() -> int:
        await go.wait()
        return 1

    async with running(node, agent) as run:
        node.tasks.to_agent.put_nowait(tpb.WorkTasksResponse(assignments=[assignment("wait")]))
        await until(lambda: next(iter(agent._workers))._running)
        stop = asyncio.create_task(agent.stop(grace=5))
        await until(lambda: node.registry.renewals)
        go.set()
        frame = await frame_with(node, lambda frame: frame.results)
        assert (frame.results[0].output.data, frame.credit_count) == (b"1", 0)
        node.tasks.to_agent.put_nowait(tpb.WorkTasksResponse(confirmations=[frame.results[0].key]))
        node.tasks.to_agent.put_nowait(None)
        await stop
        await asyncio.wait_for(run, 5)
        (left,) = node.registry.deregistrations
        assert left.instance_id == node.registry.registrations[0].instance_id


async def test_stop_hands_back_what_does_not_end_in_time(node: FakeNode, agent: Agent) -> None:
    async with running(node, agent) as run:
        node.tasks.to_agent.put_nowait(tpb.WorkTasksResponse(assignments=[assignment("wait_for_ever")]))
        await until(lambda: next(iter(agent._workers))._running)
        stop = asyncio.create_task(agent.stop(grace=0))
        frame = await frame_with(node, lambda frame: frame.results)
        assert (frame.results[0].problem.reason, frame.results[0].problem.retryable) == ("AGENT_STOPPED", True)
        node.tasks.to_agent.put_nowait(tpb.WorkTasksResponse(confirmations=[frame.results[0].key]))
        began = time.monotonic()
        await stop
        await asyncio.wait_for(run, 5)
        assert time.monotonic() - began < 4


async def test_a_skill_calls_and_publishes_as_part_of_its_task(node: FakeNode) -> None:
    agent = Agent("worker")

    @agent.skill()
    async def outer(ctx: Context) -> str:
        await ctx.publish("a", 1)
        await ctx.submit("echo", 1)
        return str(await ctx.call("echo", "inner", timeout=60))

    @agent.skill()
    def from_thread(ctx: Context) -> str:
        return str(ctx.wait(ctx.call("echo", "thread")))

    async with running(node, agent):
        work = assignment("outer")
        work.spec.priority, work.spec.cost_limit, work.spec.tenant = 7, 2.5, "acme"
        assert (await result_of(node, work)).output.data == b'"inner"'
        submitted, called = node.tasks.submissions
        assert {submitted.spec.parent_task_id, called.spec.parent_task_id} == {"t1"}
        assert {submitted.spec.traceparent, called.spec.traceparent} == {"00-trace"}
        for spec in (submitted.spec, called.spec):
            assert (spec.priority, spec.cost_limit, spec.tenant) == (7, 2.5, "acme")
        assert called.spec.deadline_time.seconds <= time.time() + 6
        assert (await result_of(node, assignment("from_thread", task="t2"))).output.data == b'"thread"'
