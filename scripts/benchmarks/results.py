"""What a measurement gave: samples over rounds, floors, budgets, and their forms for people and programs.

A rival is what is measured beside us in the same rounds: the bare limit and the peers. Ours / theirs is the median of the
rounds' own ratios: what slows the machine slows both sides of a round, so it cancels.
"""

from __future__ import annotations

import operator
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Floor:
    """What this version must hold. `least`: the value may not be smaller; else it may not be larger."""

    value: float
    least: bool = True

    def holds(self, measured: float) -> bool:
        """Whether a measured value keeps to it."""
        return measured >= self.value if self.least else measured <= self.value

    def verdict(self, measured: float | None) -> str:
        """In words; a miss with how far it is from the value, as a share of that."""
        if measured is None:
            return "not measured"
        return "met" if self.holds(measured) else f"missed by {abs(measured / self.value - 1):.0%}"


LIMIT = "bare limit"


@dataclass(frozen=True, slots=True)
class Budget:
    """What the design asks for. `ours`: of the median; `ratios`: of ours / a rival's, by the rival's name."""

    ours: Floor | None = None
    ratios: Mapping[str, Floor] = field(default_factory=dict)


@dataclass(slots=True)
class Metric:
    """One figure, a sample for each round. `notes`: what else was seen, by name (CPU an item, work of others).

    `rivals` has their samples by name, one for each of ours; `not_run` the reason a rival has none.
    """

    name: str
    unit: str
    floor: Floor | None = None
    budget: Budget = field(default_factory=Budget)
    samples: list[float] = field(default_factory=list)
    notes: dict[str, list[float]] = field(default_factory=dict)
    rivals: dict[str, list[float]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)

    def add(self, sample: float, **notes: float) -> None:
        """The figure of one round."""
        self.samples.append(sample)
        for name, value in notes.items():
            self.notes.setdefault(name, []).append(value)

    @property
    def median(self) -> float:
        """Of the samples."""
        return statistics.median(self.samples)

    @property
    def met(self) -> bool | None:
        """Whether the median holds the floor; None without a floor."""
        return None if self.floor is None else self.floor.holds(self.median)

    def against(self, rival: str, sample: float) -> None:
        """A rival's figure of one round."""
        self.rivals.setdefault(rival, []).append(sample)

    def drop(self, rival: str, reason: str) -> None:
        """A rival failed: without all its rounds it has no figure."""
        self.rivals.pop(rival, None)
        self.not_run[rival] = reason

    def ratio(self, rival: str) -> float | None:
        """Ours / theirs; None where they did not run."""
        theirs = self.rivals.get(rival)
        return statistics.median(map(operator.truediv, self.samples, theirs)) if theirs else None

    def budgets(self) -> list[dict[str, Any]]:
        """Each budget: against whom (None: itself), what is asked and measured, met or not (None: not measured), in words."""
        asked: list[tuple[str | None, Floor, float | None]] = []
        if self.budget.ours is not None:
            asked.append((None, self.budget.ours, self.median))
        asked += [(rival, floor, self.ratio(rival)) for rival, floor in self.budget.ratios.items()]
        return [
            {
                "against": rival,
                "budget": floor.value,
                "least": floor.least,
                "measured": measured,
                "met": None if measured is None else floor.holds(measured),
                "verdict": floor.verdict(measured),
            }
            for rival, floor, measured in asked
        ]

    def verdict(self) -> str:
        """The floor in words."""
        if self.floor is None:
            return ""
        text = f"{'>=' if self.floor.least else '<='} {show(self.floor.value)}"
        if self.met:
            return f"{text} met"
        best = max(self.samples) if self.floor.least else min(self.samples)
        return f"{text} MISSED{' (the best round holds it)' if self.floor.holds(best) else ''}"

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.samples),
            "max": max(self.samples),
            "samples": self.samples,
            "notes": {name: statistics.median(values) for name, values in self.notes.items()},
            "floor": None if self.floor is None else self.floor.value,
            "met": self.met,
            "limit": self._rival(LIMIT),
            "peers": {name: self._rival(name) for name in (*self.rivals, *self.not_run) if name != LIMIT},
            "budgets": self.budgets(),
        }

    def _rival(self, name: str) -> dict[str, Any] | None:
        if name in self.not_run:
            return {"not_run": self.not_run[name]}
        samples = self.rivals.get(name)
        if not samples:
            return None
        return {"median": statistics.median(samples), "samples": samples, "ratio": self.ratio(name)}


def show(value: float) -> str:
    """Three digits that count, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(metrics: list[Metric]) -> str:
    """For people: our figures, then those of the rivals and the budgets."""
    return "\n\n".join(part for part in (_ours(metrics), _rivals(metrics), _budgets(metrics)) if part)


def _ours(metrics: list[Metric]) -> str:
    rows = [("what", "unit", "median", "min - max", "floor", "beside it")]
    for metric in metrics:
        notes = ", ".join(f"{name} {show(statistics.median(values))}" for name, values in metric.notes.items())
        spread = f"{show(min(metric.samples))} - {show(max(metric.samples))}" if len(metric.samples) > 1 else ""
        rows.append((metric.name, metric.unit, show(metric.median), spread, metric.verdict(), notes))
    return _columns(rows)


def _rivals(metrics: list[Metric]) -> str:
    rows = [("beside", "what", "unit", "theirs", "ours", "ours / theirs")]
    for metric in metrics:
        rows += [
            (
                name,
                metric.name,
                metric.unit,
                show(statistics.median(theirs)),
                show(metric.median),
                _show(metric.ratio(name)),
            )
            for name, theirs in metric.rivals.items()
        ]
        rows += [
            (name, metric.name, metric.unit, f"not run: {reason}", "", "") for name, reason in metric.not_run.items()
        ]
    return _columns(rows) if len(rows) > 1 else ""


def _budgets(metrics: list[Metric]) -> str:
    rows = [("budget", "of", "asked", "measured", "")]
    for metric in metrics:
        for told in metric.budgets():
            asked = f"{'>=' if told['least'] else '<='} {show(told['budget'])}"
            of = metric.unit if told["against"] is None else f"ours / {told['against']}"
            rows.append((metric.name, of, asked, _show(told["measured"]), told["verdict"]))
    return _columns(rows) if len(rows) > 1 else ""


def _show(value: float | None) -> str:
    return "" if value is None else show(value)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
