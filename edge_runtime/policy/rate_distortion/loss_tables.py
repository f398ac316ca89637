"""Tables of a rate-distortion decision: the loss of each tier and of a skip, and the bytes between tiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.base.arrays import F32, F64
from edge_runtime.base.errors import ConfigError
from edge_runtime.policy.base import PolicyContext

if TYPE_CHECKING:
    from edge_runtime.bundle.calibration import ExpertCalibration, LayerCalibration


def loss_tables(context: PolicyContext, calibration: ExpertCalibration, tiers: list[int]) -> F32:
    """Return float32 [L, choices, E]: nats for a squared weight of 1, at each tier as given, then for the skip.

    Dense layers have 0.
    """
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


def substitute_shares(context: PolicyContext, calibration: ExpertCalibration) -> F64:
    """Return float64 [L]: the loss of replacing an expert, relative to skipping it; from 1 on a skip is better."""
    shares = np.ones(context.num_layers)
    for layer in calibration.layers:
        if layer.sensitivity is not None and layer.sensitivity.skip > 0:
            shares[layer.layer] = layer.sensitivity.substitute / layer.sensitivity.skip
    return shares


def byte_tables(context: PolicyContext, tiers: list[int]) -> tuple[F32, F32]:
    """Return bytes to read for a choice from each resident tier, float32 [choices, 17], and of each tier, [17]."""
    held = np.zeros(17, np.float32)
    for tier in context.tier_bytes:
        held[tier] = context.tier_bytes[tier]
    known = [0, *sorted(context.tier_bytes)]
    for tier in range(17):  # a resident between two tiers in use has at least the lower one
        held[tier] = held[max(t for t in known if t <= tier)]
    wanted = np.array([*(held[t] for t in tiers), 0], np.float32)
    return np.maximum(wanted[:, None] - held[None], 0), held


def measured(context: PolicyContext, what: str) -> ExpertCalibration:
    """Return the calibration of a bundle whose losses were measured.

    Raises:
        ConfigError: they were not.
    """
    if context.calibration is None or not context.calibration.is_measured:
        raise ConfigError(
            f"{what}: expected a bundle whose losses were measured. Export it with --calibrate "
            "(`simulate` takes it as --bundle), or use max_kld=0 (of verbs with an engine: --max-kld 0)."
        )
    return context.calibration


def _error(layer: LayerCalibration, tier: int) -> F64:
    errors = layer.output_errors or {}
    return np.array(errors.get(str(tier), [0.0] * len(layer.norms or [])))
