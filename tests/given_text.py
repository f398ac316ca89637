"""A constraint that allows one text: what a model says of it is then known token by token, whatever it would say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.base.errors import RequestError


class GivenText:
    """Allows the tokens of a text, one after the other. Implements `Constraint`.

    Args:
        token_ids: the text.
        vocab_size: V.
        fails_at: number of the token that cannot be taken, from 0; None: all can.
    """

    is_complete = False

    def __init__(self, token_ids: Sequence[int], vocab_size: int, *, fails_at: int | None = None) -> None:
        self._text, self._vocab_size, self._fails_at, self._taken = list(token_ids), vocab_size, fails_at, 0

    def allowed(self) -> np.ndarray:
        """See `Constraint.allowed`."""
        found = np.zeros(self._vocab_size, np.bool_)
        found[self._text[self._taken]] = True
        return found

    def accept(self, token_id: int) -> None:
        """See `Constraint.accept`."""
        assert self._text[self._taken] == token_id
        if self._taken == self._fails_at:
            raise RequestError("constraint: it cannot go on.")
        self._taken += 1
