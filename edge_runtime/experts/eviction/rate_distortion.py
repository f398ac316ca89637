"""Eviction by what a byte is worth (ours): experts and their planes compete in one order, by calibration and use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import ConfigError
from edge_runtime.bundle.calibration import ExpertCalibration, LayerCalibration
from edge_runtime.experts.eviction.mdc import Lfru

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
Keys = NDArray[np.intp]
_NUM_TIERS = 17
_CAP = 0.3
"""Most a byte's absence can cost in a use, in prices: not every use after it left is heavy enough to read it again.
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
        num_layers: L.
        num_experts: E.
        half_life: passes after which a use counts half.
        calibration: of the bundle.
        tier_bytes: bytes of each tier this run may use.
        full_tier: deepest tier of this run.
        price: nats a byte, as the policy has it now; 0 where it has none: everything used again is read again.

    Raises:
        ConfigError: the bundle was exported without --calibrate.
    """

    name = "rate-distortion"

    def __init__(
        self,
        num_layers: int,
        num_experts: int,
        *,
        half_life: int,
        calibration: ExpertCalibration | None,
        tier_bytes: Mapping[int, int],
        full_tier: int,
        price: Callable[[], float],
    ) -> None:
        super().__init__(num_layers, num_experts, half_life=half_life)
        if calibration is None or not calibration.is_measured:
            raise ConfigError(
                "eviction 'rate-distortion': expected a bundle whose losses were measured. Export it again with "
                "--calibrate, or use another rule."
            )
        tiers = sorted(t for t in tier_bytes if t <= full_tier)
        self._gains = gains(num_layers, num_experts, calibration, {t: tier_bytes[t] for t in tiers})
        self._price = price

    def scores(self, keys: Keys, layer_idx: int) -> F64:
        """See `EvictionRule.scores`: what the core saves."""
        return self._scored(keys, self._gains[0].take(keys, mode="wrap"))

    def plane_scores(self, keys: Keys, tiers: U8, layer_idx: int) -> F64:
        """See `TruncatingRule.plane_scores`."""
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
