"""Resources: the node's own, which say how it is, and those that skills give.

edgenode://registry          agents of this node and the fleet, as far as they are known
edgenode://status            how the node is
edgenode://ledger            the counts of every hop
edgenode://tasks/{task}      a task with its state, reason and policy
edgenode://tasks/{task}/output   what it gave
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.bridges.mcp.offers import Json
from edgenode.bridges.mcp.outcomes import content_of
from edgenode.link.errors import NotFound
from edgenode.link.terminal.plain import plain
from edgenode.sdk.client import Client
from edgenode.sdk.encoding import Payload

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
)
JSON_TYPE = "application/json"
MOST_OTHERS = 1000  # agents of other nodes
_OUTPUT = "/output"


async def read_own(client: Client, uri: str) -> Json:
    """Contents of one of the node's own. Raises NotFound (UNKNOWN_RESOURCE, UNKNOWN_TASK)."""
    if uri.startswith(TASKS):
        return await _read_task(client, uri)
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


def _json(uri: str, value: Any) -> Json:
    return {"uri": uri, "mimeType": JSON_TYPE, "text": msgspec.json.encode(value).decode()}
