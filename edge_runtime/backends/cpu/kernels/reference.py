"""Decode and run expert records in plain numpy: slow, obvious, and what the kernels are tested against.

Written from ``docs/format.md``, not from the C++. A kernel agrees with `expert_forward` within
``max|dy| <= KERNEL_BOUND * max|y|``: float32 sums are taken in another order, so an intermediate
value that lies on a rounding tie may become a different int8. Typical distance 1e-6.

Letters: D hidden, I intermediate, T tokens. Matrices and biases of an expert come as tuples in the order of a record:
gate (where there is one), up, down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime.backends.cpu.activation import expert_hidden
from edge_runtime.backends.cpu.kernels.reference_codes import fp4_weights, linear_weights, plane_codes
from edge_runtime.base.arrays import F32, F64, I8
from edge_runtime.base.spec import ExpertSpec

__all__ = [
    "KERNEL_BOUND",
    "bf16_bytes",
    "decode_bf16",
    "decode_biases",
    "decode_expert",
    "expert_forward",
    "quantize_activations",
    "segment_bytes",
]

KERNEL_BOUND = 2e-3

Matrices = tuple[F32, ...]
Buffer = Any  # bytes, memoryview or a uint8 array

_GROUP, _ROWS, _HEADER, _ALIGN = 32, 16, 64, 4096
_ROW_BYTES = 192  # row steps, row minima and tables of a panel


def _pad(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _shapes(hidden: int, intermediate: int, gated: bool) -> list[tuple[int, int]]:
    """Return rows and columns of each matrix."""
    return [(intermediate, hidden)] * (2 if gated else 1) + [(hidden, intermediate)]


def _num_weights(hidden: int, intermediate: int, gated: bool) -> int:
    return (3 if gated else 2) * hidden * intermediate


def _end_of_plane0(hidden: int, intermediate: int, gated: bool) -> int:
    metadata = sum(rows // _ROWS * (_ROW_BYTES + cols) for rows, cols in _shapes(hidden, intermediate, gated))
    return _HEADER + metadata + _num_weights(hidden, intermediate, gated) // 4


def _bias_bytes(hidden: int, intermediate: int, gated: bool) -> int:
    return 4 * sum(rows for rows, _ in _shapes(hidden, intermediate, gated))


def segment_bytes(
    hidden: int, intermediate: int, num_segments: int, *, gated: bool = True, bias: bool = False
) -> list[int]:
    """Return the padded size in bytes of each of the first `num_segments` segments."""
    biases = _bias_bytes(hidden, intermediate, gated) if bias else 0
    plane = _num_weights(hidden, intermediate, gated) // 4
    return [_pad(_end_of_plane0(hidden, intermediate, gated) + biases)] + [_pad(plane)] * (num_segments - 1)


def bf16_bytes(hidden: int, intermediate: int, *, gated: bool = True, bias: bool = False) -> int:
    """Return the padded size in bytes of a bfloat16 record."""
    biases = _bias_bytes(hidden, intermediate, gated) if bias else 0
    return _pad(2 * _num_weights(hidden, intermediate, gated) + biases)


def _panel_order(hidden: int, intermediate: int, gated: bool) -> list[tuple[int, int, int]]:
    """List (matrix, first row, columns) of every panel in file order; matrix 0 is the first of the record."""
    wide = range(2 if gated else 1)
    order = [(matrix, row, hidden) for row in range(0, intermediate, _ROWS) for matrix in wide]
    return order + [(len(wide), row, intermediate) for row in range(0, hidden, _ROWS)]


def _empty(hidden: int, intermediate: int, gated: bool) -> Matrices:
    return tuple(np.zeros(shape, np.float32) for shape in _shapes(hidden, intermediate, gated))


def decode_expert(
    segments: Sequence[Buffer], hidden: int, intermediate: int, tier: int, *, gated: bool = True, codes: str = "linear"
) -> Matrices:  # fmt: skip
    """Return the float32 weights of a progressive record at one tier.

    Args:
        segments: at least tier / 2 segments, each bytes-like and padded as in the file.
        hidden: D.
        intermediate: I.
        tier: 2, 4, 6 or 8.
        gated: there is a gate matrix.
        codes: "linear", or "fp4" for records of 4-bit floats, which have tiers 2 and 4.

    Returns:
        gate [I, D] (where there is one), up [I, D], down [D, I].

    Raises:
        ValueError: the tier is unknown, a segment is missing or too short, or the magic differs.
    """
    if tier not in (2, 4, 6, 8):
        raise ValueError(f"decode_expert: tier must be 2, 4, 6 or 8, got {tier}")
    sizes = segment_bytes(hidden, intermediate, tier // 2, gated=gated)
    if len(segments) < len(sizes):
        raise ValueError(f"decode_expert: tier {tier} needs {len(sizes)} segments, got {len(segments)}")
    raw = [np.frombuffer(segment, np.uint8) for segment in segments[: len(sizes)]]
    for index, (array, size) in enumerate(zip(raw, sizes, strict=True)):
        if array.size < size:
            raise ValueError(f"decode_expert: segment {index} must have {size} bytes, got {array.size}")
    base = raw[0]
    if bytes(base[:4]) != b"HBR1":
        raise ValueError(f"decode_expert: record magic must be HBR1, got {bytes(base[:4])!r}")
    order = _panel_order(hidden, intermediate, gated)
    meta_at = _HEADER
    plane_at = [_HEADER + sum(_ROW_BYTES + cols for _, _, cols in order), 0, 0, 0]
    out = _empty(hidden, intermediate, gated)
    for matrix, row, cols in order:
        steps = base[meta_at : meta_at + 128].view("<f4").reshape(2, _ROWS, 1)
        table = base[meta_at + 128 : meta_at + _ROW_BYTES].reshape(_ROWS, 4)
        groups = base[meta_at + _ROW_BYTES : meta_at + _ROW_BYTES + cols]
        group = groups.reshape(cols // _GROUP, 2, _ROWS).astype(np.float32)
        a = np.repeat(steps[0] * group[:, 0].T, _GROUP, axis=1)
        b = np.repeat(-steps[1] * group[:, 1].T, _GROUP, axis=1)
        planes = [plane_codes(raw[k][plane_at[k] : plane_at[k] + 4 * cols], cols) for k in range(tier // 2)]
        if codes == "fp4":
            powers = np.repeat(groups.reshape(cols // _GROUP, 2, _ROWS)[:, 0].T, _GROUP, axis=1)
            out[matrix][row : row + _ROWS] = fp4_weights(tier, planes, table, powers)
        else:
            out[matrix][row : row + _ROWS] = linear_weights(tier, planes, table, a, b)
        meta_at += _ROW_BYTES + cols
        plane_at = [at + 4 * cols for at in plane_at]
    return out


def decode_bf16(record: Buffer, hidden: int, intermediate: int, *, gated: bool = True) -> Matrices:
    """Return the float32 weights of a bfloat16 record: gate [I, D] (where there is one), up [I, D], down [D, I].

    Raises:
        ValueError: the record is too short.
    """
    raw = np.frombuffer(record, np.uint8)
    size = bf16_bytes(hidden, intermediate, gated=gated)
    if raw.size < size:
        raise ValueError(f"decode_bf16: record must have {size} bytes, got {raw.size}")
    out = _empty(hidden, intermediate, gated)
    at = 0
    for matrix, row, cols in _panel_order(hidden, intermediate, gated):
        bits = raw[at : at + 32 * cols].view("<u2").reshape(cols, _ROWS).astype(np.uint32) << 16
        out[matrix][row : row + _ROWS] = bits.view(np.float32).T
        at += 32 * cols
    return out


def decode_biases(record: Buffer, hidden: int, intermediate: int, tier: int, *, gated: bool = True) -> Matrices:
    """Return the float32 biases of a record that has some: gate [I] (where there is one), up [I], down [D].

    Args:
        record: segment 0; the bfloat16 record at tier 16.
        hidden: D.
        intermediate: I.
        tier: 2, 4, 6, 8 or 16.
        gated: there is a gate matrix.
    """
    exact = 2 * _num_weights(hidden, intermediate, gated)
    at = exact if tier == 16 else _end_of_plane0(hidden, intermediate, gated)
    found = []
    for rows, _ in _shapes(hidden, intermediate, gated):
        found.append(np.frombuffer(record, "<f4", rows, at))
        at += 4 * rows
    return tuple(found)


def quantize_activations(x: F32) -> tuple[I8, F32]:
    """Quantise to int8 per group of 32: codes [T, n] in [-127, 127] and scales [T, n / 32]."""
    groups = x.reshape(x.shape[0], -1, _GROUP)
    peak = np.abs(groups).max(axis=2)
    used = peak > 1e-30
    inverse = np.where(used, np.float32(127) / np.where(used, peak, np.float32(1)), np.float32(0))
    codes = np.rint(groups * inverse[:, :, None]).astype(np.int8).reshape(x.shape)
    return codes, np.where(used, peak / np.float32(127), np.float32(0))


def _as_the_kernel_sees(x: F32) -> F64:
    codes, scales = quantize_activations(x)
    return codes.astype(np.float64) * np.repeat(scales.astype(np.float64), _GROUP, axis=1)


def expert_forward(
    x: F32,
    weights: Matrices,
    quantized: bool = True,
    *,
    experts: ExpertSpec | None = None,
    biases: Matrices = (),
) -> F32:
    """Return what an expert computes, accumulated in float64: `ExpertSpec` has the formula.

    Args:
        x: float32 [T, D].
        weights: gate [I, D] (where there is one), up [I, D], down [D, I], as the decoders return them.
        quantized: round x and the hidden activations to int8 groups of 32, as tiers 2 to 8 do;
            False for bfloat16 records.
        experts: what they compute; SwiGLU if left out.
        biases: as `decode_biases` returns them; empty where there are none.

    Returns:
        float32 [T, D].
    """
    experts = ExpertSpec(weights[-1].shape[1]) if experts is None else experts
    inputs = _as_the_kernel_sees(x) if quantized else x.astype(np.float64)
    wide = [inputs @ w.astype(np.float64).T for w in weights[:-1]]
    if biases:
        wide = [value + bias.astype(np.float64) for value, bias in zip(wide, biases, strict=False)]
    gate, up = wide if experts.gated else (None, wide[0])
    hidden = expert_hidden(experts, gate, up).astype(np.float32)
    acts = _as_the_kernel_sees(hidden) if quantized else hidden.astype(np.float64)
    out = acts @ weights[-1].astype(np.float64).T
    return np.asarray((out + biases[-1] if biases else out).astype(np.float32))
