"""The publisher against a model of a node: whatever breaks, every message is stored once, in order, and answered."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgenode.api.message.v1 import message_service_pb2 as pb
from edgenode.link.errors import EdgenodeError, InvalidArgument, Unavailable
from edgenode.link.wire.values import problem_to_pb
from edgenode.sdk.publisher import OVERHEAD, Group, Publisher, Receipt, message_run

BAD = b"bad"


@pytest.fixture(autouse=True, scope="module")
def few_told_at_once() -> Iterator[None]:
    """So that a handful of messages is told in several turns of the loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgenode.sdk.publisher.TOLD_AT_ONCE", 2)
        yield


class ModelNode:
    """Takes frames as the contract says: each once, without gaps; acknowledges what is stored."""

    def __init__(self) -> None:
        self.stored: dict[str, list[bytes]] = {}
        self.producer = ""
        self.refused: set[int] = set()

    def opened(self) -> None:
        self.producer = ""

    def take(self, frame: pb.PublishRequest) -> bool:
        """False: SEQUENCE_GAP."""
        self.producer = self.producer or frame.producer_id
        assert self.producer
        stored = self.stored.setdefault(self.producer, [])
        if frame.first_sequence > len(stored) + 1:
            return False
        stored.extend(message.payload for message in frame.batch.messages[len(stored) + 1 - frame.first_sequence :])
        return True

    def acknowledgement(self, behind: int) -> pb.PublishResponse:
        stored = self.stored.get(self.producer, [])
        response = pb.PublishResponse(durable_local_sequence=max(0, len(stored) - behind), epoch="e")
        for number, payload in enumerate(stored[: response.durable_local_sequence], 1):
            if payload == BAD:
                problem = problem_to_pb(InvalidArgument("BAD_TOPIC", "no").problem)
                response.rejections.add(sequence=number, problem=problem)
        return response


class Told(Group):
    """A group whose outcomes are futures, one each."""

    def __init__(self, futures: list[tuple[bytes, asyncio.Future[Any]]], payloads: list[bytes]) -> None:
        super().__init__(len(payloads))
        self.told: list[asyncio.Future[Any]] = [asyncio.get_running_loop().create_future() for _ in payloads]
        futures.extend(zip(payloads, self.told, strict=True))

    def stored(self, start: int, receipts: Sequence[Receipt]) -> None:
        super().stored(start, receipts)
        for future, receipt in zip(self.told[start:], receipts, strict=False):
            future.set_result(receipt)

    def failed(self, start: int, count: int, error: EdgenodeError) -> None:
        super().failed(start, count, error)
        for future in self.told[start : start + count]:
            future.set_exception(error)


class Rig:
    def __init__(self) -> None:
        names = (f"p{number}" for number in itertools.count())
        self.publisher = Publisher(lambda: next(names))
        self.node = ModelNode()
        self.futures: list[tuple[bytes, asyncio.Future[Any]]] = []
        self.wire: list[pb.PublishRequest] = []
        self.reopen()

    def publish(self, bad: bool) -> None:
        payload = BAD if bad else b"%d" % len(self.futures)
        assert self.publisher.window.take(len(payload) + OVERHEAD)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.publisher.publish(future, "a", "", payload, "", None, "")
        self.futures.append((payload, future))

    async def publish_many(self, bad: tuple[bool, ...]) -> None:
        first = len(self.futures)
        payloads = [BAD if is_bad else b"%d" % (first + index) for index, is_bad in enumerate(bad)]
        group = Told(self.futures, payloads)
        await self.publisher.publish_run(group, 0, message_run("a", "", "", None, ""), payloads)

    def send(self) -> bool:
        frame = self.publisher.next_frame()
        if frame is None:
            return False
        copy = pb.PublishRequest()
        copy.CopyFrom(frame)
        self.wire.append(copy)
        return True

    def deliver(self) -> None:
        if self.wire and not self.node.take(self.wire.pop(0)):
            assert self.publisher.recovers(InvalidArgument("SEQUENCE_GAP", "gap"))
            self.reopen()

    def acknowledge(self, behind: int) -> None:
        if self.node.producer:
            self.publisher.received(self.node.acknowledgement(behind))

    def reopen(self) -> None:
        self.wire.clear()
        self.publisher.broken(Unavailable("GONE", "gone"))
        self.node.opened()
        self.publisher.opened()

    async def turn(self) -> None:
        """The event loop comes by."""
        await asyncio.sleep(0)

    async def told(self) -> None:
        """Whoever is to hear of an acknowledgement has."""
        for _ in self.futures:
            await self.turn()

    def forget(self) -> None:
        """The node gets a new store; what it stored stays written down as lost."""
        self.node.stored = {f"lost {number}": stored for number, stored in enumerate(self.node.stored.values())}
        self.reopen()


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.booleans()),
        st.tuples(st.just("publish_many"), st.lists(st.booleans(), min_size=1, max_size=5).map(tuple)),
        st.tuples(st.just("send")),
        st.tuples(st.just("deliver")),
        st.tuples(st.just("acknowledge"), st.integers(0, 3)),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("turn")),
    ),
    max_size=60,
)


async def act(rig: Rig, actions: list[tuple[Any, ...]]) -> None:
    for name, *arguments in actions:
        done = getattr(rig, name)(*arguments)
        if done is not None and not isinstance(done, bool):
            await done


async def run(rig: Rig, actions: list[tuple[Any, ...]]) -> None:
    await act(rig, actions)
    for _ in range(10):  # and then all goes well
        while rig.send():
            pass
        while rig.wire:
            rig.deliver()
        rig.acknowledge(0)
        await rig.told()


@settings(max_examples=300)
@given(ACTIONS)
async def test_every_message_is_stored_once_in_order_and_answered(actions: list[tuple[Any, ...]]) -> None:
    rig = Rig()
    await run(rig, actions)
    (stored,) = rig.node.stored.values() if rig.node.stored else ([],)
    assert stored == [payload for payload, _ in rig.futures]
    for payload, future in rig.futures:
        assert isinstance(future.exception(), InvalidArgument) is (payload == BAD)
    assert not rig.publisher.wanted()
    assert not rig.publisher.owed()
    assert rig.publisher.window.take(16 * 1024 * 1024)  # all room was given back


@settings(max_examples=200)
@given(ACTIONS, ACTIONS)
@example([("publish", False), ("publish", False), ("send",), ("deliver",), ("acknowledge", 1)], [])
async def test_a_node_with_a_new_store_gets_what_it_never_acknowledged(
    before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]
) -> None:
    rig = Rig()
    await act(rig, before)
    await rig.told()
    acknowledged = {payload for payload, future in rig.futures if future.done()}
    rig.forget()
    await run(rig, after)
    assert all(future.done() for _, future in rig.futures)
    for _, future in rig.futures:
        future.exception()
    now = [payload for name, stored in rig.node.stored.items() if not name.startswith("lost") for payload in stored]
    expected = [payload for payload, _ in rig.futures if payload not in acknowledged and payload != BAD]
    assert [payload for payload in now if payload != BAD] == expected
