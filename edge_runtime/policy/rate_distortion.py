"""Rate-distortion (ours): every use of an expert takes the tier, or the skip, whose loss plus price of bytes is least.

For one token at one layer, expert i with weight w_i, resident at tier r, and every tier t of the bundle::

    loss(i, t)    = quantise_l * (w_i * norm_i)^2 * (error_i[t]^2 - error_i[full]^2)     in nats
    loss(i, skip) = skip_l     * (w_i * norm_i)^2
    bytes(i, t)   = what is missing from r to t; 0 up to r
    choose t minimising  loss(i, t) * (1 + later_i / w_i^2) + (price + rent) * bytes(i, t)

`norm`, `error`, `quantise` and `skip` were measured by ``hobbit-export --calibrate`` (docs/format.md, section 5).
`later_i` is the squared weight the expert is expected to carry in the next `horizon` tokens: a read serves those uses
too, so one that is used much is read at its first touch, however light that is, and one that is not waits for a heavy
use. It is a mean of what the calibration text said (as if seen for 64 tokens) and of what was seen since. `rent` is
what the bytes that make room were worth themselves (see `MemoryRent`). The price is moved so that the predicted loss a
token is ``max_kld`` (see `PriceController`).

A skip keeps the other weights, as it did when it was measured. A resident expert the router did not choose takes a
skipped one's place where calibration found that the smaller loss. The heaviest expert of a token is never skipped.
"""

from __future__ import annotations

from math import exp

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import PolicyContext, ResidencyView, Routing, StepPlan
from edge_runtime.policy.hobbit import low_tier
from edge_runtime.policy.params import Param
from edge_runtime.policy.plans import full_plan
from edge_runtime.policy.read_choice import Choice, ReadChoice
from edge_runtime.policy.wrapping import OnePass

I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
PARAMS = {
    "max_kld": Param(0.01, "KL divergence a token the policy may cost, in nats; 0 changes nothing", "ours", 0, 10),
    "low": Param(2, "the lowest tier it may use", "ours", 2, 16),
    "memory": Param(256, "tokens over which an expert's use is estimated", "ours", 1, 1e6),
    "horizon": Param(128, "tokens ahead whose uses a read is credited with; 0: this token's only", "ours", 0, 1e6),
}


