"""How much must be read for how much quality? Every policy over its parameters, at several cache sizes.

    python benchmarks/frontier.py BUNDLE --text FILE [--text FILE] --out docs/frontier [--tokens 1024] [--only hobbit]
    python benchmarks/frontier.py BUNDLE --text FILE [--text FILE] --out docs/frontier --speed

Decodes the texts one token per step, alternating every --window tokens, and compares with lossless at the same tier: KL
divergence against bytes read a token. The first --cold tokens start from an empty cache, the others find what these
left (`warm`). Points already in OUT/frontier.json are kept, so a run that was stopped goes on. --speed measures tok/s
of the points on each policy's frontier, interleaved, --repeats times; the median counts. The machine must be quiet.
Draws OUT/frontier.png and OUT/frontier.html at the end.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from frontier_plot import on_frontiers, summary, write_html, write_png

from edge_runtime import Engine
from edge_runtime.bundle.manifest_file import read as read_manifest
from edge_runtime.lab.evaluation import Quality, QualityMeter

SWEEP: dict[str, list[str]] = {
    "rate-distortion": [
        f"rate-distortion:max_kld={x}" for x in (0.01, 0.015, 0.0125, 0.05, 0.1, 0.02, 0.005, 0.002, 0.03)
    ],
    "hobbit": [
        f"hobbit:t1={a},t2={b}"
        for a, b in ((0.0, 0.9), (0.0, 0.8), (0.0, 0.95), (0.3, 0.9), (0.6, 0.9), (0.0, 0.7), (0.0, 0.6), (0.0, 0.4))
    ],
    "mcsharp": [f"mcsharp:bits={b},prune={p}" for b, p in ((2.2, 0.02), (2.2, 0.08), (2.5, 0.05), (2, 0.1))],
    "cache-prior": [f"cache-prior:lambda={x}" for x in (0.2, 0.5, 0.05)],
    "lossless": ["lossless"],
    "edgemoe": [f"edgemoe:bits={b}" for b in (2.2, 3)],
    "cumsum": [f"cumsum:p={p}" for p in (0.95, 0.98)],
    "max-rank": [f"max-rank:m={m}" for m in (6, 12)],
    "mobile": [f"mobile:threshold={t},ahead=0" for t in (0.0, 0.1)],
    "adapmoe": [f"adapmoe:tau={t}" for t in (0.001, 0.004)],
    "smoe": [f"smoe:alpha={a}" for a in (0.3, 0.6)],
    "skip": [f"skip:beta={b}" for b in (0.05, 0.15)],
    "lexi": ["lexi:k=3"],
}
# the caches' own papers use LRU; frequency is tried wherever it may help
EVICTIONS = {
    "rate-distortion": ("lfru", "rate-distortion"), "hobbit": ("lfru", "lcu"), "lossless": ("next-use", "lfru", "lru"),
    "mcsharp": ("lfru",), "edgemoe": ("lfru",), "smoe": ("lfru",), "adapmoe": ("lfru",),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--text", action="append", required=True, type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/frontier"))
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--cold", type=int, default=512, help="of --tokens, those that count as the cold start")
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--tier", type=int, default=4)
    parser.add_argument("--cache", type=float, nargs="+", default=[0.25, 0.5, 0.75], help="of all experts at --tier")
    parser.add_argument("--only", nargs="+", choices=[*SWEEP], default=[*SWEEP])
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--speed", action="store_true", help="measure tok/s of the points on the frontiers")
    parser.add_argument("--speed-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "frontier.json"
    found = json.loads(path.read_text()) if path.exists() else {"setting": setting(args), "points": []}
    if found["setting"] != setting(args):
        sys.exit(f"{path}: expected the setting {setting(args)}, got {found['setting']}. Remove it to start over.")
    if args.speed:
        time_frontiers(args, found)
    else:
        measure_missing(args, found, path)
    found["summary"] = summary(found["points"])
    write_json(found, path)
    write_png(found, args.out / "frontier.png")
    write_html(found, args.out / "frontier.html")


def measure_missing(args: argparse.Namespace, found: dict[str, Any], path: Path) -> None:
    done = {job_of(p) for p in found["points"]}
    todo = [job for job in jobs(args) if job not in done]
    ids, baseline = reference(args) if todo else (None, None)
    for number, job in enumerate(todo):
        point = measure(args, ids, baseline, *job)
        found["points"].append(point)
        write_json(found, path)
        cold = point["cold"]
        print(
            f"[{number + 1}/{len(todo)}] {job}: cold KLD {cold['kld']:.5f}, {cold['bytes_per_token']:.0f} B a token",
            file=sys.stderr,
            flush=True,
        )


def time_frontiers(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Interleave: every point once, then every point again."""
    points = on_frontiers(found["points"])
    times: list[list[float]] = [[] for _ in points]
    for _ in range(args.repeats):
        for taken, point in zip(times, points, strict=True):
            with open_engine(args, *job_of(point)) as engine:
                ids = interleaved(engine, args)
                engine.logits(ids[: args.speed_tokens // 2], chunk=1)
                started = time.perf_counter()
                engine.logits(ids[: args.speed_tokens], chunk=1)
                taken.append(args.speed_tokens / (time.perf_counter() - started))
    for taken, point in zip(times, points, strict=True):
        point["tok_s"] = round(statistics.median(taken), 1)


def write_json(found: dict[str, Any], path: Path) -> None:
    """A line a point: small, and its changes can be read."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items() if name != "points"]
    points = ",\n".join(json.dumps(point, separators=(",", ":")) for point in found["points"])
    path.write_text("{" + ",\n".join([*lines, f'"points": [\n{points}\n]']) + "}\n")


def setting(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "bundle_id": read_manifest(Path(args.bundle)).bundle_id,
        "texts": [path.name for path in args.text],
        "tokens": args.tokens,
        "window": args.window,
        "tier": args.tier,
        "machine": f"{platform.machine()}, {platform.system()}",
        "cold_tokens": args.cold,
        "cache_state": "empty before the cold tokens, filled by them for the warm ones",
    }


def jobs(args: argparse.Namespace) -> Iterator[tuple[str, int, float, str]]:
    """Yield (policy, tier, cache share, eviction)."""
    for cache in args.cache:
        for family in args.only:
            evictions = EVICTIONS.get(family, ("lru",))
            # a second rule where much is evicted; where little is, it changes nothing
            for eviction in evictions if cache < 0.5 else evictions[:1]:
                for policy in SWEEP[family]:
                    yield policy, args.tier, cache, eviction
        if "lossless" in args.only:  # the same memory at a lower tier: what every policy has to beat
            yield "lossless", 2, cache, "lfru"


def job_of(point: dict[str, Any]) -> tuple[str, int, float, str]:
    return point["policy"], point["tier"], point["cache"], point["eviction"]


def interleaved(engine: Engine, args: argparse.Namespace) -> np.ndarray:
    """Return token ids of the texts, alternating every window: the subject changes, as it does in use."""
    texts = [engine.tokenizer.encode(path.read_text()) for path in args.text]
    rounds = range(0, args.tokens, args.window * len(texts))
    parts = [ids[start // len(texts) :][: args.window] for start in rounds for ids in texts]
    return np.array([token for part in parts for token in part][: args.tokens], np.int32)


def reference(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    with Engine.open(args.bundle, memory=args.memory, tier=args.tier, context=args.tokens, self_check=False) as engine:
        ids = interleaved(engine, args)
        return ids, engine.logits(ids, chunk=1)


def open_engine(args: argparse.Namespace, policy: str, tier: int, cache: float, eviction: str) -> Engine:
    manifest = read_manifest(Path(args.bundle))
    spec, layout = manifest.model, manifest.layout
    budget = int(cache * spec.num_experts * len(spec.sparse_layers)) * layout.tier_bytes(args.tier)
    return Engine.open(
        args.bundle, memory=args.memory, self_check=False, policy=policy, tier=tier, eviction=eviction,
        expert_memory=budget, context=args.tokens, prefetch="off",
    )  # fmt: skip


def measure(
    args: argparse.Namespace, ids: Any, baseline: Any, policy: str, tier: int, cache: float, eviction: str
) -> dict[str, Any]:
    half = args.cold
    meters, parts = (QualityMeter(), QualityMeter()), []
    with open_engine(args, policy, tier, cache, eviction) as engine:
        counters = engine.parts.cache
        before = counters.counters
        for at, rows in engine.logit_chunks(ids, chunk=1):
            if at == half:
                parts.append(counters.counters.since(before))
                before = counters.counters
            meters[at >= half].add(baseline[at], rows[0], int(ids[at + 1]) if at + 1 < len(ids) else None)
        parts.append(counters.counters.since(before))
    counts = (half, len(ids) - half)
    halves = [summed(m.result(), part.to_json(n)) for m, part, n in zip(meters, parts, counts, strict=True)]
    return {
        "policy": policy, "tier": tier, "cache": cache, "eviction": eviction, "cold": halves[0], "warm": halves[1]
    }  # fmt: skip


def summed(quality: Quality, experts: dict[str, Any]) -> dict[str, Any]:
    """What is kept of half a run."""
    kept = ("lookups", "misses", "bytes_per_token", "substituted", "skipped", "route_changed", "truncated", "fallbacks")
    found = {name: experts[name] for name in kept}
    predicted = experts["predicted_kld_per_token"]
    figures = {
        "kld": quality.kld_mean, "kld_p99": quality.kld_p99, "ppl": quality.ppl, "baseline_ppl": quality.baseline_ppl,
        "top1": quality.top1_agreement, "predicted_kld": predicted,
    }  # fmt: skip
    return {name: None if v is None else float(f"{v:.5g}") for name, v in figures.items()} | found


if __name__ == "__main__":
    main()
