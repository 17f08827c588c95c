"""The requirements of the A2A TCK 1.0, by the official SDK's client over every binding; each test is named after one.

The agent does what the TCK asks of an agent under test: the prefix of the message's id, which is the task's idempotency key,
says what. Left out are requirements for what is not there: replies that are a bare message (CORE-STREAM-002, as everything
here is a task), capabilities that are declared missing (CORE-CAP-001, -002, -003) and extensions that are required.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from a2a.client import Client as A2AClient
from a2a.types import a2a_pb2 as pb
from a2a.types import a2a_pb2_grpc
from a2a.utils import errors
from google.protobuf import json_format

from edgenode.sdk import Agent, Context
from tests.integration.bridges.a2a_rig import GRPC, JSONRPC, REST, TOKEN, Rig, message, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)
_gates: dict[str, asyncio.Event] = {}


def _agent() -> Agent:
    agent = Agent("tck", description="Does what the prefix of a message's id says")

    @agent.skill("tck")
    async def run(ctx: Context, text: str) -> Any:
        """Does what the message's id says."""
        key = ctx.spec.idempotency_key
        if key.startswith("tck-input-required"):
            return await ctx.input("Which?", str)
        if key.startswith("tck-artifact-data"):
            return {"key": "value", "count": 42}
        if key.startswith("tck-artifact-file"):
            return b"file"
        if key.startswith("tck-gated"):
            ctx.progress(0.5, "half way")
            await _gates[key].wait()
        return "Hello from TCK"

    return agent


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Rig]:
    async with rig(_agent()) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", params=[JSONRPC, GRPC])
async def client(served: Rig, request: pytest.FixtureRequest) -> A2AClient:
    return await served.connect(request.param)


@pytest_asyncio.fixture(loop_scope="module", params=[JSONRPC, GRPC, REST])
async def streaming(served: Rig, request: pytest.FixtureRequest) -> A2AClient:
    return await served.connect(request.param, streaming=True)


def new_id(prefix: str = "tck-complete-task") -> str:
    return f"{prefix}-{next(_numbers)}"


def request(
    id: str, *parts: pb.Part, task: str = "", context: str = "", **configuration: object
) -> pb.SendMessageRequest:
    made = pb.SendMessageRequest(message=message(*(parts or (pb.Part(text="hi"),)), id=id, task=task, context=context))
    for name, value in configuration.items():
        setattr(made.configuration, name, value)
    return made


async def send(client: A2AClient, served: Rig, asked: pb.SendMessageRequest) -> pb.Task:
    (event,) = [event async for event in client.send_message(asked, context=served.context)]
    return event.task


async def gated(client: A2AClient, served: Rig) -> tuple[pb.Task, asyncio.Event]:
    """A task that works until its gate is opened."""
    id = new_id("tck-gated")
    gate = _gates[id] = asyncio.Event()
    return await send(client, served, request(id, return_immediately=True)), gate


async def test_core_send_001_returns_a_task(served: Rig, client: A2AClient) -> None:
    task = await send(client, served, request(new_id()))
    assert task.status.state == pb.TASK_STATE_COMPLETED
    assert [part.text for part in task.artifacts[0].parts] == ["Hello from TCK"]


async def test_core_send_002_refuses_messages_to_terminal_tasks(served: Rig, client: A2AClient) -> None:
    task = await send(client, served, request(new_id()))
    for binding in (client, await served.connect(REST)):
        with pytest.raises(errors.UnsupportedOperationError):
            await send(binding, served, request(new_id(), task=task.id))


async def test_core_send_003_refuses_media_types_the_skill_does_not_take(served: Rig, client: A2AClient) -> None:
    part = pb.Part(raw=b"tck", media_type="application/x-unsupported-tck-type")
    with pytest.raises(errors.ContentTypeNotSupportedError):
        await send(client, served, request(new_id("tck-send-003"), part))


