"""What an item of work costs, counted: no clock is read, so a slow machine changes nothing and a lost batch shows at once."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.store import connector
from edgenode.link.wire.streams import AcceptedStream, DialedStream
from edgenode.sdk.publisher import Publisher
from edgenode.sdk.submitter import Submitter
from edgenode.sdk.subscription import Subscription
from edgenode.sdk.worker import Worker


def count_frames(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts gRPC messages of the SDK's streams, by kind and direction."""
    counted: Counter[str] = Counter()

    def count(kind: type[Any], method: str, key: str) -> None:
        original: Callable[..., Any] = getattr(kind, method)

        def counting(self: Any, *arguments: Any) -> Any:
            result = original(self, *arguments)
            counted[key] += method == "received" or result is not None
            return result

        monkeypatch.setattr(kind, method, counting)

    for kind in (Publisher, Submitter, Subscription, Worker):
        count(kind, "next_frame", f"{kind.__name__} sent")
        count(kind, "received", f"{kind.__name__} got")
    return counted


def count_link_frames(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts gRPC messages of links with entries or acknowledgements, by who writes them: signs of life follow the clock."""
    counted: Counter[str] = Counter()

    def count(kind: type[Any], key: str) -> None:
        original: Callable[..., Any] = kind.write

        async def counting(self: Any, frames: Any) -> None:
            counted[key] += any(
                sync_pb2.Frame.FromString(frame).WhichOneof("frame") in ("batch", "ack") for frame in frames
            )
            await original(self, frames)

        monkeypatch.setattr(kind, "write", counting)

    count(DialedStream, "up")
    count(AcceptedStream, "down")
    return counted


def count_hops(monkeypatch: pytest.MonkeyPatch, counted: Counter[str]) -> None:
    """Counts functions given to the threads of databases as `hops`."""
    run = connector._ThreadConnection.run

    async def counting(self: Any, function: Callable[..., Any]) -> Any:
        counted["hops"] += 1
        return await run(self, function)

    monkeypatch.setattr(connector._ThreadConnection, "run", counting)


def count_turns(monkeypatch: pytest.MonkeyPatch, counted: Counter[str]) -> None:
    """Counts turns of event loops as `turns`: each time one looks for what has become ready."""
    run_once: Callable[[Any], None] = asyncio.BaseEventLoop._run_once  # type: ignore[attr-defined]

    def counting(self: Any) -> None:
        counted["turns"] += 1
        run_once(self)

    monkeypatch.setattr(asyncio.BaseEventLoop, "_run_once", counting)


class Bill:
    """What something cost, by name."""

    def __init__(self) -> None:
        self.items: dict[str, int] = {}

    def within(self, bounds: Mapping[str, int]) -> None:
        """Each cost that has a bound was there and kept to it."""
        over = {name: (self.items.get(name, 0), bound) for name, bound in bounds.items()}
        assert all(0 < cost <= bound for cost, bound in over.values()), f"(cost, bound): {over}; all: {self.items}"


@contextmanager
def bill(*counters: Counter[str], commits: Callable[[], int] = int) -> Iterator[Bill]:
    """Counts until the end of the block: `counters` summed by what they count, frames as one, and commits."""
    made = Bill()
    before = sum(counters, Counter[str]())
    committed = commits()
    yield made
    spent = sum(counters, Counter[str]())
    spent.subtract(before)
    for key, count in spent.items():
        name = key if key in ("hops", "turns") else "frames"
        made.items[name] = made.items.get(name, 0) + count
    made.items["commits"] = commits() - committed


@contextmanager
def functions(*folders: str) -> Iterator[Counter[str]]:
    """Counts the calls of Python functions of modules below these folders, on this thread, by name."""
    counted: Counter[str] = Counter()

    def called(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and any(folder in code.co_filename for folder in folders):
            counted[code.co_qualname] += 1

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        yield counted
    finally:
        sys.setprofile(before)


class Memory:
    """What a block took of Python's memory."""

    def __init__(self) -> None:
        gc.collect()
        self._blocks = sys.getallocatedblocks()
        self.peak = 0  # bytes at most, over what was there before

    def kept(self) -> int:
        """Blocks that were not there before and are now."""
        gc.collect()
        return sys.getallocatedblocks() - self._blocks


@contextmanager
def memory() -> Iterator[Memory]:
    """Measures the block."""
    measured = Memory()
    tracemalloc.start()
    try:
        yield measured
        measured.peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
