"""Policies by name: parse 'name:param=value,...' and build the policy. One file per policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.base.params import Param, parse_params
from edge_runtime.policy import (
    adapmoe,
    cache_conditional,
    cache_prior,
    cumsum,
    hobbit,
    lexi,
    max_rank,
    mobile,
    skip,
    smoe,
    static_tiers,
)
from edge_runtime.policy.base import Policy, PolicyContext
from edge_runtime.policy.lossless import Lossless
from edge_runtime.policy.rate_distortion import policy as rate_distortion


@dataclass(frozen=True)
class Registered:
    """A policy that can be asked for by name.

    Attributes:
        make: called with the `PolicyContext`, and all parameters by keyword.
        params: its parameters.
        source: where it is published, and what of it is our reading.
        needs_calibration: reads what the exporter measured, from `PolicyContext.calibration`.
    """

    make: Callable[..., Policy]
    params: Mapping[str, Param] = field(default_factory=dict)
    source: str = "ours"
    needs_calibration: bool = False


POLICIES: dict[str, Registered] = {
    "lossless": Registered(Lossless),
    "hobbit": Registered(hobbit.Hobbit, hobbit.PARAMS, hobbit.SOURCE, needs_calibration=True),
    "mobile": Registered(mobile.Mobile, mobile.PARAMS, mobile.SOURCE),
    "cache-prior": Registered(cache_prior.CachePrior, cache_prior.PARAMS, cache_conditional.SOURCE),
    "max-rank": Registered(max_rank.MaxRank, max_rank.PARAMS, cache_conditional.SOURCE),
    "rate-distortion": Registered(rate_distortion.RateDistortion, rate_distortion.PARAMS, needs_calibration=True),
    "cumsum": Registered(cumsum.Cumsum, cumsum.PARAMS, cache_conditional.SOURCE),
    "adapmoe": Registered(adapmoe.Adapmoe, adapmoe.PARAMS, adapmoe.SOURCE, needs_calibration=True),
    "smoe": Registered(smoe.Smoe, smoe.PARAMS, smoe.SOURCE),
    "skip": Registered(skip.Skip, skip.PARAMS, skip.SOURCE),
    "lexi": Registered(lexi.Lexi, lexi.PARAMS, lexi.SOURCE),
    "edgemoe": Registered(
        partial(static_tiers.StaticTiers, name="edgemoe"),
        static_tiers.EDGEMOE_PARAMS,
        static_tiers.EDGEMOE_SOURCE,
        needs_calibration=True,
    ),
    "mcsharp": Registered(
        partial(static_tiers.StaticTiers, name="mcsharp"),
        static_tiers.MCSHARP_PARAMS,
        static_tiers.MCSHARP_SOURCE,
        needs_calibration=True,
    ),
}


def parse_policy(text: str, policies: Mapping[str, Registered] = POLICIES) -> tuple[str, dict[str, Any]]:
    """Split ``name:param=value,...``, convert the values and fill in the defaults.

    Raises:
        ConfigError: the name or a parameter is unknown, given twice, of the wrong type or outside its range.
    """
    name, _, rest = text.partition(":")
    name = name.strip()
    if name not in policies:
        known = ", ".join(sorted(policies))
        raise ConfigError(f"policy: expected one of {known}, got {name!r}.{did_you_mean(name, policies)}")
    return name, parse_params(rest, policies[name].params, f"policy {name!r}")


def create_policy(text: str, context: PolicyContext, policies: Mapping[str, Registered] = POLICIES) -> Policy:
    """Build the policy that ``name:param=value,...`` asks for.

    Args:
        text: name and parameters.
        context: what it is built for.
        policies: what there is.

    Raises:
        ConfigError: see `parse_policy`; or the parameters do not fit the model or each other.
    """
    name, params = parse_policy(text, policies)
    return policies[name].make(context, **params)


def price_of(policy: Policy) -> Callable[[], float]:
    """Return what asks a policy for its present price of a byte, in nats; always 0 for those that have none."""
    return lambda: policy.price if isinstance(policy, rate_distortion.RateDistortion) else 0.0