async def test_core_stream_001_and_003_begins_with_the_task_and_closes_at_its_end(
    served: Rig, streaming: A2AClient
) -> None:
    events = [event async for event in streaming.send_message(request(new_id()), context=served.context)]
    assert events[0].HasField("task")
    assert events[-1].status_update.status.state == pb.TASK_STATE_COMPLETED
    (artifact,) = [event.artifact_update for event in events if event.HasField("artifact_update")]
    assert artifact.artifact.parts[0].text == "Hello from TCK"


async def test_core_get_001_returns_the_present_state(served: Rig, client: A2AClient) -> None:
    task = await send(client, served, request(new_id()))
    got = await client.get_task(pb.GetTaskRequest(id=task.id), context=served.context)
    assert (got.status.state, got.artifacts) == (pb.TASK_STATE_COMPLETED, task.artifacts)


async def test_core_get_002_and_cancel_003_know_no_unknown_task(served: Rig, client: A2AClient) -> None:
    with pytest.raises(errors.TaskNotFoundError):
        await client.get_task(pb.GetTaskRequest(id="tck-nonexistent"), context=served.context)
    with pytest.raises(errors.TaskNotFoundError):
        await client.cancel_task(pb.CancelTaskRequest(id="tck-nonexistent"), context=served.context)


async def test_core_list_pages_by_cursor_newest_change_first_without_artifacts(served: Rig, client: A2AClient) -> None:
    """CORE-LIST-002 to -005."""
    context = new_id("tck-context")
    sent = [(await send(client, served, request(new_id(), context=context))).id for _ in range(3)]
    first = await client.list_tasks(pb.ListTasksRequest(context_id=context, page_size=2), context=served.context)
    second = await client.list_tasks(
        pb.ListTasksRequest(context_id=context, page_size=2, page_token=first.next_page_token), context=served.context
    )
    assert [task.id for task in [*first.tasks, *second.tasks]] == sent[::-1]
    assert (first.total_size, first.page_size, second.next_page_token) == (3, 2, "")
    assert not any(task.artifacts or task.history for task in first.tasks)
    times = [task.status.timestamp.ToMilliseconds() for task in [*first.tasks, *second.tasks]]
    assert times == sorted(times, reverse=True)
    whole = await client.list_tasks(
        pb.ListTasksRequest(context_id=context, include_artifacts=True, status=pb.TASK_STATE_COMPLETED),
        context=served.context,
    )
    assert [len(task.artifacts) for task in whole.tasks] == [1, 1, 1]
    none = await client.list_tasks(
        pb.ListTasksRequest(context_id=context, status=pb.TASK_STATE_FAILED), context=served.context
    )
    assert (len(none.tasks), none.total_size) == (0, 0)


async def test_core_cancel_001_returns_the_task_canceled(served: Rig, client: A2AClient) -> None:
    task = await send(client, served, request(new_id("tck-input-required")))
    assert task.status.state == pb.TASK_STATE_INPUT_REQUIRED
    await client.cancel_task(pb.CancelTaskRequest(id=task.id), context=served.context)
    async for update in served.client.watch_task(task.id):
        if update.state.terminal:
            assert update.state.name == "CANCELED"


async def test_core_cancel_002_refuses_terminal_tasks(served: Rig, client: A2AClient) -> None:
    task = await send(client, served, request(new_id()))
    with pytest.raises(errors.TaskNotCancelableError):
        await client.cancel_task(pb.CancelTaskRequest(id=task.id), context=served.context)


async def test_core_execution_mode_001_waits_for_an_interrupted_state(served: Rig, client: A2AClient) -> None:
    task = await send(client, served, request(new_id("tck-input-required")))
    assert task.status.state == pb.TASK_STATE_INPUT_REQUIRED
    assert task.status.message.parts[0].text == "Which?"
    answered = await send(client, served, request(new_id("answer"), pb.Part(text="this"), task=task.id))
    assert answered.id == task.id
    assert answered.status.state == pb.TASK_STATE_COMPLETED
    assert answered.artifacts[0].parts[0].text == "this"


