"""The report as a PNG. The only module that knows matplotlib, an optional extra."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

from edge_runtime.base.extras import install_extra
from edge_runtime.lab.bench.page import colour_of, thinned


def missing() -> str | None:
    """Say what lacks for a PNG, and how to install it; None if nothing does."""
    if importlib.util.find_spec("matplotlib") is not None:
        return None
    return f"report.png is left out: it needs matplotlib. {install_extra('bench')}"


def png(result: dict[str, Any], title: str) -> bytes:
    """Draw the gaps between tokens and the time by phase; return the image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bench = result["bench"]
    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    gaps, bars = figure.subplots(2, 1, height_ratios=[2, 1])
    for request in bench["gap_ms_samples"]:
        gaps.plot(thinned(request), linewidth=0.8)
    gaps.set(title=title, xlabel="token", ylabel="gap between tokens, ms", ylim=(0, None))
    names: set[str] = set()
    for stage in ("decode", "prefill"):
        left = 0.0
        for name, percent in bench[stage]["phase_percent"].items():
            label = None if name in names else name.replace("_", " ")
            bars.barh(stage, percent, left=left, color=colour_of(name), label=label)
            names.add(name)
            left += percent
    bars.set(xlabel="percent of time", xlim=(0, 100))
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
