"""Names of dense weights, the same for every family. Adapters of the exporter map checkpoints onto them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.spec import ModelSpec


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

    Norms are [D] (q_norm and k_norm [C], or the full width); the router is [E, D]; shared and dense MLPs are SwiGLU.
    """
    layer, d, c = spec.layers[layer_idx], spec.hidden, spec.head_dim
    q_width, kv_width = spec.num_heads * c, spec.num_kv_heads * c
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (d,), "q": (q_width, d), "k": (kv_width, d), "v": (kv_width, d), "o": (d, q_width),
        "ffn_norm": (d,),
    }  # fmt: skip
    if spec.qkv_bias:
        shapes |= {"q_bias": (q_width,), "k_bias": (kv_width,), "v_bias": (kv_width,)}
    if spec.o_bias:
        shapes["o_bias"] = (d,)
    if spec.qk_norm != "none":
        full = spec.qk_norm == "full"
        shapes |= {"q_norm": (q_width if full else c,), "k_norm": (kv_width if full else c,)}
    if layer.sparse:
        shapes["router"] = (spec.num_experts, d)
    for kind, width in (("shared", layer.shared_intermediate), ("dense", layer.dense_intermediate)):
        if width:
            shapes |= {f"{kind}_gate_proj": (width, d), f"{kind}_up_proj": (width, d), f"{kind}_down_proj": (d, width)}
    if layer.shared_intermediate and spec.shared_expert_gate:
        shapes["shared_expert_gate"] = (1, d)
    return {f"layers.{layer_idx}.{name}": shape for name, shape in shapes.items()}


def top_weight_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of embedding, final norm and head. A tied head has the embedding's weights."""
    return {
        "embed": (spec.vocab_size, spec.hidden),
        "final_norm": (spec.hidden,),
        "head": (spec.vocab_size, spec.hidden),
    }
