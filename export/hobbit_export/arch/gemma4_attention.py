"""Attention of Gemma 4, layer by layer: two kinds, each with heads and a rope of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import RopeSpec, SoftmaxAttention
from hobbit_export.arch.config import ConfigReader, number
from hobbit_export.arch.decoder import Sizes, read_layer_types, read_window, with_window
from hobbit_export.arch.rope import read_rope

_SLIDING, _FULL = "sliding_attention", "full_attention"
_PATTERN = 6
_FULL_HEAD_DIM = 512
_ROPES: dict[str, dict[str, Any]] = {
    _SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    _FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}
"""Of a configuration without `rope_parameters`."""


def read_attentions(reader: ConfigReader, sizes: Sizes, defaults: Mapping[str, Any]) -> list[SoftmaxAttention]:
    """Read the attention of every layer.

    Args:
        reader: configuration of the text part.
        sizes: the model's.
        defaults: those of transformers.
    """
    kinds = _kinds(reader, reader.num_layers(defaults["num_hidden_layers"]))
    heads = reader.count("num_attention_heads", defaults["num_attention_heads"])
    bias = reader.flag("attention_bias", defaults["attention_bias"])
    shared = reader.flag("attention_k_eq_v", defaults["attention_k_eq_v"])
    window = read_window(reader, defaults["sliding_window"])
    layers, ropes = _heads(reader, kinds, shared, defaults), {}
    attentions = []
    for kind, (head_dim, kv_heads) in zip(kinds, layers, strict=True):
        if (kind, head_dim) not in ropes:
            ropes[kind, head_dim] = _rope(reader, kind, head_dim, sizes.max_context)
        is_sliding = kind == _SLIDING
        if is_sliding and window is None:
            raise reader.refuse("sliding_window", None, "layer_types asks for sliding attention: give its window.")
        common: dict[str, Any] = {"qk_norm": "per_head", "qkv_bias": bias, "o_bias": bias, "scale": 1.0}
        whole = SoftmaxAttention(
            "full", heads, kv_heads, head_dim, ropes[kind, head_dim], shared_kv=shared and not is_sliding,
            value_norm=True, **common,
        )  # fmt: skip
        attentions.append(with_window(whole, window if is_sliding else None))
    return attentions


def _kinds(reader: ConfigReader, num_layers: int) -> list[str]:
    """Read the kind of each layer; transformers makes the last one see all tokens, whatever it is called."""
    default = [_SLIDING if (i + 1) % _PATTERN else _FULL for i in range(num_layers)]
    return [*read_layer_types(reader, num_layers, default, (_SLIDING, _FULL))[:-1], _FULL]


def _heads(
    reader: ConfigReader, kinds: list[str], shared: bool, defaults: Mapping[str, Any]
) -> list[tuple[int, int]]:  # fmt: skip
    """Read head size and number of key heads of each layer.

    `per_layer_config` says them as transformers writes them since 5.2x, `global_*` as they were published; where the
    first is there, it alone counts.
    """
    base = {name: reader.count(name, defaults[name]) for name in ("head_dim", "num_key_value_heads")}
    full = {"head_dim": reader.count("global_head_dim", _FULL_HEAD_DIM)}
    if reader.get("num_global_key_value_heads") is not None and shared:
        full["num_key_value_heads"] = reader.count("num_global_key_value_heads", None)
    given = reader.get("per_layer_config")
    own = {i: full for i, kind in enumerate(kinds) if kind == _FULL}
    if given is not None:
        own = _per_layer(reader, given, len(kinds))
    merged = [{**base, **own.get(i, {})} for i in range(len(kinds))]
    return [(layer["head_dim"], layer["num_key_value_heads"]) for layer in merged]


def _per_layer(reader: ConfigReader, given: Any, num_layers: int) -> dict[int, dict[str, int]]:
    where = f"{reader.where}: per_layer_config"
    if not isinstance(given, dict) or not all(str(key).isdecimal() and isinstance(v, dict) for key, v in given.items()):
        raise ConfigError(f"{where}: expected an object of layers, got {str(given)[:60]}.")
    found = {}
    for key, values in given.items():
        if int(key) >= num_layers:
            raise ConfigError(f"{where}: expected layers below {num_layers}, got {key}.")
        for name, value in values.items():
            if name not in ("head_dim", "num_key_value_heads"):
                raise reader.refuse(f"per_layer_config.{key}.{name}", value, "Layers differ by their heads alone.")
        layer = ConfigReader(values, f"{where}.{key}")
        found[int(key)] = {name: layer.count(name, None) for name in values}
    return found


def _rope(reader: ConfigReader, kind: str, head_dim: int, max_context: int) -> RopeSpec:
    """Read the rope of a kind of layer; `rope_parameters` has an object for each."""
    given = reader.get("rope_parameters")
    given = _ROPES if given is None else given
    if not isinstance(given, dict) or not isinstance(own := given.get(kind), dict):
        raise reader.refuse("rope_parameters", given, f"It needs an object for {kind}.")
    where = f"{reader.where}: rope_parameters.{kind}"
    if own.get("rope_type") != "proportional":
        inner = ConfigReader({"rope_parameters": own}, where)
        return read_rope(inner, head_dim, max_context, _ROPES[kind]["rope_theta"])
    known = {"rope_type": None, "rope_theta": _ROPES[kind]["rope_theta"], "partial_rotary_factor": 1.0, "factor": None}
    for key in own:
        if key not in known:
            raise reader.refuse(f"rope_parameters.{kind}.{key}", own[key], "Rope type 'proportional' has no such key.")
    values = {
        key: number(v, f"{where}.{key}") for key, v in {**known, **own}.items() if v not in (None, "proportional")
    }
    theta = values.pop("rope_theta")
    return RopeSpec("proportional", theta, head_dim, {**values})
