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

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import PolicyContext, ResidencyView, Routing, StepPlan
from edge_runtime.policy.hobbit import low_tier
from edge_runtime.policy.loss_tables import byte_tables, loss_tables, measured, substitute_shares
from edge_runtime.policy.memory_rent import MemoryRent
from edge_runtime.policy.params import Param
from edge_runtime.policy.plans import count_changed, full_plan, weights_over
from edge_runtime.policy.rate_control import PriceController
from edge_runtime.policy.use_rates import UseRates
from edge_runtime.policy.wrapping import OnePass

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
Keys = NDArray[np.intp]
PARAMS = {
    "max_kld": Param(0.01, "KL divergence a token the policy may cost, in nats; 0 changes nothing", "ours", 0, 10),
    "low": Param(2, "the lowest tier it may use", "ours", 2, 16),
    "memory": Param(256, "tokens over which an expert's use is estimated", "ours", 1, 1e6),
    "horizon": Param(128, "tokens ahead whose uses a read is credited with; 0: this token's only", "ours", 0, 1e6),
}


class _Choice(NamedTuple):
    """What is done with the distinct experts of a step.

    Attributes:
        experts: intp [n].
        served: uint8 [n], the tier of each; 0 is a skip.
        losses: float32 [n], nats.
        read_bytes: bytes that are missing to it.
    """

    experts: Keys
    served: U8
    losses: F32
    read_bytes: float


