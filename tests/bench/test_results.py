"""What the bench says of its samples."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from scripts.benchmarks.cases import required
from scripts.benchmarks.chart import chart
from scripts.benchmarks.results import LIMIT, Budget, Floor, Metric, show, table


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


def beside_rivals() -> Metric:
    budget = Budget(Floor(25), {LIMIT: Floor(0.5), "Slow & Co": Floor(20), "absent": Floor(2)})
    made = Metric("calls", "calls/s", budget=budget)
    for ours, bare, slow in ((10.0, 40.0, 1.0), (40.0, 50.0, 2.0), (30.0, 40.0, 3.0)):
        made.add(ours)
        made.against(LIMIT, bare)
        made.against("Slow & Co", slow)
    made.against("broken", 1.0)
    made.drop("broken", "it ended")
    made.drop("absent", "not to be had")
    return made


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    told = beside_rivals().as_dict()
    assert told["limit"] == {"median": 40.0, "samples": [40.0, 50.0, 40.0], "ratio": 0.75}
    assert told["peers"]["Slow & Co"]["ratio"] == 10.0
    assert told["peers"]["broken"] == {"not_run": "it ended"}
    assert metric(None, 1.0).as_dict()["limit"] is None


def test_each_budget_is_met_or_missed_or_not_measured() -> None:
    made = beside_rivals()
    met = {told["against"]: (told["measured"], told["met"]) for told in made.as_dict()["budgets"]}
    assert met == {None: (30.0, True), LIMIT: (0.75, True), "Slow & Co": (10.0, False), "absent": (None, None)}
    text = table([made])
    assert "not run: not to be had" in text
    assert [line.rsplit("  ", 1)[1] for line in text.rpartition("\n\n")[2].splitlines()[1:]] == [
        "met",
        "met",
        "missed by 50%",
        "not measured",
    ]


def test_the_chart_has_a_bar_for_everybody_who_ran() -> None:
    drawn = ElementTree.fromstring(chart([beside_rivals(), metric(None, 1.0)]))
    space = "{http://www.w3.org/2000/svg}"
    widths = [int(bar.attrib["width"]) for bar in drawn.iter(f"{space}rect") if "x" in bar.attrib]
    assert widths == [300, 400, 20]
    texts = [text.text for text in drawn.iter(f"{space}text")]
    assert texts == ["calls, calls/s", "edgenode", "30", LIMIT, "40", "Slow & Co", "2"]
