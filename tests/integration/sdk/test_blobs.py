"""Content too large for a payload, against a real node: as inputs and artifacts, through kills, by the command line."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import runpy
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgenode.api.blob.v1 import blob_pb2, blob_service_pb2, blob_service_pb2_grpc
from edgenode.link.blobs.room import Blobs
from edgenode.link.blobs.writing import BlobWriter
from edgenode.link.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from edgenode.sdk import Agent, BlobRef, Client, Context
from edgenode.sdk.blobs import refs_in
from edgenode.sdk.testing import Bench
from tests.integration.node_process import start_node

ROOT = Path(__file__).resolve().parents[3]
BIG = os.urandom(1 << 20) * 3
UNKNOWN = BlobRef(f"sha256:{'0' * 64}", 1)

agent = Agent("scanner")


@dataclass
class Scan:
    picture: BlobRef
    label: str = ""


@agent.skill("reverse")
async def reverse(ctx: Context, scan: Scan) -> Scan:
    data = await ctx.fetch(scan.picture)
    return Scan(await ctx.artifact("back", data[::-1], "x/back"), scan.label)


@agent.skill("report")
def report(ctx: Context, text: str) -> int:
    ctx.wait(ctx.artifact("report.txt", text.encode()))
    return len(text)


@agent.skill("claim")
async def claim() -> Scan:
    return Scan(UNKNOWN)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with agent.test() as made:
        yield made


async def test_an_input_and_artifacts_of_a_task(bench: Bench, tmp_path: Path) -> None:
    client = bench.client
    file = tmp_path / "photo.png"
    file.write_bytes(BIG)
    ref = await client.put(file)
    assert ref == BlobRef(f"sha256:{hashlib.sha256(BIG).hexdigest()}", len(BIG), "image/png", "photo.png")
    handle = await client.submit("reverse", {"scan": Scan(ref, "a")})
    result = await handle.result(30, dict[str, Any])
    (artifact,) = await handle.artifacts()
    assert (artifact.name, artifact.media_type, artifact.size) == ("back", "x/back", len(BIG))
    assert result["picture"]["digest"] == artifact.digest
    assert await client.fetch(artifact) == BIG[::-1]
    assert (await client.fetch(artifact, tmp_path)).read_bytes() == BIG[::-1]
    again = await client.task(handle.task_id).artifacts()
    assert again == [artifact]
    with io.BytesIO(BIG) as stream:
        assert (await client.put(stream, name="b")).digest == ref.digest
    assert (await client.call("report", {"text": "abc"})) == 3
    assert [ref.name for ref in await (await client.submit("report", {"text": "abc"})).artifacts(30)] == ["report.txt"]


async def test_what_is_refused_says_so(bench: Bench) -> None:
    client = bench.client
    with pytest.raises(NotFound, match="BLOB_UNKNOWN"):
        await client.submit("reverse", {"scan": Scan(UNKNOWN)})
    with pytest.raises(NotFound, match="BLOB_UNKNOWN"):
        await client.call("reverse", {"scan": Scan(UNKNOWN)})
    with pytest.raises(NotFound, match="BLOB_UNKNOWN"):
        await client.fetch(UNKNOWN)
    with pytest.raises(InvalidArgument, match="BAD_BLOB_REF"):
        BlobRef("md5:1", 1)
    with pytest.raises(ResourceExhausted, match=r"client\.put"):
        await client.submit("reverse", {"scan": "x" * (1 << 21)})
    handle = await client.submit("claim")
    with pytest.raises(NotFound, match="BLOB_UNKNOWN"):
        await handle.result(30)
    ref = await client.put(b"once")
    good = await client.submit("reverse", {"scan": Scan(ref)})
    await good.result(30)
    stub = blob_service_pb2_grpc.BlobServiceStub(client.channel)
    with pytest.raises(FailedPrecondition, match="BLOB_IN_USE"):
        await client.unary(stub.RemoveBlob, blob_service_pb2.RemoveBlobRequest(digest=ref.digest))
    node = bench.node.node
    assert node is not None
    place = next(node.config.state_dir.glob(f"blobs/*/{ref.digest[7:]}"))
    place.write_bytes(b"ONCE")
    with pytest.raises(DataLoss, match="BLOB_DAMAGED"):
        await client.fetch(ref)
    await client.put(b"once")
    assert await client.fetch(ref) == b"once"


async def test_references_live_as_long_as_their_task(bench: Bench) -> None:
    """Also in a node that was started again meanwhile."""
    ref = await bench.client.put(b"held")
    handle = await bench.client.submit("nobody.has.it", {"scan": Scan(ref)})
    await bench.node.restart()
    stub = blob_service_pb2_grpc.BlobServiceStub(bench.client.channel)
    answer = await bench.client.unary(stub.StatBlob, blob_service_pb2.StatBlobRequest(digest=ref.digest))
    assert (answer.blob.state, answer.blob.task_count) == (blob_pb2.BLOB_STATE_WHOLE, 1)
    assert [blob.digest for blob in (await bench.client.get_task(handle.task_id)).spec.blobs] == [ref.digest]


async def test_the_example_sorts_a_text_of_any_size() -> None:
    example = runpy.run_path(str(ROOT / "examples" / "artifact_agent.py"))["agent"]
    async with example.test() as bench:
        ref = await bench.client.put(b"b\na\n" * 300_000, name="text")
        handle = await bench.client.submit("text.sort", {"file": ref})
        assert (await handle.result(30))["lines"] == 600_000
        (artifact,) = await handle.artifacts()
        assert artifact.name == "sorted-text"
        assert await bench.client.fetch(artifact) == b"a\n" * 300_000 + b"b\n" * 300_000


async def test_what_is_put_again_is_told_to_the_node_and_not_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await bench.client.put(BIG, name="a")
    again, write, told, sent = Blobs.put_again, BlobWriter.write, [], []

    async def put_again(blobs: Blobs, digest: str, size: int | None) -> BlobRef | None:
        told.append(digest)
        return await again(blobs, digest, size)

    async def written(writer: BlobWriter, data: bytes) -> None:
        sent.append(len(data))
        await write(writer, data)

    monkeypatch.setattr(Blobs, "put_again", put_again)
    monkeypatch.setattr(BlobWriter, "write", written)
    assert await bench.client.put(BIG, name="b") == BlobRef(ref.digest, ref.size, "", "b")
    assert (told, sent) == ([ref.digest], [])


def test_references_are_found_in_json_alone() -> None:
    ref = BlobRef(f"sha256:{'a' * 64}", 3, "x/y", "n")
    fields = {"digest": ref.digest, "size": 3, "media_type": "x/y", "name": "n"}
    assert refs_in(json.dumps({"a": [fields, {"b": fields}], "c": {**fields, "more": 1}}).encode()) == [ref]
    assert refs_in(json.dumps([{**fields, "digest": "sha256:no"}, {**fields, "size": "3"}, ref.digest]).encode()) == []
    assert refs_in(b"no json") == []


# --- kills --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(state: Path) -> AsyncIterator[Process]:
    process = await start_node(state)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_after_kill_9_in_the_middle_of_the_bytes_they_go_on_where_they_were(state: Path) -> None:
    digest = f"sha256:{hashlib.sha256(BIG).hexdigest()}"
    async with Client(state=state, connect_timeout=60) as client:
        stub = blob_service_pb2_grpc.BlobServiceStub(client.channel)
        async with running(state) as process:
            written = asyncio.Event()

            async def frames() -> AsyncIterator[blob_service_pb2.PutBlobRequest]:
                header = blob_service_pb2.PutBlobHeader(digest=digest, size=len(BIG))
                yield blob_service_pb2.PutBlobRequest(header=header)
                for first in range(0, 1 << 20, 1 << 18):
                    yield blob_service_pb2.PutBlobRequest(data=BIG[first : first + (1 << 18)])
                await written.wait()

            put = asyncio.ensure_future(stub.PutBlob(frames()))
            partial = state / "blobs" / "partial" / digest[7:]
            async with asyncio.timeout(30):
                while not partial.exists() or partial.stat().st_size < 1 << 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            process.kill()
            with pytest.raises(Exception, match="UNAVAILABLE"):
                await put
        putting = asyncio.ensure_future(client.put(BIG))  # the SDK waits for the next process
        async with running(state):
            ref = await putting
            assert await client.fetch(ref) == BIG
            answer = await client.unary(stub.StatBlob, blob_service_pb2.StatBlobRequest(digest=digest))
            assert answer.blob.stored_bytes == len(BIG)
        assert not list((state / "blobs" / "partial").iterdir())


# --- the command line ---------------------------------------------------------------------------------------------------


_COMMANDS = """
import json, sys
from click.testing import CliRunner
from edgenode.cli.main import main
for words in json.load(sys.stdin):
    done = CliRunner().invoke(main, words)
    print(json.dumps([done.exit_code, done.stdout, done.stderr]))
