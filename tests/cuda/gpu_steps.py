"""What `make gpu-check` measures: kinds of memory, and products of experts at the sizes of models."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from itertools import cycle
from typing import Any

import numpy as np

from edge_runtime.backends.cuda.driver import CudaMemoryError, DeviceMemory, Stream
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.launches import ExpertLaunches, Hidden
from edge_runtime.backends.cuda.memory_probe.choice import choose
from edge_runtime.backends.cuda.memory_probe.kinds import try_kinds
from edge_runtime.backends.cuda.memory_probe.reading import FIRST_BYTES, timed_ms
from edge_runtime.backends.cuda.structures import ACT_GROUP, GROUP, Pairs
from edge_runtime.base.spec import ExpertSpec
from edge_runtime.bundle.record import RecordLayout

MODELS = {"Qwen3-30B-A3B": (2048, 768, 8), "gpt-oss-20b": (2880, 2880, 4), "Mixtral-8x7B": (4096, 14336, 2)}
"""Hidden size, width of an expert, experts a token."""
GOALS = {"Mixtral-8x7B": 0.7}
"""Share of the bandwidth measured that is meant to be reached; less is a result, no fault."""
MOST_BYTES, BUDGET_S, SHARE = 512 << 20, 5.0, 64
"""What the probe of a start may read here of each kind: more than any cache holds, and at most a share of the memory."""


def memory_kinds(gpu: Gpu, quick: bool) -> dict[str, Any]:
    """Run the probe of a start: an expert from each kind of memory against the CPU, how fast it is read, what is taken.

    A kind that this machine does not have is no fault: the result says why. One that gives the GPU other numbers than
    the CPU `is_wrong`.
    """
    most = FIRST_BYTES if quick else min(MOST_BYTES, gpu.device.total_bytes // SHARE // 16 * 16)
    kinds = try_kinds(gpu, budget_s=BUDGET_S, most=most)
    chosen, why = choose(kinds, integrated=gpu.device.integrated)
    return {"kinds": {kind: asdict(result) for kind, result in kinds.results.items()},
            "read_bytes": kinds.nbytes, "chosen": chosen, "why": why}  # fmt: skip


def decode_products(gpu: Gpu, gb_s: float | None, scale: int = 1, repeats: int = 20) -> dict[str, Any]:
    """Time one layer's experts of one token at 4 bits, for models' sizes, against the bandwidth measured.

    Args:
        gpu: the GPU.
        gb_s: measured of device memory, if it was.
        scale: sizes are divided by it, for a CPU that plays a GPU.
        repeats: runs that are timed.
    """
    found: dict[str, Any] = {}
    for name, (hidden, inter, top_k) in MODELS.items():
        d, i = (max(GROUP, n // scale // GROUP * GROUP) for n in (hidden, inter))
        try:
            nbytes, ms = layer_ms(gpu, (d, i, top_k), repeats)
        except CudaMemoryError as err:
            found[name] = {"skipped": str(err)}
            continue
        reached = nbytes / ms / 1e6
        share = None if gb_s is None else round(reached / gb_s, 3)
        found[name] = {"us": round(1000 * ms, 1), "gb_s": round(reached, 2), "of_measured": share}
        if name in GOALS:
            met = None if share is None or scale != 1 else share >= GOALS[name]
            found[name] |= {"goal": GOALS[name], "met": met}
    return found


def layer_ms(gpu: Gpu, size: tuple[int, int, int], repeats: int) -> tuple[int, float]:
    """Return the bytes and the milliseconds of the experts of one token, all different, at 4 bits; numbers are zeros.

    As many layers take turns as the GPU's cache cannot hold.
    """
    d, i, top_k = size
    base, plane = RecordLayout(d, i, 2).segment_bytes
    layer_bytes = top_k * (base + plane)
    layers = 1 + -(-2 * gpu.device.l2_bytes // layer_bytes)
    with ExitStack() as undo:
        stream = Stream(gpu.device)
        undo.callback(stream.close)

        def room(nbytes: int) -> DeviceMemory:
            return undo.enter_context(DeviceMemory(gpu.device, nbytes))

        experts, y = room(layers * layer_bytes), room(4 * top_k * d)
        x, h = room(d // GROUP * ACT_GROUP.itemsize), room(top_k * i // GROUP * ACT_GROUP.itemsize)
        for each in (experts, x, h):
            each.fill(0, stream)
        rows, tables = np.arange(top_k), []
        for layer in range(layers):
            segments = np.zeros((top_k, 4), np.uint64)
            segments[:, 0] = experts.address + (layer * top_k + rows) * (base + plane)
            segments[:, 1] = segments[:, 0] + np.uint64(base)
            tables.append(room(segments.nbytes))
            tables[-1].write(segments, stream)
        ids = room(4 * top_k)
        ids.write(rows.astype(np.int32), stream)
        launches, order = ExpertLaunches(gpu.module, d, top_k, ExpertSpec(i)), cycle(tables)
        at = Hidden(x.address, h.address, y.address)

        def run() -> None:
            pairs = Pairs(next(order).address, ids.address, ids.address)
            launches.run_pairs(stream, 4, pairs, top_k, at)

        ms = timed_ms(stream, run, repeats)
        return layer_bytes, ms
