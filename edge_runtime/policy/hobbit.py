"""HOBBIT's token-level dynamic loading: on a miss, the weight above an expert decides its precision, or that it waits.

HOBBIT, arXiv 2411.01433, section on token-level dynamic expert loading; MoE-APEX (ASPLOS'26) has the same rule. The
other two levels are engine options that work with every policy: look-ahead prefetch (``--prefetch``) and the
multidimensional cache (``--eviction mdc`` or ``lcu``).
"""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F32, F64, I32, U8, Bools
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.params import Param
from edge_runtime.bundle.record import BF16
from edge_runtime.policy.base import Decision, PolicyContext, ResidencyView, Routing
from edge_runtime.policy.native import HobbitDecider
from edge_runtime.policy.wrappers.watching import OnePass

SOURCE = "HOBBIT, arXiv 2411.01433; MoE-APEX, ASPLOS'26"
PARAMS = {
    "t1": Param(0.6, "score up to which a missing expert is read at the full tier", "HOBBIT, Mixtral-8x7B", 0, 1),
    "t2": Param(
        0.9, "score up to which it is read at the low tier; beyond, it is skipped", "HOBBIT, Mixtral-8x7B", 0, 1
    ),
    "quantiles": Param(
        False,
        "take t1 and t2 from the 67th and 97th percentile of the calibration's scores instead",
        "HOBBIT's shares on Mixtral: 67 % high, 30 % low, 3 % skipped",
    ),
    "low": Param(
        0, "the low tier; 0: a quarter of the full one, at least 2", "HOBBIT: int4 for fp16, int2 for int8", 0, 8
    ),
    "renormalise": Param(False, "after a skip, scale the rest to the weight there was", "ours; the paper is silent"),
}
TUNING_CANDIDATES = ("", "quantiles=true", "t1=0.8,t2=1")
# the sum of normalised weights may exceed 1 by rounding, and T1 = T2 = 1 must change nothing
_ONE = 1.0
_HIGH_PERCENTILE, _LOW_PERCENTILE = 67, 97


def score(weights: F32) -> F64:
    """Return s float64 [T, K]: the normalised weight of everything ranked above; 0 for the first, at most 1.

    Args:
        weights: float32 [T, K], best first; normalised here, whatever the model does.
    """
    wide = weights.astype(np.float64)
    above = np.cumsum(wide, axis=1) - wide
    total = wide.sum(axis=1, keepdims=True)
    return np.minimum(above / np.where(total > 0, total, 1), _ONE)


