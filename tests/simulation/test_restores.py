"""Disks that come back older than what they had already sent, acknowledged or promised."""

from __future__ import annotations

import pytest

from edgenode.link.model.lanes import Lane
from tests.simulation.link.run import NAMES, Simulation


def _calm_simulation(seed: int) -> Simulation:
    simulation = Simulation(seed)
    simulation.edge.dial()
    _feed(simulation)
    return simulation


def _feed(simulation: Simulation) -> None:
    for number in range(20):
        for lane in Lane:
            simulation.edge.append(lane, 1 + number % 5, 10)
            simulation.hub.append(lane, 1 + number % 3, 10)
        simulation.edge.register(NAMES[number % len(NAMES)])
        simulation.world.run(simulation.world.now + 0.1)
    simulation.world.check(simulation.world.run(simulation.world.now + 30, simulation.drained), "calm traffic drains")


@pytest.mark.parametrize("seed", range(5))
def test_an_edge_restored_from_an_old_disk_starts_new_epochs_and_goes_on(seed: int) -> None:
    simulation = _calm_simulation(seed)
    backup = simulation.edge.disk.backup()
    _feed(simulation)
    simulation.weather.faithful = False  # the sessions may now end with EPOCH_RENEWED
    simulation.edge.crash()
    simulation.edge.disk.restore(backup)
    for lane, log in simulation.edge.disk.logs.items():
        # What the hub has of the old epoch stays; what is produced from now on counts anew.
        log.produced = [0] * (log.first - 1) + [entry for _, segment in log.segments for entry in _ids(segment.payload)]
        simulation.hub.disk.inbox[lane].applied = [None] * (log.first - 1)
    # The hub's own logs: the edge has forgotten what it had acknowledged, so a gap is stated, or kept entries come again.
    simulation.edge.restart()
    simulation.world.run(simulation.world.now + 20)
    simulation.fresh_traffic()
    assert all(log.epoch.endswith("+") for log in simulation.edge.disk.logs.values())
    assert simulation.world.endings["EPOCH_RENEWED"] == 2  # one session, told by both sides
    assert not any(log.epoch.endswith("+") for log in simulation.hub.disk.logs.values())


@pytest.mark.parametrize("seed", range(5))
def test_a_hub_restored_from_a_backup_is_refilled_and_gaps_are_stated(seed: int) -> None:
    simulation = _calm_simulation(seed)
    backup = simulation.hub.disk.backup()
    before = {lane: simulation.hub.disk.cursor(lane, log.epoch) for lane, log in simulation.edge.disk.logs.items()}
    _feed(simulation)
    simulation.weather.faithful = False
    simulation.hub.crash()
    simulation.hub.disk.restore(backup)
    for lane, log in simulation.hub.disk.logs.items():
        log.produced = [0] * (log.first - 1) + [entry for _, segment in log.segments for entry in _ids(segment.payload)]
        simulation.edge.disk.inbox[lane].applied = [None] * (log.first - 1)
    kept = {lane: log.first for lane, log in simulation.edge.disk.logs.items()}
    simulation.hub.restart()
    simulation.world.run(simulation.world.now + 20)
    simulation.fresh_traffic()
    assert all(log.epoch.endswith("+") for log in simulation.hub.disk.logs.values())
    for lane, inbox in simulation.hub.disk.inbox.items():
        missing = [position for position, entry in enumerate(inbox.applied, 1) if entry is None]
        assert missing == list(range(before[lane] + 1, kept[lane])), "exactly what the edge did not hold any more"


def _ids(payload: bytes) -> list[int]:
    return [int(part) for part in payload.split(b",")]
