"""The report as a PNG. The only module that knows matplotlib, an optional extra."""

from __future__ import annotations

import importlib.util
import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edge_runtime.base.extras import install_extra
from edge_runtime.lab.bench.charts import BAR, MARKS, PHASES, SLOW, colour_of
from edge_runtime.lab.bench.distribution import Spread, histogram, spreads
from edge_runtime.lab.bench.folder import PNG_NAME
from edge_runtime.lab.bench.page import subtitle_of, title_of
from edge_runtime.lab.bench.time_plots import draw_power, draw_residency, draw_token
from edge_runtime.lab.bench.timeline import RequestTrace


def pngs(result: dict[str, Any], trace: RequestTrace | None) -> Iterator[tuple[str, bytes]]:
    """Yield every plot there is something to draw for: its file's name and the image."""
    yield PNG_NAME, png(result)
    bench = result["bench"]
    for name, is_there, draw in (
        ("timeline.png", trace is not None and trace.last_token() is not None, lambda axes: draw_token(axes, trace)),
        ("residency.png", True, lambda axes: draw_residency(axes, bench)),
        ("power.png", bench["power"]["meter"] is not None, lambda axes: draw_power(axes, bench)),
    ):
        if is_there:
            yield name, _one(result, draw)


def _one(result: dict[str, Any], draw: Callable[[Any], None]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(_wrapped(f"{title_of(result)}\n{subtitle_of(result)}"), fontsize="x-small", loc="left")
    draw(axes)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def missing() -> str | None:
    """Say what lacks for a PNG, and how to install it; None if nothing does."""
    if importlib.util.find_spec("matplotlib") is not None:
        return None
    return f"The PNG plots are left out: they need matplotlib. {install_extra('bench')}"


def png(result: dict[str, Any]) -> bytes:
    """Draw the gaps between tokens, those of each request, and the time by phase; return the image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bench = result["bench"]
    figure = Figure(figsize=(9, 9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    gaps, each, bars = figure.subplots(3, 1, height_ratios=[2, 2, 1.2])
    figure.suptitle(title_of(result), fontsize="medium")
    gaps.set_title(_wrapped(f"{subtitle_of(result)}\n{bench['command']}"), fontsize="x-small", loc="left")
    _draw_gaps(gaps, bench)
    _draw_requests(each, spreads(bench["gap_ms_samples"]))
    _draw_phases(bars, bench)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _draw_gaps(axes: Any, bench: dict[str, Any]) -> None:
    found = histogram([gap for request in bench["gap_ms_samples"] for gap in request])
    lefts = [place * found.width_ms for place in range(len(found.percents))]
    axes.bar(lefts, found.percents, found.width_ms, align="edge", color=BAR)
    if found.beyond_percent:
        label = f"{found.beyond_percent:.1f} % slower, up to {found.largest_ms:.1f} ms"
        axes.bar(
            [found.end_ms + found.width_ms],
            [found.beyond_percent],
            found.width_ms,
            align="edge",
            color=SLOW,
            label=label,
        )
    for name, colour in MARKS.items():
        value = bench["stats"]["itl_ms"][name]
        if value is not None and value <= found.end_ms:
            axes.axvline(value, color=colour, label=f"{name} {value:.1f} ms")
    axes.set(xlabel="gap between two tokens, ms", ylabel="share of gaps, %", xlim=(0, None))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _draw_requests(axes: Any, requests: Sequence[Spread]) -> None:
    numbers = list(range(1, len(requests) + 1))
    axes.vlines(
        numbers, [r.p10 for r in requests], [r.p90 for r in requests], color=BAR, linewidth=4, label="p10 to p90"
    )
    axes.plot(numbers, [r.median for r in requests], ".", color=MARKS["p99"], label="median")
    axes.set(xlabel="request, in order", ylabel="gap, ms", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize="small")


def _draw_phases(axes: Any, bench: dict[str, Any]) -> None:
    names: set[str] = set()
    for stage in ("decode", "prefill"):
        left = 0.0
        for name, percent in bench[stage]["phase_percent"].items():
            label = None if name in names else PHASES.get(name, name.replace("_", " "))
            axes.barh(stage, percent, left=left, color=colour_of(name), label=label)
            names.add(name)
            left += percent
    axes.set(xlabel="percent of time", xlim=(0, 100))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=4, fontsize="small")


def _wrapped(text: str) -> str:
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, 130) or [""])
