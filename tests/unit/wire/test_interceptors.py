import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from edgenode.api.task.v1 import task_service_pb2 as pb
from edgenode.api.task.v1 import task_service_pb2_grpc as services
from edgenode.link import errors
from edgenode.link.wire.channels import bind, create_server, open_channel, unix_target
from edgenode.link.wire.interceptors import LocalPeersOnly, Peer, ServiceInterceptor, peer_from
from edgenode.link.wire.status import from_rpc_error

ERROR = errors.Unavailable("NO_AGENT", "no agent", hint="start one", retry_after=2.0, skill="ocr")


class Servicer(services.TaskServiceServicer):
    """Every kind of method, in both styles; each raises `error` after `before` responses."""

    def __init__(self, error: BaseException | None, before: int = 0) -> None:
        self.error = error
        self.before = before
        self.closed = asyncio.Event()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    async def GetTask(self, request: Any, context: Any) -> pb.GetTaskResponse:
        self._raise()
        return pb.GetTaskResponse()

    async def WatchTask(self, request: Any, context: Any) -> AsyncIterator[pb.WatchTaskResponse]:
        try:
            for _ in range(self.before):
                yield pb.WatchTaskResponse()
            self._raise()
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def SubmitTasks(self, requests: Any, context: Any) -> AsyncIterator[pb.SubmitTasksResponse]:
        async for _ in requests:
            yield pb.SubmitTasksResponse()
        self._raise()

    async def WorkTasks(self, requests: Any, context: Any) -> None:
        async for _ in requests:
            await context.write(pb.WorkTasksResponse())
        self._raise()


@asynccontextmanager
async def serving(
    servicer: Servicer, directory: Path, interceptor: ServiceInterceptor | None = None
) -> AsyncIterator[Any]:
    server = create_server(interceptor or ServiceInterceptor())
    services.add_TaskServiceServicer_to_server(servicer, server)
    target = unix_target(directory / "s")
    bind(server, target)
    await server.start()
    try:
        async with open_channel(target) as channel:
            yield services.TaskServiceStub(channel)
    finally:
        await server.stop(0)


async def get(stub: Any) -> None:
    await stub.GetTask(pb.GetTaskRequest())


async def watch(stub: Any) -> None:
    async for _ in stub.WatchTask(pb.WatchTaskRequest()):
        pass


async def submit(stub: Any) -> None:
    async for _ in stub.SubmitTasks(iter([pb.SubmitTasksRequest()])):
        pass


async def work(stub: Any) -> None:
    async for _ in stub.WorkTasks(iter([pb.WorkTasksRequest()])):
        pass


async def submit_nothing(stub: Any) -> None:
    async for _ in stub.SubmitTasks(silent()):
        pass


async def work_nothing(stub: Any) -> None:
    async for _ in stub.WorkTasks(silent()):
        pass


async def silent() -> AsyncIterator[Any]:
    """Requests that do not come: grpc.aio tells a write that meets the end of its call as INTERNAL, whatever ended it."""
    await asyncio.Event().wait()
    yield


KINDS = pytest.mark.parametrize("call", [get, watch, submit, work])
Call = Callable[[Any], Awaitable[None]]


async def refusal(call: Call, stub: Any) -> errors.EdgenodeError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call(stub), 10)
    return from_rpc_error(caught.value)


@KINDS
async def test_an_error_arrives_as_it_was_raised(call: Call, short_dir: Path) -> None:
    async with serving(Servicer(ERROR, before=2), short_dir) as stub:
        error = await refusal(call, stub)
    assert type(error) is errors.Unavailable
    assert error.problem == ERROR.problem


@KINDS
async def test_a_defect_is_logged_and_told_without_its_details(
    call: Call, short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Servicer(ValueError("secret")), short_dir) as stub:
        with caplog.at_level(logging.ERROR, "edgenode.link.wire"):
            error = await refusal(call, stub)
    assert error.reason == "INTERNAL_ERROR"
    assert "secret" not in str(error)
    assert "secret" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("call", [get, watch, submit_nothing, work_nothing])
async def test_nothing_runs_for_a_peer_that_may_not(call: Call, short_dir: Path) -> None:
    asked: list[tuple[Peer, str]] = []

    class Nobody:
        def authorise(self, peer: Peer, method: str) -> None:
            asked.append((peer, method))
            raise errors.PermissionDenied("NOT_YOU", "no")

    servicer = Servicer(AssertionError("ran"))
    async with serving(servicer, short_dir, ServiceInterceptor(Nobody())) as stub:
        assert (await refusal(call, stub)).reason == "NOT_YOU"
    assert asked[0][0].local
    assert asked[0][1].startswith("/edgenode.api.task.v1.TaskService/")


async def test_responses_before_an_error_arrive(short_dir: Path) -> None:
    async with serving(Servicer(ERROR, before=3), short_dir) as stub:
        call = stub.WatchTask(pb.WatchTaskRequest())
        received = [await call.read() for _ in range(3)]
        assert all(isinstance(response, pb.WatchTaskResponse) for response in received)
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()


async def test_a_caller_that_leaves_closes_the_servicer(short_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    servicer = Servicer(None, before=1)
    async with serving(servicer, short_dir) as stub:
        call = stub.WatchTask(pb.WatchTaskRequest())
        await call.read()
        call.cancel()
        await asyncio.wait_for(servicer.closed.wait(), 10)
    assert not [record for record in caplog.records if record.name.startswith("edgenode")]


async def test_a_method_that_nobody_wrote(short_dir: Path) -> None:
    async with serving(Servicer(None), short_dir) as stub:
        error = await refusal(lambda stub: stub.CancelTask(pb.CancelTaskRequest()), stub)
    assert type(error) is errors.Unimplemented
    assert error.reason == "NOT_SERVED"


async def test_nobody_there(short_dir: Path) -> None:
    async with open_channel(unix_target(short_dir / "none")) as channel:
        error = await refusal(get, services.TaskServiceStub(channel))
    assert (type(error), error.reason, error.problem.retryable) == (errors.Unavailable, "UNREACHABLE", True)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("unix:", True),
        ("unix:/run/x", True),
        ("ipv4:127.0.0.1:80", True),
        ("ipv6:%5B::1%5D:80", True),
        ("ipv4:10.0.0.1:80", False),
        ("ipv6:%5Bfe80::1%5D:80", False),
        ("ipv4:1.127.0.1:80", False),
    ],
)
def test_local_peers(address: str, local: bool) -> None:
    peer = peer_from(address, {})
    assert peer.local is local
    if local:
        LocalPeersOnly().authorise(peer, "/m")
    else:
        with pytest.raises(errors.Unauthenticated, match="NOT_LOCAL"):
            LocalPeersOnly().authorise(peer, "/m")


def test_a_peer_with_a_certificate() -> None:
    verified = {"peer_uri": [b"spiffe://d/edge/north"], "x509_pem_cert": [b"PEM"]}
    peer = peer_from("ipv4:10.0.0.1:80", verified)
    assert (peer.uris, peer.certificate) == (("spiffe://d/edge/north",), b"PEM")
