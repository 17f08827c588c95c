"""The node as an MCP server, as clients of the official SDK and plain HTTP see it."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.client.session import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.subscriptions import ToolsListChanged

from edgenode.bridges.access import BearerToken, bridge_token
from edgenode.bridges.mcp.resources import MOST_BYTES
from edgenode.bridges.mcp.serving import Serving
from edgenode.bridges.mcp.tasking import EXTENSION
from edgenode.bridges.mcp.transports import Place, over_http
from edgenode.sdk import Agent, Context, OnLost, Payload
from edgenode.sdk.client import Client as NodeClient
from edgenode.sdk.testing import LocalNode

pytestmark = pytest.mark.timeout(90)

TOKEN = "a token of the tests"
KEY = secrets.token_bytes(32)
MODES = ["auto", "legacy"]


@dataclass
class Work:
    """What the agent's skills did, and what holds them."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)


def make(work: Work) -> Agent:
    agent = Agent("worker")

    @agent.skill("math.add", idempotent=True)
    async def add(a: int, b: int) -> int:
        """Adds."""
        work.ended.append("add")
        return a + b

    @agent.skill()
    async def hold(ctx: Context) -> str:
        """Waits to be told to go on."""
        work.begun.set()
        try:
            await work.go.wait()
        except asyncio.CancelledError:
            work.ended.append("cancelled")
            raise
        return f"attempt {ctx.attempt}"

    @agent.skill()
    async def steps(ctx: Context) -> str:
        """Says how far it has come."""
        for fraction in (0.25, 0.75):
            ctx.progress(fraction, "on the way")
            await asyncio.sleep(0.02)
        return "there"

    @agent.skill()
    async def name(ctx: Context) -> str:
        """Asks for a name."""
        given = await ctx.input("Your name?", str)
        return f"Hello, {given}!"

    @agent.skill()
    async def fails() -> str:
        """Fails."""
        work.ended.append("fails")
        raise ValueError("the disk is full")

    @agent.skill()
    async def picture() -> Payload:
        """A picture."""
        return Payload(b"hi", "image/png")

    return agent


def talker(work: Work) -> Agent:
    """Its results form piece by piece."""
    agent = Agent("talker")

    @agent.skill()
    async def talk(ctx: Context, words: list[str]) -> AsyncIterator[str]:
        """Says word after word, each once the one before was heard."""
        for word in words:
            yield word
            await work.go.wait()
            work.go.clear()

    @agent.skill(offline="fail")
    async def count(upto: int) -> AsyncIterator[int]:
        """Counts."""
        for number in range(upto):
            yield number
        if upto == 3:
            raise ValueError("three is too many")

    @agent.skill()
    async def bytes_of(size: int) -> AsyncIterator[bytes]:
        """Many bytes."""
        for _ in range(0, size, 65536):
            yield bytes(65536)

    return agent


@dataclass
class Site:
    """A node, its agent and a bridge."""

    node: LocalNode
    client: NodeClient
    work: Work
    agent: Agent
    place: Place = field(default_factory=lambda: Place(""))
    _bridge: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start_bridge(self, target: str = "127.0.0.1:0") -> None:
        self._bridge = AsyncExitStack()
        client = await self._bridge.enter_async_context(self.node.client(connect_timeout=30.0))
        serving = await self._bridge.enter_async_context(Serving(client, key=KEY))
        self.place = await self._bridge.enter_async_context(over_http(serving, target, BearerToken(TOKEN)))

    async def stop_bridge(self) -> None:
        await self._bridge.aclose()

    @asynccontextmanager
    async def mcp(self, mode: str = "auto", **options: Any) -> AsyncIterator[Client]:
        """A client of the bridge."""
        async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30.0) as http:
            transport = streamable_http_client(self.place.url, http_client=http)
            async with Client(transport, mode=mode, cache=None, **options) as client:
                yield client


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    work = Work()
    agent = make(work)
    async with LocalNode("north") as node, node.client() as client:
        await node.run(agent)
        made = Site(node, client, work, agent)
        await made.start_bridge()
        try:
            yield made
        finally:
            await made.stop_bridge()


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30.0):
        while not await true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def text_of(result: Any) -> str:
    return str(result.content[0].text)


