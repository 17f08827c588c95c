"""Where the node is served: a Unix socket for everything, and, when asked for, loopback for all but administration.

Beside the socket stands another for the streams alone that are worth it (see direct).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.blob.v1 import blob_service_pb2, blob_service_pb2_grpc
from edgenode.api.message.v1 import message_service_pb2, message_service_pb2_grpc
from edgenode.api.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.task.v1 import task_service_pb2, task_service_pb2_grpc
from edgenode.link.blobs.service import BlobService
from edgenode.link.errors import FailedPrecondition
from edgenode.link.identity.files import make_private_directory
from edgenode.link.wire.channels import add_health, bind, create_server, set_serving, unix_target
from edgenode.link.wire.direct_server import DirectServer
from edgenode.link.wire.interceptors import LocalPeersOnly, ServiceInterceptor
from edgenode.link.wire.reflection import add_reflection
from edgenode.node.admin import AdminService
from edgenode.node.config import NodeConfig
from edgenode.node.messages import MessageService
from edgenode.node.registry_service import RegistryService
from edgenode.node.task_service import TaskService

_log = logging.getLogger(__name__)

_ADMIN = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
_AGENT_SERVICES = (
    registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name,
    task_service_pb2.DESCRIPTOR.services_by_name["TaskService"].full_name,
    message_service_pb2.DESCRIPTOR.services_by_name["MessageService"].full_name,
    blob_service_pb2.DESCRIPTOR.services_by_name["BlobService"].full_name,
)


@dataclass(frozen=True, slots=True)
class Services:
    """The servicers of a node."""

    registry: RegistryService
    tasks: TaskService
    messages: MessageService
    blobs: BlobService
    admin: AdminService


class LocalServer:
    """Binds in `start`, says that it is ready in `ready`, refuses in `drain`, ends in `stop`."""

    def __init__(self, config: NodeConfig, services: Services) -> None:
        self._socket_path = config.socket_path
        self._listen = config.listen
        self._services = services
        self._servers: list[grpc.aio.Server] = []
        self._direct = DirectServer(ServiceInterceptor(LocalPeersOnly())) if config.direct_streams else None
        self._health: list[Any] = []
        self._bound = False
        self.port = 0  # on loopback; 0 where it does not listen there

    async def start(self) -> None:
        """Listen. Raises FailedPrecondition (STATE_IN_USE, PORT_TAKEN), InvalidArgument."""
        local = self._make((*_AGENT_SERVICES, _ADMIN))
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(self._services.admin, local)
        if not add_reflection(local, (*_AGENT_SERVICES, _ADMIN)):
            _log.debug("grpcio-reflection is not installed: the socket serves no reflection")
        target = unix_target(self._socket_path)
        if not self._socket_path.parent.is_dir():
            make_private_directory(self._socket_path.parent)
        try:
            bind(local, target)
        except FailedPrecondition as error:
            raise FailedPrecondition(
                "STATE_IN_USE",
                f"somebody serves {self._socket_path} already",
                hint="stop that node first, or use another --state or --socket",
                socket=self._socket_path,
            ) from error
        self._bound = True
        os.chmod(self._socket_path, 0o600)
        if self._direct is not None:
            self._add_services(self._direct)
            await self._direct.start(self._socket_path)
        if self._listen:
            loopback = self._make(_AGENT_SERVICES)
            self.port = bind(loopback, self._listen, plaintext_loopback=True)
        for server in self._servers:
            await server.start()

    async def ready(self) -> None:
        """Tell health checks that the node serves."""
        for health in self._health:
            await set_serving(health, True, ("", *_AGENT_SERVICES))

    async def drain(self) -> None:
        """Tell health checks that the node is going."""
        for health in self._health:
            await health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """End; rpcs under way have `grace` seconds. Safe to call twice and before `start`."""
        ends = [server.stop(grace) for server in self._servers]
        if self._direct is not None:
            ends.append(self._direct.stop(grace))
        await asyncio.gather(*ends)
        self._servers.clear()
        if self._bound:
            self._bound = False
            self._socket_path.unlink(missing_ok=True)

    def _make(self, names: Sequence[str]) -> grpc.aio.Server:
        server = create_server(ServiceInterceptor(LocalPeersOnly()))
        self._servers.append(server)
        self._add_services(server)
        self._health.append(add_health(server, names))
        return server

    def _add_services(self, server: Any) -> None:
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(self._services.registry, server)
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(self._services.tasks, server)
        message_service_pb2_grpc.add_MessageServiceServicer_to_server(self._services.messages, server)
        blob_service_pb2_grpc.add_BlobServiceServicer_to_server(self._services.blobs, server)
