"""Direct connections beside a gRPC server: the same servicers, the same errors, over a plain Unix socket."""

import asyncio
import logging
import socket
import stat
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.api.task.v1 import task_pb2
from edgenode.api.task.v1 import task_service_pb2 as pb
from edgenode.api.task.v1 import task_service_pb2_grpc as services
from edgenode.link.errors import EdgenodeError, ResourceExhausted, Unavailable
from edgenode.link.wire.call_end import CallEnd
from edgenode.link.wire.channels import MAX_MESSAGE_BYTES, bind, create_server, open_channel, unix_target
from edgenode.link.wire.direct import UNREAD_BYTES, DirectConnection, Kind, direct_path, receive_buffer
from edgenode.link.wire.direct_channel import DirectCall, DirectChannel
from edgenode.link.wire.direct_server import DirectServer
from edgenode.link.wire.interceptors import LocalPeersOnly, ServiceInterceptor
from edgenode.link.wire.status import from_rpc_error

PATIENCE = 30
WORK = "/edgenode.api.task.v1.TaskService/WorkTasks"


class Servicer(services.TaskServiceServicer):
    """SubmitTasks sends back what came, until "refuse" comes; WorkTasks waits for `go`, then sends `count` frames."""

    def __init__(self) -> None:
        self.began, self.cancelled, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.count = self.written = 0
        self.peers: set[str] = set()

    async def SubmitTasks(self, requests: Any, context: Any) -> AsyncIterator[pb.SubmitTasksResponse]:
        self.peers.add(context.peer())
        async for request in requests:
            if request.submissions[0].request_id == "refuse":
                raise ResourceExhausted("QUEUE_FULL", "no", hint="later", retry_after=2.0, limit=7)
            response = pb.SubmitTasksResponse()
            response.outcomes.add().output.data = request.submissions[0].spec.input
            yield response

    async def WorkTasks(self, requests: Any, context: Any) -> None:
        self.began.set()
        try:
            await self.go.wait()
            for _ in range(self.count):
                await context.write(pb.WorkTasksResponse(assignments=[assignment(32 * 1024)]))
                self.written += 1
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def assignment(size: int) -> pb.Assignment:
    return pb.Assignment(spec=task_pb2.TaskSpec(input=bytes(size)))


def submission(data: bytes = b"", request_id: str = "") -> pb.SubmitTasksRequest:
    return pb.SubmitTasksRequest(submissions=[pb.Submission(request_id=request_id, spec=task_pb2.TaskSpec(input=data))])


