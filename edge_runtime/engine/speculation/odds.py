"""How likely drafts are to be right, from those of the text so far, checked or not. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_FIRST, _BELIEF = 0.3, 2.0
"""Chance before anything is known, and how many drafts that counts as: the first right ones make up for it."""
_KEPT = 11 / 12  # of what was seen before, when another token of a draft comes


class Odds:
    """Chances that the next token of a draft is the one the model draws, by the length of the match.

    They are learnt from every draft there was, of passes without drafts as well: what came next is known either way.

    Args:
        orders: lengths of matches.
    """

    def __init__(self, orders: Sequence[int]) -> None:
        self._seen = dict.fromkeys(orders, 0.0)
        self._right = dict.fromkeys(orders, 0.0)

    def chance(self, order: int) -> float:
        """Return the chance that a token after a match of this length is right, those before it being so."""
        return (_FIRST * _BELIEF + self._right[order]) / (_BELIEF + self._seen[order])

    def note(self, order: int, *, is_right: bool) -> None:
        """Add whether a token of a draft was right."""
        self._seen[order] = self._seen[order] * _KEPT + 1
        self._right[order] = self._right[order] * _KEPT + is_right
