"""Content follows the tasks that refer to it: between edges, through hubs, over breaks of the link."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import grpc
import pytest

from edgenode.api.blob.v1 import blob_service_pb2, blob_service_pb2_grpc
from edgenode.link.blobs.files import Folder
from edgenode.link.errors import DeadlineExceeded, FailedPrecondition, ResourceExhausted, Unavailable
from edgenode.link.model.blob import BlobRef
from edgenode.link.wire.connection import LinkConnection
from edgenode.link.wire.status import from_rpc_error
from edgenode.sdk import Agent, Client, Context
from hub.services.above import FromParent
from hub.services.uplink import Uplink
from hub.store.records import PARENT
from tests.integration.hub.edges import Edges
from tests.integration.hub.forest import Forest, Grown

ROOT = Path(__file__).resolve().parents[3]
BIG = os.urandom(1 << 20) * 12
LARGE = BIG[: 3 << 19]


@dataclass
class Scan:
    picture: BlobRef


async def turn_pictures(edges: Edges, client: Client) -> None:
    """Attaches an agent that turns them around."""
    agent = Agent("turner")

    @agent.skill("turn")
    async def turn(ctx: Context, scan: Scan) -> Scan:
        data = await ctx.fetch(scan.picture)
        return Scan(await ctx.artifact("turned", data[::-1]))

    await edges.work(agent, client)


async def test_content_follows_a_task_to_another_edge_and_back(forest: Forest, edges: Edges) -> None:
    hub = forest.plant("hub")
    await hub.up()
    south = await edges.start(hub, "south")
    ref = await south.put(LARGE, name="picture")
    handle = await south.submit("turn", {"scan": Scan(ref)}, scope="fleet")
    north = await edges.start(hub, "north")
    await turn_pictures(edges, north)
    result = await handle.result(40, Scan)
    (artifact,) = await handle.artifacts()
    assert result.picture.digest == artifact.digest
    assert await south.fetch(artifact) == LARGE[::-1]
    # The hub can be asked for both, and takes none of its own.
    done = await commands(
        ["blob", "list", "-o", "json"], ["blob", "get", artifact.digest, str(edges.folder / "copy")],
        ["blob", "remove", ref.digest], ["ledger", "verify"], ["backup", str(edges.folder / "hub.tar"), "-o", "json"],
        state=hub.config.state_dir,
    )  # fmt: skip
    assert [code for code, _, _ in done] == [0, 0, 1, 0, 0]
    assert {blob["ref"]["digest"] for blob in json.loads(done[0][1])["blobs"]} == {ref.digest, artifact.digest}
    assert (edges.folder / "copy").read_bytes() == LARGE[::-1]
    assert json.loads(done[4][1])["blob_count"] == 2
    stub = blob_service_pb2_grpc.BlobServiceStub(hub.local())
    header = blob_service_pb2.PutBlobHeader(size=1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.PutBlob([blob_service_pb2.PutBlobRequest(header=header)])
    assert from_rpc_error(refused.value).reason == "BLOBS_AT_HUB"
    # What a call refers to does not leave its node, and a hub takes no content of its own.
    with pytest.raises(FailedPrecondition, match="BLOBS_IN_CALL"):
        await south.call("turn", {"scan": Scan(ref)}, scope="fleet")


async def test_content_goes_on_where_it_was_after_breaks(forest: Forest, edges: Edges) -> None:
    """The hub goes away in the middle, with the origin it comes back without, and the reader waits."""
    hub = forest.plant("hub")
    await hub.up()
    south, north = await edges.start(hub, "south"), await edges.start(hub, "north")
    await turn_pictures(edges, north)
    ref = await south.put(BIG)
    handle = await south.submit("turn", {"scan": Scan(ref)}, scope="fleet")
    partial = hub.config.state_dir / "blobs" / "partial" / ref.digest[7:]
    await _grows(partial, 1)
    await hub.stop()
    held = partial.stat().st_size
    assert 0 < held < len(BIG)
    await hub.up()
    assert await handle.result(40, Scan)
    (artifact,) = await handle.artifacts()
    assert await south.fetch(artifact) == BIG[::-1]


async def test_a_hub_keeps_what_it_has_for_an_edge_that_comes_later(forest: Forest, edges: Edges) -> None:
    hub = forest.plant("hub")
    await hub.up()
    south = await edges.start(hub, "south")
    ref = await south.put(LARGE)
    handle = await south.submit("turn", {"scan": Scan(ref)}, scope="fleet")
    await _whole(hub, 1)
    await edges.nodes["south"].stop()
    north = await edges.start(hub, "north")
    await turn_pictures(edges, north)
    await _whole(hub, 2)
    await edges.nodes["north"].stop()
    south = await edges.start(hub, "south")
    again = south.task(handle.task_id)
    assert await again.result(40, Scan)
    (artifact,) = await again.artifacts()
    assert await south.fetch(artifact) == LARGE[::-1]


async def test_content_that_nobody_has_any_more_is_told(forest: Forest, edges: Edges) -> None:
    hub = forest.plant("hub")
    await hub.up()
    south = await edges.start(hub, "south")
    ref = await south.put(b"gone soon")
    await hub.stop()
    handle = await south.submit("turn", {"scan": Scan(ref)}, scope="fleet", retry=1)
    (edges.folder / "south" / "blobs" / ref.digest[7:9] / ref.digest[7:]).unlink()
    await hub.up()
    north = await edges.start(hub, "north")
    await turn_pictures(edges, north)
    with pytest.raises(Unavailable, match="BLOB_ELSEWHERE"):
        await handle.result(40)
    with pytest.raises(DeadlineExceeded, match="WAIT_OVER"):
        await asyncio.wait_for(north.fetch(ref, timeout=0.0), 20)


async def test_a_reader_elsewhere_is_told_that_its_hub_has_no_room(forest: Forest, edges: Edges) -> None:
    hub = forest.plant("hub")
    hub.config = replace(hub.config, blob_bytes=5 << 20)  # half of them are what south may take
    await hub.up()
    south, north = await edges.start(hub, "south"), await edges.start(hub, "north")
    await turn_pictures(edges, north)
    first, second = await south.put(LARGE), await south.put(LARGE[1:])
    assert await (await south.submit("turn", {"scan": Scan(first)}, scope="fleet")).result(40, Scan)
    handle = await south.submit("turn", {"scan": Scan(second)}, scope="fleet", retry=1)
    with pytest.raises(ResourceExhausted, match="parent has no room: blobs from south take") as full:
        await handle.result(40)
    assert full.value.reason == "BLOB_SHARE_FULL"


async def test_content_goes_up_and_down_a_tree_of_hubs(forest: Forest, edges: Edges) -> None:
    root, child = forest.plant("root"), forest.plant("child")
    await root.up()
    await child.below(root, "berlin")
    await child.up()
    await child.linked()
    south, north = await edges.start(child, "south"), await edges.start(root, "north")
    await turn_pictures(edges, north)
    ref = await south.put(LARGE)
    handle = await south.submit("turn", {"scan": Scan(ref)}, scope="fleet")
    assert await handle.result(40, Scan)
    (artifact,) = await handle.artifacts()
    assert await south.fetch(artifact) == LARGE[::-1]


async def test_what_a_parent_asks_with_the_first_frames_of_a_session_is_not_forgotten(
    forest: Forest, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[bool] = []
    began = Uplink.established

    def established(uplink: Uplink, link: LinkConnection) -> None:
        began(uplink, link)
        # A question may be delivered in the same turn of the loop; one from before would count as another session's.
        known.append(PARENT in cast("FromParent", uplink._above)._handlers._blobs._up)

    monkeypatch.setattr(Uplink, "established", established)
    root, child = forest.plant("root"), forest.plant("child")
    await root.up()
    await child.below(root, "berlin")
    await child.up()
    await child.linked()
    assert known == [True] * len(known) != []


_NODE = """
import asyncio, sys
from pathlib import Path
from edgenode.node.config import NodeConfig
from edgenode.node.node import Node

