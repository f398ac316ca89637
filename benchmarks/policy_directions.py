"""Does each policy reproduce its paper's direction? Quality and bytes, one token a step, at three cache sizes.

    python benchmarks/policy_directions.py BUNDLE --text FILE [--tokens 512] [--policy NAME:... --policy ...]

The cache is a share of all experts at 4 bits. Each policy is compared with lossless at the same tier and cache: loads
(misses), bytes and perplexity relative to it, KL divergence from it. Prints a Markdown table; see docs/policies.md.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime import Engine
from edge_runtime.bundle.manifest_file import read
from edge_runtime.lab.evaluation import Quality, QualityMeter

DEFAULT = (
    "hobbit:t1=0.6,t2=0.9", "hobbit:t1=0.8,t2=1", "cache-prior:lambda=0.05", "cache-prior:lambda=0.1",
    "cache-prior:lambda=0.2", "max-rank:m=6", "max-rank:m=8", "cumsum:p=0.7", "cumsum:p=0.9",
    "mobile:threshold=0.2", "mobile:threshold=0.4",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one run read, and how far it was from lossless."""

    experts: dict[str, int]
    quality: Quality
    tokens: int

    def row(self, lossless: Outcome) -> str:
        """Cells of the table."""
        e, base, q = self.experts, lossless.experts, self.quality
        cells = [
            f"{100 * e['misses'] / max(e['lookups'], 1):.1f} %",
            f"{e['misses'] / base['misses']:.2f}x",
            f"{e['bytes_read'] / base['bytes_read']:.2f}x",
            f"{q.kld_mean:.4f}",
            f"{100 * (q.ppl / q.baseline_ppl - 1):+.1f} %",
            f"{100 * q.top1_agreement:.1f} %",
            f"{e['substituted']} / {e['skipped']} / {e['route_changed']} / {e['fallbacks']}",
        ]
        return " | ".join(cells)


def run(args: argparse.Namespace, policy: str, expert_memory: int, baseline: np.ndarray | None) -> tuple:
    options = {"tier": args.tier, "context": args.tokens, "eviction": args.eviction, "self_check": False}
    with Engine.open(args.bundle, policy=policy, expert_memory=expert_memory, prefetch="off", **options) as engine:
        ids = np.array(engine.tokenizer.encode(Path(args.text).read_text(encoding="utf-8"))[: args.tokens], np.int32)
        before = engine.parts.cache.counters
        logits = engine.logits(ids, chunk=1)
        experts = engine.parts.cache.counters.since(before).to_json()
    meter = QualityMeter()
    for i, row in enumerate(logits):
        meter.add(logits[i] if baseline is None else baseline[i], row, int(ids[i + 1]) if i + 1 < len(ids) else None)
    return Outcome(experts, meter.result(), len(ids)), logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--tier", type=int, default=4)
    parser.add_argument("--eviction", default="lru")
    parser.add_argument("--policy", action="append")
    parser.add_argument("--share", type=int, action="append")
    args = parser.parse_args()
    manifest = read(Path(args.bundle))
    spec, layout = manifest.model, manifest.layout
    all_bytes = len(spec.sparse_layers) * spec.num_experts * layout.tier_bytes(4)
    print(
        "| cache | policy | miss rate | loads | bytes | KLD | PPL | top-1 | subst. / skipped / re-routed / run twice |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for share in args.share or (25, 50, 75):
        lossless, logits = run(args, "lossless", all_bytes * share // 100, None)
        print(f"| {share} % | lossless | {lossless.row(lossless)} |", flush=True)
        for policy in args.policy or DEFAULT:
            outcome, _ = run(args, policy, all_bytes * share // 100, logits)
            print(f"| {share} % | `{policy}` | {outcome.row(lossless)} |", flush=True)


if __name__ == "__main__":
    main()
