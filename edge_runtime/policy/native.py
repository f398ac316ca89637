"""The native choice of `RateDistortion` for a single token at a layer.

`OneToken(losses, missing, held, shares, sums, factors, tokens, served, full, horizon, keep, normalise)`
    losses float64 [L, E, C], missing float64 [17, C] and held float64 [17] bytes by resident tier, shares float64 [L]:
    tables of `loss_tables`. sums float64 [L, E], factors and tokens float64 [L]: those of `UseRates`, which it writes.
    served: the C tiers that may be served, deepest first, then 0, the skip. keep: what a token leaves of a use rate.
    decide(layer, logits, ids, weights, resident, price, opportunity_cost, plan_ids, plan_weights, tiers)
        -> (substituted, skipped, changed, loss, read bytes, held bytes)
        Notes the uses of a routing (float32 [1, E], int32 [1, K], float32 [1, K]) and chooses, with the tiers uint8 [E]
        of residents. Writes the decision: plan_ids int32 [1, K], plan_weights float32 [1, K], and into tiers uint8 [E],
        zeros before, what is served.
    predict_tiers(layer, logits, ids, weights, resident, price, opportunity_cost, tiers)      only writes tiers.
    value_of_residents(layer, resident) -> nats a token that a byte of them saves, on average; None: there are none

A call that raises has changed nothing. For one thread.
"""

from __future__ import annotations

try:
    from edge_runtime.policy._native import OneToken
except ImportError as err:
    from edge_runtime.base.errors import DeviceError

    raise DeviceError(
        "edge_runtime.policy: the native extension '_native' is missing or does not load "
        f"({err}). Build it with: pip install -e . (needs a C++17 compiler)"
    ) from err

__all__ = ["OneToken"]