@pytest.mark.parametrize("mode", MODES)
async def test_skills_are_tools_and_a_call_is_a_durable_task(site: Site, mode: str) -> None:
    async with site.mcp(mode) as mcp:
        tools = {tool.name: tool for tool in (await mcp.list_tools()).tools}
        assert set(tools) == {"math__add", "hold", "steps", "name", "fails", "picture"}
        add = tools["math__add"]
        assert (add.description, add.input_schema["required"]) == ("Adds.", ["a", "b"])
        assert add.annotations is not None
        assert add.annotations.idempotent_hint
        for name in ("math__add", "math.add"):
            result = await mcp.call_tool(name, {"a": 2, "b": 3})
            assert isinstance(result, types.CallToolResult)
            assert (text_of(result), result.structured_content) == ("5", {"result": 5})
            assert result.meta is not None
            task = await site.client.get_task(result.meta["dev.edgenode/task"])
            assert (task.spec.skill, result.meta["dev.edgenode/state"]) == ("math.add", "COMPLETED")
        image = (await mcp.call_tool("picture", {})).content[0]
        assert isinstance(image, types.ImageContent)
        assert (image.data, image.mime_type) == ("aGk=", "image/png")


async def test_a_failure_of_the_tool_is_a_result_and_comes_once(site: Site) -> None:
    async with site.mcp() as mcp:
        result = await mcp.call_tool("fails", {})
        assert result.is_error
        assert "the disk is full" in text_of(result)
        assert result.meta is not None
        assert result.meta["dev.edgenode/reason"] == "HANDLER_ERROR"
        assert site.work.ended == ["fails"]
        wrong = await mcp.call_tool("math__add", {"a": "two"})
        assert wrong.is_error
        assert "BAD_INPUT" in text_of(wrong)
        with pytest.raises(MCPError) as refused:
            await mcp.call_tool("nothing", {})
        assert (refused.value.code, refused.value.data["reason"]) == (types.INVALID_PARAMS, "UNKNOWN_TOOL")
        brief: Any = {"dev.edgenode/timeout": 0.2}
        with pytest.raises(MCPError) as late:
            await mcp.call_tool("hold", {}, meta=brief)
        assert late.value.data["state"] == "EXPIRED"


@pytest.mark.parametrize("mode", MODES)
async def test_progress_and_cancellation_go_through(site: Site, mode: str) -> None:
    seen: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with site.mcp(mode) as mcp:
        assert text_of(await mcp.call_tool("steps", {}, progress_callback=hear)) == "there"
        assert seen
        assert seen == sorted(seen)
        call = asyncio.create_task(mcp.call_tool("hold", {}))
        await site.work.begun.wait()
        call.cancel()
        await asyncio.wait([call])

        async def cancelled() -> bool:
            return "cancelled" in site.work.ended

        await until(cancelled)


@pytest.mark.parametrize("meta", [{}, {"dev.edgenode/mode": "call"}])
@pytest.mark.parametrize("mode", MODES)
async def test_results_that_form_are_heard_as_progress(site: Site, mode: str, meta: Any) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))
        site.work.go.set()  # the next one is made only now

    await site.node.run(talker(site.work))
    async with site.mcp(mode) as mcp:
        talk = {"words": ["three ", "more ", "words"]}
        given = await mcp.call_tool("talk", talk, progress_callback=hear, meta=meta)
    assert heard == [(1.0, None, "three "), (2.0, None, "more "), (3.0, None, "words")]
    assert given.structured_content == {"result": "three more words"}
    assert bool(await site.client.list_tasks()) is not bool(meta)


