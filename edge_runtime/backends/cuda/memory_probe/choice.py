"""Which kind of memory experts are in: the one asked for, or the one in which a byte costs the GPU least time."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_runtime.backends.cuda.blocks import KINDS, Kind, Staging
from edge_runtime.backends.cuda.gpu import Gpu
from edge_runtime.backends.cuda.memory_probe.kept import Measured, forget, keep, load
from edge_runtime.backends.cuda.memory_probe.kinds import BUDGET_S, KindResult, Kinds, try_kinds
from edge_runtime.base.errors import DeviceError

MISSED = 0.5
"""Share of the experts used that are read from the drive and copied, where experts lie in the GPU's own memory. What a
model really misses follows from a plan that is not made yet; docs/boards.md has 33 % with half of the experts in
memory, 63 % with a quarter."""
CLEARLY = 0.1
"""A kind is taken before the one that is preferred if a byte costs less by this share: short measurements differ."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Memory:
    """What was chosen.

    Attributes:
        kind: of memory that experts are in.
        why: in words.
        staging: what reads land in on their way there, where that is the GPU's own.
        probe: what was found out about the kinds, as plain data.
    """

    kind: Kind
    why: str
    staging: Staging
    probe: Mapping[str, Any]


def choose_memory(gpu: Gpu, asked: str) -> Memory:
    """Choose, and show that the chosen kind gives the GPU what the drive brought: one expert, at every start.

    Timing kinds takes a moment and is kept for the next start.

    Args:
        gpu: the GPU.
        asked: a kind, or "auto".

    Raises:
        DeviceError: experts cannot lie in what was asked for, or anywhere; says why.
        CudaMemoryError: there is no room for one expert's activations.
    """
    if asked != "auto":
        return _asked_for(gpu, next(kind for kind in KINDS if kind == asked))
    kept = load(gpu)
    if kept is not None:
        kind, why = choose(kept.kinds, integrated=gpu.device.integrated)
        now = try_kinds(gpu, _kinds_for(kind))
        if not now.results[kind].problem:
            staging = now.staging if kind == "device" else kept.kinds.staging
            return Memory(kind, why, staging, _described(kept, kept=True))
        _LOG.warning("cuda: %s memory: %s. It was good on %s: kinds of memory are tried again", kind,
                     now.results[kind].problem, kept.when)  # fmt: skip
        forget(gpu)
    start = time.monotonic()
    kinds = try_kinds(gpu, budget_s=BUDGET_S)
    measured = Measured.now(gpu, kinds, time.monotonic() - start)
    kind, why = choose(kinds, integrated=gpu.device.integrated)
    keep(gpu, measured)
    return Memory(kind, why, kinds.staging, _described(measured, kept=False))


def _kinds_for(kind: Kind) -> tuple[Kind, ...]:
    """Kinds to try for one: what a read lands in comes before the GPU's own memory."""
    return KINDS if kind == "device" else (kind,)


def _asked_for(gpu: Gpu, kind: Kind) -> Memory:
    kinds = try_kinds(gpu, _kinds_for(kind))
    if problem := kinds.results[kind].problem:
        other = "pinned or registered" if kind == "device" else "device"
        raise DeviceError(
            f"cuda: experts in {kind} memory: {problem}. Use --backend cuda:memory=auto, which takes what works, or "
            f"{other}."
        )
    described = {"kinds": {name: asdict(result) for name, result in kinds.results.items()}, "measured": None}
    return Memory(kind, "asked for", kinds.staging, described)


def _described(measured: Measured, *, kept: bool) -> dict[str, Any]:
    found = {kind: asdict(result) for kind, result in measured.kinds.results.items()}
    return {
        "kinds": found, "measured": measured.when, "seconds": measured.seconds, "kept": kept,
        "read_bytes": measured.kinds.nbytes,
    }  # fmt: skip


def choose(kinds: Kinds, *, integrated: bool) -> tuple[Kind, str]:
    """Choose from what is known of every kind.

    Args:
        kinds: what came of each.
        integrated: host and GPU share one memory.

    Raises:
        DeviceError: none can be used.
    """
    results = kinds.results
    order: list[Kind] = sorted(KINDS, key=lambda kind: (kind == "device") == integrated)
    bad = "; ".join(f"{kind} memory: {results[kind].problem}" for kind in order if results[kind].problem)
    usable = [kind for kind in order if not results[kind].problem]
    if not usable:
        raise DeviceError(f"cuda: experts cannot be kept in any memory: {bad}. Use --backend cpu.")
    best = usable[0]
    for kind in usable[1:]:
        if _cost(kind, results[kind], 1.0) < (1 - CLEARLY) * _cost(best, results[best], 0.0):
            best = kind
    said = ", ".join(_rate(kind, results[kind]) for kind in usable if results[kind].gb_s is not None)
    place = "host and GPU share one memory" if integrated else "the GPU has memory of its own"
    reads = f"; the GPU reads {said}" if said else "; nothing was timed"
    return best, (f"{bad}; " if bad else "") + place + reads


def _cost(kind: Kind, result: KindResult, unknown: float) -> float:
    """Seconds for 10^9 bytes of experts; `unknown` where that was not measured."""
    if result.gb_s is None:
        return unknown
    if kind != "device":
        return 1 / result.gb_s
    return unknown if result.copy_gb_s is None else 1 / result.gb_s + MISSED / result.copy_gb_s


def _rate(kind: Kind, result: KindResult) -> str:
    copied = "" if result.copy_gb_s is None else f" behind copies at {result.copy_gb_s:.3g}"
    return f"{kind} at {result.gb_s:.3g} GB/s{copied}"
