"""ReadChoice: for every expert of a step the tier, or the skip, whose loss plus price of bytes is least."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import PolicyContext, Routing
from edge_runtime.policy.loss_tables import byte_tables, loss_tables, measured, substitute_shares
from edge_runtime.policy.memory_rent import MemoryRent
from edge_runtime.policy.rate_control import PriceController
from edge_runtime.policy.use_rates import UseRates

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


class Choice(NamedTuple):
    """What is done with the distinct experts of a step.

    Attributes:
        experts: the n experts.
        served: the tier of each; 0 is a skip.
        losses: nats of each.
        read_bytes: bytes that are missing to all of it.
    """

    experts: list[int]
    served: list[int]
    losses: list[float]
    read_bytes: float


class ReadChoice:
    """Losses, expected uses, the price of bytes and the rent of memory, and the choice that follows from them.

    Args:
        context: holds a calibration that was measured on a text.
        tiers: those that may be chosen, deepest (the full one) first.
        budget: nats a token; above 0.
        memory: tokens over which an expert's use is estimated.
        horizon: tokens ahead whose uses a read is credited with.

    Raises:
        ConfigError: nothing was measured.
    """

    def __init__(self, context: PolicyContext, tiers: list[int], *, budget: float, memory: int, horizon: int) -> None:
        calibration = measured(context, "policy 'rate-distortion'")
        self.losses = loss_tables(context, calibration, tiers)
        self.substitute: list[float] = substitute_shares(context, calibration).tolist()
        self.rates = UseRates(context.num_layers, context.num_experts, calibration, memory)
        self.horizon = float(horizon)
        self.rent = MemoryRent(context.num_layers, horizon)
        self._full, self._served = context.tier, [*tiers, 0]
        self._missing, held = byte_tables(context, tiers)
        self._held: list[float] = held.tolist()
        self._row_of = [sum(t > tier for t in tiers) for tier in range(17)]
        # the same as lists, for single tokens: of each expert its losses, of each resident tier what is missing
        self._loss_rows = [[tuple(row) for row in layer.T.tolist()] for layer in self.losses]
        self._missing_rows = [tuple(row) for row in self._missing.T.tolist()]
        self._sizes = [(tier, self._held[tier]) for tier in (2, 4, 6, 8, 16) if tier <= context.tier]
        sizes = [context.tier_bytes[t] for t in tiers]
        greatest = (1 + horizon) * float(self.losses.max() / min(np.diff([0, *sorted(sizes)])))
        self.control = PriceController(budget, greatest)
        self.control.start(self._first_price(np.array([*sizes, 0], np.float32), greatest))

    @property
    def price(self) -> float:
        """Nats paid now to read a byte less."""
        return self.control.price or 0.0

    def choose(self, layer_idx: int, routing: Routing, resident: U8) -> Choice:
        """Choose for the experts of a step; changes nothing.

        Args:
            layer_idx: the layer.
            routing: of one or several tokens, which share the choice for an expert.
            resident: uint8 [E], the tier each is resident at.
        """
        if len(routing.topk_ids) == 1:
            return self._choose_for_one(layer_idx, routing, resident.tobytes())
        return self._choose_for_many(layer_idx, routing, resident)

    def resident_bytes(self, resident: bytes) -> float:
        """Bytes the residents of a layer hold; counting tiers is several times cheaper than gathering sizes."""
        held = 0.0
        for tier, size in self._sizes:
            held += resident.count(tier) * size
        return held

    def note_residents(self, layer_idx: int, resident: bytes) -> None:
        """Let the rent see what a byte of the residents of a layer saves; `resident` has the tier of each expert."""
        rows, row_of, held = self._loss_rows[layer_idx], self._row_of, self._held
        there = [expert for expert, tier in enumerate(resident) if tier]
        worths = []
        for expert, rate in zip(there, self.rates.expected(layer_idx, there), strict=True):
            row, tier = rows[expert], resident[expert]
            worths.append((row[-1] - row[row_of[tier]]) * rate / held[tier])
        self.rent.look(worths)

    def _choose_for_one(self, layer_idx: int, routing: Routing, resident: bytes) -> Choice:
        """One token, on plain numbers: there are K experts and few tiers."""
        rows, by_tier, price, rent = self._loss_rows[layer_idx], self._missing_rows, self.price, self.rent.nats_a_byte
        experts: list[int] = routing.topk_ids[0].tolist()
        weights: list[float] = routing.topk_weights[0].tolist()
        expected, full, options = self.rates.expected(layer_idx, experts), self._full, self._served[:-1]
        served, losses, read = [], [], 0.0
        for expert, weight, rate in zip(experts, weights, expected, strict=True):
            tier = resident[expert]
            if tier >= full:  # nothing to read, and the full tier loses nothing
                served.append(full)
                losses.append(0.0)
            else:
                row, missing, power = rows[expert], by_tier[tier], weight * weight
                now, later = row[self._row_of[tier]], self.horizon * rate
                chosen, lost, bytes_read, least = full, 0.0, 0.0, inf
                for option, loss, lacking in zip(options, row, missing, strict=False):
                    # what a read saves beyond this token, less what those who leave for it would have saved
                    saved = (now - loss) * later - rent * lacking
                    cost = loss * power + price * lacking
                    if saved > 0:
                        cost -= saved
                    if cost < least:
                        chosen, lost, bytes_read, least = option, loss * power, lacking, cost
                served.append(chosen)
                losses.append(lost)
                read += bytes_read
            options = self._served  # the heaviest is never skipped
        return Choice(experts, served, losses, read)

    def _choose_for_many(self, layer_idx: int, routing: Routing, resident: U8) -> Choice:
        """The same for several tokens, on arrays [choices, experts]."""
        ids, weights = routing.topk_ids, routing.topk_weights
        experts = np.unique(ids)
        columns = np.arange(len(experts))
        power = np.bincount(ids.ravel(), (weights.astype(np.float64) ** 2).ravel())[experts]
        there = resident[experts]
        losses, missing = self.losses[layer_idx][:, experts], self._missing[:, there]
        saved = (losses[np.array(self._row_of)[there], columns] - losses) * (
            self.horizon * self.rates.powers(layer_idx)[experts]
        ) - self.rent.nats_a_byte * missing
        cost = losses * power + self.price * missing - np.maximum(saved, 0)
        cost[-1, np.isin(experts, ids[:, 0])] = np.inf
        choice = cost.argmin(axis=0)
        served = np.array(self._served)[choice]
        return Choice(
            experts.tolist(), served.tolist(), (losses[choice, columns] * power).tolist(),
            float(missing[choice, columns].sum()),
        )  # fmt: skip

    def _first_price(self, sizes: F32, greatest: float) -> float:
        """The price at which what does not pay to be read costs the budget, were the calibration text to run."""
        powers = np.stack([self.rates.powers(layer) for layer in range(len(self.losses))])
        uses = np.maximum(powers.mean(axis=1, keepdims=True), 1e-12)
        worth = self.losses * (uses + self.horizon * powers)[:, None]
        low, high = np.log(greatest) - 30.0, float(np.log(greatest))
        for _ in range(30):
            middle = (low + high) / 2
            choice = (worth + np.exp(middle) * sizes[None, :, None]).argmin(axis=1)
            lost = np.take_along_axis(self.losses, choice[:, None], axis=1)[:, 0] * powers
            low, high = (middle, high) if lost.sum() < self.control.budget else (low, middle)
        return float(np.exp(low))
