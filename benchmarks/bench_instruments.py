"""What instruments cost: decoding with and without them, turn about, on one engine. One question.

    python benchmarks/bench_instruments.py BUNDLE [--board DIR] [--rounds 40] [--tokens 100]

With: a power meter read 10 times a second (of a tree of files, see tests/board_trees.py). Without: none. Spans of trunk
and experts are always on; those of the host's other work are off while nobody records. The shorter a token, the more a
meter weighs, so a model that fits in memory is the worst case. Prints milliseconds a token of both, by the wall and by
the thread's CPU time, the change of the median, and its 95 % interval by bootstrap.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np

from edge_runtime import Engine, SamplingParams
from edge_runtime.lab.bench.compare import ratio_interval
from edge_runtime.telemetry.power import Choice
from edge_runtime.telemetry.power.sampler import start_sampler


def measure(engine: Engine, tokens: int, seed: int) -> tuple[float, float]:
    """Return wall and CPU milliseconds a decoded token of one request."""
    stream = engine.stream(
        np.arange(8, dtype=np.int32), SamplingParams(tokens, temperature=1, seed=seed, ignore_eos=True)
    )
    next(stream)
    wall, cpu = perf_counter(), thread_time()
    for _ in stream:
        pass
    return 1000 * (perf_counter() - wall) / (tokens - 1), 1000 * (thread_time() - cpu) / (tokens - 1)


def main() -> None:
    """Run and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--board", type=Path, default=Path("/"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=100)
    args = parser.parse_args()
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    with Engine.open(args.bundle, memory="1GiB", context=256, power_meter="none") as engine:
        measure(engine, args.tokens, 0)
        for number in range(args.rounds):
            for is_on in (True, False) if number % 2 else (False, True):
                sampler, _ = start_sampler(Choice("auto", 10.0, args.board)) if is_on else (None, {})
                found[is_on].append(measure(engine, args.tokens, number))
                if sampler is not None:
                    sampler.close()
    result = {}
    for place, name in enumerate(("wall_ms", "cpu_ms")):
        off, on = (np.array([each[place] for each in found[is_on]]) for is_on in (False, True))
        low, high = ratio_interval(off, on)
        change = 100 * (np.median(on) / np.median(off) - 1)
        pairs = 100 * np.median(on / off - 1)
        result[name] = {
            "off": round(float(np.median(off)), 4), "on": round(float(np.median(on)), 4),
            "change_percent": round(float(change), 2), "median_of_pairs_percent": round(float(pairs), 2),
            "interval_percent": [round(low, 2), round(high, 2)],
        }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
