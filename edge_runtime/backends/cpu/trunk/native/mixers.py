"""Latent attention, recurrences and short convolutions: which tensors of a graph are which parts of the kernels."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_runtime.backends.cpu.kernels import LatentForm, MixerForm
from edge_runtime.base.spec import AttentionSpec, LatentAttention, LinearAttention, ShortConvolution, conv_channels

_RULES = ("none", "gated_delta", "kimi_delta", "mamba2", "convolution")


@dataclass(frozen=True)
class MixerParts:
    """A mixer's weights and what it writes of a token.

    Attributes:
        matrices: part -> (stored label, outputs, inputs).
        vectors: part -> (stored names, joined in this order; numbers of each).
        projected, attended, wide, inner: numbers of a token in the kernels' scratch.
        heads: part -> (stored label, which the head's number follows; outputs, inputs), a matrix for each head.
        num_heads: H of `heads`.
        kept: numbers that attention compares with a cached token.
    """

    matrices: dict[str, tuple[str, int, int]]
    vectors: dict[str, tuple[tuple[str, ...], int]]
    projected: int
    attended: int
    wide: int
    inner: int
    heads: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    num_heads: int = 0
    kept: int = 0


def mixer_form(attention: LinearAttention | ShortConvolution) -> MixerForm:
    """Return what a mixer computes."""
    form = MixerForm()
    form.kernel = attention.kernel
    if isinstance(attention, ShortConvolution):
        form.rule = _RULES.index("convolution")
        return form
    form.rule = _RULES.index(attention.rule)
    form.key_heads, form.value_heads = attention.num_key_heads, attention.num_value_heads
    form.key_dim, form.value_dim = attention.key_dim, attention.value_dim
    return form


def latent_form(a: LatentAttention, eps: float) -> LatentForm:
    """Return what latent attention computes; `eps` is that of the model's norms."""
    form = LatentForm()
    form.heads, form.query_rank, form.kv_rank = a.num_heads, a.query_rank or 0, a.kv_rank
    form.nope_dim, form.rope_dim, form.value_dim = a.nope_dim, a.rope_dim, a.value_dim
    form.eps = a.norm_eps or eps
    return form


def mixer_parts(attention: AttentionSpec | None, hidden: int) -> MixerParts | None:
    """Return the parts of an attention; None for softmax attention and where there is none.

    Args:
        attention: of a layer.
        hidden: D.
    """
    if isinstance(attention, ShortConvolution):
        return _convolution(attention, hidden)
    if isinstance(attention, LatentAttention):
        return _latent(attention, hidden)
    return _recurrence(attention, hidden) if isinstance(attention, LinearAttention) else None


def _convolution(s: ShortConvolution, d: int) -> MixerParts:
    biases = {
        "qkv_bias": (("conv_in_bias",), 3 * d),
        "taps_bias": (("conv_bias",), d),
        "o_bias": (("conv_out_bias",), d),
    }
    return MixerParts(
        {"qkv": ("conv_in", 3 * d, d), "o": ("conv_out", d, d)},
        {"taps": (_taps(s.kernel), d)} | (biases if s.bias else {}),
        projected=3 * d, attended=d, wide=d, inner=d,
    )  # fmt: skip


def _latent(a: LatentAttention, d: int) -> MixerParts:
    heads, kept, width = a.num_heads, a.kv_rank + a.rope_dim, a.num_heads * (a.nope_dim + a.rope_dim)
    matrices = {"qkv": ("kv_a", kept, d), "o": ("o", d, heads * a.value_dim)}
    vectors: dict[str, tuple[tuple[str, ...], int]] = {"latent_norm": (("kv_a_norm",), a.kv_rank)}
    if a.query_rank is None:
        matrices["query"] = ("q", width, d)
    else:
        matrices |= {"query_a": ("q_a", a.query_rank, d), "query": ("q_b", width, a.query_rank)}
        vectors["query_a_norm"] = (("q_a_norm",), a.query_rank)
    if a.bias:
        vectors |= {"latent_bias": (("kv_a_bias",), kept), "o_bias": (("o_bias",), d)}
    if a.bias and a.query_rank is not None:
        vectors["query_a_bias"] = (("q_a_bias",), a.query_rank)
    up = {"key_up": ("k_up", a.kv_rank, a.nope_dim), "value_up": ("v_up", a.value_dim, a.kv_rank)}
    return MixerParts(
        matrices, vectors, projected=max(width, heads * a.kv_rank), attended=heads * a.value_dim, wide=heads * kept,
        inner=max(kept, a.query_rank or 0), heads=up, num_heads=heads, kept=kept,
    )  # fmt: skip


def _recurrence(s: LinearAttention, d: int) -> MixerParts:
    heads, width, channels = s.num_value_heads, s.num_value_heads * s.value_dim, conv_channels(s)
    decays = heads * (s.key_dim if s.rule == "kimi_delta" else 1)
    matrices = {"o": ("linear_o", d, width)}
    vectors = {
        "taps": (_taps(s.kernel), channels), "decay": (("decay",), decays), "step_bias": (("dt_bias",), decays),
        "mixer_norm": (("linear_norm",), width if s.rule == "mamba2" else s.value_dim),
    }  # fmt: skip
    if s.rule == "gated_delta":
        matrices |= {"qkv": ("linear_qkvz", channels + width, d), "rates": ("linear_ba", 2 * heads, d)}
    elif s.rule == "mamba2":
        matrices |= {"qkv": ("linear_zxbc", channels + width, d), "rates": ("linear_dt", heads, d)}
        vectors["skip"] = (("d_skip",), heads)
    else:
        matrices |= {"qkv": ("linear_qkv", channels, d), "rates": ("linear_b", heads, d)}
        for part, name in (("forget", "f"), ("gate", "z")):
            matrices[f"{part}_a"] = (f"linear_{name}_a", s.value_dim, d)
            matrices[f"{part}_b"] = (f"linear_{name}_b", width, s.value_dim)
    if s.conv_bias:
        vectors["taps_bias"] = (("conv_bias",), channels)
    rates = width + heads if s.rule == "kimi_delta" else 2 * heads
    return MixerParts(matrices, vectors, projected=channels + width, attended=width, wide=channels, inner=rates)


def _taps(kernel: int) -> tuple[str, ...]:
    return tuple(f"tap_{j}" for j in range(kernel))
