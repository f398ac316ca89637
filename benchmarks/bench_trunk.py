"""How fast is the native trunk, next to the memory it reads from? One to eight tokens a pass.

    python -m benchmarks.bench_trunk BUNDLE [--threads 2] [--tokens 1 2 3 4 5 6 7 8] [--before 64] [--out FILE.json]

Runs passes of m tokens through the dense part alone, head included, experts giving nothing, with some tokens in the KV
cache; nothing is kept of a pass. GB/s are the bytes of the packed weights, read once a pass, over the median time of
one; beside them what plain readers get of the same memory with as many threads, taken between the rounds. Whatever of
the weights stays in the processor's caches makes the figure better than the bus: the size stands beside it. The sizes
take turns in every round. The machine must be quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.bench_kernels import read_bandwidth
from benchmarks.compare.machine import identity
from benchmarks.source import commit
from edge_runtime.backends.cpu.kernels import available_isas, make_team
from edge_runtime.backends.cpu.trunk.native.trunk import NativeTrunk
from edge_runtime.backends.trunk import KVCache
from edge_runtime.base.spec import ModelSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.lab.bench.folder import write_whole


def run_pass(trunk: NativeTrunk, spec: ModelSpec, kv: KVCache, tokens: int) -> None:
    """Run a pass of zeros through every layer and the head; it is not committed."""
    chunk = trunk.begin(np.zeros(tokens, np.int32), kv)
    for layer_idx, layer in enumerate(spec.layers):
        if trunk.run_layer(chunk, layer_idx, None) is not None and layer.shared is not None:
            trunk.run_shared(chunk, layer_idx)
    trunk.head(chunk, None, slice(tokens))


def fill(trunk: NativeTrunk, spec: ModelSpec, kv: KVCache, tokens: int) -> None:
    """Put tokens into the KV cache, one by one."""
    for _ in range(tokens):
        chunk = trunk.begin(np.zeros(1, np.int32), kv)
        for layer_idx in range(spec.num_layers):
            trunk.run_layer(chunk, layer_idx, None)
        trunk.head(chunk, None, slice(1))
        trunk.commit(chunk)


def sweep(
    trunk: NativeTrunk, spec: ModelSpec, kv: KVCache, sizes: Sequence[int], rounds: int, read_bus: Callable[[], float]
) -> tuple[dict[int, list[float]], list[float]]:
    """Return the milliseconds of each round's pass by its tokens, and what plain readers got meanwhile, in GB/s."""
    times: dict[int, list[float]] = {m: [] for m in sizes}
    bus = [read_bus()]
    for number in range(rounds):
        for m in sizes:
            run_pass(trunk, spec, kv, m)  # the first behind another size finds its frame anew
            begin = time.perf_counter()
            run_pass(trunk, spec, kv, m)
            times[m].append(1000 * (time.perf_counter() - begin))
        if number % 5 == 4:
            bus.append(read_bus())
    return times, bus


def table(times: Mapping[int, Sequence[float]], weight_bytes: int, bus_gbps: float) -> list[dict[str, float]]:
    """Return a line a size: the median time of a pass, GB/s of weights, the share of the bus, time of a token over m=1.

    `per_token` is what a token of the pass costs, of a pass of one token if there is one: 1 / m where only the weights
    cost time.
    """
    one = statistics.median(times[1]) if 1 in times else None
    found = []
    for m, each in times.items():
        ms = statistics.median(each)
        gbps = weight_bytes / ms / 1e6
        found.append(
            {
                "tokens": m,
                "ms": round(ms, 3),
                "gb_s": round(gbps, 2),
                "of_bus": round(gbps / bus_gbps, 3),
                "per_token": round(ms / m / one, 3) if one else None,
            }
        )
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(range(1, 9)), metavar="M")
    parser.add_argument("--before", type=int, default=64, help="tokens in the KV cache")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--isa", default=available_isas()[0], choices=available_isas())
    parser.add_argument("--reader-mib", type=int, default=512, help="what plain readers read; exceed the caches")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    load, buffer = os.getloadavg()[0], np.ones(args.reader_mib << 20, np.uint8)
    bundle = Bundle.open(args.bundle)
    manifest = bundle.manifest
    trunk = NativeTrunk(
        bundle.path, manifest.model, team=make_team(args.threads), max_chunk=max(args.tokens),
        embedding=manifest.trunk.embedding, isa=args.isa,
    )  # fmt: skip
    kv = trunk.new_kv_cache(args.before + max(args.tokens))
    try:
        fill(trunk, manifest.model, kv, args.before)
        times, bus = sweep(
            trunk, manifest.model, kv, args.tokens, args.rounds, lambda: read_bandwidth(buffer, args.threads)
        )
        size = trunk.weight_bytes
    finally:
        trunk.close()
    reader = statistics.median(bus)
    said = {
        "machine": identity(args.bundle, args.isa), "commit": commit(), "bundle_id": manifest.bundle_id,
        "trunk": manifest.trunk.precision, "threads": args.threads, "before": args.before, "rounds": args.rounds,
        "load_before": round(load, 2), "weight_bytes": size, "bus_gb_s": round(reader, 2),
        "bus_gb_s_range": [round(min(bus), 2), round(max(bus), 2)], "table": table(times, size, reader),
    }  # fmt: skip
    for line in (f"{name}: {value}" for name, value in said.items() if name != "table"):
        print(line)
    for row in said["table"]:
        print(" ".join(f"{name}={value}" for name, value in row.items()))
    if args.out is not None:
        write_whole(args.out, (json.dumps(said, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
