"""Choose the next token from logits. Pure numpy; the order of the steps is llama.cpp's and transformers' common one.

Weights of the whole vocabulary are float32, in memory that is kept: fresh float64 arrays of 152,000 tokens cost
milliseconds a token. What may be drawn is then looked at in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edge_runtime.base.arrays import F32, F64, I32, I64, Bools
from edge_runtime.base.errors import RequestError, UnfitBundleError
from edge_runtime.base.sampling import NUMBERS
from edge_runtime.engine.penalties import Penalties

GREEDY_BELOW = 1e-3
MAX_BIAS = 100


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
        presence_penalty: taken from the logits of tokens generated before.
        frequency_penalty: taken from the logits of tokens as often as they were generated before.
        logit_bias: added to the logits of single tokens, by token id.
        seed: makes sampling reproducible; None draws one from the system.
        stop: the text ends before the first of these strings.
        ignore_eos: keep generating past the model's end token (benchmarks).
        shown: special tokens that are part of the text, by their names; others are left out.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = None
    stop: tuple[str, ...] = field(default=())
    ignore_eos: bool = False
    shown: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        stops = (self.stop,) if isinstance(self.stop, str) else self.stop
        object.__setattr__(self, "stop", tuple(stops))
        object.__setattr__(self, "logit_bias", dict(self.logit_bias or {}))
        for name in ("max_tokens", "top_k", "seed"):
            value = getattr(self, name)
            if value is not None and not _is_whole(value):
                raise RequestError(f"sampling: {name}: expected a whole number, got {value!r}.")
        rules = (
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "at least 1"),
            *((one.name, one.allows(getattr(self, one.name)), one.bounds) for one in NUMBERS),
            ("seed", self.seed is None or 0 <= self.seed < 1 << 64, "0 to 2^64 - 1"),
            ("stop", all(self.stop), "no empty strings"),
        )
        for name, ok, expected in rules:
            if not ok:
                raise RequestError(f"sampling: {name}: expected {expected}, got {getattr(self, name)!r}.")
        for token, bias in self.logit_bias.items():
            if not _is_whole(token) or not (isinstance(bias, (int, float)) and -MAX_BIAS <= bias <= MAX_BIAS):
                known = f"token ids with numbers from -{MAX_BIAS} to {MAX_BIAS}"
                raise RequestError(f"sampling: logit_bias: expected {known}, got {token!r}: {bias!r}.")

    def require_vocabulary(self, vocab_size: int) -> None:
        """Check token ids against the model's vocabulary.

        Raises:
            RequestError: there is no such token.
        """
        for token in self.logit_bias:
            if not 0 <= token < vocab_size:
                raise RequestError(f"sampling: logit_bias: token id {token} is outside the vocabulary of {vocab_size}.")

    @property
    def changes_logits(self) -> bool:
        """Whether logits are changed before the temperature."""
        penalties = self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty
        return bool(self.logit_bias or penalties)


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


_NEGLIGIBLE = 2e-22
"""Weight relative to the likeliest token's below which a token is left out: a million of them change no float64 bit."""


def seed_of_choice(seed: int | None, choice: int) -> int | None:
    """Return the seed of one of several answers to a prompt; the first has the request's own.

    Args:
        seed: of the request; None stays None: every answer is drawn anew.
        choice: number of the answer, from 0.
    """
    if seed is None or choice == 0:
        return seed
    return int(np.random.SeedSequence(seed, spawn_key=(choice,)).generate_state(1, np.uint64)[0])


