"""Reading experts before they are asked for: who predicts, how far ahead, and whether it pays. Options by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.base.params import Param, parse_named

_SWITCH = Param(True, "switch off and on by measured time; false: always on", "ours, after published losses")


@dataclass(frozen=True)
class Registered:
    """A predictor that can be asked for by name.

    Attributes:
        summary: whom it predicts and by what, one line, for help and docs.
        params: its parameters.
    """

    summary: str
    params: Mapping[str, Param] = field(default_factory=dict)


PREDICTORS: Mapping[str, Registered] = {
    "off": Registered("nothing is read ahead"),
    "lookahead": Registered(
        "the next layers' routers, applied to the present layer's state",
        {
            "depth": Param(2, "layers looked ahead, until one lacks something", "HOBBIT 1-3, MoE-APEX 2-4", 1, 16),
            "adaptive": _SWITCH,
        },
    ),
    "expert-map": Registered(
        "past tokens routed like this one",
        {
            "depth": Param(2, "layers looked ahead, until one lacks something", "FineMoE's d; its demo has 6", 1, 16),
            "capacity": Param(256, "maps of past tokens kept", "FineMoE; its demo has 1000", 1, 1 << 16),
            "adaptive": _SWITCH,
        },
    ),
    "statistical": Registered(
        "which experts of the next layer followed those of this one",
        {
            "memory": Param(
                1024, "uses of an expert after which what followed it counts 1/e", "ours; EdgeMoE profiles", 1
            ),
            "adaptive": _SWITCH,
        },
    ),
}


def parse_prefetch(text: str, where: str = "prefetch") -> tuple[str, dict[str, Any]]:
    """Split ``name:param=value,...``; see `parse_named`."""
    return parse_named(text, {name: entry.params for name, entry in PREDICTORS.items()}, where)
