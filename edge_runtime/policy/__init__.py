"""Policies by name: parse 'name:param=value,...' and build the policy. One file per policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.errors import ConfigError, did_you_mean
from edge_runtime.policy.base import Policy
from edge_runtime.policy.lossless import Lossless

ParamKind = type[float] | type[int] | type[bool] | type[str]


@dataclass(frozen=True)
class Registered:
    """A policy that can be asked for by name.

    Attributes:
        make: called with num_experts, tier and the parameters given, all by keyword.
        params: name and type of each parameter.
    """

    make: Callable[..., Policy]
    params: Mapping[str, ParamKind] = field(default_factory=dict)


POLICIES: dict[str, Registered] = {"lossless": Registered(Lossless)}


def parse_policy(text: str, policies: Mapping[str, Registered] = POLICIES) -> tuple[str, dict[str, Any]]:
    """Split ``name:param=value,...`` and convert the values.

    Raises:
        ConfigError: the name or a parameter is unknown, given twice, or of the wrong type.
    """
    name, _, rest = text.partition(":")
    name = name.strip()
    if name not in policies:
        known = ", ".join(sorted(policies))
        raise ConfigError(f"policy: expected one of {known}, got {name!r}.{did_you_mean(name, policies)}")
    kinds, params = policies[name].params, {}
    for item in rest.split(",") if rest.strip() else []:
        key, equals, value = (part.strip() for part in item.partition("="))
        where = f"policy {name!r}"
        if not equals:
            raise ConfigError(f"{where}: expected param=value, got {item!r}.")
        if key not in kinds:
            takes = f"it takes {', '.join(sorted(kinds))}" if kinds else "it takes none"
            raise ConfigError(f"{where}: unknown parameter {key!r}; {takes}.{did_you_mean(key, kinds)}")
        if key in params:
            raise ConfigError(f"{where}: parameter {key!r} is given twice.")
        params[key] = _convert(kinds[key], value, f"{where}.{key}")
    return name, params


def create_policy(text: str, *, num_experts: int, tier: int, policies: Mapping[str, Registered] = POLICIES) -> Policy:
    """Build the policy that ``name:param=value,...`` asks for.

    Args:
        text: name and parameters.
        num_experts: E.
        tier: the tier that counts as full.
        policies: what there is.

    Raises:
        ConfigError: see `parse_policy`.
    """
    name, params = parse_policy(text, policies)
    return policies[name].make(num_experts=num_experts, tier=tier, **params)


def _convert(kind: ParamKind, value: str, where: str) -> bool | int | float | str:
    if kind is bool:
        if value not in ("true", "false"):
            raise ConfigError(f"{where}: expected true or false, got {value!r}.")
        return value == "true"
    try:
        return kind(value)
    except ValueError as err:
        raise ConfigError(f"{where}: expected {kind.__name__}, got {value!r}.") from err
