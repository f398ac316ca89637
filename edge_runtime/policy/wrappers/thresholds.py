"""Thresholds from a text: what HOBBIT, MoBiLE and expert skipping take from the distribution of what they look at."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from edge_runtime.base.arrays import F32, F64
from edge_runtime.policy.base import Decision, Policy, ResidencyView, Routing
from edge_runtime.policy.hobbit import score
from edge_runtime.policy.mobile import SIGNALS, certainty
from edge_runtime.policy.wrappers.watching import Watching


@dataclass(frozen=True)
class Thresholds:
    """Parameters that give the shares asked for, each as a policy option.

    Attributes:
        hobbit: T1 and T2 at the quantiles of the score.
        mobile: the threshold below which the share of tokens asked for falls back, for each signal.
        skip: the median of w_1 / w_0 of each layer (the paper's rule); dense layers have 0.
        tokens: tokens looked at.
    """

    hobbit: str
    mobile: dict[str, str]
    skip: str
    tokens: int

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)


class ThresholdWatcher(Watching):
    """Collects scores, certainties and ratios while `mobile:threshold=0` runs, which accepts every little pass.

    Args:
        inner: that policy.
        num_layers: L.
    """

    def __init__(self, inner: Policy, num_layers: int) -> None:
        super().__init__(inner)
        self._scores: list[F64] = []
        self._ratios: list[list[float]] = [[] for _ in range(num_layers)]
        self._certainties: dict[str, list[float]] = {signal: [] for signal in SIGNALS}

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        self._scores.append(score(routing.topk_weights).ravel())
        if routing.topk_weights.shape[1] > 1:
            ratio = routing.topk_weights[:, 1] / np.maximum(routing.topk_weights[:, 0], np.float32(1e-30))
            self._ratios[layer_idx] += ratio.tolist()
        return super().decide(layer_idx, routing, residency)

    def accept(self, logits: F32) -> bool:
        """See `Policy.accept`."""
        for signal, found in self._certainties.items():
            found.append(certainty(logits[-1], signal))
        return super().accept(logits)

    def result(self, *, high: float, low: float, fallback_rate: float) -> Thresholds:
        """Return the thresholds for everything seen so far.

        Args:
            high: share of uses HOBBIT is to serve at the full tier, as far as the score says.
            low: share it is to serve at all.
            fallback_rate: share of tokens MoBiLE is to run twice.
        """
        t1, t2 = np.quantile(np.concatenate(self._scores), [high, low])
        betas = [float(np.median(found)) if found else 0.0 for found in self._ratios]
        mobile = {
            signal: f"mobile:signal={signal},threshold={np.quantile(found, fallback_rate):.4f}"
            for signal, found in self._certainties.items()
        }
        return Thresholds(
            hobbit=f"hobbit:t1={t1:.4f},t2={t2:.4f}",
            mobile=mobile,
            skip="skip:beta=" + "/".join(f"{beta:.3f}" for beta in betas),
            tokens=len(self._certainties[SIGNALS[0]]),
        )