async def test_a_call_that_is_read_along_gives_what_a_call_gives(site: Site) -> None:
    heard: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message)

    await site.node.run(talker(site.work))
    call: Any = {"dev.edgenode/mode": "call"}
    async with site.mcp() as mcp:
        for arguments in ({"upto": 0}, {"upto": 1}, {"upto": 2}):  # one that is tagged online-only
            along = await mcp.call_tool("count", arguments, progress_callback=hear)
            plain = await mcp.call_tool("count", arguments)
            assert (along.content, along.structured_content) == (plain.content, plain.structured_content)
            assert along.structured_content == {"result": list(range(arguments["upto"]))}
        assert heard == ["0", "0", "1"]
        added = await mcp.call_tool("math__add", {"a": 1, "b": 2}, progress_callback=hear, meta=call)
        assert added.structured_content == {"result": 3}
        assert len(heard) == 3
        failed = await mcp.call_tool("count", {"upto": 3}, progress_callback=hear)
        assert (failed.is_error, heard[3:]) == (True, ["0", "1", "2"])
        assert "three is too many" in text_of(failed)
        seen = await mcp.call_tool("bytes_of", {"size": 65536}, progress_callback=hear, meta=call)
        assert seen.content == (await mcp.call_tool("bytes_of", {"size": 65536}, meta=call)).content
        with pytest.raises(MCPError) as large:
            await mcp.call_tool("bytes_of", {"size": 1 << 21}, progress_callback=hear, meta=call)
        assert large.value.data["reason"] == "RESULT_TOO_LARGE"
        assert await site.client.list_tasks() == []
        keyed: Any = {"dev.edgenode/idempotency-key": "k"}
        with pytest.raises(MCPError) as unkept:
            await mcp.call_tool("count", {"upto": 1}, meta=call | keyed)
        assert unkept.value.data["reason"] == "BAD_META"
        await mcp.call_tool("count", {"upto": 1}, meta=keyed)
        assert len(await site.client.list_tasks()) == 1


@pytest.mark.parametrize("mode", MODES)
async def test_a_question_is_put_to_the_user(site: Site, mode: str) -> None:
    asked: list[str] = []

    async def answer(_context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"value": "Ada"})

    async with site.mcp(mode, elicitation_callback=answer) as mcp:
        assert text_of(await mcp.call_tool("name", {})) == "Hello, Ada!"
        assert asked == ["Your name?"]
    async with site.mcp(mode) as mcp:
        with pytest.raises(MCPError) as refused:
            await mcp.call_tool("name", {})
        assert refused.value.code == types.MISSING_REQUIRED_CLIENT_CAPABILITY


async def test_one_idempotency_key_is_one_task_over_mcp_and_grpc(site: Site) -> None:
    handle = await site.client.submit("math.add", {"a": 1, "b": 1}, idempotency_key="once")
    assert await handle.result() == 2
    async with site.mcp() as mcp:
        meta: Any = {"dev.edgenode/idempotency-key": "once", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
        result = await mcp.call_tool("math__add", {"b": 1, "a": 1}, meta=meta)
        assert result.meta is not None
        assert (text_of(result), result.meta["dev.edgenode/task"]) == ("2", handle.task_id)
        with pytest.raises(MCPError) as refused:
            await mcp.call_tool("math__add", {"a": 1, "b": 2}, meta=meta)
        assert refused.value.data["reason"] == "IDEMPOTENCY_CONFLICT"
    assert site.work.ended == ["add"]


async def test_a_handle_of_the_tasks_extension_survives_bridge_and_node(site: Site) -> None:
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30.0) as http:
        created = (await post(http, site.place.url, "tools/call", name="hold", arguments={}))["result"]
        assert (created["resultType"], created["status"]) == ("task", "working")
        task_id = created["taskId"]
        spec = (await site.client.get_task(task_id)).spec
        assert OnLost(spec.on_lost) is OnLost.FAIL
        await site.stop_bridge()
        await site.start_bridge()
        told = (await post(http, site.place.url, "tasks/get", taskId=task_id))["result"]
        assert (told["status"], told["_meta"]["dev.edgenode/state"]) == ("working", "ASSIGNED")
        await site.node.restart()
        site.work.go.set()

        async def over() -> bool:
            nonlocal told
            told = (await post(http, site.place.url, "tasks/get", taskId=task_id))["result"]
            return told["status"] not in ("working", "input_required")

        await until(over)
        assert (told["status"], told["result"]["content"][0]["text"]) == ("completed", "attempt 1")
        unknown = (await post(http, site.place.url, "tasks/get", taskId="0" * 26))["error"]
        assert (unknown["code"], unknown["data"]["reason"]) == (types.INVALID_PARAMS, "UNKNOWN_TASK")


