"""Charts over time as SVG: experts in memory by tier, power by rail, and where the time of one token went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_runtime.lab.bench.charts import PHASES, WIDTH, Frame, colour_of, svg, text
from edge_runtime.lab.bench.distribution import ticks
from edge_runtime.lab.bench.timeline import RequestTrace

TIER_COLOURS = {"2": "#f2b134", "4": "#5aa9a2", "6": "#3b82c4", "8": "#3d4fa1", "16": "#7a3e9d"}
RAIL_COLOURS = ("#4477aa", "#cc6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
_READ = "#cc6677"
MAX_LANES, MAX_POINTS = 8, 2000
_LANE, _HEAD, _LEFT = 16, 26, 64


def residency_of(bench: dict[str, Any]) -> tuple[list[float], dict[str, list[int]]]:
    """Return times in s and the experts resident at each tier then, deepest tier first."""
    points = thinned([point for request in bench["requests"] for point in request["residency"]])
    tiers = sorted({tier for _, by_tier in points for tier in by_tier}, key=int, reverse=True)
    return [at / 1000 for at, _ in points], {tier: [by_tier.get(tier, 0) for _, by_tier in points] for tier in tiers}


def thinned(points: Sequence[Any]) -> list[Any]:
    """Return at most `MAX_POINTS` of some points, evenly chosen: a chart has no room for more."""
    step = max(1, -(-len(points) // MAX_POINTS))
    return list(points[::step])


def residency_svg(bench: dict[str, Any]) -> str:
    """Draw experts in memory over time, stacked by tier."""
    times, by_tier = residency_of(bench)
    if not times:
        return ""
    start, top = times[0], max(map(sum, zip(*by_tier.values(), strict=True)), default=0)
    frame = Frame(max(times[-1] - start, 1e-3), top * 1.08, "time since the first request, s", "experts in memory")
    parts = frame.axes(ticks(times[-1] - start, 8), ticks(top))
    below = [0] * len(times)
    for place, (tier, counts) in enumerate(by_tier.items()):
        above = [low + count for low, count in zip(below, counts, strict=True)]
        edge = [*zip(times, above, strict=True), *reversed([*zip(times, below, strict=True)])]
        points = " ".join(f"{frame.x(at - start):.1f},{frame.y(count):.1f}" for at, count in edge)
        parts.append(f'<polygon points="{points}" fill="{TIER_COLOURS.get(tier, "#888")}"/>')
        parts.append(text(_LEFT + place * 110, 18, f"■ {tier_name(tier)}", colour=TIER_COLOURS.get(tier, "#888")))
        below = above
    return svg(parts, "experts in memory over time, by tier")


def tier_name(tier: str) -> str:
    """Return a tier as people call it."""
    return "bf16" if tier == "16" else f"{tier} bits"


def power_svg(power: dict[str, Any], requests: Sequence[dict[str, Any]]) -> str:
    """Draw the power of each rail over time, requests shaded; empty without a meter."""
    rails = {rail: thinned(points) for rail, points in power.get("samples", {}).items() if points}
    if not rails:
        return ""
    end = max(points[-1][0] for points in rails.values()) / 1000
    top = max(watts for points in rails.values() for _, watts in points)
    frame = Frame(end, top * 1.08, "time since the start, s", "W")
    parts = []
    for request in requests:
        left, right = frame.x(request["start_ms"] / 1000), frame.x(request["end_ms"] / 1000)
        low, high = frame.y(0), frame.y(top)
        size = f'width="{max(right - left, 0.5):.1f}" height="{low - high:.1f}"'
        parts.append(f'<rect x="{left:.1f}" y="{high:.1f}" {size} fill="#eee"/>')
    parts += frame.axes(ticks(end, 8), ticks(top))
    for place, (rail, points) in enumerate(rails.items()):
        colour = RAIL_COLOURS[place % len(RAIL_COLOURS)]
        line = " ".join(f"{frame.x(at / 1000):.1f},{frame.y(watts):.1f}" for at, watts in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(text(_LEFT + place * 160, 18, f"— {rail}", colour=colour))
    return svg(parts, "power over time, by rail")


def lanes(spans: Sequence[tuple[float, float]]) -> list[int]:
    """Return for each (start, end) a lane in which nothing before it is still there; the last lane takes the rest."""
    free = [float("-inf")] * MAX_LANES
    found = []
    for start, end in spans:
        lane = next((number for number, until in enumerate(free) if until <= start), MAX_LANES - 1)
        free[lane] = max(free[lane], end)
        found.append(lane)
    return found


def token_parts(trace: RequestTrace) -> tuple[float, list[tuple[str, float, float]], list[tuple[float, float]]]:
    """Return the last token's length in ms, its spans (phase, start, end) and the reads that touch it, in ms."""
    token = trace.last_token()
    if token is None:
        return 0.0, [], []
    begin, end = token

    def cut(start: int, stop: int) -> tuple[float, float]:
        return (max(start, begin) - begin) / 1e6, (min(stop, end) - begin) / 1e6

    spans = [(s.name, *cut(s.start_ns, s.end_ns)) for s in trace.spans if s.end_ns > begin and s.start_ns < end]
    reads = sorted((r.start_ns, r.start_ns + r.duration_ns) for r in trace.reads)
    return (end - begin) / 1e6, spans, [cut(*read) for read in reads if read[1] > begin and read[0] < end]


def token_svg(trace: RequestTrace) -> str:
    """Draw the last recorded token: the engine's phases in one lane, reads of the drive below it."""
    length, spans, reads = token_parts(trace)
    if not spans:
        return ""
    rows = lanes(reads)
    height = _HEAD + _LANE * (2 + max(rows, default=-1) + 1) + 74
    scale = (WIDTH - _LEFT - 16) / length
    parts = [text(0, _HEAD + 12, "engine"), text(0, _HEAD + _LANE + 18, "drive")]
    for name, start, end in spans:
        parts.append(_box(start * scale, end * scale, _HEAD, colour_of(name), f"{name} {1000 * (end - start):.0f} us"))
    for row, (start, end) in zip(rows, reads, strict=True):
        y = _HEAD + _LANE * (row + 1) + 6
        parts.append(_box(start * scale, end * scale, y, _READ, f"read {1000 * (end - start):.0f} us"))
    base = height - 60
    for at in ticks(length, 8):
        parts.append(text(_LEFT + at * scale, base, f"{at:.10g}", "middle"))
    parts.append(text((WIDTH + _LEFT) / 2, base + 18, "time since the token before, ms", "middle"))
    for place, name in enumerate(dict.fromkeys(name for name, *_ in spans)):
        parts.append(text(_LEFT + place * 115, base + 42, f"■ {short_name(name)}", colour=colour_of(name)))
    return svg(parts, "where the time of one token went", height)


def short_name(phase: str) -> str:
    """Return a phase's name without what it includes."""
    return PHASES.get(phase, phase.replace("_", " ")).partition(" (")[0]


def _box(left: float, right: float, y: float, colour: str, title: str) -> str:
    size = f'width="{max(right - left, 0.3):.2f}" height="{_LANE - 3}"'
    return f'<rect x="{_LEFT + left:.2f}" y="{y}" {size} fill="{colour}"><title>{title}</title></rect>'