async def main():
    pace = {"reconnect_min_seconds": 0.05, "reconnect_max_seconds": 0.2}
    await Node(NodeConfig(state_dir=Path(sys.argv[1]), hub=sys.argv[2], **pace)).start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def process(hub: Grown, state: Path) -> AsyncIterator[Process]:
    """A node that joined before, in a process of its own; killed at the end."""
    assert hub.hub is not None
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _NODE, str(state), f"127.0.0.1:{hub.hub.sync_port}", stdout=PIPE, env=environment
    )
    try:
        assert running.stdout is not None
        async with asyncio.timeout(40):
            assert await running.stdout.readline() == b"ready\n"
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def test_after_kill_9_of_the_reader_and_of_the_origin_content_goes_on_where_it_was(
    forest: Forest, edges: Edges
) -> None:
    hub = forest.plant("hub")
    await hub.up()
    for name in ("south", "north"):
        await edges.start(hub, name)
        await edges.nodes[name].stop()
    south, north = edges.folder / "south", edges.folder / "north"
    async with Client(state=south, connect_timeout=60) as submitter, Client(state=north, connect_timeout=60) as worker:
        async with process(hub, south) as running:
            ref = await submitter.put(BIG)
            handle = await submitter.submit("turn", {"scan": Scan(ref)}, scope="fleet")
            await _grows(Folder(hub.config.blob_folder.path).partial(ref.digest), 1)
            running.kill()
            await running.wait()
        partial = Folder(north / "blobs").partial(ref.digest)
        async with process(hub, south):
            async with process(hub, north) as running:
                await turn_pictures(edges, worker)
                await _grows(partial, 1)
                running.kill()
                await running.wait()
            assert 0 < partial.stat().st_size < len(BIG)
            async with process(hub, north):
                assert await handle.result(40, Scan)
                (artifact,) = await handle.artifacts()
                assert await submitter.fetch(artifact) == BIG[::-1]


_COMMANDS = """
import json, sys
from click.testing import CliRunner
from hub.cli.main import main
for words in json.load(sys.stdin):
    done = CliRunner().invoke(main, words)
    print(json.dumps([done.exit_code, done.stdout, done.stderr]))
"""


async def commands(*words: list[str], state: Path) -> list[tuple[int, str, str]]:
    """(exit code, standard output, standard error) of each, one after the other in one process."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _COMMANDS, stdin=PIPE, stdout=PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    given = [[*command, "--state", str(state)] for command in words]
    out, _ = await running.communicate(json.dumps(given).encode())
    return [tuple(json.loads(line)) for line in out.splitlines()]


async def _whole(hub: Grown, count: int) -> None:
    async with asyncio.timeout(40):
        while len(hub.config.blob_folder.whole()) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _grows(path: Path, size: int) -> None:
    async with asyncio.timeout(40):
        while not path.exists() or path.stat().st_size < size:  # noqa: ASYNC110
            await asyncio.sleep(0)
