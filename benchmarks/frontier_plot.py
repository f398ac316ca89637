"""Draws what frontier.py measured, and says how each policy compares at a given KL divergence."""

from __future__ import annotations

import base64
import html
import math
from pathlib import Path
from typing import Any

Point = dict[str, Any]
OURS = "rate-distortion"
TARGETS = (0.01, 0.03)


def family(point: Point) -> str:
    """The name points are grouped by: the policy's; lossless at a lower tier stands alone."""
    name = point["policy"].partition(":")[0]
    return f"{name}, {point['tier']} bits" if name == "lossless" else name


def pareto(points: list[Point], key: str = "bytes_per_token") -> list[Point]:
    """Points no other one beats in both KL divergence and bytes, by rising KL divergence."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p["kld_mean"], p[key])):
        if not best or point[key] < best[-1][key]:
            best.append(point)
    return best


def bytes_at(points: list[Point], kld: float) -> float | None:
    """Bytes a token on the frontier of `points` at a KL divergence, interpolated between neighbours (log of bytes)."""
    front = pareto(points)
    below = [p for p in front if p["kld_mean"] <= kld]
    above = [p for p in front if p["kld_mean"] > kld]
    if not below:
        return None
    left = below[-1]
    if not above or not above[0]["bytes_per_token"]:
        return float(left["bytes_per_token"])
    right = above[0]
    share = (kld - left["kld_mean"]) / (right["kld_mean"] - left["kld_mean"])
    low, high = math.log(left["bytes_per_token"]), math.log(right["bytes_per_token"])
    return math.exp(low + share * (high - low))


def summary(points: list[Point]) -> list[dict[str, Any]]:
    """For each cache size and target: bytes of every family, and ours as a share of the best other."""
    rows = []
    for cache in sorted({p["cache"] for p in points}):
        here = [p for p in points if p["cache"] == cache]
        for kld in TARGETS:
            found = {
                name: bytes_at([p for p in here if family(p) == name], kld)
                for name in sorted({family(p) for p in here})
            }
            others = {name: value for name, value in found.items() if name != OURS and value is not None}
            ours = found.get(OURS)
            best = min(others, key=lambda name: others[name], default=None)
            rows.append(
                {
                    "cache": cache,
                    "kld": kld,
                    "bytes_per_token": {n: None if v is None else round(v, 1) for n, v in found.items()},
                    "best_other": best,
                    "share_of_best_other": round(ours / others[best], 4) if ours is not None and best else None,
                }
            )
    return rows


def write_png(found: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    points = found["points"]
    caches, names = sorted({p["cache"] for p in points}), sorted({family(p) for p in points})
    colours = {name: plt.get_cmap("tab20")(i) for i, name in enumerate(names)} | {OURS: "black"}
    figure, axes = plt.subplots(2, len(caches), figsize=(5.4 * len(caches), 9), squeeze=False)
    for column, cache in enumerate(caches):
        for row, (key, label) in enumerate((("bytes_per_token", "KiB read a token"), ("tok_s", "tok/s, this machine"))):
            axis, scale = axes[row][column], 1024 if row == 0 else 1
            for name in names:
                mine = [p for p in points if p["cache"] == cache and family(p) == name]
                style = {"color": colours[name], "s": 34 if name == OURS else 20, "zorder": 3 if name == OURS else 2}
                axis.scatter([_shown(p) for p in mine], [p[key] / scale for p in mine], label=name, **style)
                if row == 0:
                    front = pareto(mine)
                    axis.plot([_shown(p) for p in front], [p[key] / scale for p in front], color=colours[name], lw=1)
            axis.set_xscale("log")
            axis.set_yscale("log" if row == 0 else "linear")
            axis.set_xlabel("KL divergence from lossless, nats a token (1e-5: none)")
            axis.set_ylabel(label)
            axis.set_title(f"cache {100 * cache:.0f} % of the experts at {found['setting']['tier']} bits")
            axis.grid(alpha=0.3)
            for kld in TARGETS:
                axis.axvline(kld, color="grey", lw=0.6, ls=":")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def _shown(point: Point) -> float:
    return max(point["kld_mean"], 1e-5)


def write_html(found: dict[str, Any], path: Path) -> None:
    """One page that needs nothing else: the plot inside, a table of the targets, a table of all points."""
    image = base64.b64encode(path.with_suffix(".png").read_bytes()).decode()
    setting = ", ".join(f"{key} {value}" for key, value in found["setting"].items())
    targets = _table(
        ["cache", "KL divergence", "policy", "KiB a token"],
        [
            [f"{100 * row['cache']:.0f} %", row["kld"], name, "not reached" if value is None else f"{value / 1024:.1f}"]
            for row in found["summary"]
            for name, value in sorted(row["bytes_per_token"].items(), key=lambda item: item[1] or math.inf)
        ],
    )
    columns = [
        "cache",
        "policy",
        "tier",
        "eviction",
        "kld_mean",
        "kld_p99",
        "ppl",
        "top1_agreement",
        "bytes_per_token",
        "tok_s",
    ]
    every = _table(columns, [[_text(p[name]) for name in columns] for p in found["points"]])
    style = "body{font:15px sans-serif;max-width:1200px;margin:2em auto}"
    style += "td,th{padding:2px 10px;text-align:right}img{width:100%}"
    path.write_text(
        f"<!doctype html><meta charset=utf-8><title>Frontier</title><style>{style}</style>"
        f"<h1>Quality against bytes read</h1><p>{html.escape(setting)}</p>"
        f"<img alt='KL divergence against bytes and speed' src='data:image/png;base64,{image}'>"
        f"<h2>At a given KL divergence</h2>{targets}<h2>All points</h2>{every}\n"
    )


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _table(names: list[str], rows: list[list[Any]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
