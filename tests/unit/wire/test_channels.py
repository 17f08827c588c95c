import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edgenode.link.errors import FailedPrecondition, InvalidArgument
from edgenode.link.wire.channels import (
    ChannelSettings,
    ServerSettings,
    add_health,
    bind,
    create_server,
    open_channel,
    set_serving,
    split_host_port,
    unix_target,
)
from edgenode.link.wire.interceptors import ServiceInterceptor


def make_server() -> grpc.aio.Server:
    return create_server(ServiceInterceptor())


@asynccontextmanager
async def listening(target: str) -> AsyncIterator[tuple[grpc.aio.Server, int]]:
    server = make_server()
    servicer = add_health(server, ["some.Service"])
    port = bind(server, target, plaintext_loopback=True)
    await server.start()
    await set_serving(servicer, True)
    try:
        yield server, port
    finally:
        await server.stop(0)


async def status(target: str, service: str = "") -> int:
    async with open_channel(target, plaintext_loopback=True) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return int(answer.status)


async def test_serves_on_a_unix_socket_and_says_how_it_is(short_dir: Path) -> None:
    target = unix_target(short_dir / "s")
    async with listening(target):
        assert await status(target) == health_pb2.HealthCheckResponse.SERVING
        assert await status(target, "some.Service") == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_serves_on_loopback() -> None:
    async with listening("127.0.0.1:0") as (_, port):
        assert await status(f"127.0.0.1:{port}") == health_pb2.HealthCheckResponse.SERVING


def targets(short_dir: Path, port: int) -> tuple[str, str]:
    return unix_target(short_dir / "s"), f"127.0.0.1:{port}"


@pytest.mark.parametrize("unix", [True, False])
async def test_a_port_that_is_taken_stays_with_its_owner(unix: bool, short_dir: Path) -> None:
    async with listening(unix_target(short_dir / "s") if unix else "127.0.0.1:0") as (_, port):
        target = targets(short_dir, port)[0 if unix else 1]
        other = make_server()
        with pytest.raises(FailedPrecondition) as caught:
            bind(other, target, plaintext_loopback=True)
        assert (caught.value.reason, caught.value.problem.metadata["address"]) == ("PORT_TAKEN", target)
        assert caught.value.problem.hint
        await other.stop(None)
        assert await status(target) == health_pb2.HealthCheckResponse.SERVING


async def test_a_socket_file_left_behind_is_no_obstacle(short_dir: Path) -> None:
    target = unix_target(short_dir / "s")
    async with listening(target):
        (short_dir / "s").rename(short_dir / "kept")
    (short_dir / "kept").rename(short_dir / "s")
    async with listening(target):
        assert await status(target) == health_pb2.HealthCheckResponse.SERVING


def test_socket_paths(short_dir: Path) -> None:
    base = f"{short_dir}/"
    longest = base + "x" * (107 - len(base))
    assert unix_target(longest) == f"unix:{longest}"
    with pytest.raises(InvalidArgument, match="SOCKET_PATH_TOO_LONG"):
        unix_target(longest + "x")
    with pytest.raises(InvalidArgument, match="SOCKET_PATH_TOO_LONG"):
        unix_target(base + "ü" * 60)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("hub:1", ("hub", 1)), ("10.0.0.1:65535", ("10.0.0.1", 65535)), ("[::1]:0", ("::1", 0))],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert split_host_port(address) == expected


@pytest.mark.parametrize(
    "address", ["", "hub", ":1", "hub:", "hub:x", "hub:65536", "hub:-1", "::1:5", "[::1]", "hub:²"]
)
def test_bad_addresses(address: str) -> None:
    with pytest.raises(InvalidArgument, match="BAD_ADDRESS"):
        split_host_port(address)


def dial(target: str, loopback: bool) -> None:
    open_channel(target, plaintext_loopback=loopback)


def listen(target: str, loopback: bool) -> None:
    bind(make_server(), target, plaintext_loopback=loopback)


@pytest.mark.parametrize("use", [dial, listen])
@pytest.mark.parametrize(
    ("target", "loopback"),
    [("10.0.0.1:80", True), ("hub.example:80", True), ("0.0.0.0:80", True), ("[::]:80", True), ("127.0.0.1:80", False)],
)
async def test_plaintext_is_refused(use: Callable[[str, bool], None], target: str, loopback: bool) -> None:
    with pytest.raises(InvalidArgument) as caught:
        use(target, loopback)
    assert caught.value.reason == "PLAINTEXT_REFUSED"
    assert ("must be asked for" in caught.value.problem.hint) is target.startswith("127.")


@pytest.mark.parametrize("target", ["localhost:0", "127.0.0.1:0", "[::1]:0"])
async def test_plaintext_on_loopback_when_asked_for(target: str) -> None:
    await open_channel(target, plaintext_loopback=True).close()


def test_keepalive_of_clients_is_twice_what_servers_allow() -> None:
    client = dict(ChannelSettings().options())
    server = dict(ServerSettings().options())
    assert 60_000 <= client["grpc.keepalive_time_ms"] <= 120_000
    assert server["grpc.http2.min_ping_interval_without_data_ms"] * 2 <= client["grpc.keepalive_time_ms"]


def test_grpc_knows_every_option_by_its_name() -> None:
    """A misspelt option is passed over in silence."""
    (library,) = Path(grpc.__file__).parent.glob("_cython/cygrpc*.so")
    binary = library.read_bytes()
    settings = ServerSettings(max_connection_age=1.0, max_concurrent_streams=1)
    for name, _ in [*ChannelSettings().options(), *settings.options()]:
        assert name.encode() + b"\0" in binary, name


async def test_messages_beyond_4_mib_pass_and_beyond_8_mib_do_not(short_dir: Path) -> None:
    target = unix_target(short_dir / "s")
    async with listening(target), open_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for size, code in (
            (6 << 20, grpc.StatusCode.NOT_FOUND),
            (9 << 20, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(stub.Check(health_pb2.HealthCheckRequest(service="x" * size)), 20)
            assert caught.value.code() is code
