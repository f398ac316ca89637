"""AttentionSpec: what mixes the tokens of a layer. Each kind has its own data and its own name in `kind`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from edge_runtime.base.spec.checks import need, need_counts
from edge_runtime.base.spec.rope import MAX_CONTEXT, RopeSpec

QkNorm = Literal["none", "per_head", "full", "per_head_rotated"]
_HEADS, _DIM = 1 << 10, 1 << 12
_KERNEL, _RANK = 64, 1 << 16


@dataclass(frozen=True)
class SoftmaxAttention:
    """Attention with keys and values of every token: over all of them, or over a window.

    Attributes:
        kind: "full", or "sliding", which has a `window`.
        num_heads: H.
        num_kv_heads: G, a divisor of H.
        head_dim: C.
        rope: rotary embedding of queries and keys; None: there is none.
        window: tokens a token attends to, itself included.
        qk_norm: RMS norm of queries and keys: of each head, over the full width, or of each head after its rotation.
        qkv_bias: biases of the q, k and v projections.
        o_bias: bias of the output projection.
        clip_qkv: q, k and v are clamped to plus or minus this.
        scale: of the scores; None: C ** -0.5.
        sinks: a learned logit of each head joins the softmax and is dropped (gpt-oss).
        output_gate: the output is multiplied by the sigmoid of a gate projected beside the queries (Qwen3-Next).
        shared_kv: values are the keys before norm and rotation (global layers of Gemma 4).
        value_norm: RMS norm of each head's values, without a weight (Gemma 4).
    """

    kind: Literal["full", "sliding"]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeSpec | None
    window: int | None = None
    qk_norm: QkNorm = "none"
    qkv_bias: bool = False
    o_bias: bool = False
    clip_qkv: float | None = None
    scale: float | None = None
    sinks: bool = False
    output_gate: bool = False
    shared_kv: bool = False
    value_norm: bool = False

    @property
    def score_scale(self) -> float:
        """What scores are multiplied by."""
        return self.head_dim**-0.5 if self.scale is None else self.scale

    def check(self, where: str, max_context: int) -> None:
        """Refuse what no attention can be.

        Raises:
            ValueError: names the field.
        """
        limits = {"num_heads": _HEADS, "num_kv_heads": _HEADS, "head_dim": _DIM, "window": MAX_CONTEXT}
        need_counts(self, limits, where)
        divides = self.num_heads % self.num_kv_heads == 0
        need(divides, f"{where}.num_kv_heads", f"a divisor of {self.num_heads}", self.num_kv_heads)
        has_window = (self.window is not None) == (self.kind == "sliding")
        need(has_window, f"{where}.window", "a number if kind is 'sliding', else null", self.window)
        need(self.clip_qkv is None or self.clip_qkv > 0, f"{where}.clip_qkv", "above 0", self.clip_qkv)
        need(self.scale is None or 1e-6 <= self.scale <= 1e3, f"{where}.scale", "1e-06 to 1000", self.scale)
        if self.rope is not None:
            self.rope.check(f"{where}.rope", head_dim=self.head_dim, max_context=max_context)


@dataclass(frozen=True)
class LatentAttention:
    """MLA (DeepSeek-V2): keys and values are kept compressed.

    Attributes:
        kind: "mla".
        num_heads: H.
        query_rank: of the compressed queries; None: they are not compressed.
        kv_rank: of the compressed keys and values.
        nope_dim: numbers of a head that are not rotated.
        rope_dim: numbers of a head that are; its keys are shared by all heads.
        value_dim: numbers of a head's value.
        rope: rotary embedding; None: nothing is rotated.
        scale: of the scores; None: (nope_dim + rope_dim) ** -0.5.
        bias: the compressing projections and the output projection have biases.
        norm_eps: of the norms of compressed queries, keys and values; None: that of the model's other norms.
    """

    kind: Literal["mla"]
    num_heads: int
    query_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    rope: RopeSpec | None
    scale: float | None = None
    bias: bool = False
    norm_eps: float | None = None

    @property
    def score_scale(self) -> float:
        """What scores are multiplied by."""
        return (self.nope_dim + self.rope_dim) ** -0.5 if self.scale is None else self.scale

    def check(self, where: str, max_context: int) -> None:
        """Refuse what no attention can be.

        Raises:
            ValueError: names the field.
        """
        dims = {"nope_dim": _DIM, "rope_dim": _DIM, "value_dim": _DIM}
        need_counts(self, {"num_heads": _HEADS, "query_rank": _RANK, "kv_rank": _RANK, **dims}, where)
        need(self.norm_eps is None or 0 < self.norm_eps < 1, f"{where}.norm_eps", "between 0 and 1", self.norm_eps)
        need(self.scale is None or 1e-6 <= self.scale <= 1e3, f"{where}.scale", "1e-06 to 1000", self.scale)
        if self.rope is not None:
            self.rope.check(f"{where}.rope", head_dim=self.rope_dim, max_context=max_context)


@dataclass(frozen=True)
class LinearAttention:
    """A recurrence with a state of fixed size in place of keys and values.

    Attributes:
        kind: "linear".
        rule: how the state changes: Gated DeltaNet (Qwen3-Next), Kimi Delta Attention, or Mamba-2.
        num_key_heads: heads of queries and keys (groups of Mamba-2).
        num_value_heads: heads of values and of the state, a multiple of it.
        key_dim: numbers of a key head (state size of Mamba-2).
        value_dim: numbers of a value head.
        kernel: taps of the causal convolution before the recurrence.
        conv_bias: the convolution has a bias.
    """

    kind: Literal["linear"]
    rule: Literal["gated_delta", "kimi_delta", "mamba2"]
    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    conv_bias: bool = False

    def check(self, where: str, max_context: int) -> None:
        """Refuse what no recurrence can be.

        Raises:
            ValueError: names the field.
        """
        heads = {"num_key_heads": _HEADS, "num_value_heads": _HEADS}
        need_counts(self, {**heads, "key_dim": _DIM, "value_dim": _DIM, "kernel": _KERNEL}, where)
        shared = self.num_value_heads % self.num_key_heads == 0
        need(shared, f"{where}.num_value_heads", f"a multiple of {self.num_key_heads}", self.num_value_heads)


@dataclass(frozen=True)
class ShortConvolution:
    """A gated causal convolution over a few tokens (LFM2).

    Attributes:
        kind: "convolution".
        kernel: taps.
        bias: the convolution and its projections have biases.
    """

    kind: Literal["convolution"]
    kernel: int
    bias: bool = False

    def check(self, where: str, max_context: int) -> None:
        """Refuse impossible sizes.

        Raises:
            ValueError: names the field.
        """
        need_counts(self, {"kernel": _KERNEL}, where)


AttentionSpec: TypeAlias = SoftmaxAttention | LatentAttention | LinearAttention | ShortConvolution
"""What mixes the tokens of a layer, told apart by `kind`."""
