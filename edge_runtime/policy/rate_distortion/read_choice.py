"""ReadChoice: for each expert of a layer the tier, or the skip, with the least loss plus price of bytes.

Single tokens are decided by the native code (src/one_token.cpp), several tokens on arrays here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_runtime.base.arrays import F32, F64, I32, U8, Ints
from edge_runtime.policy.base import Decision, Hint, PolicyContext, Routing
from edge_runtime.policy.native import OneToken
from edge_runtime.policy.rate_distortion.loss_tables import byte_tables, loss_tables, measured, substitute_shares
from edge_runtime.policy.rate_distortion.opportunity_cost import OpportunityCost
from edge_runtime.policy.rate_distortion.rate_control import PriceController
from edge_runtime.policy.rate_distortion.use_rates import UseRates


class LayerChoice(NamedTuple):
    """What is chosen for a layer.

    Attributes:
        decision: the decision.
        read_bytes: bytes that are read for it, in the background too.
        resident_bytes: bytes the residents of the layer hold.
    """

    decision: Decision
    read_bytes: float
    resident_bytes: float


class ReadChoice:
    """Losses, expected uses, price of bytes and opportunity cost of memory, and the choice that follows from them.

    Args:
        context: holds a calibration that was measured on a text.
        tiers: those that may be chosen, deepest (the full one) first.
        budget: nats a token; above 0.
        memory: tokens over which an expert's use is estimated.
        horizon: tokens ahead whose uses a read is credited with.
        base: the tier every expert is in memory at; 0: there is none.
        upgrades: over a base, experts of a layer that a pass deepens in the background at most.

    Raises:
        ConfigError: nothing was measured.
    """

    def __init__(
        self, context: PolicyContext, tiers: list[int], *, budget: float, memory: int, horizon: int, base: int = 0,
        upgrades: int = 0,
    ) -> None:  # fmt: skip
        calibration = measured(context, "policy 'rate-distortion'")
        self._router = context.router
        self.losses = loss_tables(context, calibration, tiers)
        shares = substitute_shares(context, calibration)
        self.rates = UseRates(context.num_layers, context.num_experts, calibration, memory)
        self.horizon, self._base, self._upgrades = float(horizon), base, upgrades
        self.opportunity_cost = OpportunityCost(context.num_layers, horizon)
        self._full, self._served = context.tier, np.array([*tiers, 0], np.uint8)
        self._missing, self._held = byte_tables(context, tiers)
        self._row_of = np.array([sum(t > tier for t in tiers) for tier in range(17)])
        by_expert, by_resident = self.losses.transpose(0, 2, 1), self._missing.T
        self._one = OneToken(
            np.ascontiguousarray(by_expert, np.float64), np.ascontiguousarray(by_resident, np.float64),
            self._held.astype(np.float64), shares, self.rates.sums, self.rates.factors, self.rates.tokens, [*tiers, 0],
            context.tier, self.horizon, self.rates.keep, context.router.native,
            context.router.expert_scales(context.num_layers), base, upgrades,
        )  # fmt: skip
        sizes = [context.tier_bytes[t] for t in tiers]
        greatest = (1 + horizon) * float(self.losses.max() / min(np.diff([0, *sorted(sizes)])))
        self.control = PriceController(budget, greatest)
        self.control.start(self._first_price(np.array([*sizes, 0], np.float32), greatest))

    @property
    def price(self) -> float:
        """Nats paid now to read a byte less."""
        return self.control.price or 0.0

    def decide(self, layer_idx: int, routing: Routing, resident: U8) -> LayerChoice:
        """Note the uses and choose.

        Args:
            layer_idx: the layer.
            routing: of one or several tokens, which share the choice for an expert.
            resident: uint8 [E], the tier each is resident at.
        """
        if len(routing.topk_ids) == 1:
            return self._decide_for_one(layer_idx, routing, resident)
        self.rates.note(layer_idx, routing)
        return self._decide_for_many(layer_idx, routing, resident)

    def predict_tiers(self, layer_idx: int, routing: Routing, resident: U8) -> U8:
        """Return uint8 [E], the tiers `decide` would choose; changes nothing. Arguments as for it."""
        tiers = np.zeros(self.losses.shape[2], np.uint8)
        if len(routing.topk_ids) == 1:
            self._one.predict_tiers(
                layer_idx, *self._seen(layer_idx, routing), resident, self.price, self.opportunity_cost.nats_a_byte,
                tiers,
            )  # fmt: skip
        else:
            experts, choice, _ = self._choose_for_many(layer_idx, routing, resident)
            tiers[experts] = self._served[choice]
        return tiers

    def note_residents(self, layer_idx: int, resident: U8) -> None:
        """Take a layer's residents into the opportunity cost; `resident` uint8 [E] has their tiers."""
        self.opportunity_cost.observe(self._one.value_of_residents(layer_idx, resident))

    def _decide_for_one(self, layer_idx: int, routing: Routing, resident: U8) -> LayerChoice:
        ids, weights = np.empty_like(routing.topk_ids), np.empty_like(routing.topk_weights)
        tiers, later = np.zeros((2, len(resident)), np.uint8)
        substituted, skipped, changed, loss, read_bytes, held = self._one.decide(
            layer_idx, *self._seen(layer_idx, routing), resident, self.price, self.opportunity_cost.nats_a_byte, ids,
            weights, tiers, later,
        )  # fmt: skip
        hints = hints_of(layer_idx, later) if self._base else ()
        decision = Decision(ids, weights, tiers, substituted, skipped, changed, loss, hints=hints)
        return LayerChoice(decision, read_bytes, held)

    def _seen(self, layer_idx: int, routing: Routing) -> tuple[F32, F32, I32, F32]:
        """What the native choice looks at: logits, what the router compares, experts, weights."""
        return routing.logits, self._router.preference(layer_idx, routing), routing.topk_ids, routing.topk_weights

    def _decide_for_many(self, layer_idx: int, routing: Routing, resident: U8) -> LayerChoice:
        """Decide for several tokens. No resident replaces an expert that is skipped."""
        ids, weights = routing.topk_ids, routing.topk_weights
        experts, choice, losses = self._choose_for_many(layer_idx, routing, resident)
        tiers = np.zeros(len(resident), np.uint8)
        tiers[experts] = self._served[choice]
        of_use = tiers[ids]
        used = (of_use > 0) & (weights != 0)
        skipped = int(np.count_nonzero(weights)) - int(np.count_nonzero(used))
        lower = int(np.count_nonzero(used & (of_use < self._full)))
        read_bytes = float(self._missing[choice, resident[experts]].sum())
        hints: tuple[Hint, ...] = ()
        if self._base:
            later = self._deepenings(layer_idx, experts, np.maximum(resident[experts], tiers[experts]))
            hints = hints_of(layer_idx, later)
            read_bytes += float(self._missing[self._row_of[later], np.maximum(resident, tiers)].sum(where=later > 0))
        decision = Decision(
            ids, np.where(used, weights, np.float32(0)) if skipped else weights, tiers, substituted=lower,
            skipped=skipped, predicted_kld=sum(losses.tolist()), hints=hints,
        )  # fmt: skip
        return LayerChoice(decision, read_bytes, float(self._held[resident].sum(dtype=np.float64)))

    def _choose_for_many(self, layer_idx: int, routing: Routing, resident: U8) -> tuple[Ints, Ints, F64]:
        """Return the distinct experts of several tokens, the row of `losses` chosen for each, and its loss in nats."""
        ids, weights = routing.topk_ids, routing.topk_weights
        experts = np.unique(ids)
        columns = np.arange(len(experts))
        power = np.bincount(ids.ravel(), (weights.astype(np.float64) ** 2).ravel())[experts]
        there = resident[experts]
        losses, missing = self.losses[layer_idx][:, experts], self._missing[:, there]
        saved = (losses[self._row_of[there], columns] - losses) * (
            self.horizon * self.rates.powers(layer_idx)[experts]
        ) - self.opportunity_cost.nats_a_byte * missing
        cost = losses * power + self.price * missing
        if not self._base:  # over a base, later uses are no reason to wait now
            cost -= np.maximum(saved, 0)
        cost[-1, np.isin(experts, ids[:, 0])] = np.inf  # the heaviest of a token is never skipped
        choice = cost.argmin(axis=0)
        return experts, choice, losses[choice, columns] * power

    def _deepenings(self, layer_idx: int, experts: Ints, held: U8) -> U8:
        """Return uint8 [E], the tiers to which planes are worth reading in the background; 0: none are.

        The experts that save most in coming uses for the bytes they lack, as far as that is more than a byte of the
        present planes does.

        Args:
            layer_idx: the layer.
            experts: distinct ones.
            held: uint8 [n], the tier each of them is there at, or will be.
        """
        losses, missing = self.losses[layer_idx][:, experts], self._missing[:, held]
        saved = losses[self._row_of[held], np.arange(len(experts))] - losses
        saved = saved * (self.horizon * self.rates.powers(layer_idx)[experts])
        rates = np.divide(saved, missing, out=np.zeros(saved.shape), where=missing > 0)
        best = rates.argmax(axis=0)
        rate = rates[best, np.arange(len(experts))]
        first = np.argsort(-rate, kind="stable")[: self._upgrades]
        first = first[rate[first] > self.opportunity_cost.nats_a_byte]
        later = np.zeros(self.losses.shape[2], np.uint8)
        later[experts[first]] = self._served[best[first]]
        return later

    def _first_price(self, sizes: F32, greatest: float) -> float:
        """Return the price at which the calibration text would lose the budget by reads that do not pay."""
        powers = np.stack([self.rates.powers(layer) for layer in range(len(self.losses))])
        uses = np.maximum(powers.mean(axis=1, keepdims=True), 1e-12)
        cost = self.losses * (uses if self._base else uses + self.horizon * powers)[:, None]
        sizes = np.maximum(sizes - self._held[self._base], 0)
        low, high = np.log(greatest) - 30.0, float(np.log(greatest))
        for _ in range(30):
            middle = (low + high) / 2
            choice = (cost + np.exp(middle) * sizes[None, :, None]).argmin(axis=1)
            lost = np.take_along_axis(self.losses, choice[:, None], axis=1)[:, 0] * powers
            low, high = (middle, high) if lost.sum() < self.control.budget else (low, middle)
        return float(np.exp(low))


def hints_of(layer_idx: int, later: U8) -> tuple[Hint, ...]:
    """Return hints to deepen experts in the background, deepest first; `later` uint8 [E] has their tiers, or 0."""
    if not later.any():
        return ()
    tiers = sorted(set(later[later > 0].tolist()), reverse=True)
    return tuple(Hint(layer_idx, tuple(np.flatnonzero(later == t).tolist()), t, is_spare=True) for t in tiers)