class _Model:
    """What a budget above 0 needs: losses, expected uses, the price of bytes and the rent of memory."""

    def __init__(self, context: PolicyContext, tiers: list[int], budget: float, memory: int, horizon: int) -> None:
        calibration = measured(context, "policy 'rate-distortion'")
        self.losses = loss_tables(context, calibration, tiers)
        self.substitute = substitute_shares(context, calibration)
        self.rates = UseRates(context.num_layers, context.num_experts, calibration, memory)
        self.horizon = np.float32(horizon)
        self.rent = MemoryRent(context.num_layers, horizon)
        sizes = [context.tier_bytes[t] for t in tiers]
        cheapest = min(np.diff([0, *sorted(sizes)]))
        greatest = (1 + horizon) * float(self.losses.max() / cheapest)
        self.control = PriceController(budget, greatest)
        self.control.start(self._first_price(np.array([*sizes, 0], np.float32), greatest))

    def _first_price(self, sizes: F32, greatest: float) -> float:
        """The price at which what does not pay to be read costs the budget, were the calibration text to run."""
        powers = self.rates.powers
        uses = np.maximum(powers.mean(axis=1, keepdims=True), 1e-12)
        worth = self.losses * (uses + self.horizon * powers)[:, None]
        low, high = np.log(greatest) - 30.0, float(np.log(greatest))
        for _ in range(30):
            middle = (low + high) / 2
            choice = (worth + np.float32(np.exp(middle)) * sizes[None, :, None]).argmin(axis=1)
            lost = np.take_along_axis(self.losses, choice[:, None], axis=1)[:, 0] * powers
            low, high = (middle, high) if lost.sum() < self.control.budget else (low, middle)
        return float(np.exp(low))


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
        # deepest first, so that equal costs go to the better tier; the last choice is to skip
        self._tiers = sorted((t for t in context.tier_bytes if least <= t <= context.tier), reverse=True)
        if context.tier == 16:  # bfloat16 is a file of its own: no other tier is a prefix of it
            self._tiers = [16]
        self._served = np.array([*self._tiers, 0], np.uint8)
        self._model = _Model(context, self._tiers, max_kld, memory, horizon) if max_kld > 0 else None
        self._missing, self._held = byte_tables(context, self._tiers)
        self._size_of_tier = [(tier, float(size)) for tier, size in enumerate(self._held) if tier in (2, 4, 6, 8, 16)]
        self._row_of_tier = np.array([sum(t > tier for t in self._tiers) for tier in range(17)], np.intp)
        self._pass_loss = self._pass_bytes = self._pass_resident = 0.0
        self._tokens = 0

    @property
    def min_tier(self) -> int:
        """See `Policy.min_tier`: with a budget, the lowest tier it may use."""
        return self._tiers[-1] if self._model else self.context.tier

    @property
    def price(self) -> float:
        """Nats it pays now to read a byte less; 0 without a budget."""
        return (self._model.control.price or 0.0) if self._model else 0.0

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
            return replace(full_plan(routing, self.context), predicted_kld=0.0)
        resident = residency.resident_tiers(layer_idx)
        model.rates.note(layer_idx, routing)
        chosen = self._choose(model, layer_idx, routing, resident)
        self._pass_bytes += chosen.read_bytes
        present = resident.tobytes()  # counting bytes is several times cheaper than gathering sizes
        self._pass_resident += sum(present.count(tier) * size for tier, size in self._size_of_tier)
        if model.rent.is_turn_of(layer_idx):
            losses = model.losses[layer_idx]
            saved = losses[-1] - losses[self._row_of_tier[resident], np.arange(len(resident))]
            model.rent.look(resident, saved * model.rates.powers[layer_idx], self._held[resident])
        return self._plan(model, layer_idx, routing, resident, chosen)

    def foresee(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        """See `Policy.foresee`: the tiers that pay at the present price."""
        if self._model is None:
            return super().foresee(layer_idx, routing, residency)
        chosen = self._choose(self._model, layer_idx, routing, residency.resident_tiers(layer_idx))
        tiers = np.zeros(self.context.num_experts, np.uint8)
        tiers[chosen.experts] = chosen.served
        return tiers

    def _choose(self, model: _Model, layer_idx: int, routing: Routing, resident: U8) -> _Choice:
        """Minimise loss, now and later, plus price of bytes for every distinct expert; changes nothing."""
        experts, power, heaviest = _uses(routing)
        count = len(experts)
        losses = model.losses[layer_idx].take(experts, axis=1)
        there = resident.take(experts)
        missing = self._missing.take(there, axis=1)
        columns = np.arange(count)
        # what a read saves beyond this token, less what those who leave for it would have saved
        saved = losses.take(self._row_of_tier.take(there) * count + columns) - losses
        saved *= model.rates.powers[layer_idx].take(experts)
        saved *= model.horizon
        rent = model.rent.nats_a_byte
        if rent > 0:
            saved -= np.float32(rent) * missing
        np.maximum(saved, 0, out=saved)
        cost = losses * power
        cost += np.float32(self.price) * missing
        cost -= saved
        cost[-1, heaviest] = np.inf
        choice = cost.argmin(axis=0)
        places = choice * count + columns
        read = float(missing.take(places).sum())
        return _Choice(experts, self._served.take(choice), losses.take(places) * power, read)

    def _plan(self, model: _Model, layer_idx: int, routing: Routing, resident: U8, chosen: _Choice) -> StepPlan:
        ids, weights, full, loss = routing.topk_ids, routing.topk_weights, self.context.tier, chosen.losses
        tiers = np.zeros(self.context.num_experts, np.uint8)
        tiers[chosen.experts] = chosen.served
        of_use = tiers[ids]
        used = of_use > 0
        skipped = changed = 0
        if not used.all():
            used &= weights != 0
            kept = np.where(used, weights, np.float32(0))
            if len(ids) == 1 and model.substitute[layer_idx] < 1:
                ids, kept, loss = self._substituted(model, layer_idx, routing, resident, kept, loss, tiers)
                changed = count_changed(routing, ids, kept != 0)
            skipped = int(np.count_nonzero(weights)) - int(np.count_nonzero(kept))
            weights = kept
        total = float(loss.sum())
        self._pass_loss += total
        return StepPlan(
            ids, weights, tiers, substituted=int(np.count_nonzero(used & (of_use < full))), skipped=skipped,
            route_changed=changed, predicted_kld=total,
        )  # fmt: skip

    def _substituted(
        self, model: _Model, layer_idx: int, routing: Routing, resident: U8, kept: F32, loss: F32, tiers: U8
    ) -> tuple[I32, F32, F32]:
        """Give the places of skipped experts of one token to the likeliest residents the router did not choose."""
        ids = routing.topk_ids.copy()
        empty = np.flatnonzero(kept[0] == 0)
        free = resident > 0
        free[ids[0]] = False
        candidates = np.flatnonzero(free)
        order = np.argsort(-routing.logits[0, candidates], kind="stable")[: len(empty)]
        places = empty[: len(order)]
        ids[0, places] = candidates[order]
        tiers[candidates[order]] = resident[candidates[order]]
        proper = weights_over(routing.logits, ids, normalise=self.context.norm_topk_prob)
        kept = kept.copy()
        kept[0, places] = proper[0, places]
        loss = loss.copy()
        loss[places] *= model.substitute[layer_idx]
        return ids, kept, loss


def _uses(routing: Routing) -> tuple[Keys, F32, NDArray[np.bool_]]:
    """Return the distinct experts in use, their weights squared (summed over tokens), and who is some token's first."""
    ids, weights = routing.topk_ids, routing.topk_weights
    if len(ids) == 1:
        heaviest = np.zeros(ids.shape[1], np.bool_)
        heaviest[0] = True
        return np.asarray(ids[0], np.intp), weights[0] ** 2, heaviest
    power = np.bincount(ids.ravel(), (weights.astype(np.float64) ** 2).ravel())
    experts = np.asarray(np.unique(ids), np.intp)
    return experts, power[experts].astype(np.float32), np.isin(experts, ids[:, 0])
