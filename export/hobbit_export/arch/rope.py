"""Rotary embedding options: old spelling (rope_theta, rope_scaling) and new (rope_parameters) into a RopeSpec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import RopeKind, RopeSpec
from hobbit_export.arch.config import ConfigReader, number

_REQUIRED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
}
_WITH_ORIGINAL = ("yarn", "llama3")


def read_rope(
    reader: ConfigReader,
    head_dim: int,
    max_context: int,
    default_theta: float,
    *,
    default: Mapping[str, Any] | None = None,
) -> RopeSpec:
    """Read the rotary options the way transformers 5 standardises them.

    A non-empty `rope_scaling` replaces `rope_parameters`; a top-level `rope_theta` fills in a missing one;
    `original_max_position_embeddings` defaults to the context (top level wins where both exist). `default` holds the
    family's own options where config.json has none.
    """
    name, given = _rope_dict(reader)
    values = dict(given or default or {})
    where = f"{reader.where}: {name}"
    kind: Any = values.pop("rope_type", None) or values.get("type") or "default"
    values.pop("type", None)
    if kind not in get_args(RopeKind):
        raise reader.refuse(f"{name}.rope_type", kind, f"Supported: {', '.join(get_args(RopeKind))}.")
    top_theta = reader.get("rope_theta")
    theta = values.pop("rope_theta", None)
    theta = theta if theta is not None else top_theta if top_theta is not None else default_theta
    for key, partial in (
        ("partial_rotary_factor", reader.get("partial_rotary_factor")),
        (f"{name}.partial_rotary_factor", values.pop("partial_rotary_factor", None)),
    ):
        if partial not in (None, 1, 1.0):
            raise reader.refuse(key, partial, "Partly rotated heads are not implemented.")
    params = _params(reader, name, kind, values, max_context)
    if kind == "yarn":
        params |= _truncate(values, where)
    for key, value in values.items():
        raise reader.refuse(f"{name}.{key}", value, f"rope type {kind!r} has no such parameter.")
    return RopeSpec(kind, number(theta, f"{where}.rope_theta"), head_dim, params)


def _rope_dict(reader: ConfigReader) -> tuple[str, dict[str, Any]]:
    scaling, parameters = reader.get("rope_scaling"), reader.get("rope_parameters")
    for name, value in (("rope_scaling", scaling), ("rope_parameters", parameters)):
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"{reader.where}: {name}: expected an object or null, got {str(value)[:60]}.")
        if value and any(isinstance(v, dict) for v in value.values()):
            raise reader.refuse(
                name, value, "One rotary embedding serves all layers; one per layer type is not implemented."
            )
    return ("rope_scaling", scaling) if scaling else ("rope_parameters", parameters or {})


def _params(
    reader: ConfigReader, name: str, kind: str, values: dict[str, Any], max_context: int
) -> dict[str, float | bool]:
    """Take the numbers `kind` knows out of `values`."""
    where = f"{reader.where}: {name}"
    params: dict[str, float | bool] = {}
    for key in _REQUIRED[kind]:
        if values.get(key) is None:
            raise ConfigError(f"{where}.{key}: rope type {kind!r} needs it, got nothing.")
        params[key] = number(values.pop(key), f"{where}.{key}")
        if params[key] <= 0:
            raise ConfigError(f"{where}.{key}: expected a number above 0, got {params[key]}.")
    for key in _OPTIONAL.get(kind, ()):
        if (value := values.pop(key, None)) is not None:
            params[key] = number(value, f"{where}.{key}")
    top = reader.get("original_max_position_embeddings")
    inner = values.pop("original_max_position_embeddings", None)
    if kind in _WITH_ORIGINAL:
        original = top if top is not None else inner if inner is not None else max_context
        params["original_max_position_embeddings"] = number(original, f"{where}.original_max_position_embeddings")
    elif kind == "dynamic":
        params["original_max_position_embeddings"] = float(max_context)
    return params


def _truncate(values: dict[str, Any], where: str) -> dict[str, float | bool]:
    truncate = values.pop("truncate", None)
    if truncate is None:
        return {}
    if not isinstance(truncate, bool):
        raise ConfigError(f"{where}.truncate: expected true or false, got {str(truncate)[:60]}.")
    return {"truncate": truncate}
