"""Static mixed precision: each expert has one tier, chosen before the first token from what the exporter measured.

EdgeMoE (arXiv 2308.14352) gives each expert a bit width by its own sensitivity, profiled offline. MC-MoE and MC#
allocate bits by importance as well (how often an expert is used, how much it carries) and prune experts online. Both
are one allocation here: the mean bytes of an expert are a budget, and planes go where they lower the summed error most
for their bytes. EdgeMoE's statistical preload is ``--prefetch statistical``. Not taken over: MC#'s learned pruning, in
whose place the tail of a token's experts below a share of its weight is dropped.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edge_runtime.base.arrays import F32, F64, U8
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.params import Param
from edge_runtime.bundle.calibration import LayerCalibration
from edge_runtime.bundle.record import BF16
from edge_runtime.policy.base import Decision, PolicyContext, ResidencyView, Routing
from edge_runtime.policy.decisions import count_skipped
from edge_runtime.policy.wrappers.watching import OnePass

EDGEMOE_SOURCE, MCSHARP_SOURCE = "EdgeMoE, arXiv 2308.14352", "after MC-MoE / MC#; pruning is ours"
_BITS = Param(
    4.0, "mean bits of an expert; the full tier's changes nothing", "the papers' own trade-off; default ours", 2, 16
)
EDGEMOE_PARAMS = {"bits": _BITS}
MCSHARP_PARAMS = {
    "bits": _BITS,
    "prune": Param(0.05, "drop the tail of a token's experts up to this share of its weight", "ours", 0, 1),
}
Costs = dict[int, F64]
CostOf = Callable[[LayerCalibration, str], "F64 | None"]
"""Float64 [E] of a layer and a tier, or [] where all cost nothing; None where it was not measured."""


class StaticTiers(OnePass):
    """Serves every expert at its own fixed tier. Implements `Policy`.

    Args:
        context: what it is built for, with its calibration.
        name: of the policy.
        cost_of: what experts of a layer cost at a tier.
        bits: mean bits of an expert.
        prune: share of a token's weight that may be dropped.

    Raises:
        ConfigError: the calibration it needs is missing.
    """

    reads_residency = False
    keeps_history = False

    def __init__(
        self, context: PolicyContext, name: str, cost_of: CostOf, *, bits: float, prune: float | None = None
    ) -> None:
        params: dict[str, float | int | str | bool] = {"bits": bits}
        super().__init__(context, params if prune is None else params | {"prune": prune})
        self.name, self._prune = name, prune or 0.0
        self._tiers = np.full((context.num_layers, context.num_experts), context.tier, np.uint8)
        if bits < context.tier:
            if context.tier == BF16:
                raise ConfigError(
                    f"policy {name!r}: bfloat16 records have no lower tiers inside. Use --tier 8 or below."
                )
            layers, costs = measured_costs(context, name, cost_of)
            self._tiers[layers] = allocate(costs, context.tier_bytes, mean_bytes(context, bits))
        self._lowest = int(self._tiers.min())

    @property
    def min_tier(self) -> int:
        """See `Policy.min_tier`: the lowest tier given to an expert."""
        return self._lowest

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        ids, weights, mine = routing.topk_ids, routing.topk_weights, self._tiers[layer_idx]
        if self._prune:
            weights = pruned(weights, self._prune)
        used = weights != 0
        tiers = np.zeros(self.context.num_experts, np.uint8)
        chosen = ids[used]
        tiers[chosen] = mine[chosen]
        lower = int(np.count_nonzero(mine[chosen] < self.context.tier))
        return Decision(ids, weights, tiers, substituted=lower, skipped=count_skipped(routing, weights))

    def predict_tiers(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        """See `Policy.predict_tiers`."""
        return self.decide(layer_idx, routing, residency).tiers


def pruned(weights: F32, share: float) -> F32:
    """Zero the longest tail of each token's weights float32 [T, K] that sums to at most `share`; scale the rest."""
    tail = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    total = weights.sum(axis=1, keepdims=True)
    kept = tail > share * total
    kept[:, 0] = True
    left = np.where(kept, weights, np.float32(0))
    return np.asarray(left * (total / left.sum(axis=1, keepdims=True)), np.float32)


def mean_bytes(context: PolicyContext, bits: float) -> float:
    """Bytes of an expert at a mean of `bits`, between those of the tiers there are."""
    tiers = sorted(tier for tier in context.tier_bytes if tier <= context.tier)
    return float(np.interp(bits, tiers, [context.tier_bytes[tier] for tier in tiers]))


def weight_cost(layer: LayerCalibration, tier: str) -> F64 | None:
    """EdgeMoE's `CostOf`: the squared error of an expert's weights."""
    return np.square(np.array(layer.errors.get(tier, 0.0), np.float64))


def output_cost(layer: LayerCalibration, tier: str) -> F64 | None:
    """MC#'s `CostOf`: the squared error of an expert's output, times how often it is used and its length squared."""
    if layer.output_errors is None or layer.counts is None or layer.norms is None:
        return None
    row = np.square(np.array(layer.output_errors.get(tier, 0.0), np.float64))
    return row * (np.array(layer.counts, np.float64) * np.square(np.array(layer.norms, np.float64)))


def measured_costs(context: PolicyContext, name: str, cost_of: CostOf) -> tuple[Sequence[int], Costs]:
    """Return the sparse layers, and tier -> what each of their experts costs there, float64 [layers, E].

    Raises:
        ConfigError: it was not measured.
    """
    layers, costs = [] if context.calibration is None else context.calibration.layers, Costs()
    for tier in sorted(t for t in context.tier_bytes if t <= context.tier):
        rows = [row for layer in layers if (row := cost_of(layer, str(tier))) is not None]
        if not rows:
            raise ConfigError(
                f"policy {name!r}: the bundle has no calibration of its experts. Export it with --calibrate FILE."
            )
        costs[tier] = np.stack([np.broadcast_to(row, context.num_experts) for row in rows])
    return [layer.layer for layer in layers], costs


def allocate(costs: Costs, tier_bytes: Mapping[int, int], budget: float) -> U8:
    """Choose a tier for every expert so that their mean bytes stay within a budget and their summed cost is low.

    Greedy: all start at the lowest tier, and the step that saves most for its bytes goes first. A step may span several
    tiers, where the next one alone saves little.

    Args:
        costs: tier -> float64 [layers, E].
        tier_bytes: bytes at each tier.
        budget: mean bytes of an expert.

    Returns:
        uint8 [layers, E].
    """
    tiers = sorted(costs)
    shape = costs[tiers[0]].shape
    table = np.stack([costs[tier].ravel() for tier in tiers])
    sizes = [tier_bytes[tier] for tier in tiers]
    level = [0] * table.shape[1]
    left = (budget - sizes[0]) * len(level)

    def best_step(expert: int, start: int) -> tuple[float, int, int, int]:
        rates = [
            (float(table[start, expert] - table[to, expert]) / (sizes[to] - sizes[start]), to)
            for to in range(start + 1, len(tiers))
        ]
        rate, to = max(rates, key=lambda entry: (entry[0], -entry[1]))
        return -rate, expert, start, to

    heap = [best_step(expert, 0) for expert in range(len(level))] if len(tiers) > 1 else []
    heapq.heapify(heap)
    while heap:
        _, expert, start, to = heapq.heappop(heap)
        if sizes[to] - sizes[start] > left:
            continue
        left -= sizes[to] - sizes[start]
        level[expert] = to
        if to + 1 < len(tiers):
            heapq.heappush(heap, best_step(expert, to))
    return np.asarray(np.array(tiers, np.uint8)[level].reshape(shape), np.uint8)
