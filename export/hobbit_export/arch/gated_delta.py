"""What Qwen's hybrid families share: Gated DeltaNet beside gated attention, norms stored as distances from 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge_runtime.base.spec import LayerSpec, LinearAttention, SoftmaxAttention
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_layer_types
from hobbit_export.arch.names import ATTENTION, LAYERS, LeftOut, Named, mlp_names
from hobbit_export.weight_parts import HeadRows, PlusOne

FULL, LINEAR = "full_attention", "linear_attention"
LINEAR_DEFAULTS: dict[str, Any] = {
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}  # fmt: skip
_INTERVAL = 4


def read_linear(reader: ConfigReader) -> LinearAttention:
    """Read the recurrence's sizes."""

    def count(key: str) -> int:
        return reader.count(key, LINEAR_DEFAULTS[key])

    return LinearAttention(
        "linear",
        "gated_delta",
        num_key_heads=count("linear_num_key_heads"),
        num_value_heads=count("linear_num_value_heads"),
        key_dim=count("linear_key_head_dim"),
        value_dim=count("linear_value_head_dim"),
        kernel=count("linear_conv_kernel_dim"),
    )


def read_mixers(reader: ConfigReader, num_layers: int, full: SoftmaxAttention) -> list[LayerSpec]:
    """Return a layer for each, its feed-forward part to be filled in: `layer_types` says which is what.

    Without it every fourth layer (`full_attention_interval`) has attention over all tokens.
    """
    interval = reader.count("full_attention_interval", _INTERVAL)
    default = [LINEAR if (i + 1) % interval else FULL for i in range(num_layers)]
    kinds = read_layer_types(reader, num_layers, default, (FULL, LINEAR))
    linear = read_linear(reader)
    return [LayerSpec(full if kind == FULL else linear) for kind in kinds]


def _query_and_gate(attention: SoftmaxAttention) -> tuple[int, tuple[int, ...]]:
    return attention.num_heads, (attention.head_dim, attention.head_dim)


def _gated(name: str, part: int) -> HeadRows:
    return HeadRows(f"self_attn.q_proj.{name}", part, _query_and_gate)


def _with_zero_centred(names: dict[str, Named], norms: tuple[str, ...]) -> dict[str, Named]:
    """The same names, with 1 added to the weights of some norms."""
    return names | {norm: PlusOne(str(names[norm])) for norm in norms}


HYBRID: dict[str, Named] = {
    **_with_zero_centred(dict(ATTENTION), ("attn_norm", "ffn_norm", "q_norm", "k_norm")),
    "q": _gated("weight", 0),
    "q_gate": _gated("weight", 1),
    "q_bias": _gated("bias", 0),
    "q_gate_bias": _gated("bias", 1),
    "conv": "linear_attn.conv1d.weight",
    "a_log": "linear_attn.A_log",
    "dt_bias": "linear_attn.dt_bias",
    "linear_norm": "linear_attn.norm.weight",
    "linear_o": "linear_attn.out_proj.weight",
    "router": "mlp.gate.weight",
    **mlp_names("dense", "mlp"),
    **mlp_names("shared", "mlp.shared_expert"),
    "shared_expert_gate": "mlp.shared_expert_gate.weight",
}
"""Canonical names of a layer, but for the recurrence's projections."""


def parts_of(
    tensor: str, names: tuple[str, ...], heads: Callable[[Any], tuple[int, tuple[int, ...]]]
) -> dict[str, Named]:
    """Name the parts of a tensor, in their order."""
    return {name: HeadRows(tensor, part, heads) for part, name in enumerate(names)}


def _below_model(name: str) -> str:
    return f"model.{name}"


def top_names(below: Callable[[str], str | tuple[str, ...]] = _below_model) -> dict[str, Named]:
    """Embedding, last norm and head; `below` gives the names of what lies in the model."""
    return {
        "embed": below("embed_tokens.weight"),
        "final_norm": PlusOne(below("norm.weight")),
        "head": "lm_head.weight",
    }


def layers_below(prefix: str) -> str:
    """What a layer's names start with, below a prefix such as ``model.language_model.``."""
    return LAYERS.replace("model.", prefix, 1)


def drafting_layers(pattern: Any) -> LeftOut:
    """Layers that draft further tokens: no forward pass of transformers runs them."""
    return LeftOut(pattern, "layers that predict several tokens (mtp), which are not run")
