"""How likely drafts are to be right, from those of the text so far, checked or not. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_FIRST, _BELIEF = 0.3, 2.0
"""Chance before anything is known, and how many drafts that counts as: the first right ones make up for it."""
_KEPT = 11 / 12  # of what was seen before, when another token of a draft comes


class Odds:
    """Chances that a token of a draft is the one the model draws, by the length of the match.

    They are learnt from every draft there was, of passes without drafts as well: what came next is known either way.
    Where the first token of a draft is right, the next ones mostly are: they have a chance of their own, which is the
    first one's before it is known.

    Args:
        orders: lengths of matches.
    """

    def __init__(self, orders: Sequence[int]) -> None:
        self._seen = {(order, is_first): 0.0 for order in orders for is_first in (True, False)}
        self._right = dict(self._seen)

    def first(self, order: int) -> float:
        """Return the chance that the first token after a match of this length is right."""
        return self._chance((order, True), _FIRST)

    def later(self, order: int) -> float:
        """Return the chance that another one is, those before it being so."""
        return self._chance((order, False), self.first(order))

    def note(self, order: int, *, is_first: bool, is_right: bool) -> None:
        """Add whether a token of a draft was right, those before it being so."""
        key = order, is_first
        self._seen[key] = self._seen[key] * _KEPT + 1
        self._right[key] = self._right[key] * _KEPT + is_right

    def _chance(self, key: tuple[int, bool], before: float) -> float:
        return (before * _BELIEF + self._right[key]) / (_BELIEF + self._seen[key])
