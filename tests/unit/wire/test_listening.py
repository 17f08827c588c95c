import asyncio
import gc
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from typing import Any

import pytest

from edgenode.link.wire.listening import Listener, relay


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    yield
    gc.collect()  # warns of what was, in the test that did it


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)


async def over(caller: socket.socket) -> bool:
    """Waits until the other side says something, or is gone."""
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(caller, 100), 30) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("turns", range(6))
async def test_whoever_is_accepted_as_it_closes_is_closed(turns: int) -> None:
    listener = Listener(echo)
    with socket.create_connection(("127.0.0.1", await listener.open())) as caller:
        caller.setblocking(False)
        for _ in range(turns):  # of the loop, in which a connection is accepted, made known, served
            await asyncio.sleep(0)
        await listener.close()
        await listener.close()
        assert await over(caller)


async def test_what_was_written_last_arrives_and_what_goes_wrong_is_told() -> None:
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: said.append(context))

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        if await reader.read(1) == b"!":
            raise ValueError("no")
        writer.write(bytes(5_000_000))

    listener = Listener(serve)
    port = await listener.open()
    for word, answer in ((b"?", 5_000_000), (b"!", 0)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(word)
        assert len(await reader.read()) == answer
        writer.close()
    await listener.close()
    assert [str(context["exception"]) for context in said] == ["no"]


async def test_a_side_of_a_relay_takes_the_other_along() -> None:
    far = Listener(echo)
    port = await far.open()
    near = Listener(lambda reader, writer: relay(reader, writer, port))
    entrance = await near.open()
    for cut in (far.cut, near.cut, far.cut):
        reader, writer = await asyncio.open_connection("127.0.0.1", entrance)
        writer.write(b"through")
        assert await reader.readexactly(7) == b"through"
        cut()
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
    await far.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", entrance)
    assert await asyncio.wait_for(reader.read(), 30) == b""  # nobody is there
    writer.close()
    await near.close()
