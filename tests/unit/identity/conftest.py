import time
from pathlib import Path

import pytest

from hub.ca.authority import Authority, init_authority


class SettableClock:
    """A wall clock that tests move."""

    def __init__(self) -> None:
        self.now = time.time()

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def hub_state(tmp_path: Path, clock: SettableClock) -> Path:
    init_authority(tmp_path / "hub", "fleet.example", "main", clock)
    return tmp_path / "hub"


@pytest.fixture
def authority(hub_state: Path, clock: SettableClock) -> Authority:
    return Authority.load(hub_state, clock)
