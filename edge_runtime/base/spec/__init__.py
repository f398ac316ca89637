"""A model described by parts: layers with their attention, the router's rule, what an expert computes.

`model` puts the parts together; `version1` reads the shape bundles and traces had before there were parts.
"""

from edge_runtime.base.spec.attention import (
    AttentionSpec,
    LatentAttention,
    LinearAttention,
    QkNorm,
    ShortConvolution,
    SoftmaxAttention,
)
from edge_runtime.base.spec.mlp import Activation, Codes, ExpertSpec, Matrix, MlpSpec, SharedSpec
from edge_runtime.base.spec.model import MAX_LAYERS, LayerSpec, ModelSpec, check_spec
from edge_runtime.base.spec.rope import MAX_CONTEXT, RopeKind, RopeSpec
from edge_runtime.base.spec.router import GroupSpec, RouterSpec, Score
from edge_runtime.base.spec.state import MixerKind, StateArray, conv_channels, has_mask, mixer_kind, rope_of, state_of

__all__ = [
    "MAX_CONTEXT",
    "MAX_LAYERS",
    "Activation",
    "AttentionSpec",
    "Codes",
    "ExpertSpec",
    "GroupSpec",
    "LatentAttention",
    "LayerSpec",
    "LinearAttention",
    "Matrix",
    "MixerKind",
    "MlpSpec",
    "ModelSpec",
    "QkNorm",
    "RopeKind",
    "RopeSpec",
    "RouterSpec",
    "Score",
    "SharedSpec",
    "ShortConvolution",
    "SoftmaxAttention",
    "StateArray",
    "check_spec",
    "conv_channels",
    "has_mask",
    "mixer_kind",
    "rope_of",
    "state_of",
]
