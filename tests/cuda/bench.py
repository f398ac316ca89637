"""Kernels on the fake GPU: arrays in, arrays out; records of experts; what the reference says."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.cpu.activation import expert_hidden
from edge_runtime.backends.cpu.kernels import ExpertEncoder, reference
from edge_runtime.backends.cuda.driver import Device, DeviceMemory, Module, Stream
from edge_runtime.backends.cuda.launches import BF16, ExpertLaunches, Hidden, cut_tiles
from edge_runtime.backends.cuda.structures import ACT_GROUP, Pairs, Tiles
from edge_runtime.base.arrays import F32, F64, I32
from edge_runtime.base.spec import ExpertSpec

Array = NDArray[Any]
TIERS = (2, 4, 6, 8, 16)
BOUND = 2e-5
"""Of the largest output: float32 sums taken in another order."""


class Bench:
    """A GPU, its kernels and a stream; every array a test puts on it is freed with it."""

    def __init__(self, fake: ctypes.CDLL, device: Device, module: Module) -> None:
        self.fake, self.device, self.module = fake, device, module
        self.stream = Stream(device)
        self._memory: list[DeviceMemory] = []

    def put(self, array: Array) -> int:
        """Copy an array to the device; returns its address."""
        memory = DeviceMemory(self.device, max(array.nbytes, 16))
        self._memory.append(memory)
        memory.write(np.ascontiguousarray(array), self.stream)
        return memory.address

    def room(self, dtype: Any, *shape: int) -> DeviceMemory:
        """Memory for an array, poisoned."""
        memory = DeviceMemory(self.device, max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 16))
        memory.fill(0xFF, self.stream)
        self._memory.append(memory)
        return memory

    def get(self, memory: DeviceMemory, dtype: Any, *shape: int) -> Array:
        """Copy an array back, when all that was queued has run."""
        out = np.zeros(shape, dtype)
        memory.read(out, self.stream)
        self.stream.synchronize()
        return out

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exc: Any) -> None:
        for memory in self._memory:
            memory.close()
        self.stream.close()


@dataclass(frozen=True, eq=False)
class Expert:
    """One expert's record: its progressive segments and its bfloat16 form. Equal to itself alone."""

    segments: tuple[Array, ...]
    bf16: Array

    def parts(self, tier: int) -> tuple[Array, ...]:
        return (self.bf16,) if tier == BF16 else self.segments[: tier // 2]


_FLOATS = np.array([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6])


def float4(weights: Array) -> Array:
    """The nearest 4-bit floats, with a power of two for each 32; one group of zeros, one of a far smaller power."""
    groups = weights.reshape(-1, 32).copy()
    groups[0], groups[-1] = 0, groups[-1] * 2.0**-40
    top = np.abs(groups).max(1, keepdims=True)
    powers = np.exp2(np.floor(np.log2(np.where(top, top, 1))) - 2)
    nearest = np.abs(groups[..., None] / powers[..., None] - _FLOATS).argmin(-1)
    return np.asarray((_FLOATS[nearest] * powers).reshape(weights.shape))


@cache
def make_expert(hidden: int, spec: ExpertSpec, seed: int) -> Expert:
    """Encode a random expert. Outputs of about 1, so that clamps and both sides of an activation are met."""
    rng = np.random.default_rng(seed)
    count = 2 if spec.codes == "fp4" else 4
    form = {"gated": spec.gated, "bias": spec.bias, "codes": spec.codes}
    encoder = ExpertEncoder(0, seed, hidden, spec.intermediate, count, bf16=True, **form)
    for matrix, (rows, cols) in enumerate([(spec.intermediate, hidden)] * 2 + [(hidden, spec.intermediate)]):
        if matrix == 0 and not spec.gated:
            continue
        weights = rng.standard_t(5, (rows, cols)) / np.sqrt(cols)
        weights = float4(weights) if spec.codes == "fp4" else weights
        encoder.add_rows(matrix, 0, weights.astype(np.float32), "f32")
        if spec.bias:
            encoder.add_bias(matrix, rng.standard_normal(rows).astype(np.float32))
    encoder.finish()
    segments = tuple(np.array(encoder.segment(i)) for i in range(count))
    return Expert(segments, np.array(encoder.bf16()))


@dataclass(frozen=True)
class Case:
    """Tokens, and which experts they go through.

    Attributes:
        hidden: D.
        spec: what experts compute.
        tier: of all of them.
        experts: int32 [T, K].
        slot_of: int32 [E], where each expert lies; -1: nowhere.
        x: float32 [T, D].
        pool: the experts by slot.
    """

    hidden: int
    spec: ExpertSpec
    tier: int
    experts: I32
    slot_of: I32
    x: F32
    pool: tuple[Expert, ...]

    @property
    def pairs(self) -> int:
        return self.experts.size

    def expert_of(self, pair: int) -> Expert | None:
        """The expert of a pair; None where nothing is computed."""
        index = int(self.experts.flat[pair])
        slot = -1 if index < 0 else int(self.slot_of[index])
        return None if slot < 0 else self.pool[slot]


def make_case(hidden: int, spec: ExpertSpec, tier: int, seed: int, tokens: int = 2) -> Case:
    """Three experts in slots out of order, one that is nowhere, a pair left out, and an expert met twice by a token."""
    rng = np.random.default_rng(1000 * seed + tokens)
    slot_of = np.array([2, -1, 0, 1], np.int32)
    experts = rng.integers(0, 4, (tokens, 3)).astype(np.int32)
    experts[0] = [0, 0, 1]
    experts[-1, 2] = -1 if tokens > 1 else 3
    x = rng.standard_normal((tokens, hidden)).astype(np.float32)
    pool = tuple(make_expert(hidden, spec, 10 * seed + n) for n in range(3))
    return Case(hidden, spec, tier, experts, slot_of, x, pool)


@dataclass(frozen=True)
class Ran:
    """What the kernels left: h as `ACT_GROUP` [P, I / 32] or float32 [P, I], y float32 [P, D]; bytes 0xFF: unwritten."""

    h: Array
    y: F32


def act_groups(x: F32) -> Array:
    """Quantise rows as `ACT_GROUP` [T, n / 32]."""
    codes, scales = reference.quantize_activations(x)
    out = np.zeros((x.shape[0], x.shape[1] // 32), ACT_GROUP)
    out["q"], out["scale"] = codes.reshape(*out.shape, 32), scales
    out["sum"] = out["q"].astype(np.int32).sum(-1)
    out["scale_sum"] = scales * out["sum"].astype(np.float32)
    return out


def values_of(acts: Array) -> F64:
    """The numbers `ACT_GROUP` [.., n / 32] stands for, [.., n]."""
    if acts.dtype != ACT_GROUP:
        return acts.astype(np.float64)
    numbers = acts["q"].astype(np.float64) * acts["scale"][..., None]
    return np.asarray(numbers.reshape(*acts.shape[:-1], -1))


@dataclass(frozen=True)
class Placed:
    """A case on the device."""

    segments: int
    places: dict[tuple[int, int], tuple[int, int]]
    """(slot, segment) -> address and bytes."""
    launches: ExpertLaunches
    at: Hidden
    h: DeviceMemory
    y: DeviceMemory


def place(bench: Bench, case: Case, acts: Array | None = None) -> Placed:
    """Put a case on the device; `acts` stands in for its activations."""
    table, places = np.zeros((len(case.pool), 4), np.uint64), {}
    for slot, expert in enumerate(case.pool):
        for k, part in enumerate(expert.parts(case.tier)):
            table[slot, k] = bench.put(part)
            places[slot, k] = int(table[slot, k]), part.nbytes
    launches = ExpertLaunches(bench.module, case.hidden, case.experts.shape[1], case.spec)
    h = bench.room(np.uint8, launches.act_bytes(case.pairs, case.spec.intermediate, case.tier))
    y = bench.room(np.float32, case.pairs, case.hidden)
    if acts is None:
        acts = case.x if case.tier == BF16 else act_groups(case.x)
    return Placed(bench.put(table), places, launches, Hidden(bench.put(acts), h.address, y.address), h, y)


def collect(bench: Bench, case: Case, placed: Placed) -> Ran:
    inter = case.spec.intermediate
    wide = (np.float32, inter) if case.tier == BF16 else (ACT_GROUP, inter // 32)
    h = bench.get(placed.h, wide[0], case.pairs, wide[1])
    return Ran(h, bench.get(placed.y, np.float32, case.pairs, case.hidden))


def run_pairs(bench: Bench, case: Case, placed: Placed | None = None) -> Ran:
    """Every pair by itself."""
    placed = place(bench, case) if placed is None else placed
    pairs = Pairs(placed.segments, bench.put(case.slot_of), bench.put(case.experts))
    placed.launches.run_pairs(bench.stream, case.tier, pairs, case.pairs, placed.at)
    return collect(bench, case, placed)


def run_tiles(bench: Bench, case: Case, placed: Placed | None = None) -> Ran:
    """Pairs of an expert together."""
    placed = place(bench, case) if placed is None else placed
    cut, members = cut_tiles(case.experts.ravel(), case.slot_of)
    tiles = Tiles(placed.segments, bench.put(cut), bench.put(members))
    placed.launches.run_tiles(bench.stream, case.tier, tiles, len(cut), placed.at)
    return collect(bench, case, placed)


def matrices(case: Case, expert: Expert) -> tuple[Sequence[F32], Sequence[F32]]:
    """Weights and biases of an expert as the reference decodes them."""
    return _decoded(expert, case.hidden, case.spec, case.tier)


@lru_cache(maxsize=8)
def _decoded(expert: Expert, hidden: int, spec: ExpertSpec, tier: int) -> tuple[Sequence[F32], Sequence[F32]]:
    size, gated, record = (hidden, spec.intermediate), spec.gated, expert.parts(tier)
    decoded = (
        reference.decode_bf16(record[0], *size, gated=gated)
        if tier == BF16
        else reference.decode_expert(record, *size, tier, gated=gated, codes=spec.codes)
    )
    biases: Sequence[F32] = [np.zeros(len(m), np.float32) for m in decoded]
    if spec.bias:
        biases = reference.decode_biases(record[0], *size, tier, gated=gated)
    return decoded, biases


def expected_end_to_end(case: Case, pair: int, expert: Expert) -> F32:
    """What the reference's whole expert makes of a pair's token, float32 [D]."""
    weights, biases = matrices(case, expert)
    token = case.x[pair // case.experts.shape[1]][None]
    given = {"experts": case.spec, "biases": tuple(biases)}
    return np.asarray(reference.expert_forward(token, tuple(weights), case.tier != BF16, **given)[0])


def expected_hidden(case: Case, pair: int, expert: Expert) -> F64:
    """What enters a pair's down matrix, float64 [I], not yet quantised."""
    weights, biases = matrices(case, expert)
    x = case.x[pair // case.experts.shape[1]][None]
    inputs = values_of(x if case.tier == BF16 else act_groups(x))
    wide = [inputs @ w.T + b for w, b in zip(weights[:-1], biases[:-1], strict=True)]
    gate = wide[0] if case.spec.gated else None
    return np.asarray(expert_hidden(case.spec, gate, wide[-1])[0])


def expected_output(case: Case, ran: Ran, pair: int, expert: Expert) -> F64:
    """A pair's output, float64 [D], for the h the kernels computed."""
    weights, biases = matrices(case, expert)
    return np.asarray(values_of(ran.h[pair]) @ weights[-1].T + biases[-1])


def is_poison(array: Array) -> bool:
    """Nothing was written."""
    return bool((np.ascontiguousarray(array).view(np.uint8) == 0xFF).all())
