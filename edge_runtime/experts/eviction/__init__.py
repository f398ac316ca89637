"""Which resident expert goes first when room is needed. Rules by name, one file a rule, as policies are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.base.params import Param, parse_named
from edge_runtime.experts.eviction import layer_sizes, lcu, lfru, lru, mdc, next_use, rate_distortion
from edge_runtime.experts.eviction.base import EvictionRule, OrderedRule, RuleContext


@dataclass(frozen=True)
class RegisteredRule:
    """A rule that can be asked for by name.

    Attributes:
        make: called with the `RuleContext`, and all parameters by keyword.
        summary: what goes first, in a few words, for help and documentation.
        params: its parameters.
        needs_calibration: reads what the exporter measured.
    """

    make: Callable[..., EvictionRule]
    summary: str
    params: Mapping[str, Param] = field(default_factory=dict)
    needs_calibration: bool = False


RULES: dict[str, RegisteredRule] = {
    "lru": RegisteredRule(lru.Lru, lru.SUMMARY),
    "lcu": RegisteredRule(lcu.Lcu, lcu.SUMMARY),
    "lfru": RegisteredRule(lfru.Lfru, lfru.SUMMARY, lfru.PARAMS),
    "mdc": RegisteredRule(mdc.Multidimensional, mdc.SUMMARY, mdc.PARAMS),
    "next-use": RegisteredRule(next_use.NextUse, next_use.SUMMARY, next_use.PARAMS),
    "rate-distortion": RegisteredRule(
        rate_distortion.RateDistortionRule, rate_distortion.SUMMARY, lfru.PARAMS, needs_calibration=True
    ),
    "layer-sizes": RegisteredRule(
        layer_sizes.LayerSizes, layer_sizes.SUMMARY, layer_sizes.PARAMS, needs_calibration=True
    ),
}
"""What there is. A package of its own may add a rule here before an engine is opened."""


def parse_rule(
    text: str, where: str = "eviction", rules: Mapping[str, RegisteredRule] = RULES
) -> tuple[str, dict[str, Any]]:
    """Split ``name:param=value,...``, convert the values and fill in the defaults; see `parse_named` for errors."""
    return parse_named(text, {name: rule.params for name, rule in rules.items()}, where)


def create_rule(text: str, context: RuleContext, rules: Mapping[str, RegisteredRule] = RULES) -> EvictionRule:
    """Build the rule that ``name:param=value,...`` asks for.

    Raises:
        ConfigError: the text is wrong; or the rule needs a calibration and there is none.
    """
    name, params = parse_rule(text, rules=rules)
    return rules[name].make(context, **params)


__all__ = ["RULES", "EvictionRule", "OrderedRule", "RegisteredRule", "RuleContext", "create_rule", "parse_rule"]
