"""The pipes of an MCP server: answers go to whoever asked, whatever the server writes, and every wait ends."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp_types as types
import psutil
import pytest
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage

from edgenode.api.admin.v1 import admin_pb2
from edgenode.bridges.mcp import pipe as pipes
from edgenode.bridges.mcp import program
from edgenode.bridges.mcp.connection import Connection
from edgenode.bridges.mcp.oauth.kept import Kept
from edgenode.bridges.mcp.pipe import Pipe, ServerLost
from edgenode.link.errors import FailedPrecondition

pytestmark = pytest.mark.timeout(60)

SERVER = str(Path(__file__).with_name("rough_server.py"))
GOOD = '{"jsonrpc": "2.0", "id": @, "result": { "content": [] , "x": 1.50}}'


class Site:
    """A server, and what is told besides answers."""

    def __init__(self, pipe: Pipe, reading: Any, writing: Any) -> None:
        self.pipe = pipe
        self.reading = reading
        self.writing = writing
        self.progress: list[tuple[float, float | None, str | None]] = []

    async def call(self, *lines: str, **arguments: Any) -> bytes:
        asked = {"name": "say", "arguments": {"lines": lines, **arguments}}
        return await self.pipe.request("tools/call", asked, {}, lambda *told: self.progress.append(told))

    async def heard(self) -> Any:
        """The next message of the session, or what was wrong with it."""
        async with asyncio.timeout(30):
            item = await anext(self.reading)
        return (
            json.loads(item.message.model_dump_json(exclude_unset=True)) if isinstance(item, SessionMessage) else item
        )


@asynccontextmanager
async def server(*command: str) -> AsyncIterator[Site]:
    pipe = Pipe([sys.executable, *(command or ("-S", SERVER))], {}, "", lambda line: None)
    async with pipe as (reading, writing):
        yield Site(pipe, reading, writing)


async def test_a_result_is_the_text_the_server_wrote() -> None:
    async with server() as site:
        assert await site.call(GOOD) == b'{ "content": [] , "x": 1.50}'
        assert await site.call('{"id": "@", "result": {}}') == b"{}"  # an id as a text is the same id
        assert json.loads(await site.call('{"jsonrpc": "2.0", "id": @, "result": {"a": NaN}}')) == {"a": None}
        large = json.dumps({"text": "x" * 300_000})
        assert (await site.call('{"id": @, "result": ' + large + "}")).decode() == large
        many = [asyncio.ensure_future(site.call(GOOD)) for _ in range(50)]
        assert len(await asyncio.gather(*many)) == 50


async def test_a_refusal_and_an_answer_that_is_none_are_told_apart() -> None:
    async with server() as site:
        with pytest.raises(MCPError) as caught:
            await site.call('{"id": @, "error": {"code": -32602, "message": "no", "data": {"k": 1}}}')
        assert (caught.value.code, str(caught.value), caught.value.error.data) == (-32602, "no", {"k": 1})
        for line in ('{"id": @}', '{"id": @, "error": "no"}', '{"id": @, "error": {"code": "x"}}'):
            with pytest.raises(ValueError, match="without a result or an error"):
                await site.call(line)
        assert await site.call(GOOD)


async def test_what_is_no_answer_of_ours_is_the_sessions() -> None:
    async with server() as site:
        told = '{"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": %s, "progress": %s}}'
        asks = '{"jsonrpc": "2.0", "id": @, "method": "ping"}'  # a server counts its requests as it likes
        stranger = '{"jsonrpc": "2.0", "id": 7, "result": {}}'
        lines = ["not json", told % ("@", 1), told % (7, 2), asks, stranger, told % ('"@"', 3.5), told % ("@", '"x"')]
        assert await site.call(*lines, GOOD)
        assert site.progress == [(1.0, None, None), (3.5, None, None)]
        assert isinstance(await site.heard(), ValueError)
        assert (await site.heard())["params"]["progressToken"] == 7
        assert (await site.heard())["method"] == "ping"
        assert (await site.heard())["result"] == {}
        assert (await site.heard())["params"]["progress"] == "x"
        # What the session says of itself in its requests is said in ours.
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "progressToken": 3}
        listing = types.JSONRPCRequest(jsonrpc="2.0", id=1, method="tools/list", params={"_meta": meta})
        await site.writing.send(SessionMessage(listing))
        assert (await site.heard())["id"] == 1
        echo = "import sys; [print(line, end='', flush=True) for line in sys.stdin]"
    async with server("-S", "-c", echo) as site:
        await site.writing.send(SessionMessage(listing))
        await site.heard()
        call = asyncio.ensure_future(site.call())
        said = (await site.heard())["params"]["_meta"]
        assert said == {**meta, "progressToken": pipes.FIRST_ID}
        call.cancel()


async def test_cancelling_tells_the_server_and_a_late_answer_harms_nobody() -> None:
    async with server() as site:
        call = asyncio.ensure_future(site.call('{"jsonrpc": "2.0", "method": "notifications/begun"}'))
        await site.heard()
        call.cancel()
        told = await site.heard()
        assert told["method"] == "notifications/heard"
        assert await site.call(GOOD.replace("@", str(told["params"]["id"])), GOOD)
        assert (await site.heard())["id"] == told["params"]["id"]


async def test_a_server_that_goes_ends_every_wait() -> None:
    async with server() as site:
        waiting = asyncio.ensure_future(site.call())
        with pytest.raises(ServerLost) as caught:
            await site.call(leave=3)
        assert caught.value.sent
        with pytest.raises(ServerLost):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(site.reading)
        with pytest.raises(ServerLost) as caught:
            await site.call(GOOD)
        assert not caught.value.sent


async def test_a_server_that_does_not_read_is_not_written_to_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "END_TIME", 0.05)
    async with server() as site:
        calls = [asyncio.ensure_future(site.call(deaf=1))]
        calls += [asyncio.ensure_future(site.call(text="x" * 100_000)) for _ in range(50)]
        await asyncio.sleep(0)
        buffered = site.pipe._program._input.get_write_buffer_size()  # type: ignore[union-attr]
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        # Those that waited for room were never sent, and the others' cancels are small.
        assert site.pipe._program._input.get_write_buffer_size() < buffered + 10_000 < 500_000  # type: ignore[union-attr]


async def test_a_line_without_end_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MAX_LINE_BYTES", 100_000)
    async with server() as site:
        with pytest.raises(ServerLost, match="more than 100000 bytes"):
            await site.call("x" * 5_000_000)


async def test_a_session_that_does_not_read_holds_the_server_up() -> None:
    async with server() as site:
        line = json.dumps({"jsonrpc": "2.0", "method": "notifications/x", "params": {"text": "x" * 10_000}})
        call = asyncio.ensure_future(site.call(*[line] * 2000, GOOD))
        async with asyncio.timeout(30):
            while not site.reading._paused:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert len(site.reading._unread) < 2 * pipes.MOST_UNREAD
        for _ in range(2000):
            await site.heard()
        assert await call


async def test_a_program_that_does_not_end_is_killed_with_what_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "END_TIME", 0.05)
    stubborn = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        'print(\'{"jsonrpc": "2.0", "method": "child", "params": {"pid": %d}}\' % child.pid, flush=True)\n'
        "time.sleep(600)\n"
    )
    async with server("-S", "-c", stubborn) as site:
        child = psutil.Process((await site.heard())["params"]["pid"])
        parent = child.parent()
    assert parent is not None
    assert not parent.is_running()
    async with asyncio.timeout(30):
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_results_are_checked_and_a_bad_one_harms_no_other(tmp_path: Path) -> None:
    stdio = admin_pb2.McpStdioServer(arguments=[sys.executable, "-S", SERVER])
    mount = admin_pb2.Mount(name="rough", mcp_stdio=stdio)
    connection = Connection(mount, Kept(tmp_path, "rough", ""), lambda: None)

    async def call(result: str) -> Any:
        line = '{"jsonrpc": "2.0", "id": @, "result": ' + result + "}"
        return await connection.call("say", {"lines": [line]}, {}, lambda *told: None, asked)

    async def asked(question: types.ElicitRequestParams) -> types.ElicitResult:
        raise AssertionError(question)

    bad = ["3", "null", "{}", '{"content": [{"type": "text"}]}', '{"content": [{"type": "nothing"}]}']
    bad += ['{"content": [], "structuredContent": {"n": "x"}}', '{"content": []}', "[" * 5000 + "]" * 5000]
    bad += ['{"content": [], "structuredContent": {"n": 1}, "x": "\\xff"}']  # a byte that is no text
    bad += ['{"content": [], "structuredContent": {"n": 1, "t": "\\\\ud800"}}'.replace("\\\\", "\\")]
    try:
        await connection.open(30)
        for result in bad:
            with pytest.raises(FailedPrecondition) as caught:
                await call(result)
            assert caught.value.reason == "BAD_RESULT"
        good = '{"content":[], "structuredContent": {"n": 1}, "other": [1.0]}'
        result = await call(good)
        assert (result.text.decode(), result.read.structured_content) == (good, {"n": 1})
        assert not connection.lost.is_set()
        assert (connection.server, connection.protocol_version) == ("rough 1", "2025-11-25")
    finally:
        await connection.close()
