"""Names of dense weights, the same for every family. Adapters of the exporter map checkpoints onto them."""

from __future__ import annotations

from edge_runtime.backends.cpu.trunk.oracles import mixer_of
from edge_runtime.base.spec import MlpSpec, ModelSpec


def layer_weight_shapes(spec: ModelSpec, layer_idx: int) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every dense weight of a layer.

    Norms are [D], the router is [E, D]; `edge_runtime.backends.cpu.trunk.oracles` has those of each attention.
    """
    layer, d = spec.layers[layer_idx], spec.hidden
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_own_norms(spec, layer_idx), (d,))
    if layer.attention is not None:
        shapes |= {"attn_norm": (d,), **mixer_of(layer.attention).weight_shapes(layer.attention, d)}
    if layer.has_feed_forward:
        shapes["ffn_norm"] = (d,)
    if spec.norm == "layer":
        shapes |= {f"{name}_bias": (d,) for name in ("attn_norm", "ffn_norm") if name in shapes}
    if layer.sparse:
        shapes["router"] = (spec.num_experts, d)
    if layer.dense is not None:
        shapes |= _mlp_shapes("dense", layer.dense, d)
    if layer.shared is not None:
        shapes |= _mlp_shapes("shared", layer.shared.mlp, d)
        if layer.shared.gate:
            shapes["shared_expert_gate"] = (1, d)
    if layer.scaled:
        shapes["layer_scale"] = (1,)
    return {f"layers.{layer_idx}.{name}": shape for name, shape in shapes.items()}


def _own_norms(spec: ModelSpec, layer_idx: int) -> list[str]:
    """Norms besides those before attention and experts: behind them, around a network in parallel, of a router."""
    layer, parallel = spec.layers[layer_idx], spec.is_parallel(layer_idx)
    has = {
        "attn_out_norm": layer.output_norms and layer.attention is not None,
        "ffn_out_norm": layer.output_norms and layer.has_feed_forward,
        **dict.fromkeys(("shared_norm", "shared_out_norm", "experts_out_norm"), parallel),
        "router_norm": layer.sparse and spec.router.norm_scale is not None,
    }
    return [name for name, is_there in has.items() if is_there]


def _mlp_shapes(prefix: str, mlp: MlpSpec, hidden: int) -> dict[str, tuple[int, ...]]:
    wide = (mlp.intermediate, hidden)
    gate = {f"{prefix}_gate_proj": wide} if mlp.gated else {}
    return {**gate, f"{prefix}_up_proj": wide, f"{prefix}_down_proj": (hidden, mlp.intermediate)}


def top_weight_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of embedding, final norm and head. A tied head has the embedding's weights."""
    shapes: dict[str, tuple[int, ...]] = {
        "embed": (spec.vocab_size, spec.hidden),
        "final_norm": (spec.hidden,),
        "head": (spec.vocab_size, spec.hidden),
    }
    if spec.norm == "layer":
        shapes["final_norm_bias"] = (spec.hidden,)
    if spec.head_bias:
        shapes["head_bias"] = (spec.vocab_size,)
    return shapes
