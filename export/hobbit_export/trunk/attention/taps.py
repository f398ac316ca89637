"""Causal convolution of each channel by itself, over the few tokens a layer keeps and the new ones."""

from __future__ import annotations

from edge_runtime.base.arrays import F32
from hobbit_export.trunk.attention.context import Emission

_END = 2**31 - 1


def causal_taps(c: Emission, x: str, taps: F32) -> tuple[str, dict[str, str]]:
    """Return the sum of x's last K tokens times the taps, and what the next chunk needs as ``conv``.

    A sum of slices: ONNX Runtime runs a convolution in groups of one channel much slower.

    Args:
        c: has the input ``past_conv`` [1, K - 1, n] unless K is 1.
        x: [1, T, n].
        taps: [K, n], the oldest token's first.
    """
    g, kernel = c.graph, len(taps)
    window = g.node("Concat", "past_conv", x, axis=1) if kernel > 1 else x
    total = ""
    for j, tap in enumerate(taps):
        end = j + 1 - kernel or _END
        part = g.node("Slice", window, g.ints(j), g.ints(end), g.ints(1)) if kernel > 1 else window
        weighted = g.node("Mul", part, c.vector(f"tap_{j}", tap))
        total = g.node("Add", total, weighted) if total else weighted
    if kernel == 1:
        return total, {}
    return total, {"conv": g.node("Slice", window, g.ints(1 - kernel), g.ints(_END), g.ints(1))}
