"""An event loop with a clock of its own, and processes on it that can be paused and killed between any two steps.

Theory of operation. Time stands while something is ready to run and jumps to the next timer when nothing is. Whatever is
scheduled belongs to the process in whose context that was done (a context variable, so tasks, timers and callbacks of a
process are its own without knowing of it), or to the world. A process that was killed runs nothing any more: what it had
scheduled is dropped where it stands, and its tasks are kept, unfinished, until the run is over, so that no `finally` of
theirs is run by the garbage collector. A process that is paused has what is due to it kept in order until it goes on.

With a `fuse` a process is killed after exactly so many steps: between a commit and its acknowledgement, between an
acknowledgement and its sending, anywhere.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import sys
import warnings
from asyncio import events as asyncio_events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from edgenode.link import gil
from edgenode.link.errors import EdgenodeError

T = TypeVar("T")

OWNER: ContextVar[Process | None] = ContextVar("OWNER", default=None)


class SimulationFailure(AssertionError):
    """Something that must hold did not."""


class Process:
    """What can be paused and killed. `context` is where its code begins to run."""

    def __init__(self, loop: Loop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.paused = False
        self.fuse: tuple[int, Callable[[], None]] | None = None  # steps left, and what to do then
        self.backlog: deque[Step] = deque()
        self.tasks: list[asyncio.Task[Any]] = []
        self._kept = 256
        self.context = copy_context()
        self.context.run(OWNER.set, self)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` as a task of this process."""
        task: asyncio.Task[T] = self.loop.create_task(work, context=self.context.copy())
        return task

    def keep(self, task: asyncio.Task[Any]) -> None:
        """A task of this process; those that are done are let go now and then."""
        self.tasks.append(task)
        if len(self.tasks) > self._kept:
            self.tasks = [task for task in self.tasks if not task.done()]
            self._kept = 2 * len(self.tasks) + 256

    def kill(self) -> None:
        """Nothing of it runs any more."""
        self.alive = False
        self.fuse = None
        self.backlog.clear()
        self.loop.killed.append(self)

    def pause(self) -> None:
        """Nothing of it runs until `resume`."""
        self.paused = True

    def resume(self) -> None:
        """It goes on with what was due meanwhile, in order."""
        self.paused = False
        self.loop.ready.extend(self.backlog)
        self.backlog.clear()


class Step:
    """A callback that is due; asyncio's Handle and TimerHandle for this loop."""

    __slots__ = ("args", "callback", "context", "dropped", "due", "owner")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context, due: float) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.owner = context.get(OWNER)
        self.dropped = False
        self.due = due

    def cancel(self) -> None:
        """Never run."""
        self.dropped = True
        self.args = ()

    def cancelled(self) -> bool:
        """Whether it was."""
        return self.dropped

    def when(self) -> float:
        """When it is due, on the loop's clock."""
        return self.due


def _close(task: asyncio.Task[Any]) -> None:
    dying: Any = task
    dying._log_destroy_pending = False
    if task.done():
        if not task.cancelled():
            task.exception()
        return
    for _ in range(10):
        try:
            dying.get_coro().close()
        except BaseException:  # whatever its `finally` says without a loop to say it on
            continue
        return