class Hobbit(OnePass):
    """High, low or skip for misses; whatever is resident deep enough is used as it is. Implements `Policy`.

    Our readings where the paper is silent: a resident full-tier copy is always used; an important expert resident at a
    lower tier is deepened (only its missing planes are read); a resident between the two tiers serves as low; with
    several tokens in a pass an expert has its least score over them.

    Args:
        context: what it is built for.
        t1: see `PARAMS`, and likewise the others.
        t2: see `PARAMS`.
        quantiles: see `PARAMS`.
        low: see `PARAMS`.
        renormalise: see `PARAMS`.

    Raises:
        ConfigError: t1 exceeds t2, or there is no such low tier.
    """

    name = "hobbit"
    reads_residency = True
    keeps_history = False

    def __init__(
        self, context: PolicyContext, *, t1: float, t2: float, quantiles: bool, low: int, renormalise: bool
    ) -> None:
        if quantiles:
            t1, t2 = thresholds(context)
        self._low = low_tier(context, low, "policy 'hobbit'.low")
        if t1 > t2:
            raise ConfigError(f"policy 'hobbit': expected t1 <= t2, got t1={t1:g}, t2={t2:g}.")
        super().__init__(
            context, {"t1": t1, "t2": t2, "quantiles": quantiles, "low": self._low, "renormalise": renormalise}
        )
        self._t1, self._t2, self._renormalise = t1, t2, renormalise
        # numpy's order of a sum, which scaling depends on, is not native code's
        self._native = None if renormalise else HobbitDecider(t1, t2, self._low, context.tier)

    @property
    def min_tier(self) -> int:
        """See `Policy.min_tier`: the low tier."""
        return self._low

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        ids, weights, full = routing.topk_ids, routing.topk_weights, self.context.tier
        if len(ids) == 1:
            return self._decide_one(routing, residency.resident_tiers(layer_idx))
        importance = self._least_over_tokens(ids, score(weights), weights)
        resident = residency.resident_tiers(layer_idx)[ids]
        is_high = (importance <= self._t1) | (resident >= full)
        is_low = ~is_high & (importance <= self._t2)
        tier_of_use = np.where(is_high, full, np.where(is_low, np.clip(resident, self._low, full), 0)).astype(np.uint8)
        used = (weights != 0) & (tier_of_use > 0)
        tiers = np.zeros(self.context.num_experts, np.uint8)
        tiers[ids[used]] = tier_of_use[used]
        skipped = int(np.count_nonzero((weights != 0) & ~used))
        if skipped:
            weights = self._without(weights, used)
        return Decision(
            ids, weights, tiers, substituted=int(np.count_nonzero(used & (tier_of_use < full))), skipped=skipped
        )

    def _decide_one(self, routing: Routing, resident: U8) -> Decision:
        """The same for one token, rank by rank: a step of numpy costs as much as K of Python's.

        `HobbitDecider` does this in native code, operation by operation.
        """
        weights, full, held = routing.topk_weights, self.context.tier, resident.tobytes()
        shares, total = weights[0].tolist(), 0.0
        for share in shares:
            total += share
        total = total or 1.0
        tiers, used = bytearray(self.context.num_experts), []
        so_far, substituted, skipped = 0.0, 0, 0
        for expert, share in zip(routing.topk_ids[0].tolist(), shares, strict=True):
            so_far += share
            tier = self._tier_of_use(min((so_far - share) / total, _ONE), held[expert])
            is_used = tier > 0 and share != 0
            used.append(is_used)
            if is_used:
                tiers[expert] = tier
                substituted += tier < full
            elif share != 0:
                skipped += 1
        if skipped:
            weights = self._without(weights, np.array([used]))
        return Decision(
            routing.topk_ids, weights, np.frombuffer(tiers, np.uint8), substituted=substituted, skipped=skipped
        )

    def _tier_of_use(self, importance: float, resident: int) -> int:
        full = self.context.tier
        if importance <= self._t1 or resident >= full:
            return full
        return min(max(resident, self._low), full) if importance <= self._t2 else 0

    def predict_tiers(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        """See `Policy.predict_tiers`: high and low, as decided."""
        return self.decide(layer_idx, routing, residency).tiers

    def _without(self, weights: F32, used: Bools) -> F32:
        kept = np.where(used, weights, np.float32(0))
        if self._renormalise:
            kept *= weights.sum(axis=1, keepdims=True) / kept.sum(axis=1, keepdims=True)
        return kept

    def _least_over_tokens(self, ids: I32, importance: F64, weights: F32) -> F64:
        least = np.full(self.context.num_experts, _ONE)
        active = weights != 0
        np.minimum.at(least, ids[active], importance[active])
        return least[ids]


def thresholds(context: PolicyContext) -> tuple[float, float]:
    """Return T1 and T2 that give this model the shares the paper had on Mixtral.

    Raises:
        ConfigError: the bundle was exported without a calibration text.
    """
    found = context.calibration.score_quantiles if context.calibration is not None else None
    if found is None:
        raise ConfigError(
            "policy 'hobbit'.quantiles: the bundle has no calibrated scores. Export it with --calibrate FILE."
        )
    return found[_HIGH_PERCENTILE], found[_LOW_PERCENTILE]


def low_tier(context: PolicyContext, asked: int, where: str) -> int:
    """Return the tier to use for less important experts.

    Args:
        context: which tiers there are.
        asked: the tier, or 0 for a quarter of the full one.
        where: for the message.

    Raises:
        ConfigError: the bundle has no such tier at or below the full one, or the full one is bfloat16.
    """
    if context.tier == BF16 and asked != BF16:
        raise ConfigError(f"{where}: bfloat16 records have no lower tiers inside. Use --tier 8 or below.")
    usable = sorted(t for t in context.tier_bytes if t <= context.tier)
    if not asked:
        return max([t for t in usable if 4 * t <= context.tier], default=usable[0])
    if asked not in usable:
        names = ", ".join(map(str, usable))
        raise ConfigError(f"{where}: expected one of {names} (with --tier {context.tier}), got {asked}.")
    return asked
