"""Plots over time for the PNG files, on axes of matplotlib: experts in memory, power, one token."""

from __future__ import annotations

from typing import Any

from edge_runtime.lab.bench.charts import colour_of
from edge_runtime.lab.bench.time_charts import (
    RAIL_COLOURS,
    TIER_COLOURS,
    lanes,
    residency_of,
    short_name,
    tier_name,
    token_parts,
)
from edge_runtime.lab.bench.timeline import RequestTrace


def draw_residency(axes: Any, bench: dict[str, Any]) -> None:
    """Draw experts in memory over time, stacked by tier."""
    times, by_tier = residency_of(bench)
    start = times[0] if times else 0.0
    if by_tier:
        colours = [TIER_COLOURS.get(tier, "#888") for tier in by_tier]
        axes.stackplot(
            [at - start for at in times], *by_tier.values(), labels=[tier_name(t) for t in by_tier], colors=colours
        )
        axes.legend(fontsize="small")
    axes.set(xlabel="time since the first request, s", ylabel="experts in memory", ylim=(0, None))


def draw_power(axes: Any, bench: dict[str, Any]) -> None:
    """Draw the power of each rail over time, requests shaded."""
    for request in bench["requests"]:
        axes.axvspan(request["start_ms"] / 1000, request["end_ms"] / 1000, color="#eee")
    for place, (rail, points) in enumerate(bench["power"]["samples"].items()):
        colour = RAIL_COLOURS[place % len(RAIL_COLOURS)]
        axes.plot(
            [at / 1000 for at, _ in points], [watts for _, watts in points], color=colour, label=rail, linewidth=1
        )
    axes.set(xlabel="time since the start, s", ylabel="W", ylim=(0, None))
    axes.legend(fontsize="small")


def draw_token(axes: Any, trace: RequestTrace | None) -> None:
    """Draw the last recorded token: the engine's phases, and reads of the drive below."""
    if trace is None:
        return
    length, spans, reads = token_parts(trace)
    names: set[str] = set()
    for name, start, end in spans:
        label = None if name in names else short_name(name)
        names.add(name)
        axes.broken_barh([(start, end - start)], (0, 0.8), facecolors=colour_of(name), label=label)
    rows = lanes(reads)
    for row, (start, end) in zip(rows, reads, strict=True):
        axes.broken_barh([(start, end - start)], (-1.2 - row, 0.8), facecolors=colour_of("read_wait"))
    lowest = -1.2 - max(rows, default=-1)
    axes.set(xlabel="time since the token before, ms", xlim=(0, length), ylim=(lowest - 0.2, 1.0))
    axes.set_yticks([0.4, -0.8], ["engine", "drive"])
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=6)
