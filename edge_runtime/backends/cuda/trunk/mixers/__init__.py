"""What mixes the tokens of a layer, on the GPU: one file a kind of attention."""

from __future__ import annotations

from collections.abc import Mapping

from edge_runtime.backends.cuda.trunk.mixers import convolution, latent, recurrent, softmax
from edge_runtime.backends.cuda.trunk.mixers.base import Mixer
from edge_runtime.base.spec import AttentionSpec, MixerKind, mixer_kind

MIXERS: Mapping[MixerKind, Mixer] = {
    "softmax": softmax, "latent": latent, "gated_delta": recurrent, "kimi_delta": recurrent, "mamba2": recurrent,
    "convolution": convolution,
}  # fmt: skip
"""By kind; what is missing is refused by name."""


def mixer_of(attention: AttentionSpec) -> Mixer:
    """Return what computes a supported attention."""
    return MIXERS[mixer_kind(attention)]
