import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from edgenode.api.enrollment.v1 import enrollment_service_pb2 as pb
from edgenode.api.enrollment.v1 import enrollment_service_pb2_grpc as pb_grpc
from edgenode.link.errors import Unavailable
from edgenode.link.identity.credentials import KeyPair, ServerIdentity
from edgenode.link.store.database import IN_MEMORY, Database
from edgenode.link.wire.channels import bind, create_server
from edgenode.link.wire.interceptors import ServiceInterceptor
from hub.ca.authority import Authority, init_authority
from hub.services.enrollment import AnyCaller, EnrollmentService, create_join_token
from hub.store.enrollment import SCHEMA, SqliteEnrollmentStore

Context = grpc.aio.ServicerContext[Any, Any]


class SettableClock:
    """The machine's clocks, the wall clock moved by `offset` seconds."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time() + self.offset


class WatchedService(EnrollmentService):
    """Notes what is called; loses the next `lose` answers after the work is done."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.calls: list[str] = []
        self.lose = 0

    async def GetTrustBundle(self, request: pb.GetTrustBundleRequest, context: Context) -> pb.GetTrustBundleResponse:
        self.calls.append("GetTrustBundle")
        return await super().GetTrustBundle(request, context)

    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        self.calls.append("Enroll")
        response = await super().Enroll(request, context)
        self._maybe_lose()
        return response

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:
        self.calls.append("Renew")
        response = await super().Renew(request, context)
        self._maybe_lose()
        return response

    def _maybe_lose(self) -> None:
        if self.lose:
            self.lose -= 1
            raise Unavailable("UNREACHABLE", "the answer was lost")


class Fleet:
    """A hub's authority with its enrollment listener on loopback."""

    SYNC_PORT = 7443

    def __init__(self, state_dir: Path, domain: str) -> None:
        self.state_dir = state_dir
        # Made long ago, so that certificates which have expired by now can be from its time.
        self.clock = SettableClock(-60 * 86_400.0)
        init_authority(state_dir, domain, "main", self.clock)
        self.authority = Authority.load(state_dir, self.clock)
        self.clock.offset = 0.0
        assert self.authority.renew_hub_leaf()
        self.address = ""
        self._stack = AsyncExitStack()

    async def start(self, pair: KeyPair | None = None) -> None:
        database = await Database.open(IN_MEMORY, [SCHEMA], application_id=1)
        self._stack.push_async_callback(database.close)
        self.store = SqliteEnrollmentStore(database)
        self.service = WatchedService(self.authority, self.store, self.clock, self.SYNC_PORT)
        self.identity = ServerIdentity(pair or self.authority.hub_pair())
        self.address = await self.listen(self.service, self.identity.open_credentials())

    async def listen(self, service: pb_grpc.EnrollmentServiceServicer, credentials: grpc.ServerCredentials) -> str:
        server = create_server(ServiceInterceptor(AnyCaller()))
        pb_grpc.add_EnrollmentServiceServicer_to_server(service, server)
        port = bind(server, "127.0.0.1:0", credentials)
        await server.start()
        self._stack.push_async_callback(server.stop, 0)
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        await self._stack.aclose()

    async def token(self, node: str = "north", life: float = 3600.0, *, rejoin: bool = False) -> str:
        made, _ = await create_join_token(self.authority, self.store, self.clock, node, life, rejoin=rejoin)
        return made.text()


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path / "hub", "fleet.example")
    await fleet.start()
    yield fleet
    await fleet.stop()


@pytest.fixture
async def other_fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path / "other-hub", "fleet.example")
    await fleet.start()
    yield fleet
    await fleet.stop()
