"""Launches of the trunk's kernels. Device addresses in, work queued on a stream; nothing here waits or allocates.

Letters: T tokens, D hidden, H heads, G key and value heads, C numbers of a head, N slots of a cache.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from edge_runtime.backends.cuda.driver import Module, Stream
from edge_runtime.backends.cuda.structures import Variant
from edge_runtime.backends.cuda.trunk.structures import CODES, MOST_NARROW, TOGETHER, Attend, Heads, Join, Linear

_WARP, _WIDE, _ROWS = 32, 256, 8
_POINTER, _U32 = ctypes.c_uint64, ctypes.c_uint32


@dataclass(frozen=True)
class DeviceMatrix:
    """A dense matrix in device memory, with its bias.

    Attributes:
        inputs: K.
        outputs: N.
        weights: address of float32 [K, N], or of codes [N, K bits / 8].
        bits: 32, 8 or 4.
        scales: address of float32 [N, K / block]; 0 for float32.
        block: inputs under one scale.
        bias: address of float32 [N], or 0.
        count: matrices of this size; each is a product of its own, as those of the heads of MLA.
        step: bytes from one to the next.
        scale_step: bytes from the scales of one to those of the next.
    """

    inputs: int
    outputs: int
    weights: int
    bits: int = 32
    scales: int = 0
    block: int = CODES
    bias: int = 0
    count: int = 1
    step: int = 0
    scale_step: int = 0


@dataclass(frozen=True)
class AttentionAt:
    """Where a layer's attention finds its numbers.

    Attributes:
        qkv: float32 [T, heads of a row, C].
        gammas: float32 [H + G, C], or 0.
        cos: float32 [T, rotated / 2].
        sin: the same.
        past: int32 [1], tokens in the cache.
        keys: float32 [G, N, C].
        values: the same.
        sinks: float32 [H], or 0.
        out: float32 [T, H C].
    """

    qkv: int
    gammas: int
    cos: int
    sin: int
    past: int
    keys: int
    values: int
    sinks: int
    out: int


class TrunkLaunches:
    """Launches on one stream.

    Args:
        module: the kernels.
        stream: orders the work.
    """

    def __init__(self, module: Module, stream: Stream) -> None:
        self._module, self._stream = module, stream

    def linear(
        self, x: int, matrix: DeviceMatrix, y: int, tokens: int, *, adds: bool = False, rows: tuple[int, int] = (0, 0),
        steps: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        """Compute y [T, N] = x [T, K] times a matrix, or add that to y.

        Args:
            x: address.
            matrix: the matrix, or several.
            y: address.
            tokens: T.
            adds: whether it is added.
            rows: numbers from a row of x to the next, and of y; 0: as many as the matrix has.
            steps: numbers from what one of several matrices reads, and writes, to what the next does.
        """
        shift = (matrix.block // CODES).bit_length() - 1
        size = Linear(
            matrix.inputs, matrix.outputs, tokens, adds, shift, rows[0] or matrix.inputs, rows[1] or matrix.outputs,
            *steps, matrix.step, matrix.scale_step,
        )  # fmt: skip
        kind, outputs = ("f32", _WARP) if matrix.bits == 32 else (f"q{matrix.bits}", _ROWS)
        name, together = ("one", 1) if tokens == 1 else ("many", TOGETHER)
        scales = () if matrix.bits == 32 else (matrix.scales,)
        grid = -(-matrix.outputs // outputs), matrix.count * -(-tokens // together)
        addresses = map(_POINTER, (x, matrix.weights, *scales, matrix.bias, y))
        self.launch(f"hb_linear_{kind}_{name}", grid, _WIDE, *addresses, size)

    def add_norm(
        self, x: int, more: int, weight: tuple[int, int], out: int, size: tuple[int, int], epsilon: float
    ) -> None:  # fmt: skip
        """Add `more` [T, D] to x [T, D] where it is not 0, and norm that.

        Args:
            x: changed in place.
            more: address, or 0.
            weight: float32 [D], and the bias of a LayerNorm or 0.
            out: [T, D].
            size: T and D.
            epsilon: of the norm.
        """
        tokens, width = size
        self._norm(x, more, weight, out, (tokens, width, width), epsilon)

    def norm_part(self, x: int, weight: int, size: tuple[int, int, int], epsilon: float) -> None:
        """Norm the first `width` numbers of each row in place; `size` is rows, width, and how far rows lie apart."""
        self._norm(x, 0, (weight, 0), x, size, epsilon)

    def join(self, resid: int, y: int, how: Join, tokens: int) -> None:
        """Let the residual stream [T, D] take a part's output y [T, D], or zeros where that is 0."""
        self.launch("hb_join", (tokens, 1), _WIDE, _POINTER(resid), _POINTER(y), how)

    def _norm(
        self, x: int, more: int, weight: tuple[int, int], out: int, size: tuple[int, int, int], epsilon: float
    ) -> None:  # fmt: skip
        rows, width, stride = size
        addresses = map(_POINTER, (x, more, *weight))
        rest = ctypes.c_float(epsilon), _POINTER(out), _U32(width), _U32(stride)
        self.launch("hb_add_norm", (rows, 1), _WIDE, *addresses, *rest)

    def attention(self, at: AttentionAt, heads: Heads, attend: Attend, tokens: int) -> None:
        """Norm and rotate heads, put keys and values into the cache, and attend to all of it."""
        grid = heads.heads + 2 * heads.kv_heads, tokens
        placed = map(_POINTER, (at.qkv, at.gammas, at.cos, at.sin, at.past, at.keys, at.values))
        self.launch("hb_place_heads", grid, _WARP, *placed, heads)
        self.attend((at.qkv, at.keys, at.values, at.sinks, at.past, at.out), attend, tokens)

    def attend(self, at: tuple[int, int, int, int, int, int], attend: Attend, tokens: int) -> None:
        """Attend to a cache; addresses of queries, keys, values, sinks or 0, tokens in the cache, and the output."""
        name = "hb_attend" if attend.dim <= MOST_NARROW else "hb_attend_wide"
        self.launch(name, (attend.heads, tokens), _WIDE, *map(_POINTER, at), attend)

    def hidden(self, wide: int, out: int, size: tuple[int, int], gated: bool, variant: Variant) -> None:
        """Apply a dense network's activation: gate and up side by side [T, 2 I], or up [T, I], become [T, I]."""
        tokens, inter = size
        addresses = _POINTER(wide), _POINTER(out)
        self.launch("hb_mlp_hidden", (-(-inter // _WIDE), tokens), _WIDE, *addresses, _U32(inter), _U32(gated), variant)

    def add(self, into: int, more: int, numbers: int) -> None:
        """Add float32 numbers to others in place."""
        self.launch("hb_add", (-(-numbers // _WIDE), 1), _WIDE, _POINTER(into), _POINTER(more), _U32(numbers))

    def gate_rows(self, y: int, gates: int, size: tuple[int, int]) -> None:
        """Multiply each row of y [T, D] by the sigmoid of one number."""
        tokens, hidden = size
        grid = -(-hidden // _WIDE), tokens
        self.launch("hb_gate_rows", grid, _WIDE, _POINTER(y), _POINTER(gates), _U32(hidden))

    def launch(self, name: str, grid: tuple[int, int], threads: int, *arguments: object) -> None:
        """Queue a kernel."""
        self._module.kernel(name).launch(self._stream, grid, threads, *arguments)
