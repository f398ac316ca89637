"""The plot of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.workload import RESIDENT

_GREYS = ("#bbbbbb", "#888888", "#dddddd")

Row = Mapping[str, Any]


def draw(found: Sequence[Row], path: Path) -> None:
    """Draw decode speed by regime for every machine and model, on a logarithmic axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = list(dict.fromkeys((row["machine"], row["model"]) for row in found))
    figure = Figure(figsize=(5.2 * min(len(places), 2), 4 * ((len(places) + 1) // 2)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots((len(places) + 1) // 2, min(len(places), 2), squeeze=False).ravel()
    for axis, (machine, model) in zip(axes, places, strict=False):
        here = [row for row in found if (row["machine"], row["model"]) == (machine, model)]
        peers = sorted({name for row in here for name in row["peers"]})
        bars = [(f"{name}, best mode", _GREYS[i % 3], [row["peers"].get(name) for row in here])
                for i, name in enumerate(peers)]  # fmt: skip
        bars += [("ours, lossless", "#4477aa", [row["lossless"] for row in here])]
        bars += [("ours, HOBBIT", "#cc6677", [row["hobbit"] for row in here])]
        _draw_bars(axis, bars)
        axis.set_xticks(range(len(here)), [regime(row) for row in here])
        axis.set(title=f"{model}, {machine}", ylabel="decode, tok/s", yscale="log")
        axis.set_xlabel("memory, share of the Q4_0 file")
        axis.legend(fontsize="small")
    for axis in axes[len(places) :]:
        axis.remove()
    figure.savefig(path)


def _draw_bars(axis: Any, bars: Sequence[tuple[str, str, list[Mapping[str, Any] | None]]]) -> None:
    """Draw each side's bars beside the others'."""
    width = 0.8 / len(bars)
    for number, (name, colour, sides) in enumerate(bars):
        known = [(i, side["decode"]) for i, side in enumerate(sides) if side and side["decode"]]
        if known:
            spread = [[b["tok_s"] - b["low"] for _, b in known], [b["high"] - b["tok_s"] for _, b in known]]
            places = [i + (number - (len(bars) - 1) / 2) * width for i, _ in known]
            heights = [b["tok_s"] for _, b in known]
            axis.bar(places, heights, 0.95 * width, yerr=spread, capsize=2, color=colour, label=name)


def regime(row: Row) -> str:
    """Return what the page calls the memory of a row."""
    return "all" if row["regime"] == RESIDENT else f"{row['regime']} %"
