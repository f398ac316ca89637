"""Charts of a report as SVG, each with axes, units and a legend. No script, nothing from outside."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from edge_runtime.lab.bench.distribution import Histogram, Spread, ticks

WIDTH, HEIGHT = 860, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 46
_FONT, _INK, _GRID = 12, "#444", "#ddd"
BAR, SLOW, MARKS = "#4477aa", "#cc6677", {"p50": "#228833", "p90": "#aa7700", "p99": "#aa3377"}
COLOURS = {
    "trunk": "#4477aa", "experts": "#228833", "read_wait": "#cc6677", "other": "#bbbbbb", "routing": "#66ccee",
    "policy": "#aa3377", "cache": "#ccbb44", "sampling": "#ee8866",
}  # fmt: skip
_MORE_COLOURS = ("#ccbb44", "#66ccee", "#aa3377")
PHASES = {
    "trunk": "trunk", "experts": "experts", "read_wait": "waiting for reads", "routing": "routing",
    "policy": "policy", "cache": "cache (lookups, starting reads)", "sampling": "sampling",
    "other": "other (bookkeeping)",
}  # fmt: skip
"""Phases as the legend names them."""


class Frame:
    """Axes of a chart, and where values lie on it.

    Args:
        right, top: largest values.
        x_title, y_title: what the axes are, with units.
    """

    def __init__(self, right: float, top: float, x_title: str, y_title: str) -> None:
        self._right, self._top = right or 1.0, top or 1.0
        self._titles = x_title, y_title

    def x(self, value: float) -> float:
        """Where a value of the horizontal axis lies."""
        return _LEFT + value / self._right * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Where a value of the vertical axis lies."""
        return HEIGHT - _BOTTOM - value / self._top * (HEIGHT - _TOP - _BOTTOM)

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[str]:
        """Draw grid, ticks and titles."""
        parts = []
        for value in y_ticks:
            y = self.y(value)
            parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>')
            parts.append(text(_LEFT - 6, y + 4, number(value), "end"))
        for value in x_ticks:
            parts.append(text(self.x(value), HEIGHT - _BOTTOM + 16, number(value), "middle"))
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{self.y(0)}" y2="{self.y(0)}" stroke="{_INK}"/>')
        middle = (HEIGHT - _BOTTOM + _TOP) / 2
        parts.append(text((WIDTH + _LEFT) / 2, HEIGHT - 8, self._titles[0], "middle"))
        rotation = f' transform="rotate(-90 14 {middle:.0f})"'
        return [*parts, text(14, middle, self._titles[1], "middle", rotation)]


def text(x: float, y: float, words: str, anchor: str = "start", more: str = "", colour: str = _INK) -> str:
    """A label."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{_FONT}"'
    return f"<text {place}{more}>{html.escape(words)}</text>"


def number(value: float) -> str:
    """A number on an axis."""
    return f"{value:.10g}"


def svg(parts: Sequence[str], label: str, height: int = HEIGHT) -> str:
    """Join what was drawn."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="100%" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def histogram_svg(found: Histogram, marks: dict[str, float | None]) -> str:
    """Draw gaps by size, with percentiles marked; what is beyond the axis is one bar at its end.

    Args:
        found: what is drawn.
        marks: values in ms by name, such as 'p50'.
    """
    bins = len(found.percents)
    right = found.width_ms * (bins + (2 if found.beyond_percent else 0))
    top = max(*found.percents, found.beyond_percent)
    frame = Frame(right, top * 1.08, "gap between two tokens, ms", "share of gaps, %")
    parts = frame.axes([t for t in ticks(found.end_ms, 8) if t <= found.end_ms], ticks(top))
    for place, percent in enumerate(found.percents):
        parts.append(_bar(frame, place * found.width_ms, found.width_ms, percent, BAR))
    if found.beyond_percent:
        parts.append(_bar(frame, (bins + 1) * found.width_ms, found.width_ms, found.beyond_percent, SLOW))
    for row, (name, value) in enumerate((n, v) for n, v in marks.items() if v is not None and v <= found.end_ms):
        x, colour = frame.x(value), MARKS[name]
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" stroke="{colour}"/>')
        parts.append(text(_LEFT + row * 130, 18, f"— {name} {value:.1f} ms", colour=colour))
    slower = f"{found.beyond_percent:.1f} % slower, up to {found.largest_ms:.1f} ms"
    slowest = slower if found.beyond_percent else f"the largest is {found.largest_ms:.1f} ms"
    colour = SLOW if found.beyond_percent else _INK
    parts.append(text(WIDTH - _RIGHT, 18, slowest, "end", colour=colour))
    return svg(parts, "distribution of the gaps between tokens")