class RateDistortion(OnePass):
    """See the module. Implements `Policy`.

    Args:
        context: what it is built for; must hold a calibration that was measured on a text.
        max_kld: see `PARAMS`, and likewise the others.
        low: see `PARAMS`.
        memory: see `PARAMS`.
        horizon: see `PARAMS`.

    Raises:
        ConfigError: the bundle was exported without --calibrate, or has no such tier.
    """

    name = "rate-distortion"

    def __init__(self, context: PolicyContext, *, max_kld: float, low: int, memory: int, horizon: int) -> None:
        super().__init__(context, {"max_kld": max_kld, "low": low, "memory": memory, "horizon": horizon})
        least = low_tier(context, min(low, context.tier), "policy 'rate-distortion'.low")
        # deepest first, so that equal costs go to the better tier
        self._tiers = sorted((t for t in context.tier_bytes if least <= t <= context.tier), reverse=True)
        if context.tier == 16:  # bfloat16 is a file of its own: no other tier is a prefix of it
            self._tiers = [16]
        self._model = None
        if max_kld > 0:
            self._model = ReadChoice(context, self._tiers, budget=max_kld, memory=memory, horizon=horizon)
        self._pass_loss = self._pass_bytes = self._pass_resident = 0.0
        self._tokens = 0

    @property
    def min_tier(self) -> int:
        """See `Policy.min_tier`: with a budget, the lowest tier it may use."""
        return self._tiers[-1] if self._model else self.context.tier

    @property
    def price(self) -> float:
        """Nats it pays now to read a byte less; 0 without a budget."""
        return self._model.price if self._model else 0.0

    def begin_sequence(self) -> None:
        """See `Policy.begin_sequence`; rates of use and the price outlive a text."""
        if self._model:
            self._model.control.begin_sequence()

    def begin_pass(self, num_tokens: int, *, has_logits: bool) -> None:
        """See `Policy.begin_pass`; settles the account of the pass before."""
        if self._model and self._tokens:
            self._model.control.spent(self._pass_loss, self._tokens)
            self._model.rent.settle(self._pass_bytes, self._pass_resident)
            self._pass_loss = self._pass_bytes = self._pass_resident = 0.0
        self._tokens = num_tokens

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> StepPlan:
        """See `Policy.decide`."""
        model = self._model
        if model is None:
            return full_plan(routing, self.context)._replace(predicted_kld=0.0)
        resident = residency.resident_tiers(layer_idx)
        model.rates.note(layer_idx, routing)
        chosen = model.choose(layer_idx, routing, resident)
        self._pass_bytes += chosen.read_bytes
        present = resident.tobytes()
        self._pass_resident += model.resident_bytes(present)
        if model.rent.is_turn_of(layer_idx):
            model.note_residents(layer_idx, present)
        if len(routing.topk_ids) == 1:
            plan = self._plan_for_one(model, layer_idx, routing, present, chosen)
        else:
            plan = self._plan_for_many(routing, chosen)
        self._pass_loss += plan.predicted_kld or 0.0
        return plan

    def foresee(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        """See `Policy.foresee`: the tiers that pay at the present price."""
        if self._model is None:
            return super().foresee(layer_idx, routing, residency)
        return self._tiers_of(self._model.choose(layer_idx, routing, residency.resident_tiers(layer_idx)))

    def _tiers_of(self, chosen: Choice) -> U8:
        tiers = np.zeros(self.context.num_experts, np.uint8)
        tiers[chosen.experts] = chosen.served
        return tiers

    def _plan_for_many(self, routing: Routing, chosen: Choice) -> StepPlan:
        """The plan of several tokens."""
        ids, weights = routing.topk_ids, routing.topk_weights
        tiers = self._tiers_of(chosen)
        of_use = tiers[ids]
        used = (of_use > 0) & (weights != 0)
        skipped = int(np.count_nonzero(weights)) - int(np.count_nonzero(used))
        lower = int(np.count_nonzero(used & (of_use < self.context.tier)))
        return StepPlan(
            ids, np.where(used, weights, np.float32(0)) if skipped else weights, tiers, substituted=lower,
            skipped=skipped, predicted_kld=sum(chosen.losses),
        )  # fmt: skip

    def _plan_for_one(
        self, model: ReadChoice, layer_idx: int, routing: Routing, resident: bytes, chosen: Choice
    ) -> StepPlan:
        """The plan of one token; residents may take the places of what it skips."""
        ids, weights, full = routing.topk_ids, routing.topk_weights, self.context.tier
        tiers, losses = bytearray(self.context.num_experts), chosen.losses
        asked: list[float] = weights[0].tolist()
        empty, substituted = [], 0
        for rank, (expert, tier) in enumerate(zip(chosen.experts, chosen.served, strict=True)):
            tiers[expert] = tier
            if not tier:
                empty.append(rank)
            elif tier < full and asked[rank] != 0:
                substituted += 1
        skipped = changed = 0
        if empty:
            given = list(asked)
            for rank in empty:
                given[rank] = 0.0
            if (share := model.substitute[layer_idx]) < 1:
                ids, filled = self._fill(routing, resident, empty, given, tiers)
                losses = [loss * share if rank in filled else loss for rank, loss in enumerate(losses)]
            weights = np.array([given], np.float32)
            changed = sum(given[rank] != 0 for rank in empty)
            skipped = given.count(0.0) - asked.count(0.0)
        return StepPlan(
            ids, weights, np.frombuffer(tiers, np.uint8), substituted=substituted, skipped=skipped,
            route_changed=changed, predicted_kld=sum(losses),
        )  # fmt: skip

    def _fill(
        self, routing: Routing, resident: bytes, empty: list[int], weights: list[float], tiers: bytearray
    ) -> tuple[I32, list[int]]:
        """Give the empty places of one token to the likeliest residents the router did not choose.

        K weights, 0 where empty, and tiers uint8 [E] are changed in place: a new expert weighs what the model's own
        rule gives it among those that now run.

        Returns:
            The ids int32 [1, K], and the ranks that were filled.
        """
        ids, logits = routing.topk_ids.copy(), routing.logits[0]
        taken: list[int] = ids[0].tolist()
        likeliest: list[int] = (-logits).argsort(kind="stable").tolist()
        free = (expert for expert in likeliest if resident[expert] and expert not in taken)
        first, filled = float(logits[taken[0]]), []
        for rank, expert in zip(empty, free, strict=False):
            ids[0, rank], tiers[expert] = expert, resident[expert]
            weights[rank] = weights[0] * exp(float(logits[expert]) - first)
            filled.append(rank)
        if self.context.norm_topk_prob:
            total = sum(weights)
            for rank in filled:
                weights[rank] /= total
        return ids, filled
