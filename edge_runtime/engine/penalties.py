"""Changes of logits before anything is drawn: a bias of single tokens, and penalties for tokens seen before.

In the order of llama.cpp and vLLM: bias, repetition, then frequency and presence.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edge_runtime.base.arrays import F32, I32

_FIRST_ROOM = 64
_LARGEST = 1e30
"""Of a changed logit: float32 holds it divided by any temperature."""


class Penalties:
    """Remembers the tokens of one request and changes logits by them.

    Repetition is a factor for every token of prompt and answer, as in transformers. Presence and frequency are
    OpenAI's: subtracted once, and once for each time, of tokens that were generated.

    Args:
        prompt_ids: int32 [N].
        repetition: divides positive and multiplies negative logits; 1 changes nothing.
        presence: taken from logits of tokens that were generated.
        frequency: taken from them as often as they were.
        bias: added to logits, by token.
    """

    def __init__(
        self,
        prompt_ids: I32,
        *,
        repetition: float = 1.0,
        presence: float = 0.0,
        frequency: float = 0.0,
        bias: Mapping[int, float] | None = None,
    ) -> None:
        self._repetition, self._presence, self._frequency = repetition, presence, frequency
        self._bias_ids = np.fromiter(bias or (), np.int64)
        self._bias = np.fromiter((bias or {}).values(), np.float32)
        self._counts_tokens = repetition != 1 or presence != 0 or frequency != 0
        # places of the tokens in the arrays; only the first `len(self._places)` entries of these count
        self._places: dict[int, int] = {}
        self._ids, self._counts = np.empty(_FIRST_ROOM, np.int64), np.zeros(_FIRST_ROOM, np.float32)
        self._out = np.empty(0, np.float32)
        if repetition != 1:
            for token in prompt_ids.tolist():
                self._place_of(token)

    def apply(self, logits: F32) -> F32:
        """Return changed logits float32 [V], valid until the next call; those given stay as they are."""
        if len(self._out) != len(logits):
            self._out = np.empty(len(logits), np.float32)
        out = self._out
        np.copyto(out, logits)
        if len(self._bias):
            out[self._bias_ids] += self._bias
        size = len(self._places)
        if size:
            ids, counts = self._ids[:size], self._counts[:size]
            values = out[ids].astype(np.float64)
            if self._repetition != 1:
                with np.errstate(over="ignore"):  # of penalties next to zero
                    values = np.where(values > 0, values / self._repetition, values * self._repetition)
            values -= self._frequency * counts + self._presence * (counts > 0)
            out[ids] = np.clip(values, -_LARGEST, _LARGEST)
        return out

    def note(self, token: int) -> None:
        """Count a token that was generated."""
        if self._counts_tokens:
            place = self._place_of(token)  # first: it may replace the arrays
            self._counts[place] += 1

    def _place_of(self, token: int) -> int:
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[place] = token
        return place
