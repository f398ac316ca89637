"""A model of two alike layers whose losses were measured, and rate-distortion choices at a price that stands still."""

from __future__ import annotations

import numpy as np
import policy_cases
from policy_cases import route

from edge_runtime.bundle.calibration import ExpertCalibration, LayerCalibration, Sensitivity
from edge_runtime.policy.base import Decision, PolicyContext, Routing
from edge_runtime.policy.rate_distortion.opportunity_cost import OpportunityCost
from edge_runtime.policy.rate_distortion.read_choice import ReadChoice

E, K = 8, 4
BYTES = {2: 300, 4: 500, 6: 700, 8: 900}


def calibration(substitute: float = 9.0, layers: int = 2) -> ExpertCalibration:
    errors = {"2": [0.3] * E, "4": [0.1] * E, "6": [0.05] * E, "8": [0.0] * E}
    layer = [
        LayerCalibration(i, {"2": [0.3] * E}, [1] * E, errors, [2.0] * E, Sensitivity(0.5, 1.0, substitute))
        for i in range(layers)
    ]
    return ExpertCalibration(2, layer, tokens=16, full_tier=8, score_quantiles=[0.0] * 101, checks=[])


def context(tier: int = 8, substitute: float = 9.0, norm: bool = True) -> PolicyContext:
    return policy_cases.context(
        2, E, K, norm, tier=tier, tier_bytes=BYTES, calibration=calibration(substitute)
    )  # fmt: skip


def residents(**tiers: int) -> np.ndarray:
    """uint8 [E], the tier each expert is resident at: `e3=8` is expert 3 at tier 8."""
    row = np.zeros(E, np.uint8)
    for name, tier in tiers.items():
        row[int(name[1:])] = tier
    return row


class OneRow:
    """A `ResidencyView` whose layers all have the same residents."""

    def __init__(self, row: np.ndarray) -> None:
        self._row = row

    def resident_tiers(self, layer_idx: int) -> np.ndarray:
        return self._row


def choice(
    price: float, *, tier: int = 8, substitute: float = 9.0, memory: int = 64, horizon: int = 0, **base: int
) -> ReadChoice:
    """Choices whose price stands still; `base` and `upgrades` as `ReadChoice` takes them."""
    tiers = [t for t in sorted(BYTES, reverse=True) if t <= tier]
    made = ReadChoice(context(tier, substitute), tiers, budget=0.01, memory=memory, horizon=horizon, **base)
    made.control.price = price
    return made


def routing_of(weights: list[float]) -> Routing:
    """One token whose first experts have these weights."""
    logits = np.full((1, E), -50, np.float32)
    logits[0, : len(weights)] = np.log(weights)
    return route(logits, K, norm_topk_prob=True)


def decide(made: ReadChoice, weights: list[float], **tiers: int) -> Decision:
    """Choose for one token, with these residents."""
    return made.decide(0, routing_of(weights), residents(**tiers)).decision


def carrying(made: ReadChoice, powers: dict[int, float]) -> ReadChoice:
    """Let the experts of layer 0 be expected to carry this squared weight a token, as if it had been seen for ever."""
    rates = made.rates
    rates.tokens[0], rates.factors[0] = 1e15, 1.0
    rates.sums[0] = [powers.get(e, 0.0) * 1e15 for e in range(E)]
    return made


def after_many_passes(cost: OpportunityCost, *, read: float, grown: float, value: float) -> OpportunityCost:
    """Let passes be alike for so long that the means stand still.

    Args:
        cost: sees them.
        read: bytes a pass reads.
        grown: bytes by which the residents grow in a pass.
        value: nats a token that a byte of the residents saves.
    """
    for number in range(1000):
        cost.observe(value)
        cost.end_pass(read, number * grown)
    return cost
