"""Names of dense weights, the same for every family. Adapters of the exporter map checkpoints onto them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.spec import MlpSpec, ModelSpec


class TrunkWeights(Protocol):
    """Source of dense weights by canonical name, in float32, matrices as [out, in]."""

    def get(self, name: str) -> NDArray[np.float32]:
        """Return a whole tensor."""
        ...

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start to stop of a matrix, without reading the rest."""
        ...


def layer_weight_shapes(spec: ModelSpec, layer_idx: int) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every dense weight of a layer.

    Norms are [D] (q_norm and k_norm [C], or the full width); the router is [E, D], sinks are [H].
    """
    layer, attention, d = spec.layers[layer_idx], spec.attention, spec.hidden
    c = attention.head_dim
    q_width, kv_width = attention.num_heads * c, attention.num_kv_heads * c
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (d,), "q": (q_width, d), "k": (kv_width, d), "v": (kv_width, d), "o": (d, q_width),
        "ffn_norm": (d,),
    }  # fmt: skip
    if attention.qkv_bias:
        shapes |= {"q_bias": (q_width,), "k_bias": (kv_width,), "v_bias": (kv_width,)}
    if attention.o_bias:
        shapes["o_bias"] = (d,)
    if attention.sinks:
        shapes["sinks"] = (attention.num_heads,)
    if attention.qk_norm != "none":
        full = attention.qk_norm == "full"
        shapes |= {"q_norm": (q_width if full else c,), "k_norm": (kv_width if full else c,)}
    if layer.sparse:
        shapes["router"] = (spec.num_experts, d)
    if layer.dense is not None:
        shapes |= _mlp_shapes("dense", layer.dense, d)
    if layer.shared is not None:
        shapes |= _mlp_shapes("shared", layer.shared.mlp, d)
        if layer.shared.gate:
            shapes["shared_expert_gate"] = (1, d)
    return {f"layers.{layer_idx}.{name}": shape for name, shape in shapes.items()}


def _mlp_shapes(prefix: str, mlp: MlpSpec, hidden: int) -> dict[str, tuple[int, ...]]:
    wide = (mlp.intermediate, hidden)
    gate = {f"{prefix}_gate_proj": wide} if mlp.gated else {}
    return {**gate, f"{prefix}_up_proj": wide, f"{prefix}_down_proj": (hidden, mlp.intermediate)}


def top_weight_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of embedding, final norm and head. A tied head has the embedding's weights."""
    return {
        "embed": (spec.vocab_size, spec.hidden),
        "final_norm": (spec.hidden,),
        "head": (spec.vocab_size, spec.hidden),
    }