class Constraint(Protocol):
    """What the tokens of one request must obey, such as a grammar."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        ...

    def allowed(self) -> Bools:
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
        prompt_ids: tokens of the prompt; they count for the repetition penalty alone.
        constraint: which tokens may be drawn; None allows all.
    """

    def __init__(self, params: SamplingParams, prompt_ids: I32, constraint: Constraint | None = None) -> None:
        self._params, self._constraint = params, constraint
        self._rng = np.random.default_rng(params.seed)
        self._penalties = _penalties(params, prompt_ids) if params.changes_logits else None
        self._is_filtered = params.top_k > 0 or params.top_p < 1 or params.min_p > 0
        self._weights, self._cumulative = np.empty(0, np.float32), np.empty(0, np.float64)

    def sample(self, logits: F32) -> int:
        """Return the next token for logits float32 [V], which are not changed.

        Raises:
            RequestError: the logits are not numbers, so no token would mean anything.
        """
        p = self._params
        if not np.isfinite(logits.max()):
            raise UnfitBundleError("sampling: logits: expected finite numbers, got NaN or inf. Run `hobbit verify`.")
        if self._penalties is not None:
            logits = self._penalties.apply(logits)
        if self._constraint is not None:
            logits = np.where(self._constraint.allowed(), logits, -np.inf).astype(np.float32)
        token = int(logits.argmax()) if p.temperature < GREEDY_BELOW else self._draw(logits)
        if self._penalties is not None:
            self._penalties.note(token)
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

    def _draw(self, logits: F32) -> int:
        if self._is_filtered:
            ids, probs = filtered_distribution(logits, self._params)
            return int(ids[self._pick(np.cumsum(probs))])
        if len(self._weights) != len(logits):
            self._weights, self._cumulative = np.empty(len(logits), np.float32), np.empty(len(logits), np.float64)
        weights = _weights(logits, self._params.temperature, self._weights)
        return self._pick(np.cumsum(weights, dtype=np.float64, out=self._cumulative))

    def _pick(self, cumulative: F64) -> int:
        """Draw a place by the running sum float64 [n] of weights; those of weight 0 are never drawn."""
        total = cumulative[-1]
        place = int(np.searchsorted(cumulative, self._rng.random() * total, side="right"))
        return place if place < len(cumulative) else int(np.searchsorted(cumulative, total))


def filtered_distribution(logits: F32, params: SamplingParams) -> tuple[I64, F64]:
    """Return the tokens that may be drawn and their probabilities (float64, sum 1), in an order fixed by the logits.

    Top-k, top-p and min-p each look at the distribution the step before them left, after the temperature.
    """
    if 0 < params.top_k < logits.size:
        ids = np.argpartition(logits, logits.size - params.top_k)[-params.top_k :]
        total = None
    else:
        ids, total = _candidates(logits, params)
    scaled = logits[ids].astype(np.float64) / params.temperature
    weights = np.exp(scaled - scaled.max())
    probs = weights / (weights.sum() if total is None else total)
    if params.top_p < 1:
        order = np.argsort(-probs, kind="stable")
        ids, probs = ids[order], probs[order]
        keep = int(np.searchsorted(np.cumsum(probs), params.top_p, side="left")) + 1
        ids, probs = ids[:keep], probs[:keep]
    if params.min_p > 0:
        mask = probs >= params.min_p * probs.max()
        ids, probs = ids[mask], probs[mask]
    return ids, probs / probs.sum()


def _candidates(logits: F32, params: SamplingParams) -> tuple[I64, float]:
    """Return every token that top-p and min-p may leave, few of a large vocabulary, and the weight of all of it.

    Tokens that are less likely than (1 - p) / V each are together less likely than 1 - p: those above them reach p.
    """
    weights = _weights(logits, params.temperature, np.empty(logits.size, np.float32))
    total = float(weights.sum(dtype=np.float64))
    # half of each bound, so that a rounding error does not matter
    least = max(_NEGLIGIBLE, 0.5 * (1 - params.top_p) * total / logits.size, 0.5 * params.min_p)
    return np.flatnonzero(weights >= least), total


def _weights(logits: F32, temperature: float, out: F32) -> F32:
    """Write float32 [V] weights, 1 for the likeliest token, to `out`."""
    np.subtract(logits, logits.max(), out=out)
    np.divide(out, np.float32(temperature), out=out)
    return np.exp(out, out=out)


def _penalties(params: SamplingParams, prompt_ids: I32) -> Penalties:
    return Penalties(
        prompt_ids,
        repetition=params.repetition_penalty,
        presence=params.presence_penalty,
        frequency=params.frequency_penalty,
        bias=params.logit_bias,
    )
