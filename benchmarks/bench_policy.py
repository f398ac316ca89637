"""What a decision costs: microseconds per layer for every policy, 128 experts, top-8, one token, one core.

    python benchmarks/bench_policy.py [--experts 128] [--top-k 8] [--layers 48]

Random logits, half the experts resident; in every layer a substitute is better than a skip. What a policy does depends
on what it has seen, so the first passes are not timed. The lowest mean of several blocks of passes counts: on a shared
machine the higher ones measure other work. The router's own rule (`route`), which every policy needs, is a line
of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from time import perf_counter_ns

import numpy as np

from edge_runtime.base.spec import RouterSpec
from edge_runtime.bundle.calibration import ExpertCalibration, LayerCalibration, Sensitivity
from edge_runtime.policy import POLICIES, create_policy
from edge_runtime.policy.base import Policy, PolicyContext, Routing
from edge_runtime.policy.routing import Router

TIER_BYTES = {2: 30, 4: 50, 6: 70, 8: 90}
LIMIT_US = 60
WARM_PASSES, BLOCK = 40, 4


class HalfResident:
    """A residency in which every other expert is there."""

    def __init__(self, num_experts: int) -> None:
        self._tiers = (np.arange(num_experts, dtype=np.uint8) % 2) * np.uint8(8)

    def resident_tiers(self, layer_idx: int) -> np.ndarray:
        """See `ResidencyView`."""
        return self._tiers


def calibration(layers: int, experts: int) -> ExpertCalibration:
    """Made-up measurements, for the policies that need them."""
    errors = {str(tier): [0.3 / 4**i] * experts for i, tier in enumerate((2, 4, 6, 8))}
    one = [
        LayerCalibration(i, errors, [9] * experts, errors, [1.0] * experts, Sensitivity(0.01, 0.01, 0.005))
        for i in range(layers)
    ]
    return ExpertCalibration(2, one, 100, 8, [i / 100 for i in range(101)])


def decide_us(policy: Policy, routings: list[Routing], residents: HalfResident, repeats: int) -> float:
    times = []
    for _ in range(WARM_PASSES + repeats):
        policy.begin_pass(1, has_logits=True)
        started = perf_counter_ns()
        for layer, routing in enumerate(routings):
            policy.decide(layer, routing, residents)
        times.append(perf_counter_ns() - started)
    blocks = np.array(times[WARM_PASSES:])[: repeats // BLOCK * BLOCK].reshape(-1, BLOCK)
    return float(blocks.mean(axis=1).min()) / len(routings) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("experts", 128), ("top-k", 8), ("layers", 48), ("repeats", 240)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    logits = (2 * rng.standard_normal((args.layers, 1, args.experts))).astype(np.float32)
    router = Router(RouterSpec(args.experts, args.top_k, normalise=True), range(args.layers))
    started = perf_counter_ns()
    for _ in range(args.repeats):
        routings = [router.route(layer, z) for layer, z in enumerate(logits)]
    found = {"(route)": (perf_counter_ns() - started) / args.repeats / args.layers / 1000}
    context = PolicyContext(args.layers, router, 8, TIER_BYTES, calibration=calibration(args.layers, args.experts))
    for name in POLICIES:
        policy = create_policy(name, context)
        found[name] = decide_us(policy, routings, HalfResident(args.experts), args.repeats)
    if args.json:
        print(json.dumps({"machine": platform.processor(), "us_per_layer": found}))
        return
    for name, cost in found.items():
        print(f"{name:<16}{cost:7.1f} us{'   over ' + str(LIMIT_US) if cost > LIMIT_US else ''}")


if __name__ == "__main__":
    main()