class _NoThreads(gil.GivingWay):
    """Work of a thread runs on the loop itself here: nobody is to be given way."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class Loop(asyncio.AbstractEventLoop):
    """`run(until)` lets time pass. What a callback raises is given to `on_error`."""

    def __init__(self, rng: random.Random, on_error: Callable[[str], None]) -> None:
        self.now = 0.0
        self.step_count = 0
        self.stopped = False  # `run` returns as soon as it is set
        self.ready: deque[Step] = deque()
        self.killed: list[Process] = []
        self.tasks: list[asyncio.Task[Any]] = []  # the world's own
        self._rng = rng
        self._timers: list[tuple[float, int, Step]] = []  # due, number
        self._number = 0
        self._on_error = on_error
        self._world = copy_context()
        gil.give_way_by(self, _NoThreads())

    # --- for the world ------------------------------------------------------------------------------------------------

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass up to `until`, or until `done()`, which is asked whenever time is about to pass."""
        asyncio_events._set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=None)
        try:
            while True:
                self._drain()
                if self.stopped or (done is not None and done()):
                    return True
                due = self._next_due()
                if due is None or due > until:
                    self.now = max(self.now, until)
                    return False
                self.now = max(self.now, due)
                while self._timers and self._timers[0][0] <= self.now:
                    self.ready.append(heapq.heappop(self._timers)[2])
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio_events._set_running_loop(None)

    def _next_due(self) -> float | None:
        timers = self._timers
        while timers:
            due, _, step = timers[0]
            if not step.dropped and (step.owner is None or step.owner.alive):
                return due
            heapq.heappop(timers)
        return None

    def _drain(self) -> None:
        ready = self.ready
        while ready and not self.stopped:
            step = ready.popleft()
            if step.dropped:
                continue
            owner = step.owner
            if owner is not None:
                if not owner.alive:
                    continue
                if owner.paused:
                    owner.backlog.append(step)
                    continue
                if owner.fuse is not None:
                    left, burn = owner.fuse
                    if left <= 0:
                        owner.fuse = None
                        burn()
                        continue
                    owner.fuse = (left - 1, burn)
            self.step_count += 1
            try:
                step.context.run(step.callback, *step.args)
            except SimulationFailure:
                raise
            except Exception as error:
                self._on_error(f"{step.callback} raised {error!r}")

    def later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Step:
        """Do something of the world's own in `delay` seconds, whoever asks for it."""
        step: Step = self.call_at(self.now + max(delay, 0.0), callback, *args, context=self._world)
        return step

    def soon(self, callback: Callable[..., Any], *args: Any) -> Step:
        """Do something of the world's own next."""
        step: Step = self.call_soon(callback, *args, context=self._world)
        return step

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` as a task of the world's own."""
        task: asyncio.Task[T] = self.create_task(work, context=self._world.copy())
        return task

    def end(self) -> None:
        """Give back what is left of tasks, without running anything of theirs that could have an effect."""
        everything = [*self.tasks, *(task for process in self.killed for task in process.tasks)]
        logging.disable(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for task in everything:
                    _close(task)
                self.ready.clear()
                self._timers.clear()
                everything.clear()
                self.tasks.clear()
                self.killed.clear()
        finally:
            logging.disable(logging.NOTSET)

    # --- for asyncio --------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """See AbstractEventLoop."""
        return self.now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        """See AbstractEventLoop."""
        step = Step(callback, args, copy_context() if context is None else context, self.now)
        self.ready.append(step)
        return step

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        """See AbstractEventLoop."""
        return self.call_at(self.now + max(delay, 0.0), callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        """See AbstractEventLoop."""
        self._number += 1
        step = Step(callback, args, copy_context() if context is None else context, when)
        heapq.heappush(self._timers, (when, self._number, step))
        return step

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        """See AbstractEventLoop."""
        return self.call_soon(callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """See AbstractEventLoop."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None, **_: Any) -> Any:
        """See AbstractEventLoop."""
        owner = (copy_context() if context is None else context).get(OWNER)
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        if owner is None:
            self.tasks.append(task)
        else:
            owner.keep(task)
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Work of a thread: done after a while, in one go."""
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(self._rng.uniform(0.0005, 0.01), work)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """See AbstractEventLoop."""
        if isinstance(context.get("exception"), EdgenodeError):
            return  # a refusal that nobody waits for any more
        who = context.get("task") or context.get("future") or ""
        self._on_error(f"{context.get('message')}: {context.get('exception')!r} {who}")

    def get_debug(self) -> bool:
        """See AbstractEventLoop."""
        return False

    def is_running(self) -> bool:
        """See AbstractEventLoop."""
        return True

    def is_closed(self) -> bool:
        """See AbstractEventLoop."""
        return False
