import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from edgenode.link.identity.certificates import certificate_to_pem, certificates_from_pem, key_to_pem, make_csr, new_key
from edgenode.link.identity.credentials import KeyPair, client_credentials
from edgenode.link.identity.peers import peer_certificate, peer_identity
from edgenode.link.parent.identity import NodeIdentity, join
from hub.ca.authority import Authority

if TYPE_CHECKING:
    from tests.integration.identity.conftest import Fleet

Context = grpc.aio.ServicerContext[Any, Any]


class Echo:
    """A listener for members that tells its callers their names."""

    def __init__(self) -> None:
        self.address = ""
        self.callers: list[str] = []
        self.serials: list[int] = []

    async def answer(self, request: bytes, context: Context) -> bytes:
        self.callers.append(peer_identity(context.auth_context()).uri)
        self.serials.append(peer_certificate(context.auth_context()).serial)
        return self.callers[-1].encode()


@pytest.fixture
async def echo(fleet: "Fleet") -> AsyncIterator[Echo]:
    echo = Echo()
    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("t", {"Echo": grpc.unary_unary_rpc_method_handler(echo.answer)})
    server.add_generic_rpc_handlers((handler,))
    credentials = fleet.identity.mutual_credentials(fleet.authority.edge_ca_pem)
    echo.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    await server.start()
    yield echo
    await server.stop(0)


async def call(echo: Echo, credentials: grpc.ChannelCredentials, host: str = "hub.fleet.example") -> bytes:
    options = [
        ("grpc.ssl_target_name_override", host),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with grpc.aio.secure_channel(echo.address, credentials, options=options) as channel:
        method: Any = channel.unary_unary("/t/Echo")
        answer: bytes = await method(b"", timeout=30)
    return answer


async def refused(echo: Echo, credentials: grpc.ChannelCredentials, host: str = "hub.fleet.example") -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call(echo, credentials, host)
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert echo.callers == []


@pytest.fixture
async def north(tmp_path: Path, fleet: "Fleet") -> NodeIdentity:
    return await join(tmp_path, fleet.address, await fleet.token())


async def test_a_member_is_let_in(echo: Echo, north: NodeIdentity) -> None:
    assert await call(echo, north.channel_credentials()) == b"spiffe://fleet.example/edge/north"
    assert echo.serials[0] >> 64 == 1


async def test_a_client_without_certificate_never_reaches_a_handler(echo: Echo, north: NodeIdentity) -> None:
    await refused(echo, client_credentials(None, north.hub_ca))


async def test_plaintext_never_reaches_a_handler(echo: Echo) -> None:
    async with grpc.aio.insecure_channel(echo.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        method: Any = channel.unary_unary("/t/Echo")
        with pytest.raises(grpc.aio.AioRpcError):
            await method(b"", timeout=30)
    assert echo.callers == []


def credentials_of(authority: Authority, hub_ca: bytes) -> grpc.ChannelCredentials:
    key = new_key()
    issued = authority.sign_edge(make_csr(key), "north", 1)
    certificate = certificates_from_pem(_pem(issued.certificate), "x")[0]
    return client_credentials(KeyPair(key_to_pem(key), certificate_to_pem(certificate)), hub_ca)


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


async def test_expired_future_and_foreign_clients_never_reach_a_handler(
    echo: Echo, fleet: "Fleet", other_fleet: "Fleet", north: NodeIdentity
) -> None:
    for offset in (-30, 30):
        fleet.clock.offset = datetime.timedelta(days=offset).total_seconds()
        await refused(echo, credentials_of(fleet.authority, north.hub_ca))
    fleet.clock.offset = 0
    await refused(echo, credentials_of(other_fleet.authority, north.hub_ca))


async def test_a_hub_s_certificate_is_none_of_a_client(echo: Echo, fleet: "Fleet", north: NodeIdentity) -> None:
    await refused(echo, client_credentials(fleet.authority.hub_pair(), north.hub_ca))


async def test_an_edge_refuses_other_hubs(
    echo: Echo, fleet: "Fleet", other_fleet: "Fleet", north: NodeIdentity
) -> None:
    await refused(echo, north.channel_credentials(), host="hub.other.example")
    for pair in (other_fleet.authority.hub_pair(), north.pair):
        fleet.identity.replace(pair)
        await refused(echo, north.channel_credentials())
    fleet.identity.replace(fleet.authority.hub_pair())
    assert await call(echo, north.channel_credentials())


async def test_the_hub_s_new_certificate_is_shown_to_the_next_handshake(
    echo: Echo, fleet: "Fleet", north: NodeIdentity
) -> None:
    assert await call(echo, north.channel_credentials())
    fleet.clock.offset = fleet.authority.hub_renewal_time() - fleet.clock.wall() + 1
    before = fleet.authority.hub_pair()
    assert fleet.authority.renew_hub_leaf()
    fleet.clock.offset = 0
    fleet.identity.replace(fleet.authority.hub_pair())
    assert fleet.authority.hub_pair() != before
    # Made four days ahead, so not valid yet: that it is refused shows that it is the one presented.
    with pytest.raises(grpc.aio.AioRpcError):
        await call(echo, north.channel_credentials())
    fleet.identity.replace(before)
    assert await call(echo, north.channel_credentials())


async def test_no_handshake_suffers_while_the_certificate_is_replaced(
    echo: Echo, fleet: "Fleet", north: NodeIdentity
) -> None:
    pair = fleet.authority.hub_pair()

    async def dial(number: int) -> None:
        if number % 20 == 10:
            fleet.identity.replace(KeyPair(pair.private_key, pair.certificate_chain))
        await call(echo, north.channel_credentials())

    await asyncio.gather(*[dial(number) for number in range(100)])
    assert len(echo.callers) == 100
