"""Policies by name: parse 'name:param=value,...' and build the policy. One file per policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from edge_runtime.base.params import Param, parse_named
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

Reads = Literal["choice", "weights", "logits"]
_READS: tuple[Reads, ...] = get_args(Reads)


@dataclass(frozen=True)
class Registered:
    """A policy that can be asked for by name.

    Attributes:
        make: called with the `PolicyContext`, and all parameters by keyword.
        params: its parameters.
        source: where it is published, and what of it is our reading.
        needs_calibration: reads what the exporter measured, from `PolicyContext.calibration`.
        summary: what it does, one line, for help and docs.
        reads: what it looks at of the router's output: who is chosen, the chosen ones' weights as well, or all of it.
        budget_param: the parameter that holds what a token may cost in nats; "" if it has none. One policy has it, and
            `--max-kld` selects that one.
        base_param: the parameter with which it keeps every expert in memory at its lowest tier; "" if it never does.
        tuning_candidates: parameters that `hobbit tune` tries it with, where a loss is allowed. "" stands for the
            defaults, {budget:g} for the nats a token may cost, {half:g} for half of them. () if it changes nothing.
    """

    make: Callable[..., Policy]
    params: Mapping[str, Param] = field(default_factory=dict)
    source: str = "ours"
    needs_calibration: bool = False
    summary: str = ""
    reads: Reads = "logits"
    budget_param: str = ""
    base_param: str = ""
    tuning_candidates: tuple[str, ...] = ("",)


POLICIES: dict[str, Registered] = {
    "lossless": Registered(
        Lossless,
        summary="the router's choice, every expert at the full tier",
        reads="choice",
        tuning_candidates=(),
    ),
    "hobbit": Registered(
        hobbit.Hobbit,
        hobbit.PARAMS,
        hobbit.SOURCE,
        needs_calibration=True,
        summary="missing experts at a lower tier or not at all, by their score",
        reads="weights",
        tuning_candidates=hobbit.TUNING_CANDIDATES,
    ),
    "mobile": Registered(
        mobile.Mobile, mobile.PARAMS, mobile.SOURCE, summary="half the experts first, all of them for important tokens"
    ),
    "cache-prior": Registered(
        cache_prior.CachePrior,
        cache_prior.PARAMS,
        cache_conditional.SOURCE,
        summary="a bias on the logits of resident experts",
    ),
    "max-rank": Registered(
        max_rank.MaxRank, max_rank.PARAMS, cache_conditional.SOURCE, summary="resident experts among the first m ranks"
    ),
    "rate-distortion": Registered(
        rate_distortion.RateDistortion,
        rate_distortion.PARAMS,
        needs_calibration=True,
        summary="bytes where they save most, within a budget of KL divergence",
        reads="weights",
        budget_param="max_kld",
        base_param="base",
        tuning_candidates=rate_distortion.TUNING_CANDIDATES,
    ),
    "cumsum": Registered(
        cumsum.Cumsum,
        cumsum.PARAMS,
        cache_conditional.SOURCE,
        summary="resident experts among those that reach the mass p",
    ),
    "adapmoe": Registered(
        adapmoe.Adapmoe,
        adapmoe.PARAMS,
        adapmoe.SOURCE,
        needs_calibration=True,
        summary="the last experts dropped in layers where that costs little",
        reads="weights",
    ),
    "smoe": Registered(
        smoe.Smoe, smoe.PARAMS, smoe.SOURCE, summary="missing experts replaced by resident ones of nearly their score"
    ),
    "skip": Registered(
        skip.Skip,
        skip.PARAMS,
        skip.SOURCE,
        summary="experts dropped whose weight is small beside the first one's",
        reads="weights",
    ),
    "lexi": Registered(
        lexi.Lexi, lexi.PARAMS, lexi.SOURCE, summary="a number of experts for each layer", reads="weights"
    ),
    "edgemoe": Registered(
        partial(static_tiers.StaticTiers, name="edgemoe", cost_of=static_tiers.weight_cost),
        static_tiers.EDGEMOE_PARAMS,
        static_tiers.EDGEMOE_SOURCE,
        needs_calibration=True,
        summary="a fixed tier for each expert, by its measured sensitivity",
        reads="choice",
    ),
    "mcsharp": Registered(
        partial(static_tiers.StaticTiers, name="mcsharp", cost_of=static_tiers.output_cost),
        static_tiers.MCSHARP_PARAMS,
        static_tiers.MCSHARP_SOURCE,
        needs_calibration=True,
        summary="a fixed tier for each expert, by its importance; weak ones dropped",
        reads="weights",
    ),
}


def reads_at_most(name: str, known: Reads, policies: Mapping[str, Registered] = POLICIES) -> bool:
    """Whether a policy can decide where no more than this is known of the router's output."""
    return _READS.index(policies[name].reads) <= _READS.index(known)


def keeps_base(text: str, policies: Mapping[str, Registered] = POLICIES) -> bool:
    """Whether the policy that ``name:param=value,...`` asks for keeps every expert in memory; see `Policy.keeps_base`.

    Answered without building it, which takes a model.
    """
    name, params = parse_policy(text, policies)
    return bool(params.get(policies[name].base_param, False))


def parse_policy(
    text: str, policies: Mapping[str, Registered] = POLICIES, where: str = "policy"
) -> tuple[str, dict[str, Any]]:
    """Split ``name:param=value,...``; see `parse_named`."""
    return parse_named(text, {name: entry.params for name, entry in policies.items()}, where)


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
