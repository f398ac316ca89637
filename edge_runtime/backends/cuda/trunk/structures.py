"""Arguments of the trunk's kernels (linear.cuh, attention.cuh)."""

from __future__ import annotations

import ctypes
import math

from edge_runtime.base.spec import SoftmaxAttention

TOGETHER = 4
"""Tokens that share a read of the weights (kMany in linear.cuh)."""
CODES = 16
"""Codes a lane takes at once: inputs of a quantised matrix are a multiple (kCodes in linear.cuh)."""
MOST_HEAD_DIM = 256
"""kMostHeadDim in attention.cuh."""
_U32, _FLOAT = ctypes.c_uint32, ctypes.c_float


class Linear(ctypes.Structure):
    """Sizes of a product."""

    _fields_ = (("inputs", _U32), ("outputs", _U32), ("tokens", _U32), ("adds", _U32), ("block_shift", _U32))


class Heads(ctypes.Structure):
    """What happens to heads between their projection and the scores."""

    _fields_ = (
        ("heads", _U32), ("kv_heads", _U32), ("dim", _U32), ("context", _U32), ("rotated", _U32),
        ("clip", _FLOAT), ("epsilon", _FLOAT),
    )  # fmt: skip


class Attend(ctypes.Structure):
    """A softmax over cached keys."""

    _fields_ = (
        ("heads", _U32), ("kv_heads", _U32), ("dim", _U32), ("context", _U32), ("window", _U32), ("scale", _FLOAT),
    )  # fmt: skip


def make_heads(attention: SoftmaxAttention, context: int, epsilon: float) -> Heads:
    """Return what a model's heads go through; a norm of the full width has been there before."""
    clip = math.inf if attention.clip_qkv is None else attention.clip_qkv
    rotated = 0 if attention.rope is None else attention.rope.dim
    sizes = attention.num_heads, attention.num_kv_heads, attention.head_dim
    return Heads(*sizes, context, rotated, clip, epsilon)


def make_attend(attention: SoftmaxAttention, context: int) -> Attend:
    """Return the softmax of a layer."""
    sizes = attention.num_heads, attention.num_kv_heads, attention.head_dim
    return Attend(*sizes, context, attention.window or 0, attention.score_scale)
