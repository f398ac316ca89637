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
    "longrope": ("short_mscale", "long_mscale"),
}
ANY_FAMILY = tuple(kind for kind in get_args(RopeKind) if kind not in ("longrope", "proportional"))
"""What transformers computes alike for all families."""
_MOST_FACTORS = 1 << 11
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
}
_WITH_ORIGINAL = ("yarn", "llama3", "longrope")


def read_rope(
    reader: ConfigReader,
    head_dim: int,
    max_context: int,
    default_theta: float,
    *,
    default: Mapping[str, Any] | None = None,
    partial: float | None = None,
    kinds: tuple[str, ...] = ANY_FAMILY,
) -> RopeSpec:
    """Read the rotary options the way transformers 5 standardises them.

    A non-empty `rope_scaling` replaces `rope_parameters`; a top-level `rope_theta` fills in a missing one;
    `original_max_position_embeddings` defaults to the context (top level wins where both exist).

    Args:
        reader: config.json.
        head_dim: C.
        max_context: `max_position_embeddings`.
        default_theta: of the family.
        default: the family's own options where config.json has none.
        partial: the share of a head that is rotated unless config.json says; None: the family rotates whole heads.
        kinds: rope types the family's code in transformers computes.
    """
    name, given = _rope_dict(reader)
    values = dict(given or default or {})
    where = f"{reader.where}: {name}"
    kind: Any = values.pop("rope_type", None) or values.get("type") or "default"
    values.pop("type", None)
    if kind not in kinds:
        raise reader.refuse(f"{name}.rope_type", kind, f"Supported: {', '.join(kinds)}.")
    top_theta = reader.get("rope_theta")
    theta = values.pop("rope_theta", None)
    theta = theta if theta is not None else top_theta if top_theta is not None else default_theta
    rotated = _rotated(reader, name, values.pop("partial_rotary_factor", None), head_dim, partial)
    factors: dict[str, Any] = _long_factors(values, where) if kind == "longrope" else {}
    params = _params(reader, name, kind, values, max_context)
    if kind == "yarn":
        params |= _truncate(values, where)
    for key, value in values.items():
        raise reader.refuse(f"{name}.{key}", value, f"rope type {kind!r} has no such parameter.")
    return RopeSpec(kind, number(theta, f"{where}.rope_theta"), rotated, params, **factors)


def _rotated(reader: ConfigReader, name: str, inner: Any, head_dim: int, partial: float | None) -> int:
    """Return how many numbers of a head are rotated; a factor inside the rope options wins over one beside them."""
    outer = reader.get("partial_rotary_factor")
    if partial is None:
        for key, given in (("partial_rotary_factor", outer), (f"{name}.partial_rotary_factor", inner)):
            if given not in (None, 1, 1.0):
                raise reader.refuse(key, given, "Heads of this family are rotated whole.")
        return head_dim
    share = next(given for given in (inner, outer, partial) if given is not None)
    return int(head_dim * number(share, f"{reader.where}: partial_rotary_factor"))


def _long_factors(values: dict[str, Any], where: str) -> dict[str, list[float]]:
    """Take the factors of type longrope out of `values`."""
    found = {}
    for key in ("short_factor", "long_factor"):
        given = values.pop(key, None)
        if not isinstance(given, list) or len(given) > _MOST_FACTORS:
            raise ConfigError(f"{where}.{key}: rope type 'longrope' needs a list of numbers, got {str(given)[:60]}.")
        found[key] = [number(each, f"{where}.{key}") for each in given]
    return found


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
