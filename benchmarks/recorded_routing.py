"""Recordings of other programs' routing: what eviction rules read, and what a predictor of choices foresees.

    python -m benchmarks.recorded_routing FILE.csv.gz [FILE.csv.gz ...] [--out FILE.json]

The files are `route_trace v1` (docs/trace.md). Everything is replayed and counted, cold, so that other load changes
nothing. *Eviction*: bytes read over Belady's optimum by rule and cache size, and their geometric mean. *Prediction*: of
the predictors only `statistical` can be judged, as it looks at choices alone; `lookahead` and `expert-map` look at the
model's hidden states, which no such file holds. Given are the share of a layer's experts that were among as many
predicted, the same of another guess (this layer's experts of the token before), and what reading ahead by the predictor
would change: misses avoided, and bytes read in vain.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import exp, fsum, log
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.source import commit
from edge_runtime.lab.bench.folder import write_whole
from edge_runtime.lab.simulator.belady import optimum
from edge_runtime.lab.simulator.imported import write_trace
from edge_runtime.lab.simulator.replay import Recording, ReplaySettings, Simulation, simulate
from edge_runtime.lab.simulator.route_trace import read_recording
from edge_runtime.lab.simulator.trace import Trace
from edge_runtime.lab.simulator.trace_format import TraceHeader, TracePass
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch.recorded import RecordingPredictor
from edge_runtime.prefetch.statistical import StatisticalPreload

RULES = ("lru", "lcu", "lfru", "mdc", "next-use")
SIZES = (15, 25, 50)
MEAN_OF = (15, 25)
"""The cache sizes, in percent of all experts, that the geometric mean is over."""
MEMORY = 1024
"""The predictor's default."""


class Predicted:
    """A recording with what `statistical` would have predicted meanwhile. A `Recording` of the simulator."""

    def __init__(self, trace: Recording) -> None:
        self._trace = trace
        self.header: TraceHeader = replace(trace.header, ahead=1, predicted="shares")

    def router(self) -> Router:
        """See `Recording.router`."""
        return self._trace.router()

    def __iter__(self) -> Iterator[TracePass]:
        """Yield the passes, each with the predictions made from those before it and its own earlier layers."""
        spec, router = self.header.model, self.router()
        inner = StatisticalPreload(router, memory=MEMORY)
        keeping = RecordingPredictor(inner, spec.sparse_layers, spec.num_experts, 1)
        nothing = np.zeros((1, 0), np.float32)
        for one in self._trace:
            routings = router.route_recorded(one.logits, one.token_ids)
            for layer in spec.sparse_layers:
                keeping.predict(layer, nothing, routings[layer])
            yield one._replace(predictions=keeping.take(), is_prefetching=True)


def hits_of_predictions(trace: Recording) -> dict[str, float]:
    """Return which share of a layer's experts was among as many predicted, and among those of the token before.

    Layers behind the first one count, and tokens behind the first one.
    """
    spec, router = trace.header.model, trace.router()
    top_k, hits, repeated, asked = router.spec.top_k, 0, 0, 0
    before: dict[int, set[int]] = {}
    for number, one in enumerate(Predicted(trace)):
        routings = router.route_recorded(one.logits, one.token_ids)
        assert one.predictions is not None
        for place, layer in enumerate(spec.sparse_layers):
            chosen = set(routings[layer].topk_ids[0].tolist())
            if place and number:
                said = one.predictions[place - 1, 0, 0]
                best = np.argsort(-said[1:], kind="stable")[:top_k] if said[0] > 0 else ()
                hits, repeated, asked = (
                    hits + len(chosen & set(map(int, best))),
                    repeated + len(chosen & before[layer]),
                    asked + top_k,
                )
            before[layer] = chosen
    return {"statistical": round(hits / asked, 4), "token_before": round(repeated / asked, 4)}


def evictions(trace: Recording, percent: int) -> dict[str, float]:
    """Return bytes read over Belady's optimum of every rule, at a cache of so many percent of all experts."""
    found = {}
    for rule in RULES:
        ran = _replayed(trace, percent, rule)
        size = trace.header.layout.tier_bytes(trace.header.tier)
        bound = optimum(ran.requests, ran.kept_bytes, _slots(trace, percent) * size)
        assert bound.exact, "one size under lossless"
        found[rule] = round(ran.counters.bytes_read / bound.upper_bytes, 4)
    return found


def reading_ahead(trace: Recording, percent: int) -> dict[str, float]:
    """Return what reading ahead by `statistical` would change, with the default rule."""
    without = _replayed(trace, percent, "next-use").counters
    ahead = _replayed(Predicted(trace), percent, "next-use", prefetch=True).counters
    return {
        "misses_without": without.misses,
        "misses": ahead.misses,
        "issued": ahead.prefetch_issued,
        "used": ahead.prefetch_used,
        "wasted": ahead.prefetch_wasted,
        "bytes_over_without": round(ahead.bytes_read / without.bytes_read, 4),
    }


def _replayed(trace: Recording, percent: int, rule: str, *, prefetch: bool = False) -> Simulation:
    return simulate(trace, ReplaySettings(_slots(trace, percent), eviction=rule, prefetch=prefetch))


def _slots(trace: Recording, percent: int) -> int:
    spec = trace.header.model
    return len(spec.sparse_layers) * spec.num_experts * percent // 100


def geometric_means(recordings: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, float]:
    """Return each rule's geometric mean of factors, over all recordings and some cache sizes."""
    found = {}
    for rule in RULES:
        factors = [one["over_belady"][str(size)][rule] for one in recordings for size in sizes]
        found[rule] = round(exp(fsum(map(log, factors)) / len(factors)), 4)
    return found


def judged(path: Path) -> dict[str, Any]:
    """Replay one recording every way."""
    recording = read_recording(path)
    with tempfile.TemporaryDirectory() as folder:
        write_trace(recording, Path(folder) / "trace")
        trace = Trace(Path(folder) / "trace")
        tokens, layers, top_k = recording.experts.shape
        return {
            "file": path.name, "model": recording.model, "tokens": tokens, "layers": layers,
            "experts": recording.num_experts, "top_k": top_k,
            "over_belady": {str(size): evictions(trace, size) for size in SIZES},
            "foreseen": hits_of_predictions(trace),
            "reading_ahead": {str(size): reading_ahead(trace, size) for size in SIZES},
        }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, nargs="+", metavar="FILE.csv.gz")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    recordings = []
    for path in args.recordings:
        recordings.append(judged(path))
        print(json.dumps(recordings[-1]), flush=True)
    means = {"15 and 25": geometric_means(recordings, MEAN_OF)} | {
        str(size): geometric_means(recordings, [size]) for size in SIZES
    }
    print(json.dumps(means))
    if args.out is not None:
        said = {"commit": commit(), "sizes": list(SIZES), "geometric_means": means, "recordings": recordings}
        write_whole(args.out, (json.dumps(said, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
