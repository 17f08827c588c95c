"""What the bridge adds to the protocol: one task for one key whatever the way, access, cards, web hooks."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
import pytest_asyncio
from a2a.types import a2a_pb2 as pb
from a2a.types import a2a_pb2_grpc
from a2a.utils import errors
from google.protobuf import json_format
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.a2a import webhooks
from edgenode.bridges.a2a.parts import plain
from edgenode.bridges.a2a.targets import Targets
from edgenode.bridges.access import BearerToken
from edgenode.bridges.mcp.serving import Serving
from edgenode.bridges.mcp.transports import over_http
from edgenode.link.errors import AlreadyExists
from edgenode.link.wire.listening import Listener
from edgenode.sdk import Agent, Context
from tests.integration.bridges.a2a_rig import GRPC, JSONRPC, TOKEN, Rig, message, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONCE: dict[str, Any] = {"dev.edgenode/attempts": 1}
BEARER = {"Authorization": f"Bearer {TOKEN}", "A2A-Version": "1.0"}
SIGNED = {
    "name": "signed",
    "description": "Signed elsewhere",
    "version": "1",
    "supportedInterfaces": [
        {"url": "https://elsewhere.example/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    ],
    "capabilities": {},
    "defaultInputModes": ["application/json"],
    "defaultOutputModes": ["application/json"],
    "skills": [{"id": "signed.echo", "name": "echo", "description": "Echo", "tags": ["x"]}],
    "signatures": [{"protected": "e30", "signature": "c2ln"}],
}

_watched = asyncio.Event()


class CardAgent(Agent):
    """Brings an A2A card of its own."""

    def __init__(self, name: str, source: dict[str, Any]) -> None:
        super().__init__(name)
        self.source = source

    def card(self) -> registry_pb2.AgentCard:
        card = super().card()
        card.source_json = json.dumps(self.source, indent=1).encode()
        return card


def _agents() -> list[Agent]:
    hello = Agent("hello", description="Greets")

    @hello.skill(idempotent=True)
    async def greet(name: str, greeting: str = "Hello", times: int = 1) -> str:
        """Greets somebody."""
        return " ".join([f"{greeting}, {name}!"] * times)

    @hello.skill()
    async def ask(ctx: Context) -> bool:
        return bool(await ctx.input("Go on?", bool))

    @hello.skill()
    async def fail() -> None:
        raise ValueError("it is broken")

    @hello.skill()
    async def count(upto: int) -> AsyncIterator[int]:
        for number in range(upto):
            yield number
        await _watched.wait()

    made: list[Agent] = [hello]
    for name, source in (
        ("signed", SIGNED),
        ("plain", {key: value for key, value in SIGNED.items() if key != "signatures"} | {"name": "plain"}),
    ):
        agent = CardAgent(name, source)
        agent.skill(f"{name}.echo")(_echo)
        made.append(agent)
    return made


async def _echo(value: int) -> int:
    return value


class Receiver:
    """A receiver of web hooks that answers as it is told."""

    def __init__(self) -> None:
        self.taken: asyncio.Queue[tuple[dict[str, str], dict[str, Any]]] = asyncio.Queue()
        self.answers: list[bytes] = []

    async def __aenter__(self) -> Receiver:
        self._listener = Listener(self._serve)
        self.url = f"http://127.0.0.1:{await self._listener.open()}/hook"
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        await self.taken.put((headers, body))
        writer.write(self.answers.pop(0) if self.answers else b"HTTP/1.1 204 OK\r\nconnection: close\r\n\r\n")
        await writer.drain()

    async def until_ended(self) -> list[tuple[dict[str, str], dict[str, Any]]]:
        found = []
        async with asyncio.timeout(20):
            while True:
                found.append(await self.taken.get())
                state = found[-1][1].get("statusUpdate", {}).get("status", {}).get("state", "")
                if state in ("TASK_STATE_COMPLETED", "TASK_STATE_FAILED"):
                    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Rig]:
    async with rig(*_agents(), allow=(ipaddress.ip_network("127.0.0.0/8"),)) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        yield made


def data(**values: Any) -> pb.Part:
    part = pb.Part()
    json_format.ParseDict(values, part.data)
    return part


async def send(served: Rig, sent: pb.Message, agent: str = "", binding: str = JSONRPC, **configuration: Any) -> pb.Task:
    client = await served.connect(binding, agent)
    request = pb.SendMessageRequest(message=sent, configuration=pb.SendMessageConfiguration(**configuration))
    (event,) = [event async for event in client.send_message(request, context=served.context)]
    return event.task


# --- one key, one task ---


async def test_one_key_is_one_task_over_grpc_mcp_and_a2a(served: Rig) -> None:
    first = await served.client.submit("greet", {"times": 2, "name": "Ada"}, idempotency_key="one-key")
    for binding in (JSONRPC, GRPC):
        task = await send(served, message(data(name="Ada", times=2), id="one-key", skill="greet"), binding=binding)
        assert task.id == first.task_id
        assert task.artifacts[0].parts[0].text == "Hello, Ada! Hello, Ada!"
    async with (
        Serving(served.client, key=bytes(32)) as serving,
        over_http(serving, "127.0.0.1:0", BearerToken(TOKEN)) as place,
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as http,
        McpClient(streamable_http_client(place.url, http_client=http), cache=None) as mcp,
    ):
        meta: Any = {"dev.edgenode/idempotency-key": "one-key"}
        result = await mcp.call_tool("greet", {"times": 2, "name": "Ada"}, meta=meta)
        assert (result.meta or {})["dev.edgenode/task"] == first.task_id
    again = await served.client.submit("greet", {"name": "Ada", "times": 2}, idempotency_key="one-key")
    assert again.task_id == first.task_id
    listed = await (await served.connect(GRPC)).list_tasks(pb.ListTasksRequest(page_size=100), context=served.context)
    assert [task.id for task in listed.tasks].count(first.task_id) == 1
    with pytest.raises(AlreadyExists):
        await served.client.submit("greet", {"name": "Bob"}, idempotency_key="one-key")
    with pytest.raises(errors.InvalidParamsError, match="IDEMPOTENCY_CONFLICT"):
        await send(served, message(data(name="Bob"), id="one-key", skill="greet"))


async def test_trace_tenant_and_priority_travel(served: Rig) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    ours = {"tenant": "acme", "priority": 7, "timeout": 60}
    meta: dict[str, Any] = {"traceparent": trace, **{f"dev.edgenode/{key}": value for key, value in ours.items()}}
    task = await send(served, message(data(name="Ada"), id="travel", skill="greet", context="job-1", **meta))
    spec = (await served.client.get_task(task.id)).spec
    assert (spec.traceparent, spec.tenant, spec.priority, spec.context_id) == (trace, "acme", 7, "job-1")
    assert spec.HasField("deadline_time")
    assert (task.metadata["traceparent"], task.metadata["dev.edgenode/tenant"]) == (trace, "acme")
    wrong: dict[str, Any] = {"dev.edgenode/priority": "high"}
    with pytest.raises(errors.InvalidParamsError, match="BAD_META"):
        await send(served, message(data(name="Ada"), id="t2", skill="greet", **wrong))


async def test_which_skill(served: Rig) -> None:
    with pytest.raises(errors.InvalidParamsError, match="NO_SKILL_NAMED"):
        await send(served, message(data(name="Ada"), id="which-1"))
    with pytest.raises(errors.InvalidParamsError, match="UNKNOWN_SKILL"):
        await send(served, message(data(name="Ada"), id="which-2", skill="juggle"), "hello")
    parked = await send(served, message(data(), id="which-3", skill="juggle"), return_immediately=True)
    assert parked.metadata["dev.edgenode/state"] == "PARKED"
    assert "NO_AGENT" in str(parked.metadata["dev.edgenode/reason"])


async def test_an_agents_address_shows_its_own_tasks_alone(served: Rig) -> None:
    task = await send(served, message(data(name="Ada"), id="own", skill="greet"), "hello", GRPC)
    other = await served.connect(GRPC, "plain")
    with pytest.raises(errors.TaskNotFoundError):
        await other.get_task(pb.GetTaskRequest(id=task.id), context=served.context)
    assert task.id not in {
        found.id for found in (await other.list_tasks(pb.ListTasksRequest(), context=served.context)).tasks
    }


async def test_an_answer_that_is_sent_again_answers_once(served: Rig) -> None:
    asked = await send(served, message(data(), id="ask-1", skill="ask"))
    assert asked.status.message.metadata["dev.edgenode/input-schema"]
    answer = message(pb.Part(text="true"), id="ask-1-answer", task=asked.id)
    ended = await send(served, answer)
    assert ended.artifacts[0].parts[0].data.bool_value
    assert (await send(served, answer)).status.state == pb.TASK_STATE_COMPLETED


async def test_failures_say_why(served: Rig) -> None:
    task = await send(served, message(data(), id="fail-1", skill="fail", **ONCE))
    assert task.status.state == pb.TASK_STATE_FAILED
    assert task.metadata["dev.edgenode/state"] == "DEAD_LETTERED"
    assert "HANDLER_ERROR: ValueError: it is broken" in task.status.message.parts[0].text


async def test_results_that_form_come_as_pieces_of_an_artifact(served: Rig) -> None:
    client = await served.connect(GRPC, streaming=True)
    request = pb.SendMessageRequest(message=message(data(upto=3), id="count-1", skill="count"))
    events = []
    async for event in client.send_message(request, context=served.context):
        events.append(event)
        if event.artifact_update.artifact.parts and event.artifact_update.artifact.parts[-1].data.number_value == 2:
            _watched.set()
    pieces = [e.artifact_update for e in events if e.artifact_update.artifact.artifact_id.startswith("stream-")]
    assert [part.data.number_value for piece in pieces for part in piece.artifact.parts] == [0, 1, 2]
    assert [piece.append for piece in pieces] == [False] + [True] * (len(pieces) - 1)
    (whole,) = [e.artifact_update for e in events if e.artifact_update.artifact.artifact_id == "output"]
    assert plain(whole.artifact.parts[0].data) == [0, 1, 2]


@pytest.mark.parametrize("binding", [JSONRPC, GRPC])
async def test_a_call_is_answered_with_a_message_and_leaves_no_task(served: Rig, binding: str) -> None:
    call: dict[str, Any] = {"dev.edgenode/mode": "call"}
    before = len(await served.client.list_tasks())
    for streaming in (False, True):
        client = await served.connect(binding, streaming=streaming)
        request = pb.SendMessageRequest(message=message(data(name="Ada"), id="c-1", context="c", skill="greet", **call))
        (only,) = [event async for event in client.send_message(request, context=served.context)]
        assert (only.message.role, only.message.context_id) == (pb.ROLE_AGENT, "c")
        assert [part.text for part in only.message.parts] == ["Hello, Ada!"]
        for refused, why in (
            (message(data(), id="c-2", skill="fail", **call), "it is broken"),
            (message(data(), id="c-3", skill="juggle", **call), "UNKNOWN_SKILL"),
            (message(data(), id="c-5", skill="fail", **call, **{"dev.edgenode/idempotency-key": "k"}), "BAD_META"),
        ):
            with pytest.raises(errors.A2AError, match=why):
                await anext(aiter(client.send_message(pb.SendMessageRequest(message=refused), context=served.context)))
        request.configuration.task_push_notification_config.url = "https://hooks.example"
        with pytest.raises(errors.A2AError, match="NO_TASK"):
            await anext(aiter(client.send_message(request, context=served.context)))
    assert len(await served.client.list_tasks()) == before


async def test_a_stream_goes_on_from_the_sequence_a_caller_saw(served: Rig) -> None:
    asked = await send(served, message(data(), id="resume-1", skill="ask"))
    headers = {**BEARER, "Last-Event-ID": "1", "Accept": "text/event-stream"}
    url = f"{served.bridge.places.http}/rest/tasks/{asked.id}:subscribe"
    found: list[dict[str, Any]] = []
    async with served.http.stream("GET", url, headers=headers) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                found.append(json.loads(line.removeprefix("data:")))
            if "TASK_STATE_INPUT_REQUIRED" in line and "statusUpdate" in found[-1]:
                break
    assert found[0]["task"]["id"] == asked.id
    sequences = [event["statusUpdate"]["metadata"]["dev.edgenode/sequence"] for event in found[1:]]
    assert sequences == list(range(2, 2 + len(sequences)))
    refused = await served.http.get(url, headers={**headers, "Last-Event-ID": "soon"})
    assert (refused.status_code, "BAD_SEQUENCE" in refused.text) == (400, True)


# --- access and cards ---


async def test_everything_but_public_cards_wants_the_token(served: Rig) -> None:
    base = served.bridge.places.http
    body = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {}}
    for headers in ({}, {"Authorization": "Bearer another"}, {"Authorization": TOKEN}):
        answer = await served.http.post(base + "/", json=body, headers={"A2A-Version": "1.0", **headers})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert TOKEN not in answer.text
    assert (await served.http.get(base + "/rest/tasks")).status_code == 401
    async with grpc.aio.insecure_channel(served.bridge.places.grpc) as channel:
        stub = a2a_pb2_grpc.A2AServiceStub(channel)
        for call in (
            stub.ListTasks(pb.ListTasksRequest()),
            stub.SubscribeToTask(pb.SubscribeToTaskRequest(id="x")).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_hosts_that_are_not_this_machine_and_bodies_that_are_too_large(served: Rig) -> None:
    base = served.bridge.places.http
    card = "/.well-known/agent-card.json"
    assert (await served.http.get(base + card, headers={"Host": "evil.example"})).status_code == 421
    assert (await served.http.get(base + card, headers={"Host": "localhost:1"})).status_code == 200
    answer = await served.http.post(base + "/", content=b"x" * (5 << 20), headers=BEARER)
    assert answer.status_code == 413


async def test_a_signed_card_is_served_byte_for_byte(served: Rig) -> None:
    base = served.bridge.places.http
    answer = await served.http.get(f"{base}/agents/signed/.well-known/agent-card.json")
    assert answer.content == json.dumps(SIGNED, indent=1).encode()
    unsigned = await served.card("plain")
    assert unsigned.description == "Signed elsewhere"
    assert unsigned.supported_interfaces[0].url == f"{base}/agents/plain"
    assert (await served.http.get(f"{base}/agents/nobody/.well-known/agent-card.json")).status_code == 404
    body = {"jsonrpc": "2.0", "id": 1, "method": "GetExtendedAgentCard", "params": {}}
    extended = (await served.http.post(f"{base}/agents/signed", json=body, headers=BEARER)).json()["result"]
    assert extended["supportedInterfaces"][0]["url"] == f"{base}/agents/signed"
    assert "signatures" not in extended


async def test_a_caller_that_goes_away_is_not_waited_for(served: Rig) -> None:
    asked = message(data(), id="gone-1", skill="juggle")
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": json_format.MessageToDict(asked)}}

    def waits() -> bool:
        return any("_next_settled" in repr(task.get_coro()) for task in asyncio.all_tasks())

    asking = asyncio.create_task(served.http.post(served.bridge.places.http + "/", json=body, headers=BEARER))
    for expected in (True, False):
        async with asyncio.timeout(20):
            while waits() is not expected:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        asking.cancel()
    await asyncio.wait([asking])


# --- web hooks ---


def hook(receiver: Receiver, id: str = "h", **fields: Any) -> pb.TaskPushNotificationConfig:
    return pb.TaskPushNotificationConfig(url=receiver.url, id=id, token="said-back", **fields)


async def test_web_hooks_hear_of_every_change_with_an_id(served: Rig, receiver: Receiver) -> None:
    secret = pb.AuthenticationInfo(scheme="Bearer", credentials="theirs")
    sent = message(data(name="Ada"), id="hook-1", skill="greet")
    task = await send(served, sent, task_push_notification_config=hook(receiver, authentication=secret))
    heard = await receiver.until_ended()
    headers, last = heard[-1]
    assert (headers["x-a2a-notification-token"], headers["authorization"]) == ("said-back", "Bearer theirs")
    assert last["statusUpdate"]["taskId"] == task.id
    assert len({headers["x-a2a-notification-id"] for headers, _ in heard}) == len(heard)
    assert [body for _, body in heard if "artifactUpdate" in body]


async def test_a_hook_that_is_not_taken_is_sent_again_under_its_id(
    served: Rig, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "FIRST_WAIT", 0.01)
    receiver.answers = [b"HTTP/1.1 503 No\r\nconnection: close\r\n\r\n"] * 2
    await send(
        served, message(data(name="Ada"), id="hook-2", skill="greet"), task_push_notification_config=hook(receiver)
    )
    heard = await receiver.until_ended()
    ids = [headers["x-a2a-notification-id"] for headers, _ in heard]
    assert ids[0] == ids[1] == ids[2] != ids[3]


async def test_redirects_are_not_followed(served: Rig, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "FIRST_WAIT", 0.01)
    receiver.answers = [b"HTTP/1.1 307 There\r\nlocation: /elsewhere\r\nconnection: close\r\n\r\n"]
    await send(
        served, message(data(name="Ada"), id="hook-3", skill="greet"), task_push_notification_config=hook(receiver)
    )
    heard = await receiver.until_ended()
    assert heard[0][0]["x-a2a-notification-id"] == heard[1][0]["x-a2a-notification-id"]


async def test_hooks_are_kept_listed_and_deleted(served: Rig, receiver: Receiver) -> None:
    """PUSH-CREATE, PUSH-GET, PUSH-LIST, PUSH-DELETE."""
    asked = await send(served, message(data(), id="hook-4", skill="ask"))
    for binding in (JSONRPC, GRPC):
        client = await served.connect(binding)
        made = await client.create_task_push_notification_config(
            hook(receiver, binding.lower(), task_id=asked.id), context=served.context
        )
        got = await client.get_task_push_notification_config(
            pb.GetTaskPushNotificationConfigRequest(task_id=asked.id, id=made.id), context=served.context
        )
        assert got == made
        listing = pb.ListTaskPushNotificationConfigsRequest(task_id=asked.id)
        assert len((await client.list_task_push_notification_configs(listing, context=served.context)).configs) == 1
        gone = pb.DeleteTaskPushNotificationConfigRequest(task_id=asked.id, id=made.id)
        await client.delete_task_push_notification_config(gone, context=served.context)
        assert not (await client.list_task_push_notification_configs(listing, context=served.context)).configs
        with pytest.raises(errors.TaskNotFoundError):
            await client.get_task_push_notification_config(
                pb.GetTaskPushNotificationConfigRequest(task_id=asked.id, id=made.id), context=served.context
            )


async def test_a_bridge_that_starts_again_goes_on_with_its_hooks(
    served: Rig, receiver: Receiver, tmp_path: Path
) -> None:
    asked = await send(served, message(data(), id="hook-5", skill="ask"))
    allowed = [ipaddress.ip_network("127.0.0.0/8")]
    before = webhooks.Webhooks(served.client, tmp_path, Targets(allowed))
    await before.start()
    await before.add(await served.client.get_task(asked.id), hook(receiver))
    await before.aclose()
    (file,) = tmp_path.glob("*.json")
    assert file.stat().st_mode & 0o077 == 0
    await served.client.provide_input(asked.id, "input-1", True)
    after = webhooks.Webhooks(served.client, tmp_path, Targets(allowed))
    await after.start()
    heard = await receiver.until_ended()
    assert {body["statusUpdate"]["taskId"] for _, body in heard if "statusUpdate" in body} == {asked.id}
    await after.aclose()


async def test_targets_are_looked_at_at_creation_and_at_delivery(receiver: Receiver) -> None:
    found = [["93.184.216.34"], ["127.0.0.1"]]

    async def rebinds(_host: str, _port: int) -> list[str]:
        return found.pop(0) if len(found) > 1 else found[0]

    looking = Targets(resolver=rebinds)
    url = receiver.url.replace("http://127.0.0.1", "https://public.example")
    await looking.look(url)
    with pytest.raises(Exception, match="not public"):
        await looking.post(url, b"{}", {})
    assert receiver.taken.empty()
    await looking.aclose()


async def test_private_targets_are_refused(served: Rig) -> None:
    for url in ("https://10.0.0.1/x", "https://169.254.169.254/latest", "https://[::1]/", "file:///etc/passwd"):
        config = pb.TaskPushNotificationConfig(url=url)
        with pytest.raises(errors.InvalidParamsError, match=r"TARGET_REFUSED|BAD_URL"):
            await send(
                served,
                message(data(name="Ada"), id=f"p-{len(url)}", skill="greet"),
                task_push_notification_config=config,
            )


# --- the program ---


async def test_the_program_serves_until_it_is_told_to_end(served: Rig) -> None:
    state = served.node.socket.parent
    words = (
        "a2a",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--listen-grpc",
        f"unix:{state}/a2a.sock",
        "--state",
        str(state),
    )
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from edgenode.cli.main import main; main()", *words, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert program.stdout is not None
        ready = (await program.stdout.readline()).decode()
        assert ready.startswith("ready http=http://127.0.0.1:")
        url = ready.split()[1].removeprefix("http=")
        token = (state / "bridge.token").read_text().strip()
        assert (state / "bridge.token").stat().st_mode & 0o077 == 0
        headers = {"Authorization": f"Bearer {token}", "A2A-Version": "1.0"}
        answer = await served.http.get(f"{url}/rest/hello/tasks", headers=headers)
        assert answer.status_code == 200
        program.send_signal(signal.SIGTERM)
        assert await program.wait() == 0
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
