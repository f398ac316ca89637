"""A grammar that begins where the model stops thinking aloud."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.base.arrays import Bools
from edge_runtime.service.openai.copied_constraint import CopyableConstraint
from edge_runtime.service.openai.grammar import Vocabulary


class AfterReasoning:
    """Lets a model think freely, ends that in time, then applies a constraint. Implements `Constraint`.

    A template may open the thinking in the prompt. A grammar from the first token on would then govern the thoughts,
    and the answer would never come. The model has a number of tokens to close the thinking itself; after those the
    closing mark is written for it, so that there is always room for an answer.

    Args:
        inner: governs what follows the thinking.
        vocabulary: the model's tokens.
        mark: the text that closes the thinking.
        closing: tokens of that text, int [n], n at least 1.
        budget: tokens of thinking before it is closed.
    """

    def __init__(
        self, inner: CopyableConstraint, vocabulary: Vocabulary, *, mark: str, closing: Sequence[int], budget: int
    ) -> None:
        self._inner, self._vocabulary, self._mark = inner, vocabulary, mark.encode()
        self._closing, self._left = list(closing), budget
        self._tail = b""
        self._is_thinking = True

    def copy(self) -> AfterReasoning:
        """Return the same state for another text, of which nothing has been generated."""
        return AfterReasoning(
            self._inner.copy(),
            self._vocabulary,
            mark=self._mark.decode(),
            closing=self._closing,
            budget=self._left,
        )

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return not self._is_thinking and self._inner.is_complete

    def allowed(self) -> Bools:
        """Return bool [V]: while thinking all but the end of the text, then what the inner constraint says."""
        if not self._is_thinking:
            return self._inner.allowed()
        mask = np.full(self._vocabulary.vocab_size, self._left > 0)
        mask[list(self._vocabulary.eos)] = False
        if self._left <= 0:
            mask[self._closing[0]] = True
        return mask

    def accept(self, token_id: int) -> None:
        """Take note of a token.

        Raises:
            RequestError: the inner constraint cannot go on.
        """
        if not self._is_thinking:
            self._inner.accept(token_id)
            return
        if self._left <= 0:
            self._closing.pop(0)
            self._is_thinking = bool(self._closing)
            return
        self._left -= 1
        self._tail = (self._tail + self._vocabulary.bytes_of(token_id))[-8 * len(self._mark) :]
        self._is_thinking = self._mark not in self._tail
