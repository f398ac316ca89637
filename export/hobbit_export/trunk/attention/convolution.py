"""A gated causal convolution over a few tokens (LFM2)."""

from __future__ import annotations

from hobbit_export.trunk.attention.context import Emission
from hobbit_export.trunk.attention.taps import causal_taps


def emit(c: Emission, x: str) -> tuple[str, dict[str, str]]:
    """Return the output [1, T, D] and the new conv for normed x [1, T, D]."""
    g, d = c.graph, c.hidden
    joint = _bias(c, c.product(x, "conv_in", ("conv_in",), (3 * d,), d), "conv_in_bias")
    before, after, values = g.nodes("Split", 3, joint, g.ints(d, d, d), axis=-1)
    mixed, new = causal_taps(c, g.node("Mul", before, values), c.get("conv")[:, 0].T)
    gated = g.node("Mul", after, _bias(c, mixed, "conv_bias"))
    return _bias(c, c.product(gated, "conv_out", ("conv_out",), (d,), d), "conv_out_bias"), new


def _bias(c: Emission, x: str, name: str) -> str:
    return c.graph.node("Add", x, c.vector(name, c.get(name))) if c.attention.bias else x
