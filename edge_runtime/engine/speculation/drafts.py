"""Drafts from the text itself: what followed the last tokens when they came before. Pure.

Prompt lookup (A. Saxena, "Prompt Lookup Decoding", 2023): an answer that repeats its prompt, as edited code or a
summary does, is drafted by looking for its last few tokens further up.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from edge_runtime.base.arrays import I32

ORDERS = (4, 2)
"""Lengths of the matches that are looked for, the longest first."""
_PLACES = 1 << 14  # of a table: 64 KiB
_FACTOR = 0x9E3779B97F4A7C15  # odd: 2^64 over the golden ratio, of Fibonacci hashing
_SHIFT, _MASK = 50, (1 << 64) - 1


class Draft(NamedTuple):
    """Tokens that may come next.

    Attributes:
        order: tokens of the match they follow.
        token_ids: the tokens.
    """

    order: int
    token_ids: list[int]


class NgramDrafts:
    """Finds where the end of a text came before, by tables of a fixed size.

    A place of a table is shared by all matches of one hash: the latest one takes it. What is found is compared with the
    text, so that a draft always follows a true match.

    Args:
        token_ids: int32 [N], the text so far.
    """

    def __init__(self, token_ids: I32) -> None:
        self._tokens = array("i", token_ids.tolist())
        self._tables = {order: np.full(_PLACES, -1, np.int32) for order in ORDERS}
        for order, table in self._tables.items():
            _fill(table, token_ids, order)

    def __len__(self) -> int:
        """Tokens of the text."""
        return len(self._tokens)

    def extend(self, token_ids: Iterable[int]) -> None:
        """Add tokens to the text."""
        for token in token_ids:
            end = len(self._tokens)
            for order, table in self._tables.items():
                if end >= order:
                    table[_place(self._tokens[-order:])] = end
            self._tokens.append(token)

    def propose(self, most: int) -> Draft | None:
        """Return up to `most` tokens that followed the longest match; None without one.

        A match that overlaps the end of the text is continued by what it gives itself: a text that goes in circles.
        """
        for order, table in self._tables.items():
            if len(self._tokens) <= order:
                continue
            last = self._tokens[-order:]
            at = int(table[_place(last)])
            if at >= order and self._tokens[at - order : at] == last:
                found = self._tokens[at : at + most].tolist()
                period = len(self._tokens) - at
                while len(found) < most:
                    found.append(found[len(found) - period])
                return Draft(order, found)
        return None


def _place(tokens: array[int]) -> int:
    found = 0
    for token in tokens:
        found = (found + token + 1) * _FACTOR & _MASK
    return found >> _SHIFT


def _fill(table: I32, token_ids: I32, order: int) -> None:
    """Note every match of a text that something follows; later ones take the places of earlier ones."""
    follows = np.arange(order, len(token_ids), dtype=np.int32)
    found = np.zeros(len(follows), np.uint64)
    for i in range(order):
        found = (found + token_ids[i : i + len(follows)].astype(np.uint64) + np.uint64(1)) * np.uint64(_FACTOR)
    table[(found >> np.uint64(_SHIFT)).astype(np.intp)] = follows
