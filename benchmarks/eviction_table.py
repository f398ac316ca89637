"""Bytes each eviction rule reads over Belady's optimum on a bundle's own routing: counts, whatever else runs.

    python benchmarks/eviction_table.py BUNDLE --text FILE --text FILE --out FILE.json [--tokens 1024] [--tier 4]

The texts are decoded one token a step, alternating every --window tokens, and recorded under `lossless`; the recording
is replayed cold with every rule. Under `lossless` all records have one size and the optimum is exact. Under
`rate-distortion` at a budget it is bracketed: over a schedule that knows the future, and over a bound nothing can beat.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from frontier import interleaved

from edge_runtime import Engine
from edge_runtime.bundle.calibration import ExpertCalibration, read
from edge_runtime.bundle.manifest_file import read as read_manifest
from edge_runtime.lab.bench.folder import write_whole
from edge_runtime.lab.simulator.belady import optimum
from edge_runtime.lab.simulator.recording import record
from edge_runtime.lab.simulator.replay import ReplaySettings, simulate
from edge_runtime.lab.simulator.trace import Trace

RULES = ("lru", "lcu", "lfru", "mdc", "rate-distortion", "layer-sizes", "next-use")
POINTS = (("lossless", 15), ("lossless", 25), ("lossless", 50), ("rate-distortion:max_kld=0.002", 25),
          ("rate-distortion:max_kld=0.005", 25))  # fmt: skip
"""Policies and cache sizes, in percent of all experts at the full tier."""


def factors(trace: Trace, calibration: ExpertCalibration, policy: str, percent: int) -> dict[str, Any]:
    """Return for every rule its bytes over the optimum's; over schedule and bound where it is not known exactly."""
    header, spec, found = trace.header, trace.header.model, {}
    slots = len(spec.sparse_layers) * spec.num_experts * percent // 100
    for rule in RULES:
        ran = simulate(trace, ReplaySettings(slots, policy, rule, calibration=calibration))
        bound = optimum(ran.requests, ran.kept_bytes, slots * header.layout.tier_bytes(header.tier))
        optima = [bound.upper_bytes] if bound.exact else [bound.upper_bytes, bound.lower_bytes]
        found[rule] = [round(ran.counters.bytes_read / each, 3) for each in optima]
    return {"policy": policy, "percent": percent, "over_belady": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--tier", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        options = {"tier": args.tier, "context": args.tokens, "prefetch": "off", "self_check": False}
        with Engine.open(args.bundle, memory="2GiB", **options) as engine:
            record(engine, [interleaved(engine, args)], path)
        trace = Trace(path)
        calibration = read(args.bundle, trace.header.model)
        points = []
        for policy, percent in POINTS:
            points.append(factors(trace, calibration, policy, percent))
            print(json.dumps(points[-1]), flush=True)
    said = {"bundle_id": read_manifest(args.bundle).bundle_id, "texts": [path.name for path in args.text],
            "tokens": args.tokens, "window": args.window, "tier": args.tier, "points": points}  # fmt: skip
    write_whole(args.out, (json.dumps(said, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
