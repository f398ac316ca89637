"""The kernels' launches: which grid, how many threads, in which order. Device addresses in, work queued on a stream.

Letters: T tokens, D hidden, I intermediate, K top-k, E experts, S slots, P = T K pairs of a token and a rank. A pair
has the number `token * K + rank`. Nothing here waits, allocates or copies.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from edge_runtime.backends.cuda.driver import Module, Stream
from edge_runtime.backends.cuda.structures import (
    ACT_GROUP,
    GROUP,
    PANEL,
    TILE,
    TILE_TOKENS,
    Pairs,
    RouterTensors,
    Tiles,
    make_rule,
    make_shape,
    make_variant,
)
from edge_runtime.base.arrays import I32, Structs
from edge_runtime.base.spec import ExpertSpec, RouterSpec

BF16 = 16
BATCH_TIERS = (2, 4, 6, 8)
"""Tiers with kernels for several tokens; at 16 every pair goes through the weights by itself."""
_WARP = 32
_BATCH_THREADS, _DOWN_THREADS, _WIDE_THREADS = 256, 128, 256


@dataclass(frozen=True)
class Hidden:
    """Where the activations of some experts are. At tier 16 all of it is float32, else x and h are `ACT_GROUP` groups.

    Attributes:
        x: address of what enters the experts, [T, D].
        h: of what enters the down matrices, [P, I].
        y: of the outputs, float32 [P, D].
    """

    x: int
    h: int
    y: int


class ExpertLaunches:
    """Launches of one model's expert kernels on a stream.

    Outputs do not depend on which experts a launch has, on their order, or on whether a pair goes alone (`run_pairs`)
    or with others (`run_tiles`): the bits are the same.

    Args:
        module: the kernels.
        hidden: D.
        top_k: K.
        experts: what they compute.
    """

    def __init__(self, module: Module, hidden: int, top_k: int, experts: ExpertSpec) -> None:
        self._module, self._hidden, self._inter = module, hidden, experts.intermediate
        self._panels = 4 if experts.gated else 2
        self._shape, self._variant = make_shape(hidden, top_k, experts), make_variant(experts)
        self._kinds = {2: 3, 4: 5} if experts.codes == "fp4" else {}  # as codes.cuh numbers them

    def act_bytes(self, rows: int, width: int, tier: int) -> int:
        """Return the bytes of `rows` rows of activations, of x (width D) or h (width I), at a tier."""
        return rows * (4 * width if tier == BF16 else width // GROUP * ACT_GROUP.itemsize)

    def run_pairs(self, stream: Stream, tier: int, pairs: Pairs, num_pairs: int, at: Hidden) -> None:
        """Compute y of pairs, each by itself: a matrix-vector product straight from the record.

        Args:
            stream: orders the work.
            tier: 2, 4, 6, 8 or 16.
            pairs: which experts, and where they are. A pair of expert -1, or of an expert in slot -1, is left out: its
                h and y are not written.
            num_pairs: P, at most 65535.
            at: where the activations are.
        """
        grid, threads = (self._inter // GROUP, num_pairs), 2 * _WARP * self._panels
        x, h, y = map(ctypes.c_uint64, (at.x, at.h, at.y))
        kind = self._kinds.get(tier, tier)
        gate_up, down = self._module.kernel(f"hb_gate_up_{kind}"), self._module.kernel(f"hb_down_{kind}")
        gate_up.launch(stream, grid, threads, pairs, x, h, self._shape, self._variant)
        down.launch(stream, (self._hidden // GROUP, num_pairs), _DOWN_THREADS, pairs, h, y, self._shape)

    def run_tiles(self, stream: Stream, tier: int, tiles: Tiles, num_tiles: int, at: Hidden) -> None:
        """Compute y of pairs that share experts, tile by tile, on int8 tensor cores.

        Args:
            stream: orders the work.
            tier: one of `BATCH_TIERS`.
            tiles: as `cut_tiles` makes them.
            num_tiles: how many, at most 65535.
            at: where the activations are.
        """
        x, h, y = map(ctypes.c_uint64, (at.x, at.h, at.y))
        kind = self._kinds.get(tier, tier)
        gate_up, down = self._module.kernel(f"hb_batch_gate_up_{kind}"), self._module.kernel(f"hb_batch_down_{kind}")
        grid = (self._inter // GROUP, num_tiles)
        gate_up.launch(stream, grid, _BATCH_THREADS, tiles, x, h, self._shape, self._variant)
        down.launch(stream, (self._hidden // PANEL, num_tiles), _BATCH_THREADS, tiles, h, y, self._shape)


def cut_tiles(experts: I32, slot_of: I32) -> tuple[Structs, I32]:
    """Cut pairs into tiles: pairs of one expert side by side, at most `TILE_TOKENS` together.

    Args:
        experts: int32 [P], expert of each pair; -1 leaves it out.
        slot_of: int32 [E], slot of each expert; -1 leaves its pairs out.

    Returns:
        Tiles `TILE` [n] and their pairs int32, by expert, then by number.
    """
    used = np.flatnonzero((experts >= 0) & (slot_of[experts] >= 0))
    members = used[np.argsort(experts[used], kind="stable")].astype(np.int32)
    _, starts, counts = np.unique(experts[members], return_index=True, return_counts=True)
    cut = [
        (slot_of[experts[members[start]]], start + done, min(TILE_TOKENS, count - done))
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True)
        for done in range(0, count, TILE_TOKENS)
    ]
    return np.array(cut, TILE), members


def quantize(module: Module, stream: Stream, x: int, out: int, num_groups: int) -> None:
    """Quantise float32 activations to int8 groups: `num_groups` rows of 32 at x, `ACT_GROUP` at out."""
    warps = _WIDE_THREADS // _WARP
    grid = (-(-num_groups // warps), 1)
    arguments = ctypes.c_uint64(x), ctypes.c_uint64(out), ctypes.c_uint32(num_groups)
    module.kernel("hb_quantize").launch(stream, grid, _WIDE_THREADS, *arguments)


@dataclass(frozen=True)
class Norm:
    """A root mean square norm: addresses of weight float32 [D], out float32 [T, D], groups `ACT_GROUP` [T, D / 32]."""

    weight: int
    epsilon: float
    out: int
    groups: int


def rms_norm(module: Module, stream: Stream, x: int, norm: Norm, size: tuple[int, int]) -> None:
    """Norm the rows of x float32 [T, D], as float32 and as int8 groups.

    Args:
        module: the kernels.
        stream: orders the work.
        x: address.
        norm: the norm, and where its results go.
        size: T and D.
    """
    tokens, hidden = size
    where = ctypes.c_uint64(norm.out), ctypes.c_uint64(norm.groups), ctypes.c_uint32(hidden)
    what = ctypes.c_uint64(x), ctypes.c_uint64(norm.weight), ctypes.c_float(norm.epsilon)
    module.kernel("hb_rms_norm").launch(stream, (tokens, 1), _WIDE_THREADS, *what, *where)


def combine(module: Module, stream: Stream, y: int, weights: int, out: int, size: tuple[int, int, int]) -> None:
    """Add up the outputs of each token's experts.

    Args:
        module: the kernels.
        stream: orders the work.
        y: address of the outputs, float32 [T, K, D].
        weights: address, float32 [T, K]; a weight of exactly 0 leaves its pair out.
        out: address, float32 [T, D].
        size: T, K and D.
    """
    tokens, top_k, hidden = size
    grid = (-(-hidden // _WIDE_THREADS), tokens)
    numbers = ctypes.c_uint32(hidden), ctypes.c_uint32(top_k)
    where = ctypes.c_uint64(y), ctypes.c_uint64(weights), ctypes.c_uint64(out)
    module.kernel("hb_combine").launch(stream, grid, _WIDE_THREADS, *where, *numbers)


class RouterLaunch:
    """Launches of one model's router.

    Args:
        module: the kernels.
        router: the rule.

    Raises:
        ValueError: it is too large for a warp; see `structures.MOST_EXPERTS`.
    """

    def __init__(self, module: Module, router: RouterSpec) -> None:
        self._kernel, self._rule = module.kernel("hb_route"), make_rule(router)

    def run(self, stream: Stream, logits: int, tensors: RouterTensors, out: tuple[int, int], tokens: int) -> None:
        """Choose and weigh experts, heaviest first.

        Args:
            stream: orders the work.
            logits: address, float32 [T, E], without the bias in `tensors`. A row with one that is not finite gets NaN
                as its weights.
            tensors: a layer's numbers.
            out: addresses of experts int32 [T, K] and weights float32 [T, K].
            tokens: T.
        """
        ids, weights = map(ctypes.c_uint64, out)
        self._kernel.launch(stream, (tokens, 1), _WARP, ctypes.c_uint64(logits), self._rule, tensors, ids, weights)
