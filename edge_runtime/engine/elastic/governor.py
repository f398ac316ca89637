"""Decides how much memory a process should have, from what it could have. Pure: no clock, no files.

What it could have (`Pressure.allowed_bytes`) does not move with what it takes, so there is no feedback to oscillate in;
what oscillates is others' demand. Against that it shrinks at once and grows late: only to what was free all along for
a while, and the while doubles whenever growing turned out to be wrong.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from edge_runtime.base.sizes import MIB
from edge_runtime.config.pressure import Pressure


@dataclass(frozen=True)
class Habits:
    """How it behaves.

    Attributes:
        margin: share of the most it may have that it keeps from the edge when it moves; growing by less than twice
            this is not worth it.
        least_margin_bytes: at least so much.
        horizon: it acts on where memory will be so many looks ahead, if it goes on falling as it does: by then it has
            looked again.
        most_horizon_s: but no further ahead, however seldom it looks.
        trend_s: over which it looks how memory falls; what falls in only one half of it was a step, and is over.
        calm_s: memory has to be free for so long before it grows.
        most_calm_s: the longest that becomes.
        relapse_s: shrinking so soon after growing means that growing was wrong.
        stalled: share of time in which tasks wait for memory that counts as pressure.
        sight: of what there is beyond the most that is of use, it wants to know so much as a share of the most.
        least_sight_bytes: at least so much.
    """

    margin: float = 1 / 32
    least_margin_bytes: int = 4 * MIB
    horizon: float = 2.0
    most_horizon_s: float = 1.0
    trend_s: float = 1.0
    calm_s: float = 5.0
    most_calm_s: float = 320.0
    relapse_s: float = 60.0
    stalled: float = 0.1
    sight: float = 1 / 4
    least_sight_bytes: int = 64 * MIB


@dataclass
class Moves:
    """What it did.

    Attributes:
        shrunk, grown: how often.
        least_bytes: the smallest budget it chose; None if it never moved.
    """

    shrunk: int = 0
    grown: int = 0
    least_bytes: int | None = None


class MemoryGovernor:
    """Chooses budgets. For one thread.

    Args:
        floor_bytes: the least there can be.
        most_bytes: the most that is of any use: everything fits.
        habits: how it behaves.
    """

    def __init__(self, *, floor_bytes: int, most_bytes: int, habits: Habits | None = None) -> None:
        self._habits = habits or Habits()
        self._floor, self._most = floor_bytes, max(floor_bytes, most_bytes)
        self.margin_bytes = max(self._habits.least_margin_bytes, int(self._habits.margin * self._most))
        sight = max(self._habits.least_sight_bytes, int(self._habits.sight * self._most), 2 * self.margin_bytes)
        self.enough_bytes = self._most + sight
        """How much beyond this could be had makes no difference."""
        self._recent: deque[tuple[float, int]] = deque()  # (seconds, bytes that could be had), of the trend
        self._lows: deque[tuple[float, int]] = deque()  # the same of the calm: each the least from then on
        self._stalled: tuple[float, int] | None = None
        self._is_stalling = False
        self._calm_s = self._habits.calm_s
        self._calm_from: float | None = None
        self._grew_at: float | None = None
        self.moves = Moves()

    def decide(self, now_s: float, pressure: Pressure, budget_bytes: int, *, may_grow: bool = True) -> int | None:
        """Return another budget, or None to leave it.

        Args:
            now_s: monotonic seconds.
            pressure: memory now.
            budget_bytes: in force.
            may_grow: if not, it only shrinks now.
        """
        self._note(now_s, pressure)
        falling = self._falling()
        expected = self._recent[-1][1] - (falling * self._horizon_s() if falling else 0.0)
        edge = self.margin_bytes if self._is_stalling else 0  # tasks stall near the edge before it is reached
        if expected < budget_bytes + edge and budget_bytes > self._floor:
            return self._shrink(now_s, int(expected) - edge)
        if self._is_stalling:
            self._calm_from = None
        elif self._calm_from is None:
            self._calm_from = now_s
        return self._grow(now_s, budget_bytes) if may_grow else None

    def _note(self, now_s: float, pressure: Pressure) -> None:
        had = min(pressure.allowed_bytes, self.enough_bytes)
        self._recent.append((now_s, had))
        while len(self._recent) > 1 and self._recent[1][0] <= now_s - self._habits.trend_s:
            self._recent.popleft()
        while self._lows and self._lows[-1][1] >= had:
            self._lows.pop()
        self._lows.append((now_s, had))
        while self._lows[0][0] < now_s - self._calm_s:
            self._lows.popleft()
        if self._grew_at is not None and now_s - self._grew_at > self._habits.relapse_s:
            self._grew_at = None  # it was right
            self._calm_s = max(self._habits.calm_s, self._calm_s / 2)
        if pressure.stalled_us is None:
            return
        before, self._stalled = self._stalled, (now_s, pressure.stalled_us)
        if before is not None and now_s > before[0]:
            share = (pressure.stalled_us - before[1]) / 1e6 / (now_s - before[0])
            self._is_stalling = share > self._habits.stalled

    def _falling(self) -> float:
        """Bytes a second by which memory becomes less, if it did so in both halves of the trend and by the margin."""
        now_s, now = self._recent[-1]
        begun_s, begun = self._recent[0]
        half_s = self._habits.trend_s / 2
        if begun_s > now_s - self._habits.trend_s or begun - now < self.margin_bytes:
            return 0.0
        middle = next(had for at, had in self._recent if at >= now_s - half_s)
        return max(0.0, min(begun - middle, middle - now) / half_s)

    def _horizon_s(self) -> float:
        """Seconds until it has surely acted again, by the longest time between two looks of the trend.

        Whatever it looks further ahead is taken from experts that could have stayed when the fall ends.
        """
        times = [at for at, _ in self._recent]
        longest = max((after - before for before, after in pairwise(times)), default=0.0)
        return min(self._habits.horizon * longest, self._habits.most_horizon_s)

    def _shrink(self, now_s: float, expected: int) -> int:
        self._calm_from = None
        if self._grew_at is not None:  # growing was wrong: be slower to do it again
            self._calm_s = min(2 * self._calm_s, self._habits.most_calm_s)
            self._grew_at = None
        self.moves.shrunk += 1
        return self._moved(max(self._floor, expected - self.margin_bytes))

    def _grow(self, now_s: float, budget: int) -> int | None:
        """Grow to what was free all along, if it was so for long enough and it is worth it."""
        if self._calm_from is None or now_s - self._calm_from < self._calm_s:
            return None
        target = min(self._most, self._lows[0][1] - self.margin_bytes)
        if target < min(budget + 2 * self.margin_bytes, self._most) or target <= budget:
            return None
        self._calm_from, self._grew_at = None, now_s
        self.moves.grown += 1
        return self._moved(target)

    def _moved(self, budget: int) -> int:
        least = self.moves.least_bytes
        self.moves.least_bytes = budget if least is None else min(least, budget)
        return budget
