"""How likely drafts are to be right, from those of the text so far, checked or not. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_FIRST = 0.5
_SHARE = 1 / 12  # of the newest draft in the estimate
_LEAST = 0.4
"""Chance below which a token is not worth a row: checking one costs about that part of a pass."""


class Odds:
    """Chances that the next token of a draft is the one the model draws, by the length of the match.

    They are learnt from every draft there was, of passes without drafts as well: what came next is known either way.

    Args:
        orders: lengths of matches.
    """

    def __init__(self, orders: Sequence[int]) -> None:
        self._chance = dict.fromkeys(orders, _FIRST)

    def chance(self, order: int) -> float:
        """Return the chance that a token after a match of this length is right, those before it being so."""
        return self._chance[order]

    def note(self, order: int, *, is_right: bool) -> None:
        """Add whether a token of a draft was right."""
        self._chance[order] += _SHARE * (is_right - self._chance[order])

    def worth(self, order: int, most: int) -> int:
        """Return how many tokens of a draft, at most `most`, are likely enough to be checked."""
        chance, count = self._chance[order], 0
        while count < most and chance >= _LEAST:
            chance, count = chance * self._chance[order], count + 1
        return count
