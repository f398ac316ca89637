"""Policies, eviction rules and predictors in one form, for help and documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_runtime.base.params import Param
from edge_runtime.experts.eviction.rules import RULES
from edge_runtime.policy import POLICIES
from edge_runtime.prefetch import PREDICTORS


@dataclass(frozen=True)
class Entry:
    """Something an option takes by name."""

    name: str
    summary: str
    params: Mapping[str, Param]


_SUMMARIES = {
    "lru": "the one whose last use is longest ago",
    "lcu": "by cost of past uses and nearness of the next, without parameters",
    "lfru": "by frequency and recency of use",
    "mdc": "recency, frequency, uses at the full tier and layer distance, weighted",
    "rate-distortion": "by what its bytes save, planes and whole experts in one order",
    "layer-sizes": "layers above the size that suits them first",
}

REGISTRIES = {
    "policy": [Entry(name, entry.summary, entry.params) for name, entry in POLICIES.items()],
    "eviction": [Entry(name, _SUMMARIES[name], params) for name, params in RULES.items()],
    "prefetch": [Entry(name, entry.summary, entry.params) for name, entry in PREDICTORS.items()],
}
