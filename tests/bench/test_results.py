"""What the bench says of its samples."""

from __future__ import annotations

import pytest

from scripts.benchmarks.cases import required
from scripts.benchmarks.results import Floor, Metric, show, table


def metric(floor: Floor | None, *samples: float) -> Metric:
    made = Metric("calls", "calls/s", floor)
    for sample in samples:
        made.add(sample, cpu=sample / 10)
    return made


@pytest.mark.parametrize(
    ("floor", "samples", "met", "verdict"),
    [
        (Floor(100), (90, 100, 110), True, ">= 100 met"),
        (Floor(100), (90, 99, 110), False, ">= 100 MISSED (the best round holds it)"),
        (Floor(100), (90, 99, 99.9), False, ">= 100 MISSED"),
        (Floor(70, least=False), (60, 70, 80), True, "<= 70 met"),
        (Floor(70, least=False), (60, 71, 80), False, "<= 70 MISSED (the best round holds it)"),
        (None, (1,), None, ""),
    ],
)
def test_the_median_is_held_against_the_floor(
    floor: Floor | None, samples: tuple[float, ...], met: bool | None, verdict: str
) -> None:
    made = metric(floor, *samples)
    assert made.met is met
    assert made.verdict() == verdict
    assert made.as_dict()["met"] is met


def test_every_sample_is_told() -> None:
    made = metric(Floor(5), 30.0, 10.0, 20.0)
    told = made.as_dict()
    assert (told["median"], told["min"], told["max"], told["samples"]) == (20.0, 10.0, 30.0, [30.0, 10.0, 20.0])
    assert told["notes"] == {"cpu": 2.0}
    assert table([made]).splitlines()[1].split() == [
        "calls",
        "calls/s",
        "20",
        "10",
        "-",
        "30",
        ">=",
        "5",
        "met",
        "cpu",
        "2",
    ]


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.0123"), (12.345, "12.3"), (12345.6, "12,346")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert show(value) == text


def test_an_edge_needs_its_core_and_no_extras() -> None:
    names = required("edgenode")
    assert {"grpcio", "aiosqlite", "cffi"} <= names
    assert not names & {"edgenode", "psutil", "pytest"}
