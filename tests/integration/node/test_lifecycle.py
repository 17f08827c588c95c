import asyncio
import contextlib
import os
import socket
import sqlite3
import stat
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edgenode.api.admin.v1.admin_service_pb2 import GetStatusRequest
from edgenode.link.errors import Cancelled, DataLoss, EdgenodeError, FailedPrecondition
from edgenode.node.config import NodeConfig
from edgenode.node.node import Node
from edgenode.node.store import FILE_NAME
from tests.integration.node.house import house, publish, short_directory


def config(directory: Path, **settings: object) -> NodeConfig:
    return NodeConfig(**{"state_dir": directory, "node": "north", "drain_seconds": 0.2, **settings})  # type: ignore[arg-type]


async def refused(node: Node) -> EdgenodeError:
    with pytest.raises(EdgenodeError) as error:
        await node.start()
    await node.stop()
    assert error.value.problem.hint
    return error.value


async def test_stop_may_come_at_any_time_and_twice() -> None:
    with short_directory() as directory:
        node = Node(config(directory))
        await node.stop()
        await node.start()
        assert node.socket_path.exists()
        await asyncio.gather(node.stop(), node.stop())
        await node.stop()
        assert not node.socket_path.exists()
        assert (await refused(node)).reason == "ALREADY_STARTED"
        async with house(directory) as h:
            await publish(h, "p", 1, "a")


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55])
async def test_a_stop_while_it_starts_ends_the_start_and_leaves_nothing(turns: int) -> None:
    with short_directory() as directory:
        node = Node(config(directory))
        starting = asyncio.create_task(node.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        await node.stop()
        if turns == 0:  # it had not begun: the stop found nothing to end
            await starting
            await node.stop()
        else:
            with pytest.raises(Cancelled) as ended:
                await starting
            assert ended.value.reason == "NODE_STOPPING"
        async with house(directory):
            pass


async def test_a_start_whose_caller_is_cancelled_leaves_nothing() -> None:
    with short_directory() as directory:
        starting = asyncio.create_task(Node(config(directory)).start())
        for _ in range(5):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        async with house(directory):
            pass


async def test_two_nodes_do_not_share_a_state_directory() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            assert (await refused(Node(config(directory)))).reason == "STATE_IN_USE"
            assert (await refused(Node(config(directory, in_memory=True)))).reason == "STATE_IN_USE"
            await publish(h, "p", 1, "still here")


async def test_a_socket_file_of_a_dead_node_is_no_obstacle() -> None:
    with short_directory() as directory:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(directory / "edgenode.sock"))
        assert (directory / "edgenode.sock").exists()
        async with house(directory) as h:
            await publish(h, "p", 1, "a")


async def test_the_state_of_another_node_is_refused() -> None:
    with short_directory() as directory:
        async with house(directory):
            pass
        error = await refused(Node(config(directory, node="south")))
        assert (error.reason, error.problem.metadata["node"]) == ("STATE_OF_OTHER_NODE", "north")
        node = Node(config(directory, node=""))
        await node.start()
        assert node.name == "north"
        await node.stop()


async def test_without_a_name_the_hosts_is_made_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Shop_Floor-7.example.org")
    with short_directory() as directory:
        async with house(directory, node="") as h:
            assert h.node.name == "shop-floor-7"


async def test_state_of_a_newer_version_is_left_alone() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await h.node.rooms.database.read(
                lambda connection: connection.execute("PRAGMA user_version = 99").fetchall()
            )
            await publish(h, "p", 1, "kept")
        error = await refused(Node(config(directory)))
        assert isinstance(error, DataLoss)
        assert error.reason == "STATE_TOO_NEW"
        with contextlib.closing(sqlite3.connect(directory / FILE_NAME)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (99,)
            assert connection.execute("SELECT count(*) FROM segment").fetchone() == (1,)
        assert not list(directory.glob("*quarantine*"))


async def test_a_damaged_store_is_moved_aside_and_said() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await publish(h, "p", 1, "lost")
            epoch = h.node.rooms.messages.epoch
        (directory / FILE_NAME).write_bytes(b"not a database, but long enough to be one" * 100)
        async with house(directory) as h:
            status = await h.admin.GetStatus(GetStatusRequest(), timeout=10)
            assert status.health == "degraded"
            assert "quarantine" in status.health_reasons[0]
            assert h.node.rooms.messages.epoch != epoch
            await publish(h, "p", 2, "after")


async def test_a_taken_port_is_named_and_the_socket_given_back() -> None:
    with short_directory() as directory, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = await refused(Node(config(directory, listen=f"127.0.0.1:{port}")))
        assert isinstance(error, FailedPrecondition)
        assert (error.reason, error.problem.metadata["address"]) == ("PORT_TAKEN", f"127.0.0.1:{port}")
        assert not (directory / "edgenode.sock").exists()
        async with house(directory):
            pass


async def test_a_socket_path_that_is_too_long_is_named() -> None:
    with short_directory() as directory:
        error = await refused(Node(config(directory, socket=str(directory / ("x" * 120)))))
        assert (error.reason, error.problem.metadata["field"]) == ("SOCKET_PATH_TOO_LONG", "socket")


async def test_only_the_owner_reaches_the_socket() -> None:
    with short_directory() as directory:
        os.chmod(directory, 0o755)
        async with house(directory) as h:
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            assert stat.S_IMODE(h.node.socket_path.stat().st_mode) == 0o600


async def test_health_says_serving_until_the_stop_begins() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            stub = health_pb2_grpc.HealthStub(h.channel)
            for service in ("", "edgenode.api.message.v1.MessageService"):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stopping = asyncio.create_task(h.node.stop())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            await stopping


async def test_reflection_names_the_services_on_the_socket_only() -> None:
    reflection_pb2 = pytest.importorskip("grpc_reflection.v1alpha.reflection_pb2")
    reflection_pb2_grpc = pytest.importorskip("grpc_reflection.v1alpha.reflection_pb2_grpc")
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with short_directory() as directory:
        async with (
            house(directory, listen="127.0.0.1:0") as h,
            grpc.aio.insecure_channel(f"127.0.0.1:{h.node.port}") as loopback,
        ):
            call = reflection_pb2_grpc.ServerReflectionStub(h.channel).ServerReflectionInfo(iter([request]), timeout=10)
            answer = await call.read()
            names = {service.name for service in answer.list_services_response.service}
            assert "edgenode.api.admin.v1.AdminService" in names
            call.cancel()
            call = reflection_pb2_grpc.ServerReflectionStub(loopback).ServerReflectionInfo(iter([request]), timeout=10)
            with pytest.raises(grpc.aio.AioRpcError) as unserved:
                await call.read()
            assert unserved.value.code() is grpc.StatusCode.UNIMPLEMENTED
