"""Price: what a draft costs, as a share of a pass without one, and how many of its tokens run to the end. Pure.

Prices are medians: whatever else the machine did during a pass is not the draft's fault.
"""

from __future__ import annotations

from collections import deque
from statistics import median

_PLAIN = 5
"""Latest passes without drafts whose median is what a pass takes."""
_NEEDED = 3
"""Fewer are no measure."""
_FIRST = 0.5
"""Price of a row before one was measured: about what it is where experts are in memory."""
_PRICED = 9
"""Latest passes with drafts whose median is the price of a row."""
_FORGETS_EVERY = 16
"""Of so many passes without drafts in a row each takes the oldest price away: a machine does not stay as it was."""
_KEPT = 15 / 16  # of the rows that were cut or not before, when others come
_LONGEST = 2.0
"""Times its price that a row counts as lost at most."""


class Price:
    """Learns what a row of a draft costs and whether it runs, from passes with and without drafts.

    A pass with d drafts takes `1 + d * row` times as long as one without. What was measured is forgotten little by
    little while nothing is measured anew, so that a price that was too high once does not rule drafts out for good.
    """

    def __init__(self) -> None:
        self._plain: deque[float] = deque(maxlen=_PLAIN)
        self._prices: deque[float] = deque(maxlen=_PRICED)
        self._since = 0
        self._rows = self._ran = 0.0

    @property
    def pass_s(self) -> float:
        """Seconds of a pass without drafts; 0 before enough were seen."""
        return median(self._plain) if len(self._plain) >= _NEEDED else 0.0

    @property
    def row(self) -> float:
        """Share of such a pass that each token of a draft adds."""
        return median([*self._prices, _FIRST])

    @property
    def runs(self) -> float:
        """Chance that a token of a draft runs to the end, those before it having done so."""
        return (1 + self._ran) / (1 + self._rows)

    def note_plain(self, seconds: float) -> None:
        """Add a pass without drafts, though one was found."""
        self._plain.append(seconds)
        self._since += 1
        if self._since % _FORGETS_EVERY == 0:
            self._rows, self._ran = self._rows / 2, self._ran / 2
            if self._prices:
                self._prices.popleft()

    def note_drafted(self, seconds: float, drafted: int, ran: int) -> float:
        """Add a pass with drafts.

        Args:
            seconds: it took.
            drafted: tokens of its draft.
            ran: of those, how many ran to the end.

        Returns:
            How many passes without drafts it took as long as, as far as it is the drafts' fault.
        """
        self._since = 0
        took = seconds / self.pass_s
        self._prices.append(max(0.0, took - 1) / drafted)
        tried = min(ran + 1, drafted)  # those behind the first that was cut say nothing
        self._rows, self._ran = self._rows * _KEPT + tried, self._ran * _KEPT + ran
        return min(took, 1 + _LONGEST * self.row * drafted)
