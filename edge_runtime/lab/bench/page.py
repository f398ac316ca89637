"""The report as one HTML file: table, gaps between tokens, time by phase; no script, nothing from outside."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from edge_runtime.lab.bench.table import rows

_WIDTH, _HEIGHT = 860, 220
_MAX_POINTS = 800
COLOURS = {"trunk": "#4477aa", "experts": "#228833", "read_wait": "#cc6677", "other": "#bbbbbb"}
_MORE_COLOURS = ("#ccbb44", "#66ccee", "#aa3377")
_STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:900px;color:#222}table{border-collapse:collapse}"
    "td{padding:.25em .9em .25em 0;vertical-align:top;border-bottom:1px solid #ddd}td:first-child{font-weight:600}"
    "td:last-child{color:#666}pre{background:#f4f4f4;padding:1em;overflow:auto}"
)


def page(result: dict[str, Any], title: str) -> str:
    """Return the page of a result of `result_json`."""
    bench = result["bench"]
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows(result))
    gaps = [gap for request in bench["gap_ms_samples"] for gap in request]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<table>{body}</table><h2>Gaps between tokens, ms, all requests in order</h2>{gaps_svg(gaps)}"
        f"<h2>Time by phase</h2>{phases_svg(bench)}"
        "<p>All figures and raw samples: report.json.</p></body></html>"
    )


def thinned(values: Sequence[float], limit: int = _MAX_POINTS) -> list[float]:
    """Return at most `limit` values; of each stretch the largest, so that no outlier disappears."""
    if len(values) <= limit:
        return list(values)
    step = -(-len(values) // limit)
    return [max(values[start : start + step]) for start in range(0, len(values), step)]


def gaps_svg(gaps: Sequence[float]) -> str:
    """Draw the gaps as a line, with the scale's largest value written beside it."""
    points = thinned(gaps)
    top = max(points, default=0.0) or 1.0
    step = _WIDTH / max(len(points) - 1, 1)
    line = " ".join(
        f"{i * step:.1f},{_HEIGHT - 10 - value / top * (_HEIGHT - 30):.1f}" for i, value in enumerate(points)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="100%" role="img" aria-label="gaps between tokens">'
        f'<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT - 10}" y2="{_HEIGHT - 10}" stroke="#999"/>'
        f'<polyline points="{line}" fill="none" stroke="#4477aa" stroke-width="1"/>'
        f'<text x="4" y="16" font-size="12">{top:.1f} ms</text></svg>'
    )


def phases_svg(bench: dict[str, Any]) -> str:
    """Draw one stacked bar a stage, in percent of its time."""
    parts = []
    for row, stage in enumerate(("prefill", "decode")):
        left = 80.0
        parts.append(f'<text x="0" y="{row * 44 + 26}" font-size="13">{stage}</text>')
        for name, percent in bench[stage]["phase_percent"].items():
            width = percent / 100 * (_WIDTH - 80)
            label = f"{name.replace('_', ' ')} {percent:.0f} %"
            parts.append(
                f'<rect x="{left:.1f}" y="{row * 44 + 6}" width="{width:.1f}" height="30" fill="{colour_of(name)}">'
                f"<title>{html.escape(label)}</title></rect>"
            )
            if width > 7 * len(label):
                place = f'x="{left + 4:.1f}" y="{row * 44 + 26}"'
                parts.append(f'<text {place} font-size="12" fill="#fff">{html.escape(label)}</text>')
            left += width
    return f'<svg viewBox="0 0 {_WIDTH} 94" width="100%" role="img" aria-label="time by phase">{"".join(parts)}</svg>'


def colour_of(phase: str) -> str:
    """Return a phase's colour; those without one of their own share a few."""
    return COLOURS.get(phase) or _MORE_COLOURS[sum(phase.encode()) % len(_MORE_COLOURS)]
