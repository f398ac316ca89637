"""What a layer keeps of the tokens before, by its attention. Everything that sizes, binds or stores it asks here."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

from edge_runtime.base.spec.attention import (
    AttentionSpec,
    LatentAttention,
    LinearAttention,
    ShortConvolution,
    SoftmaxAttention,
)
from edge_runtime.base.spec.rope import RopeSpec

MixerKind: TypeAlias = Literal["softmax", "latent", "gated_delta", "kimi_delta", "mamba2", "convolution"]
"""What computes an attention: one emitter of the exporter, one oracle of the runtime for each."""


class StateArray(NamedTuple):
    """An array a layer keeps between passes, float32.

    A graph reads it as ``past_<name>`` and writes ``new_<name>``.

    Attributes:
        name: within the layer.
        shape: (G, C) of an array [1, G, S, C] that grows by a slot a token; (a, ...) of one [1, a, ...] of fixed size,
            which cannot be cut after a token.
        grows: which of the two.
    """

    name: str
    shape: tuple[int, ...]
    grows: bool

    @property
    def numbers(self) -> int:
        """How many numbers it has: for each token if it grows, else in all."""
        return math.prod(self.shape)


def mixer_kind(attention: AttentionSpec) -> MixerKind:
    """Return what computes an attention."""
    if isinstance(attention, SoftmaxAttention):
        return "softmax"
    if isinstance(attention, LatentAttention):
        return "latent"
    return attention.rule if isinstance(attention, LinearAttention) else "convolution"


def state_of(attention: AttentionSpec | None, hidden: int) -> tuple[StateArray, ...]:
    """Return what a layer keeps; nothing without attention.

    Args:
        attention: the layer's.
        hidden: D.
    """
    if isinstance(attention, SoftmaxAttention):
        shape = (attention.num_kv_heads, attention.head_dim)
        return (StateArray("k", shape, True), StateArray("v", shape, True))
    if isinstance(attention, LatentAttention):
        return (StateArray("latent", (1, attention.kv_rank + attention.rope_dim), True),)
    if isinstance(attention, LinearAttention):
        matrices = (attention.num_value_heads, attention.key_dim, attention.value_dim)
        return (*_taps(attention.kernel, conv_channels(attention)), StateArray("state", matrices, False))
    return _taps(attention.kernel, hidden) if isinstance(attention, ShortConvolution) else ()


def conv_channels(attention: LinearAttention) -> int:
    """Return how many numbers of a token the convolution before a recurrence mixes: queries, keys and values."""
    keys = attention.num_key_heads * attention.key_dim
    return 2 * keys + attention.num_value_heads * attention.value_dim


def rope_of(attention: AttentionSpec | None) -> RopeSpec | None:
    """Return the rotary embedding of a layer's attention, if it has one."""
    return getattr(attention, "rope", None)


def has_mask(attention: AttentionSpec | None) -> bool:
    """Whether a layer's attention is over cached tokens, of which a mask hides some."""
    return isinstance(attention, SoftmaxAttention | LatentAttention)


def _taps(kernel: int, channels: int) -> tuple[StateArray, ...]:
    """The inputs a causal convolution still needs, oldest first."""
    return (StateArray("conv", (kernel - 1, channels), False),) if kernel > 1 else ()
