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

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import PolicyContext, ResidencyView, Routing, StepPlan
from edge_runtime.policy.hobbit import low_tier
from edge_runtime.policy.loss_tables import byte_tables, loss_tables, measured, substitute_shares
from edge_runtime.policy.memory_rent import MemoryRent
from edge_runtime.policy.params import Param
from edge_runtime.policy.plans import full_plan, weights_over
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
        self.substitute: list[float] = substitute_shares(context, calibration).tolist()
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
        self._columns = np.arange(context.num_experts)
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
            return full_plan(routing, self.context)._replace(predicted_kld=0.0)
        resident = residency.resident_tiers(layer_idx)
        model.rates.note(layer_idx, routing)
        chosen = self._choose(model, layer_idx, routing, resident)
        self._pass_bytes += chosen.read_bytes
        present = resident.tobytes()  # counting bytes is several times cheaper than gathering sizes
        for tier, size in self._size_of_tier:
            self._pass_resident += present.count(tier) * size
        if model.rent.is_turn_of(layer_idx):
            losses = model.losses[layer_idx]
            saved = losses[-1] - losses[self._row_of_tier[resident], np.arange(len(resident))]
            model.rent.look(resident, saved * model.rates.powers[layer_idx], self._held[resident])
        if len(routing.topk_ids) == 1:
            return self._plan_one(model, layer_idx, routing, resident, chosen)
        return self._plan(routing, chosen)

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
        there = resident.take(experts)
        if min(there.tobytes()) >= self.context.tier:  # nothing to read, and the full tier loses nothing
            return _Choice(experts, self._served[:1].repeat(count), np.zeros(count, np.float32), 0.0)
        losses = model.losses[layer_idx].take(experts, axis=1)
        missing = self._missing.take(there, axis=1)
        columns = self._columns[:count]
        # what a read saves beyond this token, less what those who leave for it would have saved
        places = self._row_of_tier.take(there)
        places *= count
        places += columns
        saved = losses.take(places) - losses
        saved *= model.rates.powers[layer_idx].take(experts)
        saved *= model.horizon
        rent = model.rent.nats_a_byte
        if rent > 0:
            saved -= np.float32(rent) * missing
        np.maximum(saved, 0, out=saved)
        cost = losses * power
        cost += np.float32(model.control.price or 0.0) * missing
        cost -= saved
        cost[-1, heaviest] = np.inf
        choice = cost.argmin(axis=0)
        places = choice * count
        places += columns
        read = float(missing.take(places).sum())
        return _Choice(experts, self._served.take(choice), losses.take(places) * power, read)

    def _plan(self, routing: Routing, chosen: _Choice) -> StepPlan:
        """The plan of several tokens, which share the choice for an expert."""
        ids, weights = routing.topk_ids, routing.topk_weights
        tiers = np.zeros(self.context.num_experts, np.uint8)
        tiers[chosen.experts] = chosen.served
        of_use = tiers[ids]
        used = of_use > 0
        skipped = 0
        if not used.all():
            used &= weights != 0
            kept = np.where(used, weights, np.float32(0))
            skipped = int(np.count_nonzero(weights)) - int(np.count_nonzero(kept))
            weights = kept
        total = float(chosen.losses.sum())
        self._pass_loss += total
        lower = int(np.count_nonzero(used & (of_use < self.context.tier)))
        return StepPlan(ids, weights, tiers, substituted=lower, skipped=skipped, predicted_kld=total)

    def _plan_one(self, model: _Model, layer_idx: int, routing: Routing, resident: U8, chosen: _Choice) -> StepPlan:
        """The plan of one token; residents may take the places of what it skips."""
        ids, weights, loss, full = routing.topk_ids, routing.topk_weights, chosen.losses, self.context.tier
        tiers, empty, lower = bytearray(self.context.num_experts), [], []
        for rank, (expert, tier) in enumerate(zip(ids[0].tolist(), chosen.served.tolist(), strict=True)):
            tiers[expert] = tier
            if tier < full:
                (lower if tier else empty).append(rank)
        substituted, skipped, changed = len(lower), 0, 0
        if empty:
            asked: list[float] = weights[0].tolist()
            weights, loss = weights.copy(), loss.copy()
            for rank in empty:
                weights[0, rank] = 0
            if model.substitute[layer_idx] < 1:
                ids = self._fill(model.substitute[layer_idx], routing, resident.tobytes(), empty, weights, loss, tiers)
            given: list[float] = weights[0].tolist()
            changed = sum(given[rank] != 0 for rank in empty)
            skipped = given.count(0.0) - asked.count(0.0)
            substituted -= sum(asked[rank] == 0 for rank in lower)
        total = float(loss.sum())
        self._pass_loss += total
        return StepPlan(
            ids, weights, np.frombuffer(tiers, np.uint8), substituted=substituted, skipped=skipped,
            route_changed=changed, predicted_kld=total,
        )  # fmt: skip

    def _fill(
        self, share: float, routing: Routing, resident: bytes, empty: list[int], weights: F32, loss: F32,
        tiers: bytearray,
    ) -> I32:  # fmt: skip
        """Give the empty places of one token to the likeliest residents the router did not choose; return the ids.

        Weights float32 [1, K], losses float32 [K] (`share` of a skip's) and tiers uint8 [E] are changed in place.
        """
        ids = routing.topk_ids.copy()
        taken = set(ids[0].tolist())
        likeliest = (-routing.logits[0]).argsort(kind="stable").tolist()
        free = (expert for expert in likeliest if resident[expert] and expert not in taken)
        places = []
        for rank, expert in zip(empty, free, strict=False):
            ids[0, rank] = expert
            tiers[expert] = resident[expert]
            places.append(rank)
        proper = weights_over(routing.logits, ids, normalise=self.context.norm_topk_prob)
        for rank in places:
            weights[0, rank] = proper[0, rank]
            loss[rank] *= np.float32(share)
        return ids


def _uses(routing: Routing) -> tuple[Keys, F32, NDArray[np.bool_] | int]:
    """Return the distinct experts in use, their weights squared (summed over tokens), and where some token's first is."""
    ids, weights = routing.topk_ids, routing.topk_weights
    if len(ids) == 1:
        return ids[0].astype(np.intp), weights[0] * weights[0], 0
    power = np.bincount(ids.ravel(), (weights.astype(np.float64) ** 2).ravel())
    experts = np.asarray(np.unique(ids), np.intp)
    return experts, power[experts].astype(np.float32), np.isin(experts, ids[:, 0])
