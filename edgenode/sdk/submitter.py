"""The submitting side of a client: calls and durable tasks on one SubmitTasks stream.

Submissions go straight into the frame that is forming. Calls and urgent tasks go in frames of their own, which overtake the
others. When the stream breaks, calls that were sent fail (NODE_LOST): the node may have run them, and only the caller knows
whether that may happen twice. Durable submissions go again under their request ids, by which the node knows them: those
without a receipt, and those with one whose outcome somebody still holds a handle to, because outcomes are pushed on the
stream that asked for them.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from edgenode.api.task.v1 import task_service_pb2 as pb
from edgenode.link.errors import DeadlineExceeded, EdgenodeError, Unavailable, from_problem
from edgenode.link.model.task import PRIORITY, URGENT, Level
from edgenode.link.protocol.overtaking import Overtaking
from edgenode.link.wire.values import problem_from_pb
from edgenode.sdk.deadlines import Deadlines
from edgenode.sdk.spec import fill_spec
from edgenode.sdk.window import Window

MAX_FRAME_COUNT = 256
_UNDIVIDED = 16  # submissions that always fit one frame
_FRAMES = 3  # that what is under way makes at least, beyond these: one for each of client, node and agent
MAX_FRAME_BYTES = 256 * 1024
_OVERHEAD = 96  # bytes a submission takes beside its input, roughly
_WINDOW_COUNT = 16 * 1024
_WINDOW_BYTES = 32 * 1024 * 1024

_LEVELS = {level.value: level for level in Level}

Outcome = pb.SubmissionOutcome | EdgenodeError


class Entry:
    """One submission. A call has an `outcome`; a durable one first a receipt, then an `outcome`.

    Thousands may wait, and the garbage collector looks at all they consist of: there is nothing here that nobody asked for.
    """

    __slots__ = (
        "abandoned",
        "correlation_id",
        "counted",
        "durable",
        "handle",
        "index",
        "level",
        "loop",
        "outcome",
        "prompt",
        "receipt",
        "request",
        "sent",
        "size",
        "task_id",
        "timeout",
        "waiters",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        correlation_id: int,
        request: pb.SubmitTasksRequest,
        index: int,
        size: int,
        durable: bool,
        prompt: bool,
    ) -> None:
        self.loop = loop
        self.correlation_id = correlation_id
        self.request: pb.SubmitTasksRequest | None = request  # the frame it is in, until it has its outcome
        self.index = index  # in that frame
        self.size = size
        self.durable = durable
        self.prompt = prompt  # goes before others
        self.sent = False  # on the present stream
        self.counted = True  # takes room in the window: a call without answer, a durable one without receipt
        self.abandoned = False  # nobody waits for the receipt any more
        self.receipt: asyncio.Future[None] | None = loop.create_future() if durable else None  # until there is one
        self.task_id = ""  # and `level`, with the receipt
        self.level = Level.ACCEPTED
        self.outcome: Outcome | None = None
        self.waiters: Sequence[asyncio.Future[Outcome]] = ()
        self.handle: weakref.ref[Any] | None = None
        self.timeout = 0.0  # seconds, of a call

    def followed(self) -> bool:
        """Whether somebody may still ask for the outcome."""
        return not self.abandoned and (self.handle is None or self.handle() is not None)

    def wait(self) -> asyncio.Future[Outcome]:
        """For the outcome, which is not there yet. Several may wait, and who gives up takes nothing from the others."""
        waiter: asyncio.Future[Outcome] = self.loop.create_future()
        self.waiters = [*(other for other in self.waiters if not other.done()), waiter] if self.waiters else (waiter,)
        return waiter

    def accept(self, task_id: str, level: Level) -> None:
        """Here is its receipt."""
        self.task_id, self.level = task_id, level
        receipt, self.receipt = self.receipt, None
        if receipt is not None and not receipt.done():
            receipt.set_result(None)

    def refuse(self, error: EdgenodeError) -> None:
        """There will be no receipt, if there is none yet."""
        receipt, self.receipt = self.receipt, None
        if receipt is not None and not receipt.done():
            receipt.set_exception(error)

    def end(self, outcome: Outcome) -> None:
        """Here is its outcome."""
        self.outcome = outcome
        self.request = None
        waiters, self.waiters = self.waiters, ()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(outcome)


class _Batch:
    """A frame that is forming, with its entries."""

    __slots__ = ("add", "entries", "request", "size")

    def __init__(self) -> None:
        self.request = pb.SubmitTasksRequest()
        self.add = self.request.submissions.add
        self.entries: list[Entry] = []
        self.size = 0


class Submitter:
    """A conversation (see streams) for TaskService.SubmitTasks."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._batches: Overtaking[_Batch] = Overtaking()
        self._cancels: list[int] = []
        self._last_id = 0
        self._owed = 0
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines[int, Entry](self._entries, self._expire)
        self.window = Window(_WINDOW_COUNT, _WINDOW_BYTES)
        self.wake: Callable[[], None] = lambda: None

    def call(
        self, skill: str, data: bytes, content_type: str, deadline: float, timeout: float, options: dict[str, Any]
    ) -> Entry:
        """Adds a call for which room was taken; it is answered or fails within `timeout` seconds."""
        entry = self._add(skill, data, content_type, deadline, options, "")
        entry.timeout = timeout
        self._deadlines.add(self._loop.time() + timeout, entry.correlation_id)
        return entry

    def submit(
        self, skill: str, data: bytes, content_type: str, deadline: float, request_id: str, options: dict[str, Any]
    ) -> Entry:
        """Adds a durable submission for which room was taken."""
        return self._add(skill, data, content_type, deadline, options, request_id)

    @staticmethod
    def size_of(data: bytes) -> int:
        """What an input takes in the window."""
        return len(data) + _OVERHEAD

    def _add(
        self, skill: str, data: bytes, content_type: str, deadline: float, options: dict[str, Any], request_id: str
    ) -> Entry:
        size = len(data) + _OVERHEAD
        prompt = not request_id
        if not prompt and options:
            priority = options.get("priority", PRIORITY)
            prompt = isinstance(priority, int) and priority >= URGENT
        batches = self._batches.prompt if prompt else self._batches.others
        batch = self._forming(batches, size)
        self._last_id += 1
        correlation_id = self._last_id
        entries = batch.entries
        submission = batch.add()
        submission.correlation_id = correlation_id
        try:
            if request_id:
                submission.want_outcome = True
                submission.request_id = request_id
            else:
                submission.call = True
            fill_spec(submission.spec, skill, data, content_type, deadline, **options)
        except Exception:  # whatever it was, the frame must not keep half a submission
            del batch.request.submissions[len(entries) :]
            if not entries:
                batches.pop()
            self.window.give(1, size)
            raise
        entry = Entry(self._loop, correlation_id, batch.request, len(entries), size, bool(request_id), prompt)
        batch.size += size
        self._entries[correlation_id] = entry
        if not entries:
            self.wake()
        entries.append(entry)
        return entry

    def _forming(self, batches: deque[_Batch], size: int) -> _Batch:
        """The batch that takes another submission.

        Beyond a few it takes no more than a third of what is under way: were everybody's call in one frame, client, node and
        agent would wait for each other in turn; so each has one to work on.
        """
        if batches:
            batch = batches[-1]
            count = len(batch.entries)
            few = count < _UNDIVIDED or (count < MAX_FRAME_COUNT and count < len(self._entries) // _FRAMES)
            if few and batch.size + size <= MAX_FRAME_BYTES:
                return batch
        batch = _Batch()
        batches.append(batch)
        return batch

    def follow(self, entry: Entry, handle: object) -> None:
        """The outcome is asked for again after a reconnect as long as `handle` lives."""
        entry.handle = weakref.ref(handle)

    def forget(self, entry: Entry) -> None:
        """The caller of a call waits no more: the node is told to stop it."""
        if self._entries.pop(entry.correlation_id, None) is not None:
            self._release(entry)
            self._cancels.append(entry.correlation_id)
            self.wake()

    def _expire(self, entry: Entry) -> None:
        self.forget(entry)
        entry.end(no_answer(entry.timeout))

    def _release(self, entry: Entry) -> None:
        if entry.counted:
            entry.counted = False
            self.window.give(1, entry.size)
            if entry.sent and entry.durable:
                self._owed -= 1

    # --- the conversation ---

    def opened(self) -> None:
        """See Conversation."""

    def next_frame(self) -> pb.SubmitTasksRequest | None:
        """See Conversation."""
        if (batch := self._batches.pop()) is not None:
            request = batch.request
            for entry in batch.entries:
                entry.sent = True
                if entry.counted and entry.durable:
                    self._owed += 1
        elif self._cancels:
            request = pb.SubmitTasksRequest()
        else:
            return None
        if self._cancels:
            request.cancel_correlation_ids.extend(self._cancels[:MAX_FRAME_COUNT])
            del self._cancels[:MAX_FRAME_COUNT]
        return request

    def received(self, frame: pb.SubmitTasksResponse) -> None:
        """See Conversation."""
        entries = self._entries
        count = size = 0
        for receipt in frame.receipts:
            entry = entries.get(receipt.correlation_id)
            if entry is not None and entry.receipt is not None:
                self._release(entry)
                entry.accept(receipt.task_id, _LEVELS[receipt.level])
        for outcome in frame.outcomes:
            entry = entries.pop(outcome.correlation_id, None)
            if entry is None:
                continue
            if not entry.durable:
                count += 1
                size += entry.size
            elif entry.receipt is not None:
                self._release(entry)
                if task_id := outcome.task_id:
                    entry.accept(task_id, Level.DONE)
                else:
                    entry.refuse(from_problem(problem_from_pb(outcome.problem)))
            entry.end(outcome)
        if count:
            self.window.give(count, size)

    def wanted(self) -> bool:
        """See Conversation."""
        return bool(self._entries)

    def owed(self) -> bool:
        """See Conversation. Calls have a timer each; only receipts are waited for without one."""
        return self._owed > 0

    def broken(self, error: EdgenodeError) -> None:
        """See Conversation."""
        lost = node_lost(error)
        again: list[Entry] = []
        for entry in list(self._entries.values()):
            if not entry.sent:
                continue
            if not entry.durable or not entry.followed():
                self._end(entry, lost)
            else:
                entry.sent = False
                again.append(entry)
        self._owed = 0
        self._requeue(self._batches.prompt, [entry for entry in again if entry.prompt])
        self._requeue(self._batches.others, [entry for entry in again if not entry.prompt])

    @staticmethod
    def _requeue(waiting: deque[_Batch], entries: list[Entry]) -> None:
        """Puts sent entries before the unsent ones, in their order."""
        batches: list[_Batch] = []
        for entry in entries:
            batch = batches[-1] if batches else None
            if batch is None or len(batch.entries) >= MAX_FRAME_COUNT or batch.size + entry.size > MAX_FRAME_BYTES:
                batch = _Batch()
                batches.append(batch)
            assert entry.request is not None
            batch.add().CopyFrom(entry.request.submissions[entry.index])
            entry.request, entry.index = batch.request, len(batch.entries)
            batch.entries.append(entry)
            batch.size += entry.size
        waiting.extendleft(reversed(batches))

    def _end(self, entry: Entry, error: EdgenodeError) -> None:
        del self._entries[entry.correlation_id]
        self._release(entry)
        error = from_problem(error.problem)
        entry.refuse(error)
        entry.end(error)

    def recovers(self, error: EdgenodeError) -> bool:
        """See Conversation."""
        return False

    def close(self, error: EdgenodeError) -> None:
        """Ends everything with `error`, for good."""
        self.failed(error)
        self._deadlines.close()

    def failed(self, error: EdgenodeError) -> None:
        """See Conversation."""
        self._batches.clear()
        self._cancels.clear()
        for entry in list(self._entries.values()):
            self._end(entry, error)


def no_answer(timeout: float) -> DeadlineExceeded:
    """The error of a call whose time, in seconds, is over."""
    return DeadlineExceeded("DEADLINE_EXCEEDED", f"no answer within {timeout:g} s", hint="give it more time")


def node_lost(cause: EdgenodeError) -> Unavailable:
    """The error of a call whose node went away."""
    return Unavailable(
        "NODE_LOST",
        f"the node went away while the call was in flight: {cause.problem.message}",
        hint="it may have run; call again if that is safe",
    )
