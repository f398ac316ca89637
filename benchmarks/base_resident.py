"""What `--base-resident` gives: KL divergence, bytes and tok/s beside lossless and today's rate-distortion.

    python -m benchmarks.base_resident BUNDLE --text FILE --out FILE.json [--tier 8] [--memory 0.4 0.5 0.6 0.75]
    python -m benchmarks.base_resident BUNDLE --text FILE --out FILE.json --speed --rounds 4 --memory 0.5
    python -m benchmarks.base_resident --plot QUALITY.json SPEED.json --out docs/frontier/base-resident.png

--memory is a share of all experts at the full tier. Quality: the text is decoded one token a step from an empty cache,
and compared with lossless at the same tier; a point a line. Speed: the engines of one size of memory are open together,
run the text's first tokens each, and then slices of 16 tokens in alternation; tok/s is the median of their slices. The
machine must be quiet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.machine import identity
from benchmarks.source import commit
from edge_runtime import Engine
from edge_runtime.base.errors import BudgetError
from edge_runtime.bundle.manifest_file import read as read_manifest
from edge_runtime.lab.evaluation import QualityMeter

SLICE = 16


def settings(budget: float) -> dict[str, dict[str, Any]]:
    return {
        "lossless": {},
        "rate-distortion": {"max_kld": budget},
        "base-resident": {"max_kld": budget, "base_resident": True},
        "base-resident, its eviction": {"max_kld": budget, "base_resident": True, "eviction": "rate-distortion"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--warm", type=int, default=96, help="with --speed: tokens each engine runs before its slices")
    parser.add_argument("--tier", type=int, default=8)
    parser.add_argument("--memory", type=float, nargs="+", default=[0.4, 0.5, 0.6, 0.75])
    parser.add_argument("--max-kld", type=float, default=0.02)
    parser.add_argument("--only", nargs="+", default=[*settings(0.0)])
    parser.add_argument("--prefetch", default="auto", help="with --speed")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--plot", type=Path, nargs=2, metavar="JSON")
    args = parser.parse_args()
    if args.plot:
        return plot(*args.plot, args.out)
    points = [*(speeds(args) if args.speed else qualities(args))]
    head = {
        "machine": identity(Path(args.bundle)), "commit": commit(), "day": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "text": args.text.name, "bundle_id": read_manifest(Path(args.bundle)).bundle_id, "max_kld": args.max_kld,
    } | ({"warm": args.warm, "slice": SLICE} if args.speed else {"tokens": args.tokens})  # fmt: skip
    old = json.loads(args.out.read_text())["points"] if args.out.exists() else []
    key = lambda p: (p["setting"], p["tier"], p["memory"])  # noqa: E731
    new = {key(p) for p in points}
    lines = [json.dumps(p) for p in [*(p for p in old if key(p) not in new), *points]]
    args.out.write_text(json.dumps(head)[:-1] + ', "points": [\n' + ",\n".join(lines) + "\n]}\n")


def opened(args: argparse.Namespace, share: float, options: dict[str, Any]) -> Engine:
    manifest = read_manifest(Path(args.bundle))
    spec = manifest.model
    experts = int(share * spec.num_experts * len(spec.sparse_layers)) * manifest.layout.tier_bytes(args.tier)
    return Engine.open(
        args.bundle, tier=args.tier, expert_memory=experts, context=1024, self_check=False,
        **{"prefetch": args.prefetch if args.speed else "off", **options},
    )  # fmt: skip


def chosen(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, options) for name, options in settings(args.max_kld).items() if name in args.only)


def qualities(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with opened(args, 1.0, {}) as engine:
        ids = np.array(engine.tokenizer.encode(args.text.read_text())[: args.tokens], np.int32)
        expected = engine.logits(ids, chunk=1)
    for share in args.memory:
        for name, options in chosen(args):
            try:
                engine = opened(args, share, options)
            except BudgetError as err:
                print(f"{name} at {share:g}: {err}", file=sys.stderr)
                continue
            with engine:
                meter, before = QualityMeter(), engine.parts.cache.counters
                for at, rows in engine.logit_chunks(ids, chunk=1):
                    meter.add(expected[at], rows[0], int(ids[at + 1]) if at + 1 < len(ids) else None)
                engine.parts.cache.finish_reads()
                found = engine.parts.cache.counters.since(before).to_json(len(ids))
            quality = meter.result()
            yield {
                "setting": name, "tier": args.tier, "memory": share, "kld": round(quality.kld_mean, 6),
                "top1": round(quality.top1_agreement, 4), "predicted_kld": found["predicted_kld_per_token"],
                "bytes_per_token": found["bytes_per_token"], "waits_per_token": round(found["misses"] / len(ids), 4),
                "late_per_token": round(found["late"] / len(ids), 4), "by_tier": found["by_tier"],
            }  # fmt: skip


def speeds(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for share in args.memory:
        with ExitStack() as stack:
            engines = {name: stack.enter_context(opened(args, share, options)) for name, options in chosen(args)}
            yield from alternate(args, share, engines)


def alternate(args: argparse.Namespace, share: float, engines: dict[str, Engine]) -> Iterator[dict[str, Any]]:
    tokens = np.array(next(iter(engines.values())).tokenizer.encode(args.text.read_text()), np.int32)
    at, counted = args.warm, {}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        engine.logits(tokens[:at], chunk=1)
    for name, engine in engines.items():
        counted[name] = engine.parts.cache.counters
    for number in range(args.rounds):
        part = tokens[at : at + SLICE]
        at += SLICE
        order = [*engines.items()]
        for name, engine in order[number % len(order) :] + order[: number % len(order)]:
            started = time.perf_counter()
            engine.logits(part, chunk=1)
            rates[name].append(SLICE / (time.perf_counter() - started))
    for name, engine in engines.items():
        found = engine.parts.cache.counters.since(counted[name]).to_json(args.rounds * SLICE)
        yield {
            "setting": name, "tier": args.tier, "memory": share, "tok_s": round(statistics.median(rates[name]), 2),
            "turns": [round(rate, 2) for rate in rates[name]], "bytes_per_token": found["bytes_per_token"],
            "wait_ms_per_token": round(found["stall_ms"] / (args.rounds * SLICE), 3), "by_tier": found["by_tier"],
            "late_per_token": round(found["late"] / (args.rounds * SLICE), 3),
            "waits_per_token": round(found["misses"] / (args.rounds * SLICE), 3),
        }  # fmt: skip


def plot(quality: Path, speed: Path, out: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    for axis, path, what, label in (
        (axes[0], quality, "kld", "KL divergence a token, nats (measured)"), (axes[1], speed, "tok_s", "tok/s"),
    ):  # fmt: skip
        points = json.loads(path.read_text())["points"]
        for name in settings(0.0):
            if name == "lossless" and what == "kld":
                continue
            for tier, style in ((8, "o-"), (4, "s--")):
                mine = sorted((p["memory"], p[what]) for p in points if p["setting"] == name and p["tier"] == tier)
                if mine:
                    axis.plot(*zip(*mine, strict=True), style, label=f"{name}, {tier} bits")
        axis.set_xlabel("memory, share of all experts at the full tier")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
