"""The activations of feed-forward networks in numpy: for every oracle, of the trunk and of the expert kernels."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from edge_runtime.base.arrays import F32, F64
from edge_runtime.base.spec import Activation, ExpertSpec

Floats = TypeVar("Floats", F32, F64)
_GELU_CUBIC, _GELU_SCALE = 0.044715, 0.7978845608028654  # sqrt(2 / pi)


def activate(kind: Activation, x: Floats, alpha: float = 1.0) -> Floats:
    """Apply an activation elementwise, in the number type of `x`; `alpha` is the slope of silu's sigmoid."""
    number: Any = x.dtype.type
    result: Floats
    if kind == "relu2":
        result = np.maximum(x, number(0)) ** 2
    elif kind == "gelu_tanh":
        inner = number(_GELU_SCALE) * (x + number(_GELU_CUBIC) * x * x * x)
        result = number(0.5) * x * (number(1) + np.tanh(inner))
    else:
        result = x * sigmoid(x if alpha == 1 else number(alpha) * x)
    return result


def expert_hidden(experts: ExpertSpec, gate: Floats | None, up: Floats) -> Floats:
    """Return what an expert hands to its down matrix (`ExpertSpec` has the formula).

    Args:
        experts: what they compute.
        gate: gate x + b_gate [T, I]; None where there is no gate.
        up: up x + b_up [T, I].
    """
    if gate is None:
        return activate(experts.activation, up, experts.alpha)
    if experts.limit is not None:
        gate, up = np.minimum(gate, experts.limit), np.clip(up, -experts.limit, experts.limit)
    hidden: Floats = activate(experts.activation, gate, experts.alpha) * (up + up.dtype.type(experts.up_offset))
    return hidden


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    number: Any = x.dtype.type
    result: Floats = number(0.5) * (number(1) + np.tanh(number(0.5) * x))
    return result
