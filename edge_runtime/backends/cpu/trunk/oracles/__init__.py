"""The kinds of attention the trunk computes: one file a kind, which is also its oracle in plain numpy.

The exporter has an emitter for each (`hobbit_export.trunk.attention`).
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_runtime.backends.cpu.trunk.oracles import convolution, gated_delta, kimi_delta, latent, mamba2, softmax
from edge_runtime.backends.cpu.trunk.oracles.base import Mixer
from edge_runtime.base.spec import AttentionSpec, MixerKind, mixer_kind

MIXERS: Mapping[MixerKind, Mixer] = {
    "softmax": softmax, "latent": latent, "gated_delta": gated_delta, "kimi_delta": kimi_delta, "mamba2": mamba2,
    "convolution": convolution,
}  # fmt: skip
"""By kind; what is missing is described, and refused by name."""


def mixer_of(attention: AttentionSpec) -> Mixer:
    """Return what computes a supported attention."""
    return MIXERS[mixer_kind(attention)]
