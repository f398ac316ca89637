"""MoBiLE: a token is first tried with half the experts; if the result looks unsure, it is run again with all.

arXiv 2510.12357 (ASP-DAC'26). **Reconstruction.** Public is: training-free; the little model is the same model with K/2
experts; important tokens use K; a fallback with prefetch handles the switch; 1.60x to 1.72x. Not public are the test of
importance, its threshold and the cache. The rest of this file is our reading, after the Big-Little Decoder:

- the little pass decides by its own logits (`signal`): the highest probability, its margin over the second, or entropy;
- what counts as unsure follows from how many tokens may run twice (`fallbacks`), not from a fixed threshold: the least
  sure share of the last tokens of the text does. How sure a model is in general differs by model and text, and a rate
  is what the published speed-up follows from: (1 + 0.2) / 2 of the loads is 1.67x;
- a fallback runs the same position again with K experts and writes its keys and values over the first pass's;
- the rankings the little pass saw are hints: the next layers' experts are read ahead while the second pass computes;
- weights of the little pass are scaled to the mass of all K; prompts run with K.
"""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F32, U8
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.params import Param
from edge_runtime.policy.base import Decision, Hint, NativeDecider, PolicyContext, ResidencyView, Routing
from edge_runtime.policy.decisions import chosen_decision, full_decision, tiers_of
from edge_runtime.policy.native import MobileDecider
from edge_runtime.policy.running_rank import RunningRank
from edge_runtime.policy.wrappers.watching import OnePass

SOURCE = "MoBiLE, arXiv 2510.12357; reconstruction"
_UNSEEN = -1
SIGNALS = ("confidence", "margin", "entropy")
PARAMS = {
    "k": Param(0, "experts of the little pass; 0: K/2; K changes nothing", "MoBiLE, abstract", 0),
    "fallbacks": Param(
        0.2,
        "share of the tokens that run again: the least certain of the last ones",
        "ours; fits its 1.60x to 1.72x",
        0,
        1,
    ),
    "window": Param(256, "last tokens of the text a token's certainty is compared with", "ours", 1, 65536),
    "threshold": Param(
        -1.0, "least certainty that stands, whatever the share (see hobbit calibrate); -1: by fallbacks", "ours", -1, 1
    ),
    "signal": Param("confidence", "certainty: confidence, margin or entropy", "reconstruction; unpublished"),
    "ahead": Param(1, "layers a fallback reads ahead", "MoBiLE names the mechanism; the depth is ours", 0),
}


class Mobile(OnePass):
    """See the module. Implements `Policy`.

    Tokens depend on the text before them alone: a new text begins with no certainties to compare with.

    Args:
        context: what it is built for.
        k: see `PARAMS`, and likewise the others.
        fallbacks: see `PARAMS`.
        window: see `PARAMS`.
        threshold: see `PARAMS`.
        signal: see `PARAMS`.
        ahead: see `PARAMS`.

    Raises:
        ConfigError: k exceeds K, or there is no such signal.
    """

    name = "mobile"
    reads_residency = False

    def __init__(
        self,
        context: PolicyContext,
        *,
        k: int,
        fallbacks: float,
        window: int,
        threshold: float,
        signal: str,
        ahead: int,
    ) -> None:
        if k > context.top_k:
            raise ConfigError(f"policy 'mobile'.k: expected at most {context.top_k} (K), got {k}.")
        if signal not in SIGNALS:
            raise ConfigError(f"policy 'mobile'.signal: expected one of {', '.join(SIGNALS)}, got {signal!r}.")
        self._little_k = k or max(context.top_k // 2, 1)
        super().__init__(
            context,
            {"k": self._little_k, "fallbacks": fallbacks, "window": window, "threshold": threshold, "signal": signal,
             "ahead": ahead},
        )  # fmt: skip
        self._certainties, self._threshold = RunningRank(fallbacks, window), threshold
        self._signal, self._ahead = signal, ahead
        # certainty is judged by that of the tokens before, unless a threshold is given
        self.keeps_history = threshold < 0 and self._little_k < context.top_k
        self._is_little = False
        self._rankings = np.full((context.num_layers, context.top_k), _UNSEEN, np.int32)  # of the little pass
        self._native = MobileDecider(self._little_k, context.tier, self._rankings)

    @property
    def native(self) -> NativeDecider | None:
        """See `Policy.native`: of the little pass; a full one has hints."""
        return self._native if self._is_little else None

    def begin_sequence(self) -> None:
        """See `Policy.begin_sequence`: certainties are those of one text."""
        self._certainties.clear()

    def begin_pass(self, num_tokens: int, *, has_logits: bool) -> None:
        """See `Policy.begin_pass`: single tokens that give logits are tried with few experts first."""
        self._is_little = num_tokens == 1 and has_logits and self._little_k < self.context.top_k
        self._rankings[:] = _UNSEEN

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        if not self._is_little:
            return full_decision(routing, self.context, self._hints(layer_idx))
        self._rankings[layer_idx] = routing.topk_ids[0]
        weights, mass, little = routing.topk_weights.copy(), 0.0, 0.0
        for rank, weight in enumerate(weights[0].tolist()):  # `MobileDecider` does the same, operation by operation
            mass += weight
            little += weight if rank < self._little_k else 0.0
        weights[:, self._little_k :] = 0
        weights *= np.float32(mass / little if little else 1.0)
        return chosen_decision(routing, routing.topk_ids, weights, self.context)

    def predict_tiers(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        """See `Policy.predict_tiers`: a little pass reads no more ahead than it will use."""
        if not self._is_little:
            return super().predict_tiers(layer_idx, routing, residency)
        return tiers_of(routing.topk_ids[0, : self._little_k].tolist(), self.context.tier, self.context.num_experts)

    def accept(self, logits: F32) -> bool:
        """See `Policy.accept`: a little pass stands if it is certain; a full one always."""
        stands = not self._is_little or self._is_certain(certainty(logits[-1], self._signal))
        self._is_little = False
        return stands

    def _is_certain(self, found: float) -> bool:
        return found >= self._threshold if self._threshold >= 0 else not self._certainties.is_low(found)

    def _hints(self, layer_idx: int) -> tuple[Hint, ...]:
        """Experts of the layers after this one that the little pass ranked; none unless this is a fallback."""
        behind = self._rankings[layer_idx + 1 :]
        coming = (layer_idx + 1 + (behind[:, 0] != _UNSEEN).nonzero()[0][: self._ahead]).tolist()
        return tuple(Hint(layer, tuple(self._rankings[layer].tolist()), self.context.tier) for layer in coming)


def certainty(logits: F32, signal: str) -> float:
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
