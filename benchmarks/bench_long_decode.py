"""Does a token cost more, or memory grow, as a text gets longer? One long generation, medians of stretches of it.

    python benchmarks/bench_long_decode.py BUNDLE --memory 8GiB --tier 4 --tokens 2000

Attention is part of the trunk, so that is where time may grow. Give enough --memory for all experts, or what is
measured is the drive.
"""

from __future__ import annotations

import argparse
import json
import statistics
from time import perf_counter_ns

import numpy as np

from edge_runtime import Engine, SamplingParams
from edge_runtime.telemetry.process import rss_bytes

_STRETCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--memory", default="auto")
    parser.add_argument("--tier")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--stretches", type=int, default=5)
    args = parser.parse_args()
    context = args.prompt_tokens + args.tokens + 1
    steps: list[tuple[int, dict[str, int]]] = []
    resident: list[int] = []
    with Engine.open(args.bundle, context=context, memory=args.memory, tier=args.tier, self_check=False) as engine:
        vocabulary = engine.spec.vocab_size
        prompt = np.random.default_rng(1).integers(0, vocabulary, args.prompt_tokens).tolist()
        params = SamplingParams(max_tokens=args.tokens + 1, temperature=1.0, seed=1, ignore_eos=True)
        for _ in engine.stream(prompt, params):
            steps.append((perf_counter_ns(), dict(engine.parts.decoder.spans.ns)))
            resident.append(rss_bytes() or 0)
    starts = np.linspace(_STRETCH // 2, len(steps) - _STRETCH - 1, args.stretches).astype(int).tolist()
    for start in starts:
        pairs = list(zip(steps[start:], steps[start + 1 : start + _STRETCH + 1], strict=False))
        found = {"tokens": [start, start + _STRETCH], "ms": median_ms([b[0] - a[0] for a, b in pairs])}
        for name in ("trunk", "experts"):
            found[f"{name}_ms"] = median_ms([b[1].get(name, 0) - a[1].get(name, 0) for a, b in pairs])
        print(json.dumps(found | {"rss_mib": round(resident[start] / 2**20, 1)}))


def median_ms(nanoseconds: list[int]) -> float:
    return round(statistics.median(nanoseconds) / 1e6, 2)


if __name__ == "__main__":
    main()
