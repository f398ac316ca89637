"""Judge: lets passes have drafts while a token then takes less time. Pure.

As the governor of reads ahead (`edge_runtime.prefetch.governor`) it tries both ways side by side and keeps the cheaper
one for a while. Ways change after every pass, the governor's after every second one: neither takes the other's effect
for its own. Only passes for which there was a draft count, on both sides: elsewhere there is nothing to choose, and
a text that repeats itself is cheap or dear in its own way.
"""

from __future__ import annotations

from math import hypot, sqrt
from statistics import median
from typing import NamedTuple

_SURE = 2.0
"""Times its standard error that a difference between the two ways must be for a short trial to end."""
_BEYOND_DOUBT = 3.0
"""The same for a trial that ends before its first window because drafts cost time: a loss is not watched for long."""
_LONGEST_TRIAL = 4
"""Windows after which a trial ends in any case: what differs less than that by then costs next to nothing."""
_LONGEST = 3.0
"""Times the median of its side that a pass counts at most: whatever else the machine did is not the draft's fault."""


class _Pass(NamedTuple):
    seconds: float
    tokens: int


class Judge:
    """Measures seconds a token with and without drafts.

    Args:
        window: passes of each side of a trial at least; more while other work on the machine hides the difference, and
            a third of it is enough to see that drafts cost time.
        hold: windows the winner keeps at first; doubled each time it wins again, up to `max_hold`.
        max_hold: most windows between two trials.
        margin: share of the time a token takes that drafts must save to be switched on; to stay on, anything is enough.
    """

    def __init__(self, *, window: int = 12, hold: int = 4, max_hold: int = 64, margin: float = 0.03) -> None:
        self._window, self._first_hold, self._max_hold, self._margin = window, hold, max_hold, margin
        self.switches = 0
        """How often the answer changed."""
        self.forget()

    def forget(self) -> None:
        """Start over: memory or policy has changed."""
        self.is_on = False
        """Whether the next pass that could have a draft has one."""
        self.gain: float | None = None
        """Share of a token's time that drafts saved in the latest trial, negative if they cost; None before one."""
        self._winner, self._hold, self._left = False, self._first_hold, 0
        self._trial: dict[bool, list[_Pass]] = {False: [], True: []}

    def new_text(self) -> None:
        """Another request begins: what was found of the last one's text holds less long."""
        self._hold = self._first_hold
        self._left = min(self._left, self._hold * self._window)

    def note(self, seconds: float, tokens: int) -> None:
        """Add a pass for which there was a draft, run as `is_on` said; choose for the next one.

        Args:
            seconds: all the time it took, waiting for reads included.
            tokens: that it gave.
        """
        if self._left > 0:
            self._left -= 1
            self.is_on = self._winner and self._left > 0
            return
        mine, other = self._trial[self.is_on], self._trial[not self.is_on]
        mine.append(_Pass(seconds, tokens))
        if len(mine) == len(other) >= self._window // 3:
            drafted, plain = _cost(self._trial[True]), _cost(self._trial[False])
            if self._is_over(len(mine), plain.seconds - drafted.seconds, hypot(plain.error, drafted.error)):
                self._decide(1 - drafted.seconds / plain.seconds if plain.seconds > 0 else 0.0)
                return
        self.is_on = not self.is_on

    def _is_over(self, passes: int, saved: float, error: float) -> bool:
        """Say whether so many passes of each side are enough to know what a token saved, in seconds with an error."""
        if passes < self._window:
            return saved < 0 and -saved >= _BEYOND_DOUBT * error
        return passes >= _LONGEST_TRIAL * self._window or abs(saved) >= _SURE * error

    def _decide(self, gain: float) -> None:
        """Keep the better way."""
        self.gain = gain
        for side in self._trial.values():
            side.clear()
        better = self.gain > (0 if self._winner else self._margin)
        again = better == self._winner
        self._hold = min(2 * self._hold, self._max_hold) if again else self._first_hold
        self.switches += not again
        self._winner = self.is_on = better
        self._left = self._hold * self._window


class _Cost(NamedTuple):
    """Seconds a token, and their standard error."""

    seconds: float
    error: float


def _cost(passes: list[_Pass]) -> _Cost:
    """Return all seconds over all tokens, with the error of such a ratio."""
    most = _LONGEST * median(one.seconds for one in passes)
    seconds = [min(one.seconds, most) for one in passes]
    tokens = sum(one.tokens for one in passes)
    each = sum(seconds) / tokens
    squares = sum((took - each * one.tokens) ** 2 for took, one in zip(seconds, passes, strict=True))
    return _Cost(each, sqrt(squares) / tokens)
