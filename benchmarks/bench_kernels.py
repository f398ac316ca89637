"""How fast are the expert kernels, next to the memory they read from?

    python benchmarks/bench_kernels.py [--hidden 2048 --intermediate 768] [--threads 1 2] [--json]

Decode cycles through copies of one record that together exceed the caches and reports weight bytes
per second, with memory read bandwidth taken between its rounds. Prefill repeats one expert.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from edge_runtime.backends.cpu.kernels import ExpertEncoder, ExpertKernels, available_isas
from edge_runtime.base.checksum import crc32c

EXPERTS_A_TOKEN = 8


def aligned(size: int) -> np.ndarray:
    raw = np.zeros(size + 4096, np.uint8)
    start = -raw.ctypes.data % 4096
    return raw[start : start + size]


def encode(hidden: int, intermediate: int, threads: int) -> tuple[list[np.ndarray], float]:
    """Return segments 0..3 and the bfloat16 record, and the speed in MB/s of bfloat16 source."""
    rng = np.random.default_rng(0)
    shapes = [(intermediate, hidden)] * 2 + [(hidden, intermediate)]
    rows = [(rng.standard_t(5, s).astype(np.float32) * 0.02).view(np.uint32) >> 16 for s in shapes]
    encoder = ExpertEncoder(0, 0, hidden, intermediate, 4, True, threads)
    bits = [values.astype(np.uint16) for values in rows]
    begin = time.perf_counter()
    for matrix, values in enumerate(bits):
        encoder.add_rows(matrix, 0, values, "bf16")
    encoder.finish()
    seconds = time.perf_counter() - begin
    record = []
    for i in (0, 1, 2, 3, -1):
        record.append(aligned(encoder.segment(i).size))
        record[-1][:] = encoder.segment(i)
    return record, 6e-6 * hidden * intermediate / seconds


def compare_with_itself(part: np.ndarray) -> int:
    """Read memory with the C library's memcmp: every line comes from memory once, the second time from the cache."""
    memcmp = ctypes.CDLL(None).memcmp
    address, size = ctypes.c_void_p(part.ctypes.data), ctypes.c_size_t(part.nbytes)
    return int(memcmp(address, address, size))


def read_bandwidth(buffer: np.ndarray, threads: int) -> float:
    """Return the fastest of three plain readers, in GB/s."""
    parts = np.array_split(buffer.view(np.uint64), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for read in (np.bitwise_or.reduce, crc32c, compare_with_itself):
            begin = time.perf_counter()
            list(pool.map(read, parts))
            best = max(best, buffer.nbytes / (time.perf_counter() - begin) / 1e9)
    return best


def timed(call: Callable[[], None]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def decode(
    kernels: ExpertKernels, shape: tuple[int, int], tier: int, record: list[np.ndarray], pool: np.ndarray, rounds: int
) -> dict[str, float]:
    parts = record[4:] if tier == 16 else record[: tier // 2]
    size = sum(p.size for p in parts)
    count = pool.size // size // EXPERTS_A_TOKEN * EXPERTS_A_TOKEN
    addresses = np.zeros((count, 4), np.uint64)
    for n in range(count):
        at = n * size
        for k, part in enumerate(parts):
            pool[at : at + part.size] = part
            addresses[n, k] = pool.ctypes.data + at
            at += part.size
    x = np.random.default_rng(1).standard_normal((1, shape[0])).astype(np.float32)
    out, weights = np.empty_like(x), np.full((1, EXPERTS_A_TOKEN), 0.125, np.float32)
    starts, pairs = np.arange(EXPERTS_A_TOKEN + 1, dtype=np.int32), np.arange(EXPERTS_A_TOKEN, dtype=np.int32)

    def sweep() -> None:
        for first in range(0, count, EXPERTS_A_TOKEN):
            kernels.forward(x, tier, addresses[first : first + EXPERTS_A_TOKEN], starts, pairs, weights, out)

    sweep()
    rates, memory = [], []
    for _ in range(rounds):
        rates.append(count * size / timed(sweep) / 1e9)
        memory.append(read_bandwidth(pool, kernels.threads))
    rate, limit = statistics.median(rates), statistics.median(memory)
    return {"gb_s": round(rate, 2), "memory_gb_s": round(limit, 2), "share": round(rate / limit, 3)}


def prefill(
    kernels: ExpertKernels, shape: tuple[int, int], tier: int, record: list[np.ndarray], tokens: int, rounds: int
) -> float:
    parts = record[4:] if tier == 16 else record[: tier // 2]
    addresses = np.zeros((1, 4), np.uint64)
    addresses[0, : len(parts)] = [p.ctypes.data for p in parts]
    x = np.random.default_rng(1).standard_normal((tokens, shape[0])).astype(np.float32)
    starts, pairs = np.array([0, tokens], np.int32), np.arange(tokens, dtype=np.int32) * EXPERTS_A_TOKEN
    kernels.quantize(x)
    seconds = [timed(lambda: kernels.run(tier, addresses, starts, pairs)) for _ in range(rounds + 1)][1:]
    return round(3e-9 * shape[0] * shape[1] * tokens / statistics.median(seconds), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=768)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--isa", nargs="+", default=available_isas()[:1])
    parser.add_argument("--tiers", type=int, nargs="+", default=[2, 4, 6, 8, 16])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2, 4, 16, 128])
    parser.add_argument("--pool-mib", type=int, default=768, help="bytes that decode cycles through; exceed the caches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    shape = (args.hidden, args.intermediate)
    pool = aligned(args.pool_mib << 20)
    results: list[dict[str, Any]] = []
    for threads in args.threads:
        record, speed = encode(*shape, threads)
        results.append({"what": "encode", "threads": threads, "mb_s_of_bf16": round(speed, 1)})
        for isa in args.isa:
            kernels = ExpertKernels(*shape, EXPERTS_A_TOKEN, max(args.tokens), threads, isa)
            for tier in args.tiers:
                row = {"isa": isa, "threads": threads, "tier": tier}
                results.append({"what": "decode"} | row | decode(kernels, shape, tier, record, pool, args.rounds))
                macs = {f"gmac_s_{t}": prefill(kernels, shape, tier, record, t, 4 * args.rounds) for t in args.tokens}
                results.append({"what": "prefill"} | row | macs)
            del kernels
    head = {
        "machine": platform.processor() or platform.machine(),
        "hidden": shape[0],
        "intermediate": shape[1],
        "experts_a_token": EXPERTS_A_TOKEN,
        "pool_mib": args.pool_mib,
        "rounds": args.rounds,
    }
    if args.json:
        print(json.dumps(head | {"results": results}, indent=1))
        return
    print(*(f"{k}={v}" for k, v in head.items()))
    for line in results:
        print(*(f"{k}={v}" for k, v in line.items()))


if __name__ == "__main__":
    main()
