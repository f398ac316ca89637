"""Judge: how many tokens of a draft are checked, from what they cost and what they bring, within a bounded loss. Pure.

Nothing is tried out to learn how often drafts are right: that is known of every draft, checked or not. What a row costs
is learnt from the passes that had drafts. What these lose altogether is kept in an account, so that however wrong the
estimates are, a text is not slower by more than a stated part.
"""

from __future__ import annotations

from edge_runtime.engine.speculation.price import Price

_MARGIN = 0.03
"""Share of a token's time that drafts must be expected to save to be switched on; to stay on, anything is enough."""
LOSS_SHARE = 0.01
"""Of all decoding, what drafts may lose in the long run."""
LOSS_PASSES = 2.0
"""Passes without drafts that they may lose on top, besides what the last one they ran in loses."""
_SAVED = 8.0
"""Passes of what they gained in a text that they may lose again in it: without that, two bad ones end a good run."""
_LOOKS_EVERY = 8
"""Of so many passes with drafts in a row one has none, so that what they are compared with stays known."""


class Judge:
    """Says how many drafts a pass has.

    Attributes:
        is_on: whether the last pass for which a draft was found had one.
        switches: how often that changed.
    """

    def __init__(self) -> None:
        self.switches = 0
        self.forget()

    def forget(self) -> None:
        """Start over: memory or policy has changed, and with it what rows cost."""
        self.is_on = False
        self._price = Price()
        self._left = LOSS_PASSES
        self._in_a_row = 0
        self._took = self._gave = 0.0

    def new_text(self) -> None:
        """Another request begins: what drafts gained in the last one is not theirs to lose in it."""
        self._left = min(self._left, LOSS_PASSES)

    @property
    def gain(self) -> float | None:
        """Share of a token's time that passes with drafts saved, negative if they cost; None before one."""
        return 1 - self._took / self._gave if self._gave else None

    def choose(self, first: float, later: float, most: int) -> int:
        """Return how many tokens of the draft that was found are checked in the next pass.

        Args:
            first: chance that its first token is right.
            later: that another one is, those before it being so.
            most: its tokens.
        """
        count = self._best(first, later, most) if self._left > 0 and self._price.pass_s > 0 else 0
        if count and self._in_a_row >= _LOOKS_EVERY:
            return 0  # and drafts stay on
        self.switches += (count > 0) != self.is_on
        self.is_on = count > 0
        return count

    def _best(self, first: float, later: float, most: int) -> int:
        """The number of drafts with the most tokens for their time; 0 if that is not enough for any."""
        row, runs = self._price.row, self._price.runs
        best, best_rate, tokens, reached = 0, 1.0 if self.is_on else 1 / (1 - _MARGIN), 1.0, 1.0
        for count in range(1, most + 1):
            reached *= runs * (first if count == 1 else later)
            tokens += reached
            if (rate := tokens / (1 + count * row)) > best_rate:
                best, best_rate = count, rate
        return best

    def note(self, seconds: float, drafted: int, ran: int, tokens: int) -> None:
        """Add a pass for which a draft was found.

        Args:
            seconds: all the time it took, waiting for reads included.
            drafted: tokens of the draft that were checked; 0: none.
            ran: of those, how many ran to the end.
            tokens: that it gave.
        """
        if not drafted:
            self._in_a_row = 0
            self._price.note_plain(seconds)
            return
        if not self._price.pass_s > 0:
            return
        self._in_a_row += 1
        took = self._price.note_drafted(seconds, drafted, ran)
        self._took, self._gave = self._took + took, self._gave + tokens
        self._left = min(self._left + tokens - took, _SAVED)

    def earn(self) -> None:
        """A token was decoded, with a draft or without: drafts may lose a little more."""
        self._left = max(self._left, min(self._left + LOSS_SHARE, LOSS_PASSES))
