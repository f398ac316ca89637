"""Reading experts before they are asked for: who predicts, how far ahead, and whether it pays. Options by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.base.params import Param, parse_params

_SWITCH = Param(True, "switch off and on by measured time; false: always on", "ours, after published losses")
PREDICTORS: Mapping[str, Mapping[str, Param]] = {
    "off": {},
    "lookahead": {
        "depth": Param(2, "layers looked ahead, until one lacks something", "HOBBIT 1-3, MoE-APEX 2-4", 1, 16),
        "adaptive": _SWITCH,
    },
    "expert-map": {
        "depth": Param(2, "layers looked ahead, until one lacks something", "FineMoE's d; its demo has 6", 1, 16),
        "capacity": Param(256, "maps of past tokens kept", "FineMoE; its demo has 1000", 1, 1 << 16),
        "adaptive": _SWITCH,
    },
    "statistical": {
        "memory": Param(1024, "uses of an expert after which what followed it counts 1/e", "ours; EdgeMoE profiles", 1),
        "adaptive": _SWITCH,
    },
}


def parse_prefetch(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``name:param=value,...``, convert the values and fill in the defaults.

    Raises:
        ConfigError: the name or a parameter is unknown, given twice, of the wrong type or outside its range.
    """
    name, _, rest = text.partition(":")
    name = name.strip()
    if name not in PREDICTORS:
        known = ", ".join(PREDICTORS)
        raise ConfigError(f"prefetch: expected one of {known}, got {name!r}.{did_you_mean(name, PREDICTORS)}")
    return name, parse_params(rest, PREDICTORS[name], f"prefetch {name!r}")