def _bar(frame: Frame, left: float, width: float, percent: float, colour: str) -> str:
    x, y = frame.x(left), frame.y(percent)
    size = f'width="{max(frame.x(left + width) - x - 1, 0.5):.1f}" height="{HEIGHT - _BOTTOM - y:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}"/>'


def spreads_svg(requests: Sequence[Spread]) -> str:
    """Draw what most gaps of each request were: its median, and p10 to p90."""
    top = max((request.p90 for request in requests), default=0.0)
    frame = Frame(len(requests) + 1, top * 1.08, "request, in order", "gap, ms")
    numbers = [t for t in ticks(len(requests), 10) if t == int(t) and 1 <= t <= len(requests)]
    parts = frame.axes(numbers, ticks(top))
    for place, request in enumerate(requests, 1):
        x = frame.x(place)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{frame.y(request.p10):.1f}" y2="{frame.y(request.p90):.1f}" '
            f'stroke="{BAR}" stroke-width="{max(1.0, min(12.0, 400 / (len(requests) + 1))):.1f}"/>'
        )
        parts.append(f'<circle cx="{x:.1f}" cy="{frame.y(request.median):.1f}" r="2.5" fill="{MARKS["p99"]}"/>')
    parts.append(text(_LEFT, 18, "● median", colour=MARKS["p99"]))
    parts.append(text(_LEFT + 90, 18, "▌ p10 to p90", colour=BAR))
    return svg(parts, "gaps of each request")


def phases_svg(bench: dict[str, Any]) -> str:
    """Draw one stacked bar a stage, in percent of its time, with a legend."""
    parts, names, left_edge = [], [], 80.0
    for row, stage in enumerate(("prefill", "decode")):
        left = left_edge
        parts.append(text(0, row * 40 + 22, stage))
        for name, percent in bench[stage]["phase_percent"].items():
            names += [name] if name not in names else []
            width = percent / 100 * (WIDTH - left_edge - _RIGHT)
            label = f"{percent:.0f} %"
            parts.append(
                f'<rect x="{left:.1f}" y="{row * 40 + 4}" width="{width:.1f}" height="28" fill="{colour_of(name)}">'
                f"<title>{html.escape(PHASES.get(name, name))} {label}</title></rect>"
            )
            if width > 40:
                parts.append(text(left + 4, row * 40 + 22, label, colour="#fff"))
            left += width
    for percent in (0, 25, 50, 75, 100):
        x = left_edge + percent / 100 * (WIDTH - left_edge - _RIGHT)
        parts.append(
            text(x, 94, f"{percent} %" if percent < 100 else "100 % of time", "end" if percent == 100 else "middle")
        )
    for place, name in enumerate(names):
        x, y = left_edge + place % 4 * 190, 106 + place // 4 * 20
        parts.append(f'<rect x="{x:.1f}" y="{y}" width="11" height="11" fill="{colour_of(name)}"/>')
        parts.append(text(x + 16, y + 10, PHASES.get(name, name.replace("_", " "))))
    return svg(parts, "time by phase", 124 + (len(names) - 1) // 4 * 20)


def colour_of(phase: str) -> str:
    """Return a phase's colour; those without one of their own share a few."""
    return COLOURS.get(phase) or _MORE_COLOURS[sum(phase.encode()) % len(_MORE_COLOURS)]
