"""What instruments cost: decoding with and without them, token by token in turn, on one engine. One question.

    python benchmarks/bench_instruments.py BUNDLE [--board DIR] [--rounds 40] [--tokens 100] [--expert-memory SIZE]

*Spans* of trunk and experts are always on. Here every other token of an answer runs without them, so that whatever else
the machine does meets both alike, and each token is compared with its neighbour. *The meter* reads 10 times a second in
a thread of its own (a tree of files, see tests/board_trees.py); its share is the processor time it takes of a second,
as if nothing else could run on another core meanwhile. Spans of the host's other work are off in both, as while nobody
records. The shorter a token, the more instruments weigh, so a model that fits in memory is the worst case;
--expert-memory has one streamed. Prints milliseconds a token of both, the median change of pairs with its 95 % interval
(bootstrap over pairs, fixed seed), and the sum. What tokens enter instead of spans takes time too: `blocks` says how
many blocks a token has, what an empty one takes in a loop, and the share of a token that makes: the most that code
without any would save.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, perf_counter_ns, process_time, sleep
from typing import Any

import numpy as np

from edge_runtime import Engine, SamplingParams
from edge_runtime.base.arrays import F64
from edge_runtime.base.contexts import HostSpan, Untimed
from edge_runtime.telemetry.power import MeterChoice
from edge_runtime.telemetry.power.sampler import start_sampler
from edge_runtime.telemetry.spans import Spans

_HZ, _METER_S = 10.0, 5.0
_RESAMPLES = 2000
_TOKENS, _LOOPS, _BLOCKS = 16, 2000, 200


@contextmanager
def spans(*, on: bool) -> Iterator[None]:
    """Have spans time, or nothing."""
    if on:
        yield
        return
    timed, untimed = Spans.span, Untimed()
    Spans.span = lambda self, name: untimed  # type: ignore[method-assign, assignment, return-value]
    try:
        yield
    finally:
        Spans.span = timed  # type: ignore[method-assign]


def pairs(engine: Engine, tokens: int, number: int) -> Iterator[tuple[float, float]]:
    """Answer a request; yield milliseconds of a token without spans and of its neighbour with them."""
    params = SamplingParams(tokens, temperature=1, seed=number, ignore_eos=True)
    stream = engine.stream(np.arange(8, dtype=np.int32), params)
    next(stream)
    first_on = bool(number % 2)
    for _ in range((tokens - 1) // 2):
        spent = {}
        for is_on in (first_on, not first_on):
            with spans(on=is_on):
                started = perf_counter()
                next(stream)
                spent[is_on] = 1000 * (perf_counter() - started)
        yield spent[False], spent[True]
    for _ in stream:
        pass


def change_of(found: F64) -> dict[str, Any]:
    """Return the median change, in percent, of pairs float64 [n, 2] and its interval."""
    changes = 100 * (found[:, 1] / found[:, 0] - 1)
    random = np.random.default_rng(0)
    medians = [np.median(random.choice(changes, len(changes))) for _ in range(_RESAMPLES)]
    low, high = np.percentile(medians, (2.5, 97.5))
    off, on = np.median(found, axis=0)
    return {
        "pairs": len(found), "off_ms": round(float(off), 4), "on_ms": round(float(on), 4),
        "change_percent": round(float(np.median(changes)), 3),
        "interval_percent": [round(float(low), 3), round(float(high), 3)],
    }  # fmt: skip


class Counted:
    """A context that counts how often it is entered."""

    blocks = 0

    def __enter__(self) -> None:
        self.blocks += 1

    def __exit__(self, *exception: object) -> None:
        pass


def blocks_of(engine: Engine, off_ms: float) -> dict[str, float]:
    """Return how many blocks a token has, what an empty one takes, and the share of a token that makes."""
    counted, timed = Counted(), Spans.span
    stream = engine.stream(np.arange(8, dtype=np.int32), SamplingParams(_TOKENS + 1, temperature=1, ignore_eos=True))
    next(stream)
    Spans.span = lambda self, name: counted  # type: ignore[method-assign, assignment, return-value]
    try:
        for _ in stream:
            pass
    finally:
        Spans.span = timed  # type: ignore[method-assign]
    span, spent = HostSpan("empty"), []
    for _ in range(_LOOPS):
        started = perf_counter_ns()
        for _ in range(_BLOCKS):
            with span:
                pass
        spent.append((perf_counter_ns() - started) / _BLOCKS)
    each, blocks = float(np.median(spent)), counted.blocks / _TOKENS
    return {
        "a_token": round(blocks, 1), "each_ns": round(each, 1),
        "percent_of_a_token": round(100 * blocks * each / (1e6 * off_ms), 3),
    }  # fmt: skip


def meter_share(board: Path) -> float | None:
    """Return the percent of a core that reading a meter takes; None without one."""
    sampler, _ = start_sampler(MeterChoice("auto", _HZ, board))
    if sampler is None:
        return None
    try:
        started, spent = perf_counter(), process_time()
        sleep(_METER_S)
        return 100 * (process_time() - spent) / (perf_counter() - started)
    finally:
        sampler.close()


def main() -> None:
    """Run and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--board", type=Path, default=Path("/"))
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--expert-memory", help="stream through a cache of this size")
    args = parser.parse_args()
    meter = meter_share(args.board)
    with Engine.open(
        args.bundle, memory=args.memory, context=256, power_meter="none", expert_memory=args.expert_memory
    ) as engine:
        list(pairs(engine, args.tokens, 0))
        found = np.array([each for number in range(args.rounds) for each in pairs(engine, args.tokens, number)])
        timed = change_of(found)
        blocks = blocks_of(engine, timed["off_ms"])
    together = timed["change_percent"] + (meter or 0.0)
    print(json.dumps({
        "spans": timed, "blocks": blocks, "meter_percent": None if meter is None else round(meter, 3),
        "together_percent": round(together, 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
