"""A bidirectional stream that is opened when needed and opened again when it breaks.

What is said on it is a `Conversation`: plain state, called on the event loop, never waiting. A `Line` carries one over
grpc: one task reads, one writes. Batches form by themselves: while one frame is being written the conversation
gathers what comes, and the next frame takes all of it; a lone item goes out at once. There is no linger timer.

Every wait ends. Either the node answers, or
- the stream breaks: the conversation is told at once (`broken`), and a new stream is opened after a jittered pause;
- the node cannot be reached, or takes streams but never answers on them, for `connect_timeout`: `failed`;
- it refuses the stream for a reason that trying again does not change: `failed`, unless the conversation `recovers`;
- it owes an answer and says nothing for `silence_timeout`: the stream is ended and counts as broken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc

from edgenode.link.errors import EdgenodeError, Internal, Unavailable
from edgenode.link.model.problem import Code
from edgenode.link.ports import Rng
from edgenode.link.wire.call_end import CallEnd
from edgenode.link.wire.status import from_rpc_error

Sent = TypeVar("Sent", covariant=True)
Got = TypeVar("Got", contravariant=True)
Call = grpc.aio.StreamStreamCall[Any, Any]

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_CLOSE_GRACE = 1.0
_MAX_DEFECTS = 3

_BREAKS = frozenset({Code.UNAVAILABLE, Code.CANCELLED})
_DEFECTS = frozenset({Code.UNKNOWN, Code.INTERNAL})

_log = logging.getLogger(__name__)


class Conversation(Protocol[Sent, Got]):
    """What is said on a stream that may break."""

    def opened(self) -> None:
        """A new stream stands: `next_frame` begins with its first frame."""
        ...

    def next_frame(self) -> Sent | None:
        """What to send now, None for nothing."""
        ...

    def received(self, frame: Got) -> None:
        """A frame came. An EdgenodeError raised here ends the stream as if the node had refused it."""
        ...

    def wanted(self) -> bool:
        """Whether a stream is needed."""
        ...

    def owed(self) -> bool:
        """Whether the node owes an answer."""
        ...

    def broken(self, error: EdgenodeError) -> None:
        """The stream is gone; another one follows while it is wanted."""
        ...

    def recovers(self, error: EdgenodeError) -> bool:
        """The node refused; True to open another stream all the same."""
        ...

    def failed(self, error: EdgenodeError) -> None:
        """No stream can be had: what waits ends with `error`."""
        ...


def pause(attempt: int, rng: Rng) -> float:
    """Seconds to wait before attempt number `attempt` (from 0): full jitter, 50 ms doubling to 2 s."""
    return rng.random() * min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 16))


def unreachable(timeout: float, cause: EdgenodeError | None) -> Unavailable:
    """The error of whoever waited for a node that is not there."""
    detail = f": {cause.problem.message}" if cause is not None else ""
    return Unavailable(
        "UNREACHABLE",
        f"the node was out of reach for {timeout:g} s{detail}",
        hint="is it running? edgenode run --state DIR",
    )


class Line:
    """Keeps a conversation going. `connect_timeout` and `silence_timeout` in seconds, infinity allowed.

    `open_call` makes the call; it may do other rpcs first and raise EdgenodeError.
    """

    def __init__(
        self,
        conversation: Conversation[Any, Any],
        open_call: Callable[[], Awaitable[Call]],
        *,
        connect_timeout: float,
        silence_timeout: float,
        rng: Rng,
    ) -> None:
        self._conversation = conversation
        self._open_call = open_call
        self._connect_timeout = connect_timeout
        self._silence_timeout = silence_timeout
        self._rng = rng
        self._event = asyncio.Event()
        self.wake = self._event.set
        """Call it when `next_frame` or `wanted` may have changed."""
        self._call: Call | None = None
        self._closing = False
        self._heard_at = 0.0
        self._answered = False
        self._silence: asyncio.TimerHandle | None = None
        self._silent = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins; the first stream is opened when it is wanted."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def restart(self) -> None:
        """Ends the present stream so that another one follows at once."""
        if self._call is not None:
            self._call.cancel()

    async def aclose(self, grace: float = _CLOSE_GRACE) -> None:
        """Ends the stream: in-band within `grace` seconds if everything was said, else at once. Safe to repeat."""
        task, self._task = self._task, None
        if task is None:
            return
        self._closing = True
        self._event.set()
        if self._call is None or self._conversation.wanted():
            task.cancel()  # nothing to end in-band, or no time to wait for what is still to come
        await asyncio.wait([task], timeout=grace)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async def _run(self) -> None:
        conversation = self._conversation
        while not self._closing:
            self._event.clear()
            if not conversation.wanted():
                await self._event.wait()
                continue
            try:
                await self._serve()
            except Exception as error:  # a defect must not leave anybody waiting
                _log.exception("a stream's task failed")
                conversation.failed(
                    Internal("CLIENT_DEFECT", f"the stream's task failed: {error!r}", hint="see the log")
                )

    async def _serve(self) -> None:
        """Opens streams until none is wanted or none can be had."""
        conversation, loop = self._conversation, asyncio.get_running_loop()
        give_up_at = loop.time() + self._connect_timeout
        attempt = defects = 0
        while not self._closing:
            self._answered = False
            error = await self._one_stream(give_up_at)
            if self._closing:
                return
            if self._answered:
                attempt, give_up_at = 0, loop.time() + self._connect_timeout
            defects = defects + 1 if error.problem.code in _DEFECTS else 0
            passing = error.problem.code in _BREAKS or 0 < defects < _MAX_DEFECTS
            if not passing and not conversation.recovers(error):
                conversation.failed(error)
                return
            _log.debug("stream broke: %s", error)
            conversation.broken(error)
            if not conversation.wanted():
                return
            wait = pause(attempt, self._rng)
            if loop.time() + wait >= give_up_at:
                conversation.failed(unreachable(self._connect_timeout, error))
                return
            attempt += 1
            await asyncio.sleep(wait)

    async def _one_stream(self, give_up_at: float) -> EdgenodeError:
        """One stream from opening to its end; returns why it ended."""
        call: Call | None = None
        end: CallEnd | None = None
        try:
            async with asyncio.timeout_at(None if give_up_at == float("inf") else give_up_at):
                call = await self._open_call()
                end = CallEnd(call)
                await call.wait_for_connection()
            self._call = call
            await self._converse(call)
            error: EdgenodeError = Unavailable("STREAM_CLOSED", "the node closed the stream")
        except TimeoutError:
            error = Unavailable("CONNECT_TIMEOUT", "no connection in time")
        except grpc.aio.AioRpcError as rpc_error:
            error = from_rpc_error(rpc_error) if end is None else await end.error(rpc_error)
        except asyncio.CancelledError:
            # A call that was cancelled (by restart or silence) raises this in its reader; a cancelled task must end.
            current = asyncio.current_task()
            if call is None or not call.cancelled() or (current is not None and current.cancelling()):
                raise
            error = Unavailable("STREAM_CLOSED", "the stream was closed")
        except EdgenodeError as raised:
            error = raised
        finally:
            self._call = None
            if call is not None and not call.done():
                call.cancel()
        if self._silent:
            self._silent = False
            error = Unavailable("NODE_SILENT", f"the node owed an answer for {self._silence_timeout:g} s")
        return error

    async def _converse(self, call: Call) -> None:
        """Reads until the node ends the stream; writes beside it."""
        self._conversation.opened()
        received = self._conversation.received
        loop = asyncio.get_running_loop()
        writer = loop.create_task(self._write(call))
        writer.add_done_callback(lambda task: call.cancel() if not task.cancelled() and task.exception() else None)
        try:
            while (frame := await call.read()) is not grpc.aio.EOF:
                self._heard_at = loop.time()
                self._answered = True
                received(frame)
        finally:
            if self._silence is not None:
                self._silence.cancel()
                self._silence = None
            writer.cancel()
            await asyncio.wait([writer])
        if not writer.cancelled() and (error := writer.exception()) is not None:
            raise error

    async def _write(self, call: Call) -> None:
        next_frame, event = self._conversation.next_frame, self._event
        try:
            while True:
                event.clear()
                while (frame := next_frame()) is not None:
                    await call.write(frame)
                self._watch_silence()
                if self._closing:
                    await call.done_writing()
                    return
                await event.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream is over; the reader gets the status

    def _watch_silence(self) -> None:
        """One timer, armed only while the node owes an answer."""
        if self._silence is None and self._silence_timeout != float("inf") and self._conversation.owed():
            loop = asyncio.get_running_loop()
            self._heard_at = loop.time()
            self._silence = loop.call_later(self._silence_timeout, self._check_silence)

    def _check_silence(self) -> None:
        self._silence = None
        if not self._conversation.owed():
            return
        loop = asyncio.get_running_loop()
        left = self._heard_at + self._silence_timeout - loop.time()
        if left > 0:
            self._silence = loop.call_later(left, self._check_silence)
        elif self._call is not None:
            self._silent = True
            self._call.cancel()
