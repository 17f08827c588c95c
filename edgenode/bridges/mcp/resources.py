"""Resources: the node's own, which say how it is, and those that skills give.

edgenode://registry          agents of this node and the fleet, as far as they are known
edgenode://status            how the node is
edgenode://ledger            the counts of every hop
edgenode://tasks/{task}      a task with its state, reason and policy
edgenode://tasks/{task}/output   what it gave
edgenode://blobs/{digest}    content that an input or a result refers to, up to 4 MiB
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.blob.v1 import blob_service_pb2, blob_service_pb2_grpc
from edgenode.bridges.mcp.offers import Json
from edgenode.bridges.mcp.outcomes import content_of
from edgenode.bridges.wishes import BLOBS
from edgenode.link.errors import NotFound, ResourceExhausted
from edgenode.link.terminal.plain import plain
from edgenode.link.wire.blobs import ref_from_pb
from edgenode.sdk.client import Client
from edgenode.sdk.encoding import OCTETS, Payload, is_json

ROOT = "edgenode://"
REGISTRY, STATUS, LEDGER, TASKS = ROOT + "registry", ROOT + "status", ROOT + "ledger", ROOT + "tasks/"
OWN: tuple[Json, ...] = (
    {"uri": REGISTRY, "name": "registry", "description": "Agents of this node and of the fleet, and their skills."},
    {"uri": STATUS, "name": "status", "description": "How the node is: its store, its link, its lanes."},
    {"uri": LEDGER, "name": "ledger", "description": "What was produced, delivered, pending and dropped, by hop."},
)
TEMPLATES: tuple[Json, ...] = (
    {
        "uriTemplate": TASKS + "{task}",
        "name": "task",
        "description": "A task: what is to be done, and where it stands.",
    },
    {"uriTemplate": TASKS + "{task}/output", "name": "output", "description": "What a task gave."},
    {
        "uriTemplate": BLOBS + "{digest}",
        "name": "blob",
        "description": "Content too large for a result, by its digest.",
    },
)
JSON_TYPE = "application/json"
MOST_BYTES = 4 << 20  # of a blob
BLOB_SECONDS = 30.0  # that one may take to come from another node
MOST_OTHERS = 1000  # agents of other nodes
_OUTPUT = "/output"


async def read_own(client: Client, uri: str) -> Json:
    """Contents of one of the node's own. Raises NotFound (UNKNOWN_RESOURCE, UNKNOWN_TASK)."""
    if uri.startswith(TASKS):
        return await _read_task(client, uri)
    if uri.startswith(BLOBS):
        return await _read_blob(client, uri)
    admin = admin_service_pb2_grpc.AdminServiceStub(client.channel)
    if uri == REGISTRY:
        here, others = await client.agents(), await client.fleet(limit=MOST_OTHERS)
        agents = [plain(agent) for agent in (*here, *others.agents)]
        return _json(uri, {"fleet_included": others.fleet_included, "agents": agents})
    if uri == STATUS:
        return _json(uri, plain(await client.unary(admin.GetStatus, admin_service_pb2.GetStatusRequest())))
    if uri == LEDGER:
        return _json(uri, plain(await client.unary(admin.GetLedger, admin_service_pb2.GetLedgerRequest())))
    raise NotFound("UNKNOWN_RESOURCE", f"there is no resource {uri}", hint="see resources/list", uri=uri)


async def _read_task(client: Client, uri: str) -> Json:
    name = uri.removeprefix(TASKS)
    task = await client.get_task(name.removesuffix(_OUTPUT))
    if not name.endswith(_OUTPUT):
        return _json(uri, plain(task))
    if not task.HasField("output"):
        raise NotFound("UNKNOWN_RESOURCE", f"task {task.task_id} has given nothing", hint=f"see {uri[: -len(_OUTPUT)]}")
    return content_of(Payload(task.output.data, task.output.content_type), uri)


async def _read_blob(client: Client, uri: str) -> Json:
    """Raises also ResourceExhausted (BLOB_TOO_LARGE), DeadlineExceeded (WAIT_OVER) for what is on its way for too long."""
    stub = blob_service_pb2_grpc.BlobServiceStub(client.channel)
    request = blob_service_pb2.StatBlobRequest(digest=uri.removeprefix(BLOBS))
    ref = ref_from_pb((await client.unary(stub.StatBlob, request)).blob.ref)
    if ref.size > MOST_BYTES:
        raise ResourceExhausted(
            "BLOB_TOO_LARGE",
            f"{ref.digest} has {ref.size} bytes",
            hint=f"at most {MOST_BYTES} are given as a resource; on the device: edgenode blob get {ref.digest}",
            retryable=False,
            limit=MOST_BYTES,
        )
    data = await client.fetch(ref, timeout=BLOB_SECONDS)
    media_type = ref.media_type or OCTETS
    if is_json(media_type):
        return {"uri": uri, "mimeType": media_type, "text": data.decode(errors="replace")}
    return content_of(Payload(data, media_type), uri)


def _json(uri: str, value: Any) -> Json:
    return {"uri": uri, "mimeType": JSON_TYPE, "text": msgspec.json.encode(value).decode()}
