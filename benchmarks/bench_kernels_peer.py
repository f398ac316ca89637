"""Our expert kernels next to ggml's of the same bits, at the same shapes, in one run.

    python benchmarks/bench_kernels_peer.py GGML_LIBRARY_FOLDER [--tiers 2 4 8] [--threads 1 2] [--json FILE]

Decode: one token goes through 8 experts at a time until more than a GB of weights was read, which exceeds any cache;
ggml computes the same with `mul_mat_id`, as llama.cpp does. Prefill: m tokens go through each of 16 experts (ours 8
a call, with SiLU and requantising; ggml's three `mul_mat` an expert, in one graph). Both sides and a plain reader of
the same memory alternate, so that drift of the machine meets all; figures are medians of the rounds. ggml is measured
in plain buffers and, where it has one for the type, in its buffers of repacked weights; all weights lie in huge pages.
The folder is one you built: the project neither builds nor fetches it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from bench_kernels import encode, read_bandwidth
from ggml_peer import Ggml, PeerWeights

from edge_runtime.backends.cpu.kernels import ExpertKernels
from edge_runtime.base.huge_pages import huge_memory

TOP_K = 8
PEER_TYPES = {2: "q2_K", 4: "q4_0", 8: "q8_0"}
# What ggml repacks a type for on x86; with any other it does not refuse the buffer, it crashes.
REPACKED_WITH = {"q4_0": "avx2", "q2_K": "avx512f"}
Sweep = Callable[[], None]


class OurWeights:
    """Copies of one record in huge pages, at one tier."""

    def __init__(self, record: list[np.ndarray], tier: int, nbytes: int) -> None:
        parts = record[: tier // 2]
        size = sum(part.size for part in parts)
        self.count = nbytes // size // TOP_K * TOP_K
        self.nbytes = self.count * size
        self._memory = huge_memory(self.nbytes)
        self.bytes = np.frombuffer(self._memory, np.uint8)
        self.addresses = np.zeros((self.count, 4), np.uint64)
        at = 0
        for n in range(self.count):
            for k, part in enumerate(parts):
                self.bytes[at : at + part.size] = part
                self.addresses[n, k] = self.bytes.ctypes.data + at
                at += part.size


def our_decode(kernels: ExpertKernels, weights: OurWeights, hidden: int, tier: int) -> Sweep:
    x = np.random.default_rng(1).standard_normal((1, hidden)).astype(np.float32)
    out, shares = np.empty_like(x), np.full((1, TOP_K), 0.125, np.float32)
    starts, pairs = np.arange(TOP_K + 1, dtype=np.int32), np.arange(TOP_K, dtype=np.int32)

    def sweep() -> None:
        for first in range(0, weights.count, TOP_K):
            kernels.forward(x, tier, weights.addresses[first : first + TOP_K], starts, pairs, shares, out)

    return sweep


def our_prefill(
    kernels: ExpertKernels, weights: OurWeights, hidden: int, tier: int, tokens: int, experts: int
) -> Sweep:
    x = np.random.default_rng(1).standard_normal((tokens, hidden)).astype(np.float32)
    starts = np.arange(TOP_K + 1, dtype=np.int32) * tokens
    pairs = np.arange(TOP_K * tokens, dtype=np.int32).reshape(tokens, TOP_K).T.ravel().copy()

    def sweep() -> None:
        kernels.quantize(x)
        for first in range(0, experts, TOP_K):
            kernels.run(tier, weights.addresses[first : first + TOP_K], starts, pairs)

    return sweep


def seconds(call: Sweep) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def alternate(sides: dict[str, Sweep], rounds: int) -> dict[str, list[float]]:
    """Return each side's seconds a round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_idx in range(rounds + 1):
        for name, sweep in sides.items():
            spent = seconds(sweep)
            if round_idx:
                times[name].append(spent)
    return times


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 2), "low": round(min(values), 2), "high": round(max(values), 2)}


