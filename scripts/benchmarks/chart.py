"""A bar chart of rates as SVG: ours, the peers and the bare limit, one group a figure, each group to its own scale."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape

from scripts.benchmarks.results import LIMIT, Metric, show

_LABELS, _BARS, _VALUES = 260, 400, 110  # widths in pixels
_BAR, _TITLE, _GAP = 20, 26, 16  # heights
_COLOURS = {"edgenode": "#1f6feb", LIMIT: "#c9d1d9"}
_PEER = "#8b949e"


def chart(metrics: Sequence[Metric]) -> str:
    """The SVG. Only figures with somebody beside them are drawn."""
    parts: list[str] = []
    top = _GAP
    for metric in metrics:
        if metric.rivals:
            drawn, top = _group(metric, top)
            parts += drawn
    width = _LABELS + _BARS + _VALUES
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}"'
            ' font-family="sans-serif" font-size="13">',
            '<rect width="100%" height="100%" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _group(metric: Metric, top: int) -> tuple[list[str], int]:
    """The bars of a figure from `top` down, and where they end."""
    bars = {"edgenode": metric.median} | {name: statistics.median(values) for name, values in metric.rivals.items()}
    longest = max(bars.values())
    parts = [f'<text x="8" y="{top + 14}" font-weight="bold">{escape(metric.name)}, {escape(metric.unit)}</text>']
    top += _TITLE
    for name, value in bars.items():
        length = max(round(value / longest * _BARS), 1)
        middle = top + 14
        parts += [
            f'<text x="{_LABELS - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LABELS}" y="{top + 2}" width="{length}" height="{_BAR - 4}" fill="{_COLOURS.get(name, _PEER)}"/>',
            f'<text x="{_LABELS + length + 6}" y="{middle}">{show(value)}</text>',
        ]
        top += _BAR
    return parts, top + _GAP
