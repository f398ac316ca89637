"""A gated causal convolution over a few tokens (LFM2): out(c * convolve(b * x)), with b, c, x from one projection."""

from __future__ import annotations

import numpy as np

from edge_runtime.backends.cpu.trunk.oracles.base import Growth, LayerRun, Shapes, causal_taps
from edge_runtime.base.arrays import F32
from edge_runtime.base.spec import ShortConvolution

MAX_TOKENS: int | None = None
TABLES: tuple[str, ...] = ()


def problem(attention: ShortConvolution) -> str | None:
    """See `Mixer.problem`: all of it runs."""
    return None


def weight_shapes(attention: ShortConvolution, hidden: int) -> Shapes:
    """See `Mixer.weight_shapes`; b, c and x come in this order."""
    shapes: Shapes = {
        "conv_in": (3 * hidden, hidden), "conv": (hidden, 1, attention.kernel), "conv_out": (hidden, hidden),
    }  # fmt: skip
    if attention.bias:
        shapes |= {"conv_in_bias": (3 * hidden,), "conv_bias": (hidden,), "conv_out_bias": (hidden,)}
    return shapes


def growth(attention: ShortConvolution, hidden: int) -> Growth:
    """See `Mixer.growth`: with one token a chunk, those before it count as well."""
    return Growth(3 * hidden, fixed=attention.kernel * hidden)


def run(layer: LayerRun, x: F32) -> tuple[F32, dict[str, F32]]:
    """See `Mixer.run`."""
    has_bias = layer.attention.bias
    joint = layer.linear(x, "conv_in")
    joint = joint + layer.get("conv_in_bias") if has_bias else joint
    before, after, values = np.split(joint, 3, -1)
    mixed, new = causal_taps(layer, before * values, layer.get("conv")[:, 0].T)
    mixed = mixed + layer.get("conv_bias") if has_bias else mixed
    out = layer.linear(after * mixed, "conv_out")
    return (out + layer.get("conv_out_bias") if has_bias else out), new
