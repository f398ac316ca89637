"""MoBiLE: a token is first tried with half the experts; if the result looks unsure, it is run again with all.

arXiv 2510.12357 (ASP-DAC'26). **Reconstruction.** Public is: training-free; the little model is the same model with K/2
experts; important tokens use K; a fallback with prefetch handles the switch; 1.60x to 1.72x. Not public are the test of
importance, its threshold and the cache. The rest of this file is our reading, after the Big-Little Decoder:

- the little pass decides by its own logits (`signal`): the highest probability, its margin over the second, or entropy;
- a fallback runs the same position again with K experts and writes its keys and values over the first pass's;
- the rankings the little pass saw are hints: the next layers' experts are read ahead while the second pass computes;
- weights of the little pass are scaled to the mass of all K; prompts run with K.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.params import Param
from edge_runtime.policy.base import Decision, Hint, PolicyContext, ResidencyView, Routing
from edge_runtime.policy.decisions import chosen_decision, full_decision
from edge_runtime.policy.wrappers.watching import OnePass

SOURCE = "MoBiLE, arXiv 2510.12357; reconstruction"
SIGNALS = ("confidence", "margin", "entropy")
PARAMS = {
    "k": Param(0, "experts of the little pass; 0: K/2; K changes nothing", "MoBiLE, abstract", 0),
    "threshold": Param(0.5, "least certainty that stands (see hobbit calibrate)", "reconstruction; unpublished", 0, 1),
    "signal": Param("confidence", "certainty: confidence, margin or entropy", "reconstruction; unpublished"),
    "ahead": Param(1, "layers a fallback reads ahead", "MoBiLE names the mechanism; the depth is ours", 0),
}


class Mobile(OnePass):
    """See the module. Implements `Policy`.

    Args:
        context: what it is built for.
        k: see `PARAMS`, and likewise the others.
        threshold: see `PARAMS`.
        signal: see `PARAMS`.
        ahead: see `PARAMS`.

    Raises:
        ConfigError: k exceeds K, or there is no such signal.
    """

    name = "mobile"
    reads_residency = False
    keeps_history = False

    def __init__(self, context: PolicyContext, *, k: int, threshold: float, signal: str, ahead: int) -> None:
        if k > context.top_k:
            raise ConfigError(f"policy 'mobile'.k: expected at most {context.top_k} (K), got {k}.")
        if signal not in SIGNALS:
            raise ConfigError(f"policy 'mobile'.signal: expected one of {', '.join(SIGNALS)}, got {signal!r}.")
        self._little_k = k or max(context.top_k // 2, 1)
        super().__init__(context, {"k": self._little_k, "threshold": threshold, "signal": signal, "ahead": ahead})
        self._threshold, self._signal, self._ahead = threshold, signal, ahead
        self._is_little = False
        self._rankings: dict[int, tuple[int, ...]] = {}

    def begin_pass(self, num_tokens: int, *, has_logits: bool) -> None:
        """See `Policy.begin_pass`: single tokens that give logits are tried with few experts first."""
        self._is_little = num_tokens == 1 and has_logits and self._little_k < self.context.top_k
        self._rankings.clear()

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        if not self._is_little:
            return full_decision(routing, self.context, self._hints(layer_idx))
        self._rankings[layer_idx] = tuple(routing.topk_ids[0].tolist())
        weights = routing.topk_weights.copy()
        weights[:, self._little_k :] = 0
        weights *= routing.topk_weights.sum(axis=1, keepdims=True) / weights.sum(axis=1, keepdims=True)
        return chosen_decision(routing, routing.topk_ids, weights, self.context)

    def accept(self, logits: NDArray[np.float32]) -> bool:
        """See `Policy.accept`: a little pass stands if it is certain; a full one always."""
        stands = not self._is_little or certainty(logits[-1], self._signal) >= self._threshold
        self._is_little = False
        return stands

    def _hints(self, layer_idx: int) -> tuple[Hint, ...]:
        """Experts of the layers after this one that the little pass ranked; none unless this is a fallback."""
        coming = sorted(layer for layer in self._rankings if layer > layer_idx)[: self._ahead]
        return tuple(Hint(layer, self._rankings[layer], self.context.tier) for layer in coming)


def certainty(logits: NDArray[np.float32], signal: str) -> float:
    """How certain a distribution float32 [V] is, 0 to 1.

    Args:
        logits: of one position.
        signal: 'confidence': highest probability; 'margin': its distance to the second; 'entropy': 1 less the entropy
            over its maximum.
    """
    odds = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = odds / odds.sum()
    if signal == "confidence":
        return float(probabilities.max())
    if signal == "margin":
        second, first = np.partition(probabilities, -2)[-2:]
        return float(first - second)
    positive = probabilities[probabilities > 0]
    return float(1 + (positive @ np.log(positive)) / np.log(len(probabilities)))