async def test_core_execution_mode_002_returns_at_once(served: Rig, client: A2AClient) -> None:
    task, gate = await gated(client, served)
    assert task.status.state in (pb.TASK_STATE_SUBMITTED, pb.TASK_STATE_WORKING)
    gate.set()


async def test_core_err_002_checks_parameters(served: Rig, client: A2AClient) -> None:
    with pytest.raises(errors.InvalidParamsError):
        await send(client, served, pb.SendMessageRequest(message=pb.Message(message_id="m", role=pb.ROLE_USER)))
    with pytest.raises(errors.InvalidParamsError):
        await client.list_tasks(pb.ListTasksRequest(page_size=1000), context=served.context)
    with pytest.raises(errors.InvalidParamsError):
        await client.list_tasks(pb.ListTasksRequest(page_token="?"), context=served.context)


async def test_core_multi_001a_002_and_003_context_and_task_ids(served: Rig, client: A2AClient) -> None:
    first, second = [await send(client, served, request(new_id())) for _ in range(2)]
    assert first.context_id
    assert first.id != second.id
    third = await send(client, served, request(new_id(), context="tck-client-context-001"))
    assert third.context_id == "tck-client-context-001"
    again = await send(client, served, request(new_id(), context=first.context_id))
    listed = await client.list_tasks(pb.ListTasksRequest(context_id=first.context_id), context=served.context)
    assert {task.id for task in listed.tasks} == {first.id, again.id}


async def test_core_multi_002a_refuses_a_context_it_cannot_keep(served: Rig, client: A2AClient) -> None:
    with pytest.raises(errors.InvalidParamsError):
        await send(client, served, request(new_id(), context="c" * 200))


async def test_core_multi_004_knows_no_unknown_task(served: Rig, client: A2AClient) -> None:
    with pytest.raises(errors.TaskNotFoundError):
        await send(client, served, request(new_id("tck-multi-004"), task="tck-nonexistent-multi-004"))


async def test_core_multi_005_and_006_context_of_the_task(served: Rig, client: A2AClient) -> None:
    task = await send(client, served, request(new_id("tck-input-required"), context="tck-of-its-own"))
    with pytest.raises(errors.InvalidParamsError):
        await send(client, served, request(new_id("answer"), task=task.id, context="tck-another"))
    answered = await send(client, served, request(new_id("answer"), task=task.id))
    assert answered.context_id == "tck-of-its-own"


async def test_core_hist_001_to_003_history_length(served: Rig, client: A2AClient) -> None:
    id = new_id()
    task = await send(client, served, request(id, history_length=0))
    assert not task.history
    got = await client.get_task(pb.GetTaskRequest(id=task.id, history_length=0), context=served.context)
    assert not got.history
    got = await client.get_task(pb.GetTaskRequest(id=task.id, history_length=5), context=served.context)
    assert [entry.message_id for entry in got.history] == [id]


async def test_stream_sub_001_and_002_task_first_until_its_end(served: Rig, streaming: A2AClient) -> None:
    started = await served.connect(JSONRPC)
    task, gate = await gated(started, served)
    events: list[pb.StreamResponse] = []
    async for event in streaming.subscribe(pb.SubscribeToTaskRequest(id=task.id), context=served.context):
        events.append(event)
        gate.set()
    assert events[0].task.id == task.id
    assert events[-1].status_update.status.state == pb.TASK_STATE_COMPLETED


async def test_stream_sub_003_and_004_refuses_terminal_and_unknown_tasks(served: Rig, streaming: A2AClient) -> None:
    task = await send(await served.connect(JSONRPC), served, request(new_id()))
    for id, error in ((task.id, errors.UnsupportedOperationError), ("tck-nonexistent", errors.TaskNotFoundError)):
        with pytest.raises(error):
            async for _ in streaming.subscribe(pb.SubscribeToTaskRequest(id=id), context=served.context):
                pass


