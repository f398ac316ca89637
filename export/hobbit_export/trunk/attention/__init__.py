"""Graphs of the kinds of attention: one file a kind. The runtime has an oracle for each.

An emitter returns a layer's output and, by name, the new value of everything the layer keeps
(`edge_runtime.base.spec.state_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge_runtime.base.spec import MixerKind
from hobbit_export.trunk.attention import convolution, gated_delta, kimi_delta, latent, mamba2, softmax
from hobbit_export.trunk.attention.context import Emission

Emitter = Callable[[Emission, str], tuple[str, dict[str, str]]]
EMITTERS: Mapping[MixerKind, Emitter] = {
    "softmax": softmax.emit, "latent": latent.emit, "gated_delta": gated_delta.emit, "kimi_delta": kimi_delta.emit,
    "mamba2": mamba2.emit, "convolution": convolution.emit,
}  # fmt: skip
"""By kind, the same kinds as `edge_runtime.backends.cpu.trunk.oracles.MIXERS`."""
