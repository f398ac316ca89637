"""Price: what a draft costs, as a share of a pass without one, and how many of its tokens run to the end. Pure."""

from __future__ import annotations

from collections import deque
from statistics import median

_PLAIN = 5
"""Latest passes without drafts whose median is what a pass takes; fewer are no measure."""
_NEEDED = 3
_FIRST = 0.5
"""Price of a row before one was measured: about what it is where experts are in memory."""
_BELIEF = 1.0
"""How many rows that were measured the first guesses count as."""
_KEPT = 15 / 16  # of what was measured before, when another pass with drafts comes
_FADES = 31 / 32  # of what was measured, for each pass without drafts: a machine does not stay as it was
_LONGEST = 3.0
"""Times what its rows would take as passes of their own that a pass counts at most: something else ran beside it."""


class Price:
    """Learns what a row of a draft costs and whether it runs, from passes with and without drafts.

    A pass with d drafts takes `1 + d * row` times as long as one without. What was measured is believed less and less
    while nothing is measured anew, so that a price that was too high once does not rule drafts out for good.
    """

    def __init__(self) -> None:
        self._plain: deque[float] = deque(maxlen=_PLAIN)
        self._seen = self._costs = 0.0
        self._rows = self._ran = 0.0

    @property
    def pass_s(self) -> float:
        """Seconds of a pass without drafts; 0 before enough were seen."""
        return median(self._plain) if len(self._plain) >= _NEEDED else 0.0

    @property
    def row(self) -> float:
        """Share of such a pass that each token of a draft adds."""
        return (_FIRST * _BELIEF + self._costs) / (_BELIEF + self._seen)

    @property
    def runs(self) -> float:
        """Chance that a token of a draft runs to the end, those before it having done so."""
        return (_BELIEF + self._ran) / (_BELIEF + self._rows)

    def note_plain(self, seconds: float) -> None:
        """Add a pass without drafts, though one was found."""
        self._plain.append(seconds)
        self._seen, self._costs = self._seen * _FADES, self._costs * _FADES
        self._rows, self._ran = self._rows * _FADES, self._ran * _FADES

    def note_drafted(self, seconds: float, drafted: int, ran: int) -> float:
        """Add a pass with drafts.

        Args:
            seconds: it took.
            drafted: tokens of its draft.
            ran: of those, how many ran to the end.

        Returns:
            How many passes without drafts it took as long as.
        """
        took = min(seconds / self.pass_s, _LONGEST * (1 + drafted))
        self._seen, self._costs = self._seen * _KEPT + 1, self._costs * _KEPT + max(0.0, took - 1) / drafted
        tried = min(ran + 1, drafted)  # those behind the first that was cut say nothing
        self._rows, self._ran = self._rows * _KEPT + tried, self._ran * _KEPT + ran
        return took
