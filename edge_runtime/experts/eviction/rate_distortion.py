"""Eviction by the value of a byte (ours): experts and their planes compete in one order, by calibration and use."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.base.arrays import F64, U8, Keys
from edge_runtime.base.errors import ConfigError
from edge_runtime.experts.eviction.base import RuleContext
from edge_runtime.experts.eviction.lfru import Lfru

if TYPE_CHECKING:
    from edge_runtime.bundle.calibration import ExpertCalibration, LayerCalibration

SUMMARY = "by what its bytes save, planes and whole experts in one order"
_NUM_TIERS = 17
_CAP = 0.3
"""A use without the byte costs at most this many prices: not every such use is heavy enough to read the byte again.
Chosen on texts that no reported figure is from; from 0.03 to 1 the bytes read differ by 30 % at most."""


class RateDistortionRule(Lfru):
    """Evict the core, or truncate the plane, whose absence is expected to cost least for its bytes.

    With u_e the fading uses of an expert (as `Lfru` has them), w_e^2 the mean squared weight of a use, and loss(e, t)
    the nats its calibration gives to a use at tier t, or to a skip::

        gain(core of e)    = w_e^2 (loss(e, skip) - loss(e, low)) / bytes(core)
        gain(plane t of e) = w_e^2 (loss(e, t - 1) - loss(e, t)) / bytes(plane)
        score              = u_e min(gain, 0.3 price)

    The policy's price of a byte caps what a use can lose: where more is lost the byte is read again. The lowest score
    goes first, a deeper plane always before what it lies on.

    Args:
        context: the model, its tiers, its calibration, and the price of a byte as the active policy has it now. Where
            that is 0, everything used again is read again.
        half_life: passes after which a use counts half.

    Raises:
        ConfigError: the bundle was exported without --calibrate.
    """

    name = "rate-distortion"

    def __init__(self, context: RuleContext, *, half_life: int) -> None:
        super().__init__(context, half_life=half_life)
        calibration, tier_bytes = context.calibration, context.tier_bytes
        if calibration is None or not calibration.is_measured:
            raise ConfigError(
                "eviction 'rate-distortion': expected a bundle whose losses were measured. Export it again with "
                "--calibrate, or use another rule."
            )
        tiers = sorted(t for t in tier_bytes if t <= context.full_tier)
        self._gains = gains(context.num_layers, context.num_experts, calibration, {t: tier_bytes[t] for t in tiers})
        self._price = context.price

    def scores(self, keys: Keys, layer_idx: int) -> F64:
        """Return what the core of each expert saves, float64 [S]."""
        return self._scored(keys, self._gains[0].take(keys, mode="wrap"))

    def plane_scores(self, keys: Keys, tiers: U8, layer_idx: int) -> F64:
        """Return what the deepest plane of each expert saves, float64 [S]."""
        return self._scored(keys, self._gains[tiers, keys])

    def _scored(self, keys: Keys, gain: F64) -> F64:
        price = self._price()
        uses = super().scores(keys, 0)
        return uses * np.minimum(gain, _CAP * price) if price > 0 else uses


def gains(num_layers: int, num_experts: int, calibration: ExpertCalibration, tier_bytes: Mapping[int, int]) -> F64:
    """Return float64 [17, L * E]: nats a byte saves in a use; row 0 is the core's, row t that of tier t's plane."""
    table = np.zeros((_NUM_TIERS, num_layers, num_experts))
    tiers = sorted(tier_bytes)
    for layer in calibration.layers:
        assert layer.sensitivity is not None
        power = np.square(np.array(layer.norms)) * np.array(layer.powers or [1.0] * num_experts)
        low = layer.sensitivity.skip - _loss(layer, tiers[0])
        table[0, layer.layer] = power * np.maximum(low, 0) / tier_bytes[tiers[0]]
        for below, tier in pairwise(tiers):
            saved = np.maximum(_loss(layer, below) - _loss(layer, tier), 0)
            table[below + 1 : tier + 1, layer.layer] = power * saved / (tier_bytes[tier] - tier_bytes[below])
    return table.reshape(_NUM_TIERS, -1)


def _loss(layer: LayerCalibration, tier: int) -> F64:
    """Nats float64 [E] of a use of weight 1 at a tier, in units of the squared norm."""
    assert layer.sensitivity is not None
    errors = (layer.output_errors or {}).get(str(tier))
    return np.asarray(
        layer.sensitivity.quantise * np.square(np.array(errors if errors else [0.0] * len(layer.norms or [])))
    )