"""


async def commands(*words: list[str]) -> list[tuple[int, str, str]]:
    """(exit code, standard output, standard error) of each, one after the other in one process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _COMMANDS, stdin=PIPE, stdout=PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    out, _ = await process.communicate(json.dumps(words).encode())
    return [tuple(json.loads(line)) for line in out.splitlines()]


async def test_the_commands_a_backup_and_the_ledger(bench: Bench, state: Path, tmp_path: Path) -> None:
    node = bench.node.node
    assert node is not None
    served, restored = node.config.state_dir, state / "restored"  # where the path of a socket is short
    here = ["--state", str(served)]
    file, backup = tmp_path / "photo.png", tmp_path / "a.tar"
    file.write_bytes(BIG)
    digest = hashlib.sha256(BIG).hexdigest()
    ref = {"digest": f"sha256:{digest}", "size": len(BIG), "media_type": "image/png", "name": "photo.png"}
    done = await commands(
        ["blob", "put", str(file), "-o", "json", *here],
        ["submit", "reverse", json.dumps({"scan": {"picture": ref}}), "--wait", *here],
        ["blob", "get", digest, str(tmp_path / "copy"), *here],
        ["blob", "list", "-o", "json", *here],
        ["blob", *here],
        ["blob", "remove", digest, *here],
        ["backup", str(backup), *here],
        ["restore", str(backup), "--state", str(restored)],
        ["blob", "get", UNKNOWN.digest, *here],
        ["blob", "get", "md5:0", *here],
        ["ledger", "verify", *here],
    )
    assert [code for code, _, _ in done] == [0, 0, 0, 0, 0, 1, 0, 0, 3, 2, 0]
    assert json.loads(done[0][1]) == ref
    assert json.loads(done[1][1])["picture"]["name"] == "back"
    assert (tmp_path / "copy").read_bytes() == BIG
    assert {blob["ref"]["name"]: blob["task_count"] for blob in json.loads(done[3][1])["blobs"]} == {
        "photo.png": 1,
        "back": 1,
    }
    assert "photo.png" in done[4][1]
    assert "BLOB_IN_USE" in done[5][2]
    assert re.search(r"^blobs +2$", done[6][1], re.MULTILINE)
    place = Path("blobs", digest[:2], digest)
    assert (restored / place).read_bytes() == BIG
    assert "BLOB_UNKNOWN" in done[8][2]
    (served / place).write_bytes(b"x")
    (restored / place).unlink()
    damaged = await commands(["ledger", "verify", *here], ["ledger", "verify", "--state", str(restored)])
    for code, out, err in damaged:
        assert code != 0
        assert digest in out + err