async def test_stream_order_002_to_004_every_stream_has_every_event(served: Rig, streaming: A2AClient) -> None:
    task, gate = await gated(await served.connect(JSONRPC), served)
    opened = [
        streaming.subscribe(pb.SubscribeToTaskRequest(id=task.id), context=served.context).__aiter__() for _ in range(3)
    ]
    for stream in opened:
        assert (await anext(stream)).HasField("task")
    await opened.pop().aclose()  # type: ignore[attr-defined]
    gate.set()
    ends = [[event.WhichOneof("payload") async for event in stream][-2:] for stream in opened]
    assert ends == [["artifact_update", "status_update"]] * 2


async def test_subscribe_by_get_and_by_post(served: Rig) -> None:
    task, gate = await gated(await served.connect(JSONRPC), served)
    gate.set()
    for method in ("GET", "POST"):
        url = f"{served.bridge.places.http}/rest/tasks/{task.id}:subscribe"
        async with served.http.stream(
            method, url, headers={"Authorization": f"Bearer {TOKEN}", "A2A-Version": "1.0"}
        ) as answer:
            assert answer.status_code in (200, 400)  # it may have ended meanwhile
            assert task.id in (await answer.aread()).decode()


async def test_artifacts_by_kind(served: Rig, client: A2AClient) -> None:
    """tck-artifact-data and tck-artifact-file."""
    data = await send(client, served, request(new_id("tck-artifact-data")))
    assert json.loads(json.dumps(dict(data.artifacts[0].parts[0].data.struct_value.items()))) == {
        "key": "value",
        "count": 42,
    }
    file = await send(client, served, request(new_id("tck-artifact-file")))
    assert (file.artifacts[0].parts[0].raw, file.artifacts[0].parts[0].media_type) == (
        b"file",
        "application/octet-stream",
    )


async def test_ver_server_001_to_003_version(served: Rig) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "x"}}
    codes = {}
    for version in ("1.0", "1.0.7", "0.5", "9.9", ""):
        headers = {"Authorization": f"Bearer {TOKEN}", "A2A-Version": version}
        answer = await served.http.post(served.bridge.places.http + "/", json=body, headers=headers)
        codes[version] = answer.json()["error"]["code"]
    assert codes == {"1.0": -32001, "1.0.7": -32001, "0.5": -32009, "9.9": -32009, "": -32009}
    async with grpc.aio.insecure_channel(served.bridge.places.grpc) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await a2a_pb2_grpc.A2AServiceStub(channel).GetTask(
                pb.GetTaskRequest(id="x"), metadata=(("authorization", f"Bearer {TOKEN}"), ("a2a-version", "0.5"))
            )
    assert "0.5" in (refused.value.details() or "")


async def test_card_disc_struct_proto_and_cache(served: Rig) -> None:
    """CARD-DISC-001, CARD-STRUCT-001, CARD-PROTO-001 and -002, CARD-CACHE-001 and -002."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{served.bridge.places.http}/.well-known/agent-card.json")
        known = answer.headers["etag"]
        again = await http.get(
            f"{served.bridge.places.http}/.well-known/agent-card.json", headers={"If-None-Match": known}
        )
    assert "max-age" in answer.headers["cache-control"]
    assert again.status_code == 304
    card = await served.card()
    assert all((card.name, card.description, card.version, card.skills, card.supported_interfaces))
    bindings = {interface.protocol_binding: interface for interface in card.supported_interfaces}
    assert set(bindings) == {"JSONRPC", "HTTP+JSON", "GRPC"}
    assert all(interface.url and interface.protocol_version == "1.0" for interface in bindings.values())


async def test_card_ext_001_extended_card_wants_the_token(served: Rig, client: A2AClient) -> None:
    card = await client.get_extended_agent_card(pb.GetExtendedAgentCardRequest(), context=served.context)
    (extension,) = card.capabilities.extensions
    said = json_format.MessageToDict(extension.params)
    assert "text" in str(said["skills"]["tck"]["inputSchema"])
    other = await served.connect(GRPC)
    with pytest.raises(Exception, match="bearer token"):
        await other.get_extended_agent_card(pb.GetExtendedAgentCardRequest())
