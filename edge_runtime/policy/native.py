"""Native parts of policies: the router's rule, and decisions for a single token at a layer.

`Router(experts, layers, *, score, over_chosen, normalise, epsilon, scale, groups, chosen_groups, two_best,
        selection_bias, expert_scale, table, isa="auto")`
    The rule of `edge_runtime.base.spec.RouterSpec` (groups 0: none) with the numbers of S sparse layers: float32
    [S, E], float32 [S, E], int32 [H, V, K], each or None. Arrays are kept. `place` counts sparse layers. `isa`:
    "auto" or one of `router_isas()`; all give the same bits.
    route(place, logits, ids, weights, token_ids=None)    float32 [T, E]; writes int32 and float32 [T, K].
    route_layers(logits, ids, weights, token_ids=None)    all layers: float32 [S, T, E]; int32 and float32 [S, T, K].
    rank(logits, ids, weights)                            the greatest logits, whatever a layer adds to them.
    weigh(place, logits, ids, weights)                    weighs given ids, and sorts both heaviest first.
    port()                                                what native code asks for a choice by, a capsule.
    preference(place, logits, out)                        what the choice compares, float32 [T, E].

`OneToken(losses, missing, held, shares, sums, factors, tokens, served, full, horizon, keep, router, expert_factors,
          base=0, upgrades=0)`
    losses float64 [L, E, C], missing float64 [17, C] and held float64 [17] bytes by resident tier, shares float64 [L]:
    tables of `loss_tables`. sums float64 [L, E], factors and tokens float64 [L]: those of `UseRates`, which it writes.
    served: the C tiers that may be served, deepest first, then 0, the skip. keep: what a token leaves of a use rate.
    router: the model's. expert_factors: float64 [L, E], of each expert's weight, or None. base: the tier every expert
    is resident at, or 0; with it, at most `upgrades` experts are deepened in the background.
    decide(layer, logits, preference, ids, weights, resident, price, opportunity_cost, decided_ids, decided_weights,
           tiers, later) -> (substituted, skipped, changed, loss, read bytes, held bytes)
        Notes the uses of a routing (logits and what its router compares float32 [1, E], experts int32 and weights
        float32 [1, K]) and chooses, with the tiers uint8 [E] of residents. Writes the decision: decided_ids int32
        [1, K], decided_weights float32 [1, K], into tiers and later uint8 [E], zeros before, what is served and what to
        deepen.
    predict_tiers(layer, logits, preference, ids, weights, resident, price, opportunity_cost, tiers)
        Only writes tiers.
    value_of_residents(layer, resident) -> nats a token that a byte of them saves, on average; None: there are none

`HobbitDecider(t1, t2, low, full)`, `CachePriorDecider(bias, keeps, full, ranges, tokens, places, router)`,
`MobileDecider(little, full, rankings)`
    What `Hobbit` and `CachePrior` decide for a single token, and `Mobile` in its little pass. port(): what native code
    asks for decisions by, a capsule. It writes the policy's own arrays: ranges and tokens float64 [L], rankings int32
    [L, K]. places: of each layer among the router's; -1: it has no experts.

A call that raises has changed nothing. For one thread.
"""

from __future__ import annotations

try:
    from edge_runtime.policy._native import (
        CachePriorDecider,
        HobbitDecider,
        MobileDecider,
        OneToken,
        Router,
        router_isas,
    )
except ImportError as err:
    from edge_runtime.base.errors import DeviceError, missing_extension

    raise DeviceError(missing_extension("edge_runtime.policy", err)) from err

__all__ = ["CachePriorDecider", "HobbitDecider", "MobileDecider", "OneToken", "Router", "router_isas"]
