"""The simulation must notice when a core, or the store behind it, breaks a promise. Each mutant breaks one on purpose."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from edgenode.link.model.frames import Ack, Batch
from edgenode.link.model.lanes import Applied
from edgenode.link.protocol import greeting
from edgenode.link.protocol.exchange import Exchange
from edgenode.link.protocol.lanes import LaneReceiver, LaneSender, ahead
from edgenode.link.protocol.registry import RegistryLog
from tests.simulation.link.disk import Disk
from tests.simulation.link.run import Simulation
from tests.simulation.link.world import SimulationFailure


def _first_failure(seeds: Iterable[int] = range(40)) -> str:
    for seed in seeds:
        try:
            Simulation(seed).run()
        except SimulationFailure as failure:
            return str(failure)
    return "no seed failed"


def test_acknowledging_before_the_commit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Exchange._apply_next

    def hasty(self: Exchange, receiver: LaneReceiver) -> None:
        if receiver._queue:
            self._send(Ack(receiver.lane, receiver.epoch, receiver._queue[-1].end))
        honest(self, receiver)

    monkeypatch.setattr(Exchange, "_apply_next", hasty)
    assert "durable is" in _first_failure()


def test_applying_duplicates_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "discards_duplicates", False)
    assert "applied" in _first_failure()


def test_sending_without_credit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LaneSender, "_has_room", lambda self, size, count: True)
    assert "without credit" in _first_failure()


def test_overlooking_a_hole_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: LaneReceiver, batch: Batch) -> None:
        self._hold(batch)
        self._queue.append(batch)

    monkeypatch.setattr(LaneReceiver, "received", blind)
    assert "appli" in _first_failure()


def test_resuming_after_what_was_sent_instead_of_what_was_committed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = LaneSender.__init__

    def eager(self: LaneSender, *args: object) -> None:
        honest(self, *args)  # type: ignore[arg-type]
        self.next = self._expected = self.last + 1

    monkeypatch.setattr(LaneSender, "__init__", eager)
    assert "seed" in _first_failure()


def test_forgetting_tombstones_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = RegistryLog.remove

    def forgetful(self: RegistryLog, name: str, incarnation: int) -> object:
        tombstone = honest(self, name, incarnation)
        del self._entries[name]
        return tombstone

    # The digest would repair it in time; without it the registries must be found to differ.
    monkeypatch.setattr(RegistryLog, "remove", forgetful)
    monkeypatch.setattr("edgenode.link.protocol.registry_sync.RegistrySink.compared", lambda self, digest: None)
    assert "registry" in _first_failure()


def test_expecting_what_an_older_session_committed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = LaneReceiver.applied

    def forgetful(self: LaneReceiver, epoch: str, result: Applied) -> Ack:
        expected = self._expected
        ack = honest(self, epoch, result)
        self._expected = expected
        return ack

    monkeypatch.setattr(LaneReceiver, "applied", forgetful)
    assert "PROTOCOL_ERROR" in _first_failure([3010])


def test_renewing_a_log_for_what_an_older_session_sent_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "ahead", lambda heads, appended, cursors: ahead(heads, {}, cursors))
    assert "EPOCH_RENEWED" in _first_failure([33])