class Site:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "s.sock"
        self.servicer = Servicer()
        interceptor = ServiceInterceptor(LocalPeersOnly())
        self.server, self.direct = create_server(interceptor), DirectServer(interceptor)
        for server in (self.server, self.direct):
            services.add_TaskServiceServicer_to_server(self.servicer, cast(Any, server))
        self.channel: DirectChannel | None = None

    @property
    def stub(self) -> Any:
        assert self.channel is not None
        return services.TaskServiceStub(self.channel)

    def dial(self) -> socket.socket:
        """A connection without a channel."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(direct_path(str(self.path)))
        connection.settimeout(PATIENCE)
        return connection


@pytest.fixture
async def site(short_dir: Path) -> AsyncIterator[Site]:
    async with served(short_dir) as site:
        await site.direct.start(site.path)
        yield site


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Site]:
    """By gRPC alone."""
    site = Site(directory)
    bind(site.server, unix_target(site.path))
    await site.server.start()
    try:
        async with DirectChannel(str(site.path), open_channel(unix_target(site.path))) as site.channel:
            async with asyncio.timeout(PATIENCE):
                yield site
    finally:
        await site.direct.stop(0)
        await site.server.stop(0)


async def error_of(call: Any) -> EdgenodeError:
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the call ended well")


@pytest.mark.parametrize("size", [0, 1, UNREAD_BYTES - 40, UNREAD_BYTES, 3 * UNREAD_BYTES, 8 << 20])
async def test_what_is_sent_comes_back_whole(size: int, site: Site) -> None:
    call = site.stub.SubmitTasks()
    assert isinstance(call, DirectCall)
    data = (bytes(range(256)) * (size // 256 + 1))[: max(size - 100, 0)]
    for _ in range(2):
        await call.write(submission(data))
        answer = await call.read()
        assert answer.outcomes[0].output.data == data
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert (await call.code(), await call.details(), call.done()) == (grpc.StatusCode.OK, "", True)
    assert site.servicer.peers == {"unix:"}


async def test_a_refusal_is_told_as_over_grpc_also_to_one_that_only_writes(site: Site) -> None:
    call = site.stub.SubmitTasks()
    end = CallEnd(call)
    await call.wait_for_connection()
    reading = asyncio.ensure_future(error_of(call))
    while not reading.done():
        with suppress(asyncio.InvalidStateError):
            await call.write(submission(bytes(1000), "refuse"))
        await asyncio.sleep(0)
    error = await reading
    by_grpc = site.stub.SubmitTasks(timeout=PATIENCE)
    await by_grpc.write(submission(request_id="refuse"))
    assert error.problem == (await error_of(by_grpc)).problem
    assert (error.reason, error.problem.retry_after, error.problem.metadata) == ("QUEUE_FULL", 2.0, {"limit": "7"})
    assert (known := end.known()) is not None
    assert known.problem == error.problem


async def test_what_was_answered_before_a_refusal_is_read_first(site: Site) -> None:
    call = site.stub.SubmitTasks()
    await call.write(submission(b"first"))
    await call.write(submission(request_id="refuse"))
    assert (await call.read()).outcomes[0].output.data == b"first"
    assert (await error_of(call)).reason == "QUEUE_FULL"
    assert (await error_of(call)).reason == "QUEUE_FULL"  # whoever asks again is told again


async def test_a_caller_that_cancels_ends_the_method(site: Site) -> None:
    call = site.stub.WorkTasks()
    await call.wait_for_connection()
    await site.servicer.began.wait()
    reading = asyncio.ensure_future(call.read())
    await asyncio.sleep(0)
    assert call.cancel()
    assert not call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    with pytest.raises(asyncio.CancelledError):
        await call.write(pb.WorkTasksRequest())
    assert (call.cancelled(), await call.code()) == (True, grpc.StatusCode.CANCELLED)
    await site.servicer.cancelled.wait()


async def test_a_caller_that_dies_ends_the_method(site: Site) -> None:
    with site.dial() as connection:
        connection.sendall(struct.pack(">BI", Kind.OPEN, len(WORK)) + WORK.encode())
        await site.servicer.began.wait()
    await site.servicer.cancelled.wait()


async def test_a_channel_that_closes_ends_its_calls(site: Site) -> None:
    call = site.stub.WorkTasks()
    await call.wait_for_connection()
    await site.servicer.began.wait()
    assert site.channel is not None
    await site.channel.close()
    await site.servicer.cancelled.wait()
    assert call.cancelled()


async def test_other_channels_close_while_a_call_opens(site: Site) -> None:
    call = site.stub.SubmitTasks()
    opening = asyncio.ensure_future(call.wait_for_connection())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not opening.done()
    async with open_channel(unix_target(site.path)):
        pass
    await opening
    call.cancel()


async def test_a_server_that_stops_tells_its_callers_after_the_grace(site: Site) -> None:
    call = site.stub.WorkTasks()
    await call.wait_for_connection()
    await site.servicer.began.wait()
    stopping = asyncio.ensure_future(site.direct.stop(PATIENCE))
    site.servicer.count = 1
    site.servicer.go.set()
    assert len((await call.read()).assignments) == 1  # within the grace
    assert await call.read() is grpc.aio.EOF
    await stopping
    assert not Path(direct_path(str(site.path))).exists()


async def test_a_method_beyond_the_grace_is_ended(site: Site) -> None:
    call = site.stub.WorkTasks()
    await call.wait_for_connection()
    await site.servicer.began.wait()
    await site.direct.stop(0)
    error = await error_of(call)
    assert isinstance(error, Unavailable)
    assert "stopped" in error.problem.message
    assert site.servicer.cancelled.is_set()


async def test_who_does_not_read_is_not_written_to(site: Site) -> None:
    site.servicer.count = 1000  # 32 MiB
    call = site.stub.WorkTasks()
    await call.wait_for_connection()
    site.servicer.go.set()
    written = -1
    while written != site.servicer.written or not written:
        written = site.servicer.written
        await asyncio.sleep(0.05)
    assert written < 100
    for _ in range(1000):
        assert len((await call.read()).assignments) == 1
    assert await call.read() is grpc.aio.EOF


async def test_who_is_not_read_waits(site: Site) -> None:
    call = site.stub.WorkTasks()  # whose requests nobody reads
    request = pb.WorkTasksRequest(attach=pb.WorkAttach(agent="x" * 32_768))
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            await call.write(request)
            sent += 1

    sending, before = asyncio.ensure_future(send()), -1
    while before != sent or not sent:
        before = sent
        await asyncio.sleep(0.05)
    assert sent < 100
    assert not sending.done()
    site.servicer.go.set()
    assert await call.read() is grpc.aio.EOF  # though much of it was never read
    with pytest.raises(asyncio.InvalidStateError):
        await sending


async def test_a_message_beyond_the_bound_is_refused(site: Site) -> None:
    call = site.stub.SubmitTasks()
    with suppress(asyncio.InvalidStateError):  # the answer may come before all was sent
        await call.write(submission(bytes(MAX_MESSAGE_BYTES + 1)))
    error = await error_of(call)
    assert (error.reason, error.problem.metadata) == ("RPC_LIMIT", {"limit": str(MAX_MESSAGE_BYTES)})


def opened(method: str = WORK) -> bytes:
    return struct.pack(">BI", Kind.OPEN, len(method)) + method.encode()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"NOT_DIRECT"),
        (opened("/nobody/Knows"), b"NOT_SERVED"),
        (opened("/edgenode.api.task.v1.TaskService/GetTask"), b"NOT_SERVED"),
        (struct.pack(">BI", Kind.END, 0), b"NOT_SERVED"),
        (opened("/edgenode.api.task.v1.TaskService/SubmitTasks") + b"\0\0\0\0\1\xff", b"BAD_MESSAGE"),
        (opened("/edgenode.api.task.v1.TaskService/SubmitTasks") + b"\7\0\0\0\1x", b"NOT_DIRECT"),
        (opened("/edgenode.api.task.v1.TaskService/SubmitTasks") + b"\0\xff\xff\xff\xff", b"RPC_LIMIT"),
    ],
)
async def test_what_is_no_frame_is_refused_with_a_reason(sent: bytes, reason: bytes, site: Site) -> None:
    def talk() -> bytes:
        with site.dial() as connection:
            connection.sendall(sent)
            said = b""
            while received := connection.recv(4096):
                said += received
            return said

    said = await asyncio.to_thread(talk)
    assert said[0] == Kind.STATUS
    assert reason in said


@pytest.mark.parametrize("size", [0, 3, 5, 20, 5 + len(WORK) + 5 + 10])
async def test_who_hangs_up_in_the_middle_harms_nobody(size: int, site: Site) -> None:
    with site.dial() as connection:
        connection.sendall((opened() + struct.pack(">BI", Kind.MESSAGE, 100) + bytes(100))[:size])
    call = site.stub.SubmitTasks()
    await call.write(submission(b"still"))
    assert (await call.read()).outcomes[0].output.data == b"still"
    call.cancel()


async def test_only_the_owner_may_connect(site: Site) -> None:
    assert stat.S_IMODE(Path(direct_path(str(site.path))).stat().st_mode) == 0o600


async def test_without_it_calls_go_by_grpc(short_dir: Path) -> None:
    async with served(short_dir) as site:
        call = site.stub.SubmitTasks()
        assert not isinstance(call, DirectCall)
        await call.write(submission(b"hello"))
        assert (await call.read()).outcomes[0].output.data == b"hello"
        await site.direct.start(site.path)
        assert isinstance(site.stub.SubmitTasks(), DirectCall)


async def test_calls_with_more_than_their_method_go_by_grpc(site: Site) -> None:
    answers = [answer async for answer in site.stub.SubmitTasks(iter([submission(b"one"), submission(b"two")]))]
    assert [answer.outcomes[0].output.data for answer in answers] == [b"one", b"two"]
    assert not isinstance(site.stub.SubmitTasks(timeout=PATIENCE), DirectCall)


async def test_where_the_name_is_too_long_it_is_left_to_grpc(short_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = short_dir / ("x" * (99 - len(str(short_dir))))
    directory.mkdir()
    caplog.set_level(logging.WARNING)
    async with served(directory) as site:
        await site.direct.start(site.path)
        call = site.stub.SubmitTasks()
        await call.write(submission(b"hello"))
        assert (await call.read()).outcomes[0].output.data == b"hello"
    assert "go by gRPC" in caplog.text


async def test_what_a_killed_server_left_behind_is_replaced(site: Site) -> None:
    left = socket.socket(socket.AF_UNIX)
    path = site.path.with_name("t.sock")
    left.bind(direct_path(str(path)))
    left.close()
    other = DirectServer(ServiceInterceptor())
    services.add_TaskServiceServicer_to_server(site.servicer, cast(Any, other))
    await other.start(path)
    async with DirectChannel(str(path), open_channel(unix_target(path))) as channel:
        call = services.TaskServiceStub(channel).SubmitTasks()
        await call.write(submission(b"new"))
        assert (await call.read()).outcomes[0].output.data == b"new"
        call.cancel()
    await other.stop(0)


class Transport(asyncio.Transport):
    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


@given(
    st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=40)), max_size=12),
    st.lists(st.integers(1, 30), min_size=1),
)
def test_frames_are_the_same_wherever_they_are_cut(frames: list[tuple[Kind, bytes]], cuts: list[int]) -> None:
    shared = receive_buffer()
    connections = [DirectConnection(shared), DirectConnection(shared)]  # in turn
    sent = b"".join(struct.pack(">BI", kind, len(data)) + data for kind, data in frames)
    for connection in connections:
        connection.connection_made(Transport())
    at, turn = 0, 0
    while at < len(sent):
        size = cuts[turn % len(cuts)]
        for connection in connections:
            buffer = connection.get_buffer(-1)
            piece = sent[at : at + min(size, len(buffer))]
            buffer[: len(piece)] = piece
            connection.buffer_updated(len(piece))
        at, turn = at + len(piece), turn + 1

    async def read(connection: DirectConnection) -> list[Any]:
        connection.eof_received()
        got = []
        while (frame := await connection.read()) is not None:
            got.append(frame)
        return got

    for connection in connections:
        assert asyncio.run(read(connection)) == frames
