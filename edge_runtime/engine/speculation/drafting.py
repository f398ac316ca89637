"""Drafting: the drafts of one request, pass by pass: which are checked, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_runtime.base.arrays import I32
from edge_runtime.engine.speculation.counts import DraftCounts
from edge_runtime.engine.speculation.drafts import ORDERS, Draft, NgramDrafts
from edge_runtime.engine.speculation.judge import Judge
from edge_runtime.engine.speculation.odds import Odds

MAX_DRAFTS = 3
"""Of a pass. Each runs through experts of its own: a pass of four takes more than twice the time of one."""


class Drafting:
    """Proposes drafts for one request. For each of its passes `propose`, where it may have drafts, then `note`.

    Args:
        prompt_ids: int32 [N], its prompt.
        judge: says whether drafts are checked now; None: all are that were found.
        totals: of the engine; added to.
        may_draft: whether the next pass may have drafts at all.

    Attributes:
        counts: of this request.
    """

    def __init__(
        self,
        prompt_ids: I32,
        judge: Judge | None,
        totals: DraftCounts,
        may_draft: Callable[[], bool] = lambda: True,
    ) -> None:
        self._texts, self._prompt_tokens = NgramDrafts(prompt_ids), len(prompt_ids)
        self._judge, self._odds, self.counts, self._totals = judge, Odds(ORDERS), DraftCounts(), totals
        self._may_draft = may_draft
        self._found: Draft | None = None

    def propose(self, token_ids: Sequence[int], most: int) -> list[int]:
        """Return tokens to check behind the last one in the next pass.

        Args:
            token_ids: generated so far.
            most: how many may be.
        """
        self._texts.extend(token_ids[len(self._texts) - self._prompt_tokens :])
        is_possible = most > 0 and self._may_draft()
        found = self._found = self._texts.propose(min(most, MAX_DRAFTS)) if is_possible else None
        if found is None:
            return []
        if self._judge is None:
            return found.token_ids
        odds, order = self._odds, found.order
        return found.token_ids[: self._judge.choose(odds.first(order), odds.later(order), len(found.token_ids))]

    def note(self, drafted: int, ran: int, drawn: Sequence[int], seconds: float) -> None:
        """Add what came of a pass.

        Args:
            drafted: tokens of its draft.
            ran: of those, how many ran to the end.
            drawn: what the model drew, one token at least.
            seconds: all the time since the pass before.
        """
        found, self._found = self._found, None
        if self._judge is not None:
            self._judge.earn()
        if found is not None and self._judge is not None:
            self._learn(found, drawn)
            self._judge.note(seconds, drafted, ran, len(drawn))
        if drafted:
            for counts in (self.counts, self._totals):
                counts.add(drafted=drafted, cut=drafted - ran, accepted=len(drawn) - 1)

    def _learn(self, found: Draft, drawn: Sequence[int]) -> None:
        """Hold a draft against what came, as far as both go together."""
        for number, (expected, token) in enumerate(zip(found.token_ids, drawn, strict=False)):
            self._odds.note(found.order, is_first=number == 0, is_right=expected == token)
