"""Look-ahead routers: what one product costs, and on a bundle how much of the next layers' choice it foresees.

python benchmarks/bench_lookahead.py [BUNDLE --text FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from edge_runtime import Engine
from edge_runtime.policy.base import Routing
from edge_runtime.prefetch.lookahead import LookAhead
from edge_runtime.trunk.routers import load_routers

DEPTH = 4


class Recall:
    """Stands in for the prefetcher: predicts, and compares when the predicted layer comes."""

    def __init__(self, predictor: LookAhead) -> None:
        self.predictor, self.expected = predictor, {}
        self.slots, self.first = np.zeros(DEPTH + 1), np.zeros(DEPTH + 1)
        self.asked = np.zeros(DEPTH + 1)
        self.governor = None

    def begin_pass(self, num_tokens: int) -> None:
        """Forget the token before."""
        self.expected.clear()

    def after(self, layer_idx: int, x: np.ndarray, routing: Routing) -> None:
        """Compare what was predicted for this layer, then predict."""
        actual = routing.topk_ids[0].tolist()
        for ahead, ids in self.expected.pop(layer_idx, []):
            self.slots[ahead] += len(set(actual) & set(ids)) / len(actual)
            self.first[ahead] += actual[0] in ids
            self.asked[ahead] += 1
        for layer, predicted in self.predictor.predict(layer_idx, x, routing):
            entry = (layer - layer_idx, predicted.topk_ids[0].tolist())
            self.expected.setdefault(layer, []).append(entry)

    def end_pass(self) -> None:
        """Nothing to settle."""


def cost_us(experts: int, hidden: int, depth: int, repeats: int = 200) -> float:
    rng = np.random.default_rng(0)
    routers = rng.standard_normal((24, experts, hidden), np.float32)
    ahead = LookAhead(routers, range(24), top_k=8, norm_topk_prob=True, depth=depth)
    x, nothing = rng.standard_normal((1, hidden), np.float32), Routing(*[np.empty(0)] * 3)
    times = []
    for i in range(repeats):
        started = perf_counter_ns()
        list(ahead.predict(i % 18, x, nothing))
        times.append(perf_counter_ns() - started)
    return float(np.median(times)) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--text")
    parser.add_argument("--tokens", type=int, default=256)
    args = parser.parse_args()
    for depth in (1, 2, 4):
        print(f"E 128, D 2048, depth {depth}: {cost_us(128, 2048, depth):.0f} us a layer (median of 200)")
    if args.bundle is None:
        return
    with Engine.open(args.bundle, context=args.tokens, self_check=False) as engine:
        spec = engine.spec
        ahead = LookAhead(
            load_routers(Path(args.bundle), spec), spec.sparse_layers,
            top_k=spec.top_k, norm_topk_prob=spec.norm_topk_prob, depth=DEPTH,
        )  # fmt: skip
        recall = engine.parts.decoder.prefetcher = Recall(ahead)
        ids = engine.tokenizer.encode(Path(args.text).read_text(encoding="utf-8"))[: args.tokens]
        engine.logits(ids, chunk=1)
    for d in range(1, DEPTH + 1):
        slots, first = recall.slots[d] / recall.asked[d], recall.first[d] / recall.asked[d]
        print(f"{d} layers ahead: {100 * slots:.1f} % of the chosen experts, {100 * first:.1f} % of the first ones")


if __name__ == "__main__":
    main()
