"""Names that policies, eviction rules, power meters and predictors are asked for by.

Written by tools/options_table.py from their registries, which are too heavy for `--help`. Do not edit.
"""

POLICIES = (
    "lossless",
    "hobbit",
    "mobile",
    "cache-prior",
    "max-rank",
    "rate-distortion",
    "cumsum",
    "adapmoe",
    "smoe",
    "skip",
    "lexi",
    "edgemoe",
    "mcsharp",
)

EVICTION_RULES = (
    "lru",
    "lcu",
    "lfru",
    "mdc",
    "next-use",
    "rate-distortion",
    "layer-sizes",
)

POWER_METERS = (
    "auto",
    "none",
    "ina",
    "rapl",
    "battery",
    "jtop",
)

PREDICTORS = (
    "off",
    "lookahead",
    "expert-map",
    "statistical",
)

POLICY_WITH_BUDGET, BUDGET_PARAM, BASE_PARAM = "rate-distortion", "max_kld", "base"
"""The policy that `--max-kld` and `--base-resident` select, and its parameters for them."""