class Comparison:
    """What one command line asks for, and the rows found so far."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.shape = args, (args.hidden, args.intermediate)
        self.macs = 3 * args.hidden * args.intermediate  # of one expert and token
        self.ggml = Ggml(args.folder)
        self.record, _ = encode(*self.shape, max(args.threads))
        self.rows: list[dict[str, Any]] = []

    def _peers(self, tier: int, layers: int, experts: int) -> dict[str, PeerWeights]:
        kind = PEER_TYPES[tier]
        found = {}
        for buffer in self.ggml.buffer_types():
            if buffer == "repack" and REPACKED_WITH.get(kind) not in cpu_flags():
                continue
            found[f"ggml {kind} {buffer}"] = PeerWeights(self.ggml, kind, buffer, self.shape, layers, experts)
        return found

    def decode(self, tier: int) -> None:
        """Add rows: GB/s and G multiply-adds/s of each side, and what a plain reader gets."""
        nbytes = self.args.pool_mib << 20
        ours = OurWeights(self.record, tier, nbytes)
        experts = 64
        layers = max(1, round(ours.count / experts))
        peers = self._peers(tier, layers, experts)
        done = {"ours": (ours.nbytes, ours.count)}
        graphs = {}
        for name, peer in peers.items():
            graphs[name] = peer.decode_graph(TOP_K)
            done[name] = (peer.nbytes, layers * experts)
        for threads in self.args.threads:
            self.ggml.use_threads(threads)
            kernels = ExpertKernels(*self.shape, TOP_K, 1, threads)
            sides: dict[str, Sweep] = {"ours": our_decode(kernels, ours, self.shape[0], tier)}
            for name, peer in peers.items():
                sides[name] = lambda peer=peer, graph=graphs[name]: peer.compute(graph)  # type: ignore[misc]
            memory: list[float] = []
            sides["memory"] = lambda threads=threads, memory=memory: memory.append(  # type: ignore[misc]
                read_bandwidth(ours.bytes, threads)
            )
            times = alternate(sides, self.args.rounds)
            limit = statistics.median(memory[1:])
            for name, (size, count) in done.items():
                rate = [size / t / 1e9 for t in times[name]]
                row = {
                    "what": "decode",
                    "tier": tier,
                    "threads": threads,
                    "side": name,
                    "gb_s": spread(rate),
                    "gmac_s": round(count * self.macs / statistics.median(times[name]) / 1e9, 1),
                    "memory_gb_s": spread(memory[1:]),
                    "of_memory": round(statistics.median(rate) / limit, 3),
                }
                self._add(row)
            del kernels
        for peer in peers.values():
            peer.free()

    def prefill(self, tier: int) -> None:
        """Add rows: G multiply-adds/s of each side for each number of tokens."""
        experts = self.args.prefill_experts
        ours = OurWeights(self.record, tier, experts * sum(part.size for part in self.record[:4]))
        peers = self._peers(tier, experts, 1)
        for threads in self.args.threads:
            self.ggml.use_threads(threads)
            kernels = ExpertKernels(*self.shape, TOP_K, max(self.args.tokens), threads)
            for tokens in self.args.tokens:
                sides = {"ours": our_prefill(kernels, ours, self.shape[0], tier, tokens, experts)}
                for name, peer in peers.items():
                    graph = peer.prefill_graph(tokens)
                    sides[name] = lambda peer=peer, graph=graph: peer.compute(graph)  # type: ignore[misc]
                for name, times in alternate(sides, self.args.rounds).items():
                    rate = [experts * tokens * self.macs / t / 1e9 for t in times]
                    self._add({"what": "prefill", "tier": tier, "threads": threads, "tokens": tokens, "side": name,
                               "gmac_s": spread(rate)})  # fmt: skip
            del kernels
        for peer in peers.values():
            peer.free()

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        print(*(f"{k}={v['median'] if isinstance(v, dict) else v}" for k, v in row.items()), flush=True)


def cpu_info(key: str) -> list[str]:
    """Return the values of a key of /proc/cpuinfo, one a processor; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(key)]


def cpu_flags() -> set[str]:
    return set(" ".join(cpu_info("flags")[:1]).split())


def processor() -> str:
    names = cpu_info("model name")
    return f"{names[0]}, {len(names)} processors" if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of libggml-base.so and libggml-cpu.so")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=768)
    parser.add_argument("--tiers", type=int, nargs="+", default=[2, 4, 8], choices=tuple(PEER_TYPES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--what", nargs="+", default=["decode", "prefill"], choices=("decode", "prefill"))
    parser.add_argument("--pool-mib", type=int, default=1100, help="weights of a side that decode goes through")
    parser.add_argument("--prefill-experts", type=int, default=16, help="a multiple of 8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="append the rows and the machine as one line to this file")
    args = parser.parse_args()
    comparison = Comparison(args)
    for tier in args.tiers:
        if "decode" in args.what:
            comparison.decode(tier)
        if "prefill" in args.what:
            comparison.prefill(tier)
    if args.json:
        head = {"when": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()), "processor": processor(),
                "hidden": args.hidden, "intermediate": args.intermediate, "pool_mib": args.pool_mib,
                "rounds": args.rounds, "isa": ExpertKernels(32, 32, 1, 1).isa}  # fmt: skip
        with args.json.open("a") as file:
            file.write(json.dumps(head | {"rows": comparison.rows}) + "\n")


if __name__ == "__main__":
    main()
