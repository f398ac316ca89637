"""Quality against a baseline: perplexity, KL divergence, top-1 agreement. Pure arithmetic on logits."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from edge_runtime.base.arrays import F32, F64, Bools


@dataclass(frozen=True)
class Quality:
    """What the contract reports as `quality`.

    Attributes:
        ppl: perplexity of the text under the candidate.
        kld_mean: mean KL(baseline || candidate) in nats; likewise the median and 99th percentile.
        top1_agreement: share of positions where both prefer the same token.
        tokens: positions scored.
        baseline_ppl: perplexity of the text under the baseline.
    """

    ppl: float
    kld_mean: float
    kld_median: float
    kld_p99: float
    top1_agreement: float
    tokens: int
    baseline_ppl: float

    def to_json(self) -> dict[str, float]:
        """Return plain data."""
        return asdict(self)


def log_softmax(logits: F32) -> F64:
    """Return log-probabilities float64 of logits [..., V]."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


class QualityMeter:
    """Collects positions of a text under a baseline and a candidate."""

    def __init__(self) -> None:
        self._kld: list[float] = []
        self._same: list[bool] = []
        self._nll: list[float] = []
        self._baseline_nll: list[float] = []
        self._hits: list[tuple[bool, bool]] = []

    def add(self, baseline: F32, candidate: F32, target: int | None) -> None:
        """Add one position.

        Args:
            baseline: logits float32 [V].
            candidate: logits float32 [V].
            target: the text's next token, None at its end.
        """
        p, q = log_softmax(baseline), log_softmax(candidate)
        self._kld.append(max(float(np.exp(p) @ (p - q)), 0.0))
        self._same.append(bool(baseline.argmax() == candidate.argmax()))
        if target is not None:
            self._nll.append(-float(q[target]))
            self._baseline_nll.append(-float(p[target]))
            self._hits.append((bool(candidate.argmax() == target), bool(baseline.argmax() == target)))

    def hits(self) -> Bools:
        """Return bool [2, N]: whether the candidate, and the baseline, put each token of the text first.

        The text's first token, which nothing predicts, counts as missed.
        """
        return np.asarray(np.array([(False, False), *self._hits], np.bool_).T)

    def result(self) -> Quality:
        """Return the figures over all positions so far (at least two)."""
        kld = np.array(self._kld)
        return Quality(
            ppl=float(np.exp(np.mean(self._nll))),
            kld_mean=float(kld.mean()),
            kld_median=float(np.median(kld)),
            kld_p99=float(np.percentile(kld, 99)),
            top1_agreement=float(np.mean(self._same)),
            tokens=len(kld),
            baseline_ppl=float(np.exp(np.mean(self._baseline_nll))),
        )