async def test_a_client_that_listens_is_told_of_its_tasks(site: Site) -> None:
    asked = await site.client.submit("name")  # a task is anybody's, whichever the way it was submitted
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30.0) as http:
        held = (await post(http, site.place.url, "tools/call", name="hold", arguments={}))["result"]["taskId"]
        wanted = {"taskIds": [held, "0" * 26, asked.task_id], "toolsListChanged": True}
        refused = await post(http, site.place.url, "subscriptions/listen", known=False, notifications=wanted)
        assert refused["error"]["code"] == types.MISSING_REQUIRED_CLIENT_CAPABILITY
        body, headers = rpc("subscriptions/listen", notifications=wanted)
        acknowledged: Any = None
        told: dict[str, list[Any]] = {held: [], asked.task_id: []}
        async with http.stream("POST", site.place.url, json=body, headers=headers) as stream:
            async for frame in frames(stream):
                if acknowledged is None:
                    acknowledged = frame
                    continue
                assert frame["method"] == "notifications/tasks"
                params = frame["params"]
                assert params["_meta"].pop("io.modelcontextprotocol/subscriptionId") == body["id"]
                told[params["taskId"]].append(params)
                if params["status"] == "input_required":
                    (key,) = params["inputRequests"]
                    answer = {key: {"action": "accept", "content": {"value": "Ada"}}}
                    await post(http, site.place.url, "tasks/update", taskId=asked.task_id, inputResponses=answer)
                    site.work.go.set()
                if all(each and each[-1]["status"] == "completed" for each in told.values()):
                    break
        got = (await post(http, site.place.url, "tasks/get", taskId=held))["result"]
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"]["notifications"] == {"taskIds": [held, asked.task_id], "toolsListChanged": True}
    assert {params["status"] for params in told[held]} == {"working", "completed"}
    assert "input_required" in [params["status"] for params in told[asked.task_id]]
    assert told[asked.task_id][-1]["result"]["content"][0]["text"] == "Hello, Ada!"
    del got["resultType"], got["_meta"]["io.modelcontextprotocol/serverInfo"]  # of every result
    assert told[held][-1] == got


async def frames(stream: httpx2.Response) -> AsyncIterator[Any]:
    """The messages of an event stream."""
    async for line in stream.aiter_lines():
        if line.startswith("data:") and (text := line.removeprefix("data:").strip()):
            yield json.loads(text)


async def test_a_request_with_a_key_that_a_restarted_bridge_gets_again_is_answered(site: Site) -> None:
    meta: Any = {"dev.edgenode/idempotency-key": "again"}
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30.0) as http:
        first = asyncio.create_task(post(http, site.place.url, "tools/call", known=False, meta=meta, name="hold"))
        await site.work.begun.wait()
        await site.stop_bridge()
        await asyncio.wait([first])
        site.work.go.set()
        await site.start_bridge()
        again = await post(http, site.place.url, "tools/call", known=False, meta=meta, name="hold")
    assert again["result"]["content"][0]["text"] == "attempt 1"
    assert site.work.ended == []


async def post(http: httpx2.AsyncClient, url: str, method: str, **options: Any) -> Any:
    """The answer to one request; see `rpc`."""
    body, headers = rpc(method, **options)
    return (await http.post(url, json=body, headers=headers)).json()


def rpc(method: str, *, known: bool = True, meta: Any = None, **params: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """(body, headers) of a request of 2026-07-28, by a client to which the tasks extension is `known`."""
    meta = {
        types.PROTOCOL_VERSION_META_KEY: "2026-07-28",
        types.CLIENT_CAPABILITIES_META_KEY: {"extensions": {EXTENSION: {}}} if known else {},
        **(meta or {}),
    }
    name = params.get("name") or params.get("taskId") or ""
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": method,
        **({"Mcp-Name": name} if name else {}),
    }
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}, headers


