"""What instruments cost: decoding with and without them, turn about, on one engine. One question.

    python benchmarks/bench_instruments.py BUNDLE [--board DIR] [--rounds 40] [--tokens 100]
        [--expert-memory SIZE]

With: spans of trunk and experts, as they always are, and a power meter read 10 times a second (of a tree of files, see
tests/board_trees.py). Without: neither. Spans of the host's other work are off in both, as while nobody records. The
shorter a token, the more instruments weigh, so a model that fits in memory is the worst case; --expert-memory has one
streamed. Prints milliseconds a token of both, by the wall and by the thread's CPU time, the change of the median, and
its 95 % interval by bootstrap.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from time import perf_counter, thread_time

import numpy as np

from edge_runtime import Engine, SamplingParams
from edge_runtime.lab.bench.compare import ratio_interval
from edge_runtime.telemetry.power import Choice
from edge_runtime.telemetry.power.sampler import start_sampler
from edge_runtime.telemetry.spans import Spans


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


@contextmanager
def instruments(board: Path, *, on: bool) -> Iterator[None]:
    """Have a meter read, or even spans time nothing."""
    if on:
        sampler, _ = start_sampler(Choice("auto", 10.0, board))
        try:
            yield
        finally:
            if sampler is not None:
                sampler.close()
        return
    timed, untimed = Spans.span, RLock()  # entering a lock of its own is the cheapest context there is
    Spans.span = lambda self, name: untimed  # type: ignore[method-assign, assignment, return-value]
    try:
        yield
    finally:
        Spans.span = timed  # type: ignore[method-assign]


def main() -> None:
    """Run and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--board", type=Path, default=Path("/"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--expert-memory", help="stream through a cache of this size")
    args = parser.parse_args()
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    with Engine.open(
        args.bundle, memory="1GiB", context=256, power_meter="none", expert_memory=args.expert_memory
    ) as engine:
        measure(engine, args.tokens, 0)
        for number in range(args.rounds):
            for is_on in (True, False) if number % 2 else (False, True):
                with instruments(args.board, on=is_on):
                    found[is_on].append(measure(engine, args.tokens, number))
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
