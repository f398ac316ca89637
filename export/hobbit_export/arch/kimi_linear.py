"""model_type kimi_linear (Kimi-Linear-48B-A3B): Kimi Delta Attention, some layers MLA without rope, sigmoid router."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import LinearAttention, ModelSpec
from hobbit_export.arch import deepseek
from hobbit_export.arch.config import ConfigReader
from hobbit_export.arch.decoder import read_layer_types, read_sizes
from hobbit_export.arch.names import Named, Names, fused, per_expert

MODEL_TYPE = "kimi_linear"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 163840, "hidden_size": 2304, "intermediate_size": 9216, "moe_intermediate_size": 1024,
    "num_hidden_layers": 27, "num_attention_heads": 32, "max_position_embeddings": 1048576, "rms_norm_eps": 1e-5,
    "attention_bias": False, "n_shared_experts": 1, "num_local_experts": 256, "num_experts_per_tok": 8,
    "routed_scaling_factor": 2.446, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "kv_lora_rank": 512,
    "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "linear_head_dim": 128,
    "linear_num_heads": 32, "linear_conv_kernel_dim": 4, "bos_token_id": 163584, "eos_token_id": 163586,
}  # fmt: skip
_FULL, _LINEAR = "full_attention", "linear_attention"
_PUBLISHED = {
    "model_max_length": "max_position_embeddings", "moe_renormalize": "norm_topk_prob", "num_expert_group": "n_group",
    "num_experts": "num_local_experts", "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
}  # fmt: skip
_PUBLISHED_LINEAR = {
    "head_dim": "linear_head_dim", "num_heads": "linear_num_heads", "short_conv_kernel_size": "linear_conv_kernel_dim",
}  # fmt: skip


def _either(name: str) -> tuple[str, str]:
    """Published and in-memory spelling of what lies below a sparse layer's block; transformers writes the first."""
    return f"block_sparse_moe.{name}", f"mlp.{name}"


DELTA_ATTENTION: Mapping[str, Named] = {
    **{f"linear_{n}": f"self_attn.{n}_proj.weight" for n in "qkvbo"},
    **{f"conv_{n}": f"self_attn.{n}_conv1d.weight" for n in "qkv"},
    **{f"linear_f_{n}": (f"self_attn.f_{n}_proj.weight", f"self_attn.forget_gate.f_{n}_proj.weight") for n in "ab"},
    **{f"linear_z_{n}": f"self_attn.g_{n}_proj.weight" for n in "ab"},
    "a_log": ("self_attn.A_log", "self_attn.forget_gate.A_log"),
    "dt_bias": ("self_attn.dt_bias", "self_attn.forget_gate.dt_bias"),
    "linear_norm": "self_attn.o_norm.weight",
}
NAMES = Names(
    (per_expert("block_sparse_moe", "w1", "w3", "w2"), fused("mlp")),
    {
        **deepseek.LATENT_ATTENTION,
        **DELTA_ATTENTION,
        "router": _either("gate.weight"),
        "router_selection_bias": _either("gate.e_score_correction_bias"),
        **{f"dense_{n}_proj": _either(f"{n}_proj.weight")[::-1] for n in ("gate", "up", "down")},
        **{f"shared_{n}_proj": _either(f"shared_experts.{n}_proj.weight") for n in ("gate", "up", "down")},
    },
)


def read_spec(reader: ConfigReader, generation: Mapping[str, Any]) -> ModelSpec:
    """Build the spec from config.json."""
    reader = _respelled(reader)
    sizes = read_sizes(reader, generation, DEFAULTS)
    num_layers = reader.num_layers(DEFAULTS["num_hidden_layers"])
    full, linear = deepseek.read_latent_attention(reader, sizes, DEFAULTS, has_rope=False), _linear(reader)
    default = [_FULL if i and i % 4 == 0 else _LINEAR for i in range(num_layers)]
    kinds = read_layer_types(reader, num_layers, default, (_FULL, _LINEAR))
    sparse = deepseek.by_list(reader, num_layers, reader.count("first_k_dense_replace", 1, minimum=0))
    mixers = [full if kind == _FULL else linear for kind in kinds]
    spec = deepseek.sigmoid_model(reader, MODEL_TYPE, sizes, DEFAULTS, mixers, sparse)
    reader.fixed("mla_use_nope", True, None)
    reader.fixed("moe_router_activation_func", "sigmoid", None)
    reader.fixed("rope_scaling", None)
    # nothing is rotated, and what groups choose follows from their numbers
    reader.finish(frozenset({"rope_theta", "use_grouped_topk"}))
    return spec


def _linear(reader: ConfigReader) -> LinearAttention:
    heads, size, kernel = (
        reader.count(key, DEFAULTS[key]) for key in ("linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim")
    )
    return LinearAttention("linear", "kimi_delta", heads, heads, size, size, kernel)


def _respelled(reader: ConfigReader) -> ConfigReader:
    """Return the options under one spelling: published ones have their own, and an object for the recurrence.

    Raises:
        ConfigError: an option is given in both spellings, and they differ.
    """
    data, inner = dict(reader.data), reader.data.get("linear_attn_config") or {}
    if not isinstance(inner, dict):
        raise ConfigError(f"{reader.where}: linear_attn_config: expected an object, got {str(inner)[:60]}.")
    data.pop("linear_attn_config", None)
    data.pop("head_dim", None)  # transformers puts that of its MLA in its place
    found = {new: data.pop(old) for old, new in _PUBLISHED.items() if old in data}
    found |= {new: inner[old] for old, new in _PUBLISHED_LINEAR.items() if old in inner}
    known = {*_PUBLISHED_LINEAR, "full_attn_layers", "kda_layers"}
    for key in inner.keys() - known:
        raise reader.refuse(f"linear_attn_config.{key}", inner[key], "This exporter does not know what it changes.")
    for key, value in found.items():
        if data.setdefault(key, value) != value:
            raise ConfigError(
                f"{reader.where}: {key}: expected the same in both spellings, got {value} and {data[key]}."
            )
    if data.get("layer_types") is None and {"full_attn_layers", "kda_layers"} <= inner.keys():
        data["layer_types"] = _layer_types(reader, inner)
    return ConfigReader(data, reader.where)


def _layer_types(reader: ConfigReader, inner: Mapping[str, Any]) -> list[str]:
    """Turn two lists of layer numbers, which begin at 1, into a kind for each layer."""
    kinds: dict[int, str] = {}
    for key, kind in (("full_attn_layers", _FULL), ("kda_layers", _LINEAR)):
        numbers = inner[key]
        if not isinstance(numbers, list) or not all(type(n) is int for n in numbers):
            raise ConfigError(
                f"{reader.where}: linear_attn_config.{key}: expected layer numbers, got {str(numbers)[:60]}."
            )
        kinds |= dict.fromkeys(numbers, kind)
    if sorted(kinds) != list(range(1, len(kinds) + 1)):
        raise ConfigError(
            f"{reader.where}: linear_attn_config: expected every layer from 1 on in one of its two lists."
        )
    return [kinds[i] for i in sorted(kinds)]
