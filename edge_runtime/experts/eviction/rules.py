"""Which resident expert goes first when room is needed: LRU, LCU of MoE-APEX, and others by name. Scores only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.params import Param, parse_named
from edge_runtime.bundle.calibration import ExpertCalibration
from edge_runtime.experts.eviction.layer_sizes import PARAMS as LAYER_SIZES_PARAMS
from edge_runtime.experts.eviction.layer_sizes import LayerSizes
from edge_runtime.experts.eviction.mdc import LFRU_PARAMS, MDC_PARAMS, Lfru, Multidimensional
from edge_runtime.experts.eviction.rate_distortion import RateDistortionRule

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
Keys = NDArray[np.intp]


class EvictionRule(Protocol):
    """Scores experts by how much they deserve to stay. A key is layer_idx * E + expert_idx."""

    name: str

    def begin_sequence(self) -> None:
        """Forget what belongs to the previous sequence."""
        ...

    def begin_pass(self) -> None:
        """A forward pass (one token, or one chunk of a prompt) begins."""
        ...

    def use(self, keys: Keys, tiers: U8) -> None:
        """Note that distinct experts intp [n] are used in this pass, the last one last, served at tiers uint8 [n]."""
        ...

    def scores(self, keys: Keys, layer_idx: int) -> F32 | F64:
        """Return a fresh array [S], lowest goes first, for residents intp [S] while layer `layer_idx` needs room.

        Entries whose key is -1 are ignored by the caller.
        """
        ...


@runtime_checkable
class TruncatingRule(EvictionRule, Protocol):
    """A rule that scores planes too, so that truncating one expert is held against evicting another."""

    def plane_scores(self, keys: Keys, tiers: U8, layer_idx: int) -> F64:
        """Return a fresh float64 [S]: what the deepest plane of residents intp [S] at tiers uint8 [S] deserves to stay.

        On the scale of `scores`; entries of experts without planes, or whose key is -1, are ignored by the caller.
        """
        ...


class Lru:
    """Evict the expert whose last use is longest ago. Order of use outlives a sequence: it costs nothing to keep.

    Args:
        num_layers: L.
        num_experts: E.
    """

    name = "lru"

    def __init__(self, num_layers: int, num_experts: int) -> None:
        self._last_use = np.zeros(num_layers * num_experts, np.float64)
        self._ramp = np.arange(1.0, num_experts + 1)
        self._uses = 0

    def begin_sequence(self) -> None:
        """Keep everything."""

    def begin_pass(self) -> None:
        """Nothing to do."""

    def use(self, keys: Keys, tiers: U8) -> None:
        """See `EvictionRule.use`."""
        self._last_use[keys] = self._uses + self._ramp[: len(keys)]
        self._uses += len(keys)

    def scores(self, keys: Keys, layer_idx: int) -> F64:
        """See `EvictionRule.scores`: the number of the last use, float64 [S]."""
        return self._last_use.take(keys, mode="wrap")


class Lcu:
    """Least Costly Used, the parameter-free rule of MoE-APEX (ASPLOS'26; the HOBBIT authors).

    For a resident expert t while layer l_i needs room::

        C_t = H_t + (B_low / B_high) L_t          uses in this sequence at high and at low precision
        D   = ((l_t - l_i + L) mod L) + 0.1       layers until t's layer runs
        p_t = C_t / T + (1 / D if t was used in the previous forward pass else 0)

    and argmin p_t is evicted. T is the number of the current token of the sequence. Our readings where the paper is
    silent: with several tokens in a pass an expert is used once and T grows by one; with more than two tiers a use at
    a tier costs B_tier / B_full, which is the published formula for two.

    Args:
        num_layers: L.
        num_experts: E.
        tier_bytes: bytes of each tier a use may be served at.
        full_tier: the tier whose use counts 1.
    """

    name = "lcu"

    def __init__(self, num_layers: int, num_experts: int, tier_bytes: Mapping[int, int], full_tier: int) -> None:
        self._cost = np.zeros(num_layers * num_experts, np.float32)
        self._used_now = np.zeros(num_layers * num_experts, np.bool_)
        self._used_before = np.zeros_like(self._used_now)
        self._num_layers = num_layers
        self._passes = 0
        self._use_cost = np.zeros(256, np.float32)
        for tier, size in tier_bytes.items():
            self._use_cost[tier] = size / tier_bytes[full_tier]

    def begin_sequence(self) -> None:
        """Reset every record: uses, the token count and who was used last."""
        self._cost[:] = 0
        self._used_now[:] = False
        self._used_before[:] = False
        self._passes = 0

    def begin_pass(self) -> None:
        """See `EvictionRule.begin_pass`."""
        self._passes += 1
        self._used_now, self._used_before = self._used_before, self._used_now
        self._used_now[:] = False

    def use(self, keys: Keys, tiers: U8) -> None:
        """See `EvictionRule.use`."""
        self._cost[keys] += self._use_cost[tiers]
        self._used_now[keys] = True

    def scores(self, keys: Keys, layer_idx: int) -> F32:
        """See `EvictionRule.scores`: p_t, float32 [S]."""
        # computed for every key by broadcasting over layers, then one gather: cheaper than gathering each term
        distance = (np.arange(self._num_layers) - layer_idx) % self._num_layers
        nearness = (1 / (distance + 0.1)).astype(np.float32)
        by_key = self._used_before.reshape(self._num_layers, -1) * nearness[:, None]
        by_key += self._cost.reshape(self._num_layers, -1) * np.float32(1 / max(self._passes, 1))
        return by_key.take(keys, mode="wrap")


RULES: Mapping[str, Mapping[str, Param]] = {
    "lru": {}, "lcu": {}, "lfru": LFRU_PARAMS, "mdc": MDC_PARAMS, "rate-distortion": LFRU_PARAMS,
    "layer-sizes": LAYER_SIZES_PARAMS,
}  # fmt: skip
CALIBRATED_RULES = ("rate-distortion", "layer-sizes")
"""Rules that need what the exporter measured."""


def parse_rule(text: str, where: str = "eviction") -> tuple[str, dict[str, Any]]:
    """Split ``name:param=value,...``; see `parse_named`."""
    return parse_named(text, RULES, where)


@dataclass(frozen=True)
class Measured:
    """What rules beyond recency and frequency look at.

    Attributes:
        top_k: K.
        capacity: experts of the full tier the cache holds.
        calibration: what the exporter measured; None where there is none.
        price: what the policy pays now for a byte, in nats; 0 where it has no price.
    """

    top_k: int = 1
    capacity: int = 0
    calibration: ExpertCalibration | None = None
    price: Callable[[], float] = lambda: 0.0


_NOTHING_MEASURED = Measured()


def create_rule(
    text: str,
    *,
    num_layers: int,
    num_experts: int,
    tier_bytes: Mapping[int, int],
    full_tier: int,
    known: Measured = _NOTHING_MEASURED,
) -> EvictionRule:
    """Build the eviction rule that ``name:param=value,...`` asks for.

    Raises:
        ConfigError: see `parse_rule`; or it needs a calibration and there is none.
    """
    name, params = parse_rule(text)
    shape = (num_layers, num_experts)
    if name == "lru":
        return Lru(*shape)
    if name == "lcu":
        return Lcu(*shape, tier_bytes, full_tier)
    if name == "lfru":
        return Lfru(*shape, **params)
    if name == "layer-sizes":
        return LayerSizes(*shape, top_k=known.top_k, capacity=known.capacity, calibration=known.calibration, **params)
    if name == "rate-distortion":
        return RateDistortionRule(
            *shape, calibration=known.calibration, tier_bytes=tier_bytes, full_tier=full_tier,
            price=known.price, **params,
        )  # fmt: skip
    return Multidimensional(*shape, full_tier, **params)
