"""A day without the hub, longer than the edges' certificates live: everything is delivered, nobody does anything by hand."""

from __future__ import annotations

from edgenode.link.model.task import OnLost
from edgenode.link.parent.identity import load_identity
from tests.simulation.fleet import LEAF_LIFE
from tests.simulation.world import World

HOUR = 3_600.0
DAY = 24 * HOUR
LEFT = 6 * HOUR  # of the certificates' lives when the day begins


class OfflineDay(World):
    """In the place of storm and faults: a day on which no edge reaches the hub, with work all day long."""

    reconnect_max = 300.0

    def __init__(self) -> None:
        super().__init__(12, only=[])
        for machine in self.machines:
            machine.clock.offset = LEAF_LIFE - LEFT
        for edge in self.edges:
            edge.road.up = False

    def _run(self) -> None:
        self.loop.soon(self._begin)
        self._until(10.0)
        while self.loop.now < DAY:
            self.loop.soon(self._some_work)
            self._until(self.loop.now + 1800.0)
        self._expired()
        for edge in self.edges:
            edge.road.up = True
        if not self._until(self.loop.now + 1200.0, self._at_rest):
            self._raise(f"does not come to rest: {self.oracle.unsettled()}")
        self._fresh_traffic()
        self.oracle.verdict()
        self._bounded()
        self._renewed()

    def _some_work(self) -> None:
        for publisher in self.publishers:
            publisher.publish(3, 100)
        for submitter in self.submitters:
            submitter.submit(self._spec(OnLost.RETRY))

    def _expired(self) -> None:
        for edge in self.edges:
            identity = load_identity(edge.directory)
            assert identity is not None
            self.check(identity.generation == 1, f"{edge.name} renewed without a hub")
            self.check(identity.expire_time < edge.clock.wall() - HOUR, f"{edge.name}'s certificate has not expired")
            assert edge.node is not None
            self.check(edge.node.rooms.messages.last > 50, f"{edge.name} took nothing while it was offline")

    def _renewed(self) -> None:
        for edge in self.edges:
            identity = load_identity(edge.directory)
            assert identity is not None
            self.check(identity.generation == 2, f"{edge.name} did not renew its certificate")
            self.check(identity.expire_time > edge.clock.wall() + DAY, f"{edge.name} has an old certificate")


def test_a_day_offline_outlives_the_certificate_and_delivers_everything() -> None:
    report = OfflineDay().run()
    assert report.seconds > DAY
    assert report.entries > 100