async def test_the_list_follows_the_registry(site: Site) -> None:
    async with site.mcp() as mcp:
        await mcp.list_tools()
        async with mcp.listen(tools_list_changed=True) as changes:
            other = Agent("other")

            @other.skill()
            async def later() -> str:
                """Came later."""
                return "late"

            await site.node.run(other)
            async with asyncio.timeout(30.0):
                async for change in changes:
                    assert isinstance(change, ToolsListChanged)
                    break
        assert text_of(await mcp.call_tool("later", {})) == "late"


async def test_the_node_says_how_it_is_in_resources(site: Site) -> None:
    async with site.mcp() as mcp:
        uris = {resource.uri for resource in (await mcp.list_resources()).resources}
        assert uris == {"edgenode://registry", "edgenode://status", "edgenode://ledger"}
        for uri in uris:
            (content,) = (await mcp.read_resource(uri)).contents
            assert isinstance(content, types.TextResourceContents)
            assert content.text.startswith("{")
        result = await mcp.call_tool("math__add", {"a": 1, "b": 2})
        assert result.meta is not None
        (content,) = (await mcp.read_resource(f"edgenode://tasks/{result.meta['dev.edgenode/task']}/output")).contents
        assert isinstance(content, types.TextResourceContents)
        assert content.text == "3"


async def test_artifacts_are_links_to_resources(site: Site) -> None:
    other = Agent("plotter")

    @other.skill()
    async def plot(ctx: Context, size: int) -> str:
        await ctx.artifact("plot.png", b"p" * size, "image/png")
        return "see the plot"

    await site.node.run(other)
    async with site.mcp() as mcp:
        for size in (3, MOST_BYTES + 1):
            result = await mcp.call_tool("plot", {"size": size})
            text, link = result.content
            assert isinstance(text, types.TextContent)
            assert isinstance(link, types.ResourceLink)
            assert (link.name, link.mime_type, link.size) == ("plot.png", "image/png", size)
            assert link.uri.startswith("edgenode://blobs/sha256:")
            if size == 3:
                (content,) = (await mcp.read_resource(link.uri)).contents
                assert isinstance(content, types.BlobResourceContents)
                assert content.blob == "cHBw"
            else:
                with pytest.raises(MCPError, match="BLOB_TOO_LARGE"):
                    await mcp.read_resource(link.uri)


async def test_only_callers_of_this_machine_with_the_token_are_served(site: Site) -> None:
    token = {"Authorization": f"Bearer {TOKEN}"}
    port = httpx2.URL(site.place.url).port
    async with httpx2.AsyncClient(timeout=30.0) as http:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer another"}, 401),
            (token | {"Host": f"evil.example:{port}"}, 421),
            (token | {"Origin": "http://evil.example"}, 403),
            (token | {"Origin": "null"}, 403),
            ({"Host": "evil.example"}, 421),
        ):
            answer = await http.post(site.place.url, json={}, headers=headers)
            assert answer.status_code == status, headers


def test_the_token_is_for_its_owner_alone(tmp_path: Path) -> None:
    bridge_token(tmp_path)
    assert (tmp_path / "bridge.token").stat().st_mode & 0o777 == 0o600


async def test_it_ends_when_it_is_told_to_though_its_client_stays(site: Site) -> None:
    program = "from edgenode.cli.main import main; main()"
    arguments = ["mcp", "serve", "--state", str(site.node.socket.parent)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, *arguments, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    answer = json.loads(await process.stdout.readline())
    assert answer["result"]["serverInfo"]["name"] == "edgenode"
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_unix_socket_is_its_owners_alone(site: Site) -> None:
    path = site.node.socket.with_name("mcp.sock")
    await site.stop_bridge()
    await site.start_bridge(f"unix:{path}")
    assert path.stat().st_mode & 0o777 == 0o600
    headers = {"Authorization": f"Bearer {TOKEN}"}
    transport = httpx2.AsyncHTTPTransport(uds=str(path))
    async with httpx2.AsyncClient(headers=headers, transport=transport, timeout=30.0) as http:
        listed = await post(http, site.place.url, "tools/list")
        assert "steps" in {tool["name"] for tool in listed["result"]["tools"]}
        called = await post(http, site.place.url, "tools/call", name="math.add", arguments={"a": 1, "b": 2})
        assert called["result"]["structuredContent"] == {"result": 3}
