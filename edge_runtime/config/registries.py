"""Policies, eviction rules, predictors and power meters in one form, for help and documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_runtime.base.params import Param
from edge_runtime.experts.eviction import RULES
from edge_runtime.policy import POLICIES
from edge_runtime.prefetch import PREDICTORS
from edge_runtime.telemetry.power import METERS, PARAMS


@dataclass(frozen=True)
class Entry:
    """Something an option takes by name."""

    name: str
    summary: str
    params: Mapping[str, Param]


REGISTRIES = {
    "policy": [Entry(name, entry.summary, entry.params) for name, entry in POLICIES.items()],
    "eviction": [Entry(name, rule.summary, rule.params) for name, rule in RULES.items()],
    "prefetch": [Entry(name, entry.summary, entry.params) for name, entry in PREDICTORS.items()],
    "power_meter": [Entry(name, summary, PARAMS[name]) for name, summary in METERS.items()],
}
