"""Rate-distortion (ours): every use of an expert takes the tier, or the skip, whose loss plus price of bytes is least.

For one token at one layer, expert i with weight w_i, resident at tier r, and every tier t of the bundle::

    loss(i, t)    = quantise_l * (w_i * norm_i)^2 * (error_i[t]^2 - error_i[full]^2)     in nats
    loss(i, skip) = skip_l     * (w_i * norm_i)^2
    bytes(i, t)   = what is missing from r to t; 0 up to r
    choose t minimising  loss(i, t) + price * bytes(i, t) / (1 + uses expected while it stays)

`norm`, `error`, `quantise` and `skip` were measured by ``hobbit-export --calibrate`` (docs/format.md, section 5). Uses
expected are its rate of use times the time an expert stays, which is the resident bytes over the bytes read a token
(Little's law). The price is moved so that the predicted loss a token is ``max_kld`` (see `PriceController`).

A skip keeps the other weights, as it did when it was measured. A resident expert the router did not choose takes a
skipped one's place where calibration found that the smaller loss. The heaviest expert of a token is never skipped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ConfigError
from edge_runtime.format.calibration import ExpertCalibration, LayerCalibration
from edge_runtime.policy.base import PolicyContext, ResidencyView, Routing, StepPlan
from edge_runtime.policy.hobbit import low_tier
from edge_runtime.policy.params import Param
from edge_runtime.policy.plans import count_changed, full_plan, weights_over
from edge_runtime.policy.rate_control import PriceController
from edge_runtime.policy.wrapping import OnePass

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
Keys = NDArray[np.intp]
PARAMS = {
    "max_kld": Param(0.01, "KL divergence a token the policy may cost, in nats; 0 changes nothing", "ours", 0, 10),
    "low": Param(2, "the lowest tier it may use", "ours", 2, 16),
    "memory": Param(64, "tokens over which an expert's rate of use is estimated", "ours", 1, 1e6),
    "patience": Param(1.0, "how much uses to come count: 0 not at all, 1 as expected", "ours", 0, 100),
}
_MAX_STAY = 512.0


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


class RateDistortion(OnePass):
    """See the module. Implements `Policy`.

    Args:
        context: what it is built for; must hold a calibration that was measured on a text.
        max_kld: see `PARAMS`, and likewise the others.
        low: see `PARAMS`.
        memory: see `PARAMS`.
        patience: see `PARAMS`.

    Raises:
        ConfigError: the bundle was exported without --calibrate, or has no such tier.
    """

    name = "rate-distortion"

    def __init__(self, context: PolicyContext, *, max_kld: float, low: int, memory: int, patience: float) -> None:
        super().__init__(context, {"max_kld": max_kld, "low": low, "memory": memory, "patience": patience})
        self._control: PriceController | None = None
        least = low_tier(context, min(low, context.tier), "policy 'rate-distortion'.low")
        # deepest first, so that equal costs go to the better tier; the last choice is to skip
        self._tiers = sorted((t for t in context.tier_bytes if least <= t <= context.tier), reverse=True)
        if context.tier == 16:  # bfloat16 is a file of its own: no other tier is a prefix of it
            self._tiers = [16]
        self._served = np.array([*self._tiers, 0], np.uint8)
        if max_kld > 0:
            calibration = _measured(context)
            self._num_sparse = len(calibration.layers)
            self._losses = _loss_tables(context, calibration, self._tiers)
            self._substitute = _substitute_shares(context, calibration)
            self._alpha, self._patience = 1 / memory, patience
            self._rates = _first_rates(context, calibration)
            cheapest = min(np.diff([0, *sorted(context.tier_bytes[t] for t in self._tiers)]))
            self._control = PriceController(max_kld, float(self._losses.max() / cheapest))
        self._missing, self._held = _byte_tables(context, self._tiers)
        self._pass_loss = self._pass_bytes = self._pass_resident = 0.0
        self._read_rate = self._stay = 0.0
        self._tokens = 0
        self._first_prices: list[float] = []

    @property
    def min_tier(self) -> int:
        """See `Policy.min_tier`: with a budget, the lowest tier it may use."""
        return self._tiers[-1] if self._control else self.context.tier

    def begin_sequence(self) -> None:
        """See `Policy.begin_sequence`; rates of use and the price outlive a text."""
        if self._control:
            self._control.begin_sequence()

    def begin_pass(self, num_tokens: int, *, has_logits: bool) -> None:
        """See `Policy.begin_pass`; settles the account of the pass before."""
        if self._control and self._tokens:
            self._settle(self._control)
        self._tokens = num_tokens

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> StepPlan:
        """See `Policy.decide`."""
        if self._control is None:
            return replace(full_plan(routing, self.context), predicted_kld=0.0)
        resident = residency.resident_tiers(layer_idx)
        chosen = self._choose(self._control, layer_idx, routing, resident)
        self._pass_bytes += chosen.read_bytes
        self._pass_resident += float(self._held.take(resident).sum())
        self._note_uses(layer_idx, routing)
        return self._plan(layer_idx, routing, resident, chosen)

    def foresee(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        """See `Policy.foresee`: the tiers that pay at the present price."""
        if self._control is None or self._control.price is None:
            return super().foresee(layer_idx, routing, residency)
        chosen = self._choose(self._control, layer_idx, routing, residency.resident_tiers(layer_idx))
        tiers = np.zeros(self.context.num_experts, np.uint8)
        tiers[chosen.experts] = chosen.served
        return tiers

    def _choose(self, control: PriceController, layer_idx: int, routing: Routing, resident: U8) -> _Choice:
        """Minimise loss plus price of bytes for every distinct expert; changes nothing but a first price."""
        experts, power, heaviest = _uses(routing)
        losses = self._losses[layer_idx][:, experts] * power
        losses[-1, heaviest] = np.inf
        missing = self._missing[:, resident[experts]]
        worth = missing / (1 + self._patience * self._stay * self._rates[layer_idx, experts])
        price = control.price
        if price is None:
            price = self._first_price(control.budget * len(routing.topk_ids), losses, worth)
        choice = (losses + np.float32(price) * worth).argmin(axis=0)
        columns = np.arange(len(experts))
        return _Choice(experts, self._served[choice], losses[choice, columns], float(missing[choice, columns].sum()))

    def _plan(self, layer_idx: int, routing: Routing, resident: U8, chosen: _Choice) -> StepPlan:
        ids, weights, full, loss = routing.topk_ids, routing.topk_weights, self.context.tier, chosen.losses
        tiers = np.zeros(self.context.num_experts, np.uint8)
        tiers[chosen.experts] = chosen.served
        of_use = tiers[ids]
        used = of_use > 0
        skipped = changed = 0
        if not used.all():
            used &= weights != 0
            kept = np.where(used, weights, np.float32(0))
            if len(ids) == 1 and self._substitute[layer_idx] < 1:
                ids, kept, loss = self._substituted(layer_idx, routing, resident, kept, loss, tiers)
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
        self, layer_idx: int, routing: Routing, resident: U8, kept: F32, loss: F32, tiers: U8
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
        loss[places] *= self._substitute[layer_idx]
        return ids, kept, loss

    def _first_price(self, budget: float, losses: F32, worth: F32) -> float:
        """The price at which this layer spends its share of the budget, by bisection."""
        assert self._control is not None
        share, columns = budget / self._num_sparse, np.arange(losses.shape[1])
        high = float(np.log(self._control.greatest))
        low = high - 21.0
        for _ in range(24):
            price = np.exp((low + high) / 2)
            spent = losses[(losses + np.float32(price) * worth).argmin(axis=0), columns].sum()
            low, high = ((low + high) / 2, high) if spent < share else (low, (low + high) / 2)
        self._first_prices.append(float(np.exp(low)))
        return self._first_prices[-1]

    def _settle(self, control: PriceController) -> None:
        if control.price is None and self._first_prices:
            control.start(float(np.median(self._first_prices)))
        control.spent(self._pass_loss, self._tokens)
        share = min(1.0, self._alpha * self._tokens)
        self._read_rate += share * (self._pass_bytes / self._tokens - self._read_rate)
        self._stay = min(self._pass_resident / max(self._read_rate, 1.0), _MAX_STAY)
        self._pass_loss = self._pass_bytes = self._pass_resident = 0.0

    def _note_uses(self, layer_idx: int, routing: Routing) -> None:
        rates, ids = self._rates[layer_idx], routing.topk_ids
        rates *= (1 - self._alpha) ** len(ids)
        if len(ids) == 1:
            rates[ids[0]] += self._alpha
        else:
            share = (1 - (1 - self._alpha) ** len(ids)) / len(ids)
            rates += np.float32(share) * np.bincount(ids.ravel(), minlength=len(rates)).astype(np.float32)


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


def _loss_tables(context: PolicyContext, calibration: ExpertCalibration, tiers: list[int]) -> F32:
    """Float32 [L, choices, E]: nats for a squared weight of 1, tiers as given, then the skip; 0 for dense layers."""
    losses = np.zeros((context.num_layers, len(tiers) + 1, context.num_experts), np.float32)
    for layer in calibration.layers:
        assert layer.norms is not None
        assert layer.sensitivity is not None
        power = np.array(layer.norms) ** 2
        floor = _error(layer, context.tier) ** 2
        for i, tier in enumerate(tiers):
            coarse = np.maximum(_error(layer, tier) ** 2 - floor, 0) if tier != context.tier else 0.0
            losses[layer.layer, i] = layer.sensitivity.quantise * power * coarse
        losses[layer.layer, -1] = layer.sensitivity.skip * power
    return losses


def _substitute_shares(context: PolicyContext, calibration: ExpertCalibration) -> NDArray[np.float64]:
    """Float64 [L]: what another expert in the place costs, in losses of the skip; 1 or more: never better."""
    shares = np.ones(context.num_layers)
    for layer in calibration.layers:
        if layer.sensitivity is not None and layer.sensitivity.skip > 0:
            shares[layer.layer] = layer.sensitivity.substitute / layer.sensitivity.skip
    return shares


def _first_rates(context: PolicyContext, calibration: ExpertCalibration) -> F32:
    """Float32 [L, E]: uses a token of each expert in the calibration text."""
    rates = np.zeros((context.num_layers, context.num_experts), np.float32)
    for layer in calibration.layers:
        rates[layer.layer] = np.array(layer.counts or [0]) / max(calibration.tokens or 1, 1)
    return rates


def _error(layer: LayerCalibration, tier: int) -> NDArray[np.float64]:
    errors = layer.output_errors or {}
    return np.array(errors.get(str(tier), [0.0] * len(layer.norms or [])))


def _byte_tables(context: PolicyContext, tiers: list[int]) -> tuple[F32, F32]:
    """Float32 [choices, 17]: bytes missing to a choice from each resident tier; float32 [17]: bytes of each tier."""
    held = np.zeros(17, np.float32)
    for tier in context.tier_bytes:
        held[tier] = context.tier_bytes[tier]
    known = [0, *sorted(context.tier_bytes)]
    for tier in range(17):  # a resident between two tiers in use has at least the lower one
        held[tier] = held[max(t for t in known if t <= tier)]
    wanted = np.array([*(held[t] for t in tiers), 0], np.float32)
    return np.maximum(wanted[:, None] - held[None], 0), held


def _measured(context: PolicyContext) -> ExpertCalibration:
    if context.calibration is None or not context.calibration.is_measured:
        raise ConfigError(
            "policy 'rate-distortion': expected a bundle whose losses were measured. Export it again with --calibrate, "
            "or use --max-kld 0."
        )
    return context.calibration
