"""Draws what frontier.py measured, and compares policies at a given KL divergence."""

from __future__ import annotations

import base64
import html
import math
from pathlib import Path
from typing import Any

Point = dict[str, Any]
OURS = "rate-distortion"
TARGETS = (0.01, 0.03)
HALVES = ("cold", "warm")


def family(point: Point) -> str:
    """The name points are grouped by: the policy's; lossless at a lower tier is a group of its own."""
    name = point["policy"].partition(":")[0]
    return f"{name}, {point['tier']} bits" if name == "lossless" else name


def pareto(points: list[Point], half: str = "cold") -> list[Point]:
    """Points no other one beats in both KL divergence and bytes, by rising KL divergence."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p[half]["kld"], p[half]["bytes_per_token"])):
        if not best or point[half]["bytes_per_token"] < best[-1][half]["bytes_per_token"]:
            best.append(point)
    return best


def on_frontiers(points: list[Point]) -> list[Point]:
    """The points on the cold frontier of their family and cache size."""
    groups: dict[tuple[str, float], list[Point]] = {}
    for point in points:
        groups.setdefault((family(point), point["cache"]), []).append(point)
    return [point for group in groups.values() for point in pareto(group)]


def bytes_at(points: list[Point], kld: float, half: str = "cold") -> float | None:
    """Bytes a token on the frontier of `points` at a KL divergence, interpolated between neighbours (log of bytes)."""
    front = pareto(points, half)
    below = [p[half] for p in front if p[half]["kld"] <= kld]
    above = [p[half] for p in front if p[half]["kld"] > kld]
    if not below:
        return None
    left = below[-1]
    if not above or not above[0]["bytes_per_token"]:
        return float(left["bytes_per_token"])
    right = above[0]
    share = (kld - left["kld"]) / (right["kld"] - left["kld"])
    low, high = math.log(left["bytes_per_token"]), math.log(right["bytes_per_token"])
    return math.exp(low + share * (high - low))


def summary(points: list[Point]) -> list[dict[str, Any]]:
    """For each half, cache size and target: bytes of every family, and ours as a share of the best other."""
    rows = []
    for half in HALVES:
        for cache in sorted({p["cache"] for p in points}):
            here = [p for p in points if p["cache"] == cache]
            for kld in TARGETS:
                found = {
                    name: bytes_at([p for p in here if family(p) == name], kld, half)
                    for name in sorted({family(p) for p in here})
                }
                others = {name: value for name, value in found.items() if name != OURS and value is not None}
                ours = found.get(OURS)
                best = min(others, key=lambda name: others[name], default=None)
                rows.append(
                    {
                        "half": half,
                        "cache": cache,
                        "kld": kld,
                        "bytes_per_token": {n: None if v is None else round(v, 1) for n, v in found.items()},
                        "best_other": best,
                        "share_of_best_other": (
                            round(ours / others[best], 4) if ours is not None and best and others[best] else None
                        ),
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
    figure, axes = plt.subplots(3, len(caches), figsize=(5.4 * len(caches), 13), squeeze=False)
    for column, cache in enumerate(caches):
        for row, half in enumerate(HALVES):
            axis = axes[row][column]
            for name in names:
                mine = [p for p in points if p["cache"] == cache and family(p) == name]
                _dots(axis, [(p[half]["kld"], p[half]["bytes_per_token"] / 1024) for p in mine], name, colours[name])
                front = [(p[half]["kld"], p[half]["bytes_per_token"] / 1024) for p in pareto(mine, half)]
                axis.plot([_shown(k) for k, _ in front], [b for _, b in front], color=colours[name], lw=1)
            axis.set_yscale("symlog", linthresh=0.1)
            axis.set_ylabel(f"KiB read a token, {half}")
            axis.set_title(f"cache {100 * cache:.0f} % of the experts at {found['setting']['tier']} bits, {half}")
        axis = axes[2][column]
        for name in names:
            timed = [p for p in points if p["cache"] == cache and family(p) == name and "tok_s" in p]
            _dots(axis, [(p["cold"]["kld"], p["tok_s"]) for p in timed], name, colours[name])
        axis.set_ylabel("tok/s, this machine")
    for axis in axes.ravel():
        axis.set_xscale("log")
        axis.set_xlabel("KL divergence from lossless, nats a token (1e-5: none)")
        axis.grid(alpha=0.3)
        for kld in TARGETS:
            axis.axvline(kld, color="grey", lw=0.6, ls=":")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def _dots(axis: Any, found: list[tuple[float, float]], name: str, colour: Any) -> None:
    style = {"color": colour, "s": 34 if name == OURS else 20, "zorder": 3 if name == OURS else 2}
    axis.scatter([_shown(kld) for kld, _ in found], [value for _, value in found], label=name, **style)


def _shown(kld: float) -> float:
    return max(kld, 1e-5)


def write_html(found: dict[str, Any], path: Path) -> None:
    """One page that needs nothing else: the plot inside, a table of the targets, a table of all points."""
    image = base64.b64encode(path.with_suffix(".png").read_bytes()).decode()
    setting = ", ".join(f"{key} {value}" for key, value in found["setting"].items())
    targets = _table(
        ["half", "cache", "KL divergence", "policy", "KiB a token"],
        [
            [
                row["half"],
                f"{100 * row['cache']:.0f} %",
                row["kld"],
                name,
                "not reached" if v is None else f"{v / 1024:.2f}",
            ]
            for row in found["summary"]
            for name, v in sorted(
                row["bytes_per_token"].items(), key=lambda item: math.inf if item[1] is None else item[1]
            )
        ],
    )
    whole, halves = (
        ("cache", "policy", "tier", "eviction", "tok_s"),
        ("kld", "predicted_kld", "ppl", "top1", "bytes_per_token"),
    )
    every = _table(
        [*whole, *(f"{half} {name}" for half in HALVES for name in halves)],
        [
            [*(_text(p.get(name, "")) for name in whole), *(_text(p[half][name]) for half in HALVES for name in halves)]
            for p in found["points"]
        ],
    )
    style = "body{font:15px sans-serif;max-width:1400px;margin:2em auto}"
    style += "td,th{padding:2px 8px;text-align:right}img{width:100%}"
    path.write_text(
        f"<!doctype html><meta charset=utf-8><title>Frontier</title><style>{style}</style>"
        f"<h1>Quality against bytes read</h1><p>{html.escape(setting)}</p>"
        f"<img alt='KL divergence against bytes and speed' src='data:image/png;base64,{image}'>"
        f"<h2>At a given KL divergence</h2>{targets}<h2>All points</h2>{every}\n"
    )


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "" if value is None else str(value)


def _table(names: list[str], rows: list[list[Any]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
