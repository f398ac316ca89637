"""What a policy is: router logits, residency and history in, a step plan out. No I/O, no clock, no global state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Routing:
    """The router's own choice for T tokens at one layer.

    Attributes:
        logits: float32 [T, E].
        topk_ids: int32 [T, K], best first.
        topk_weights: float32 [T, K], as the model combines them (renormalised only if the model does so).
    """

    logits: NDArray[np.float32]
    topk_ids: NDArray[np.int32]
    topk_weights: NDArray[np.float32]


@dataclass(frozen=True)
class StepPlan:
    """Which experts run for T tokens at one layer, and how precisely.

    Attributes:
        topk_ids: int32 [T, K].
        topk_weights: float32 [T, K]; a weight of exactly 0 means the slot is skipped: not read, not computed.
        tiers: uint8 [E], the tier each expert used here must have at least; 0 for experts not used.
        substituted: (token, rank) uses served below the full tier.
        skipped: uses dropped.
        route_changed: uses of an expert the router did not choose.
    """

    topk_ids: NDArray[np.int32]
    topk_weights: NDArray[np.float32]
    tiers: NDArray[np.uint8]
    substituted: int = 0
    skipped: int = 0
    route_changed: int = 0


class ResidencyView(Protocol):
    """What a policy may know about residency."""

    def resident_tiers(self, layer_idx: int) -> NDArray[np.uint8]:
        """Return uint8 [E]: the tier each expert of the layer is resident at, 0 if it is not."""
        ...


class Policy(Protocol):
    """One routing-and-precision policy; one instance serves one engine."""

    name: str

    @property
    def params(self) -> dict[str, float | int | str | bool]:
        """Parameters as given or defaulted, for reports."""
        ...

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> StepPlan:
        """Plan one layer for the tokens of `routing`. Must not keep references to its arguments."""
        ...

    def begin_sequence(self) -> None:
        """Forget what belongs to the previous sequence."""
        ...
