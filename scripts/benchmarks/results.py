"""What a measurement gave: samples over rounds, floors, and their forms for people and programs."""

from __future__ import annotations

import statistics
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


@dataclass(slots=True)
class Metric:
    """One figure, a sample for each round. `notes`: what else was seen, by name (CPU an item, work of others)."""

    name: str
    unit: str
    floor: Floor | None = None
    samples: list[float] = field(default_factory=list)
    notes: dict[str, list[float]] = field(default_factory=dict)

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
        }


def show(value: float) -> str:
    """Three digits that count, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(metrics: list[Metric]) -> str:
    """For people."""
    rows = [("what", "unit", "median", "min - max", "floor", "beside it")]
    for metric in metrics:
        notes = ", ".join(f"{name} {show(statistics.median(values))}" for name, values in metric.notes.items())
        spread = f"{show(min(metric.samples))} - {show(max(metric.samples))}" if len(metric.samples) > 1 else ""
        rows.append((metric.name, metric.unit, show(metric.median), spread, metric.verdict(), notes))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
