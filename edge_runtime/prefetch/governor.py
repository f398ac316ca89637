"""Governor: switches prefetching on or off by the measured time of tokens with and without it. Pure."""

from __future__ import annotations

from statistics import median

from edge_runtime.base.params import Param

ADAPTIVE = Param(True, "switch off and on by measured time; false: always on", "ours, after published losses")
"""The parameter of predictors by which a governor is taken, or none."""
_STRETCH = 2
"""Tokens in a row one way in a trial: long enough for reads to be ahead, short against what else changes."""


class Governor:
    """Tries both ways side by side, keeps the cheaper one for a while, then tries again.

    A token's cost is all the time it took, because prefetching acts on all of it. A read that is complete in time saves
    waiting. A read that nobody uses delays the reads somebody waits for. Reads and predictions take processor time.
    On a busy drive prediction can be right most of the time and still lose, so accuracy plays no part.

    A trial alternates every few tokens. The cache that fills, a longer context and other work on the machine change
    what a token costs by more than prefetching does, but by the same for neighbours. A side counts with its median,
    because single tokens can take any time.

    Args:
        window: tokens of each side of a trial, and of a window.
        hold: windows the winner keeps at first; doubled each time it wins again, up to `max_hold`.
        max_hold: most windows between two trials.
        margin: share of the cost without prefetching that must be saved to switch it on.
    """

    def __init__(self, *, window: int = 16, hold: int = 4, max_hold: int = 32, margin: float = 0.02) -> None:
        self._window, self._first_hold, self._max_hold, self._margin = window, hold, max_hold, margin
        self._cost_ns: dict[bool, float] = {}  # of a token on, and off; {} before the first trial
        self._hold = hold
        self._tokens_left = 0  # until the next trial
        self._trial: dict[bool, list[float]] = {False: [], True: []}
        self._is_trial = True
        self._winner = False
        self.is_on = False
        self.switches = 0

    @property
    def saved_ns_per_token(self) -> float | None:
        """What prefetching saves a token by the latest trials, negative if it costs; None before the first one."""
        return self._cost_ns[False] - self._cost_ns[True] if self._cost_ns else None

    def token(self, cost_ns: float) -> None:
        """Add the cost of one token in the present state, and choose the state of the next."""
        if not self._is_trial:
            self._tokens_left -= 1
            self._is_trial = self._tokens_left <= 0
            self.is_on = self.is_on and not self._is_trial
            return
        mine, other = self._trial[self.is_on], self._trial[not self.is_on]
        mine.append(cost_ns)
        if len(mine) == len(other) == self._window:
            self._judge()
        elif len(mine) % _STRETCH == 0 or len(mine) == self._window:
            self.is_on = not self.is_on

    def _judge(self) -> None:
        """Keep the better way."""
        for side, costs in self._trial.items():
            cost = median(costs)
            self._cost_ns[side] = (self._cost_ns.get(side, cost) + cost) / 2
            costs.clear()
        better = self._cost_ns[True] < self._cost_ns[False] * (1 - self._margin)
        again = better == self._winner
        self._hold = min(2 * self._hold, self._max_hold) if again else self._first_hold
        self.switches += not again
        self._winner = self.is_on = better
        self._is_trial, self._tokens_left = False, self._hold * self._window
