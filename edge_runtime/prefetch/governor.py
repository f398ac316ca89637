"""Governor: switches prefetching on or off by the measured time of tokens with and without it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass
class _Side:
    """What tokens cost with prefetching on, or off; None before the first trial."""

    cost_ns: float | None = None

    def learn(self, cost_ns: float, weight: float) -> None:
        self.cost_ns = cost_ns if self.cost_ns is None else (1 - weight) * self.cost_ns + weight * cost_ns


class Governor:
    """Alternates trial windows of tokens, keeps the cheaper way for a while, then tries the other again.

    A token's cost is all the time it took, because prefetching acts on all of it. A read that is complete in time saves
    waiting. A read that nobody uses delays the reads somebody waits for. Reads and predictions take processor time.
    On a busy drive prediction can be right most of the time and still lose, so accuracy plays no part. The cost of a
    window is its median, because other work on the machine can make single tokens take any time.

    Args:
        window: tokens of a trial.
        hold: windows the winner keeps at first; doubled each time it wins again, up to `max_hold`.
        max_hold: most windows between two trials.
        margin: share of the cost without prefetching that must be saved to switch it on.
    """

    def __init__(self, *, window: int = 16, hold: int = 4, max_hold: int = 32, margin: float = 0.02) -> None:
        self._window, self._first_hold, self._max_hold, self._margin = window, hold, max_hold, margin
        self._sides = {False: _Side(), True: _Side()}
        self._hold = hold
        self._windows_left = 0
        self._costs_ns: list[float] = []
        self._is_trial = True
        self._winner = False
        self.is_on = False
        self.switches = 0

    @property
    def saved_ns_per_token(self) -> float | None:
        """What prefetching saves a token by the latest trials, negative if it costs; None before both were tried."""
        on, off = self._sides[True].cost_ns, self._sides[False].cost_ns
        return None if on is None or off is None else off - on

    def token(self, cost_ns: float) -> None:
        """Add the cost of one token in the present state, and choose the state of the next."""
        self._costs_ns.append(cost_ns)
        if len(self._costs_ns) < self._window:
            return
        self._sides[self.is_on].learn(median(self._costs_ns), 0.5)
        self._costs_ns.clear()
        if self._sides[not self.is_on].cost_ns is None:
            self.is_on = not self.is_on  # the first windows: one each way
        elif self._is_trial:
            self._judge()
        elif self._windows_left > 0:
            self._windows_left -= 1
        else:
            self._is_trial, self.is_on = True, not self.is_on

    def _judge(self) -> None:
        """Both ways are known: keep the better one."""
        on, off = self._sides[True].cost_ns, self._sides[False].cost_ns
        assert on is not None
        assert off is not None
        better = on < off * (1 - self._margin)
        again = better == self._winner
        self._hold = min(2 * self._hold, self._max_hold) if again else self._first_hold
        self.switches += not again
        self._winner = self.is_on = better
        self._is_trial, self._windows_left = False, self._hold
