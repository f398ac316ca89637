"""Choose the next token from logits. Pure numpy; the order of the steps is llama.cpp's and transformers' common one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import RequestError

GREEDY_BELOW = 1e-3


@dataclass(frozen=True)
class SamplingParams:
    """How one request is sampled and when it stops.

    Attributes:
        max_tokens: tokens to generate at most; None fills the context.
        temperature: 0 is greedy, and so is anything below 0.001: dividing by it would overflow.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches p; 1 keeps all.
        min_p: keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
        repetition_penalty: divide positive and multiply negative logits of tokens already seen; 1 changes nothing.
        seed: makes sampling reproducible; None draws one from the system.
        stop: the text ends before the first of these strings.
        ignore_eos: keep generating past the model's end token (benchmarks).
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = field(default=())
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        for name in ("max_tokens", "top_k", "seed"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
                raise RequestError(f"sampling: {name}: expected a whole number, got {value!r}.")
        rules = (
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature <= 100, "0 to 100"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty <= 100, "above 0, at most 100"),
            ("seed", self.seed is None or 0 <= self.seed < 1 << 64, "0 to 2^64 - 1"),
            ("stop", all(self.stop), "no empty strings"),
        )
        for name, ok, expected in rules:
            if not ok:
                raise RequestError(f"sampling: {name}: expected {expected}, got {getattr(self, name)!r}.")


_NEGLIGIBLE = 50.0
"""e^-50 is 2e-22: a million such tokens together are below the last bit of a float64 probability near 1."""


class Constraint(Protocol):
    """What the tokens of one request must obey, such as a grammar."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        ...

    def allowed(self) -> NDArray[np.bool_]:
        """Return bool [V]: the tokens that may come next."""
        ...

    def accept(self, token_id: int) -> None:
        """Take note of the token that was chosen.

        Raises:
            RequestError: the constraint cannot go on.
        """
        ...


class Sampler:
    """Draws tokens for one request; holds its random stream and the tokens seen so far.

    Args:
        params: the request's parameters.
        prompt_ids: tokens of the prompt; they count for the repetition penalty.
        constraint: which tokens may be drawn; None allows all.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: NDArray[np.int32], constraint: Constraint | None = None
    ) -> None:
        self._params, self._constraint = params, constraint
        self._rng = np.random.default_rng(params.seed)
        self._seen = set(prompt_ids.tolist()) if params.repetition_penalty != 1 else set()

    def sample(self, logits: NDArray[np.float32]) -> int:
        """Return the next token for logits float32 [V], which are not changed.

        Raises:
            RequestError: the logits are not numbers, so no token would mean anything.
        """
        p = self._params
        if not np.isfinite(logits.max()):
            raise RequestError("sampling: logits: expected finite numbers, got NaN or infinity. Run `hobbit verify`.")
        logits = _penalise(logits, self._seen, p.repetition_penalty)
        if self._constraint is not None:
            logits = np.where(self._constraint.allowed(), logits, -np.inf).astype(np.float32)
        token = int(logits.argmax()) if p.temperature < GREEDY_BELOW else self._draw(logits)
        if p.repetition_penalty != 1:
            self._seen.add(token)
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

    def _draw(self, logits: NDArray[np.float32]) -> int:
        ids, probs = filtered_distribution(logits, self._params)
        cumulative = np.cumsum(probs)
        index = int(np.searchsorted(cumulative, self._rng.random() * cumulative[-1], side="right"))
        return int(ids[min(index, len(ids) - 1)])


def filtered_distribution(
    logits: NDArray[np.float32], params: SamplingParams
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the tokens that may be drawn and their probabilities (float64, sum 1), in an order fixed by the logits.

    Top-k, top-p and min-p each look at the distribution the step before them left, after the temperature.
    """
    # what lies further below the highest has together less than a rounding error of probability, and most tokens do
    ids = np.flatnonzero(logits >= float(logits.max()) - _NEGLIGIBLE * params.temperature)
    scaled = logits[ids].astype(np.float64) / params.temperature
    if 0 < params.top_k < scaled.size:
        best = np.argpartition(-scaled, params.top_k - 1)[: params.top_k]
        ids, scaled = ids[best], scaled[best]
    probs = _softmax(scaled)
    if params.top_p < 1:
        order = np.argsort(-probs, kind="stable")  # sorting a large vocabulary costs a millisecond: only where needed
        ids, probs = ids[order], probs[order]
        keep = int(np.searchsorted(np.cumsum(probs), params.top_p, side="left")) + 1
        ids, probs = ids[:keep], probs[:keep]
    if params.min_p > 0:
        mask = probs >= params.min_p * probs.max()
        ids, probs = ids[mask], probs[mask]
    return ids, probs / probs.sum()


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


def _penalise(logits: NDArray[np.float32], seen: set[int], penalty: float) -> NDArray[np.float32]:
    if penalty == 1 or not seen:
        return logits
    ids = np.fromiter(seen, np.int64, len(seen))
    out: NDArray[np.float32] = logits.copy()
    out[ids] = np.where(out[ids] > 0, out[ids] / penalty, out[ids] * penalty)
    return out
