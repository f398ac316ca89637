"""How much must be read for how much quality? Every policy over its parameters, at several cache sizes.

    python benchmarks/frontier.py BUNDLE --text FILE [--text FILE] --out docs/frontier [--tokens 512] [--only hobbit]

Decodes the texts one token per step, in turns of --window tokens, from an empty cache, and compares with lossless at
the same tier: KL divergence against bytes read per token and against tok/s. Points already in OUT/frontier.json are
kept, so a run that was stopped goes on. Draws OUT/frontier.png and OUT/frontier.html at the end.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from frontier_plot import summary, write_html, write_png

from edge_runtime import Engine
from edge_runtime.evaluation import QualityMeter
from edge_runtime.format.manifest import read as read_manifest

SWEEP: dict[str, list[str]] = {
    "lossless": ["lossless"],
    "rate-distortion": [
        f"rate-distortion:max_kld={x}" for x in (0.0005, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.045, 0.06, 0.1, 0.2)
    ],
    "hobbit": [
        f"hobbit:t1={a},t2={b}"
        for a, b in (
            (0.9, 0.99), (0.6, 0.95), (0.6, 0.9), (0.5, 0.8), (0.3, 0.9), (0.0, 0.9), (0.0, 0.8), (0.3, 0.7),
            (0.0, 0.7), (0.0, 0.6),
        )
    ],
    "cache-prior": [f"cache-prior:lambda={x}" for x in (0.05, 0.1, 0.2, 0.3, 0.45, 0.6)],
    "max-rank": [f"max-rank:m={m}" for m in (5, 6, 8, 12)],
    "cumsum": [f"cumsum:p={p}" for p in (0.9, 0.95, 0.98, 0.99)],
    "mcsharp": [
        f"mcsharp:bits={b},prune={p}" for b, p in ((2.2, 0.02), (2.2, 0.08), (2.5, 0.05), (2.5, 0.1), (3, 0.1))
    ],
    "edgemoe": [f"edgemoe:bits={b}" for b in (2.2, 2.5, 3)],
    "adapmoe": [f"adapmoe:tau={t}" for t in (0.0002, 0.001, 0.004)],
    "smoe": [f"smoe:alpha={a}" for a in (0.1, 0.3, 0.6)],
    "skip": [f"skip:beta={b}" for b in (0.05, 0.15, 0.3)],
    "mobile": [f"mobile:threshold={t},ahead=0" for t in (0.0, 0.1, 0.3, 0.6)],
}  # fmt: skip
EVICTIONS = {"rate-distortion": ("lru", "lfru"), "hobbit": ("lru", "lcu"), "lossless": ("lru", "lcu")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--text", action="append", required=True, type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/frontier"))
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--tier", type=int, default=4)
    parser.add_argument("--cache", type=float, nargs="+", default=[0.25, 0.5, 0.75], help="of all experts at --tier")
    parser.add_argument("--only", nargs="+", choices=[*SWEEP], default=[*SWEEP])
    parser.add_argument("--memory", default="2GiB")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "frontier.json"
    found = json.loads(path.read_text()) if path.exists() else {"setting": setting(args), "points": []}
    if found["setting"] != setting(args):
        sys.exit(f"{path}: expected the setting {setting(args)}, got {found['setting']}. Remove it to start over.")
    done = {(p["policy"], p["tier"], p["cache"], p["eviction"]) for p in found["points"]}
    todo = [job for job in jobs(args) if job not in done]
    ids, baseline = reference(args) if todo else (None, None)
    for number, job in enumerate(todo):
        point = measure(args, ids, baseline, *job)
        found["points"].append(point)
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(
            f"[{number + 1}/{len(todo)}] {job}: KLD {point['kld_mean']:.5f}, {point['bytes_per_token']:.0f} B a token, "
            f"{point['tok_s']:.0f} tok/s",
            file=sys.stderr,
            flush=True,
        )
    found["summary"] = summary(found["points"])
    path.write_text(json.dumps(found, indent=1) + "\n")
    write_png(found, args.out / "frontier.png")
    write_html(found, args.out / "frontier.html")


def setting(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "bundle_id": read_manifest(Path(args.bundle)).bundle_id,
        "texts": [path.name for path in args.text],
        "tokens": args.tokens,
        "window": args.window,
        "tier": args.tier,
        "machine": f"{platform.machine()}, {platform.system()}",
        "cache_state": "empty at the start",
    }


def jobs(args: argparse.Namespace) -> Iterator[tuple[str, int, float, str]]:
    """Yield (policy, tier, cache share, eviction)."""
    for cache in args.cache:
        for family in args.only:
            for eviction in EVICTIONS.get(family, ("lru",)):
                for policy in SWEEP[family]:
                    yield policy, args.tier, cache, eviction
        if "lossless" in args.only:  # the same memory at a lower tier: what every policy has to beat
            yield "lossless", 2, cache, "lru"


def interleaved(engine: Engine, args: argparse.Namespace) -> np.ndarray:
    """Token ids of the texts in turns of a window: the subject changes, as it does in use."""
    texts = [engine.tokenizer.encode(path.read_text()) for path in args.text]
    turns = range(0, args.tokens, args.window * len(texts))
    parts = [ids[start // len(texts) :][: args.window] for start in turns for ids in texts]
    return np.array([token for part in parts for token in part][: args.tokens], np.int32)


def reference(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    with Engine.open(args.bundle, memory=args.memory, tier=args.tier, context=args.tokens, self_check=False) as engine:
        ids = interleaved(engine, args)
        return ids, engine.logits(ids, chunk=1)


def measure(
    args: argparse.Namespace, ids: Any, baseline: Any, policy: str, tier: int, cache: float, eviction: str
) -> dict[str, Any]:
    manifest = read_manifest(Path(args.bundle))
    spec, layout = manifest.model, manifest.layout
    budget = int(cache * spec.num_experts * len(spec.sparse_layers)) * layout.tier_bytes(args.tier)
    options = {"policy": policy, "tier": tier, "eviction": eviction, "expert_memory": budget, "context": args.tokens}
    meter = QualityMeter()
    with Engine.open(args.bundle, memory=args.memory, self_check=False, **options) as engine:
        started = time.perf_counter()
        for at, rows in engine.logit_chunks(ids, chunk=1):
            meter.add(baseline[at], rows[0], int(ids[at + 1]) if at + 1 < len(ids) else None)
        seconds = time.perf_counter() - started
        counters = engine.parts.cache.counters.to_json(len(ids))
    return {
        "policy": policy, "tier": tier, "cache": cache, "eviction": eviction, "expert_memory_bytes": budget,
        **meter.result().to_json(), "bytes_per_token": counters["bytes_per_token"],
        "tok_s": round(len(ids) / seconds, 2), "experts": counters,
    }  # fmt: skip


if __name__ == "__main__":
    main()
