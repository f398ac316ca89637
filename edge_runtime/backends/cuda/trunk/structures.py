"""Arguments of the trunk's kernels (linear.cuh, attention.cuh, latent.cuh, recurrence.cuh, dense.cuh)."""

from __future__ import annotations

import ctypes
import math

import numpy as np

from edge_runtime.base.spec import LatentAttention, SoftmaxAttention

TOGETHER = 4
"""Tokens that share a read of the weights (kMany in linear.cuh)."""
CODES = 16
"""Codes a lane takes at once, and the smallest block under one scale (kCodes in linear.cuh)."""
READ_AT_ONCE = 4
"""Numbers of a row read at once: inputs of a matrix are a multiple."""
MOST_HEAD_DIM, MOST_NARROW, MOST_WIDE = 512, 256, 576
"""Numbers of a head; of its key in the narrow and in the wide kernel (attention.cuh)."""
MOST_KEY_DIM = 128
"""Numbers of a key of a recurrence (kMostKeyDim in recurrence.cuh)."""
MOST_STOPS = 3
"""Places of a chunk whose states are kept (kMostStops in recurrence.cuh)."""
PASSAGE = np.dtype([("from", np.int32), ("stops", np.int32), ("tokens", np.int32, 3), ("slots", np.int32, 3)])
"""Where a chunk's states come from and where they go (Passage in recurrence.cuh)."""
_U32, _U64, _FLOAT = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_float
_HEAD_NORMS = {"none": 0, "full": 0, "per_head": 1, "per_head_rotated": 2}


class Linear(ctypes.Structure):
    """Sizes of a product: rows `x_row` and `y_row` numbers apart; `*_step` where there are several matrices."""

    _fields_ = (
        ("inputs", _U32), ("outputs", _U32), ("tokens", _U32), ("adds", _U32), ("block_shift", _U32), ("x_row", _U32),
        ("y_row", _U32), ("x_step", _U32), ("y_step", _U32), ("step", _U32), ("scale_step", _U32),
    )  # fmt: skip


class Heads(ctypes.Structure):
    """What happens to heads between their projection and the scores."""

    _fields_ = (
        ("heads", _U32), ("kv_heads", _U32), ("dim", _U32), ("context", _U32), ("row", _U32), ("values", _U32),
        ("rotated", _U32), ("pairs", _U32), ("norm", _U32), ("value_norm", _U32), ("clip", _FLOAT), ("epsilon", _FLOAT),
    )  # fmt: skip


class Attend(ctypes.Structure):
    """A softmax over cached keys."""

    _fields_ = (
        ("heads", _U32), ("kv_heads", _U32), ("dim", _U32), ("context", _U32), ("window", _U32), ("scale", _FLOAT),
        ("row", _U32), ("value_dim", _U32), ("value_row", _U32), ("gate", _U32),
    )  # fmt: skip


class Latent(ctypes.Structure):
    """Sizes of MLA."""

    _fields_ = (("heads", _U32), ("rank", _U32), ("nope", _U32), ("rope", _U32), ("rotated", _U32))


class Taps(ctypes.Structure):
    """A causal convolution."""

    _fields_ = (
        ("channels", _U32), ("kernel", _U32), ("tokens", _U32), ("row", _U32), ("at", _U32), ("gated", _U32),
        ("silu", _U32), ("slot", _U32),
    )  # fmt: skip


class RecurrenceAt(ctypes.Structure):
    """Addresses of a recurrence."""

    _fields_ = tuple(
        (name, _U64) for name in ("mixed", "gates", "rates", "decay", "dt_bias", "skip", "states", "out")
    )  # fmt: skip


class Recurrence(ctypes.Structure):
    """Sizes of a recurrence, and where in a token's row its parts begin."""

    _fields_ = (
        ("heads", _U32), ("key_heads", _U32), ("key_dim", _U32), ("value_dim", _U32), ("tokens", _U32), ("row", _U32),
        ("q", _U32), ("k", _U32), ("v", _U32), ("gate_row", _U32), ("gate", _U32), ("rate_row", _U32), ("slot", _U32),
    )  # fmt: skip


class Gated(ctypes.Structure):
    """A norm within groups and a gate."""

    _fields_ = (
        ("width", _U32), ("groups", _U32), ("row", _U32), ("at", _U32), ("by_group", _U32), ("norm_first", _U32),
        ("is_silu", _U32), ("epsilon", _FLOAT),
    )  # fmt: skip


class Join(ctypes.Structure):
    """How a part's output joins the residual stream; addresses are 0 where there is nothing."""

    _fields_ = (
        ("own", _U64), ("beside", _U64), ("joint", _U64), ("by", _U64), ("width", _U32), ("scale", _FLOAT),
        ("epsilon", _FLOAT),
    )  # fmt: skip


def row_heads(attention: SoftmaxAttention) -> int:
    """Return how many heads of numbers a token's row of projections has: queries, keys, values and gates."""
    s = attention
    return s.num_heads * (1 + s.output_gate) + s.num_kv_heads * (1 if s.shared_kv else 2)


def make_heads(attention: SoftmaxAttention, context: int, epsilon: float) -> Heads:
    """Return what a model's heads go through; a norm of the full width has been there before."""
    s = attention
    clip = math.inf if s.clip_qkv is None else s.clip_qkv
    rotated, pairs = (0, False) if s.rope is None else (s.rope.dim, s.rope.pairs)
    values = s.num_heads + (0 if s.shared_kv else s.num_kv_heads)
    return Heads(
        s.num_heads, s.num_kv_heads, s.head_dim, context, row_heads(s) * s.head_dim, values, rotated, pairs,
        _HEAD_NORMS[s.qk_norm], s.value_norm, clip, epsilon,
    )  # fmt: skip


def make_attend(attention: SoftmaxAttention, context: int) -> Attend:
    """Return the softmax of a layer."""
    s = attention
    gate = (row_heads(s) - s.num_heads) * s.head_dim if s.output_gate else 0
    return Attend(
        s.num_heads, s.num_kv_heads, s.head_dim, context, s.window or 0, s.score_scale, row_heads(s) * s.head_dim,
        s.head_dim, s.head_dim, gate,
    )  # fmt: skip


def make_latent(attention: LatentAttention) -> Latent:
    """Return the sizes of a layer with MLA."""
    a = attention
    return Latent(a.num_heads, a.kv_rank, a.nope_dim, a.rope_dim, 0 if a.rope is None else a.rope.dim)


def attend_latent(attention: LatentAttention, context: int) -> Attend:
    """Return the softmax over what MLA keeps: one key of all heads, whose first numbers are the values."""
    a, width = attention, attention.kv_rank + attention.rope_dim
    return Attend(a.num_heads, 1, width, context, 0, a.score_scale, a.num_heads * width, a.kv_rank, width, 0)
