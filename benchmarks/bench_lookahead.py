"""Look-ahead routers: what they cost in the trunk engine and in numpy, and how many of the next choices they predict.

    python benchmarks/bench_lookahead.py BUNDLE [--text FILE] [--threads N]

BUNDLE gives the shape. Both get the same states, layer after layer, interleaved; the median of their rounds counts.
The state comes in the layer's own output, as it does while decoding.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from edge_runtime import Engine
from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.cpu.trunk.router_stack import load_routers
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest_file import read
from edge_runtime.policy.base import Routing
from edge_runtime.prefetch.prefetcher import Predictor

DEPTH, TIER = 4, 4


class Recall:
    """A predictor that passes another one's predictions on, and compares them when the predicted layer comes."""

    max_tokens, native_depth = 1, None

    def __init__(self, inner: Predictor) -> None:
        self.inner, self.expected, self.last = inner, {}, -1
        self.slots, self.first = np.zeros(DEPTH + 1), np.zeros(DEPTH + 1)
        self.asked = np.zeros(DEPTH + 1)

    def predict(self, layer_idx: int, x: np.ndarray, routing: Routing) -> Iterator[tuple[int, Routing]]:
        """Compare what was predicted for this layer, then predict."""
        if layer_idx <= self.last:
            self.expected.clear()  # the token before this one
        self.last = layer_idx
        actual = routing.topk_ids[0].tolist()
        for ahead, ids in self.expected.pop(layer_idx, []):
            self.slots[ahead] += len(set(actual) & set(ids)) / len(actual)
            self.first[ahead] += actual[0] in ids
            self.asked[ahead] += 1
        found = list(self.inner.predict(layer_idx, x, routing))
        for layer, predicted in found:
            self.expected.setdefault(layer, []).append((layer - layer_idx, predicted.topk_ids[0].tolist()))
        return iter(found)


class InNumpy:
    """The same on matrices [S, E, D], as the runtime did it before."""

    def __init__(self, routers: np.ndarray, place: dict[int, int]) -> None:
        self._routers, self._place = np.ascontiguousarray(routers.transpose(0, 2, 1)), place

    def look_ahead(self, x: np.ndarray, layer_idx: int, depth: int) -> np.ndarray:
        """See `Trunk.look_ahead`."""
        first = self._place[layer_idx] + 1
        block = self._routers[first : first + depth]
        return (block.reshape(-1, block.shape[2]) @ x[0]).reshape(len(block), 1, block.shape[1])


def costs_us(bundle: Path, threads: int, depth: int, rounds: int = 15) -> dict[str, float]:
    spec, routers = read(bundle).model, load_routers(Bundle.open(bundle))
    trunk = OrtTrunk(bundle, spec, threads=threads, max_chunk=1, routers=routers)
    layers = spec.sparse_layers
    engines = {"engine": trunk, "numpy": InNumpy(routers, {n: i for i, n in enumerate(layers)})}
    times: dict[str, list[float]] = {name: [] for name in engines}
    states = np.random.default_rng(0).standard_normal((len(layers), 1, spec.hidden), np.float32)
    for _ in range(rounds):
        for name, engine in engines.items():
            started = perf_counter_ns()
            for layer, x in zip(layers[:-depth], states, strict=False):
                engine.look_ahead(x, layer, depth)
            times[name].append((perf_counter_ns() - started) / len(layers[:-depth]) / 1000)
    trunk.close()
    return {name: float(np.median(found)) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--text")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    spec = read(args.bundle).model
    print(f"E {spec.num_experts}, D {spec.hidden}, {args.threads} threads; microseconds a layer:")
    for depth in (1, 2, 4):
        found = costs_us(args.bundle, args.threads, depth)
        print(f"{depth} layers ahead: trunk engine {found['engine']:.0f}, numpy {found['numpy']:.0f}")
    if args.text is None:
        return
    half = spec.num_experts * len(spec.sparse_layers) * read(args.bundle).layout.tier_bytes(TIER) // 2
    options = {"context": args.tokens, "self_check": False, "tier": TIER, "expert_memory": half}
    with Engine.open(args.bundle, prefetch=f"lookahead:depth={DEPTH},adaptive=false", **options) as engine:
        prefetcher = engine.parts.decoder.prefetcher
        recall = prefetcher.predictor = Recall(prefetcher.predictor)
        ids = engine.tokenizer.encode(Path(args.text).read_text(encoding="utf-8"))[: args.tokens]
        engine.logits(ids, chunk=1)
    for d in range(1, DEPTH + 1):
        slots, first = recall.slots[d] / recall.asked[d], recall.first[d] / recall.asked[d]
        print(f"{d} layers ahead: {100 * slots:.1f} % of the chosen experts, {100 * first:.1f} % of the first ones")


if __name__ == "__main__":
    main()
