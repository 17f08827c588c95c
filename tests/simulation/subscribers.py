"""Subscribers: programs that read what is published on their device under a durable subscription, and what they must get.

A subscriber takes messages as its credits allow, works on each for a moment, and acknowledges now and then what it is done
with. What it has received and not worked on is lost when its stream or the program itself ends, as it is in life, and must
come again. A message has a name for ever (node, epoch and position of its origin), by which one that comes again is known.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import grpc

from edgenode.api.message.v1 import message_pb2
from edgenode.api.message.v1 import message_service_pb2 as messages
from edgenode.link.store import logs
from edgenode.node.message_log import LOG_NAME
from edgenode.node.subscriptions import CONSUMER_PREFIX
from tests.simulation.clients import Program
from tests.simulation.machines import Edge
from tests.simulation.rpc import Rpc

if TYPE_CHECKING:
    from tests.simulation.oracle import Produced
    from tests.simulation.world import World

CREDITS = (1, 5, 50)
Name = tuple[str, str, int]


def has_subscribers(seed: int) -> bool:
    """Whether there are any in the world of a seed."""
    return seed % 7 in (5, 6)


class Subscriber(Program):
    """Reads all topics of its device, or one of them."""

    def __init__(self, world: World, edge: Edge, name: str) -> None:
        self._seen: dict[tuple[str, int], Name] = {}  # (producer, number) -> its name
        self._waiting: deque[message_pb2.ReceivedMessage] = deque()
        self._arrived = asyncio.Event()
        self._credits = 0  # messages that may still come on this stream
        self._position = 0  # of the last one that came on it
        self._numbers: dict[str, int] = {}  # producer -> last number that came on it
        self._before: dict[str, int] = {}  # producer -> last number acknowledged before there was a subscription
        rng = world.random(f"{name} topic")
        self._topic = rng.choice((None, 0, 1, 2))
        self._pattern = f"load.{edge.name}.{'*' if self._topic is None else self._topic}"
        self._window = rng.choice(CREDITS)
        super().__init__(world, edge, name)

    async def connect(self) -> Rpc | None:
        """See Program."""
        self._waiting.clear()
        self._numbers.clear()
        self._position = 0
        self._credits = self._window
        rpc = self.edge.call(lambda s: s.messages.Subscribe, messages.SubscribeRequest, messages.SubscribeResponse)
        if rpc is not None and not self._kept():
            self._before = {produced.producer: produced.acked for produced in self._of_its_node()}
        return rpc

    async def speak(self, rpc: Rpc) -> None:
        """See Program."""
        start = messages.SubscribeStart(
            topics=[self._pattern], subscription=self.name, position=messages.START_POSITION_START
        )
        await rpc.write(messages.SubscribeRequest(start=start, credit_count=self._window))
        done = 0  # since the last acknowledgement
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            received = self._waiting.popleft()
            await asyncio.sleep(self.rng.choice((0.0, 0.0, 0.01, 0.3)))
            self._work_on(received)
            done += 1
            if not self._waiting or self.rng.random() < 0.2:
                self._credits += done
                await rpc.write(messages.SubscribeRequest(ack_sequence=received.sequence, credit_count=done))
                done = 0

    async def listen(self, rpc: Rpc) -> None:
        """See Program."""
        while (response := await rpc.read()) is not grpc.aio.EOF:
            if response.HasField("gap"):
                self._check(not self._held or self.world.damages.in_segments, f"was told of a gap: {response.gap}")
            for received in response.messages:
                self._check(received.sequence > self._position, f"got {received.sequence} after {self._position}")
                self._position = received.sequence
                self._credits -= 1
                self._waiting.append(received)
            self._check(self._credits >= 0, f"got {-self._credits} messages more than it had credits for")
            self._arrived.set()

    def _kept(self) -> bool:
        """Whether its node knows of the subscription. Until then nothing is kept for it: its start is what is left by then."""
        sql = self.edge.disk.sql
        return sql is not None and CONSUMER_PREFIX + self.name in logs.consumers(
            sql, logs.log_state(sql, LOG_NAME).log_id
        )

    def _of_its_node(self) -> list[Produced]:
        return [produced for produced in self.world.oracle.producers.values() if produced.edge == self.edge.name]

    @property
    def _held(self) -> bool:
        """Whether its node has to keep all that it acknowledged to anybody."""
        return self.edge.name not in self.world.oracle.excused_edges

    def _work_on(self, received: message_pb2.ReceivedMessage) -> None:
        producer, number, _ = received.message.payload.decode().split("/", 2)
        name = (received.origin_node, received.origin_epoch, received.origin_sequence)
        before = self._seen.setdefault((producer, int(number)), name)
        self._check(received.message.topic == f"load.{self.edge.name}.{int(number) % 3}", "got another topic's message")
        self._check(before == name or not self._held, f"knows message {number} of {producer} as {before}, not {name}")
        last = self._numbers.get(producer, 0)
        self._check(int(number) > last or not self._held, f"got {number} of {producer} after {last}")
        self._numbers[producer] = int(number)

    def _check(self, holds: bool, broken: str) -> None:
        self.world.check(holds, f"{self.name} {broken}")

    def crash(self) -> None:
        """What it received and has not worked on is lost; another one begins, under the same subscription."""
        self.world.note(self.name, "crashes")
        self._waiting.clear()
        if self.rpc is not None:
            self.rpc.break_off()

    def lacks(self) -> str:
        """What was acknowledged to its publisher and never came; empty if nothing."""
        if not self._held:
            return ""
        for produced in self._of_its_node():
            if missing := self._missing(produced):
                return f"{self.name} never got {missing[:20]} of {produced.producer}"
        return ""

    def _missing(self, produced: Produced) -> list[int]:
        return [
            number
            for number in range(self._before.get(produced.producer, 0) + 1, produced.acked + 1)
            if self._topic in (None, number % 3)
            and number not in produced.refused
            and not self.world.damages.may_lack(produced, number)
            and (produced.producer, number) not in self._seen
        ]
